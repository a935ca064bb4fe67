/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The flow table: one record a flow and direction in a region of each CPU's own, an LRU map behind it.
 *
 * A record is written only by its CPU, in soft interrupts, so that no lock or atomic is needed; readers copy it and check that
 * its key didn't change. A flow that is found only in the LRU map comes back into the array. Who gives way to a new flow, in
 * order: a free record; the oldest with one packet, whose count goes to "evicted"; the oldest that was idle for longer
 * than the guard, which moves into the LRU map with its counts; else the new flow is kept in the LRU map within a
 * budget, else it is only counted as "refused". So a flood of new flows takes nothing from flows that live.
 */
#pragma once
#include "parse.h"
#include "state.h"
#include "table.h"
#include "trace.h"
#include "verdict.h"

enum { TCP_WINDOW_MAX = 1 << 30 /* bytes that may be on their way (RFC 7323, section 2.2): what is further off is no repetition */,
       TCP_JUMP = 1 << 22 /* bytes: what is further off may be another connection */ };

struct flow_table {
	struct flow_bucket *bucket; /* NULL cannot be */
	struct flow_totals *totals;
	__u32 slot;                 /* which table; a resize must not change it halfway through a packet */
	__u32 way;                  /* where this flow is looked for first */
	__u32 now;                  /* jiffies */
};

/* Where a new flow that finds no record is filled in before it goes to the LRU map: a lookup there would mark it as used, and a flood
 * of flows that are all marked drives out those that live. Programs only. */
MAP(flow_spare, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct flow_record, 1);

/* What lies where words do: clang copies byte by byte what may lie anywhere. */
#define by_words(p) __builtin_assume_aligned(p, sizeof(__u64))

static __always_inline bool same_key(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	if (x[1] != y[1] || x[4] != y[4]) /* source, ports: in one of these most differ */
		return false;
	return !((x[3] ^ y[3]) | (x[2] ^ y[2]) | (x[0] ^ y[0]));
}

static __always_inline __u64 flow_hash(struct control *c, const struct pkt *p)
{
	const __u64 *word = (const __u64 *)&p->key;
	__u64 h;

	if (p->family == FAMILY_V4) {
		h = mix(c->hash_key[0], (word[1] & ~0xffffffffull) | word[3] >> 32);
	} else {
		h = mix(c->hash_key[0], word[0]);
		h = mix(h, word[1]);
		h = mix(h, word[2]);
		h = mix(h, word[3]);
	}
	return mix(mix(h, word[4]), c->hash_key[1]);
}

/* The bucket of a hash in the region of a CPU. There are as many as flows need, not a power of two: the low half of the hash says how
 * far along the region it is. */
static __always_inline struct flow_bucket *flow_bucket_of(struct control *c, __u32 slot, __u64 hash, __u32 cpu)
{
	void *table = bpf_map_lookup_elem(&flow_tables, &slot);
	__u32 buckets = c->flow_buckets[slot & 1];
	__u32 index = cpu * buckets + (__u32)((__u64)(__u32)hash * buckets >> 32);

	return table ? bpf_map_lookup_elem(table, &index) : NULL;
}

static __always_inline struct flow_bucket *flow_bucket(struct control *c, __u32 slot, __u64 hash)
{
	return flow_bucket_of(c, slot, hash, bpf_get_smp_processor_id());
}

static __always_inline struct flow_record *flow_in(struct flow_bucket *bucket, __u32 way, const struct flow_key *key)
{
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		struct flow_record *record = &bucket->record[(way ^ i) & (FLOW_WAYS - 1)];

		if (same_key(&record->key, key))
			return record;
	}
	return NULL;
}

