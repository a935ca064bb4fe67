/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The first rule that matches. TABLE_RULES in bpf/abi.h says how the index is laid out: candidate masks say which groups
 * can match, a group's bucket says which records can, and a record states the whole condition and is verified. */
#pragma once
#include "../bpf/parse.h"
#include "../bpf/table.h"
#include "effects.h"

enum {
	NO_RECORD = 0xffffffff,
	MAX_STEPS = 1 << 23, /* as many as bpf_loop() allows; the compiler keeps the worst case far below */
	EXTRA_CONDS = 5, /* a line of further conditions */
};

/* Where a search stands. In a map, not on the stack: what the verifier can't see it doesn't follow, and so it
 * verifies one step instead of every sequence of steps. */
struct rule_search {
	__u64 src[2], dst[2];  /* host order; v4: [1] */
	__u64 mac[2];          /* source, destination */
	__u64 all_groups;      /* that can match */
	__u32 ports;           /* sport << 16 | dport */
	/* from here on zeroed when there is something to search */
	__u64 groups;          /* of these, the ones not looked at */
	__u64 hash;            /* of the packet in the group being looked at */
	__u32 bucket, hops;    /* bucket to look at next, how many more at most; 0: take the next group */
	__u32 at, slots;       /* bucket that was looked at, slots of it whose tag fits */
	__u32 chain, left;     /* chain being walked, records left in it */
	__u32 pending;         /* record whose further conditions are being looked at, or NO_RECORD */
	__u32 extra, cond;     /* line and index of the next one */
	__u32 from;            /* records before it are done with: rules that matched and went on */
	__u32 best;            /* smallest record that matched, or NO_RECORD */
	__u32 unsure;          /* smallest record that fits the flow's key and needs more than that, or NO_RECORD */
	__u32 effects;         /* rules that were met and do more than decide */
};

/* Programs only. */
MAP(rule_searches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct rule_search, 1);

struct find_rule {
	ctx_t *ctx;
	struct pkt *p;
	void *rules;
	struct rules_head *head;
	struct line *src_sets, *dst_sets; /* NULL: no rule asks */
	struct rule_search *s;
};

static __always_inline bool prefix_match(__u8 family, const __u64 *addr, const __u64 *want, __u8 plen)
{
	if (family == FAMILY_V4)
		return !((addr[1] ^ want[1]) >> (32 - plen & 63));
	if (plen > 64)
		return addr[0] == want[0] && !((addr[1] ^ want[1]) >> (128 - plen & 63));
	return !plen || !((addr[0] ^ want[0]) >> (64 - plen & 63));
}

static __always_inline bool has_bit(struct line *line, __u16 bit)
{
	return line && line->w[bit / 64 % 8] >> bit % 64 & 1;
}

static __always_inline __u64 mac_number(const __u8 *mac)
{
	return (__u64)mac[0] << 40 | (__u64)mac[1] << 32 | (__u32)mac[2] << 24 | mac[3] << 16 | mac[4] << 8 | mac[5];
}

/* A condition on a MAC address. */
static __always_inline bool mac_hit(struct find_rule *f, const struct rule_extra *extra, __u32 k)
{
	bool list = extra->cond[k].flags & EXT_MACS;
	__u32 bits = list ? extra->cond[k].part : extra->cond[k].hi, bucket;
	__u64 leading = f->s->mac[extra->cond[k].field == FIELD_DST_MAC] >> (48 - bits & 63);
	struct line *line;

	if (!list)
		return leading == ((__u64)extra->cond[k].part << 32 | extra->cond[k].lo);
	bucket = mix(mix(MIX_SEED, leading), bits) & extra->cond[k].hi;
	for (int hop = 0; hop < BUCKET_HOPS; hop++) {
		line = line_at(f->rules, f->head->ext_off + extra->cond[k].lo + bucket);
		if (!line)
			return false;
		for (int i = 0; i < BUCKET_SLOTS; i++) {
			if (line->w[i] == (MACS_USED | leading))
				return true;
			if (!line->w[i])
				return false;
		}
		bucket = (bucket + 1) & extra->cond[k].hi;
	}
	return false;
}

