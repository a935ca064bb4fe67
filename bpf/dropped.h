/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What is remembered of packets that went no further: records like those of the flow table, in a small table of their own.
 *
 * They take nothing from flows that pass, whatever is sent. Among themselves, who sent least gives way to a new one, and of
 * those who was silent for longest; who is silent for longer than the guard counts as having sent nothing. So what is dropped again
 * and again stays to be seen while a flood of forged sources replaces itself.
 */
#pragma once
#include "flow.h"

/* The bucket of a packet's flow; NULL while there is no table. */
static __always_inline struct flow_bucket *dropped_bucket(const struct control *c, __u64 hash)
{
	__u32 zero = 0, index = bpf_get_smp_processor_id() * (c->dropped_mask + 1) + ((__u32)hash & c->dropped_mask);
	void *table = bpf_map_lookup_elem(&flow_dropped, &zero);

	return table ? bpf_map_lookup_elem(table, &index) : NULL;
}

/* A record for a new flow, its tag 0. */
static __always_inline struct flow_record *dropped_make_room(const struct control *c, struct flow_bucket *bucket, __u32 now,
							     struct flow_totals *totals)
{
	struct flow_record *record, *least = &bucket->record[0];
	__u32 age, least_age = 0;
	__u64 weight, least_weight = ~0ull;

#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		record = &bucket->record[i];
		if (!record->key.tag)
			return record;
		age = now - record->value.last;
		weight = age > c->flow_guard ? 0 : record->value.packets;
		if (weight < least_weight || (weight == least_weight && age > least_age)) {
			least = record;
			least_weight = weight;
			least_age = age;
		}
	}
	totals->dropped_lost += least->value.packets;
	totals->dropped_lost_bytes += least->value.bytes;
	flow_clear(least);
	return least;
}

/* Count and remember a packet that goes no further. One without a flow's key, or without a table, is only counted. */
__noinline int note_dropped(ctx_t *ctx, struct pkt *p, __u32 reason)
{
	struct flow_bucket *bucket = NULL;
	struct flow_record *record = NULL;
	struct flow_totals *totals;
	struct flow_value *value;
	__u32 zero = 0, now;
	struct control *c;
	bool made = false;
	__u64 hash;

	c = bpf_map_lookup_elem(&control, &zero);
	totals = bpf_map_lookup_elem(&flow_totals, &zero);
	if (!p || !c || !totals)
		return 0;
	if (cfg_sample && p->sample == SAMPLE_UNDECIDED)
		sample(c, totals, p);
	if (is_left_out(p))
		return 0;
	totals->dropped += p->segments;
	totals->dropped_bytes += p->ip_bytes;
	if (p->filtered && p->way != WAY_LINK) {
		hash = flow_hash(c, p);
		bucket = dropped_bucket(c, hash);
	}
	if (!bucket) {
		totals->dropped_lost += p->segments;
		totals->dropped_lost_bytes += p->ip_bytes;
		return 0;
	}
	now = now_jiffies(c);
	record = flow_in(bucket, 0, &p->key);
	if (!record) {
		record = dropped_make_room(c, bucket, now, totals);
		flow_write(record, &p->key, NULL);
		record->value.first = bpf_ktime_get_coarse_ns();
		record->value.ttl_min = record->value.ttl_max = p->ttl;
		record->value.dscp = p->tos >> 2;
		made = true;
	}
	value = &record->value;
	value->packets += p->segments;
	value->bytes += p->ip_bytes;
	value->last = now;
	value->rule = p->rule;
	value->service = p->service;
	value->backend = p->backend;
	value->reason = reason;
	value->verdict = verdict_of(reason);
	value->ifindex = ctx_ifindex(ctx);
	value->tcp_flags |= p->tcp_flags;
	if (p->ttl < value->ttl_min)
		value->ttl_min = p->ttl;
	if (p->ttl > value->ttl_max)
		value->ttl_max = p->ttl;
	if (made)
		flow_show(record, &p->key);
	return 0;
}

/* A packet is about to leave. */
static __always_inline void note_if_dropped(ctx_t *ctx, struct pkt *p, enum reason reason)
{
	enum verdict verdict = verdict_of(reason);

	if (cfg_dropped && (verdict == VERDICT_DROP || verdict == VERDICT_REJECT))
		note_dropped(ctx, p, reason);
}
