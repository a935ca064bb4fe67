/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Making a translation: a place in the table, an address of the pool, and a port there that nobody else has. See nat.h. */
#pragma once
#include "nat.h"

/* What the search needs on the stack: pointers, which no map can hold. */
struct nat_try {
	struct control *c;
	struct nat_now *now;
	void *table, *slots, *services;
	bool done;
};

static __always_inline __u64 nat_slot_word(__u64 hash, __u32 index) { return hash >> 32 << 32 | (index + 1); }

/* Give a slot back. */
static __always_inline void nat_leave_slot(const struct control *c, void *slots, __u64 hash, __u32 index)
{
	struct nat_line *line = nat_line_at(c, slots, hash);
	__u64 word = nat_slot_word(hash, index);

	if (!line)
		return;
#pragma unroll
	for (int i = 0; i < NAT_SLOTS; i++)
		if (READ_ONCE(line->slot[i]) == word)
			__sync_val_compare_and_swap(&line->slot[i], word, 0);
}

/* Has a translation timed out, with these words? They also say its protocol, so that nobody waits for its entry. */
static __always_inline bool nat_is_over(__u64 word, __u64 other, __u32 clock)
{
	__u8 proto = (word | other) >> STATE_FLAGS & SEEN_UDP ? PROTO_UDP : PROTO_TCP;
	__u32 timeout = state_timeout(proto, word >> STATE_FLAGS & 0xff, other >> STATE_FLAGS & 0xff);

	return !nat_claimed(word) && !nat_seen_flags(word, clock, timeout) && !nat_seen_flags(other, clock, timeout);
}

/* Verified on its own: see parse_any(). */
__noinline int nat_timed_out(__u64 word, __u64 other, __u32 clock) { return nat_is_over(word, other, clock); }

/* May a new translation have this place? It is free, or what is there has timed out. */
static __always_inline bool nat_expired(const struct nat_bucket *bucket, __u32 at, __u32 clock)
{
	__u64 word = READ_ONCE(bucket->way[at][0]);

	return !word || nat_timed_out(word, READ_ONCE(bucket->way[at][1]), clock);
}

/* Make a place this CPU's, if it is free: nobody then finds anything there. */
static __always_inline bool nat_claim(struct nat_bucket *bucket, __u32 at, __u64 word, __u32 clock)
{
	return __sync_val_compare_and_swap(&bucket->way[at][0], word, (__u64)STATE_CLAIMED << STATE_FLAGS | clock) == word;
}

static __always_inline void nat_free(struct nat_bucket *bucket, __u32 at)
{
	at %= NAT_ENTRIES;
	asm volatile("" : "+r"(at)); /* clang may have kept it where the verifier loses its bounds */
	WRITE_ONCE(bucket->more[at].hash, 0);
	WRITE_ONCE(bucket->way[at][1], 0);
	__sync_lock_test_and_set(&bucket->way[at][0], 0); /* after the others, on any processor */
}

/* The slot of ends that a new translation would have: may it be taken from who has it, because that has timed out? */
static __noinline bool nat_take_slot(struct nat_try *t, __u64 *slot, __u64 word)
{
	struct nat_bucket *bucket;
	__u64 seen;
	__u32 at;

	bucket = nat_bucket_of(t->table, (__u32)word - 1, &at);
	if (!bucket)
		return false;
	seen = READ_ONCE(bucket->way[at][0]);
	if (nat_frozen(t->c) && (__u32)word == t->now->index) /* its own, which it would have left */
		return true;
	if (seen && !nat_is_over(seen, READ_ONCE(bucket->way[at][1]), t->now->clock)) /* no call, for the stack's sake */
		return false;
	if (nat_frozen(t->c))
		return true;
	if (!nat_claim(bucket, at, seen, t->now->clock))
		return false;
	__sync_val_compare_and_swap(slot, word, 0);
	nat_free(bucket, at);
	return true;
}

/* Take candidate i in hand: what a translation by it would be, and ask memory for its line of slots. */
static __noinline bool nat_candidate(struct nat_try *t, __u32 i)
{
	struct nat_now *now = t->now;
	__u32 at = (now->start + i * now->step) % now->space, which = at / now->ports;
	struct state_ends ends = {.be_aport = now->be_port, .proto = now->ends.proto, .family = now->ends.family};
	struct nat_line *slots;
	struct line *line;

	if (now->addresses) {
		line = line_at(t->services, now->addresses + which / 4);
		if (!line)
			return false;
		__builtin_memcpy(now->pool, &line->w[which % 4 * 2], 16);
	}
	now->be_pool_port = ends.be_bport = bpf_htons(now->lo + at % now->ports);
	copy_address(ends.a, now->address);
	copy_address(ends.b, now->pool);
	now->hash = state_hash(t->c, &ends);
	slots = nat_line_at(t->c, t->slots, now->hash);
	if (!slots)
		return false;
	READ_ONCE(slots->slot[0]);
	return true;
}

