/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* QUIC: a client may change its address and port in the middle of a connection, and only the connection ID stays what it was, or is another
 * one of those that the server gave. Servers that put their server ID into theirs, as draft-ietf-quic-load-balancers wants it (plaintext
 * algorithm), get all packets of their connections, whatever flow these belong to. What names nobody goes by flow and ring.
 */
#pragma once
#include "services.h"

enum {
	QUIC_LONG = 0x80,    /* first byte: a long header (RFC 8999, section 5.1) */
	QUIC_TYPE = 0x30,    /* of a long header */
	QUIC_V1 = 1,         /* RFC 9000 */
	QUIC_V2 = 0x6b3343cf, /* RFC 9369, which has other numbers for the types */
	QUIC_NONCE = 4,      /* bytes that follow a server ID at the least */
	QUIC_KATRAN_ID = 8,  /* bytes of a connection ID of katran's */
	QUIC_HEAD = 24,      /* bytes that are looked at. A packet with an ID that names a server is longer: 20 bytes follow the ID (RFC 9001, section 5.4.2) */
};

struct udp_quic {
	struct udp_header udp;
	__u8 first;
	union {
		__u8 short_id[QUIC_HEAD - 1];
		struct {
			__be32 be_version;
			__u8 bytes; /* of the destination connection ID */
			__u8 id[QUIC_HEAD - 6];
		} __attribute__((packed));
	} __attribute__((packed));
} __attribute__((packed));

/* A server ID and where it is looked up. */
struct find_server {
	__u64 hi, lo;
	__u16 service;
};

/* An Initial or 0-RTT packet, whose connection ID the client made up unless the server has answered already. By its flow and the ring it
 * gets to the same server as those before it. */
static __always_inline bool of_client(const struct udp_quic *q)
{
	__u8 type = (q->first & QUIC_TYPE) >> 4;

	if (q->be_version == bpf_htonl(QUIC_V1))
		return type <= 1;
	return q->be_version == bpf_htonl(QUIC_V2) && (type == 1 || type == 2);
}

/* The server ID of a packet for a service with connection IDs of the form `quic`. */
static __always_inline enum cid server_named(ctx_t *ctx, const struct pkt *p, struct find_server *f)
{
	struct udp_quic *q = ctx_at(ctx, p->l4);
	__u32 bytes = p->quic & QUIC_ID_BYTES, least = p->quic & QUIC_KATRAN ? QUIC_KATRAN_ID : 1 + bytes + QUIC_NONCE;
	__u8 *id, mask = p->quic & QUIC_KATRAN ? 6 : 7;

#ifdef HOOK_TC
	if ((void *)(q + 1) > ctx_data_end(ctx) && ctx->len >= p->l4 + sizeof(*q)) {
		bpf_skb_pull_data(ctx, p->l4 + sizeof(*q));
		q = ctx_at(ctx, p->l4);
	}
#endif
	if ((void *)(q + 1) > ctx_data_end(ctx) || p->length - (p->l4 - p->l3) < sizeof(*q) || bpf_ntohs(q->udp.be_length) < sizeof(*q))
		return CID_NONE;
	id = q->short_id;
	if (q->first & QUIC_LONG) {
		if (of_client(q))
			return CID_OF_CLIENT;
		if (q->bytes < least)
			return CID_NONE;
		id = q->id;
	}
	if ((*id >> 5 ^ p->quic >> 4) & mask)
		return CID_OTHER_CONFIG;
	f->hi = bpf_be64_to_cpu(*(__u64 *)(id + 1));
	f->lo = bpf_be64_to_cpu(*(__u64 *)(id + 9));
	if (bytes <= 8) {
		f->hi &= ~0ull << (64 - 8 * bytes & 63);
		f->lo = 0;
	} else {
		f->lo &= ~0ull << (128 - 8 * bytes & 63);
	}
	return CID_NAMED;
}

/* The backend that has a server ID; 0: none. */
static __always_inline __u16 server_of(const struct find_server *f, __u32 generation)
{
	void *services = table_of(generation, TABLE_SERVICES);
	struct services_head *head;
	struct server_id *server;
	struct bucket *bucket;
	__u32 tag, at;
	__u64 h;

	head = services ? line_at(services, 0) : NULL;
	if (!head || !head->server_off)
		return 0;
	h = mix(mix(mix(MIX_SEED, f->hi), f->lo), f->service | (__u64)head->server_salt << 32);
	for (int hop = 0; hop < BUCKET_HOPS; hop++) {
		at = (__u32)h + hop & head->server_bucket_mask;
		bucket = line_at(services, head->server_bucket_off + at);
		if (!bucket)
			return 0;
		for (int k = 0; k < BUCKET_SLOTS; k++) {
			tag = bucket->slot[k].tag & ~BUCKET_OVERFLOW;
			if (!tag)
				return 0;
			if (tag != BUCKET_TAG(h))
				continue;
			server = line_at(services, head->server_off + (bucket->slot[k].ref & ~REF_SINGLE));
			if (server && server->id[0] == f->hi && server->id[1] == f->lo && server->service == f->service)
				return server->backend;
		}
		if (!(bucket->slot[0].tag & BUCKET_OVERFLOW))
			return 0;
	}
	return 0;
}

/* Send a packet to the server that its connection ID names, if it names one that is up: p->backend is where flow or ring would
 * send it, unless `sent` says that they know nobody. (Global functions are verified once, each on its own: see parse_any().) */
__noinline int quic_route(ctx_t *ctx, struct pkt *p, int sent)
{
	struct find_server f = {};
	enum cid said;
	__u16 own = 0;

	if (!p || (sent != REASON_FORWARD && sent != REASON_NO_BACKEND))
		return sent;
	if (p->key.proto != PROTO_UDP || (p->has & (HAS_PORTS | IS_FRAGMENT)) != HAS_PORTS)
		return sent;
	f.service = p->service;
	said = server_named(ctx, p, &f);
	if (said == CID_NAMED) {
		own = server_of(&f, p->generation);
		said = own ? CID_NAMED : CID_UNKNOWN;
	}
	if (said == CID_NAMED && !backend_of(own, p->service))
		said = CID_DOWN;
	trace_step(STEP_CID, said, own);
	if (said != CID_NAMED)
		return sent;
	p->named = 1;
	if (sent == REASON_NO_BACKEND)
		p->new_flow = 1;
	if (p->backend != own)
		p->remembered = 0; /* the flow's record is to know */
	p->backend = own;
	return REASON_FORWARD;
}
