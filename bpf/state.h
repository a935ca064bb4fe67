/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What a packet is to what passed before it: the field `state`.
 *
 * All CPUs and both hooks share one table of connections, each known by its two ends, whoever began. A direction's word says when
 * something last passed that way, and what. A packet is established when the other direction's word is younger than the
 * time-out: what comes in keeps nothing open by itself. Only what passes is written here.
 *
 * A connection is in one of two buckets. Who gives way to a new one, in order: a free or expired entry; of those that aren't
 * confirmed (confirmed: a TCP handshake that was ended, other protocols when both sides have spoken after an answer) the one
 * that was silent for longest, counted as "evicted"; else nobody, and the new connection is counted as "refused". So a flood,
 * also one whose SYNs are answered, takes nothing from connections that live.
 *
 * There is no lock: whoever writes a word exchanges it against the one it was computed from, and a word carries bits of its
 * connection's hash, so that none is taken for another connection's whose entry it was a moment ago.
 */
#pragma once
#include "parse.h"
#include "table.h"
#include "trace.h"

enum {
	STATE_TICKS = 64, /* a second; the clock of the words, which wraps after two years */
	STATE_FLAGS = 32, /* place of the flags in a word */
	STATE_TAG = 40,   /* and of the hash's bits */
	STATE_FREE = 0x40000000, /* rank of an entry that nobody needs */
	STATE_CLAIMED = 0x80, /* flag of a word whose entry is being written */
	TCP_CONTROL = TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
	ICMP6_ERROR_FIRST = 1,
	ICMP6_ERROR_LAST = 4,
};

/* The ends of a connection, first from source to destination, then in their order. */
struct state_ends {
	__u8 a[16], b[16];
	__be16 be_aport, be_bport;
	__u8 proto, family;
	__u16 pad;
} __attribute__((aligned(8)));

/* Where a connection was found, and what is known of it from the view of one direction. */
struct state_seen {
	struct state_entry *entry; /* NULL: nowhere */
	__u64 own, other;          /* the words as read */
	__u32 own_flags, other_flags; /* 0: nothing passed within the time-out */
	__u32 now;
	bool swapped;              /* own is way[1] */
};

static __always_inline __u64 now_jiffies(const struct control *c)
{
	return cfg_trace && c->still ? c->still : bpf_jiffies64();
}

static __always_inline bool is_echo(__u8 family, __u8 type, bool *reply)
{
	*reply = type == (family == FAMILY_V4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY);
	return *reply || type == (family == FAMILY_V4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST);
}

static __always_inline bool is_icmp_error(const struct pkt *p)
{
	if (p->family == FAMILY_V4)
		return p->icmp_type == ICMP_UNREACHABLE || p->icmp_type == ICMP_TIME_EXCEEDED || p->icmp_type == ICMP_PARAMETER;
	return p->icmp_type >= ICMP6_ERROR_FIRST && p->icmp_type <= ICMP6_ERROR_LAST;
}

/* The one who pings has the identifier for a port, the other none: else the pings of two hosts at each other were one connection. */
static __always_inline void put_echo(struct state_ends *ends, __be16 be_id, bool reply)
{
	ends->be_aport = reply ? 0 : be_id;
	ends->be_bport = reply ? be_id : 0;
}

/* A packet's ends. False: it belongs to no connection that could be told from others. */
static __always_inline bool ends_of(const struct pkt *p, struct state_ends *ends)
{
	bool ports = p->key.proto == PROTO_TCP || p->key.proto == PROTO_UDP || p->key.proto == PROTO_SCTP, reply = false;
	bool icmp = p->key.proto == (p->family == FAMILY_V4 ? PROTO_ICMP : PROTO_ICMPV6);

	if (ports && !(p->has & HAS_PORTS))
		return false;
	if (icmp && (!(p->has & HAS_ICMP) || !is_echo(p->family, p->icmp_type, &reply)))
		return false;
	__builtin_memcpy(ends->a, p->key.saddr, 32);
	ends->proto = p->key.proto;
	ends->family = p->family;
	if (ports) {
		ends->be_aport = p->key.be_sport;
		ends->be_bport = p->key.be_dport;
	} else if (icmp) {
		put_echo(ends, p->key.be_sport, reply);
	}
	return true;
}

