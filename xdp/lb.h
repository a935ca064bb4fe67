/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Services: find the service, choose the backend, find the way, hand over to the mode. */
#pragma once
#include "../bpf/flow.h"
#include "../bpf/trace.h"
#include "answer.h"
#include "fragments.h"
#include "lb_modes.h"
#include "services.h"

enum {
	RING_TRIES = 4, /* other slots tried when a backend died and its ring isn't rebuilt yet */
};

/* Choose a backend from the ring. Two boxes with the same configuration choose alike. */
static __always_inline __u16 ring_choose(struct service_record *service, const struct pkt *p)
{
	__u32 ring_id = service->ring, slot;
	void *ring = bpf_map_lookup_elem(&rings, &ring_id);
	__u16 id;
	__u64 h;

	if (!ring)
		return 0;
	if (service->flags & SERVICE_AFFINITY_SOURCE)
		h = mix(mix(MIX_SEED, addr_hi(p->key.saddr)), addr_lo(p->key.saddr));
	else
		h = flow_mix(p);
	for (int i = 0; i < RING_TRIES; i++) {
		slot = (h >> 32) * service->ring_size >> 32;
		id = u16_at(ring, 0, slot);
		if (backend_of(id, service->id))
			return id;
		h = mix(h, i);
	}
	return 0;
}

/* The kernel's own answer to "how do I get there", when the daemon has not found it out yet. */
static __always_inline bool hop_from_fib(ctx_t *ctx, struct hop *hop)
{
	struct bpf_fib_lookup fib = {.ifindex = ctx_ifindex(ctx)};

	if (hop->family == FAMILY_V4) {
		fib.family = FAMILY_INET;
		fib.ipv4_src = ((__be32 *)hop->source)[3];
		fib.ipv4_dst = ((__be32 *)hop->address)[3];
	} else {
		fib.family = FAMILY_INET6;
		__builtin_memcpy(fib.ipv6_src, hop->source, 16);
		__builtin_memcpy(fib.ipv6_dst, hop->address, 16);
	}
	if (hop->mode != MODE_DSR && !(addr64(hop->source)[0] | addr64(hop->source)[1]))
		return false; /* what a tunnel sends from nowhere is lost on the way */
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	__builtin_memcpy(hop->macs, fib.dmac, 6);
	__builtin_memcpy(hop->macs + 6, fib.smac, 6);
	hop->ifindex = fib.ifindex;
	hop->mtu = 0;
	hop->vlan = 0;
	return true;
}

/* Copy a backend's entry. The daemon makes seq odd while it writes: a copy that may be torn asks the FIB. */
static __always_inline bool hop_of(ctx_t *ctx, struct backend *backend, struct hop *hop)
{
	__u32 seq = READ_ONCE(backend->seq);
	__u8 state = backend->state;

	copy_address(hop->address, backend->address);
	copy_address(hop->source, backend->source);
	copy_macs(hop->macs, backend->dmac);
	hop->ifindex = backend->ifindex;
	hop->mtu = backend->mtu;
	hop->vlan = backend->vlan;
	hop->mode = backend->mode;
	hop->family = backend->family;
	barrier();
	if (state & BACKEND_HOP && !(seq & 1) && seq == READ_ONCE(backend->seq))
		return true;
	return hop_from_fib(ctx, hop);
}

/* Send a packet to p->backend. (Global functions are verified once, each on its own: see parse_any().) */
__noinline int forward_to(ctx_t *ctx, struct pkt *p)
{
	struct backend *backend;
	struct hop hop;
	__u32 key;
	bool found;

	if (!p)
		return REASON_NO_BACKEND;
	key = p->backend;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend)
		return REASON_NO_BACKEND;
	found = hop_of(ctx, backend, &hop);
	if (p->translated != NAT_MADE && p->translated != NAT_ERROR_WRITTEN) /* told already */
		trace_step(STEP_NEXT_HOP, found, hop.ifindex);
	return found ? forward(ctx, p, &hop) : REASON_NO_NEXT_HOP;
}

/* What becomes of a packet whose flow is on a backend that is down; REASON_NONE: it goes to another one. TCP alone, which shows where
 * a flow begins anew: other flows would never get away. */
static __always_inline enum reason lost_with(struct pkt *p, __u16 id, __u16 service)
{
	struct backend *backend;
	__u32 key = id;

	if (!cfg_down || !id || p->key.proto != PROTO_TCP || p->has & IS_SYN)
		return REASON_NONE;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend || backend->state & BACKEND_UP || backend->service != service)
		return REASON_NONE;
	if (!(backend->state & (BACKEND_DOWN_DROP | BACKEND_DOWN_RESET)))
		return REASON_NONE;
	p->backend = id;
	p->new_flow = 0;
	trace_step(STEP_BACKEND, 0, id);
	return backend->state & BACKEND_DOWN_DROP ? REASON_BACKEND_DOWN : REASON_BACKEND_RESET;
}

