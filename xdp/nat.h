/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Translations of forward: nat. What a client sends to a service goes on from an address and port of gardu's to the backend, which
 * answers there; the answer gets the service's address and goes to the client.
 *
 * All CPUs and both hooks share one table. A translation is found by the client's ends in one of two buckets, and by the
 * backend's ends through a slot that refers to it; whoever makes one tries ports until a slot is his. A slot is taken by
 * compare-and-exchange, and who finds the same ends in another one as well gives his back: so no two translations that live have
 * the same ends, on whatever CPUs they were made.
 *
 * Nobody gives way: a translation lives until it times out, by the rules of state.h. Nothing sweeps: who needs the place or the
 * port of one that has timed out takes it. So all this works as well without the daemon. Words of entries are as in state.h.
 */
#pragma once
#include "../bpf/csum.h"
#include "../bpf/state.h"
#include "../bpf/verdict.h"
#include "fragments.h"
#include "services.h"

/* No reasons: what is to be done before the packet can be sent, on a stack that has room for it. */
enum {
	REASON_NAT_NEW = REASON_COUNT, /* a translation must be made */
	REASON_NAT_ERROR,              /* an ICMP error must be rewritten */
};

/* pkt.translated */
enum nat_kind {
	NAT_NONE,
	NAT_ANSWER,           /* to what was translated */
	NAT_MADE,             /* a translation was just made for it */
	NAT_ERROR_TO_CLIENT,  /* an ICMP error about what was sent to a backend */
	NAT_ERROR_TO_BACKEND, /* likewise, about an answer */
	NAT_ERROR_WRITTEN,    /* either, with its new ends */
};

/* The translation of the packet in hand. */
struct nat_now {
	struct flow_key client; /* an answer's key as its client knows it */
	__u64 own;              /* hash of the packet's ends */
	__u8 pool[16], address[16];
	__be16 be_pool_port, be_port;
	__u32 index;    /* of the entry + 1; 0: there is none */
	__u64 word[2];  /* as read */
	__u32 flags[2]; /* 0: nothing passed that way within the time-out */
	__u32 clock;
	__u32 ifindex;
	__u8 macs[12];
	__u16 backend;
	__u8 live;      /* it is the packet's own, not only one whose place it may have */
	__u8 pad;
	__u16 vlan;

	/* A search for a port. Candidates are the pool's ports from `start` on, `step` apart, both given by the flow's hash: they cost nothing
	 * to remember, and flows spread over the pool. */
	struct state_ends ends; /* the client's */
	__u64 hash;             /* of those towards the backend, by the candidate in hand */
	__u32 addresses;        /* lines of the pool; 0: there is one address, in `pool` already */
	__u32 start, step, space;
	__u32 lo, ports;
};

/* Programs only. One entry. */
MAP(nat_scratch, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct nat_now, 1);

static __always_inline struct nat_now *nat_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_scratch, &zero);
}

static __always_inline void *nat_table(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_entries, &zero);
}

static __always_inline void *nat_slots(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_lines, &zero);
}

/* The bucket of an entry, whose place there is *at. */
static __always_inline struct nat_bucket *nat_bucket_of(void *table, __u32 index, __u32 *at)
{
	__u32 key = index / NAT_ENTRIES;

	*at = index % NAT_ENTRIES;
	asm volatile("" : "+r"(*at)); /* clang would add to the pointer before it is checked */
	return bpf_map_lookup_elem(table, &key);
}

static __always_inline struct nat_line *nat_line_at(const struct control *c, void *slots, __u64 hash)
{
	__u32 key = hash & c->nat_slot_mask;

	return bpf_map_lookup_elem(slots, &key);
}

/* The source port, and the destination port above it. */
static __always_inline __u32 nat_ports(__be16 be_sport, __be16 be_dport) { return (__u32)be_dport << 16 | be_sport; }

static __always_inline __u32 nat_clock(const struct control *c) { return c->hz ? now_jiffies(c) * STATE_TICKS / c->hz : 0; }

static __always_inline bool nat_frozen(const struct control *c) { return cfg_trace && c->state_frozen; }

/* What can be translated: the checksums of others don't follow changes. */
static __always_inline bool nat_can(const struct pkt *p)
{
	return p->has & (HAS_PORTS | IS_LATER) && (p->key.proto == PROTO_TCP || p->key.proto == PROTO_UDP);
}