/* Put a flow that has or gets no record into the LRU map, adding to what another CPU may have put there. */
static __noinline void flow_spill(struct flow_table *t, struct flow_record *record)
{
	void *lru = bpf_map_lookup_elem(&flow_lru, &t->slot);
	struct flow_value *there = NULL;

	if (lru)
		there = bpf_map_lookup_elem(lru, &record->key);
	if (there) {
		__sync_fetch_and_add(&there->packets, record->value.packets);
		__sync_fetch_and_add(&there->bytes, record->value.bytes);
		__sync_fetch_and_add(&there->retransmits, record->value.retransmits);
		if (record->value.syn > there->syn) {
			there->syn = record->value.syn;
			there->acked = record->value.acked;
		}
		if (record->value.first < there->first) /* what it began with may have been reported: see Tracker in ctl/flow */
			there->first = record->value.first;
		if ((__s32)(record->value.last - there->last) > 0) { /* where the flow is now, and all that its verdict depends on */
			__builtin_memcpy(&there->last, &record->value.last,
					 offsetof(struct flow_value, first) - offsetof(struct flow_value, last));
			there->ifindex = record->value.ifindex;
			there->judged = record->value.judged;
			there->exit = record->value.exit;
			there->quic = record->value.quic;
		}
	} else if (!lru || bpf_map_update_elem(lru, &record->key, &record->value, BPF_NOEXIST)) {
		t->totals->refused += record->value.packets;
		t->totals->refused_bytes += record->value.bytes;
		return;
	}
	t->totals->spilled += record->value.packets;
	t->totals->spilled_bytes += record->value.bytes;
	t->bucket->record[0].value.spilled = 1;
}

/* Free a record. Readers see that before they see what is written next. */
static __always_inline void flow_clear(struct flow_record *record)
{
	WRITE_ONCE(record->key.tag, 0);
	barrier();
}

/* Let readers see a record that is filled in. */
static __always_inline void flow_show(struct flow_record *record, const struct flow_key *key)
{
	barrier();
	WRITE_ONCE(record->key.tag, key->tag);
}

/* A record for a new flow, its tag 0; NULL when every record of the bucket is in use. */
static __always_inline struct flow_record *flow_make_room(struct control *c, struct flow_table *t)
{
	struct flow_record *single = NULL, *idle = NULL, *record;
	__u32 single_age = 0, idle_age = c->flow_guard, age;

#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		record = &t->bucket->record[(t->way ^ i) & (FLOW_WAYS - 1)];
		if (!record->key.tag)
			return record;
		age = t->now - record->value.last;
		if (record->value.packets <= 1 && (!single || age > single_age)) {
			single = record;
			single_age = age;
		}
		if (age > idle_age) {
			idle = record;
			idle_age = age;
		}
	}
	if (single) {
		t->totals->evicted += single->value.packets;
		t->totals->evicted_bytes += single->value.bytes;
		flow_clear(single);
		return single;
	}
	if (idle) {
		flow_spill(t, idle);
		flow_clear(idle);
	}
	return idle;
}

_Static_assert(offsetof(struct flow_value, asked) == offsetof(struct flow_value, ifindex) + sizeof(__u32) + 4, "flow_write() names what lies between");

/* Fill a free record; flow_show() ends it, so that a reader never takes a half-written one for whole. `value` NULL: zeros, but for what only
 * the caller can know. `spilled`, which is the bucket's, stays, unread: its line of memory need not have come to be written. */
static __always_inline void flow_write(struct flow_record *record, const struct flow_key *key, const struct flow_value *value)
{
	const __u32 before = offsetof(struct flow_value, ifindex), behind = offsetof(struct flow_value, asked);
	struct flow_value *to = &record->value;

	if (value) {
		__builtin_memcpy(to, value, before);
		to->ifindex = value->ifindex;
		to->ttl_min = value->ttl_min;
		to->ttl_max = value->ttl_max;
		to->dscp = value->dscp;
		__builtin_memcpy(by_words(&to->asked), by_words(&value->asked), sizeof(*to) - behind);
	} else {
		__builtin_memset(to, 0, before);
		__builtin_memset(by_words(&to->asked), 0, sizeof(*to) - behind);
	}
	__builtin_memcpy(by_words(&record->key), by_words(key), offsetof(struct flow_key, tag));
}

