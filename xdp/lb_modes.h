/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* One function a forwarding mode: change the frame for its way to the backend and send it. */
#pragma once
#include "../bpf/csum.h"
#include "../bpf/hash.h"
#include "../bpf/parse.h"
#include "../bpf/verdict.h"
#include "nat_errors.h"

enum { OUTER_TTL = 64, IPV4_DF = 0x4000, FAMILY_INET = 2, FAMILY_INET6 = 10 };

/* Where a packet goes next: a copy of a backend's entry that is known to be whole. */
struct hop {
	__u8 address[16], source[16];
	__u8 macs[12]; /* destination and source */
	__u32 ifindex;
	__u16 mtu, vlan;
	__u8 mode, family;
} __attribute__((aligned(8)));

/* The flow's hash, with no secret in it: two boxes with the same configuration make the same of it. */
static __always_inline __u64 flow_mix(const struct pkt *p)
{
	__u64 h = mix(mix(MIX_SEED, addr_hi(p->key.saddr)), addr_lo(p->key.saddr));

	h = mix(mix(h, addr_hi(p->key.daddr)), addr_lo(p->key.daddr));
	return mix(h, (__u64)bpf_ntohs(p->key.be_sport) << 32 | (__u32)bpf_ntohs(p->key.be_dport) << 16 | p->key.proto);
}

static __always_inline void write_link(struct eth_header *eth, const struct hop *hop, __u16 type)
{
	copy_macs(eth, hop->macs);
	eth->be_type = bpf_htons(type);
}

/* Take the VLAN tags off and make `outer` bytes of room behind the Ethernet header, whose bytes are then undefined on XDP. */
static __always_inline bool make_room(ctx_t *ctx, const struct pkt *p, __u32 outer, __u8 outer_family, bool udp)
{
#ifdef HOOK_XDP
	int delta = p->tags * (int)sizeof(struct vlan_header) - (int)outer;

	return !delta || !bpf_xdp_adjust_head(ctx, delta);
#else
	__u64 flags = outer_family == FAMILY_V4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;

	if (udp)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (ctx->vlan_present && bpf_skb_vlan_pop(ctx))
		return false;
	for (int i = 0; i < 2 && i < p->tags; i++)
		if (bpf_skb_vlan_pop(ctx))
			return false;
	/* The kernel keeps cutting a bundle into the segments that its sender chose. */
	return !outer || !bpf_skb_adjust_room(ctx, outer, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO);
#endif
}

/* Put a tag before what the frame carries. The kernel keeps it beside the frame at tc, where its segmentation expects it; explain is to
 * see it in the frame. */
static __noinline bool push_tag(ctx_t *ctx, __u16 vlan)
{
	struct eth_header *eth;
	struct vlan_header *tag;
	__u64 macs;
	__u32 rest;

#ifdef HOOK_XDP
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*tag)))
		return false;
#else
	if (!cfg_trace)
		return !bpf_skb_vlan_push(ctx, bpf_htons(ETHERTYPE_VLAN), vlan);
	if (bpf_skb_change_head(ctx, sizeof(*tag), 0))
		return false;
#endif
	eth = ctx_data(ctx);
	tag = (void *)(eth + 1);
	if ((void *)(tag + 1) > ctx_data_end(ctx))
		return false;
	macs = *(__u64 *)((void *)eth + sizeof(*tag));
	rest = *(__u32 *)((void *)eth + sizeof(*tag) + 8);
	*(__u64 *)eth = macs;
	*(__u32 *)((void *)eth + 8) = rest;
	eth->be_type = bpf_htons(ETHERTYPE_VLAN);
	tag->be_tci = bpf_htons(vlan); /* its type is where that of the frame was */
	return true;
}

static __always_inline enum reason send(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	if (hop->vlan && !push_tag(ctx, hop->vlan))
		return REASON_ENCAP_FAILED;
	p->out_ifindex = hop->ifindex;
	p->action = ctx_send(ctx, hop->ifindex);
	return REASON_FORWARD;
}

