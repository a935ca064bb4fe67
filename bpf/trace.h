/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What explain is told. Without cfg_trace the verifier removes every call. */
#pragma once
#include "config.h"
#include "maps.h"

static __always_inline struct trace *trace_now(void)
{
	__u32 zero = 0;

	return cfg_trace ? bpf_map_lookup_elem(&trace, &zero) : NULL;
}

/* CLOCK_MONOTONIC, or what a test says that it is. */
static __always_inline __u64 clock_now(void)
{
	struct trace *now = trace_now();

	return now && now->clock ? now->clock : bpf_ktime_get_ns();
}

static __always_inline void trace_step(enum step step, __u16 result, __u32 arg)
{
	struct trace *now = trace_now();
	__u32 i;

	if (!now)
		return;
	i = now->steps;
	if (i >= TRACE_STEPS)
		return;
	now->step[i].step = step;
	now->step[i].result = result;
	now->step[i].arg = arg;
	now->steps = i + 1;
}

static __always_inline void trace_flow(const struct flow_key *key)
{
	struct trace *now = trace_now();

	if (now)
		__builtin_memcpy(&now->flow, key, sizeof(*key));
}
