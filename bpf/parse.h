/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Bytes to facts. The only place that checks header bounds on input. Whatever the bytes are, the answer is
 * REASON_NONE with a struct pkt that is true, REASON_NOT_IP, or REASON_MALFORMED.
 *
 * What is malformed: a header cut short, IP lengths that contradict each other or the frame, more than EXT_HEADERS
 * IPv6 extension headers, and a first or only fragment that doesn't hold its whole L4 header (RFC 1858, RFC 7112).
 */
#pragma once
#include "pkt.h"

enum {
	EXT_HEADERS = 8,
	LINEAR_BYTES = 512, /* tc: as much of a frame is made directly readable */
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_ARP = 0x0806,
	PROTO_HOPOPT = 0,
	PROTO_ICMP = 1,
	PROTO_IPIP = 4,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_IPV6 = 41,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_SCTP = 132,
	GUE_PORT = 6080, /* UDP, IANA */
	OPTION_JUMBO = 0xc2,
	JUMBO_BYTES = 8, /* of the header that carries it */
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO_REQUEST = 8,
	ICMP6_ECHO_REQUEST = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_MLD_FIRST = 130,
	ICMP6_SOLICIT = 135,
	ICMP6_ADVERT = 136,
	ICMP6_ND_LAST = 137,
	ICMP6_MLD2_REPORT = 143,
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

struct eth_header {
	__u8 dst[6], src[6];
	__be16 be_type;
};

struct vlan_header {
	__be16 be_tci, be_type;
};

struct ipv4_header {
	__u8 version_ihl, tos;
	__be16 be_length, be_id, be_fragment; /* be_fragment: 3 flag bits, 13 bits of offset in units of 8 bytes */
	__u8 ttl, proto;
	__u16 csum;
	__be32 saddr, daddr;
};

struct ipv6_header {
	__be32 be_flow; /* version 4, traffic class 8, flow label 20 bits */
	__be16 be_length;
	__u8 next, hop_limit;
	__u8 saddr[16], daddr[16];
};

struct udp_header {
	__be16 be_sport, be_dport;
	__be16 be_length; /* header included */
	__u16 csum;       /* 0: none */
};

struct tcp_header {
	__be16 be_sport, be_dport;
	__be32 be_seq, be_ack;
	__u8 doff, flags; /* doff: header length in 4 bytes, high half */
	__be16 be_window;
	__u16 csum;
	__be16 be_urgent;
};

struct icmp_header {
	__u8 type, code;
	__u16 csum;
	__be16 be_id, be_sequence;
};

static __always_inline bool is_extension(__u8 next)
{
	return next == PROTO_HOPOPT || next == PROTO_ROUTING || next == PROTO_DSTOPTS || next == PROTO_AH || next == PROTO_FRAGMENT;
}

/* Ethernet and up to two VLAN tags (802.1Q, 802.1ad), with the one that the kernel keeps beside the frame; p->be_type is what they carry.
 * p->l3 stays 0 if that is cut short. */
static __always_inline void parse_link(ctx_t *ctx, void *data, void *data_end, struct pkt *p)
{
	struct eth_header *eth = data;
	struct vlan_header *tag;
	__u16 vlan = 0;
	int beside = 0;

	if (data + sizeof(*eth) > data_end)
		return;
	p->be_type = eth->be_type;
	p->l3 = sizeof(*eth);
#ifdef HOOK_TC
	if (ctx->vlan_present) {
		vlan = ctx->vlan_tci & 0xfff;
		beside = 1;
	}
#endif
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (i + beside >= 2)
			break;
		if (p->be_type != bpf_htons(ETHERTYPE_VLAN) && p->be_type != bpf_htons(ETHERTYPE_QINQ))
			break;
		tag = header_at(data, p->l3);
		if ((void *)(tag + 1) > data_end) {
			p->l3 = 0;
			return;
		}
		if (!vlan)
			vlan = bpf_ntohs(tag->be_tci) & 0xfff;
		p->be_type = tag->be_type;
		p->l3 += sizeof(*tag);
		p->tags++;
	}
	p->key.tag = FLOW_USED << 12 | vlan;
}

