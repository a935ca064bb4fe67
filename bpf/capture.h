/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Packets for `gardu capture`: as they came, as they leave, and what became of them. What a packet is when it comes decides whether its
 * frame is kept, in a place of the CPU's own; what became of it decides when it leaves whether it is told.
 *
 * The maps of this file belong to the capture that is on: the daemon makes them with the programs that have cfg_capture, and nothing of
 * them is pinned. (In other programs they are as small as can be.) */
#pragma once
#include "config.h"
#include "maps.h"
#include "pkt.h"
#include "trace.h"

/* Daemon writes, programs read. One word: the window of time until which packets are captured << 32 | which filter is in force. */
MAP(capture_control, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1);

/* Daemon writes the one that isn't in force, programs read. */
MAP(capture_filters, BPF_MAP_TYPE_ARRAY, __u32, struct capture_filter, 2);

/* Programs write, daemon reads. One entry. */
MAP(capture_totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct capture_totals, 1);

/* Programs write, daemon takes out: struct captured, and the bytes behind it. Full, or no daemon: counted as lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} captures SEC(".maps");

/* The packet that a CPU has in hand. */
struct capture_place {
	struct captured head;
	__u8 frames[2 * CAPTURE_SNAP]; /* as it came, and directly behind that as it leaves */
	__u64 fact[CAPTURE_FACTS];
	__u64 address[2][2];
	__u32 window, told;            /* so many in this window of time */
	__u32 filter, pad;
};

/* Programs only. Index: 2 * cpu + enum pkt_place. */
MAP(capture_places, BPF_MAP_TYPE_ARRAY, __u32, struct capture_place, 1);

static __always_inline struct capture_place *capture_place(const struct pkt *p)
{
	__u32 key = 2 * bpf_get_smp_processor_id() + (p->way == WAY_OUT ? PKT_SENT : PKT_RECEIVED);

	return bpf_map_lookup_elem(&capture_places, &key);
}

struct find_readers {
	const struct capture_filter *filter;
	const struct capture_place *place;
	__u32 at;
	__u32 readers; /* a bit each */
};

static __always_inline bool capture_holds(const struct capture_test *test, const struct capture_place *place)
{
	const __u64 *address;
	__u64 fact;

	if (test->kind == CAPTURE_NUMBER) {
		fact = place->fact[test->fact & (CAPTURE_FACTS - 1)];
		return test->value[0] <= fact && fact <= test->value[1];
	}
	address = place->address[test->fact & 1];
	return place->head.family == test->family && (address[0] & test->mask[0]) == test->value[0] && (address[1] & test->mask[1]) == test->value[1];
}

/* One step through the tests: 1 ends the loop. */
static long capture_step(__u64 i, void *arg)
{
	struct find_readers *f = arg;
	const struct capture_test *test = &f->filter->test[f->at & (CAPTURE_TESTS - 1)];

	if (test->kind == CAPTURE_END)
		return 1;
	if (test->kind == CAPTURE_TAKE) {
		f->readers |= 1u << (test->fact & 31);
		f->at = test->yes;
		return 0;
	}
	f->at = capture_holds(test, f->place) ? test->yes : test->no;
	return 0;
}

/* Whose expression holds. Tests only lead forward, so that there are no more steps than tests. */
static __always_inline __u32 capture_readers(const struct capture_filter *filter, const struct capture_place *place, __u32 begin)
{
	struct find_readers f = {.filter = filter, .place = place, .at = begin};

	bpf_loop(CAPTURE_TESTS, capture_step, &f, 0);
	return f.readers;
}

/* Copy the frame as it is now; how many bytes of it. */
static __always_inline __u32 capture_frame(ctx_t *ctx, void *to, __u32 snap)
{
	__u32 bytes = ctx_length(ctx);

	if (bytes > snap)
		bytes = snap;
	asm volatile("" : "+r"(bytes)); /* clang knows what the mask does; the verifier of Linux 6.1 must see it */
	bytes = ((bytes - 1) & (CAPTURE_SNAP - 1)) + 1;
	return ctx_load(ctx, to, bytes) ? 0 : bytes;
}

static __always_inline struct capture_totals *count_captures(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&capture_totals, &zero);
}

/* A packet comes, and is parsed as far as it can be: keep it if somebody may want it. (Global functions are verified once, each on its
 * own: see parse_any().) */
