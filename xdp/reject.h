/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* action reject, and what is too big for its way: the frame turns into its own answer, a TCP reset or an ICMP error, and leaves the way
 * it came. */
#pragma once
#include "../bpf/csum.h"
#include "../bpf/hash.h"
#include "../bpf/parse.h"
#include "../bpf/verdict.h"
#include "answer.h"

enum {
	REJECT_TTL = 64,
	REJECT_DF = 0x4000,
	ICMP_BYTES = sizeof(struct icmp_header),
	ICMP6_UNREACHABLE = 1,
	ICMP6_TOO_BIG = 2,
	ICMP_FRAGMENTATION_NEEDED = 4, /* code of ICMP_UNREACHABLE */
	IPV6_MTU = 1280,               /* every way carries as much, RFC 8200 section 5 */
	ICMP_QUERIES = 1 << 0 | 1 << 8 | 0x3f << 13, /* types that are no errors; what nobody knows may be one */
	ICMP_LAST = 18,
	ICMP6_INFORMATIONAL = 128,
	ICMP6_REDIRECT = 137,
	/* An error is as long as every path carries, RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c). */
	QUOTE4 = 576 - sizeof(struct ipv4_header) - ICMP_BYTES,
	QUOTE6 = 1280 - sizeof(struct ipv6_header) - ICMP_BYTES,
	BOUND = 2047,
	ANSWER_BYTES = 48 + BOUND + 20 + 5, /* more than ever is in it, see bounded() */
	LINK_BYTES = sizeof(struct eth_header) + 2 * sizeof(struct vlan_header),
	SLACK = 1024, /* tc: beyond where any checksum starts that the sender left to its device */
	CSUM_BYTES = 512, /* as much as bpf_csum_diff() takes */
};

/* The answer is made here and then put into the frame. Programs only. */
struct answer {
	__u8 link[32];          /* Ethernet header and tags */
	__u8 ip[ANSWER_BYTES];  /* headers, then zeros or what is quoted */
};

/* Programs only. The answer that the CPU is writing. */
MAP(answers, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct answer, 1);

/* Codes of ICMP type 3 (RFC 792; RFC 1812, section 5.2.7.1) and ICMPv6 type 1 (RFC 4443, section 3.1). */
static const __u8 reject_codes[8][FAMILY_COUNT] = {
	[REJECT_DEFAULT] = {3, 4}, [REJECT_PORT] = {3, 4}, [REJECT_HOST] = {1, 3}, [REJECT_NET] = {0, 0}, [REJECT_ADMIN] = {13, 1},
};

static __always_inline __u32 sum_of(void *data, __u32 bytes, __u32 sum)
{
	return bpf_csum_diff(NULL, 0, data, bytes, sum);
}

/* A length as the verifier can follow it, also that of Linux 6.1: within these bounds whatever it is. It is anyway. */
static __always_inline __u64 bounded(__u64 bytes)
{
	asm volatile("" : "+r"(bytes)); /* clang knows that, too, and would leave the mask out */
	return ((bytes - sizeof(struct ipv4_header)) & BOUND) + sizeof(struct ipv4_header);
}

/* Whether one host could have sent this to one host (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)): else nobody, or many, would get
 * the answer, or many would send one. */
static __always_inline bool is_between_hosts(const struct pkt *p, const struct answer *answer)
{
	__u32 src = bpf_ntohl(((__be32 *)p->key.saddr)[3]), dst = bpf_ntohl(((__be32 *)p->key.daddr)[3]);

	if ((answer->link[0] | answer->link[6]) & 1) /* groups of Ethernet stations */
		return false;
	if (p->family == FAMILY_V4)
		return src >> 24 && src >> 24 != 127 && src >> 29 != 7 && dst >> 24 && dst >> 24 != 127 && dst >> 29 != 7;
	if (p->key.saddr[0] == 0xff || p->key.daddr[0] == 0xff)
		return false;
	/* :: and ::1 */
	return (addr_hi(p->key.saddr) || addr_lo(p->key.saddr) > 1) && (addr_hi(p->key.daddr) || addr_lo(p->key.daddr) > 1);
}

