/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What the data plane answers itself for a service address, daemon or not: ARP, neighbour solicitations, ping. */
#pragma once
#include "../bpf/csum.h"
#include "../bpf/parse.h"
#include "../bpf/verdict.h"

enum {
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	ND_OPTION_SOURCE = 1, /* link-layer address options, RFC 4861 section 4.6.1 */
	ND_OPTION_TARGET = 2,
	ND_HOP_LIMIT = 255,
	ECHO_TTL = 64,
};

struct arp_header {
	__be16 be_hardware, be_protocol;
	__u8 hardware_bytes, protocol_bytes;
	__be16 be_operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

/* RFC 4861, sections 4.3 and 4.4: the solicitation and the advertisement have the same shape. */
struct nd_message {
	__u8 type, code;
	__u16 csum;
	__be32 be_flags;
	__u8 target[16];
};

struct nd_option {
	__u8 type, length; /* in units of 8 bytes */
	__u8 mac[6];
};

static __always_inline struct interface *interface_of(ctx_t *ctx)
{
	__u32 key = ctx_ifindex(ctx);

	return bpf_map_lookup_elem(&interfaces, &key);
}

/* Send the frame back to where it came from. */
static __always_inline enum reason reply(ctx_t *ctx, struct pkt *p, enum reason reason)
{
	p->out_ifindex = ctx_ifindex(ctx);
	p->action = ctx_send(ctx, p->out_ifindex);
	return reason;
}

/* A request that wants an answer; `target` gets the address asked for, v4 mapped. */
static __always_inline bool arp_asked(ctx_t *ctx, const struct pkt *p, __u8 *target)
{
	struct arp_header *arp = ctx_at(ctx, p->l3);
	__u32 sender, asked;

	if ((void *)(arp + 1) > ctx_data_end(ctx))
		return false;
	if (arp->be_hardware != bpf_htons(1) || arp->be_protocol != bpf_htons(ETHERTYPE_IPV4) || arp->hardware_bytes != 6 ||
	    arp->protocol_bytes != 4 || arp->be_operation != bpf_htons(ARP_REQUEST))
		return false;
	__builtin_memcpy(&sender, arp->sender, 4);
	__builtin_memcpy(&asked, arp->target, 4);
	((__u32 *)target)[2] = bpf_htonl(0xffff);
	((__u32 *)target)[3] = asked;
	return sender && sender != asked; /* neither a probe nor an announcement (RFC 5227) */
}

static __always_inline enum reason answer_arp(ctx_t *ctx, struct pkt *p)
{
	struct interface *interface = interface_of(ctx);
	struct eth_header *eth = ctx_data(ctx);
	struct arp_header *arp = ctx_at(ctx, p->l3);
	__u8 asked[4];

	if (!interface || (void *)(eth + 1) > ctx_data_end(ctx) || (void *)(arp + 1) > ctx_data_end(ctx))
		return REASON_NOT_IP;
	__builtin_memcpy(eth->dst, arp->sender_mac, 6);
	__builtin_memcpy(eth->src, interface->mac, 6);
	__builtin_memcpy(asked, arp->target, 4);
	arp->be_operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target, arp->sender, 4);
	__builtin_memcpy(arp->sender_mac, interface->mac, 6);
	__builtin_memcpy(arp->sender, asked, 4);
	return reply(ctx, p, REASON_ARP_REPLY);
}

static __always_inline bool is_solicitation(const struct pkt *p)
{
	return p->family == FAMILY_V6 && (p->has & (HAS_ICMP | IS_FRAGMENT)) == HAS_ICMP && p->icmp_type == ICMP6_SOLICIT;
}

/* A solicitation that we can answer in place: valid (RFC 4861, section 7.1.1), not from duplicate address detection, with
 * its sender's link-layer address as the only option, or with none when it was sent to one receiver. */
static __always_inline bool solicited(ctx_t *ctx, const struct pkt *p, __u8 *target)
{
	struct nd_message *nd = ctx_at(ctx, p->l4);
	struct nd_option *option = (void *)(nd + 1);
	__u32 bytes = p->length - (p->l4 - p->l3);

	if ((void *)(nd + 1) > ctx_data_end(ctx) || p->l4 != p->l3 + sizeof(struct ipv6_header))
		return false;
	if (p->ttl != ND_HOP_LIMIT || nd->code || !(addr64(p->key.saddr)[0] | addr64(p->key.saddr)[1]))
		return false;
	__builtin_memcpy(target, nd->target, 16);
	if (bytes == sizeof(*nd))
		return p->key.daddr[0] != 0xff;
	if (bytes != sizeof(*nd) + sizeof(*option) || (void *)(option + 1) > ctx_data_end(ctx))
		return false;
	return option->type == ND_OPTION_SOURCE && option->length == 1;
}