__noinline int capture_before(ctx_t *ctx, struct pkt *p)
{
	const struct capture_filter *filter;
	struct capture_place *place;
	__u32 zero = 0, which;
	__u64 *word;

	if (!cfg_capture)
		return 0;
	word = bpf_map_lookup_elem(&capture_control, &zero);
	if (!p || !word || (__s32)((*word >> 32) - (__u32)(bpf_ktime_get_coarse_ns() >> WATCH_SHIFT)) < 0) /* the daemon is gone */
		return 0;
	which = *word & 1;
	filter = bpf_map_lookup_elem(&capture_filters, &which);
	place = capture_place(p);
	if (!filter || !place)
		return 0;
	place->filter = which;
	__builtin_memcpy(&place->head.key, &p->key, sizeof(p->key));
	place->address[0][0] = addr64(p->key.saddr)[0];
	place->address[0][1] = addr64(p->key.saddr)[1];
	place->address[1][0] = addr64(p->key.daddr)[0];
	place->address[1][1] = addr64(p->key.daddr)[1];
	place->head.family = FAMILY_COUNT;
	if (place->address[0][0] | place->address[0][1] | place->address[1][0] | place->address[1][1])
		place->head.family = p->family;
	place->head.way = p->way;
	place->head.ifindex = ctx_ifindex(ctx);
	place->head.length = ctx_length(ctx);
	place->head.be_vlan_proto = place->head.vlan_tci = 0;
	place->fact[CAPTURE_LENGTH] = place->head.length;
#ifdef HOOK_TC
	if (ctx->vlan_present) {
		place->head.be_vlan_proto = ctx->vlan_proto;
		place->head.vlan_tci = ctx->vlan_tci;
		place->fact[CAPTURE_LENGTH] += 4; /* which the kernel has taken out */
	}
#endif
	place->fact[CAPTURE_SPORT] = bpf_ntohs(p->key.be_sport);
	place->fact[CAPTURE_DPORT] = bpf_ntohs(p->key.be_dport);
	place->fact[CAPTURE_PROTO] = p->key.proto;
	place->fact[CAPTURE_VLAN] = p->key.tag & FLOW_VLAN_MASK;
	place->fact[CAPTURE_INTERFACE] = place->head.ifindex;
	place->fact[CAPTURE_DIRECTION] = p->way == WAY_OUT;
	if (!capture_readers(filter, place, filter->before))
		return 0;
	place->head.time = clock_now();
	place->head.before = capture_frame(ctx, place->frames, filter->snap);
	p->captured = place->head.before != 0;
	return 0;
}

/* Whether one more may be told in this window of time. */
static __always_inline bool may_capture(struct capture_place *place)
{
	__u32 window = bpf_ktime_get_coarse_ns() >> WATCH_SHIFT;

	if (place->window != window) {
		place->window = window;
		place->told = 0;
	}
	return place->told++ < CAPTURE_RATE;
}

/* Such a packet leaves: tell of it if somebody wants it, with what gardu sends in its stead. */
__noinline int capture_after(ctx_t *ctx, struct pkt *p, __u32 reason, __u32 verdict)
{
	const struct capture_filter *filter;
	struct capture_totals *totals;
	struct capture_place *place;
	__u32 bytes, more = 0;

	if (!cfg_capture)
		return 0;
	totals = count_captures();
	place = p ? capture_place(p) : NULL;
	if (!p || !place || !totals || !p->captured)
		return 0;
	filter = bpf_map_lookup_elem(&capture_filters, &place->filter);
	if (!filter)
		return 0;
	place->fact[CAPTURE_VERDICT] = verdict;
	place->fact[CAPTURE_REASON] = reason;
	place->fact[CAPTURE_RULE] = p->filtered ? p->rule : DECIDER_DEFAULT;
	place->fact[CAPTURE_SERVICE] = p->service;
	place->fact[CAPTURE_BACKEND] = p->backend;
	place->head.readers = capture_readers(filter, place, filter->after);
	if (!place->head.readers)
		return 0;
	if (!may_capture(place)) {
		totals->refused++;
		return 0;
	}
	place->head.packets = p->segments;
	place->head.decider = place->fact[CAPTURE_RULE];
	place->head.service = p->service;
	place->head.backend = p->backend;
	place->head.mirrors = p->mirrors;
	place->head.reason = reason;
	place->head.out_ifindex = place->head.out_length = 0;
	place->head.be_out_vlan_proto = place->head.out_vlan_tci = 0;
	bytes = place->head.before;
	asm volatile("" : "+r"(bytes)); /* as in capture_frame() */
	bytes = ((bytes - 1) & (CAPTURE_SNAP - 1)) + 1;
	if (p->out_ifindex && verdict != VERDICT_DROP) {
		place->head.out_ifindex = p->out_ifindex;
		place->head.out_length = ctx_length(ctx);
#ifdef HOOK_TC
		if (ctx->vlan_present) {
			place->head.be_out_vlan_proto = ctx->vlan_proto;
			place->head.out_vlan_tci = ctx->vlan_tci;
		}
#endif
		more = capture_frame(ctx, place->frames + bytes, filter->snap);
	}
	place->head.after = more;
	asm volatile("" : "+r"(more));
	more &= 2 * CAPTURE_SNAP - 1;
	if (more > CAPTURE_SNAP)
		more = CAPTURE_SNAP;
	if (bpf_ringbuf_output(&captures, &place->head, sizeof(place->head) + bytes + more, 0))
		totals->lost++;
	else
		totals->sent++;
	return 0;
}