static __always_inline bool may_be_icmp_error(const struct pkt *p)
{
	if (!(p->has & HAS_ICMP))
		return false;
	if (p->family == FAMILY_V4)
		return p->icmp_type > ICMP_LAST || !(ICMP_QUERIES >> p->icmp_type & 1);
	return p->icmp_type < ICMP6_INFORMATIONAL || p->icmp_type == ICMP6_REDIRECT;
}

/* One answer less to give; false: none is left (a token bucket, kept as the time when all that was given is paid for). Who loses a
 * race for the same token gets none. */
static __always_inline bool spend(__u64 *time, __u64 now, __u64 cost, __u64 burst)
{
	__u64 paid = READ_ONCE(*time);

	if (paid > now + burst)
		return false;
	return __sync_val_compare_and_swap(time, paid, (paid > now ? paid : now) + cost) == paid;
}

/* RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f): for each source (IPv6: its /64) and for all. */
static __always_inline bool may_answer(struct control *c, const struct pkt *p)
{
	struct reject_limit *limit;
	__u64 now, hash, *source;
	__u32 key = 0;

	limit = bpf_map_lookup_elem(&reject_limit, &key);
	if (!limit || !limit->cost)
		return true;
	hash = mix(c->hash_key[1], addr_hi(p->key.saddr));
	if (p->family == FAMILY_V4)
		hash = mix(hash, addr_lo(p->key.saddr));
	key = (hash >> 32) % REJECT_SOURCES;
	source = bpf_map_lookup_elem(&reject_sources, &key);
	now = bpf_ktime_get_coarse_ns();
	return source && spend(source, now, limit->source_cost, limit->source_burst) && spend(&limit->time, now, limit->cost, limit->burst);
}

/* From the packet's destination to its source. */
static __always_inline void write_ip(struct answer *answer, const struct pkt *p, __u8 proto, __u32 bytes)
{
	struct ipv4_header *ip4 = (void *)answer->ip;
	struct ipv6_header *ip6 = (void *)answer->ip;

	if (p->family == FAMILY_V4) {
		ip4->version_ihl = 0x45;
		ip4->tos = 0;
		ip4->be_length = bpf_htons(bytes);
		ip4->be_id = 0; /* atomic datagram, RFC 6864 */
		ip4->be_fragment = bpf_htons(REJECT_DF);
		ip4->ttl = REJECT_TTL;
		ip4->proto = proto;
		ip4->csum = 0;
		ip4->saddr = ((__be32 *)p->key.daddr)[3];
		ip4->daddr = ((__be32 *)p->key.saddr)[3];
		ip4->csum = csum_fold(sum_of(ip4, sizeof(*ip4), 0));
	} else {
		ip6->be_flow = bpf_htonl(6u << 28);
		ip6->be_length = bpf_htons(bytes - sizeof(*ip6));
		ip6->next = proto;
		ip6->hop_limit = REJECT_TTL;
		__builtin_memcpy(ip6->saddr, p->key.daddr, 16);
		__builtin_memcpy(ip6->daddr, p->key.saddr, 16);
	}
}

/* RFC 9293 section 3.10.7.1: the reset has the sequence number that the other side waits for. Returns the bytes of IP; 0: a
 * segment that must not be answered. */