/* One further condition of the record in `pending`: the last one that holds makes it a match. */
static __always_inline void extra_step(struct find_rule *f)
{
	struct rule_extra *extra = line_at(f->rules, f->head->ext_off + f->s->extra);
	__u32 k = f->s->cond++, value = 0;
	bool hit;

	if (!extra || k >= EXTRA_CONDS) {
		f->s->pending = NO_RECORD;
		return;
	}
	if (extra->cond[k].flags & EXT_VOLATILE && f->s->pending < f->s->unsure)
		f->s->unsure = f->s->pending;
	if (!(cfg_link && extra->cond[k].flags & (EXT_MAC | EXT_MACS)) && !fact(f->p, extra->cond[k].field, &value)) {
		f->s->pending = NO_RECORD;
		return;
	}
	if (cfg_link && extra->cond[k].flags & (EXT_MAC | EXT_MACS))
		hit = mac_hit(f, extra, k);
	else if (extra->cond[k].flags & EXT_MASK)
		hit = (value & extra->cond[k].hi) == extra->cond[k].lo;
	else if (extra->cond[k].flags & EXT_BITMAP)
		hit = value < 65536 && word_at(f->rules, f->head->ext_off + extra->cond[k].lo, value / 64) >> value % 64 & 1;
	else
		hit = extra->cond[k].lo <= value && value <= extra->cond[k].hi;
	if (hit == !!(extra->cond[k].flags & EXT_NEGATED)) {
		f->s->pending = NO_RECORD;
	} else if (f->s->cond >= extra->count) {
		f->s->cond = 0;
		f->s->extra++;
		if (!extra->more) {
			f->s->best = f->s->pending;
			f->s->pending = NO_RECORD;
		}
	}
}

/* The conditions of a record but for the further ones: a bit in `have` is a part that the record asks for, in `hit` one that fits. */
static __always_inline bool record_match(struct find_rule *f, const struct rule_record *r)
{
	const struct pkt *p = f->p;
	__u16 sport = f->s->ports >> 16, dport = f->s->ports;
	__u32 have = r->conditions, hit = 0;

	hit |= p->family == FAMILY_V4 ? RULE_V4 : RULE_V6;
	if (have & (RULE_SPORT | RULE_DPORT) && !(p->has & HAS_PORTS))
		return false;
	if (prefix_match(p->family, f->s->src, r->src, r->src_plen))
		hit |= RULE_SRC;
	if (prefix_match(p->family, f->s->dst, r->dst, r->dst_plen))
		hit |= RULE_DST;
	if (p->key.proto == r->proto)
		hit |= RULE_PROTO;
	if (r->sport_lo <= sport && sport <= r->sport_hi)
		hit |= RULE_SPORT;
	if (r->dport_lo <= dport && dport <= r->dport_hi)
		hit |= RULE_DPORT;
	if (has_bit(f->src_sets, r->src_set))
		hit |= RULE_SRC_SET;
	if (has_bit(f->dst_sets, r->dst_set))
		hit |= RULE_DST_SET;
	hit |= RULE_EXT;
	hit ^= r->negated;
	return (hit & have) == have;
}

static __always_inline void verify(struct find_rule *f, __u32 index)
{
	struct rule_record *record;

	if (index >= f->s->best || index < f->s->from)
		return;
	record = line_at(f->rules, f->head->record_off + index);
	if (!record || !record_match(f, record))
		return;
	if (record->conditions & RULE_EXT) {
		f->s->pending = index;
		f->s->extra = record->ext;
		f->s->cond = 0;
	} else {
		f->s->best = index;
	}
}

/* The packet's hash in a group; false when the group is for the other family. */
static __always_inline bool group_hash(struct find_rule *f, const struct rule_group *group, __u32 index)
{
	const struct pkt *p = f->p;
	__u64 meta = (f->s->ports & group->key_mask) | (__u64)(p->key.proto & group->proto_mask) << 32 | (__u64)index << 40 |
		     (__u64)p->family << 48;

	if (!(group->families >> p->family & 1))
		return false;
	if (p->family == FAMILY_V4) {
		f->s->hash = mix(mix(MIX_SEED, (f->s->src[1] & group->src_mask[1]) << 32 | (f->s->dst[1] & group->dst_mask[1])), meta);
		return true;
	}
	f->s->hash = mix(MIX_SEED, f->s->src[0] & group->src_mask[0]);
	f->s->hash = mix(f->s->hash, f->s->src[1] & group->src_mask[1]);
	f->s->hash = mix(f->s->hash, f->s->dst[0] & group->dst_mask[0]);
	f->s->hash = mix(f->s->hash, f->s->dst[1] & group->dst_mask[1]);
	f->s->hash = mix(f->s->hash, meta);
	return true;
}