/* The ends of what can be translated; a later fragment's are those of the first one. False: nobody knows that one. */
static __always_inline bool nat_ends(struct state_ends *ends, const struct pkt *p)
{
	__u64 ports = p->has & IS_LATER ? ports_of_first(p) : 1ull << FIRST_KNOWN | nat_ports(p->key.be_sport, p->key.be_dport);

	__builtin_memcpy(ends->a, p->key.saddr, 32);
	ends->be_aport = ports;
	ends->be_bport = ports >> 16;
	ends->proto = p->key.proto;
	ends->family = p->family;
	return ports >> FIRST_KNOWN;
}

static __always_inline __u32 nat_seen_flags(__u64 word, __u32 clock, __u32 timeout)
{
	return state_age(word, clock) > timeout ? 0 : word >> STATE_FLAGS & 0xff;
}

/* What passed of a translation within its time-out. */
static __always_inline void nat_age(struct nat_now *now, __u8 proto)
{
	__u32 timeout = state_timeout(proto, now->word[0] >> STATE_FLAGS & 0xff, now->word[1] >> STATE_FLAGS & 0xff);

	now->flags[0] = nat_seen_flags(now->word[0], now->clock, timeout);
	now->flags[1] = nat_seen_flags(now->word[1], now->clock, timeout);
}

static __always_inline bool nat_claimed(__u64 word) { return word >> STATE_FLAGS & STATE_CLAIMED; }

/* Copy what a translation says. False: it became another one meanwhile. */
static __always_inline bool nat_read(const struct nat_bucket *bucket, __u32 at, struct nat_now *now, __u32 index, __u64 word)
{
	const struct nat_entry *entry = &bucket->entry[at];

	now->index = index + 1;
	now->word[0] = word;
	now->word[1] = READ_ONCE(bucket->way[at][1]);
	copy_address(now->pool, entry->pool);
	copy_address(now->address, bucket->more[at].address);
	now->be_pool_port = entry->be_pool_port;
	now->be_port = entry->be_port;
	now->backend = entry->backend;
	barrier();
	return word == READ_ONCE(bucket->way[at][0]);
}

static __always_inline __u32 nat_bucket(const struct control *c, __u64 hash, int n)
{
	return (n ? (__u32)(hash >> 20) * 0x9E3779B1u : (__u32)hash) & c->nat_mask;
}

/* The place in a bucket where a translation is looked for first, and then in turn. */
static __always_inline __u32 nat_place_of(__u64 hash, int turn) { return (hash >> 32 ^ turn) % NAT_ENTRIES; }

/* Look for the translation of a client's ends in one bucket. */
static __always_inline bool nat_in(void *table, __u32 number, const struct state_ends *ends, __u64 hash, struct nat_now *now)
{
	struct nat_bucket *bucket = bpf_map_lookup_elem(table, &number);
	__u64 word, tag = state_tag(hash);

	if (!bucket)
		return false;
#pragma unroll
	for (int i = 0; i < NAT_ENTRIES; i++) {
		__u32 at = nat_place_of(hash, i);

		word = READ_ONCE(bucket->way[at][0]);
		if (word >> STATE_TAG << STATE_TAG != tag || nat_claimed(word) || !same_ends(&bucket->entry[at], ends))
			continue;
		return nat_read(bucket, at, now, number * NAT_ENTRIES + at, word);
	}
	return false;
}

/* Ask memory for the places where the packet's translation most likely is, or will be: they come while other tables are waited for. */
static __always_inline void nat_touch(const struct control *c, void *table, __u64 hash)
{
	__u32 number = nat_bucket(c, hash, 0), other = nat_bucket(c, hash, 1);
	struct nat_bucket *bucket = bpf_map_lookup_elem(table, &number);
	struct nat_bucket *second = bpf_map_lookup_elem(table, &other);

	if (!bucket || !second)
		return;
	READ_ONCE(bucket->way[0][0]);
	READ_ONCE(bucket->entry[nat_place_of(hash, 0)].pool[0]);
	READ_ONCE(bucket->more[nat_place_of(hash, 0)].address[0]);
	READ_ONCE(second->way[0][0]);
}

