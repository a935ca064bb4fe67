/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Blocks: dynamic entries that drop a source until they expire, whether the daemon lives or not. */
#pragma once
#include "../bpf/hash.h"
#include "../bpf/maps.h"
#include "../bpf/pkt.h"

/* Where a search stands; in a map for the stack's sake. Programs only. */
struct block_search {
	struct block_key key;
	__u32 packets, bytes;
	__u64 hi, lo;      /* the source, host order */
	__u64 lens[3];     /* prefix lengths still to try */
	__u32 hit;
	__u32 pad;
};

/* Programs only. */
MAP(block_searches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct block_search, 1);

struct find_block {
	struct block_search *s; /* bpf_loop() hands on nothing but what is on the stack */
};

/* The longest prefix length that is left: 1 ends the loop. */
static long block_probe(__u64 i, void *arg)
{
	struct block_search *f = ((struct find_block *)arg)->s;
	__u64 hi = f->hi, lo = f->lo;
	struct block *block;
	__u32 len;

	if (f->lens[2]) {
		f->lens[2] = 0;
		len = 128;
	} else if (f->lens[1]) {
		len = lowest_bit(f->lens[1]);
		f->lens[1] &= f->lens[1] - 1;
		len += 64;
	} else if (f->lens[0]) {
		len = lowest_bit(f->lens[0]);
		f->lens[0] &= f->lens[0] - 1;
	} else {
		return 1;
	}
	f->key.plen = len;
	if (f->key.family == FAMILY_V4)
		lo = lo >> (32 - len & 63) << (32 - len & 63);
	else if (len <= 64)
		hi = len ? hi >> (64 - len & 63) << (64 - len & 63) : 0, lo = 0;
	else
		lo = lo >> (128 - len & 63) << (128 - len & 63);
	((__u64 *)f->key.addr)[0] = bpf_cpu_to_be64(hi);
	((__u64 *)f->key.addr)[1] = bpf_cpu_to_be64(lo);
	block = bpf_map_lookup_elem(&blocks, &f->key);
	if (!block || (block->expires && block->expires <= bpf_ktime_get_ns()))
		return 0;
	__sync_fetch_and_add(&block->packets, f->packets);
	__sync_fetch_and_add(&block->bytes, f->bytes);
	f->hit = 1;
	return 1;
}

/* The source's cell; as if a block had just come if that could not be. */
static __always_inline struct block_cell cell_of(const struct pkt *p)
{
	__u64 bits = p->family == FAMILY_V4 ? (__u32)addr_lo(p->key.saddr) >> (32 - BLOCK_CELL4)
					    : addr_hi(p->key.saddr) >> (64 - BLOCK_CELL6);
	__u32 i = mix(mix(MIX_SEED, p->family), bits) & (BLOCK_CELLS - 1);
	struct block_cell *cell = bpf_map_lookup_elem(&block_cells, &i);

	if (!cell)
		return (struct block_cell){.epoch = p->block_epoch, .lens = -1};
	return (struct block_cell){.epoch = READ_ONCE(cell->epoch), .lens = READ_ONCE(cell->lens)};
}

/* Did a block come that may cover the source, since it was asked at that epoch? Ages, because epochs wrap. */
static __always_inline bool blocks_came(struct control *c, const struct pkt *p, __u32 asked)
{
	__u32 age = p->block_epoch - asked;

	return p->block_epoch - cell_of(p).epoch < age || p->block_epoch - READ_ONCE(c->wide_epoch) < age;
}

static __always_inline bool is_blocked(struct control *c, struct pkt *p)
{
	const __u64 wide4 = (1ull << (BLOCK_CELL4 - BLOCK_SPREAD)) - 1, wide6 = (1ull << (BLOCK_CELL6 - BLOCK_SPREAD)) - 1;
	__u64 len0, len1 = 0, len2 = 0;
	struct find_block find;
	struct block_search *f;
	__u32 zero = 0, lens;

	if (p->family == FAMILY_V4) {
		len0 = c->block_lens4;
		if (!len0)
			return false;
		len0 &= wide4 | (__u64)cell_of(p).lens << (BLOCK_CELL4 - BLOCK_SPREAD);
	} else {
		len0 = c->block_lens6[0];
		len1 = c->block_lens6[1];
		len2 = c->block_lens6[2];
		if (!(len0 | len1 | len2))
			return false;
		lens = cell_of(p).lens;
		if (!(lens & 1))
			len0 &= wide6;
		if (!(lens & 2))
			len1 = 0;
		if (!(lens & 4))
			len2 = 0;
	}
	if (!(len0 | len1 | len2))
		return false;
	f = bpf_map_lookup_elem(&block_searches, &zero);
	if (!f)
		return false;
	__builtin_memset(f, 0, sizeof(*f));
	f->key.family = p->family;
	f->hi = addr_hi(p->key.saddr);
	f->lo = addr_lo(p->key.saddr);
	f->packets = p->segments;
	f->bytes = p->frame_bytes;
	f->lens[0] = len0;
	f->lens[1] = len1;
	f->lens[2] = len2;
	find.s = f;
	bpf_loop(33 + 129, block_probe, &find, 0);
	return f->hit;
}
