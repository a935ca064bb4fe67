/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What a rule does besides deciding, or before it: struct rule_effect in bpf/abi.h. */
#pragma once
#include "../bpf/event.h"
#include "../bpf/maps.h"
#include "../bpf/pkt.h"
#include "../bpf/trace.h"
#include "limit.h"

/* Packets of a flow that such a rule decides are all alike; else each one must be looked at. */
static __always_inline bool only_decides(const struct rule_effect *effect)
{
	return effect->flags == EFFECT_DECIDES && !effect->log && !effect->sample;
}

/* A rule chose the packet for an event. */
static __always_inline void note_rule(ctx_t *ctx, struct pkt *p, const struct rule_effect *effect, enum note_kind kind)
{
	if (!(effect->flags & EFFECT_SHADOW))
		note_event(ctx, p, effect->id, kind, 0, false);
	else
		note_event(ctx, p, effect->id, NOTE_SHADOW, effect->verdict, effect->flags & EFFECT_DECIDES);
}

/* What a rule with an effect does to a packet that it matches and, if it has a limit, whether that is over it. True: it decides. What
 * decides is counted when the packet leaves, all else here. */
__noinline int do_effect(ctx_t *ctx, struct pkt *p, struct rule_effect *effect, bool over)
{
	struct rule_counter *counter;
	bool decides;
	__u64 before;
	__u32 key;

	if (!p || !effect)
		return true;
	decides = (effect->flags & (EFFECT_DECIDES | EFFECT_SHADOW)) == EFFECT_DECIDES;
	key = effect->id;
	counter = bpf_map_lookup_elem(&rule_counters, &key);
	if (!counter)
		return false;
	if (cfg_events && over && effect->log | effect->sample) {
		/* packets that concerned the rule so far */
		before = !(effect->flags & EFFECT_LIMIT) ? counter->packets : decides ? counter->decided : counter->shadow;
		if (is_chosen(before, p->segments, effect->log))
			note_rule(ctx, p, effect, NOTE_LOG);
		if (is_chosen(before, p->segments, effect->sample))
			note_rule(ctx, p, effect, NOTE_SAMPLE);
	}
	if (over && decides) {
		p->reject = effect->reject;
		p->exit = effect->interface;
		return true;
	}
	if (cfg_actions && over && (effect->flags & (EFFECT_MIRROR | EFFECT_SHADOW)) == EFFECT_MIRROR)
		p->mirrors |= 1ull << (effect->interface & (EXITS - 1));
	trace_step(STEP_RULE, 0, effect->id);
	counter->packets += p->segments;
	counter->bytes += p->frame_bytes;
	if (over && effect->flags & (EFFECT_SHADOW | EFFECT_LIMIT))
		counter->shadow += p->segments;
	return false;
}

/* A rule with an effect matched. True: it decides. */
static __always_inline bool apply_effect(ctx_t *ctx, struct pkt *p, struct rule_effect *effect)
{
	bool over = true;

	if (cfg_limits && effect->flags & EFFECT_LIMIT) {
		over = over_limit(p, effect);
		trace_step(STEP_LIMIT, over, effect->id);
	}
	return do_effect(ctx, p, effect, over);
}