/* A client's packet is for p->backend, unless a translation that lives says that its flow is on another one: that outlives records of
 * flows, and whatever becomes of rings.
 * What can't be translated is the kernel's: REASON_NONE. */
__noinline int nat_follow(struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct state_ends ends = {};
	struct backend *backend;
	enum reason missed;
	struct control *c;
	__u32 key, zero = 0;
	__u64 hash;
	void *table;

	c = bpf_map_lookup_elem(&control, &zero);
	table = nat_table();
	if (!p || !now || !c || !table)
		return REASON_NO_TABLES;
	key = p->backend;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend || backend->mode != MODE_NAT)
		return REASON_FORWARD;
	if (!nat_can(p)) {
		p->service = p->backend = 0;
		return REASON_NONE;
	}
	now->index = now->live = 0;
	now->clock = nat_clock(c);
	if (!nat_ends(&ends, p))
		return REASON_SERVICE_FRAGMENT;
	missed = p->has & IS_LATER ? REASON_SERVICE_FRAGMENT : REASON_FORWARD; /* only the first one makes a translation */
	hash = now->own;
	if (!nat_in(table, nat_bucket(c, hash, 0), &ends, hash, now) && !nat_in(table, nat_bucket(c, hash, 1), &ends, hash, now)) {
		now->index = 0;
		return missed;
	}
	nat_age(now, p->key.proto);
	if (!(now->flags[0] | now->flags[1]) || (p->has & IS_SYN && tcp_closed(now->flags[0], now->flags[1])))
		return missed;
	if (!backend_of(now->backend, p->service))
		return missed;
	if (p->backend != now->backend)
		p->named = 0;
	p->backend = now->backend;
	p->new_flow = 0;
	now->live = 1;
	trace_step(STEP_NAT, 1, bpf_ntohs(now->be_pool_port));
	return REASON_FORWARD;
}

/* The word of a direction after a packet passed that way. */
static __always_inline __u64 nat_word(const struct pkt *p, __u32 own, __u32 other, __u64 tag, __u32 clock)
{
	__u32 flags = (own & ~SEEN_RST) | SEEN;

	if (p->key.proto == PROTO_TCP) {
		if (p->tcp_flags & TCP_SYN)
			flags |= SEEN_SYN;
		else if (other)
			flags |= SEEN_SPOKE;
		if (p->tcp_flags & TCP_FIN)
			flags |= SEEN_FIN;
		if (p->tcp_flags & TCP_RST)
			flags |= SEEN_RST;
	} else {
		flags |= SEEN_UDP;
		if (other)
			flags |= SEEN_SPOKE;
	}
	return tag | (__u64)flags << STATE_FLAGS | clock;
}

/* A packet passes. A word that says the same and is less than half a second old stays. What passed the other way and has timed out is
 * forgotten: it would lengthen the time-out. Its tag stays, by which the client's ends are found. What loses a race is the same news. */
static __always_inline void nat_heard(const struct nat_now *now, const struct pkt *p, bool answer)
{
	__u64 word, old = now->word[answer], other = now->word[!answer], tag = now->word[0] >> STATE_TAG << STATE_TAG;
	bool forget = other >> STATE_FLAGS & 0xff && !now->flags[!answer];
	struct nat_bucket *bucket;
	struct control *c;
	__u32 zero = 0, at;
	void *table;

	word = nat_word(p, now->flags[answer], now->flags[!answer], tag, now->clock);
	if (!forget && old >> STATE_FLAGS == word >> STATE_FLAGS && state_age(old, now->clock) < STATE_TICKS / 2)
		return;
	c = bpf_map_lookup_elem(&control, &zero);
	table = nat_table();
	if (!c || !table || nat_frozen(c))
		return;
	bucket = nat_bucket_of(table, now->index - 1, &at);
	if (!bucket)
		return;
	__sync_val_compare_and_swap(&bucket->way[at][answer], old, word);
	if (forget)
		__sync_val_compare_and_swap(&bucket->way[at][!answer], other, other & ~(0xffull << STATE_FLAGS));
}

/* An address's bit among those that translations come from. */
static __always_inline __u32 nat_pool_bit(const __u8 *address)
{
	return mix(mix(MIX_SEED, addr64(address)[0]), addr64(address)[1]) >> 32 & (NAT_POOL_BITS - 1);
}

