/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* allow, blocks, rules, default: what the filter says of a packet, and what decided it. */
#pragma once
#include "../bpf/trace.h"
#include "blocks.h"
#include "fragments.h"
#include "rules.h"
#include "services.h"
#include "sets.h"

/* Neighbour discovery and MLD pass whatever the default is (RFC 4890, section 4.4.1). */
static __always_inline bool is_control(const struct pkt *p)
{
	if (p->family != FAMILY_V6 || !(p->has & HAS_ICMP))
		return false;
	return (p->icmp_type >= ICMP6_MLD_FIRST && p->icmp_type <= ICMP6_ND_LAST) || p->icmp_type == ICMP6_MLD2_REPORT;
}

/* An answer to one of the daemon's own checks: exactly its connection, the other way round; to a ping, its identifier. */
__noinline int is_health_reply(const struct pkt *p)
{
	struct health_key key = {};

	if (!p || !(p->has & (HAS_PORTS | HAS_ICMP)))
		return false;
	if (p->has & HAS_ICMP && p->icmp_type != (p->family == FAMILY_V4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY))
		return false;
	key = (struct health_key){
		.be_lport = p->key.be_dport,
		.be_rport = p->key.be_sport,
		.proto = p->key.proto,
		.family = p->family,
	};

	__builtin_memcpy(key.laddr, p->key.daddr, 16);
	__builtin_memcpy(key.raddr, p->key.saddr, 16);
	return bpf_map_lookup_elem(&health_flows, &key) != NULL;
}

static __always_inline enum reason judge_default(struct rules_head *head, struct pkt *p)
{
	bool blind = cfg_fragments && head->flags & RULES_PORTS && ports_missing(p);

	p->rule = DECIDER_DEFAULT;
	if (p->way == WAY_LINK)
		return REASON_NOT_IP;
	trace_step(STEP_DEFAULT, head->default_verdict, 0);
	if (head->default_verdict != VERDICT_DROP)
		return blind ? REASON_FRAGMENT_PASS : REASON_DEFAULT_PASS;
	if (blind)
		return REASON_FRAGMENT_DROP;
	return is_control(p) ? REASON_CONTROL : REASON_DEFAULT_DROP;
}

/* By allow and blocks, which concern what was received, and by the rules of the packet's way. */
static __always_inline enum reason judge_rules(ctx_t *ctx, struct control *c, struct pkt *p)
{
	void *rules = table_of(p->generation, TABLE_RULES), *sets;
	struct line *src_sets = NULL, *dst_sets = NULL;
	struct sets_head *sets_head;
	struct rule_record *record;
	struct rules_head *head;

	if (!rules)
		return REASON_NO_TABLES;
	head = line_at(rules, p->way);
	if (!head)
		return REASON_NO_TABLES;
	if (cfg_sets && head->flags & (RULES_SRC_SETS | RULES_DST_SETS)) {
		sets = table_of(p->generation, TABLE_SETS);
		if (!sets)
			return REASON_NO_TABLES;
		sets_head = line_at(sets, 0);
		if (!sets_head)
			return REASON_NO_TABLES;
		if (head->flags & RULES_SRC_SETS)
			src_sets = sets_of(sets, sets_head, p->family, p->key.saddr);
		if (head->flags & RULES_DST_SETS)
			dst_sets = sets_of(sets, sets_head, p->family, p->key.daddr);
	}
	if (head->flags & RULES_ALLOW) {
		bool allowed = has_bit(src_sets, 0);

		trace_step(STEP_ALLOW, allowed, 0);
		if (allowed) {
			p->rule = DECIDER_ALLOW;
			p->remember = 1;
			return REASON_ALLOWED;
		}
	}
	if (cfg_blocks && p->way == WAY_IN && is_blocked(c, p)) {
		trace_step(STEP_BLOCK, 1, 0);
		p->rule = DECIDER_BLOCK;
		return REASON_BLOCKED;
	}
	if (cfg_fragments && head->flags & RULES_PORTS && (p->has & (IS_FRAGMENT | IS_LATER | HAS_PORTS)) == (IS_FRAGMENT | HAS_PORTS))
		note_first(p);
	if (!head->records)
		return judge_default(head, p);
	if (cfg_interfaces) {
		__u32 ifindex = ctx_ifindex(ctx);
		struct interface *interface = bpf_map_lookup_elem(&interfaces, &ifindex);

		p->interface = interface ? interface->number : 0;
	}
	record = deciding_rule(ctx, p, rules, head, src_sets, dst_sets);
	if (!record)
		return judge_default(head, p);
	p->rule = record->id;
	trace_step(STEP_RULE, 1, record->id);
	switch (record->verdict) {
	case VERDICT_DROP:
		return REASON_RULE_DROP;
	case VERDICT_REJECT:
		return REASON_RULE_REJECT;
	case VERDICT_REDIRECT:
		return REASON_RULE_REDIRECT;
	default:
		return REASON_RULE_PASS;
	}
}

static __always_inline bool has_out_rules(__u32 generation)
{
	void *rules = table_of(generation, TABLE_RULES);
	struct rules_head *head = rules ? line_at(rules, WAY_OUT) : NULL;

	return head && head->records;
}

/* Judge a packet that no remembered verdict covers. Sets p->rule, p->remember. */
__noinline int filter(ctx_t *ctx, struct pkt *p)
{
	enum reason reason = REASON_DEFAULT_PASS;
	struct control *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c)
		return REASON_NO_TABLES;
	p->remember = 1;
	p->rule = DECIDER_DEFAULT;
	if (cfg_rules) {
		reason = judge_rules(ctx, c, p);
	} else if (cfg_blocks && p->way == WAY_IN && is_blocked(c, p)) {
		trace_step(STEP_BLOCK, 1, 0);
		p->rule = DECIDER_BLOCK;
		return REASON_BLOCKED;
	}
	return reason;
}

/* filter(), with what it needs to know besides the packet's own facts. Not in it, for the stack's sake. Without rules, and until there has
 * been a block, there is nothing to ask. */
static __always_inline enum reason judge(ctx_t *ctx, struct pkt *p)
{
	enum reason reason;

	if (cfg_fragments && p->has & IS_LATER)
		borrow_ports(p);
	if (cfg_asked)
		ask_service(p);
	if (cfg_rules || (cfg_blocks && p->block_epoch)) {
		reason = filter(ctx, p);
	} else {
		reason = REASON_DEFAULT_PASS;
		p->rule = DECIDER_DEFAULT;
		p->remember = 1;
	}
	/* What a fragment or an ICMP message is doesn't show in its key. */
	if (p->has & (HAS_ICMP | IS_FRAGMENT))
		p->remember = 0;
	if (cfg_fragments && p->has & IS_LATER)
		return_ports(p);
	return reason;
}
