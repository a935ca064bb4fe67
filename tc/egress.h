/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What the kernel sends. A flow is counted once: where it came in, if that was one of gardu's interfaces, else here. */
#pragma once
#include "../bpf/flow.h"

static __always_inline void egress(ctx_t *ctx, struct control *c, struct pkt *p)
{
	__u32 came_in = ctx->ingress_ifindex, zero = 0;
	struct flow_table table = {};
	struct flow_totals *totals;
	struct flow_value *flow;

	if (ctx->cb[0] == SENT_BY_GARDU || !cfg_flows || !c->generation)
		return;
	if (came_in && bpf_map_lookup_elem(&interfaces, &came_in))
		return;
	if (parse(ctx, p))
		return;
	totals = bpf_map_lookup_elem(&flow_totals, &zero);
	if (!totals)
		return;
	table.totals = totals;
	totals->sent += p->segments;
	totals->sent_bytes += p->frame_bytes;
	p->key.tag |= FLOW_OUT << 12;
	flow = flow_find(c, &table, p);
	flow_account(ctx, c, &table, flow, p, REASON_NONE);
}
