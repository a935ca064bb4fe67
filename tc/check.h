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

/* What has the mark and is no check must not be taken for a received packet, as everything else that is sent to the loopback is. */
static __always_inline int check(ctx_t *ctx, struct pkt *p)
{
	if (parse(ctx, p))
		return ACTION_DROP;
	p->backend = checked_backend(p);
	if (!p->backend || forward_to(ctx, p) != REASON_FORWARD)
		return ACTION_DROP;
	return p->action;
}