/* As ::ffff:a.b.c.d. Each half in one store: the flow table soon reads it as one word. */
static __always_inline void put_addresses4(struct pkt *p, const struct ipv4_header *ip)
{
	((__u64 *)p->key.saddr)[1] = (__u64)ip->saddr << 32 | bpf_htonl(0xffff);
	((__u64 *)p->key.daddr)[1] = (__u64)ip->daddr << 32 | bpf_htonl(0xffff);
}

/* Where the IP packet ends in the frame. (As all that is read from *p again: the verifier forgets by which ways it was found.) */
static __always_inline __u32 ip_end(struct pkt *p) { return READ_ONCE(p->l3) + READ_ONCE(p->length); }

static __always_inline enum reason parse_ipv4(void *data, void *data_end, struct pkt *p)
{
	struct ipv4_header *ip = header_at(data, p->l3);
	__u32 header, length;
	__u16 fragment;

	if ((void *)(ip + 1) > data_end)
		return REASON_MALFORMED;
	header = (ip->version_ihl & 15) * 4;
	length = bpf_ntohs(ip->be_length);
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip))
		return REASON_MALFORMED;
#ifdef HOOK_TC
	if (!length && p->segments != 1) /* a bundle of more than 64 KB */
		length = p->frame_bytes - p->l3;
#endif
	if (length < header || p->l3 + length > p->frame_bytes)
		return REASON_MALFORMED;
	p->family = FAMILY_V4;
	p->length = length;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->key.proto = ip->proto;
	p->l4 = p->l3 + header;
	put_addresses4(p, ip);
	fragment = bpf_ntohs(ip->be_fragment);
	if (fragment & 0x3fff) {
		p->has |= fragment & 0x1fff ? IS_FRAGMENT | IS_LATER : IS_FRAGMENT;
		p->fragment_id = ip->be_id;
	}
	return REASON_NONE;
}

#ifdef HOOK_TC
/* A bundle of IPv6 of more than 64 KB, with the option that the kernel puts into it and that no packet on the wire has (RFC 2675). */
static __always_inline bool is_jumbo(void *data, void *data_end, struct pkt *p)
{
	struct ipv6_header *ip = header_at(data, READ_ONCE(p->l3));
	__u8 *ext = (void *)(ip + 1);

	return p->segments != 1 && (void *)(ext + JUMBO_BYTES) <= data_end && !ip->be_length && ip->next == PROTO_HOPOPT &&
	       !ext[1] && ext[2] == OPTION_JUMBO;
}
#else
static __always_inline bool is_jumbo(void *data, void *data_end, struct pkt *p) { return false; }
#endif

/* The extension headers of IPv6: what they carry and where it begins. Verified on its own, as parse_any() is: the ways through each of
 * them would multiply with those by which a packet gets here. */
__noinline int parse_extensions(ctx_t *ctx, struct pkt *p)
{
	void *data = ctx_data(ctx), *data_end = ctx_data_end(ctx);
	__u32 off, size;
	__u8 next, *ext;

	if (!p)
		return REASON_MALFORMED;
	for (int i = 0; i < EXT_HEADERS; i++) {
		/* From *p, about which the verifier knows nothing: what it knew of each header would multiply its ways through the next ones. */
		next = READ_ONCE(p->key.proto);
		off = READ_ONCE(p->l4);
		if (!is_extension(next))
			return REASON_NONE;
		ext = header_at(data, off);
		if ((void *)(ext + 8) > data_end || off + 8 > ip_end(p))
			return REASON_MALFORMED;
		size = (ext[1] + 1) * 8;
		if (next == PROTO_AH)
			size = (ext[1] + 2) * 4;
		if (next == PROTO_FRAGMENT) {
			size = 8;
			if (ext[2] | (ext[3] & 0xf9)) { /* an atomic fragment is none (RFC 6946) */
				p->has |= IS_FRAGMENT;
				p->fragment_id = *(__u32 *)(ext + 4);
			}
			if (ext[2] | (ext[3] & 0xf8)) {
				p->has |= IS_LATER;
				p->key.proto = ext[0];
				return REASON_NONE;
			}
		}
		off += size;
		if (off > ip_end(p))
			return REASON_MALFORMED;
		p->key.proto = ext[0];
		p->l4 = off;
	}
	return is_extension(p->key.proto) ? REASON_MALFORMED : REASON_NONE;
}