static __always_inline enum reason answer_solicitation(ctx_t *ctx, struct pkt *p)
{
	struct interface *interface = interface_of(ctx);
	void *data_end = ctx_data_end(ctx);
	struct eth_header *eth = ctx_data(ctx);
	struct ipv6_header *ip = ctx_at(ctx, p->l3);
	struct nd_message *nd = (void *)(ip + 1);
	struct nd_option *option = (void *)(nd + 1);
	__u32 bytes = p->length - sizeof(*ip), sum;

	if (!interface || (void *)(eth + 1) > data_end || (void *)(nd + 1) > data_end)
		return REASON_NONE;
	__builtin_memcpy(eth->dst, eth->src, 6);
	__builtin_memcpy(eth->src, interface->mac, 6);
	__builtin_memcpy(ip->daddr, p->key.saddr, 16);
	__builtin_memcpy(ip->saddr, nd->target, 16);
	nd->type = ICMP6_ADVERT;
	nd->be_flags = bpf_htonl(3u << 29); /* solicited, override */
	nd->csum = 0;
	/* the pseudo header (RFC 8200, section 8.1), the message, the option */
	sum = bpf_htons(bytes) + bpf_htons(PROTO_ICMPV6);
#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += ((__u16 *)ip->saddr)[i] + ((__u16 *)ip->daddr)[i];
#pragma unroll
	for (int i = 0; i < (int)sizeof(*nd) / 2; i++)
		sum += ((__u16 *)nd)[i];
	if (bytes == sizeof(*nd) + sizeof(*option)) {
		if ((void *)(option + 1) > data_end)
			return REASON_NONE;
		option->type = ND_OPTION_TARGET;
		__builtin_memcpy(option->mac, interface->mac, 6);
#pragma unroll
		for (int i = 0; i < (int)sizeof(*option) / 2; i++)
			sum += ((__u16 *)option)[i];
	}
	nd->csum = csum_fold(sum);
	return reply(ctx, p, REASON_ND_REPLY);
}

static __always_inline bool is_ping(const struct pkt *p)
{
	return p->has & HAS_ICMP && p->icmp_type == (p->family == FAMILY_V4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST);
}

static __always_inline enum reason answer_ping(ctx_t *ctx, struct pkt *p)
{
	void *data_end = ctx_data_end(ctx);
	struct icmp_header *icmp = ctx_at(ctx, p->l4);
	struct ipv4_header *ip4 = ctx_at(ctx, p->l3);
	struct ipv6_header *ip6 = ctx_at(ctx, p->l3);
	struct eth_header *eth = ctx_data(ctx);
	__u8 type = p->family == FAMILY_V4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY, mac[6];

	if ((void *)(eth + 1) > data_end || (void *)(icmp + 1) > data_end)
		return REASON_NONE;
	__builtin_memcpy(mac, eth->dst, 6);
	__builtin_memcpy(eth->dst, eth->src, 6);
	__builtin_memcpy(eth->src, mac, 6);
	icmp->csum = csum_replace(icmp->csum, bpf_htons(icmp->type << 8), bpf_htons(type << 8));
	icmp->type = type;
	if (!icmp->csum) /* of a message that is all zeros the update gives 0, which is wrong; ffff is right for it and every other */
		icmp->csum = 0xffff;
	if (p->family == FAMILY_V4) {
		if ((void *)(ip4 + 1) > data_end)
			return REASON_NONE;
		ip4->csum = csum_replace(ip4->csum, bpf_htons(ip4->ttl << 8), bpf_htons(ECHO_TTL << 8));
		ip4->ttl = ECHO_TTL;
		ip4->saddr = ((__be32 *)p->key.daddr)[3];
		ip4->daddr = ((__be32 *)p->key.saddr)[3];
	} else {
		if ((void *)(ip6 + 1) > data_end)
			return REASON_NONE;
		ip6->hop_limit = ECHO_TTL;
		__builtin_memcpy(ip6->saddr, p->key.daddr, 16);
		__builtin_memcpy(ip6->daddr, p->key.saddr, 16);
	}
	return reply(ctx, p, REASON_ECHO_REPLY);
}
