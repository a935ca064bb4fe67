/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The one exit: count by interface, reason, rule and backend, return the action. */
#pragma once
#include "capture.h"
#include "event.h"
#include "pkt.h"
#include "trace.h"

#define VERDICT_ROW(name, verdict, text, help) [REASON_##name] = VERDICT_##verdict,
static const __u8 verdict_by_reason[REASON_SLOTS] = {REASONS(VERDICT_ROW)};
#undef VERDICT_ROW

static __always_inline enum verdict verdict_of(enum reason reason)
{
	__u32 i = reason;

	asm volatile("" : "+r"(i)); /* clang knows that the mask does nothing; the verifier must see it */
	return verdict_by_reason[i & (REASON_SLOTS - 1)];
}

/* The same reason, of which the verifier doesn't know any more by which way it was found: it would follow each of them through all that
 * comes. */
static __always_inline enum reason any_reason(const struct pkt *p, enum reason reason) { return (__u8)(reason ^ READ_ONCE(p->nothing)); }

/* The counters of an interface; NULL cannot be. */
static __always_inline struct interface_counter *counters_of(__u32 ifindex)
{
	__u32 key = ifindex & (INTERFACE_PLACES - 1), number = 0;
	struct interface *interface;
	__u64 *place;

	place = bpf_map_lookup_elem(&interface_places, &key);
	if (place && *place >> 32 == ifindex) {
		number = *place;
	} else {
		interface = bpf_map_lookup_elem(&interfaces, &ifindex);
		number = interface ? interface->number : 0;
	}
	return bpf_map_lookup_elem(&interface_counters, &number);
}

static __always_inline void count_sent(__u32 ifindex, __u32 packets, __u64 bytes)
{
	struct interface_counter *counters = counters_of(ifindex);

	if (!counters)
		return;
	counters->sent.packets += packets;
	counters->sent.bytes += bytes;
}

/* A frame that gardu sends, perhaps another one than came. What a bundle got in front, each of its segments has. */
static __always_inline void count_own(ctx_t *ctx, const struct pkt *p, enum reason reason)
{
	__u32 length = ctx_length(ctx);

	if (p->segments == 1 || verdict_of(reason) == VERDICT_REJECT)
		count_sent(p->out_ifindex, 1, length);
	else
		count_sent(p->out_ifindex, p->segments, p->frame_bytes + (__s64)p->segments * (__s32)(length - p->l3 - p->bundle_bytes));
}

static __always_inline void count_rule(const struct pkt *p)
{
	struct rule_counter *counter;

	counter = bpf_map_lookup_elem(&rule_counters, &p->rule);
	if (counter) {
		counter->packets += p->segments;
		counter->bytes += p->frame_bytes;
		counter->decided += p->segments;
	}
}

static __always_inline void count_backend(const struct pkt *p)
{
	struct backend_counter *counter;
	__u32 id = p->backend;

	counter = bpf_map_lookup_elem(&backend_counters, &id);
	if (!counter)
		return;
	counter->packets += p->segments;
	counter->bytes += p->frame_bytes;
	counter->flows += p->new_flow;
	if (cfg_quic && p->named)
		counter->named += p->segments;
}

static __always_inline void trace_leave(const struct pkt *p, enum reason reason)
{
	struct trace *now = trace_now();

	if (!now)
		return;
	trace_step(STEP_LEAVE, reason, p->out_ifindex);
	now->reason = reason;
	now->rule = p->rule;
	now->service = p->service;
	now->backend = p->backend;
	now->ifindex = p->out_ifindex;
}

/* c may be NULL. */
static __always_inline int leave(ctx_t *ctx, const struct control *c, struct pkt *p, enum reason reason)
{
	struct interface_counter *counters = counters_of(ctx_ifindex(ctx));
	enum verdict verdict = verdict_of(reason);
	struct counter *counter;

	if (counters) {
		counter = &counters->reason[reason & (REASON_SLOTS - 1)];
		counter->packets += p->segments;
		counter->bytes += p->frame_bytes;
	}
	if (p->out_ifindex && verdict != VERDICT_DROP)
		count_own(ctx, p, reason);
	if (p->filtered)
		count_rule(p);
	if (reason == REASON_FORWARD || reason == REASON_NO_BACKEND)
		count_backend(p);
	trace_leave(p, reason);
	if (cfg_capture && p->captured)
		capture_after(ctx, p, reason, verdict);
	if (verdict == VERDICT_DROP && c && c->watch_until)
		watch_drop(ctx, p);
	if (p->notes)
		send_event(p, reason);
	switch (verdict) {
	case VERDICT_PASS:
		return ACTION_PASS;
	case VERDICT_REJECT:
	case VERDICT_REDIRECT:
	case VERDICT_FORWARD:
		return p->action;
	default:
		return ACTION_DROP;
	}
}
