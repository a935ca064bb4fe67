/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* ICMP errors about what a service sent: they belong to the backend that sent it, or its path MTU discovery never ends. */
#pragma once
#include "lb.h"

static __always_inline bool is_whole_error(const struct pkt *p)
{
	return (p->has & (HAS_ICMP | IS_FRAGMENT)) == HAS_ICMP && is_icmp_error(p);
}

/* An error is balanced like the packets that the quoted one answers: while it is looked up, *p has their key. REASON_NONE: it is about
 * nothing that a service sent, and the kernel's. (Global functions are verified once, each on its own: see parse_any().) */
__noinline int balance_error(ctx_t *ctx, struct pkt *p)
{
	__u8 saddr[16] __attribute__((aligned(8)));
	struct quoted quoted = {};
	struct control *c;
	__u16 place, own;
	__u32 zero = 0;
	__u8 proto, has;
	int sent;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || !parse_quoted(ctx, p, &quoted) || !has_ports(quoted.proto))
		return REASON_NONE;
	if (addr_hi(quoted.saddr) != addr_hi(p->key.daddr) || addr_lo(quoted.saddr) != addr_lo(p->key.daddr))
		return REASON_NONE; /* forged: who didn't send a packet isn't told of it */
	copy_address(saddr, p->key.saddr);
	proto = p->key.proto;
	has = p->has;
	place = p->service_place;
	copy_address(p->key.saddr, quoted.daddr);
	p->key.proto = quoted.proto;
	p->key.be_sport = quoted.be_dport;
	p->key.be_dport = quoted.be_sport;
	p->has = HAS_PORTS;
	p->service_place = ASKED_NOT;

	sent = balance(ctx, p, NULL);
	if (cfg_flows && p->service && c->ring_changes) {
		own = flow_elsewhere(p);
		if (backend_of(own, p->service)) {
			p->backend = own;
			sent = REASON_FORWARD;
			trace_step(STEP_BACKEND, 1, own);
		}
	}
	p->new_flow = 0;

	copy_address(p->key.saddr, saddr);
	p->key.proto = proto;
	p->key.be_sport = p->key.be_dport = 0;
	p->has = has;
	p->service_place = place;
	return sent;
}