/* The ends of the packet that an ICMP error quotes, which must have come from where the error goes (RFC 5927, section 4.1). */
static __always_inline bool ends_of_quoted(const struct pkt *p, const struct quoted *q, struct state_ends *ends)
{
	const __u64 *to = addr64(p->key.daddr), *from = addr64(q->saddr);
	bool reply;

	if (to[0] != from[0] || to[1] != from[1])
		return false;
	__builtin_memcpy(ends->a, q->saddr, 32);
	ends->proto = q->proto;
	ends->family = p->family;
	if (q->proto == (p->family == FAMILY_V4 ? PROTO_ICMP : PROTO_ICMPV6)) {
		if (!is_echo(p->family, q->icmp_type, &reply))
			return false;
		put_echo(ends, q->be_id, reply);
	} else if (q->proto == PROTO_TCP || q->proto == PROTO_UDP || q->proto == PROTO_SCTP) {
		ends->be_aport = q->be_sport;
		ends->be_bport = q->be_dport;
	}
	return true;
}

/* Put the ends in their order, the same for both directions. True: they were swapped. */
static __always_inline bool put_in_order(struct state_ends *ends)
{
	__u64 *a = (__u64 *)ends->a, *b = (__u64 *)ends->b, a0 = a[0], a1 = a[1];
	__be16 be_port = ends->be_aport;

	if (a0 != b[0] ? a0 < b[0] : a1 != b[1] ? a1 < b[1] : ends->be_aport <= ends->be_bport)
		return false;
	a[0] = b[0];
	a[1] = b[1];
	b[0] = a0;
	b[1] = a1;
	ends->be_aport = ends->be_bport;
	ends->be_bport = be_port;
	return true;
}

static __always_inline __u64 state_hash(const struct control *c, const struct state_ends *ends)
{
	const __u64 *word = (const __u64 *)ends;
	__u64 h = mix(c->hash_key[1], word[0]);

	h = mix(h, word[1]);
	h = mix(h, word[2]);
	h = mix(h, word[3]);
	return mix(mix(h, word[4]), c->hash_key[0]);
}

/* Bits of the hash that choose no bucket; never 0. */
static __always_inline __u64 state_tag(__u64 hash) { return (hash >> 40 | 1) << STATE_TAG; }

/* The two buckets of a connection: n is 0 or 1. */
static __always_inline struct state_bucket *state_bucket_of(const struct control *c, void *table, __u64 hash, int n)
{
	__u32 index = (n ? (__u32)(hash >> 20) * 0x9E3779B1u : (__u32)hash) & c->state_mask;

	return bpf_map_lookup_elem(table, &index);
}

/* `entry` begins with ends. */
static __always_inline bool same_ends(const void *entry, const struct state_ends *ends)
{
	const __u64 *x = entry, *y = (const __u64 *)ends;

	return !((x[4] ^ y[4]) | (x[3] ^ y[3]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[0] ^ y[0]));
}

static __always_inline __u32 state_age(__u64 word, __u32 now)
{
	__u32 age = now - (__u32)word;

	return (__s32)age < 0 ? 0 : age; /* another CPU's clock may be a tick ahead */
}

/* For how long a direction counts as seen, in ticks. */
static __always_inline __u32 state_timeout(__u8 proto, __u32 own, __u32 other)
{
	__u32 either = own | other, seconds;

	if (proto == PROTO_TCP)
		seconds = either & SEEN_RST ? TIMEOUT_TCP_RESET : either & SEEN_FIN ? TIMEOUT_TCP_CLOSING :
			  either & SEEN_SPOKE ? TIMEOUT_TCP : TIMEOUT_TCP_OPENING;
	else if (proto == PROTO_UDP || proto == PROTO_SCTP)
		seconds = own & other & SEEN_SPOKE ? TIMEOUT_UDP_BOTH : TIMEOUT_UDP;
	else if (proto == PROTO_ICMP || proto == PROTO_ICMPV6)
		seconds = TIMEOUT_ECHO;
	else
		seconds = TIMEOUT_OTHER;
	return seconds * STATE_TICKS;
}

