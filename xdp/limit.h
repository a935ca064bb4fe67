/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Limits: a token bucket for each value of what `per` names, kept as one time. That is the generic cell rate algorithm in its
 * virtual scheduling form (ITU-T I.371, annex A): the time says until when the tokens that were taken will have come back, so a
 * packet conforms while that is no further away than the burst takes to come.
 *
 * A bucket is a word, a tag of the hash of its key and a time, so that one compare and swap changes both and no packet on another CPU is
 * counted twice or not at all. A line has eight. A time that is past says nothing: the bucket is full, as one is that was never used (time
 * 0), and its word is free to take. So a flood of sources leaves nothing behind but what it still owes. The word to take is the one whose
 * time is the oldest: words only ever grow, so two CPUs that bring the same key take the same word, and one of them tries again (unless the
 * daemon clears one in that moment: then a key may have two, once). When none is free the packet shares the bucket that has most tokens:
 * counted.
 *
 * Few lines are used at first, so that caches hold them; while buckets are shared the daemon sees to it that there are twice as many as owe
 * something. The tag has the bits that will number the lines then. The daemon also clears what is past before its time can seem to be ahead
 * again. Both: TendLimits in ctl/dataplane.
 */
#pragma once
#include "../bpf/hash.h"
#include "../bpf/maps.h"
#include "../bpf/pkt.h"
#include "../bpf/trace.h"

#define LIMIT_TIME ((1ull << LIMIT_TIME_BITS) - 1)
#define LIMIT_SPAN (1ull << LIMIT_SPAN_BITS)
#define LIMIT_SKEW (1ull << 29) /* 134 ms: how long a packet may be on its way from the clock to its bucket */

enum {
	LIMIT_TRIES = 32, /* as many CPUs may take tokens of one bucket between our look and our store */
};

static __always_inline __u64 limit_address(__u64 h, const struct pkt *p, const __u8 *addr, const __u8 *prefix)
{
	__u64 hi = addr_hi(addr), lo = addr_lo(addr);
	__u8 bits = prefix[p->family & 1];

	if (p->family == FAMILY_V4)
		return mix(h, bits ? (__u32)lo >> (32 - bits & 31) : 0);
	h = mix(h, FAMILY_V6);
	if (bits < 128)
		lo = bits > 64 ? lo >> (128 - bits & 63) : 0;
	if (bits < 64)
		hi = bits ? hi >> (64 - bits & 63) : 0;
	return mix(mix(h, hi), lo);
}

/* Which bucket a packet takes from. Keyed, so that nobody can choose addresses that meet in one line. */
static __always_inline __u64 limit_hash(struct control *c, const struct pkt *p, const struct rule_effect *effect)
{
	__u64 h = mix(c->hash_key[1], (__u64)effect->bucket << 8 | effect->per);
	const __u64 *word = (const __u64 *)&p->key;

	switch (effect->per) {
	case PER_SRC:
		h = limit_address(h, p, p->key.saddr, effect->prefix);
		break;
	case PER_DST:
		h = limit_address(h, p, p->key.daddr, effect->prefix);
		break;
	case PER_SERVICE:
		h = mix(h, p->asked_service);
		break;
	case PER_FLOW:
		h = mix(mix(mix(mix(h, word[0]), word[1]), word[2]), word[3]);
		h = mix(h, (word[4] & (p->has & HAS_PORTS ? 0xffffffffffull : 0xff00000000ull)) | (__u64)p->family << 40);
		break;
	}
	return mix(h, c->hash_key[0]);
}

/* What is kept of a hash with a bucket: its upper bits, and those that number lines when all are used. */
static __always_inline __u64 limit_tag(__u64 hash)
{
	__u64 upper = hash >> (LIMIT_TIME_BITS + LIMIT_FEWER_BITS);

	return upper << LIMIT_FEWER_BITS | (hash & (LIMIT_LINES - 1)) / (LIMIT_LINES >> LIMIT_FEWER_BITS);
}

/* All ones when a < b, else 0, for numbers below 2^63. Not a comparison: the verifier would follow both ways of every one. */
static __always_inline __u64 less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	asm volatile("" : "+r"(difference)); /* clang would make a comparison of it */
	return -(difference >> 63);
}

/* Take the packet's tokens. True: there are not enough, none is taken, and the rule concerns the packet. (A function of its own, as is
 * what follows it, for the stack's sake.) */
__noinline int over_limit(const struct pkt *p, const struct rule_effect *effect)
{
	struct effect_totals *totals;
	__u64 now, hash, tag, need, tokens;
	struct control *c;
	struct line *line;
	__u32 key = 0;

	c = bpf_map_lookup_elem(&control, &key);
	totals = bpf_map_lookup_elem(&effect_totals, &key);
	if (!p || !effect || !c || !totals)
		return false;
	tokens = p->segments;
	if (effect->flags & EFFECT_BYTES)
		tokens = p->ip_bytes ? p->ip_bytes : p->frame_bytes;
	if (tokens > effect->most)
		return true;
	need = tokens * effect->cost >> (16 - LIMIT_TICK_BITS);
	now = clock_now() << LIMIT_TICK_BITS & LIMIT_TIME;
	hash = limit_hash(c, p, effect);
	key = hash & (LIMIT_LINES - 1) >> (READ_ONCE(c->limit_spare) & 31);
	tag = limit_tag(hash);
	line = bpf_map_lookup_elem(&limits, &key);
	if (!line)
		return false;
	for (int i = 0; i < LIMIT_TRIES; i++) {
		__u64 word = 0, ahead = 0, best = ~0ull >> 1, own, take;
		__u32 at = 0;
		bool free;

#pragma clang loop unroll(disable) /* eight at once take 100 bytes of stack more */
		for (__u32 k = 0; k < LIMIT_WORDS; k++) {
			__u64 there = READ_ONCE(line->w[k]), age, better;

			/* The order of times from LIMIT_SPAN + 1 ahead, the most distant past, to LIMIT_SPAN ahead; before them what was never
			 * used, and before all our own. */
			age = ((there - now - LIMIT_SPAN - 1) & LIMIT_TIME) + 2;
			age = 1 + ((age - 1) & ~less(there & LIMIT_TIME, 1));
			age &= ~less(there >> LIMIT_TIME_BITS ^ tag, 1);
			better = less(age, best);
			best ^= (best ^ age) & better;
			word ^= (word ^ there) & better;
			at ^= (at ^ k) & better;
		}
		own = word >> LIMIT_TIME_BITS == tag;
		ahead = word & LIMIT_TIME ? (word - now) & LIMIT_TIME : 0;
		/* Our own is further ahead than our burst if that was longer before an apply, or, by little, if another CPU took tokens
		 * after we looked at the clock: then nothing is left. */
		free = ahead > (own ? effect->burst + LIMIT_SKEW : LIMIT_SPAN);
		if (free)
			ahead = 0;
		if (ahead + need > effect->burst) {
			totals->shared += own ? 0 : p->segments;
			return true;
		}
		take = (own || free || !ahead ? tag : word >> LIMIT_TIME_BITS) << LIMIT_TIME_BITS | ((now + ahead + need) & LIMIT_TIME);
		if (__sync_val_compare_and_swap(&line->w[at & (LIMIT_WORDS - 1)], word, take) == word) {
			totals->shared += own || !ahead ? 0 : p->segments;
			return false;
		}
	}
	totals->contended += p->segments;
	return true;
}