/* Take a slot for candidate n, which is in hand. False: another translation has its ends, or the line is full. */
static __noinline bool nat_reserve(struct nat_try *t, __u32 n)
{
	struct nat_line *line = nat_line_at(t->c, t->slots, t->now->hash);
	__u64 hash = t->now->hash, word = nat_slot_word(hash, t->now->index - 1), there;
	__u32 free = NAT_SLOTS;

	if (!line)
		return false;
	for (int i = 0; i < NAT_SLOTS; i++) {
		there = READ_ONCE(line->slot[i]);
		if (there && there >> 32 == hash >> 32) {
			nat_candidate(t, n + 1); /* its slots come while the words of this one's owner are waited for */
			if (!nat_take_slot(t, &line->slot[i], there))
				return false;
			nat_candidate(t, n);
			there = 0;
		}
		if (!there)
			free = i;
	}
	if (free >= NAT_SLOTS)
		return false;
	if (nat_frozen(t->c))
		return true;
	if (__sync_val_compare_and_swap(&line->slot[free], 0, word))
		return false;
	for (int i = 0; i < NAT_SLOTS; i++) {
		there = READ_ONCE(line->slot[i]);
		if (i != free && there && there >> 32 == hash >> 32) { /* another CPU wants the same, and sees this one */
			__sync_val_compare_and_swap(&line->slot[free], word, 0);
			return false;
		}
	}
	return true;
}

/* One candidate, of which the first is in hand: 1 ends the loop. */
static long nat_try(__u64 i, void *arg)
{
	struct nat_try *t = arg;

	if (i && !nat_candidate(t, i))
		return 1;
	t->done = nat_reserve(t, i);
	return t->done;
}

/* A place in a bucket, and how many it has. */
struct nat_places {
	struct nat_bucket *bucket;
	__u32 number, at, free; /* free 0: there is none */
};

static __always_inline void nat_places_in(struct nat_try *t, __u32 number, __u64 hash, struct nat_places *places)
{
	struct nat_bucket *bucket = bpf_map_lookup_elem(t->table, &number);
	__u32 at;

	if (!bucket)
		return;
	places->bucket = bucket;
	places->number = number;
#pragma unroll
	for (int i = NAT_ENTRIES - 1; i >= 0; i--) {
		at = nat_place_of(hash, i);
		if (!nat_expired(bucket, at, t->now->clock))
			continue;
		places->at = at;
		places->free++;
	}
}

/* The bucket with a place for a new translation, claimed, *at in it: the one that a former translation of the same ends has, or one of two
 * buckets: the first one if it is as good as empty, since it is looked at first, else the emptier one. NULL: there is none. */
static __noinline struct nat_bucket *nat_place(struct nat_try *t, __u64 hash)
{
	struct nat_places first = {}, second = {};
	__u64 word;

	if (t->now->index) {
		first.bucket = nat_bucket_of(t->table, t->now->index - 1, &first.at);
		if (!first.bucket)
			return NULL;
		word = t->now->word[0];
	} else {
		nat_places_in(t, nat_bucket(t->c, hash, 0), hash, &first);
		if (first.free < NAT_ENTRIES - 1)
			nat_places_in(t, nat_bucket(t->c, hash, 1), hash, &second);
		if (second.free > first.free)
			first = second;
		if (!first.free || !first.bucket)
			return NULL;
		word = READ_ONCE(first.bucket->way[first.at % NAT_ENTRIES][0]);
		if (!nat_expired(first.bucket, first.at % NAT_ENTRIES, t->now->clock))
			return NULL;
		t->now->index = first.number * NAT_ENTRIES + first.at + 1;
		t->now->word[0] = word;
	}
	if (nat_frozen(t->c))
		return first.bucket;
	return nat_claim(first.bucket, first.at % NAT_ENTRIES, word, t->now->clock) ? first.bucket : NULL;
}

