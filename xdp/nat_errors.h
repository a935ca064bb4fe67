/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* ICMP errors about packets that were translated (RFC 5508, section 4): they go the way of the flow's packets, and what they quote gets
 * the ends that its sender gave it. */
#pragma once
#include "nat.h"
#include "quoted.h"

/* Is the packet an error about something that was sent to a backend? Fills the scratch, and p->translated. */
__noinline int nat_error_answers(ctx_t *ctx, struct pkt *p)
{
	struct error_key own = {};

	if (!p || !as_answered(ctx, p, &own))
		return 0;
	nat_answers(p);
	if (p->translated == NAT_ANSWER)
		p->translated = NAT_ERROR_TO_CLIENT;
	as_error(p, &own);
	return 0;
}

/* An error, which has the key of what it is about, goes where its flow's translation does. REASON_NONE: there is none, so it is the
 * kernel's. */
static __always_inline int nat_follow_error(struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct backend *backend;
	__u32 key = p->backend;

	backend = bpf_map_lookup_elem(&backends, &key);
	if (!now || !backend || backend->mode != MODE_NAT)
		return REASON_FORWARD;
	now->live = 0;
	nat_follow(p);
	if (now->live) {
		p->translated = NAT_ERROR_TO_BACKEND;
		return REASON_FORWARD;
	}
	p->service = p->backend = 0;
	return REASON_NONE;
}

/* What a changed word adds to a checksum over it. */
static __always_inline __u32 word_difference(__u16 old, __u16 new) { return (__u16)~old + new; }

/* Change a checksum in what an error quotes, if it is there; what that adds to the error's own. */
static __always_inline __u32 quoted_csum(void *data_end, __u16 *csum, __u32 change, bool optional)
{
	__u16 old, new;

	if ((void *)(csum + 1) > data_end)
		return 0;
	old = *csum;
	if (optional && !old)
		return 0;
	new = csum_fold((__u16)~old + change);
	if (optional && !new)
		new = 0xffff;
	*csum = new;
	return word_difference(old, new);
}

/* Give an error the ends of its way, and what it quotes those that its receiver knows: the reverse. False: it is cut short. */
__noinline int nat_rewrite_error(ctx_t *ctx, struct pkt *p)
{
	struct nat_now *now = nat_now();
	struct quoted quoted = {};
	const __u8 *from, *to;
	__u32 addresses, ports, change, ip_end;
	__be16 be_from, be_to;
	struct icmp_header *icmp;
	struct ipv4_header *ip4;
	struct ipv6_header *ip6;
	struct udp_header *udp;
	void *data_end;

	if (!p || !now || !parse_quoted(ctx, p, &quoted))
		return false;
	if (p->translated == NAT_ERROR_TO_CLIENT) {
		from = now->client.saddr;
		to = now->client.daddr;
		be_from = now->client.be_sport;
		be_to = now->client.be_dport;
	} else {
		from = now->pool;
		to = now->address;
		be_from = now->be_pool_port;
		be_to = now->be_port;
	}
	addresses = nat_difference(p->family, quoted.saddr, to) + nat_difference(p->family, quoted.daddr, from);
	ports = word_difference(quoted.be_sport, be_to) + word_difference(quoted.be_dport, be_from);
	change = addresses + ports;

	data_end = ctx_data_end(ctx);
	ip4 = ctx_at(ctx, p->l4 + sizeof(*icmp));
	ip6 = (void *)ip4;
	if (p->family == FAMILY_V4) {
		if ((void *)(ip4 + 1) > data_end)
			return false;
		change += quoted_csum(data_end, &ip4->csum, addresses, false);
		ip4->saddr = ((__be32 *)to)[3];
		ip4->daddr = ((__be32 *)from)[3];
	} else {
		if ((void *)(ip6 + 1) > data_end)
			return false;
		copy_address(ip6->saddr, to);
		copy_address(ip6->daddr, from);
		change += nat_difference(p->family, p->key.saddr, from) + nat_difference(p->family, p->key.daddr, to);
	}
	udp = ctx_at(ctx, quoted.l4);
	if ((void *)(udp + 1) > data_end)
		return false;
	udp->be_sport = be_to;
	udp->be_dport = be_from;
	ip_end = p->l3 + p->length;
	if (quoted.proto == PROTO_UDP)
		change += quoted_csum(data_end, &udp->csum, addresses + ports, true);
	else if (quoted.l4 + offsetof(struct tcp_header, csum) + 2 <= ip_end)
		change += quoted_csum(data_end, &((struct tcp_header *)udp)->csum, addresses + ports, false);
	icmp = ctx_at(ctx, p->l4);
	if ((void *)(icmp + 1) > data_end)
		return false;
	icmp->csum = csum_fold((__u16)~icmp->csum + (change & 0xffff) + (change >> 16));
	if (!nat_rewrite_ip(ctx, p, from, to))
		return false;
	p->translated = NAT_ERROR_WRITTEN;
	return true;
}