/* Can what is sent to this address be an answer? Mostly not, if it is a client's: it costs no look at the slots then. */
static __always_inline bool nat_from_pool(const struct control *c, const __u8 *address)
{
	__u32 bit = nat_pool_bit(address);

	return READ_ONCE(c->nat_pools[bit / 64]) >> bit % 64 & 1;
}

/* Before the first packet leaves that can be answered. */
static __always_inline void nat_tell_pool(struct control *c, const __u8 *address)
{
	__u32 bit = nat_pool_bit(address);

	if (!nat_from_pool(c, address))
		__sync_fetch_and_or(&c->nat_pools[bit / 64], 1ull << bit % 64);
}

/* ---- Answers ------------------------------------------------------------------------------------------------- */

/* Is the packet a backend's answer to something that was translated? Fills the scratch, and p->translated. */
__noinline int nat_answers(struct pkt *p)
{
	struct nat_now *now = nat_now();
	__u32 zero = 0, index = 0, at;
	struct state_ends ends = {};
	struct nat_bucket *bucket;
	struct nat_entry *entry;
	struct nat_more *more;
	struct nat_line *line;
	struct control *c;
	void *table, *slots;
	__u64 hash, there;

	c = bpf_map_lookup_elem(&control, &zero);
	table = nat_table();
	if (!p || !now || !c || !table || !nat_can(p) || !nat_ends(&ends, p))
		return 0;
	now->own = state_hash(c, &ends);
	if (!nat_from_pool(c, p->key.daddr)) {
		nat_touch(c, table, now->own);
		return 0;
	}
	hash = now->own;
	slots = nat_slots();
	line = slots ? nat_line_at(c, slots, hash) : NULL;
	if (!line)
		return 0;
#pragma unroll
	for (int i = 0; i < NAT_SLOTS; i++) {
		there = READ_ONCE(line->slot[i]);
		if (there && there >> 32 == hash >> 32)
			index = there;
	}
	if (!index)
		return 0;
	bucket = nat_bucket_of(table, index - 1, &at);
	if (!bucket)
		return 0;
	entry = &bucket->entry[at];
	more = &bucket->more[at];
	there = READ_ONCE(bucket->way[at][0]);
	if (!there || nat_claimed(there) || more->hash != hash || entry->proto != ends.proto || entry->family != ends.family)
		return 0;
	now->clock = nat_clock(c);
	copy_address(now->client.saddr, entry->service);
	copy_address(now->client.daddr, entry->client);
	now->client.be_sport = p->has & IS_LATER ? 0 : entry->be_service_port;
	now->client.be_dport = p->has & IS_LATER ? 0 : entry->be_client_port;
	copy_macs(now->macs, more->macs);
	now->vlan = entry->vlan;
	now->ifindex = more->ifindex;
	if (!nat_read(bucket, at, now, index - 1, there))
		return 0;
	nat_age(now, ends.proto);
	if (!(now->flags[0] | now->flags[1]))
		return 0;
	now->client.proto = p->key.proto;
	now->client.zone = p->key.zone;
	now->client.tag = p->key.tag;
	if (now->be_port != ends.be_aport || now->be_pool_port != ends.be_bport || addr64(now->address)[0] != addr64(ends.a)[0] ||
	    addr64(now->address)[1] != addr64(ends.a)[1] || addr64(now->pool)[0] != addr64(ends.b)[0] ||
	    addr64(now->pool)[1] != addr64(ends.b)[1])
		return 0;
	p->translated = NAT_ANSWER;
	return 0;
}

/* Give an answer the key that its client knows it by, or its own again. */
__noinline int nat_swap_key(struct pkt *p)
{
	struct nat_now *now = nat_now();
	__u64 *a, *b, word;

	if (!p || !now)
		return 0;
	a = (__u64 *)&p->key;
	b = (__u64 *)&now->client;
#pragma unroll
	for (int i = 0; i < (int)sizeof(p->key) / 8; i++) {
		word = a[i];
		a[i] = b[i];
		b[i] = word;
	}
	return 0;
}

/* Say whose answer it is. */
static __always_inline void nat_name(struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct backend *backend;
	__u32 key;

	if (!now)
		return;
	key = p->backend = now->backend;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (backend)
		p->service = backend->service;
}