/* The pool of the packet's service, which was asked for. False: the packet's generation has no such service. */
static __noinline bool nat_pool(struct nat_try *t, struct pkt *p)
{
	struct service_record *service;
	struct services_head *head;
	struct nat_now *now = t->now;
	__u64 h;

	t->services = table_of(p->generation, TABLE_SERVICES);
	head = t->services ? line_at(t->services, 0) : NULL;
	if (p->service_place < ASKED_FOUND || !head)
		return false;
	service = line_at(t->services, head->service_off + p->service_place - ASKED_FOUND);
	if (!service || !service->nat_lo) /* it doesn't translate any more */
		return false;
	now->addresses = service->nat_addresses ? service->nat_off : 0;
	now->lo = service->nat_lo;
	now->ports = service->nat_hi - service->nat_lo + 1;
	now->space = now->ports * (now->addresses ? service->nat_addresses : 1);
	h = mix(mix(MIX_SEED ^ t->c->nat_key, addr_hi(p->key.saddr)), addr_lo(p->key.saddr));
	h = mix(mix(h, addr_hi(p->key.daddr)), addr_lo(p->key.daddr));
	h = mix(h, (__u64)bpf_ntohs(p->key.be_sport) << 32 | (__u32)bpf_ntohs(p->key.be_dport) << 16 | p->key.proto);
	now->start = (__u32)(h >> 32) % now->space;
	now->step = now->space <= NAT_TRIES ? 1 : 1 + (__u32)h % (now->space - 1);
	return true;
}

/* The place in its bucket of the translation in hand. */
static __always_inline __u32 nat_place_in_hand(const struct nat_now *now)
{
	__u32 at = (now->index - 1) % NAT_ENTRIES;

	asm volatile("" : "+r"(at)); /* clang would add to a pointer before it is checked */
	return at;
}

/* Write what is known of a new translation before it has a port. Nobody else sees it now. A function of its own, as the next one, so that what it
 * has on the stack is gone when the port is looked for. */
static __noinline void nat_fill(struct nat_try *t, struct nat_bucket *bucket)
{
	struct nat_now *now = t->now;
	__u32 at = nat_place_in_hand(now);
	struct nat_entry *entry = &bucket->entry[at];
	struct nat_more *more = &bucket->more[at];

	if (now->word[0]) { /* else nothing was there, and its line needn't come for that */
		nat_leave_slot(t->c, t->slots, more->hash, now->index - 1);
		WRITE_ONCE(more->hash, 0);
	}
	__builtin_memcpy(entry, &now->ends, sizeof(now->ends));
	entry->backend = now->backend;
	entry->be_port = now->be_port;
	entry->vlan = now->vlan;
	copy_address(more->address, now->address);
	copy_macs(more->macs, now->macs);
	more->ifindex = now->ifindex;
}

/* It has a port: let others see it. */
static __noinline void nat_show(struct nat_try *t, struct nat_bucket *bucket, const struct pkt *p)
{
	struct nat_now *now = t->now;
	__u32 at = nat_place_in_hand(now);
	__u64 *way = bucket->way[at];

	nat_tell_pool(t->c, now->pool);
	copy_address(bucket->entry[at].pool, now->pool);
	bucket->entry[at].be_pool_port = now->be_pool_port;
	bucket->more[at].hash = now->hash;
	WRITE_ONCE(way[1], 0);
	/* after all others, on any processor */
	__sync_lock_test_and_set(&way[0], nat_word(p, 0, 0, state_tag(now->own), now->clock));
}

/* A new translation of a client's packet to p->backend. now->pool has the default address, now->macs where the client is. Gives the reason
 * why there is none, or REASON_NONE. */
__noinline int nat_make(struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct nat_try t = {};
	struct nat_bucket *bucket;
	struct backend *backend;
	__u32 key, zero = 0;

	t.c = bpf_map_lookup_elem(&control, &zero);
	t.table = nat_table();
	t.slots = nat_slots();
	if (!p || !now || !t.c || !t.table || !t.slots)
		return REASON_NAT_FULL;
	t.now = now;
	key = p->backend;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend || !nat_pool(&t, p)) {
		p->backend = p->new_flow = p->named = 0;
		return REASON_NO_BACKEND;
	}
	if (!now->addresses && !(addr64(now->pool)[0] | addr64(now->pool)[1]))
		return REASON_NO_NEXT_HOP;
	copy_address(now->address, backend->address);
	now->be_port = backend->be_port ? backend->be_port : p->key.be_dport;
	now->backend = p->backend;
	nat_ends(&now->ends, p);
	if (!nat_candidate(&t, 0)) /* first, so that its slots are on their way meanwhile */
		return REASON_NAT_PORTS;
	bucket = nat_place(&t, now->own);
	if (!bucket)
		return REASON_NAT_FULL;
	if (!nat_frozen(t.c))
		nat_fill(&t, bucket);
	bpf_loop(NAT_TRIES, nat_try, &t, 0);
	trace_step(STEP_NAT, t.done, bpf_ntohs(now->be_pool_port));
	now->live = p->translated = NAT_MADE;
	if (nat_frozen(t.c))
		return t.done ? REASON_NONE : REASON_NAT_PORTS;
	if (!t.done) {
		nat_free(bucket, nat_place_in_hand(now));
		return REASON_NAT_PORTS;
	}
	nat_show(&t, bucket, p);
	return REASON_NONE;
}