/* A flow that has no record here: in the table that flows.max replaced, or in an LRU map. Brings it into the array, or, from a
 * table that is to go, into the LRU map at least. Rare, and a function of its own so that the stack fits Linux 6.1. */
static __noinline struct flow_value *flow_return(struct control *c, struct flow_table *t, struct pkt *p, __u64 hash)
{
	struct flow_record *old = NULL, *record;
	struct flow_value *value = NULL;
	struct flow_bucket *bucket;
	__u32 other = t->slot ^ 1;
	bool elsewhere = false;
	void *lru, *from;

	lru = from = bpf_map_lookup_elem(&flow_lru, &t->slot);
	if (!lru)
		return NULL;
	if (c->flow_old) {
		bucket = flow_bucket(c, other, hash);
		if (bucket)
			old = flow_in(bucket, t->way, &p->key);
		if (!old) {
			from = bpf_map_lookup_elem(&flow_lru, &other);
			if (from)
				value = bpf_map_lookup_elem(from, &p->key);
			elsewhere = value;
		}
	}
	if (!old && !value && t->bucket->record[0].value.spilled) {
		from = lru;
		value = bpf_map_lookup_elem(from, &p->key);
	}
	if (!old && (!value || !from))
		return NULL;
	record = flow_make_room(c, t);
	if (!record && value && !elsewhere) { /* it stays there */
		p->flow_in_lru = 1;
		return value;
	}
	if (old) {
		if (record) {
			flow_write(record, &p->key, &old->value);
			flow_show(record, &p->key);
			flow_clear(old);
			return &record->value;
		}
		flow_spill(t, old);
		flow_clear(old);
	} else {
		value = bpf_map_lookup_elem(from, &p->key); /* again: making room may have thrown it out */
		if (!value)
			return NULL;
		if (record) {
			flow_write(record, &p->key, value);
			if (bpf_map_delete_elem(from, &p->key)) /* another CPU took it */
				return NULL;
			t->totals->returned += record->value.packets;
			t->totals->returned_bytes += record->value.bytes;
			flow_show(record, &p->key);
			return &record->value;
		}
		bpf_map_update_elem(lru, &p->key, value, BPF_NOEXIST);
		bpf_map_delete_elem(from, &p->key);
		t->bucket->record[0].value.spilled = 1;
	}
	p->flow_in_lru = 1;
	return bpf_map_lookup_elem(lru, &p->key);
}

/* Is a TCP packet elsewhere in the sequence numbers than a record's flow was? The first ones of connections with one name grow by one each
 * 64 ns on Linux (net/core/secure_seq.c), which is TCP_JUMP in 0.27 s, and each 4 us by RFC 6528, section 3, in 17 s; or they are random. */
static __always_inline bool is_far(const struct flow_value *value, const struct pkt *p)
{
	return value->seq && p->seq - value->seq + TCP_JUMP > 2 * TCP_JUMP;
}

/* Is this perhaps another connection than the record's, with its name, whose SYN came in on another CPU? */
static __always_inline bool may_be_namesake(const struct flow_value *value, const struct pkt *p)
{
	if (!has_tcp_flags(p) || p->has & IS_SYN)
		return false;
	return value->state & FLOW_STATE_CLOSED || is_far(value, p);
}

/* Is it one for certain? What was closed may still have something to send, but not there. */
static __always_inline bool is_namesake(const struct flow_value *value, const struct pkt *p)
{
	return has_tcp_flags(p) && value->state & FLOW_STATE_CLOSED && is_far(value, p);
}

struct find_elsewhere {
	struct control *control;
	const struct pkt *p;
	__u64 hash;
	__u32 slot;
	__u32 backend, last; /* of the record that was written last, of those that are open if there are any */
	bool open;
};

