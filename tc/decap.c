/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* On a backend: take the outer headers off what a balancer sent by ipip or gue, for hosts without a tunnel device. Stands alone:
 * shares no map with gardu. Two entries, one job: tc, which leaves the device's offloads as they are, and XDP, which costs less. */
#define HOOK_TC
#include "../bpf/csum.h"
#include "../bpf/map.h"
#include "../bpf/parse.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum decap_count { DECAP_DONE, DECAP_ECN, DECAP_FAILED, DECAP_CLAMPED, DECAP_COUNTS };

/* Bytes of a TCP segment that clients may send by IPv4; IPv6 has longer headers. */
volatile const __u16 decap_mss SEC(".rodata.config") = 0;

/* Programs write, `gardu decap` reads. Per CPU, index: enum decap_count. */
MAP(decap_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counter, DECAP_COUNTS);

enum {
	HEADERS = sizeof(struct eth_header) + 2 * sizeof(struct ipv6_header) + sizeof(struct udp_header),
	ECN_MASK = 3,
	ECN_NOT_ECT = 0,
	ECN_CE = 3,
	TCP_OPTIONS = 10, /* looked at, of at most 40 that there is room for: the MSS is among the first */
	OPTION_END = 0,
	OPTION_NOP = 1,
	OPTION_MSS = 2,
	FAMILIES_DIFFER = sizeof(struct ipv6_header) - sizeof(struct ipv4_header), /* by so many bytes of header */
};

struct outer {
	__u32 bytes;      /* of the outer headers; 0: not for us */
	__be16 be_inner;  /* ethertype of what is inside */
	bool same_family;
	__u8 ecn;
};

static __always_inline int count(enum decap_count what, __u32 bytes, int action)
{
	struct counter *counter;
	__u32 key = what;

	counter = bpf_map_lookup_elem(&decap_counters, &key);
	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
	return action;
}

/* An outer header without options or extension headers, not fragmented, around an IP header of the version it names, or around
 * GUE of variant 1, whose first bits are those of the IP version inside. The checksum of its UDP header needs no look: it covers
 * what the inner ones cover. */
static __always_inline struct outer outer_of(void *data, void *data_end)
{
	struct eth_header *eth = data;
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	struct outer none = {}, outer = {};
	struct udp_header *udp;
	__u8 proto, *inner;
	bool v4;

	if ((void *)(ip4 + 1) + 1 > data_end)
		return none;
	v4 = eth->be_type == bpf_htons(ETHERTYPE_IPV4);
	if (v4) {
		if (ip4->version_ihl != 0x45 || ip4->be_fragment & bpf_htons(0x3fff))
			return none;
		proto = ip4->proto;
		outer.bytes = sizeof(*ip4);
		outer.ecn = ip4->tos & ECN_MASK;
		inner = (void *)(ip4 + 1);
	} else {
		if (eth->be_type != bpf_htons(ETHERTYPE_IPV6) || (void *)(ip6 + 1) + 1 > data_end)
			return none;
		proto = ip6->next;
		outer.bytes = sizeof(*ip6);
		outer.ecn = bpf_ntohl(ip6->be_flow) >> 20 & ECN_MASK;
		inner = (void *)(ip6 + 1);
	}
	if (proto == PROTO_UDP) {
		udp = (void *)inner;
		inner = (void *)(udp + 1);
		if ((void *)(inner + 1) > data_end || udp->be_dport != bpf_htons(GUE_PORT))
			return none;
		outer.bytes += sizeof(*udp);
		proto = *inner >> 4 == 4 ? PROTO_IPIP : PROTO_IPV6;
	}
	if (proto == PROTO_IPIP && *inner >> 4 == 4)
		outer.be_inner = bpf_htons(ETHERTYPE_IPV4);
	else if (proto == PROTO_IPV6 && *inner >> 4 == 6)
		outer.be_inner = bpf_htons(ETHERTYPE_IPV6);
	else
		return none;
	outer.same_family = outer.be_inner == eth->be_type;
	return outer;
}

/* RFC 6040, section 4.2: congestion that was met on the way in the tunnel reaches the inner header, or, where that can't
 * carry it, the packet is dropped: false. */
static __always_inline bool decap_ecn(void *data, void *data_end, struct outer *outer)
{
	struct ipv4_header *ip4 = data + sizeof(struct eth_header);
	struct ipv6_header *ip6 = data + sizeof(struct eth_header);
	__u8 tos;

	if (outer->ecn != ECN_CE || (void *)(ip4 + 1) > data_end)
		return true;
	if (outer->be_inner == bpf_htons(ETHERTYPE_IPV4)) {
		tos = ip4->tos;
		if ((tos & ECN_MASK) == ECN_NOT_ECT)
			return false;
		ip4->tos = tos | ECN_CE;
		ip4->csum = csum_replace(ip4->csum, bpf_htons(tos), bpf_htons(tos | ECN_CE));
	} else {
		if ((bpf_ntohl(ip6->be_flow) >> 20 & ECN_MASK) == ECN_NOT_ECT)
			return false;
		ip6->be_flow |= bpf_htonl(ECN_CE << 20);
	}
	return true;
}

