/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Services: find the service, choose the backend, find the way, hand over to the mode. */
#pragma once
#include "../bpf/flow.h"
#include "../bpf/trace.h"
#include "answer.h"
#include "lb_modes.h"

enum {
	RING_TRIES = 4, /* other slots tried when a backend died and its ring isn't rebuilt yet */
	FAMILY_INET = 2,
	FAMILY_INET6 = 10,
};

static __always_inline bool service_fits(const struct service_record *service, const struct pkt *p)
{
	__u16 port = bpf_ntohs(p->key.be_dport);

	return service->proto == p->key.proto && service->port_lo <= port && port <= service->port_hi;
}

/* Choose a backend from the ring. Two boxes with the same configuration choose alike: no secret in the hash. */
static __always_inline __u16 ring_choose(struct services_head *head, struct service_record *service, const struct pkt *p)
{
	__u32 ring_id = service->ring, slot;
	void *ring = bpf_map_lookup_elem(&rings, &ring_id);
	__u64 h = mix(mix(MIX_SEED, addr_hi(p->key.saddr)), addr_lo(p->key.saddr));
	struct backend *backend;
	__u32 id = 0;

	if (!ring)
		return 0;
	if (!(service->flags & SERVICE_AFFINITY_SOURCE)) {
		h = mix(mix(h, addr_hi(p->key.daddr)), addr_lo(p->key.daddr));
		h = mix(h, (__u64)bpf_ntohs(p->key.be_sport) << 32 | (__u32)bpf_ntohs(p->key.be_dport) << 16 | p->key.proto);
	}
	for (int i = 0; i < RING_TRIES; i++) {
		slot = (h >> 32) * head->ring_size >> 32;
		id = u16_at(ring, 0, slot);
		backend = bpf_map_lookup_elem(&backends, &id);
		if (id && backend && backend->state & BACKEND_UP)
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
	if (hop->mode == MODE_IPIP && !(addr64(hop->source)[0] | addr64(hop->source)[1]))
		return false; /* what a tunnel sends from nowhere is lost on the way */
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	__builtin_memcpy(hop->macs, fib.dmac, 6);
	__builtin_memcpy(hop->macs + 6, fib.smac, 6);
	hop->ifindex = fib.ifindex;
	hop->mtu = 0;
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
	trace_step(STEP_NEXT_HOP, found, hop.ifindex);
	return found ? forward(ctx, p, &hop) : REASON_NO_NEXT_HOP;
}

/* A backend that a flow is on, while it lives and still belongs to the service. */
static __always_inline struct backend *backend_of(__u16 id, __u16 service)
{
	__u32 key = id;
	struct backend *backend = bpf_map_lookup_elem(&backends, &key);

	if (!id || !backend || !(backend->state & BACKEND_UP) || backend->service != service)
		return NULL;
	return backend;
}

static __always_inline enum reason choose_backend(struct pkt *p, struct flow_value *flow, struct services_head *head,
						  struct service_record *service)
{
	struct backend *backend = NULL;

	p->service = service->id;
	trace_step(STEP_SERVICE, 1, service->id);
	/* A SYN on a flow that was closed is a new flow with an old name. */
	if (flow && !(p->has & IS_SYN && flow->state & FLOW_STATE_CLOSED))
		backend = backend_of(flow->backend, service->id);
	if (backend) {
		p->backend = flow->backend;
	} else {
		p->backend = ring_choose(head, service, p);
		p->new_flow = 1;
		backend = backend_of(p->backend, service->id);
	}
	trace_step(STEP_BACKEND, !!backend, p->backend);
	if (!backend) {
		p->backend = 0;
		p->new_flow = 0;
		return REASON_NO_BACKEND;
	}
	return REASON_FORWARD;
}

enum { NO_SERVICE = 0xffffffff };

/* A search for an address, or for a service by address, protocol and port. */
struct find_service {
	void *services;
	struct services_head *head;
	const struct pkt *p;
	__u64 hi, lo;
	__u64 hash;
	__u32 chain, left;
	__u32 found;  /* record, or NO_SERVICE */
	bool by_port; /* look for the service, not only for the address */
	bool address; /* some service has this address */
	__u8 flags;   /* of all services with it */
};

static __always_inline void service_try(struct find_service *f, __u32 index)
{
	struct service_record *service = line_at(f->services, f->head->service_off + index);

	if (!service || service->addr[0] != f->hi || service->addr[1] != f->lo || service->family != f->p->family)
		return;
	f->address = true;
	f->flags |= service->flags;
	if (f->by_port && service_fits(service, f->p))
		f->found = index;
}

/* One record of a chain: 1 ends the loop. */
static long service_chain(__u64 i, void *arg)
{
	struct find_service *f = arg;

	if (f->found != NO_SERVICE || i >= f->left)
		return 1;
	service_try(f, u32_at(f->services, f->head->chain_off, f->chain + 1 + i));
	return 0;
}

/* One slot of the bucket that belongs to the hash, or of those that it overflows into: 1 ends the loop. */
static long service_slot(__u64 i, void *arg)
{
	struct find_service *f = arg;
	struct bucket *bucket = line_at(f->services, f->head->bucket_off + ((__u32)f->hash + i / BUCKET_SLOTS & f->head->bucket_mask));
	__u32 k = i % BUCKET_SLOTS, tag, ref;

	if (!bucket)
		return 1;
	tag = bucket->slot[k].tag & ~BUCKET_OVERFLOW;
	ref = bucket->slot[k].ref;
	if (tag == BUCKET_TAG(f->hash) && ref & REF_SINGLE) {
		service_try(f, ref & ~REF_SINGLE);
	} else if (tag == BUCKET_TAG(f->hash)) {
		f->chain = ref;
		f->left = u32_at(f->services, f->head->chain_off, ref);
		bpf_loop(SERVICE_IDS, service_chain, f, 0);
	}
	if (f->found != NO_SERVICE || !tag)
		return 1;
	return k == BUCKET_SLOTS - 1 && !(bucket->slot[0].tag & BUCKET_OVERFLOW);
}

static __always_inline void service_bucket(struct find_service *f, __u64 hash)
{
	f->hash = hash;
	bpf_loop(BUCKET_HOPS * BUCKET_SLOTS, service_slot, f, 0);
}

/* Whether an address can be a service's: one bit, for the packets that are for none. */
static __always_inline bool service_filter(void *services, struct services_head *head, __u8 family, __u64 hi, __u64 lo)
{
	__u32 bit = mix(mix(MIX_SEED, hi ^ lo), family) >> 32 & head->filter_mask;

	return word_at(services, head->filter_off, bit / 64) >> bit % 64 & 1;
}

/* Is `addr` a service address, and with which flags? */
static __always_inline bool service_address(struct find_service *f, const __u8 *addr)
{
	__u64 h;

	f->hi = addr_hi(addr);
	f->lo = addr_lo(addr);
	if (!service_filter(f->services, f->head, f->p->family, f->hi, f->lo))
		return false;
	h = mix(mix(mix(mix(MIX_SEED, f->hi), f->lo), f->p->family), 2);
	service_bucket(f, h);
	return f->address;
}

static __always_inline bool services_open(struct find_service *f, const struct pkt *p)
{
	f->services = table_of(p->generation, TABLE_SERVICES);
	if (!f->services)
		return false;
	f->head = line_at(f->services, 0);
	f->p = p;
	f->found = NO_SERVICE;
	return f->head && f->head->services;
}

/* The record of the service that a packet with ports is for, or NO_SERVICE. f->hi and f->lo are its destination. */
static __always_inline __u32 service_for(struct find_service *f)
{
	__u64 meta = (__u64)bpf_ntohs(f->p->key.be_dport) << 16 | f->p->key.proto << 8 | f->p->family;

	f->by_port = true;
	service_bucket(f, mix(mix(mix(mix(MIX_SEED, f->hi), f->lo), meta), 1));
	if (f->found == NO_SERVICE)
		service_bucket(f, mix(mix(mix(mix(MIX_SEED, f->hi), f->lo), f->p->family), 2));
	return f->found;
}

/* The id of the service that a packet is for, where some limit is per service; 0: none. */
__noinline int limited_service(const struct pkt *p)
{
	struct find_service f = {};
	struct service_record *service;
	struct rules_head *head;
	void *rules;

	if (!p || !(p->has & HAS_PORTS) || p->has & IS_FRAGMENT)
		return 0;
	rules = table_of(p->generation, TABLE_RULES);
	head = rules ? line_at(rules, p->way) : NULL;
	if (!head || !(head->flags & RULES_SERVICE) || !services_open(&f, p))
		return 0;
	f.hi = addr_hi(p->key.daddr);
	f.lo = addr_lo(p->key.daddr);
	if (!service_filter(f.services, f.head, p->family, f.hi, f.lo) || service_for(&f) == NO_SERVICE)
		return 0;
	service = line_at(f.services, f.head->service_off + f.found);
	return service ? service->id : 0;
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

		if (solicited(ctx, p, target) && service_address(&f, target) && f.flags & SERVICE_ARP)
			return answer_solicitation(ctx, p);
		return REASON_NONE;
	}
	f.hi = addr_hi(p->key.daddr);
	f.lo = addr_lo(p->key.daddr);
	if (!service_filter(f.services, f.head, p->family, f.hi, f.lo))
		return REASON_NONE;
	if (p->has & HAS_PORTS && !(p->has & IS_FRAGMENT)) {
		if (service_for(&f) == NO_SERVICE)
			return REASON_NONE;
		service = line_at(f.services, f.head->service_off + f.found);
		return service ? choose_backend(p, flow, f.head, service) : REASON_NO_TABLES;
	}
	if (!service_address(&f, p->key.daddr))
		return REASON_NONE;
	if (p->has & IS_FRAGMENT)
		return REASON_SERVICE_FRAGMENT;
	return is_ping(p) ? answer_ping(ctx, p) : REASON_NONE;
}

/* ARP is not judged by rules: a request for a service address is answered, all else is the kernel's. */
static __always_inline enum reason balance_arp(ctx_t *ctx, struct pkt *p)
{
	struct find_service f = {};
	__u8 target[16] __attribute__((aligned(8))) = {};

	if (!services_open(&f, p) || !arp_asked(ctx, p, target))
		return REASON_NOT_IP;
	if (service_address(&f, target) && f.flags & SERVICE_ARP)
		return answer_arp(ctx, p);
	return REASON_NOT_IP;
}