/* The region of one CPU: 1 ends the search. Another CPU may be writing there: what was read counts if the key is still the same. */
static long flow_peek(__u64 cpu, void *arg)
{
	struct find_elsewhere *f = arg;
	struct flow_bucket *bucket = flow_bucket_of(f->control, f->slot, f->hash, cpu);
	struct flow_record *record;
	__u32 backend, last;
	bool open;

	if (!bucket)
		return 1;
	record = flow_in(bucket, f->hash >> 32, &f->p->key);
	if (!record || is_namesake(&record->value, f->p))
		return 0;
	open = !(record->value.state & FLOW_STATE_CLOSED);
	backend = READ_ONCE(record->value.backend);
	last = READ_ONCE(record->value.last);
	barrier();
	if (same_key(&record->key, &f->p->key) && (!f->backend || open > f->open || (open == f->open && (__s32)(last - f->last) > 0))) {
		f->backend = backend;
		f->last = last;
		f->open = open;
	}
	return 0;
}

enum { FLOW_OPEN = 1 << 16 /* beside a backend: the flow was not closed */ };

/* The backend of a flow that has no record on this CPU but on another one, or in the LRU map: a sender's packets may change CPU, and
 * a ring that changed since would send them elsewhere. With FLOW_OPEN, or without. 0: none. */
__noinline int flow_elsewhere(const struct pkt *p)
{
	struct find_elsewhere f = {.p = p};
	struct flow_value *value;
	struct flow_key key;
	struct control *c;
	__u32 zero = 0;
	void *lru;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c)
		return 0;
	key = p->key; /* Linux 6.1 takes no key from an argument of a global function */
	f.control = c;
	f.slot = READ_ONCE(c->flow_slot) & 1;
	f.hash = flow_hash(c, p);
	bpf_loop(c->flow_cpus < FLOW_PEEK ? c->flow_cpus : FLOW_PEEK, flow_peek, &f, 0);
	if (f.backend)
		return f.backend | (f.open ? FLOW_OPEN : 0);
	lru = bpf_map_lookup_elem(&flow_lru, &f.slot);
	if (!lru)
		return 0;
	value = bpf_map_lookup_elem(lru, &key);
	return value && !is_namesake(value, p) ? value->backend : 0;
}

/* The flow's record, or NULL: it is new. Fills *t, whose totals the caller has set, for flow_account(). */
static __always_inline struct flow_value *flow_find(struct control *c, struct flow_table *t, struct pkt *p)
{
	__u64 hash = flow_hash(c, p);
	struct flow_record *record;

	trace_flow(&p->key);
	t->slot = READ_ONCE(c->flow_slot) & 1;
	t->now = now_jiffies(c);
	t->way = hash >> 32;
	t->bucket = flow_bucket(c, t->slot, hash);
	if (!t->bucket)
		return NULL;
	record = flow_in(t->bucket, t->way, &p->key);
	if (record)
		return &record->value;
	if (!c->flow_old && !t->bucket->record[0].value.spilled)
		return NULL;
	return flow_return(c, t, p, hash);
}

/* What is left of the inserts that a CPU may make into the LRU map: those of a second at most, since flows come in bursts. */
static __always_inline void flow_fill_budget(const struct control *c, struct flow_totals *totals, __u32 now)
{
	__u32 passed = now - totals->tick, most = c->hz * c->flow_budget;

	totals->tick = now;
	if (passed < c->hz && totals->budget + passed * c->flow_budget < most)
		totals->budget += passed * c->flow_budget;
	else
		totals->budget = most;
}

/* A record for a new flow, or NULL: it is counted as refused. flow_show() ends it. Not inlined for the same reason. */
static __noinline struct flow_record *flow_create(struct control *c, struct flow_table *t, struct pkt *p)
{
	struct flow_record *record;
	__u32 zero = 0;

	if (!t->bucket)
		return NULL;
	record = flow_make_room(c, t);
	if (!record) {
		flow_fill_budget(c, t->totals, t->now);
		if (!t->totals->budget)
			return NULL;
		t->totals->budget--;
		record = bpf_map_lookup_elem(&flow_spare, &zero);
		if (!record)
			return NULL;
		p->flow_spare = 1;
	}
	flow_write(record, &p->key, NULL);
	return record;
}