/* How well an entry's place would suit another connection: the higher, the better; 0: not at all. */
__noinline int state_rank(const struct state_entry *entry, __u32 now)
{
	__u64 own, other;
	__u32 age, either, flags[2], timeout;

	if (!entry)
		return 0;
	own = READ_ONCE(entry->way[0]);
	other = READ_ONCE(entry->way[1]);
	if (!own && !other)
		return STATE_FREE;
	flags[0] = own >> STATE_FLAGS & 0xff;
	flags[1] = other >> STATE_FLAGS & 0xff;
	if (flags[0] & STATE_CLAIMED)
		return 0;
	age = other ? state_age(other, now) : STATE_FREE;
	if (own && state_age(own, now) < age)
		age = state_age(own, now);
	timeout = state_timeout(entry->proto, flags[0], flags[1]);
	if (age > timeout)
		return STATE_FREE;
	either = flags[0] | flags[1];
	if (entry->proto == PROTO_TCP ? either & SEEN_SPOKE && !(either & SEEN_RST) && !(flags[0] & flags[1] & SEEN_FIN)
				      : flags[0] & flags[1] & SEEN_SPOKE)
		return 0;
	return age + 1;
}

/* Look for a connection in one bucket. */
static __always_inline bool state_in(struct state_bucket *bucket, const struct state_ends *ends, __u64 tag, struct state_seen *seen)
{
	__u64 word[2];

#pragma unroll
	for (int i = 0; i < STATE_ENTRIES; i++) {
		struct state_entry *entry = &bucket->entry[i];

		word[0] = READ_ONCE(entry->way[0]);
		word[1] = READ_ONCE(entry->way[1]);
		if ((word[0] | word[1]) >> STATE_TAG << STATE_TAG != tag || word[0] >> STATE_FLAGS & STATE_CLAIMED || !same_ends(entry, ends))
			continue;
		barrier();
		if (word[0] != READ_ONCE(entry->way[0])) /* changed meanwhile, into another connection perhaps */
			continue;
		seen->entry = entry;
		seen->own = seen->swapped ? word[1] : word[0];
		seen->other = seen->swapped ? word[0] : word[1];
		return true;
	}
	return false;
}

static __always_inline void *state_table(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&states, &zero);
}

/* What is known of a connection. seen->swapped says from whose view. */
static __always_inline void state_find(const struct control *c, void *table, const struct state_ends *ends, __u64 hash, struct state_seen *seen)
{
	struct state_bucket *bucket = state_bucket_of(c, table, hash, 0);
	__u32 own, other, timeout;

	seen->now = c->hz ? now_jiffies(c) * STATE_TICKS / c->hz : 0;
	if (!bucket)
		return;
	if (!state_in(bucket, ends, state_tag(hash), seen)) {
		bucket = state_bucket_of(c, table, hash, 1);
		if (!bucket || !state_in(bucket, ends, state_tag(hash), seen))
			return;
	}
	own = seen->own >> STATE_FLAGS & 0xff;
	other = seen->other >> STATE_FLAGS & 0xff;
	timeout = state_timeout(ends->proto, own, other);
	seen->own_flags = state_age(seen->own, seen->now) > timeout ? 0 : own;
	seen->other_flags = state_age(seen->other, seen->now) > timeout ? 0 : other;
}

/* Whether the TCP flags that a segment opens, closes or resets by go together (RFC 9293). */
static __always_inline bool tcp_flags_valid(__u8 flags)
{
	switch (flags & TCP_CONTROL) {
	case TCP_SYN:
	case TCP_SYN | TCP_ACK:
	case TCP_ACK:
	case TCP_FIN | TCP_ACK:
	case TCP_RST:
	case TCP_RST | TCP_ACK:
		return true;
	default:
		return false;
	}
}

static __always_inline bool has_tcp_flags(const struct pkt *p) { return p->key.proto == PROTO_TCP && !(p->has & IS_LATER); }

static __always_inline bool tcp_closed(__u32 own, __u32 other)
{
	return (own | other) & SEEN_RST || own & other & SEEN_FIN;
}

