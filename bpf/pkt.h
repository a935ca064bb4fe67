/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What is known of a packet once it is parsed. Made by parse(), never changed by a step except for the last part. */
#pragma once
#include "abi.h"
#include "ctx.h"
#include "map.h"

enum pkt_has {
	HAS_PORTS = 1,   /* TCP, UDP, SCTP with their header in this packet; to rules also those of the first fragment */
	HAS_ICMP = 2,    /* ICMP in IPv4, ICMPv6 in IPv6, likewise */
	IS_FRAGMENT = 4, /* first or later */
	IS_LATER = 8,    /* later fragment: no L4 header */
	IS_SYN = 16,     /* TCP SYN without ACK */
};

/* Values of the field `fragment`, as in ctl/rule/fields.go. */
enum fragment_kind { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

/* pkt.service_place: nobody asked, there is none, or ASKED_FOUND + the index of its record. */
enum asked { ASKED_NOT, ASKED_NONE, ASKED_FOUND };

/* pkt.sample: does a packet count in flow records? */
enum sample { SAMPLE_UNDECIDED, SAMPLE_ALL /* as every packet does */, SAMPLE_IN, SAMPLE_OUT };

struct pkt {
	struct flow_key key __attribute__((aligned(8)));
	__u32 length;      /* bytes of IP, of one wire packet */
	__u32 bundle_bytes; /* bytes of IP as it stands here: a GRO or TSO bundle is longer */
	__u32 segments;    /* wire packets: 1, or the segments of a GRO or TSO bundle */
	__u32 ip_bytes;    /* IP lengths of all of them */
	__u32 frame_bytes; /* frame lengths of all of them */
	__u16 l3, l4;      /* offsets of the headers */
	__be16 be_type;    /* ethertype behind the VLAN tags */
	__u16 interface;   /* number of the interface that it came in by; only what rules need to know is filled in, and so: */
	__u16 asked_service; /* id of the service that it is for, 0: none */
	__u16 service_place; /* ASKED_*: what the look-up of the service found */
	__u32 seq, payload; /* TCP: sequence number, bytes behind the header (of a bundle: of all segments) */
	__u32 fragment_id; /* of fragments: as it stands in the header, which they share */
	__u8 family;       /* enum family */
	__u8 has;          /* enum pkt_has */
	__u8 ttl, tos;
	__u8 icmp_type, icmp_code;
	__u8 tcp_flags;
	__u8 tags;         /* VLAN tags inside the frame (tc: without the one that the kernel took off) */

	/* found on the way */
	__u32 rule;        /* enum decider or a rule's id */
	__u32 generation;
	__u32 block_epoch;
	__u16 service, backend;
	__u8 remember;     /* the verdict depends on the flow's key alone */
	__u8 remembered;   /* and was taken from the flow's record */
	__u8 filtered;     /* it reached the filter: p->rule says what decided */
	__u8 new_flow;     /* a backend was chosen for it */
	__u8 notes;        /* of rules, in event_now */
	__u8 way;          /* enum way: which rules judge it */
	__u8 reject;       /* REASON_RULE_REJECT: what is answered (enum reject) */
	__u8 state;        /* enum state */
	__u8 state_asked;  /* the shared table was asked for it, and is to know if it passes */
	__u8 exit;         /* REASON_RULE_REDIRECT: where to */
	__u8 sample;       /* enum sample */
	__u16 room;        /* REASON_TOO_BIG: bytes of IP that fit */
	__u8 translated;   /* enum nat_kind; struct nat_now says more */
	__u8 captured;     /* it is kept, for who captures */
	__u8 quic;         /* as its service's */
	__u8 named;        /* its connection ID named the backend */
	__u8 nothing;      /* always 0: see any_reason() */
	__u8 flow_in_lru;  /* its flow's value is in the LRU map, which all CPUs share */
	__u8 flow_spare;   /* its new flow's record is the spare one, which goes to the LRU map */
	__u64 mirrors;     /* exits that get a copy, later: that got one; a bit each */
	__u32 out_ifindex;
	int action;        /* set by a step that sends the frame */
};

enum pkt_place { PKT_RECEIVED, PKT_SENT, PKT_PLACES };

/* Programs only. The packet that the CPU has in hand: a third of the stack, if it were there. Sent ones have a place of their own, since
 * a program that sends a copy of a received packet runs the egress program inside itself. */
MAP(packets, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct pkt, PKT_PLACES);

/* Where to put a packet's facts, zeroed. NULL cannot be. */
static __always_inline struct pkt *new_pkt(enum pkt_place place)
{
	__u32 key = place;
	struct pkt *p = bpf_map_lookup_elem(&packets, &key);

	if (p)
		__builtin_memset(p, 0, sizeof(*p));
	return p;
}

static __always_inline const __u64 *addr64(const __u8 *addr) { return (const __u64 *)addr; }
static __always_inline __u64 addr_hi(const __u8 *addr) { return bpf_be64_to_cpu(addr64(addr)[0]); }
static __always_inline __u64 addr_lo(const __u8 *addr) { return bpf_be64_to_cpu(addr64(addr)[1]); }

/* By words: clang copies byte by byte what it takes for bytes. */
static __always_inline void copy_macs(void *to, const void *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u32 *)(to + 8) = *(const __u32 *)(from + 8);
}

static __always_inline void copy_address(void *to, const void *from)
{
	((__u64 *)to)[0] = ((const __u64 *)from)[0];
	((__u64 *)to)[1] = ((const __u64 *)from)[1];
}
