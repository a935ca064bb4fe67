/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The way of a received packet, the same at XDP and at tc ingress: parse, judge, balance, account, leave. */
#pragma once
#include "../bpf/dropped.h"
#include "divert.h"
#include "errors.h"
#include "filter.h"
#include "lb.h"
#include "nat_make.h"
#include "quic.h"
#include "reject.h"

/* Does the flow's record say what to do? Its verdict stands while the generation does; when blocks came, only they are asked again. */
static __always_inline bool remembered(ctx_t *ctx, struct control *c, struct pkt *p, struct flow_value *flow, enum reason *reason)
{
	if (!flow || flow->generation != p->generation || p->has & (HAS_ICMP | IS_FRAGMENT))
		return false;
	if (cfg_state && flow->judged != p->state)
		return false;
	if (cfg_interfaces && flow->ifindex != ctx_ifindex(ctx)) /* the key doesn't tell interfaces apart */
		return false;
	p->rule = flow->rule;
	p->remember = p->remembered = 1;
	trace_step(STEP_REMEMBERED, 1, p->rule);
	*reason = flow->rule == DECIDER_ALLOW ? REASON_ALLOWED : flow->rule == DECIDER_DEFAULT ? REASON_DEFAULT_PASS : REASON_RULE_PASS;
	if (cfg_actions && flow->reason == REASON_RULE_REDIRECT) {
		p->exit = flow->exit;
		*reason = REASON_RULE_REDIRECT;
	}
	if (flow->block_epoch == p->block_epoch)
		return true;
	if (cfg_blocks && flow->rule != DECIDER_ALLOW && blocks_came(c, p, flow->block_epoch) && is_blocked(c, p)) {
		trace_step(STEP_BLOCK, 1, 0);
		p->rule = DECIDER_BLOCK;
		*reason = REASON_BLOCKED;
	} else {
		flow->block_epoch = p->block_epoch;
	}
	return true;
}

/* A remembered flow that is on a backend, or for no service, needs no look into the tables. False: look. */
static __always_inline bool balance_remembered(struct pkt *p, struct flow_value *flow, enum reason *sent)
{
	*sent = REASON_NONE;
	if (!flow->service)
		return true;
	if (p->has & IS_SYN && flow->state & FLOW_STATE_CLOSED)
		return false;
	if (!backend_of(flow->backend, flow->service))
		return false;
	p->quic = flow->quic;
	p->service = flow->service;
	p->backend = flow->backend;
	trace_step(STEP_BACKEND, 1, p->backend);
	*sent = REASON_FORWARD;
	return true;
}

/* A connection that has the name of an earlier one, and began on another CPU, is on the backend that was chosen there. */
static __always_inline void follow_namesake(const struct control *c, const struct pkt *p, struct flow_value *flow)
{
	__u32 known;

	if (!c->ring_changes || !flow->backend || !may_be_namesake(flow, p))
		return;
	known = flow_elsewhere(p);
	if (!(known & FLOW_OPEN) || (!(flow->state & FLOW_STATE_CLOSED) && (__u16)known == flow->backend))
		return;
	flow->backend = known;
	flow->state = 0;
	flow->seq = 0;
}

/* A backend was chosen in the middle of a flow, and rings have changed, or connection IDs overrule them: another CPU may know the flow's
 * own. */
static __always_inline enum reason keep_backend(struct control *c, struct pkt *p)
{
	enum reason lost;
	__u16 own;

	if (!p->new_flow || !(c->ring_changes || (cfg_quic && p->quic)) || p->has & IS_SYN)
		return REASON_FORWARD;
	own = flow_elsewhere(p);
	if (!backend_of(own, p->service)) {
		lost = lost_with(p, own, p->service);
		return lost ? lost : REASON_FORWARD;
	}
	p->backend = own;
	p->new_flow = 0;
	trace_step(STEP_BACKEND, 1, own);
	return REASON_FORWARD;
}