static __always_inline __u32 write_reset(ctx_t *ctx, const struct pkt *p, struct answer *answer)
{
	__u32 header = p->family == FAMILY_V4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
	struct tcp_header *tcp = ctx_at(ctx, p->l4), *reset = (void *)answer->ip + header;
	__u32 carried;

	if ((void *)(tcp + 1) > ctx_data_end(ctx) || tcp->flags & TCP_RST)
		return 0;
	carried = p->bundle_bytes - (p->l4 - p->l3) - (tcp->doff >> 4) * 4;
	carried += !!(tcp->flags & TCP_SYN) + !!(tcp->flags & TCP_FIN);
	reset->be_sport = tcp->be_dport;
	reset->be_dport = tcp->be_sport;
	reset->be_seq = tcp->flags & TCP_ACK ? tcp->be_ack : 0;
	reset->be_ack = tcp->flags & TCP_ACK ? 0 : bpf_htonl(bpf_ntohl(tcp->be_seq) + carried);
	reset->doff = sizeof(*reset) / 4 << 4;
	reset->flags = tcp->flags & TCP_ACK ? TCP_RST : TCP_RST | TCP_ACK;
	reset->be_window = 0;
	reset->csum = 0;
	reset->be_urgent = 0;
	write_ip(answer, p, PROTO_TCP, header + sizeof(*reset));
	if (p->family == FAMILY_V4) {
		carried = sum_of(answer->ip + offsetof(struct ipv4_header, saddr), 8, bpf_htonl(PROTO_TCP + sizeof(*reset)));
		reset->csum = csum_fold(sum_of(answer->ip + sizeof(struct ipv4_header), sizeof(*reset), carried));
	} else {
		carried = sum_of(answer->ip + offsetof(struct ipv6_header, saddr), 32, bpf_htonl(PROTO_TCP + sizeof(*reset)));
		reset->csum = csum_fold(sum_of(answer->ip + sizeof(struct ipv6_header), sizeof(*reset), carried));
	}
	return header + sizeof(*reset);
}

/* Copy the head of the packet behind the headers to be. False cannot be. */
static __always_inline bool quote(ctx_t *ctx, const struct pkt *p, void *to, __u64 bytes)
{
#ifdef HOOK_XDP
	return !bpf_xdp_load_bytes(ctx, p->l3, to, bounded(bytes));
#else
	return !bpf_skb_load_bytes(ctx, p->l3, to, bounded(bytes));
#endif
}

/* A bundle's headers say how long the bundle is; what is quoted is its first segment. */
static __always_inline void quote_segment(const struct pkt *p, void *quoted)
{
	struct ipv4_header *ip4 = quoted;
	struct ipv6_header *ip6 = quoted;

	if (p->length == p->bundle_bytes)
		return;
	if (p->family == FAMILY_V4) {
		ip4->csum = csum_replace(ip4->csum, ip4->be_length, bpf_htons(p->length));
		ip4->be_length = bpf_htons(p->length);
	} else {
		ip6->be_length = bpf_htons(p->length - sizeof(*ip6));
	}
}

/* What an error says besides what it quotes. */
struct icmp_error {
	__u8 type, code;
	__be16 be_mtu; /* 0: nothing of it */
};

static __always_inline __u32 write_error4(ctx_t *ctx, const struct pkt *p, struct answer *answer, struct icmp_error error)
{
	__u64 bytes = p->length < QUOTE4 ? p->length : QUOTE4;
	struct icmp_header *icmp = (void *)answer->ip + sizeof(struct ipv4_header);
	__u32 sum;

	__builtin_memset(icmp, 0, ICMP_BYTES + QUOTE4);
	if (!quote(ctx, p, icmp + 1, bytes))
		return 0;
	quote_segment(p, icmp + 1);
	icmp->type = error.type;
	icmp->code = error.code;
	icmp->be_sequence = error.be_mtu;
	sum = sum_of(icmp, CSUM_BYTES, 0);
	icmp->csum = csum_fold(sum_of((void *)icmp + CSUM_BYTES, ICMP_BYTES + QUOTE4 - CSUM_BYTES, sum));
	bytes += sizeof(struct ipv4_header) + ICMP_BYTES;
	write_ip(answer, p, PROTO_ICMP, bytes);
	return bytes;
}

