/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Finding a service. TABLE_SERVICES in bpf/abi.h says how the table is laid out. */
#pragma once
#include "../bpf/pkt.h"
#include "../bpf/table.h"

static __always_inline bool service_fits(const struct service_record *service, const struct pkt *p)
{
	__u16 port = bpf_ntohs(p->key.be_dport);

	return service->proto == p->key.proto && service->port_lo <= port && port <= service->port_hi;
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

/* The service that a packet with ports is for: f->found. */
static __always_inline void service_by_port(struct find_service *f)
{
	const struct pkt *p = f->p;
	__u64 meta = (__u64)bpf_ntohs(p->key.be_dport) << 16 | p->key.proto << 8 | p->family;

	f->by_port = true;
	service_bucket(f, mix(mix(mix(mix(MIX_SEED, f->hi), f->lo), meta), 1));
	if (f->found == NO_SERVICE)
		service_bucket(f, mix(mix(mix(mix(MIX_SEED, f->hi), f->lo), p->family), 2));
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

/* A backend that a flow is on, while it lives and still belongs to the service. */
static __always_inline struct backend *backend_of(__u16 id, __u16 service)
{
	__u32 key = id;
	struct backend *backend = bpf_map_lookup_elem(&backends, &key);

	if (!id || !backend || !(backend->state & BACKEND_UP) || backend->service != service)
		return NULL;
	return backend;
}

/* Rules ask for the service: look it up, once for them and for balance(). */
__noinline int ask_service(struct pkt *p)
{
	struct service_record *service;
	struct find_service f = {};

	if (!p)
		return 0;
	p->service_place = ASKED_NONE;
	p->asked_service = 0;
	if (!(p->has & HAS_PORTS) || !services_open(&f, p))
		return 0;
	f.hi = addr_hi(p->key.daddr);
	f.lo = addr_lo(p->key.daddr);
	if (!service_filter(f.services, f.head, p->family, f.hi, f.lo))
		return 0;
	service_by_port(&f);
	if (f.found == NO_SERVICE)
		return 0;
	service = line_at(f.services, f.head->service_off + f.found);
	if (!service)
		return 0;
	p->service_place = ASKED_FOUND + f.found;
	p->asked_service = service->id;
	return 0;
}