/* The client of a flow whose backend is down is told so. */
static __always_inline enum reason reset_flow(ctx_t *ctx, struct control *c, struct pkt *p)
{
	enum reason reason;

	if (c->watch_until)
		watch_drop(ctx, p); /* as long as it is what came in */
	p->reject = REJECT_TCP_RESET;
	reason = reject(ctx, p);
	return reason == REASON_RULE_REJECT ? REASON_BACKEND_RESET : reason;
}

/* A frame that is neither IPv4 nor IPv6: rules may take it up that name the link layer, and a request for a service address gets its
 * answer. It counts as filtered if a rule decides. */
static __always_inline enum reason ingress_link(ctx_t *ctx, struct pkt *p)
{
	enum reason reason = REASON_NOT_IP, sent;
	struct flow_totals *totals;
	__u32 zero = 0;

	if (!p->generation)
		return REASON_NOT_IP;
	if (cfg_link) {
		p->way = WAY_LINK;
		reason = filter(ctx, p);
	}
	if (cfg_link && reason != REASON_NOT_IP) {
		totals = bpf_map_lookup_elem(&flow_totals, &zero);
		if (!totals)
			return REASON_NO_TABLES;
		totals->filtered += p->segments;
		p->filtered = 1;
	}
	if (cfg_actions && p->mirrors)
		mirror(ctx, p);
	if (cfg_actions && reason == REASON_RULE_REJECT)
		return REASON_REJECT_SILENT; /* nobody to tell */
	if (cfg_actions && reason == REASON_RULE_REDIRECT)
		return redirect(ctx, p);
	if (verdict_of(reason) != VERDICT_PASS || !cfg_services || p->be_type != bpf_htons(ETHERTYPE_ARP))
		return reason;
	sent = balance_arp(ctx, p);
	return sent == REASON_NOT_IP ? reason : sent;
}

/* A packet goes on its way: its connection and its flow know that. What a backend answers is to them what its client sees. */
static __always_inline enum reason note_passed(ctx_t *ctx, struct control *c, struct flow_table *table, struct flow_value *flow, struct pkt *p,
					       enum reason reason)
{
	if (cfg_nat && p->translated == NAT_ANSWER)
		nat_swap_key(p);
	if (cfg_state && p->state_asked && (verdict_of(reason) != VERDICT_REDIRECT || reason == REASON_RULE_REDIRECT)) /* what is answered here gets no further */
		state_passed(p);
	if (cfg_nat && reason == REASON_NAT_REPLY)
		nat_name(p);
	reason = any_reason(p, reason);
	if (cfg_flows && !needs_no_record(p))
		flow_account(ctx, c, table, flow, p, reason);
	if (cfg_nat && p->translated == NAT_ANSWER)
		nat_swap_key(p);
	return reason;
}

static __always_inline enum reason tell_too_big(ctx_t *ctx, struct control *c, struct pkt *p)
{
	if (c->watch_until)
		watch_drop(ctx, p); /* as long as it is what came in */
	return too_big(ctx, p);
}