static __always_inline enum reason choose_backend(struct pkt *p, struct flow_value *flow, struct service_record *service)
{
	enum reason lost;

	p->service = service->id;
	p->quic = service->quic;
	trace_step(STEP_SERVICE, 1, service->id);
	/* A SYN on a flow that was closed is a new flow with an old name. */
	if (flow && !(p->has & IS_SYN && flow->state & FLOW_STATE_CLOSED) && backend_of(flow->backend, service->id)) {
		p->backend = flow->backend;
	} else {
		lost = flow ? lost_with(p, flow->backend, service->id) : REASON_NONE;
		if (lost)
			return lost;
		p->backend = ring_choose(service, p);
		p->new_flow = p->backend != 0;
	}
	trace_step(STEP_BACKEND, p->backend != 0, p->backend);
	return p->backend ? REASON_FORWARD : REASON_NO_BACKEND;
}

/* A packet that the filter passed: its service's (REASON_FORWARD, with p->backend), ours to answer, or the kernel's (REASON_NONE). */
__noinline int balance(ctx_t *ctx, struct pkt *p, struct flow_value *flow)
{
	struct find_service f = {};
	struct service_record *service;

	if (!p || !services_open(&f, p))
		return REASON_NONE;
	if (is_solicitation(p)) {
		__u8 target[16] __attribute__((aligned(8)));

		if (solicited(ctx, p, target) && service_at(&f, target) && service_address(&f) && f.flags & SERVICE_ARP)
			return answer_solicitation(ctx, p);
		return REASON_NONE;
	}
	if (!service_at(&f, p->key.daddr))
		return REASON_NONE;
	if (is_balanced(p)) {
		if (cfg_asked && p->service_place && !(p->has & IS_FRAGMENT))
			f.found = p->service_place >= ASKED_FOUND ? p->service_place - ASKED_FOUND : NO_SERVICE;
		else
			service_of(&f);
		if (f.found == NO_SERVICE && f.address && p->has & HAS_PORTS && p->has & IS_FRAGMENT)
			note_first(p); /* those that follow are the kernel's, too */
		if (f.found == NO_SERVICE)
			return REASON_NONE;
		p->service_place = ASKED_FOUND + f.found; /* who makes a translation asks for it */
		service = line_at(f.services, f.head->service_off + f.found);
		return service ? choose_backend(p, flow, service) : REASON_NO_TABLES;
	}
	if (!service_address(&f))
		return REASON_NONE;
	if (ports_missing(p))
		return REASON_SERVICE_FRAGMENT;
	return is_ping(p) && !(p->has & IS_FRAGMENT) ? answer_ping(ctx, p) : REASON_NONE;
}

/* A later fragment goes where the first one went, if that is still the flow's service. When that isn't known, neither
 * are the ports; what has none goes by the flow of later fragments. (Likewise.) */
__noinline int balance_later(ctx_t *ctx, struct pkt *p, struct flow_value *flow)
{
	struct fragment *first;
	struct control *c;
	__u32 zero = 0;
	__u16 own;
	int sent;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c)
		return REASON_NONE;
	first = first_of(p, c);
	if (!first) {
		sent = balance(ctx, p, flow);
		p->new_flow = 0;
		return sent;
	}
	own = first->backend;
	p->key.be_sport = first->be_sport;
	p->key.be_dport = first->be_dport;
	p->has = has_ports(p->key.proto) ? HAS_PORTS : 0;
	p->service_place = ASKED_NOT;

	sent = balance(ctx, p, NULL);
	if (backend_of(own, p->service)) {
		p->backend = own;
		sent = REASON_FORWARD;
		trace_step(STEP_BACKEND, 1, own);
	}
	p->new_flow = 0;

	p->key.be_sport = p->key.be_dport = 0;
	p->has = IS_FRAGMENT | IS_LATER;
	return sent;
}

/* A request for a service address is answered, all else is the kernel's. */
static __always_inline enum reason balance_arp(ctx_t *ctx, struct pkt *p)
{
	struct find_service f = {};
	__u8 target[16] __attribute__((aligned(8))) = {};

	if (!services_open(&f, p) || !arp_asked(ctx, p, target))
		return REASON_NOT_IP;
	if (service_at(&f, target) && service_address(&f) && f.flags & SERVICE_ARP)
		return answer_arp(ctx, p);
	return REASON_NOT_IP;
}
