/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* An ICMP error as one of the packets that answer what it quotes: for who sent that, it is looked up like these. */
#pragma once
#include "../bpf/parse.h"
#include "../bpf/state.h"
#include "services.h"

/* A packet's own key while it has that of the packets that the quoted one answers. */
struct error_key {
	__u8 saddr[16] __attribute__((aligned(8)));
};

/* A function of its own, whose stack others can have after it. False: the error quotes nothing that could be looked up, or is forged: who didn't send a packet isn't told of it. */
static __noinline bool as_answered(ctx_t *ctx, struct pkt *p, struct error_key *own)
{
	struct quoted quoted = {};

	if (!parse_quoted(ctx, p, &quoted) || quoted.proto == p->key.proto) /* nothing, or ICMP itself */
		return false;
	if (addr_hi(quoted.saddr) != addr_hi(p->key.daddr) || addr_lo(quoted.saddr) != addr_lo(p->key.daddr))
		return false;
	copy_address(own->saddr, p->key.saddr);
	copy_address(p->key.saddr, quoted.daddr);
	p->key.proto = quoted.proto;
	p->has = 0;
	if (has_ports(quoted.proto)) {
		p->key.be_sport = quoted.be_dport;
		p->key.be_dport = quoted.be_sport;
		p->has = HAS_PORTS;
	}
	p->service_place = ASKED_NOT;
	return true;
}

static __always_inline void as_error(struct pkt *p, const struct error_key *own)
{
	copy_address(p->key.saddr, own->saddr);
	p->key.proto = p->family == FAMILY_V4 ? PROTO_ICMP : PROTO_ICMPV6;
	p->key.be_sport = p->key.be_dport = 0;
	p->has = HAS_ICMP;
}

static __always_inline bool is_whole_error(const struct pkt *p)
{
	return (p->has & (HAS_ICMP | IS_FRAGMENT)) == HAS_ICMP && is_icmp_error(p);
}