/* How many segments of a packet that begins `behind` before what was seen, and is `bytes` long, were seen already. */
static __always_inline __u32 flow_seen_again(const struct pkt *p, __u32 behind, __u32 bytes)
{
	if (p->segments == 1 || behind >= bytes)
		return p->segments;
	return ((__u64)behind * p->segments + bytes - 1) / bytes;
}

/* When this side shook hands, and what it sent again. That is an estimate: what was overtaken on its way here looks the same, and
 * each CPU knows only the segments that it saw. */
static __always_inline void flow_tcp(struct flow_value *value, const struct pkt *p, bool created)
{
	__u32 end = p->seq + p->payload, behind = value->seq - p->seq;

	if (p->tcp_flags & (TCP_SYN | TCP_FIN))
		end++; /* they take a number as a byte does */
	if (p->tcp_flags & TCP_SYN) {
		if (!value->acked)
			value->syn = created ? value->first : bpf_ktime_get_ns(); /* to ask twice would take longer than all else here */
		if (p->tcp_flags & TCP_ACK)
			value->state |= FLOW_STATE_ANSWERED;
		if (value->seq == end)
			value->retransmits++;
		value->seq = end;
		return;
	}
	if (value->syn && !value->acked && (p->tcp_flags & (TCP_ACK | TCP_RST)) == TCP_ACK)
		value->acked = bpf_ktime_get_ns();
	if (!value->seq || behind - 1 >= TCP_WINDOW_MAX) {
		value->seq = end;
	} else if (end != p->seq) { /* keepalives carry nothing */
		value->retransmits += flow_seen_again(p, behind, end - p->seq);
		if ((__s32)(end - value->seq) > 0)
			value->seq = end;
	}
}

/* Decide whether a packet counts in flow records. Of every flow_sample packets of a CPU one does, which one is chance: random
 * n-out-of-N sampling (RFC 5475, section 5.2.1). A bundle counts whole or not at all. */
static __always_inline void sample(const struct control *c, struct flow_totals *totals, struct pkt *p)
{
	__u32 of = c->flow_sample, at = totals->sample_at;

	if (of < 2) {
		p->sample = SAMPLE_ALL;
		return;
	}
	if (!at)
		totals->sample_pick = bpf_get_prandom_u32() % of;
	p->sample = at == totals->sample_pick ? SAMPLE_IN : SAMPLE_OUT;
	totals->sample_at = at + 1 < of ? at + 1 : 0;
}

static __always_inline bool is_left_out(const struct pkt *p) { return cfg_sample && p->sample == SAMPLE_OUT; }

/* Nobody else needs the record of a packet that doesn't count: not to remember its verdict, backend or state. */
static __always_inline bool needs_no_record(const struct pkt *p)
{
	return is_left_out(p) && !(cfg_rules || cfg_sets || cfg_blocks || cfg_services || cfg_state || cfg_out);
}

/* What even a packet that doesn't count says of its flow, for others than people. */
static __always_inline void flow_goes_on(struct flow_value *value, const struct pkt *p, __u32 now)
{
	value->last = now;
	if (p->has & IS_SYN && value->state & FLOW_STATE_CLOSED)
		value->state = 0;
	if (p->key.proto != PROTO_TCP)
		return;
	if (!(p->has & IS_SYN))
		value->state |= FLOW_STATE_ESTABLISHED;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		value->state |= FLOW_STATE_CLOSED;
}

static __always_inline void flow_state(struct flow_value *value, const struct pkt *p, bool created)
{
	if (p->tcp_flags & TCP_SYN && value->state & FLOW_STATE_CLOSED) { /* a new flow with an old name */
		if (p->has & IS_SYN) /* what else may take a client to another backend */
			value->state = 0;
		value->tcp_flags = 0;
		value->acked = 0;
	}
	value->tcp_flags |= p->tcp_flags;
	if (!(p->has & IS_SYN) && (p->key.proto == PROTO_TCP || value->packets > 1))
		value->state |= FLOW_STATE_ESTABLISHED;
	if (p->key.proto == PROTO_TCP && p->tcp_flags & (TCP_FIN | TCP_RST))
		value->state |= FLOW_STATE_CLOSED;
	if (p->ttl < value->ttl_min)
		value->ttl_min = p->ttl;
	if (p->ttl > value->ttl_max)
		value->ttl_max = p->ttl;
	if (!(cfg_sample && p->sample == SAMPLE_IN) && has_tcp_flags(p)) /* what passed between two samples is not known */
		flow_tcp(value, p, created);
}

