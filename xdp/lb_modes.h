/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* One function a forwarding mode: change the frame for its way to the backend and send it. */
#pragma once
#include "../bpf/csum.h"
#include "../bpf/parse.h"
#include "../bpf/verdict.h"

enum { OUTER_TTL = 64, IPV4_DF = 0x4000 };

/* Where a packet goes next: a copy of a backend's entry that is known to be whole. */
struct hop {
	__u8 address[16], source[16];
	__u8 macs[12]; /* destination and source */
	__u32 ifindex;
	__u16 mtu;
	__u8 mode, family;
} __attribute__((aligned(8)));

/* By words: clang copies byte by byte what it takes for bytes. */
static __always_inline void copy_macs(void *to, const void *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u32 *)(to + 8) = *(const __u32 *)(from + 8);
}

static __always_inline void copy_address(void *to, const void *from)
{
	((__u64 *)to)[0] = ((const __u64 *)from)[0];
	((__u64 *)to)[1] = ((const __u64 *)from)[1];
}

static __always_inline void write_link(struct eth_header *eth, const struct hop *hop, __u16 type)
{
	copy_macs(eth, hop->macs);
	eth->be_type = bpf_htons(type);
}

/* Take the VLAN tags off and make `outer` bytes of room behind the Ethernet header, whose bytes are then undefined on XDP. */
static __always_inline bool make_room(ctx_t *ctx, const struct pkt *p, __u32 outer, __u8 outer_family)
{
#ifdef HOOK_XDP
	int delta = p->tags * (int)sizeof(struct vlan_header) - (int)outer;

	return !delta || !bpf_xdp_adjust_head(ctx, delta);
#else
	__u64 flags = outer_family == FAMILY_V4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;

	if (ctx->vlan_present && bpf_skb_vlan_pop(ctx))
		return false;
	for (int i = 0; i < 2 && i < p->tags; i++)
		if (bpf_skb_vlan_pop(ctx))
			return false;
	/* The kernel keeps cutting a bundle into the segments that its sender chose. */
	return !outer || !bpf_skb_adjust_room(ctx, outer, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO);
#endif
}

static __always_inline enum reason send(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	p->out_ifindex = hop->ifindex;
	p->action = ctx_send(ctx, hop->ifindex);
	return REASON_FORWARD;
}

static __always_inline enum reason forward_dsr(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	struct eth_header *eth;

	if (hop->mtu && p->length > hop->mtu)
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, 0, 0))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, p->family == FAMILY_V4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
	return send(ctx, p, hop);
}

/* IPv4 around it (RFC 2003; RFC 4213 for IPv6 inside). TOS as RFC 6040, section 4.1, normal mode: copied, ECN included. */
static __always_inline enum reason wrap_ipv4(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	__be32 saddr = ((__be32 *)hop->source)[3], daddr = ((__be32 *)hop->address)[3];
	__u8 proto = p->family == FAMILY_V4 ? PROTO_IPIP : PROTO_IPV6;
	struct ipv4_header *ip;
	struct eth_header *eth;
	__u32 sum;

	if (hop->mtu && p->length + sizeof(*ip) > hop->mtu)
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, sizeof(*ip), FAMILY_V4))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, ETHERTYPE_IPV4);
	ip->version_ihl = 0x45;
	ip->tos = p->tos;
	ip->be_length = bpf_htons(p->bundle_bytes + sizeof(*ip));
	ip->be_id = 0; /* atomic datagram, RFC 6864 */
	ip->be_fragment = bpf_htons(IPV4_DF);
	ip->ttl = OUTER_TTL;
	ip->proto = proto;
	ip->saddr = saddr;
	ip->daddr = daddr;
	/* of the values, not of the bytes just written, which the processor would have to wait for */
	sum = bpf_htons(0x4500 | p->tos) + ip->be_length + bpf_htons(IPV4_DF) + bpf_htons(OUTER_TTL << 8 | proto);
	sum += (saddr & 0xffff) + (saddr >> 16) + (daddr & 0xffff) + (daddr >> 16);
	ip->csum = csum_fold(sum);
	return send(ctx, p, hop);
}

/* IPv6 around it (RFC 2473). */
static __always_inline enum reason wrap_ipv6(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	struct ipv6_header *ip;
	struct eth_header *eth;

	if (hop->mtu && p->length + sizeof(*ip) > hop->mtu)
		return REASON_TOO_BIG;
	if (!make_room(ctx, p, sizeof(*ip), FAMILY_V6))
		return REASON_ENCAP_FAILED;
	eth = ctx_data(ctx);
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > ctx_data_end(ctx))
		return REASON_ENCAP_FAILED;
	write_link(eth, hop, ETHERTYPE_IPV6);
	ip->be_flow = bpf_htonl(6u << 28 | (__u32)p->tos << 20);
	ip->be_length = bpf_htons(p->bundle_bytes);
	ip->next = p->family == FAMILY_V4 ? PROTO_IPIP : PROTO_IPV6;
	ip->hop_limit = OUTER_TTL;
	copy_address(ip->saddr, hop->source);
	copy_address(ip->daddr, hop->address);
	return send(ctx, p, hop);
}

static __always_inline enum reason forward_ipip(ctx_t *ctx, struct pkt *p, const struct hop *hop)
{
	return hop->family == FAMILY_V4 ? wrap_ipv4(ctx, p, hop) : wrap_ipv6(ctx, p, hop);
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