/* False: what the packet may be at most is in p->room. */
static __always_inline bool fits(struct pkt *p, const struct hop *hop, __u32 outer)
{
	if (!hop->mtu || p->length + outer <= hop->mtu)
		return true;
	p->room = hop->mtu > outer ? hop->mtu - outer : 0;
	return false;
}

static __always_inline enum reason forward_dsr(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	struct eth_header *eth;

	if (!fits(p, hop, 0))
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, 0, 0, false))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, p->family == FAMILY_V4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
	return send(ctx, p, hop);
}

/* What a packet's bytes add up to, without reading them: its own checksums tell, as in the kernel's local checksum offload
 * (Documentation/networking/checksum-offloads.rst). If one of them is wrong, what is made from this is wrong too, and the receiver
 * drops the packet either way. 0: they don't tell. */
static __always_inline __u16 inner_sum(ctx_t *ctx, const struct pkt *p)
{
	__u32 header = p->l4 - p->l3, bytes = p->length - header, sum;
	struct udp_header *udp = ctx_at(ctx, p->l4);
	struct ipv6_header *ip = ctx_at(ctx, p->l3);
	const __u16 *saddr = (__u16 *)p->key.saddr, *daddr = (__u16 *)p->key.daddr;

	if (p->segments > 1 || p->has & IS_FRAGMENT || !(p->has & HAS_PORTS))
		return 0; /* the kernel cuts bundles without a sum around them */
	if (p->key.proto == PROTO_UDP) {
		if ((void *)(udp + 1) > ctx_data_end(ctx) || !udp->csum || udp->be_length != bpf_htons(bytes))
			return 0;
	} else if (p->key.proto != PROTO_TCP) {
		return 0;
	}
	sum = bpf_htons(p->key.proto) + bpf_htons(bytes);
	if (p->family == FAMILY_V4) /* the header adds up to nothing, and what follows to the complement of its pseudo header */
		return csum_fold(sum + saddr[6] + saddr[7] + daddr[6] + daddr[7]);
	if (header != sizeof(*ip) || (void *)(ip + 1) > ctx_data_end(ctx))
		return 0;
	/* the addresses are in the header and in the pseudo header, and cancel out */
	sum = csum_fold(sum);
	sum += (ip->be_flow & 0xffff) + (ip->be_flow >> 16) + ip->be_length + bpf_htons(ip->next << 8 | ip->hop_limit);
	return ~csum_fold(sum);
}

/* Generic UDP encapsulation, variant 1: the IP packet follows the UDP header (draft-ietf-intarea-gue-09, section 6). */
struct gue {
	__be16 be_sport;
	__u16 sum; /* inner_sum() of the packet inside */
};

/* The flow picks the source port, of the dynamic ones (RFC 8085, section 5.1.1), so that receivers spread flows over their queues. */
static __always_inline struct gue gue_of(ctx_t *ctx, const struct pkt *p)
{
	return (struct gue){bpf_htons(0xc000 | flow_mix(p) >> 50), inner_sum(ctx, p)};
}

/* `addresses` is the sum of the outer ones. Without a sum of the inner packet the checksum is 0, none: RFC 768, and RFC 6935 for IPv6. */
static __always_inline void write_udp(struct udp_header *udp, const struct gue *gue, __u16 bytes, __u32 addresses)
{
	__u16 csum;

	udp->be_sport = gue->be_sport;
	udp->be_dport = bpf_htons(GUE_PORT);
	udp->be_length = bpf_htons(bytes);
	csum = csum_fold(addresses + bpf_htons(PROTO_UDP) + 2 * bpf_htons(bytes) + gue->be_sport + bpf_htons(GUE_PORT) + gue->sum);
	udp->csum = !gue->sum ? 0 : csum ? csum : 0xffff;
}

/* IPv4 around it (RFC 2003; RFC 4213 for IPv6 inside), and UDP if gue. TOS as RFC 6040, section 4.1, normal mode: copied, ECN
 * included. */
