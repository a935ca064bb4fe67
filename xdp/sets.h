/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Address -> line of set bits: which sets an address is in. TABLE_SETS in bpf/abi.h says how it is laid out. */
#pragma once
#include "../bpf/table.h"

/* Which slots of a bucket are about a /24, a bit each. All are compared: to stop at the last one in use would be a branch that nobody
 * predicts. */
static __always_inline __u32 slots_of24(const struct line *line, __u64 key24)
{
	__u64 other;
	__u32 found = 0;

#pragma unroll
	for (int i = 0; i < BUCKET_SLOTS; i++) {
		other = (line->w[i] >> 36 ^ key24) & 0xffffff;
		found |= (__u32)((other - 1) >> 63) << i;
		asm volatile("" : "+r"(found)); /* all words at once would take more of the stack than there is */
	}
	return found;
}

/* Class of an address by the buckets. */
static __always_inline __u16 sets_class24(void *sets, struct sets_head *head, __u32 addr)
{
	__u64 key24 = addr >> 8, slot;
	__u32 bucket = mix(mix(MIX_SEED, key24), 4) & head->v4_bucket_mask, found;
	__u16 class = 0;

	for (int hop = 0; hop < BUCKET_HOPS; hop++) {
		struct line *line = line_at(sets, head->v4_bucket_off + bucket);

		if (!line)
			return 0;
		found = slots_of24(line, key24);
		for (int i = 0; found && i < BUCKET_SLOTS; i++) {
			slot = line->w[lowest_bit(found) % BUCKET_SLOTS];
			found &= found - 1;
			if (slot >> 60 == V4_DENSE)
				return u16_at(sets, head->v4_dense_off, (__u32)slot * 256 + (addr & 0xff));
			if (slot >> 60 == V4_UNIFORM)
				class = slot;
			else if (slot >> 60 != V4_END && (slot >> 16 & 0xff) == (addr & 0xff))
				return slot;
		}
		if (!(line->w[0] & V4_SLOT_OVERFLOW))
			break;
		bucket = (bucket + 1) & head->v4_bucket_mask;
	}
	return class;
}

static __always_inline __u16 sets_class4(void *sets, struct sets_head *head, __u32 addr)
{
	/* The codes take 4 MB, which only the outer caches hold; these bits are a quarter of it and mostly enough. */
	if (head->v4_touched_off && !(word_at(sets, head->v4_touched_off, addr >> 15) >> (addr >> 9 & 63) & 1))
		return 0;
	if (head->v4_code_off) {
		switch (word_at(sets, head->v4_code_off, addr >> 13) >> (addr >> 8 & 31) * 2 & 3) {
		case 0:
			return 0;
		case 1:
			return u16_at(sets, head->v4_l16_off, addr >> 16);
		}
	} else if (!head->v4_bucket_off) {
		return 0;
	}
	return sets_class24(sets, head, addr);
}

/* Can any prefix hold the address? Most that none holds end here, with one line of what stays in a nearer cache. */
static __always_inline bool sets_touch6(void *sets, struct sets_head *head, __u64 hi)
{
	__u64 h = mix(MIX_SEED, hi >> (head->v6_touched_shift & 63));
	__u64 want = 1ull << (h & 63) | 1ull << (h >> 6 & 63);

	return !head->v6_touched_off || (word_at(sets, head->v6_touched_off, h >> 40 & head->v6_touched_mask) & want) == want;
}

struct find6 {
	void *sets;
	struct sets_head *head;
	__u64 hi, lo;
	__u16 class;
};

/* One prefix length, the longest first: 1 ends the loop. */
static long sets_probe6(__u64 i, void *arg)
{
	struct find6 *f = arg;
	struct sets_head *head = f->head;
	__u8 len = word_at(f->sets, head->v6_len_off, (__u32)i / 8) >> i % 8 * 8;
	__u64 hi = f->hi, lo = f->lo, h, want;
	__u32 bucket;

	if (len <= 64) {
		hi &= len ? ~0ull << ((64 - len) & 63) : 0;
		lo = 0;
	} else {
		lo &= ~0ull << ((128 - len) & 63);
	}
	h = mix(mix(mix(MIX_SEED, hi), lo), 6 | (__u64)len << 8);
	want = 1ull << (h & 63) | 1ull << (h >> 6 & 63) | 1ull << (h >> 12 & 63);
	if ((word_at(f->sets, head->v6_bloom_off, h >> 40 & head->v6_bloom_mask) & want) != want)
		return 0;
	bucket = h >> 18 & head->v6_bucket_mask;
	for (int hop = 0; hop < BUCKET_HOPS; hop++) {
		struct sets_bucket6 *b = line_at(f->sets, head->v6_bucket_off + bucket);

		if (!b)
			return 1;
#pragma unroll
		for (int k = 0; k < 3; k++) {
			if (b->len[k] == len && b->key[k].lo == lo && b->key[k].hi == hi) {
				f->class = b->class[k];
				return 1;
			}
		}
		if (!b->overflow)
			return 0;
		bucket = (bucket + 1) & head->v6_bucket_mask;
	}
	return 0;
}

/* The bits of the sets that hold an address. NULL cannot be. */
static __always_inline struct line *sets_of(void *sets, struct sets_head *head, __u8 family, const __u8 *addr)
{
	struct find6 f = {.sets = sets, .head = head};
	__u16 class;

	if (family == FAMILY_V4) {
		class = sets_class4(sets, head, addr_lo(addr));
	} else {
		f.hi = addr_hi(addr);
		f.lo = addr_lo(addr);
		if (sets_touch6(sets, head, f.hi))
			bpf_loop(head->v6_lens, sets_probe6, &f, 0);
		class = f.class;
	}
	return line_at(sets, head->class_off + class);
}