static __always_inline enum state state_from(const struct pkt *p, __u32 own, __u32 other)
{
	__u8 flags = p->tcp_flags & TCP_CONTROL;
	bool tcp = has_tcp_flags(p), reply = false;

	if (tcp && flags == TCP_SYN) /* on a connection that was closed: a new one with an old name */
		return other && !tcp_closed(own, other) ? STATE_ESTABLISHED : STATE_NEW;
	if (other)
		return STATE_ESTABLISHED;
	if (tcp && flags == (TCP_SYN | TCP_ACK))
		return STATE_INVALID;
	if (tcp && own & SEEN_SYN && own & SEEN_ONE_SIDED)
		return STATE_ESTABLISHED;
	if (tcp && flags & TCP_RST && !own)
		return STATE_INVALID;
	if (p->has & HAS_ICMP && is_echo(p->family, p->icmp_type, &reply) && reply)
		return STATE_INVALID;
	return STATE_NEW;
}

/* An ICMP error is judged by what it quotes, which must have passed. */
static __always_inline enum state state_of_error(ctx_t *ctx, const struct pkt *p, const struct control *c, void *table)
{
	struct state_ends ends = {};
	struct state_seen seen = {};
	struct quoted quoted = {};

	if (!parse_quoted(ctx, p, &quoted) || !ends_of_quoted(p, &quoted, &ends))
		return STATE_INVALID;
	seen.swapped = put_in_order(&ends);
	state_find(c, table, &ends, state_hash(c, &ends), &seen);
	return seen.own_flags || seen.other_flags & SEEN_ONE_SIDED ? STATE_ESTABLISHED : STATE_INVALID;
}

/* The state of a packet by the shared table (enum state). Verified on its own: see parse_any(). */
__noinline int state_judge(ctx_t *ctx, const struct pkt *p)
{
	struct state_ends ends = {};
	struct state_seen seen = {};
	struct control *c;
	__u32 zero = 0;
	void *table;

	c = bpf_map_lookup_elem(&control, &zero);
	table = state_table();
	if (!p || !c || !table)
		return STATE_NONE;
	if (has_tcp_flags(p) && !tcp_flags_valid(p->tcp_flags))
		return STATE_INVALID;
	if (p->has & HAS_ICMP && is_icmp_error(p))
		return state_of_error(ctx, p, c, table);
	if (!ends_of(p, &ends))
		return p->has & HAS_ICMP ? STATE_NEW : STATE_NONE;
	seen.swapped = put_in_order(&ends);
	state_find(c, table, &ends, state_hash(c, &ends), &seen);
	return state_from(p, seen.own_flags, seen.other_flags);
}

/* A SYN on a connection that was closed. */
static __always_inline bool reopens(const struct pkt *p, const struct state_seen *seen)
{
	return has_tcp_flags(p) && (p->tcp_flags & TCP_CONTROL) == TCP_SYN && tcp_closed(seen->own_flags, seen->other_flags);
}

/* The word of a direction after a packet passed. */
static __always_inline __u64 state_word(const struct pkt *p, const struct state_seen *seen, __u64 tag)
{
	__u32 flags = seen->own_flags & ~SEEN_RST;

	if (has_tcp_flags(p)) {
		if (p->state == STATE_NEW && (p->tcp_flags & TCP_CONTROL) == TCP_SYN)
			flags = 0;
		if (p->tcp_flags & TCP_SYN)
			flags |= SEEN_SYN;
		else if (p->state == STATE_ESTABLISHED)
			flags |= SEEN_SPOKE;
		if (p->tcp_flags & TCP_FIN)
			flags |= SEEN_FIN;
		if (p->tcp_flags & TCP_RST)
			flags |= SEEN_RST;
	} else if (p->state == STATE_ESTABLISHED) {
		flags |= SEEN_SPOKE;
	}
	if (p->backend)
		flags |= SEEN_ONE_SIDED;
	return tag | (__u64)(flags | SEEN) << STATE_FLAGS | seen->now;
}

static __always_inline struct flow_totals *state_totals(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flow_totals, &zero);
}