static __always_inline enum reason wrap_ipv4(ctx_t *ctx, struct pkt *p, const struct hop *hop, const struct gue *gue)
{
	__be32 saddr = ((__be32 *)hop->source)[3], daddr = ((__be32 *)hop->address)[3];
	__u8 proto = gue ? PROTO_UDP : p->family == FAMILY_V4 ? PROTO_IPIP : PROTO_IPV6;
	__u32 outer = sizeof(struct ipv4_header) + (gue ? sizeof(struct udp_header) : 0), sum;
	struct ipv4_header *ip;
	struct eth_header *eth;

	if (!fits(p, hop, outer))
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, outer, FAMILY_V4, gue))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	ip = (void *)(eth + 1);
	if ((void *)ip + outer > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, ETHERTYPE_IPV4);
	ip->version_ihl = 0x45;
	ip->tos = p->tos;
	ip->be_length = bpf_htons(p->bundle_bytes + outer);
	ip->be_id = 0; /* atomic datagram, RFC 6864 */
	ip->be_fragment = bpf_htons(IPV4_DF);
	ip->ttl = OUTER_TTL;
	ip->proto = proto;
	ip->saddr = saddr;
	ip->daddr = daddr;
	/* of the values, not of the bytes just written, which the processor would have to wait for */
	sum = (saddr & 0xffff) + (saddr >> 16) + (daddr & 0xffff) + (daddr >> 16);
	if (gue)
		write_udp((void *)(ip + 1), gue, p->bundle_bytes + sizeof(struct udp_header), sum);
	sum += bpf_htons(0x4500 | p->tos) + ip->be_length + bpf_htons(IPV4_DF) + bpf_htons(OUTER_TTL << 8 | proto);
	ip->csum = csum_fold(sum);
	return send(ctx, p, hop);
}

/* IPv6 around it (RFC 2473), and UDP if gue. */
static __always_inline enum reason wrap_ipv6(ctx_t *ctx, struct pkt *p, const struct hop *hop, const struct gue *gue)
{
	__u32 outer = sizeof(struct ipv6_header) + (gue ? sizeof(struct udp_header) : 0), sum = 0;
	struct ipv6_header *ip;
	struct eth_header *eth;

	if (!fits(p, hop, outer))
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, outer, FAMILY_V6, gue))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	ip = (void *)(eth + 1);
	if ((void *)ip + outer > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, ETHERTYPE_IPV6);
	ip->be_flow = bpf_htonl(6u << 28 | (__u32)p->tos << 20);
	ip->be_length = bpf_htons(p->bundle_bytes + outer - sizeof(*ip));
	ip->next = gue ? PROTO_UDP : p->family == FAMILY_V4 ? PROTO_IPIP : PROTO_IPV6;
	ip->hop_limit = OUTER_TTL;
	copy_address(ip->saddr, hop->source);
	copy_address(ip->daddr, hop->address);
	if (gue) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			sum += ((__u16 *)hop->source)[i] + ((__u16 *)hop->address)[i];
		write_udp((void *)(ip + 1), gue, p->bundle_bytes + sizeof(struct udp_header), sum);
	}
	return send(ctx, p, hop);
}

static __always_inline enum reason forward_ipip(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	return hop->family == FAMILY_V4 ? wrap_ipv4(ctx, p, hop, NULL) : wrap_ipv6(ctx, p, hop, NULL);
}

static __always_inline enum reason forward_gue(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	struct gue gue = gue_of(ctx, p);

	return hop->family == FAMILY_V4 ? wrap_ipv4(ctx, p, hop, &gue) : wrap_ipv6(ctx, p, hop, &gue);
}

/* Other ends for the packet: from an address and port of gardu's to the backend. REASON_NAT_NEW: it can be sent, and is to come again when
 * there is a translation (which isn't made here, for the stack's sake). */
