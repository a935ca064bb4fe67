/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Finding a service. TABLE_SERVICES in bpf/abi.h says how the table is laid out. */
#pragma once
#include "../bpf/pkt.h"
#include "../bpf/table.h"

static __always_inline bool service_fits(const struct service_record *service, const struct pkt *p)
{
	__u16 port = bpf_ntohs(p->key.be_dport);

	if (service->proto != p->key.proto && service->proto != PROTO_ANY)
		return false;
	return service->port_lo <= port && port <= service->port_hi;
}

/* What can be for a service as such, by ports or, without such a thing, by addresses. ICMP is no protocol of a service's: pings are
 * answered, errors belong to the flow that they are about, and the rest is the kernel's. */
static __always_inline bool is_balanced(const struct pkt *p)
{
	if (p->has & HAS_PORTS)
		return true;
	return !has_ports(p->key.proto) && !is_icmp(p);
}

enum { NO_SERVICE = 0xffffffff };

/* A search for an address, or for a service by address, protocol and port. */
struct find_service {
	void *services;
	struct services_head *head;
	const struct pkt *p;
	__u64 hi, lo; /* the address, or what the level leaves of it */
	__u64 hash;
	__u32 chain, left;
	__u32 found;  /* record, or NO_SERVICE */
	bool by_port; /* look for the service, not only for the address */
	bool address; /* some service has this address */
	bool single;  /* some service may have it alone, not as one of a prefix */
	__u8 flags;   /* of all services with it */
	__u8 cut;     /* of the level; 0: the whole address */
};

static __always_inline void service_try(struct find_service *f, __u32 index)
{
	struct service_record *service = line_at(f->services, f->head->service_off + index);

	if (!service || service->addr[0] != f->hi || service->addr[1] != f->lo || service->family != f->p->family ||
	    service->cut != f->cut)
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

/* Whether an address, or the beginning of one, can be a service's: one bit, for the packets that are for none. */
static __always_inline bool service_filter(const struct find_service *f)
{
	__u32 bit = mix(mix(MIX_SEED, f->hi ^ f->lo), f->p->family | f->cut << 8) >> 32 & f->head->filter_mask;

	return word_at(f->services, f->head->filter_off, bit / 64) >> bit % 64 & 1;
}

/* The services of hi, lo: first those of one port, of which one is enough. */
static __always_inline void service_here(struct find_service *f)
{
	const struct pkt *p = f->p;
	__u64 meta = (__u64)bpf_ntohs(p->key.be_dport) << 16 | p->key.proto << 8 | p->family, h = mix(mix(MIX_SEED, f->hi), f->lo);

	if (f->by_port && p->has & HAS_PORTS)
		service_bucket(f, mix(mix(h, meta), 1 | f->cut << 8));
	if (f->found == NO_SERVICE)
		service_bucket(f, mix(mix(h, p->family), 2 | f->cut << 8));
}

/* The prefixes of one length: 1 ends the loop. */
static long service_level(__u64 i, void *arg)
{
	struct find_service *f = arg;
	struct service_level *level = line_at(f->services, f->head->level_off + i);

	if (!level || i >= f->head->levels)
		return 1;
	if (level->family != f->p->family)
		return 0;
	f->hi &= level->mask[0]; /* of what the longer ones left */
	f->lo &= level->mask[1];
	f->cut = level->cut;
	if (service_filter(f))
		service_here(f);
	return f->found != NO_SERVICE;
}

/* Where an address is looked up. False: no service has it. */
static __always_inline bool service_at(struct find_service *f, const __u8 *addr)
{
	f->hi = addr_hi(addr);
	f->lo = addr_lo(addr);
	f->single = service_filter(f);
	return f->single || f->head->levels;
}

static __always_inline void service_search(struct find_service *f)
{
	if (f->single)
		service_here(f);
	if (f->found == NO_SERVICE && f->head->levels)
		bpf_loop(SERVICE_LEVELS, service_level, f, 0);
}

/* Is the address where f looks a service's, and with which flags? */
static __always_inline bool service_address(struct find_service *f)
{
	service_search(f);
	return f->address;
}

/* The service that the packet is for: f->found. */
static __always_inline void service_of(struct find_service *f)
{
	f->by_port = true;
	service_search(f);
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

/* Can a packet be for a service? Mostly not, if it is for none: then no table is asked. What has no ports is for balance() to tell. */
static __always_inline bool may_be_for_service(const struct control *c, const struct pkt *p)
{
	return (p->has & (HAS_PORTS | IS_FRAGMENT)) != HAS_PORTS || c->service_hints[address_hint(p->key.daddr)];
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
	if (!is_balanced(p) || !services_open(&f, p) || !service_at(&f, p->key.daddr))
		return 0;
	service_of(&f);
	if (f.found == NO_SERVICE)
		return 0;
	service = line_at(f.services, f.head->service_off + f.found);
	if (!service)
		return 0;
	p->service_place = ASKED_FOUND + f.found;
	p->asked_service = service->id;
	return 0;
}
