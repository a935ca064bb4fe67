/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Packets that rules log or sample, or that are dropped while somebody watches. What is known when a rule matches goes into a place of the CPU's own, among it the frame as it
 * came, before anything is rewritten; leave() adds what became of the packet and sends it. */
#pragma once
#include "config.h"
#include "maps.h"
#include "pkt.h"
#include "trace.h"

/* Programs only. The event of the packet that the CPU has in hand; p->notes says that there is one. */
MAP(event_now, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct event, 1);

/* Is one of a rule's next `packets` to become an event, when one of `of` is to? The first is, and every one `of` after it, on each
 * CPU for itself: an exact count, and no state but the rule's counter. */
static __always_inline bool is_chosen(__u64 before, __u32 packets, __u32 of)
{
	return of && (before + of - 1) / of != (before + packets + of - 1) / of;
}

/* The first note of a packet: what is known by now. */
static __always_inline void begin_event(ctx_t *ctx, const struct pkt *p, struct event *event)
{
	__u32 bytes = ctx_length(ctx);

	event->time = clock_now();
	__builtin_memcpy(&event->key, &p->key, sizeof(event->key));
	event->ifindex = ctx_ifindex(ctx);
	event->length = bytes;
	event->packets = p->segments;
	event->way = p->way;
	event->be_vlan_proto = event->vlan_tci = 0;
#ifdef HOOK_TC
	if (ctx->vlan_present) {
		event->be_vlan_proto = ctx->vlan_proto;
		event->vlan_tci = ctx->vlan_tci;
	}
#endif
	event->head_bytes = 0;
	if (bytes > EVENT_HEAD)
		bytes = EVENT_HEAD;
	asm volatile("" : "+r"(bytes)); /* clang knows that the mask does nothing; the verifier of Linux 6.1 must see it */
	bytes = ((bytes - 1) & (EVENT_HEAD - 1)) + 1;
	if (!ctx_load(ctx, event->head, bytes))
		event->head_bytes = bytes;
}

/* A rule chose the packet. `would`, `decides`: of a shadow rule. */
static __always_inline void note_event(ctx_t *ctx, struct pkt *p, __u32 rule, enum note_kind kind, __u8 would, bool decides)
{
	struct effect_totals *totals;
	struct event *event;
	__u32 zero = 0;

	event = bpf_map_lookup_elem(&event_now, &zero);
	if (!event)
		return;
	if (!p->notes)
		begin_event(ctx, p, event);
	if (p->notes >= EVENT_NOTES) {
		totals = bpf_map_lookup_elem(&effect_totals, &zero);
		if (totals)
			totals->unnoted++;
		return;
	}
	event->note[p->notes & (EVENT_NOTES - 1)].rule = rule;
	event->note[p->notes & (EVENT_NOTES - 1)].kind = kind;
	event->note[p->notes & (EVENT_NOTES - 1)].would = would;
	event->note[p->notes & (EVENT_NOTES - 1)].decides = decides;
	p->notes++;
}

/* Programs only. Dropped packets that became events in this window of time, which the upper half of the word tells. */
MAP(watched, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1);

/* Whether one more dropped packet may become an event. Beyond that CPUs only read the word, so a flood doesn't make them share it. */
static __always_inline bool may_watch(__u64 *watched, __u64 window)
{
	__u64 word = READ_ONCE(*watched);

	if (word >> 32 != window) {
		__sync_val_compare_and_swap(watched, word, window << 32); /* who loses a race finds it done */
	} else if ((__u32)word >= WATCH_DROPS) {
		return false;
	}
	word = __sync_fetch_and_add(watched, 1);
	return word >> 32 == window && (__u32)word < WATCH_DROPS;
}

/* A packet is dropped while somebody follows events. What rules noted becomes an event anyway. */
__noinline int watch_drop(ctx_t *ctx, struct pkt *p)
{
	struct effect_totals *totals;
	struct control *c;
	__u64 *word, window;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	word = bpf_map_lookup_elem(&watched, &zero);
	totals = bpf_map_lookup_elem(&effect_totals, &zero);
	if (!p || !c || !word || !totals || p->notes)
		return 0;
	window = (__u32)(bpf_ktime_get_coarse_ns() >> WATCH_SHIFT);
	if ((__s32)(c->watch_until - window) < 0) /* the daemon is gone */
		return 0;
	if (may_watch(word, window))
		note_event(ctx, p, 0, NOTE_DROP, 0, false);
	else
		totals->unwatched += p->segments;
	return 0;
}

/* The packet leaves: tell what became of it. */
static __always_inline void send_event(const struct pkt *p, enum reason reason)
{
	struct effect_totals *totals;
	struct event *event;
	__u32 zero = 0;

	event = bpf_map_lookup_elem(&event_now, &zero);
	totals = bpf_map_lookup_elem(&effect_totals, &zero);
	if (!event || !totals)
		return;
	event->decider = p->filtered ? p->rule : DECIDER_DEFAULT;
	event->service = p->service;
	event->backend = p->backend;
	event->reason = reason;
	event->notes = p->notes;
	if (bpf_ringbuf_output(&events, event, sizeof(*event), 0))
		totals->lost++;
	else
		totals->sent++;
}
