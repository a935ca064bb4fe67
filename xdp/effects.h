/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What a rule does besides deciding, or before it: struct rule_effect in bpf/abi.h. */
#pragma once
#include "../bpf/maps.h"
#include "../bpf/pkt.h"
#include "../bpf/trace.h"

/* A rule matched that does not decide this packet: count that. What decides is counted when the packet leaves. */
static __always_inline void count_passed_by(const struct pkt *p, struct rule_effect *effect, bool shadow)
{
	__u32 id = effect->id;
	struct rule_counter *counter = bpf_map_lookup_elem(&rule_counters, &id);

	if (!counter)
		return;
	counter->packets += p->segments;
	counter->bytes += p->frame_bytes;
	if (shadow)
		counter->shadow += p->segments;
}

/* Packets of a flow that such a rule decides are all alike; else each one must be looked at. */
static __always_inline bool only_decides(const struct rule_effect *effect)
{
	return effect->flags == EFFECT_DECIDES && !effect->log && !effect->sample;
}

/* A rule with an effect matched. True: it decides. */
static __always_inline bool apply_effect(ctx_t *ctx, struct pkt *p, struct rule_effect *effect)
{
	bool shadow = effect->flags & EFFECT_SHADOW;

	if (effect->flags & EFFECT_DECIDES && !shadow) {
		p->reject = effect->reject;
		p->exit = effect->interface;
		return true;
	}
	if (cfg_actions && effect->flags & EFFECT_MIRROR && !shadow)
		p->mirrors |= 1ull << (effect->interface & (EXITS - 1));
	trace_step(STEP_RULE, 0, effect->id);
	count_passed_by(p, effect, shadow);
	return false;
}