/* ---- Changing packets ---------------------------------------------------------------------------------------- */

/* What changes of a pseudo header adds to a checksum; the words as they lie in memory. */
static __always_inline __u32 nat_difference(__u8 family, const void *old, const void *new)
{
	const __u16 *from = old, *to = new;
	__u32 sum = 0;

	if (family == FAMILY_V4)
		return (__u16)~from[6] + to[6] + (__u16)~from[7] + to[7];
#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += (__u16)~from[i] + to[i];
	return sum;
}

/* TCP and UDP: ports and checksum. `addresses`: what their change adds. A checksum that isn't there stays away (RFC 768). */
static __always_inline bool nat_rewrite_ports(ctx_t *ctx, const struct pkt *p, __u32 addresses, __u32 be_ports)
{
	struct udp_header *udp = ctx_at(ctx, p->l4);
	bool is_udp = p->key.proto == PROTO_UDP;
	__u32 old = (__u32)p->key.be_dport << 16 | p->key.be_sport;
#ifdef HOOK_XDP
	__u16 *csum = is_udp ? &udp->csum : &((struct tcp_header *)udp)->csum, value;

	if ((void *)(udp + 1) > ctx_data_end(ctx) || (void *)(csum + 1) > ctx_data_end(ctx))
		return false;
	value = *csum;
	if (!is_udp || value) {
		value = csum_fold((__u16)~value + addresses + (__u16)~old + (__u16)~(old >> 16) + (__u16)be_ports + (be_ports >> 16));
		*csum = is_udp && !value ? 0xffff : value;
	}
#else
	/* The kernel's helpers know a checksum that the sender leaves to the network card. */
	__u32 at = p->l4 + (is_udp ? offsetof(struct udp_header, csum) : offsetof(struct tcp_header, csum));
	__u64 zero = is_udp ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(ctx, at, 0, addresses, zero | BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(ctx, at, old, be_ports, zero | sizeof(old)))
		return false;
	udp = ctx_at(ctx, p->l4);
	if ((void *)(udp + 1) > ctx_data_end(ctx))
		return false;
#endif
	udp->be_sport = be_ports;
	udp->be_dport = be_ports >> 16;
	return true;
}

static __always_inline __u32 nat_addresses(const struct pkt *p, const __u8 *saddr, const __u8 *daddr)
{
	return nat_difference(p->family, p->key.saddr, saddr) + nat_difference(p->family, p->key.daddr, daddr);
}

/* Other addresses, and a hop less of TTL. */
static __always_inline bool nat_rewrite_ip(ctx_t *ctx, const struct pkt *p, const __u8 *saddr, const __u8 *daddr)
{
	struct ipv4_header *ip4;
	struct ipv6_header *ip6;
	__u32 addresses;

	if (p->family == FAMILY_V4) {
		ip4 = ctx_at(ctx, p->l3);
		if ((void *)(ip4 + 1) > ctx_data_end(ctx))
			return false;
		addresses = nat_addresses(p, saddr, daddr);
		ip4->csum = csum_fold((__u16)~ip4->csum + addresses + (__u16)~bpf_htons(p->ttl << 8) + bpf_htons((p->ttl - 1) << 8));
		ip4->ttl = p->ttl - 1;
		ip4->saddr = ((__be32 *)saddr)[3];
		ip4->daddr = ((__be32 *)daddr)[3];
	} else {
		ip6 = ctx_at(ctx, p->l3);
		if ((void *)(ip6 + 1) > ctx_data_end(ctx))
			return false;
		ip6->hop_limit = p->ttl - 1;
		copy_address(ip6->saddr, saddr);
		copy_address(ip6->daddr, daddr);
	}
	return true;
}

/* Give a packet other ends. A later fragment has only addresses. */
static __always_inline bool nat_rewrite(ctx_t *ctx, const struct pkt *p, const __u8 *saddr, const __u8 *daddr, __u32 be_ports)
{
	if (!(p->has & IS_LATER) && !nat_rewrite_ports(ctx, p, nat_addresses(p, saddr, daddr), be_ports))
		return false;
	return nat_rewrite_ip(ctx, p, saddr, daddr);
}