/* Look into the next bucket, of the same group or of the next one. */
static __always_inline void next_bucket(struct find_rule *f)
{
	struct rules_head *head = f->head;
	struct rule_group *group;
	struct bucket *bucket;
	__u32 index;

	if (!f->s->hops) {
		index = lowest_bit(f->s->groups);
		f->s->groups &= f->s->groups - 1;
		group = line_at(f->rules, head->group_off + index);
		if (!group || group->min_record >= f->s->best) {
			f->s->groups = 0; /* they come in the order of their first record */
			return;
		}
		if (!group_hash(f, group, index))
			return;
		f->s->bucket = (__u32)f->s->hash & head->bucket_mask;
		f->s->hops = BUCKET_HOPS;
	}
	bucket = line_at(f->rules, head->bucket_off + f->s->bucket);
	if (!bucket) {
		f->s->hops = 0;
		return;
	}
#pragma unroll
	for (int k = 0; k < BUCKET_SLOTS; k++)
		if ((bucket->slot[k].tag & ~BUCKET_OVERFLOW) == BUCKET_TAG(f->s->hash))
			f->s->slots |= 1u << k;
	f->s->hops = bucket->slot[0].tag & BUCKET_OVERFLOW ? f->s->hops - 1 : 0;
	f->s->at = f->s->bucket;
	f->s->bucket = (f->s->bucket + 1) & head->bucket_mask;
}

/* A round of the search is over. True: so is the search. False: the rule that was found doesn't decide this packet, and the
 * next round looks for one behind it. */
static __always_inline bool round_over(struct find_rule *f)
{
	struct rule_record *record;
	struct rule_effect *effect;

	if (!cfg_effects || f->s->best == NO_RECORD)
		return true;
	record = line_at(f->rules, f->head->record_off + f->s->best);
	if (!record || !record->effect)
		return true;
	effect = line_at(f->rules, f->head->effect_off + record->effect);
	if (!effect)
		return true;
	if (!(effect->flags & EFFECT_SKIP)) {
		f->s->effects += !only_decides(effect);
		if (apply_effect(f->ctx, f->p, effect))
			return true;
	}
	f->s->from = effect->next;
	f->s->best = NO_RECORD;
	return false;
}

/* The next record of a chain. */
static __always_inline void chain_step(struct find_rule *f)
{
	__u32 index = u32_at(f->rules, f->head->chain_off, ++f->s->chain);

	f->s->left--;
	if (index >= f->s->best)
		f->s->left = 0; /* ascending: nothing better follows */
	else
		verify(f, index);
}

/* The next slot, of the bucket that was looked at or of the next one. */
static __always_inline void slot_step(struct find_rule *f)
{
	__u32 index, ref;

	if (!f->s->slots)
		next_bucket(f);
	if (!f->s->slots)
		return;
	index = lowest_bit(f->s->slots);
	f->s->slots &= f->s->slots - 1;
	ref = word_at(f->rules, f->head->bucket_off + f->s->at, index) >> 32;
	if (ref & REF_SINGLE) {
		verify(f, ref & ~REF_SINGLE);
		return;
	}
	f->s->chain = ref;
	f->s->left = u32_at(f->rules, f->head->chain_off, ref);
}

/* One step: at most one bucket, one slot of it and one record. 1 ends the search. */
static long rule_step(__u64 i, void *arg)
{
	struct find_rule *f = arg;

	if (f->s->pending != NO_RECORD)
		extra_step(f);
	else if (f->s->left)
		chain_step(f);
	else
		slot_step(f);
	if (f->s->groups | f->s->slots | f->s->hops | f->s->left || f->s->pending != NO_RECORD)
		return 0;
	if (round_over(f))
		return 1;
	f->s->groups = f->s->all_groups;
	return 0;
}

/* One record of a small ruleset, in order; s->chain is the next one. 1 ends the search. */
static long scan_step(__u64 i, void *arg)
{
	struct find_rule *f = arg;

	if (f->s->pending != NO_RECORD)
		extra_step(f);
	else if (f->s->best == NO_RECORD && f->s->chain < f->head->records)
		verify(f, f->s->chain++);
	else if (round_over(f))
		return 1;
	else
		f->s->chain = f->s->from;
	return 0;
}