static __always_inline __u32 write_error6(ctx_t *ctx, const struct pkt *p, struct answer *answer, struct icmp_error error)
{
	__u64 bytes = p->length < QUOTE6 ? p->length : QUOTE6;
	struct icmp_header *icmp = (void *)answer->ip + sizeof(struct ipv6_header);
	__u32 sum;

	__builtin_memset(icmp, 0, ICMP_BYTES + QUOTE6 / 2);
	barrier(); /* or clang makes one of the two, which is too large for it */
	__builtin_memset((void *)icmp + ICMP_BYTES + QUOTE6 / 2, 0, QUOTE6 / 2);
	if (!quote(ctx, p, icmp + 1, bytes))
		return 0;
	quote_segment(p, icmp + 1);
	icmp->type = error.type;
	icmp->code = error.code;
	icmp->be_sequence = error.be_mtu;
	bytes += ICMP_BYTES;
	write_ip(answer, p, PROTO_ICMPV6, sizeof(struct ipv6_header) + bytes);
	sum = sum_of(answer->ip + offsetof(struct ipv6_header, saddr), 32, bpf_htonl(PROTO_ICMPV6 + bytes));
	sum = sum_of(icmp, CSUM_BYTES, sum);
	sum = sum_of((void *)icmp + CSUM_BYTES, CSUM_BYTES, sum);
	icmp->csum = csum_fold(sum_of((void *)icmp + 2 * CSUM_BYTES, ICMP_BYTES + QUOTE6 - 2 * CSUM_BYTES, sum));
	return sizeof(struct ipv6_header) + bytes;
}

#ifdef HOOK_XDP
static __always_inline bool read_link(ctx_t *ctx, struct answer *answer) { return !bpf_xdp_load_bytes(ctx, 0, answer->link, LINK_BYTES); }
static __always_inline long store(ctx_t *ctx, __u32 at, void *from, __u64 bytes) { return bpf_xdp_store_bytes(ctx, at, from, bytes); }

/* Make room for the answer, of so many bytes. */
static __always_inline bool resize(ctx_t *ctx, const struct pkt *p, __u32 bytes)
{
	int more = bytes - ctx_length(ctx);

	if (more > 0)
		return !bpf_xdp_adjust_head(ctx, -more);
	return !more || !bpf_xdp_adjust_tail(ctx, more);
}
#else
static __always_inline bool read_link(ctx_t *ctx, struct answer *answer) { return !bpf_skb_load_bytes(ctx, 0, answer->link, LINK_BYTES); }
static __always_inline long store(ctx_t *ctx, __u32 at, void *from, __u64 bytes)
{
	return bpf_skb_store_bytes(ctx, at, from, bytes, BPF_F_RECOMPUTE_CSUM);
}

/* Likewise. Beware of a checksum that the sender left to its device: it would be put into the answer where that of the packet was.
 * The kernel forgets about it when that part of the frame is cut off, so it is: the tail is made longer (which also makes a packet of
 * a bundle) and what is too much is taken out behind the Ethernet header. Only from a frame without tags, though: those in it come back
 * as bytes, and the one that the kernel keeps beside the frame as that. */
static __always_inline bool resize(ctx_t *ctx, const struct pkt *p, __u32 bytes)
{
	if (p->tags && ctx->vlan_present && bpf_skb_vlan_pop(ctx))
		return false;
	for (int i = 0; i < 2 && i < p->tags; i++)
		if (bpf_skb_vlan_pop(ctx))
			return false;
	return !bpf_skb_change_tail(ctx, bytes + SLACK, 0) && !bpf_skb_adjust_room(ctx, -SLACK, BPF_ADJ_ROOM_MAC, 0);
}
#endif

/* Make the frame the answer, of so many bytes of IP. */
static __always_inline bool become(ctx_t *ctx, const struct pkt *p, struct answer *answer, __u32 bytes)
{
	long refused;
#ifdef HOOK_TC
	__u32 tagged = ctx->vlan_present, proto = ctx->vlan_proto, tci = ctx->vlan_tci;
#endif

	if (!resize(ctx, p, p->l3 + bytes))
		return false;
	if (!p->tags)
		refused = store(ctx, 0, answer->link, sizeof(struct eth_header));
	else if (p->tags == 1)
		refused = store(ctx, 0, answer->link, sizeof(struct eth_header) + sizeof(struct vlan_header));
	else
		refused = store(ctx, 0, answer->link, LINK_BYTES);
	if (refused || store(ctx, p->l3, answer->ip, bounded(bytes)))
		return false;
#ifdef HOOK_TC
	if (p->tags && tagged && bpf_skb_vlan_push(ctx, proto, tci))
		return false;
#endif
	return true;
}