static __always_inline enum reason forward_nat(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	struct nat_now *now = nat_now();
	struct eth_header *eth = ctx_data(ctx);


	if (!cfg_nat || !now || !(p->translated || nat_can(p)))
		return REASON_NO_BACKEND;
	if (!fits(p, hop, 0))
		return REASON_TOO_BIG;
	if (p->ttl <= 1)
		return REASON_TTL_EXCEEDED;
	if (p->translated == NAT_ERROR_TO_BACKEND)
		return REASON_NAT_ERROR;
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	if (!now->live) {
		__builtin_memcpy(now->macs, eth->src, 6);
		__builtin_memcpy(now->macs + 6, eth->dst, 6);
		now->ifindex = ctx_ifindex(ctx);
		now->vlan = p->tags < 2 ? p->key.tag & FLOW_VLAN_MASK : 0;
		copy_address(now->pool, hop->source);
		return REASON_NAT_NEW;
	}
	if (!p->translated)
		nat_heard(now, p, false);
	if (p->translated != NAT_ERROR_WRITTEN &&
	    !nat_rewrite(ctx, p, now->pool, now->address, nat_ports(now->be_pool_port, now->be_port)))
		return REASON_ENCAP_FAILED;
	if (!make_room(ctx, p, 0, 0, false))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, p->family == FAMILY_V4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
	return send(ctx, p, hop);
}

/* The way to the client: the kernel's route and neighbour, or else back to where the client's first frame came from. So also when that had a
 * VLAN tag: the kernel would name the VLAN's own interface, which takes no frames from XDP. REASON_TOO_BIG: what fits is in p->room. */
static __always_inline enum reason way_back(ctx_t *ctx, struct pkt *p, const struct nat_now *now, struct hop *hop)
{
	struct bpf_fib_lookup fib = {.ifindex = ctx_ifindex(ctx), .tot_len = p->length};
	long found;

	if (now->vlan) {
		copy_macs(hop->macs, now->macs);
		hop->ifindex = now->ifindex;
		hop->vlan = now->vlan;
		return REASON_NONE;
	}
	if (p->family == FAMILY_V4) {
		fib.family = FAMILY_INET;
		fib.ipv4_src = ((__be32 *)now->client.saddr)[3];
		fib.ipv4_dst = ((__be32 *)now->client.daddr)[3];
	} else {
		fib.family = FAMILY_INET6;
		__builtin_memcpy(fib.ipv6_src, now->client.saddr, 16);
		__builtin_memcpy(fib.ipv6_dst, now->client.daddr, 16);
	}
	found = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		p->room = fib.mtu_result;
		return REASON_TOO_BIG;
	}
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		__builtin_memcpy(hop->macs, fib.dmac, 6);
		__builtin_memcpy(hop->macs + 6, fib.smac, 6);
		hop->ifindex = fib.ifindex;
	} else {
		copy_macs(hop->macs, now->macs);
		hop->ifindex = now->ifindex;
	}
	return hop->ifindex ? REASON_NONE : REASON_NO_NEXT_HOP;
}

/* A backend's answer, or an error about what it was sent, goes to the client, from the service. */
__noinline int answer_nat(ctx_t *ctx, struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct hop hop = {};
	struct eth_header *eth;
	enum reason reason;
	__u32 ports;

	if (!p || !now)
		return REASON_NO_BACKEND;
	if (p->ttl <= 1)
		return REASON_TTL_EXCEEDED;
	reason = way_back(ctx, p, now, &hop);
	if (p->translated != NAT_ERROR_WRITTEN) /* told already */
		trace_step(STEP_NEXT_HOP, !reason, hop.ifindex);
	if (reason)
		return reason;
	if (p->translated == NAT_ERROR_TO_CLIENT)
		return REASON_NAT_ERROR;
	if (p->translated == NAT_ANSWER) {
		nat_heard(now, p, true);
		ports = nat_ports(now->client.be_sport, now->client.be_dport);
		if (!nat_rewrite(ctx, p, now->client.saddr, now->client.daddr, ports))
			return REASON_ENCAP_FAILED;
	}
	if (!make_room(ctx, p, 0, 0, false))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, &hop, p->family == FAMILY_V4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
	reason = send(ctx, p, &hop);
	return reason == REASON_FORWARD ? REASON_NAT_REPLY : reason;
}

static __always_inline enum reason forward(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	switch (hop->mode) {
#define MODE_CASE(name, text, help) \
	case MODE_##name:           \
		return forward_##text(ctx, p, hop);
		MODES(MODE_CASE)
#undef MODE_CASE
	default:
		return REASON_NO_BACKEND;
	}
}