/* The groups that can match an address. */
static __always_inline __u64 candidates(struct find_rule *f, __u32 off, __u8 bits, const __u8 *shift, const __u64 *addr)
{
	__u32 index, area = 1u << (bits & 31);

	if (!off)
		return ~0ull;
	if (f->p->family == FAMILY_V4)
		index = addr[1] >> (shift[FAMILY_V4] & 63) & (area - 1);
	else
		index = area + (addr[0] >> (shift[FAMILY_V6] & 63) & (area - 1));
	return word_at(f->rules, off, index);
}

/* The groups that can match the packet. */
static __always_inline __u64 groups_for(struct find_rule *f)
{
	struct rule_search *search = f->s;
	struct rules_head *head = f->head;
	__u64 groups = head->groups >= 64 ? ~0ull : (1ull << (head->groups & 63)) - 1;

	groups &= candidates(f, head->cand_src_off, head->cand_src_bits, head->cand_src_shift, search->src);
	groups &= candidates(f, head->cand_dst_off, head->cand_dst_bits, head->cand_dst_shift, search->dst);
	if (head->cand_proto_off)
		groups &= word_at(f->rules, head->cand_proto_off, f->p->key.proto);
	if (head->cand_dport_off)
		groups &= word_at(f->rules, head->cand_dport_off, search->ports & 0xffff);
	if (head->cand_sport_off)
		groups &= word_at(f->rules, head->cand_sport_off, search->ports >> 16);
	return groups;
}

/* The record of the rule that decides, or NULL. What rules before it do is done; p->remember says whether it can be remembered. */
static __always_inline struct rule_record *deciding_rule(ctx_t *ctx, struct pkt *p, void *rules, struct rules_head *head,
							 struct line *src_sets, struct line *dst_sets)
{
	struct find_rule f = {.ctx = ctx, .p = p, .rules = rules, .head = head, .src_sets = src_sets, .dst_sets = dst_sets};
	struct rule_search *search;
	__u32 zero = 0;

	if (head->flags & RULES_SET_FIRST) {
		struct rule_record *first = line_at(rules, head->record_off);

		p->remember = 1;
		if (first && has_bit(src_sets, first->src_set))
			return first;
		if (head->records == 1)
			return NULL;
	}
	search = bpf_map_lookup_elem(&rule_searches, &zero);
	if (!search)
		return NULL;
	f.s = search;
	search->ports = p->has & HAS_PORTS ? (__u32)bpf_ntohs(p->key.be_sport) << 16 | bpf_ntohs(p->key.be_dport) : 0;
	search->src[1] = addr_lo(p->key.saddr);
	search->dst[1] = addr_lo(p->key.daddr);
	if (p->family == FAMILY_V4) {
		search->src[1] &= 0xffffffff;
		search->dst[1] &= 0xffffffff;
	} else {
		search->src[0] = addr_hi(p->key.saddr);
		search->dst[0] = addr_hi(p->key.daddr);
	}
	if (cfg_link) {
		struct eth_header *eth = ctx_data(ctx);

		if ((void *)(eth + 1) <= ctx_data_end(ctx)) { /* parse() made sure */
			search->mac[0] = mac_number(eth->src);
			search->mac[1] = mac_number(eth->dst);
		}
	}
	if (!(head->flags & RULES_SCAN)) {
		search->all_groups = groups_for(&f);
		if (!search->all_groups)
			return NULL;
	}
	__builtin_memset(&search->groups, 0, sizeof(*search) - offsetof(struct rule_search, groups));
	search->pending = search->best = search->unsure = NO_RECORD;
	if (head->flags & RULES_SCAN) {
		bpf_loop(MAX_STEPS, scan_step, &f, 0);
		asm volatile("" : "+r"(search)); /* else clang makes one call of both, and the verifier can't make it a loop without indirect calls */
	} else {
		search->groups = search->all_groups;
		bpf_loop(MAX_STEPS, rule_step, &f, 0);
	}
	p->remember = !search->effects && (search->unsure == NO_RECORD || search->unsure > search->best);
	return search->best == NO_RECORD ? NULL : line_at(rules, head->record_off + search->best);
}