/* The entry of a bucket that suits a new connection best. */
struct state_place {
	struct state_entry *entry; /* NULL: none does */
	int rank;                  /* its own, and more for every other that is free: of two buckets the emptier one is filled */
};

static __always_inline void state_best(struct state_bucket *bucket, __u32 now, struct state_place *place)
{
	int most = 0, free = 0, rank;

#pragma unroll
	for (int i = 0; i < STATE_ENTRIES; i++) {
		rank = state_rank(&bucket->entry[i], now);
		free += rank == STATE_FREE;
		if (rank > most) {
			most = rank;
			place->entry = &bucket->entry[i];
		}
	}
	place->rank = most == STATE_FREE ? most + free : most;
}

/* A place for a new connection: whoever gives way. Claimed for this CPU: nobody else finds or takes it until its words are written. */
static __always_inline struct state_entry *state_claim(const struct control *c, void *table, __u64 hash, __u32 now)
{
	struct state_bucket *first = state_bucket_of(c, table, hash, 0), *second = state_bucket_of(c, table, hash, 1);
	__u64 word, claim = (__u64)STATE_CLAIMED << STATE_FLAGS | now;
	struct flow_totals *totals = state_totals();
	struct state_place best = {}, other = {};

	if (!first || !second || !totals)
		return NULL;
	state_best(first, now, &best);
	state_best(second, now, &other);
	if (other.rank > best.rank)
		best = other;
	if (!best.entry) {
		totals->state_refused++;
		return NULL;
	}
	word = READ_ONCE(best.entry->way[0]);
	if (word >> STATE_FLAGS & STATE_CLAIMED || __sync_val_compare_and_swap(&best.entry->way[0], word, claim) != word) {
		totals->state_refused++; /* another CPU took it */
		return NULL;
	}
	__sync_lock_test_and_set(&best.entry->way[1], 0);
	totals->state_created++;
	if (best.rank < STATE_FREE)
		totals->state_evicted++;
	return best.entry;
}

static __always_inline void state_create(const struct control *c, void *table, const struct state_ends *ends, __u64 hash,
					 const struct state_seen *seen, __u64 word)
{
	struct state_entry *entry = state_claim(c, table, hash, seen->now);

	if (!entry)
		return;
	__builtin_memcpy(entry, ends, sizeof(*ends));
	barrier();
	if (seen->swapped)
		__sync_lock_test_and_set(&entry->way[1], word);
	__sync_lock_test_and_set(&entry->way[0], seen->swapped ? 0 : word);
}

/* A packet passed: its connection knows that from now on. */
__noinline int state_passed(const struct pkt *p)
{
	struct state_ends ends = {};
	struct state_seen seen = {};
	struct control *c;
	__u64 hash, word;
	__u32 zero = 0;
	bool forget;
	void *table;

	c = bpf_map_lookup_elem(&control, &zero);
	table = state_table();
	if (!p || !c || !table || (cfg_trace && c->state_frozen))
		return 0;
	if (p->state == STATE_NONE || p->state == STATE_INVALID || !ends_of(p, &ends))
		return 0;
	seen.swapped = put_in_order(&ends);
	hash = state_hash(c, &ends);
	state_find(c, table, &ends, hash, &seen);
	word = state_word(p, &seen, state_tag(hash));
	if (!seen.entry) {
		state_create(c, table, &ends, hash, &seen, word);
		return 0;
	}
	forget = seen.other && (!seen.other_flags || reopens(p, &seen));
	/* A word that says the same and is less than half a second old may stay: what is routed comes here twice. */
	if (!forget && seen.own >> STATE_FLAGS == word >> STATE_FLAGS && state_age(seen.own, seen.now) < STATE_TICKS / 2)
		return 0;
	/* What loses a race is the same news, or of a connection that is gone. */
	if (seen.swapped) {
		__sync_val_compare_and_swap(&seen.entry->way[1], seen.own, word);
		if (forget)
			__sync_val_compare_and_swap(&seen.entry->way[0], seen.other, 0);
	} else {
		__sync_val_compare_and_swap(&seen.entry->way[0], seen.own, word);
		if (forget)
			__sync_val_compare_and_swap(&seen.entry->way[1], seen.other, 0);
	}
	return 0;
}
