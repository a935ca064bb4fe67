/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What the kernel sends, its own and what it routes: judged by the rules with direction out, noted in the table of connections,
 * and accounted. What gardu itself sends was judged where it came in. */
#pragma once
#include "../xdp/filter.h"
#include "../bpf/dropped.h"

/* Does the flow's record say what to do? Blocks don't concern what is sent. */
static __always_inline bool remembered_sent(ctx_t *ctx, struct pkt *p, const struct flow_value *flow)
{
	if (!flow || flow->generation != p->generation || p->has & (HAS_ICMP | IS_FRAGMENT))
		return false;
	if (cfg_state && flow->judged != p->state)
		return false;
	if (cfg_interfaces && flow->ifindex != ctx_ifindex(ctx))
		return false;
	p->rule = flow->rule;
	p->remember = p->remembered = 1;
	trace_step(STEP_REMEMBERED, 1, p->rule);
	return true;
}

/* By the rules for what is sent; REASON_NONE: this generation has none. */
static __always_inline enum reason judge_sent(ctx_t *ctx, struct pkt *p, const struct flow_value *flow, struct flow_totals *totals)
{
	enum reason reason = REASON_RULE_PASS;

	if (!has_out_rules(p->generation))
		return REASON_NONE;
	if (!remembered_sent(ctx, p, flow))
		reason = judge(ctx, p);
	if (p->rule >= FIRST_RULE_ID) {
		p->filtered = 1;
		totals->out_decided += p->segments;
	}
	return verdict_of(reason) == VERDICT_PASS ? REASON_OUT_PASS : REASON_OUT_DROP;
}

/* What the kernel sends. It has added up what the wire will carry of a bundle. */
static __always_inline void count_leaving(ctx_t *ctx)
{
	count_sent(ctx_ifindex(ctx), ctx->gso_size && ctx->gso_segs ? ctx->gso_segs : 1, ctx->wire_len);
}

/* What nothing was said of. */
static __always_inline int pass_sent(ctx_t *ctx, struct pkt *p)
{
	if (cfg_capture && p->captured)
		capture_after(ctx, p, REASON_NONE, VERDICT_PASS);
	return ACTION_PASS;
}

/* A flow is counted once: where it came in, if that was one of gardu's interfaces, else here. */
static __always_inline int egress(ctx_t *ctx, struct control *c, struct pkt *p)
{
	__u32 came_in = ctx->ingress_ifindex, zero = 0;
	enum reason reason = REASON_NONE;
	struct flow_value *flow = NULL;
	struct flow_table table = {};
	bool counted;

	p->generation = READ_ONCE(c->generation);
	if (ctx->cb[0] == SENT_BY_GARDU || !(cfg_flows || cfg_state || cfg_out || cfg_capture) || !p->generation)
		return ACTION_PASS;
	counted = came_in && bpf_map_lookup_elem(&interfaces, &came_in);
	if (counted && !(cfg_out || cfg_state || cfg_capture)) /* its connection may be known by other addresses here: there is NAT between */
		return ACTION_PASS;
	reason = parse(ctx, p);
	p->way = WAY_OUT;
	if (cfg_capture)
		capture_before(ctx, p);
	if (reason)
		return pass_sent(ctx, p);
	p->key.tag |= FLOW_OUT << 12;
	trace_step(STEP_PARSE, 1, 0);
	table.totals = bpf_map_lookup_elem(&flow_totals, &zero);
	if (!table.totals)
		return pass_sent(ctx, p);
	if (cfg_flows && !counted) {
		table.totals->sent += p->segments;
		table.totals->sent_bytes += p->frame_bytes;
		if (cfg_sample)
			sample(c, table.totals, p);
		if (!needs_no_record(p))
			flow = flow_find(c, &table, p);
		trace_step(STEP_FLOW, !!flow, 0);
	}
	if (cfg_state)
		find_state(ctx, c, &table, flow, p);
	if (cfg_out)
		reason = judge_sent(ctx, p, flow, table.totals);
	if (verdict_of(reason) == VERDICT_PASS) {
		if (cfg_state && p->state_asked)
			state_passed(p);
		if (cfg_flows && !counted && !needs_no_record(p))
			flow_account(ctx, c, &table, flow, p, reason);
	}
	if (!reason)
		return pass_sent(ctx, p);
	note_if_dropped(ctx, p, reason);
	return leave(ctx, c, p, reason);
}
