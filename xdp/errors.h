/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* ICMP errors about what a service sent: they belong to the backend that sent it, or its path MTU discovery never ends. */
#pragma once
#include "lb.h"

/* An error is balanced like the packets that the quoted one answers: while it is looked up, *p has their key. REASON_NONE: it is about
 * nothing that a service sent, and the kernel's. (Global functions are verified once, each on its own: see parse_any().) */
__noinline int balance_error(ctx_t *ctx, struct pkt *p)
{
	struct error_key own = {};
	struct control *c;
	__u32 zero = 0;
	__u16 known;
	int sent;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || !as_answered(ctx, p, &own))
		return REASON_NONE;
	sent = balance(ctx, p, NULL);
	if (cfg_flows && p->service && (c->ring_changes || (cfg_quic && p->quic))) {
		known = flow_elsewhere(p);
		if (backend_of(known, p->service)) {
			p->backend = known;
			sent = REASON_FORWARD;
			trace_step(STEP_BACKEND, 1, known);
		}
	}
	if (cfg_nat && sent == REASON_FORWARD)
		sent = nat_follow_error(p);
	p->new_flow = 0;
	as_error(p, &own);
	return sent;
}