static __always_inline void turn_link(struct answer *answer)
{
	__u8 mac[6];

	__builtin_memcpy(mac, answer->link, 6);
	__builtin_memcpy(answer->link, answer->link + 6, 6);
	__builtin_memcpy(answer->link + 6, mac, 6);
}

/* Answer a packet that a rule rejects. What must not be answered is dropped, and what is over the limit. (Global functions are verified
 * once, each on its own: see parse_any().) */
__noinline int reject(ctx_t *ctx, struct pkt *p)
{
	struct answer *answer;
	struct control *c;
	struct icmp_error error = {};
	__u32 zero = 0, bytes;
	bool reset;

	answer = bpf_map_lookup_elem(&answers, &zero);
	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || !answer)
		return REASON_REJECT_FAILED;
	reset = p->reject == REJECT_TCP_RESET || (p->reject == REJECT_DEFAULT && p->key.proto == PROTO_TCP);
	if (p->has & IS_LATER || (reset ? p->key.proto != PROTO_TCP || p->tcp_flags & TCP_RST : may_be_icmp_error(p)))
		return REASON_REJECT_SILENT;
	if (!read_link(ctx, answer))
		return REASON_REJECT_FAILED;
	if (!is_between_hosts(p, answer))
		return REASON_REJECT_SILENT;
	if (!may_answer(c, p))
		return REASON_REJECT_LIMITED;
	turn_link(answer);
	error.type = p->family == FAMILY_V4 ? ICMP_UNREACHABLE : ICMP6_UNREACHABLE;
	error.code = reject_codes[p->reject & 7][p->family & 1];
	if (reset)
		bytes = write_reset(ctx, p, answer);
	else if (p->family == FAMILY_V4)
		bytes = write_error4(ctx, p, answer, error);
	else
		bytes = write_error6(ctx, p, answer, error);
	if (!bytes || !become(ctx, p, answer, bytes))
		return REASON_REJECT_FAILED;
	return reply(ctx, p, REASON_RULE_REJECT);
}

/* Tell who sent a packet that is too big for the way on how much fits: p->room. Also without DF: gardu doesn't fragment, but
 * who is told will. (Likewise.) */
__noinline int too_big(ctx_t *ctx, struct pkt *p)
{
	enum reason told = REASON_TOO_BIG_TOLD;
	struct icmp_error error = {};
	struct ipv4_header *ip;
	struct answer *answer;
	struct control *c;
	__u32 zero = 0, bytes;

	answer = bpf_map_lookup_elem(&answers, &zero);
	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || !answer)
		return REASON_TOO_BIG;
	if (p->has & IS_LATER || may_be_icmp_error(p) || (p->family == FAMILY_V6 && p->length <= IPV6_MTU))
		return REASON_TOO_BIG;
	if (!read_link(ctx, answer) || !is_between_hosts(p, answer) || !may_answer(c, p))
		return REASON_TOO_BIG;
	turn_link(answer);
	if (p->family == FAMILY_V4) {
		ip = ctx_at(ctx, p->l3);
		if ((void *)(ip + 1) <= ctx_data_end(ctx) && !(ip->be_fragment & bpf_htons(REJECT_DF)))
			told = REASON_CANNOT_FRAGMENT;
		error.type = ICMP_UNREACHABLE;
		error.code = ICMP_FRAGMENTATION_NEEDED;
		error.be_mtu = bpf_htons(p->room);
		bytes = write_error4(ctx, p, answer, error);
	} else {
		error.type = ICMP6_TOO_BIG;
		error.be_mtu = bpf_htons(p->room > IPV6_MTU ? p->room : IPV6_MTU);
		bytes = write_error6(ctx, p, answer, error);
	}
	if (!bytes || !become(ctx, p, answer, bytes))
		return REASON_TOO_BIG;
	return reply(ctx, p, told);
}