static __always_inline enum reason parse_ipv6(ctx_t *ctx, void *data, void *data_end, struct pkt *p)
{
	struct ipv6_header *ip = header_at(data, p->l3);
	__u32 length;

	if ((void *)(ip + 1) > data_end)
		return REASON_MALFORMED;
	if ((bpf_ntohl(ip->be_flow) >> 28) != 6)
		return REASON_MALFORMED;
	length = sizeof(*ip) + bpf_ntohs(ip->be_length);
	if (length == sizeof(*ip)) {
#ifdef HOOK_TC
		if (p->segments != 1)
			length = p->frame_bytes - p->l3;
#endif
		if (ip->next == PROTO_HOPOPT && !is_jumbo(data, data_end, p)) /* a jumbogram of the wire, or nonsense */
			return REASON_MALFORMED;
	}
	if (p->l3 + length > p->frame_bytes)
		return REASON_MALFORMED;
	p->family = FAMILY_V6;
	p->length = length;
	p->ttl = ip->hop_limit;
	p->tos = bpf_ntohl(ip->be_flow) >> 20;
	__builtin_memcpy(p->key.saddr, ip->saddr, 16);
	__builtin_memcpy(p->key.daddr, ip->daddr, 16);
	p->key.tag |= FLOW_V6 << 12;
	p->key.proto = ip->next;
	p->l4 = p->l3 + sizeof(*ip);
	return is_extension(p->key.proto) ? parse_extensions(ctx, p) : REASON_NONE;
}