static __always_inline enum reason ingress(ctx_t *ctx, struct control *c, struct pkt *p)
{
	struct flow_value *flow = NULL;
	struct flow_table table = {};
	enum reason reason, sent = REASON_NONE;
	__u32 zero = 0;

	p->generation = READ_ONCE(c->generation);
	p->block_epoch = READ_ONCE(c->block_epoch);
	reason = parse(ctx, p);
	trace_step(STEP_PARSE, !reason, reason);
	if (cfg_capture)
		capture_before(ctx, p);
	if (reason == REASON_NOT_IP)
		return ingress_link(ctx, p);
	if (reason)
		return reason;
	table.totals = bpf_map_lookup_elem(&flow_totals, &zero);
	if (!table.totals)
		return REASON_NO_TABLES;
	table.totals->filtered += p->segments;
	p->filtered = 1;
	if (!p->generation)
		return REASON_DEFAULT_PASS;
	if (cfg_sample)
		sample(c, table.totals, p);
	if (cfg_nat && is_whole_error(p))
		nat_error_answers(ctx, p);
	else if (cfg_nat)
		nat_answers(p);
	if (cfg_nat && p->translated == NAT_ANSWER) /* its record and its state are those of what the client sees */
		nat_swap_key(p);
	if (cfg_flows && !needs_no_record(p))
		flow = flow_find(c, &table, p);
	if (cfg_flows && cfg_services && flow)
		follow_namesake(c, p, flow);
	trace_step(STEP_FLOW, !!flow, 0);
	if (cfg_nat && p->translated == NAT_ERROR_TO_CLIENT)
		p->state = STATE_ESTABLISHED; /* what it is about was sent, and is known by other ends */
	else if (cfg_state)
		find_state(ctx, c, &table, flow, p);
	if (cfg_nat && p->translated == NAT_ANSWER) {
		nat_swap_key(p);
		reason = judge(ctx, p);
		p->remember = 0; /* the record's key doesn't tell what it was judged by */
	} else if (!remembered(ctx, c, p, flow, &reason)) {
		reason = judge(ctx, p);
	}
	if (cfg_health && c->health && verdict_of(reason) != VERDICT_PASS && is_health_reply(p)) {
		reason = REASON_HEALTH_REPLY;
		p->rule = DECIDER_HEALTH;
		p->remember = p->remembered = 0;
	}
	if (cfg_actions && p->mirrors)
		mirror(ctx, p);
	if (cfg_actions && reason == REASON_RULE_REJECT) {
		if (c->watch_until)
			watch_drop(ctx, p); /* as long as it is what came in */
		return reject(ctx, p);
	}
	if (cfg_actions && reason == REASON_RULE_REDIRECT) {
		reason = redirect(ctx, p);
		return reason == REASON_RULE_REDIRECT ? note_passed(ctx, c, &table, flow, p, reason) : reason;
	}
	if (verdict_of(reason) != VERDICT_PASS)
		return reason;
	if (cfg_nat && (p->translated == NAT_ANSWER || p->translated == NAT_ERROR_TO_CLIENT) && reason != REASON_HEALTH_REPLY) {
		if (p->has & IS_FRAGMENT)
			note_first(p);
		reason = answer_nat(ctx, p);
		if (reason == REASON_NAT_ERROR)
			reason = nat_rewrite_error(ctx, p) ? answer_nat(ctx, p) : REASON_ENCAP_FAILED;
		if (reason == REASON_TOO_BIG)
			reason = tell_too_big(ctx, c, p);
		if (verdict_of(reason) == VERDICT_DROP || verdict_of(reason) == VERDICT_REJECT)
			return reason;
	} else if (cfg_services && reason != REASON_HEALTH_REPLY) {
		if (!flow || !p->remembered || !balance_remembered(p, flow, &sent)) {
			p->remembered = 0;
			if (p->has & IS_LATER)
				sent = balance_later(ctx, p, flow);
			else if (is_whole_error(p))
				sent = balance_error(ctx, p);
			else if (may_be_for_service(c, p))
				sent = balance(ctx, p, flow);
		}
		if (cfg_quic && p->quic)
			sent = quic_route(ctx, p, sent);
		if (sent == REASON_FORWARD && cfg_flows && !(cfg_quic && p->named))
			sent = keep_backend(c, p);
		if (p->has & IS_FRAGMENT && p->service)
			note_first(p);
		if (cfg_nat && sent == REASON_FORWARD && !p->translated)
			sent = nat_follow(p);
		if (sent == REASON_FORWARD)
			sent = forward_to(ctx, p);
		if (cfg_nat && sent == REASON_NAT_NEW) {
			if (!p->service_place)
				ask_service(p); /* here, for the stack's sake */
			sent = nat_make(p);
			if (!sent)
				sent = forward_to(ctx, p);
		}
		if (cfg_nat && sent == REASON_NAT_ERROR)
			sent = nat_rewrite_error(ctx, p) ? forward_to(ctx, p) : REASON_ENCAP_FAILED;
		if (sent == REASON_TOO_BIG)
			sent = tell_too_big(ctx, c, p);
		if (cfg_down && sent == REASON_BACKEND_RESET)
			return reset_flow(ctx, c, p);
		if (verdict_of(sent) == VERDICT_DROP || verdict_of(sent) == VERDICT_REJECT)
			return sent;
		if (sent)
			reason = sent;
	}
	return note_passed(ctx, c, &table, flow, p, reason);
}