SEC("tc")
int decap_tc(struct __sk_buff *ctx)
{
	struct outer outer;
	struct eth_header *eth;

	bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	outer = outer_of(ctx_data(ctx), ctx_data_end(ctx));
	if (!outer.bytes)
		return TC_ACT_UNSPEC;
	if (!outer.same_family) { /* which adjust_room changes only since Linux 6.3. This makes the header longer or shorter by what they differ. */
		if (bpf_skb_change_proto(ctx, outer.be_inner, 0))
			return count(DECAP_FAILED, ctx->len, TC_ACT_SHOT);
		outer.bytes = outer.be_inner == bpf_htons(ETHERTYPE_IPV4) ? outer.bytes - FAMILIES_DIFFER : outer.bytes + FAMILIES_DIFFER;
	}
	if (bpf_skb_adjust_room(ctx, -(int)outer.bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return count(DECAP_FAILED, ctx->len, TC_ACT_SHOT);
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return count(DECAP_FAILED, ctx->len, TC_ACT_SHOT);
	eth->be_type = outer.be_inner;
	if (!decap_ecn(ctx_data(ctx), ctx_data_end(ctx), &outer))
		return count(DECAP_ECN, ctx->len, TC_ACT_SHOT);
	return count(DECAP_DONE, ctx->len, TC_ACT_UNSPEC);
}

/* Where TCP's header begins in what this host sends, without extension headers and unfragmented; 0: it isn't TCP. */
static __always_inline __u32 tcp_at(const struct __sk_buff *ctx)
{
	struct eth_header *eth = ctx_data((struct __sk_buff *)ctx);
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	void *data_end = ctx_data_end((struct __sk_buff *)ctx);

	if (ctx->protocol == bpf_htons(ETHERTYPE_IPV4) && (void *)(ip4 + 1) <= data_end && ip4->proto == PROTO_TCP &&
	    !(ip4->be_fragment & bpf_htons(0x3fff)))
		return sizeof(*eth) + (ip4->version_ihl & 0xf) * 4;
	if (ctx->protocol == bpf_htons(ETHERTYPE_IPV6) && (void *)(ip6 + 1) <= data_end && ip6->next == PROTO_TCP)
		return sizeof(*eth) + sizeof(*ip6);
	return 0;
}

/* What this host asks clients for when they connect, at most what fits through the tunnel: its SYN+ACK says how long segments to it may be
 * (RFC 9293, section 3.7.1). The checksum may be the network card's to finish, which the helper knows. */
SEC("tc")
int decap_clamp(struct __sk_buff *ctx)
{
	__u16 most = ctx->protocol == bpf_htons(ETHERTYPE_IPV4) ? decap_mss : decap_mss - (sizeof(struct ipv6_header) - sizeof(struct ipv4_header));
	__u32 tcp, at, end;
	struct {
		__u8 kind, bytes;
		__be16 be_mss;
	} option;
	__be16 be_most = bpf_htons(most);
	__u8 header[2]; /* data offset, flags */

	bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	tcp = tcp_at(ctx);
	if (!tcp || bpf_skb_load_bytes(ctx, tcp + 12, header, sizeof(header)) || (header[1] & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK))
		return TC_ACT_UNSPEC;
	at = tcp + sizeof(struct tcp_header);
	end = tcp + (header[0] >> 4) * 4;
	for (int i = 0; i < TCP_OPTIONS; i++) {
		if (at + sizeof(option) > end || bpf_skb_load_bytes(ctx, at, &option, sizeof(option)) || option.kind == OPTION_END)
			return TC_ACT_UNSPEC;
		if (option.kind == OPTION_MSS) {
			if (option.bytes != sizeof(option) || bpf_ntohs(option.be_mss) <= most)
				return TC_ACT_UNSPEC;
			if (bpf_l4_csum_replace(ctx, tcp + offsetof(struct tcp_header, csum), option.be_mss, be_most, sizeof(be_most)) ||
			    bpf_skb_store_bytes(ctx, at + offsetof(typeof(option), be_mss), &be_most, sizeof(be_most), 0))
				return TC_ACT_UNSPEC;
			return count(DECAP_CLAMPED, ctx->len, TC_ACT_UNSPEC);
		}
		if (option.kind != OPTION_NOP && option.bytes < 2)
			return TC_ACT_UNSPEC;
		at += option.kind == OPTION_NOP ? 1 : option.bytes;
	}
	return TC_ACT_UNSPEC;
}

SEC("xdp.frags")
int decap_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct outer outer = outer_of(data, data_end);
	struct eth_header *eth = data, link;

	if (!outer.bytes)
		return XDP_PASS;
	if ((void *)(eth + 1) > data_end)
		return XDP_PASS;
	link = *eth;
	link.be_type = outer.be_inner;
	if (bpf_xdp_adjust_head(ctx, outer.bytes))
		return count(DECAP_FAILED, bpf_xdp_get_buff_len(ctx), XDP_DROP);
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > data_end)
		return count(DECAP_FAILED, bpf_xdp_get_buff_len(ctx), XDP_DROP);
	*eth = link;
	if (!decap_ecn(data, data_end, &outer))
		return count(DECAP_ECN, bpf_xdp_get_buff_len(ctx), XDP_DROP);
	return count(DECAP_DONE, bpf_xdp_get_buff_len(ctx), XDP_PASS);
}
