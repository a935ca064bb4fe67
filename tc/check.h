/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The daemon's health checks of a service address: each goes to the backend that it checks, by the functions that take packets of
 * clients there. Their sockets are marked, and what has the mark is routed to the loopback, where this sits at egress. So it
 * doesn't matter whether the machine has a route to the service address, or a neighbour for it. */
#pragma once
#include "../xdp/lb.h"

/* The backend that a packet checks; 0: it is none of the checks under way. */
static __always_inline __u16 checked_backend(const struct pkt *p)
{
	struct health_key key = {
		.be_lport = p->key.be_sport,
		.be_rport = p->key.be_dport,
		.proto = p->key.proto,
		.family = p->family,
	};
	__u32 *backend;

	copy_address(key.laddr, p->key.saddr);
	copy_address(key.raddr, p->key.daddr);
	backend = bpf_map_lookup_elem(&health_flows, &key);
	return backend ? *backend : 0;
}

/* To who captures, it is what the service's packets to that backend are, but that this machine sends it. */
static __always_inline void capture_check(ctx_t *ctx, struct pkt *p)
{
	struct backend *backend;
	__u32 key = p->backend;

	backend = bpf_map_lookup_elem(&backends, &key);
	p->service = backend ? backend->service : 0;
	p->way = WAY_OUT;
	capture_before(ctx, p);
}

/* What has the mark and is no check must not be taken for a received packet, as everything else that is sent to the loopback is. */
static __always_inline int check(ctx_t *ctx, struct pkt *p)
{
	enum reason reason;

	if (parse(ctx, p))
		return ACTION_DROP;
	p->backend = checked_backend(p);
	if (!p->backend)
		return ACTION_DROP;
	if (cfg_capture)
		capture_check(ctx, p);
	reason = forward_to(ctx, p);
	if (reason != REASON_FORWARD)
		p->out_ifindex = 0; /* an error message about a check has nobody to go to */
	if (cfg_capture && p->captured)
		capture_after(ctx, p, reason, verdict_of(reason));
	return reason == REASON_FORWARD ? p->action : ACTION_DROP;
}