static __always_inline void flow_count(struct flow_table *t, struct flow_value *value, const struct pkt *p, bool created)
{
	if (p->flow_in_lru) { /* counted as if it had passed through the array */
		__sync_fetch_and_add(&value->packets, p->segments);
		__sync_fetch_and_add(&value->bytes, p->ip_bytes);
		t->totals->spilled += p->segments;
		t->totals->spilled_bytes += p->ip_bytes;
	} else {
		value->packets += p->segments;
		value->bytes += p->ip_bytes;
	}
	value->last = t->now;
	flow_state(value, p, created);
}

/* Count a packet that goes on its way, and remember what was found about its flow. value: what flow_find() gave. */
static __always_inline void flow_account(ctx_t *ctx, struct control *c, struct flow_table *t, struct flow_value *value, struct pkt *p,
					 enum reason reason)
{
	struct flow_totals *totals = t->totals;
	struct flow_record *created = NULL;

	if (!is_left_out(p)) {
		totals->accounted += p->segments;
		totals->accounted_bytes += p->ip_bytes;
	}
	if (!value) {
		if (is_left_out(p) && reason != REASON_FORWARD) /* a flow must stay on its backend */
			return;
		created = flow_create(c, t, p);
		if (!created) {
			if (is_left_out(p))
				return;
			totals->refused += p->segments;
			totals->refused_bytes += p->ip_bytes;
			return;
		}
		totals->created++;
		value = &created->value;
		value->first = bpf_ktime_get_ns(); /* who was first says who opened the flow: the coarse clock may be a draw */
		value->ifindex = ctx_ifindex(ctx);
		value->ttl_min = value->ttl_max = p->ttl;
		value->dscp = p->tos >> 2;
	}
	if (is_left_out(p))
		flow_goes_on(value, p, t->now);
	else
		flow_count(t, value, p, created);
	if (!p->remembered) {
		if (cfg_interfaces)
			value->ifindex = ctx_ifindex(ctx); /* where the verdict holds */
		value->rule = p->rule;
		value->service = p->service;
		value->backend = p->backend;
		value->reason = reason;
		value->verdict = verdict_of(reason);
		value->block_epoch = p->block_epoch;
		value->generation = p->remember ? p->generation : 0;
		value->judged = p->state;
		value->exit = p->exit;
		value->quic = p->quic;
	}
	if (cfg_state && p->state_asked) {
		value->asked = t->now;
		/* After a reset the next packet is asked about: it may take the reset back. */
		value->seen = has_tcp_flags(p) && p->tcp_flags & TCP_RST ? STATE_NONE : p->state;
	}
	if (!created)
		return;
	flow_show(created, &p->key);
	if (p->flow_spare)
		flow_spill(t, created);
}

/* A packet's state. Of a flow that was established less than a second ago its record knows it; what opens, closes or resets a
 * connection is for the shared table. */
static __always_inline void find_state(ctx_t *ctx, const struct control *c, const struct flow_table *t, const struct flow_value *flow, struct pkt *p)
{
	if (flow && flow->seen == STATE_ESTABLISHED && t->now - flow->asked < c->hz && !(p->has & HAS_ICMP) &&
	    (!has_tcp_flags(p) || (p->tcp_flags & TCP_CONTROL) == TCP_ACK)) {
		p->state = STATE_ESTABLISHED;
	} else {
		p->state = state_judge(ctx, p);
		p->state_asked = 1;
	}
	trace_step(STEP_STATE, p->state, 0);
}