/* Ports, ICMP type, TCP flags. room: bytes of IP payload from l4 on. *header: bytes of the L4 header. */
static __always_inline enum reason parse_transport(void *data, void *data_end, struct pkt *p, __u32 room, __u32 *header)
{
	void *l4 = header_at(data, p->l4);
	struct tcp_header *tcp = l4;
	struct icmp_header *icmp = l4;
	bool is_icmp = p->key.proto == (p->family == FAMILY_V4 ? PROTO_ICMP : PROTO_ICMPV6);
	__u32 need = 0;

	if (p->key.proto == PROTO_TCP)
		need = sizeof(*tcp);
	else if (p->key.proto == PROTO_UDP || is_icmp)
		need = 8;
	else if (p->key.proto == PROTO_SCTP)
		need = 12;
	if (!need)
		return REASON_NONE;
	if (room < need || l4 + 8 > data_end)
		return REASON_MALFORMED;
	*header = need;
	if (is_icmp) {
		p->has |= HAS_ICMP;
		p->icmp_type = icmp->type;
		p->icmp_code = icmp->code;
		if (p->family == FAMILY_V4 ? icmp->type == ICMP_ECHO_REQUEST || icmp->type == ICMP_ECHO_REPLY
					   : icmp->type == ICMP6_ECHO_REQUEST || icmp->type == ICMP6_ECHO_REPLY)
			p->key.be_sport = p->key.be_dport = icmp->be_id;
		return REASON_NONE;
	}
	p->has |= HAS_PORTS;
	p->key.be_sport = tcp->be_sport;
	p->key.be_dport = tcp->be_dport;
	if (p->key.proto == PROTO_TCP) {
		if ((void *)(tcp + 1) > data_end)
			return REASON_MALFORMED;
		*header = (tcp->doff >> 4) * 4;
		if (*header < sizeof(*tcp) || *header > room)
			return REASON_MALFORMED;
		p->tcp_flags = tcp->flags;
		p->seq = bpf_ntohl(tcp->be_seq);
		p->payload = room - *header;
		if ((tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			p->has |= IS_SYN;
	}
	return REASON_NONE;
}

/* TCP or UDP at a known offset, of which 20 bytes can be read; room: bytes of IP payload. False: it is neither, or TCP's header is wrong,
 * and *p is as it was. */
static __always_inline bool parse_plain_transport(struct pkt *p, const struct tcp_header *tcp, __u8 proto, __u32 room)
{
	__u32 header;

	if (proto == PROTO_TCP) {
		header = (tcp->doff >> 4) * 4;
		if (header < sizeof(*tcp) || header > room)
			return false;
		p->tcp_flags = tcp->flags;
		p->seq = bpf_ntohl(tcp->be_seq);
		p->payload = room - header;
		p->has = (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? HAS_PORTS | IS_SYN : HAS_PORTS;
	} else if (proto == PROTO_UDP) {
		p->has = HAS_PORTS;
	} else {
		return false;
	}
	return true;
}

/* What most packets are: Ethernet, an IPv4 header of 20 bytes, no fragment, TCP or UDP, at known offsets. False: it is for the
 * parser below to say, which finds the same facts of such a packet in three times the time. */
static __always_inline bool parse_plain(ctx_t *ctx, struct pkt *p)
{
	void *data = ctx_data(ctx), *data_end = ctx_data_end(ctx);
	struct eth_header *eth = data;
	struct ipv4_header *ip = (void *)(eth + 1);
	struct tcp_header *tcp = (void *)(ip + 1);
	__u32 length, frame = data_end - data;

	if ((void *)(tcp + 1) > data_end || eth->be_type != bpf_htons(ETHERTYPE_IPV4))
		return false;
#ifdef HOOK_TC
	frame = ctx->len; /* more than is readable here, perhaps */
	if (ctx->gso_size || ctx->vlan_present)
		return false;
#endif
	length = bpf_ntohs(ip->be_length);
	if (ip->version_ihl != 0x45 || ip->be_fragment & bpf_htons(0x3fff) || length < sizeof(*ip) + sizeof(*tcp) ||
	    length > frame - sizeof(*eth))
		return false;
	if (!parse_plain_transport(p, tcp, ip->proto, length - sizeof(*ip)))
		return false;
	p->segments = 1;
	p->frame_bytes = frame;
	p->length = p->bundle_bytes = p->ip_bytes = length;
	p->l3 = sizeof(*eth);
	p->l4 = sizeof(*eth) + sizeof(*ip);
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->be_type = eth->be_type;
	put_addresses4(p, ip);
	/* ports, protocol, tag in one store, for the same reason */
	((__u64 *)&p->key)[4] = *(__u32 *)tcp | (__u64)ip->proto << 32 | (__u64)FLOW_USED << 60;
	return true;
}

/* Likewise of IPv6: no extension header. Not beside the other, since all that follows would be verified once more. */
static __always_inline bool parse_plain6(ctx_t *ctx, struct pkt *p)
{
	void *data = ctx_data(ctx), *data_end = ctx_data_end(ctx);
	struct eth_header *eth = data;
	struct ipv6_header *ip = (void *)(eth + 1);
	struct tcp_header *tcp = (void *)(ip + 1);
	__u32 room, first, frame = data_end - data;

	if ((void *)(tcp + 1) > data_end || eth->be_type != bpf_htons(ETHERTYPE_IPV6))
		return false;
#ifdef HOOK_TC
	frame = ctx->len;
	if (ctx->gso_size || ctx->vlan_present)
		return false;
#endif
	first = bpf_ntohl(ip->be_flow);
	room = bpf_ntohs(ip->be_length);
	if (first >> 28 != 6 || room < sizeof(*tcp) || room > frame - sizeof(*eth) - sizeof(*ip))
		return false;
	if (!parse_plain_transport(p, tcp, ip->next, room))
		return false;
	p->segments = 1;
	p->frame_bytes = frame;
	p->length = p->bundle_bytes = p->ip_bytes = sizeof(*ip) + room;
	p->l3 = sizeof(*eth);
	p->l4 = sizeof(*eth) + sizeof(*ip);
	p->family = FAMILY_V6;
	p->ttl = ip->hop_limit;
	p->tos = first >> 20;
	p->be_type = eth->be_type;
	copy_address(p->key.saddr, ip->saddr);
	copy_address(p->key.daddr, ip->daddr);
	((__u64 *)&p->key)[4] = *(__u32 *)tcp | (__u64)ip->next << 32 | (__u64)(FLOW_USED | FLOW_V6) << 60;
	return true;
}

/* Any frame. Verified on its own (a global function), since the ways through the headers would multiply with all that follows.
 * Fills a zeroed *p; p->be_type is the ethertype also for what isn't IP. */
__noinline int parse_any(ctx_t *ctx, struct pkt *p)
{
	void *data, *data_end;
	__u32 header = 0;
	enum reason reason;

	if (!p)
		return REASON_MALFORMED;
	if (parse_plain6(ctx, p))
		return REASON_NONE;
	p->segments = 1;
	p->frame_bytes = ctx_length(ctx);
#ifdef HOOK_TC
	if (ctx->gso_size)
		p->segments = ctx->gso_segs;
	if (ctx_data(ctx) + LINEAR_BYTES > ctx_data_end(ctx) && p->frame_bytes > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, p->frame_bytes < LINEAR_BYTES ? p->frame_bytes : LINEAR_BYTES);
#endif
	data = ctx_data(ctx);
	data_end = ctx_data_end(ctx);
	parse_link(ctx, data, data_end, p);
	if (!p->l3)
		return REASON_MALFORMED;
	barrier(); /* as of extension headers: none of the ways through the tags matters from here on */
	if (p->be_type == bpf_htons(ETHERTYPE_IPV4))
		reason = parse_ipv4(data, data_end, p);
	else if (p->be_type == bpf_htons(ETHERTYPE_IPV6))
		reason = parse_ipv6(ctx, data, data_end, p);
	else
		return REASON_NOT_IP;
	if (reason)
		return reason;
	p->ip_bytes = p->bundle_bytes = p->length;
	if (p->has & IS_LATER) {
		p->key.tag |= FLOW_LATER << 12;
		return REASON_NONE;
	}
	reason = parse_transport(data, data_end, p, ip_end(p) - p->l4, &header);
#ifdef HOOK_TC
	/* What the wire carried of a bundle: every segment repeats the headers (RFC 9293 over IP; for UDP likewise). */
	if (!reason && ctx->gso_size) {
		__u32 headers = p->l4 + header, payload = ip_end(p) - headers, extra = 0;

		if (p->family == FAMILY_V6 && is_jumbo(data, data_end, p))
			extra = JUMBO_BYTES;
		if (!p->segments)
			p->segments = (payload + ctx->gso_size - 1) / ctx->gso_size;
		p->ip_bytes += (p->segments - 1) * (headers - p->l3) - p->segments * extra;
		p->frame_bytes += (p->segments - 1) * headers - p->segments * extra;
		if (payload > ctx->gso_size)
			p->length = headers - extra - p->l3 + ctx->gso_size;
	}
#endif
	return reason;
}

static __always_inline enum reason parse(ctx_t *ctx, struct pkt *p)
{
	enum reason reason = parse_plain(ctx, p) ? REASON_NONE : parse_any(ctx, p);

#ifdef HOOK_TC
	if (!p->segments) /* a bundle that doesn't say how many they are, and wasn't understood so far that they could be computed */
		p->segments = 1;
#endif
	return reason;
}

/* What an ICMP error says of the packet that it is about. */
struct quoted {
	__u8 saddr[16], daddr[16];
	__be16 be_sport, be_dport;
	__u8 proto, icmp_type;
	__be16 be_id;
	__u16 l4; /* where its L4 header is in the frame */
} __attribute__((aligned(8)));

/* The ports and the like of a quoted packet: 8 bytes of its L4 header are all that an error must have (RFC 792). */
static __always_inline bool parse_quoted_transport(const void *data_end, __u32 ip_end, void *l4, __u32 off, struct quoted *q)
{
	struct icmp_header *icmp = l4;
	struct tcp_header *tcp = l4;

	if (l4 + 8 > data_end || off + 8 > ip_end)
		return false;
	q->be_sport = tcp->be_sport;
	q->be_dport = tcp->be_dport;
	q->icmp_type = icmp->type;
	q->be_id = icmp->be_id;
	q->l4 = off;
	return true;
}

/* The packet that an ICMP error quotes. False: it is cut short, no packet, or a later fragment. */
static __always_inline bool parse_quoted(ctx_t *ctx, const struct pkt *p, struct quoted *q)
{
	void *data = ctx_data(ctx), *data_end = ctx_data_end(ctx);
	__u32 off = p->l4 + sizeof(struct icmp_header), ip_end = p->l3 + p->length, size;
	struct ipv4_header *ip4 = header_at(data, off);
	struct ipv6_header *ip6 = header_at(data, off);
	__u8 *ext;

	if (p->family == FAMILY_V4) {
		if ((void *)(ip4 + 1) > data_end || off + sizeof(*ip4) > ip_end || ip4->version_ihl >> 4 != 4)
			return false;
		size = (ip4->version_ihl & 15) * 4;
		if (size < sizeof(*ip4) || ip4->be_fragment & bpf_htons(0x1fff))
			return false;
		((__u64 *)q->saddr)[1] = (__u64)ip4->saddr << 32 | bpf_htonl(0xffff);
		((__u64 *)q->daddr)[1] = (__u64)ip4->daddr << 32 | bpf_htonl(0xffff);
		q->proto = ip4->proto;
		off += size;
		return parse_quoted_transport(data_end, ip_end, header_at(data, off), off, q);
	}
	if ((void *)(ip6 + 1) > data_end || off + sizeof(*ip6) > ip_end || bpf_ntohl(ip6->be_flow) >> 28 != 6)
		return false;
	__builtin_memcpy(q->saddr, ip6->saddr, 16);
	__builtin_memcpy(q->daddr, ip6->daddr, 16);
	q->proto = ip6->next;
	off += sizeof(*ip6);
	for (int i = 0; i < EXT_HEADERS && is_extension(q->proto); i++) {
		ext = header_at(data, off);
		if ((void *)(ext + 8) > data_end || off + 8 > ip_end)
			return false;
		size = q->proto == PROTO_AH ? (ext[1] + 2) * 4 : q->proto == PROTO_FRAGMENT ? 8 : (ext[1] + 1) * 8;
		if (q->proto == PROTO_FRAGMENT && ext[2] | (ext[3] & 0xf8))
			return false;
		q->proto = ext[0];
		off += size;
	}
	return !is_extension(q->proto) && parse_quoted_transport(data_end, ip_end, header_at(data, off), off, q);
}

static __always_inline bool has_ports(__u8 proto) { return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP; }

static __always_inline bool is_icmp(const struct pkt *p) { return p->key.proto == (p->family == FAMILY_V4 ? PROTO_ICMP : PROTO_ICMPV6); }

/* A later fragment of a packet that has ports, which aren't known. */
static __always_inline bool ports_missing(const struct pkt *p)
{
	return (p->has & (IS_LATER | HAS_PORTS)) == IS_LATER && has_ports(p->key.proto);
}

/* The number fields of fields.h: false when the packet doesn't have the field. */
static __always_inline bool fact(const struct pkt *p, enum field field, __u32 *value)
{
	switch (field) {
	case FIELD_PROTO:
		*value = p->key.proto;
		return true;
	case FIELD_SPORT:
		*value = bpf_ntohs(p->key.be_sport);
		return p->has & HAS_PORTS;
	case FIELD_DPORT:
		*value = bpf_ntohs(p->key.be_dport);
		return p->has & HAS_PORTS;
	case FIELD_ICMP_TYPE:
		*value = p->icmp_type;
		return p->has & HAS_ICMP;
	case FIELD_ICMP_CODE:
		*value = p->icmp_code;
		return p->has & HAS_ICMP;
	case FIELD_TTL:
		*value = p->ttl;
		return true;
	case FIELD_DSCP:
		*value = p->tos >> 2;
		return true;
	case FIELD_LENGTH:
		*value = p->length;
		return true;
	case FIELD_STATE:
		*value = p->state;
		return p->state;
	case FIELD_TCP_FLAGS:
		*value = p->tcp_flags;
		return p->key.proto == PROTO_TCP && (p->has & (HAS_PORTS | IS_LATER)) == HAS_PORTS;
	case FIELD_FRAGMENT:
		*value = p->has & IS_LATER ? FRAGMENT_LATER : p->has & IS_FRAGMENT ? FRAGMENT_FIRST : FRAGMENT_NONE;
		return true;
	case FIELD_ETHERTYPE:
		*value = bpf_ntohs(p->be_type);
		return true;
	case FIELD_VLAN:
		*value = p->key.tag & FLOW_VLAN_MASK;
		return true;
	case FIELD_INTERFACE:
		*value = p->interface;
		return true;
	case FIELD_SERVICE:
		*value = p->asked_service;
		return !ports_missing(p);
	default:
		return false;
	}
}
