/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The traffic of the benchmark. BPF_PROG_TEST_RUN with `repeat` hands a program its own output again; `generate` stands in
 * front, restores the frame, turns it into the next packet of the table and tail-calls the program under test, unmodified.
 * A tail call needs the same kind of program on both sides, so these are "xdp.frags" as well.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define FRAME 64 /* bytes of every IPv4 packet; a multiple of 8 */
#define FRAME6 80 /* of every IPv6 one */

/* What differs from packet to packet, all in network order; Go computes the checksums. The bytes of the TCP header are such
 * that they are a UDP header as well, so that a packet's protocol is one byte.
 */
struct packet {
	__be32 saddr, daddr;
	__be16 sport, dport;
	__u8 ttl, protocol;
	__sum16 ip_check, tcp_check;
	__u16 pad;
};

struct packet6 {
	__be32 saddr[4], daddr[4];
	__be16 sport, dport;
	__u8 nexthdr, hop_limit;
	__sum16 tcp_check;
};

/* Bench writes, generate reads. Sized by bench: one entry a packet, in the order in which they are sent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct packet);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} packets SEC(".maps");

/* The same for IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct packet6);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} packets6 SEC(".maps");

/* Bench writes: the program under test. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} subject SEC(".maps");

/* A record as wide as one of gardu's flow table. */
struct record {
	__u64 word[16];
};

/* Programs only. Sized by bench. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct record);
	__uint(max_entries, 1);
} records SEC(".maps");

volatile const __u32 record_mask;       /* entries of records - 1 */
volatile const __u64 frame[FRAME6 / 8]; /* the frame without what differs */
volatile const __u32 frame_length;      /* bytes of every frame: FRAME or FRAME6, or more, which nobody touches */
volatile const __u32 packet_count;      /* entries of packets or packets6 */
volatile const __u32 send_to;           /* interface that `send` sends on */
__u64 read;                             /* a word of the last packet's record, which is 0 */
__u32 next;                             /* index of the next packet; one thread runs the generator */

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Give the frame its length back and write the constant part; false when there is no room. */
static __always_inline bool restore(struct xdp_md *ctx, int size)
{
	__u64 length = (__u64)ctx->data_end - (__u64)ctx->data;

	asm volatile("" : "+r"(length)); /* not taken from the pointer before the other pointer is */
	int grown = (int)length - (int)frame_length;

	if (grown && bpf_xdp_adjust_head(ctx, grown))
		return false;
	__u64 *words = (void *)(long)ctx->data;
	if ((void *)words + size > (void *)(long)ctx->data_end)
		return false;
#pragma unroll
	for (int i = 0; i < size / 8; i++)
		words[i] = frame[i];
	return true;
}

static __always_inline __u32 take_turn(void)
{
	__u32 index = next;

	next = index + 1 < packet_count ? index + 1 : 0;
	return index;
}

SEC("xdp.frags")
int generate(struct xdp_md *ctx)
{
	if (!restore(ctx, FRAME))
		return XDP_ABORTED;
	__u32 index = take_turn();
	struct packet *packet = bpf_map_lookup_elem(&packets, &index);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (!packet || data + FRAME > end)
		return XDP_ABORTED;

	struct iphdr *ip = data + ETH_HLEN;
	ip->ttl = packet->ttl;
	ip->protocol = packet->protocol;
	ip->check = packet->ip_check;
	ip->saddr = packet->saddr;
	ip->daddr = packet->daddr;
	struct tcphdr *tcp = (void *)(ip + 1);
	tcp->source = packet->sport;
	tcp->dest = packet->dport;
	tcp->check = packet->tcp_check;

	bpf_tail_call(ctx, &subject, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int generate6(struct xdp_md *ctx)
{
	if (!restore(ctx, FRAME6))
		return XDP_ABORTED;
	__u32 index = take_turn();
	struct packet6 *packet = bpf_map_lookup_elem(&packets6, &index);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (!packet || data + FRAME6 > end)
		return XDP_ABORTED;

	struct ipv6hdr *ip = data + ETH_HLEN;
	ip->nexthdr = packet->nexthdr;
	ip->hop_limit = packet->hop_limit;
	__builtin_memcpy(&ip->saddr, packet->saddr, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, packet->daddr, sizeof(ip->daddr));
	struct tcphdr *tcp = (void *)(ip + 1);
	tcp->source = packet->sport;
	tcp->dest = packet->dport;
	tcp->check = packet->tcp_check;

	bpf_tail_call(ctx, &subject, 0);
	return XDP_ABORTED;
}

/* The measuring loop and the generator: what every other figure contains. */
SEC("xdp.frags")
int empty(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* Count the packet in one record, which its ends and the seed pick at random. */
static __always_inline int count_in_record(struct xdp_md *ctx, __u64 seed)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);
	struct record *record;
	__u64 hash;
	__u32 index;

	if ((void *)(tcp + 1) > end)
		return XDP_ABORTED;
	hash = (((__u64)ip->saddr << 32 | ip->daddr) + seed) * 0x9E3779B97F4A7C15ull;
	hash = ((hash ^ hash >> 32) + tcp->source) * 0x9E3779B97F4A7C15ull;
	index = hash >> 32 & record_mask;
	record = bpf_map_lookup_elem(&records, &index);
	if (!record)
		return XDP_ABORTED;
	record->word[0]++;
	record->word[1] += FRAME;
	read = record->word[2];
	return XDP_PASS;
}

/* The least that counting by flow costs. A CPU that finds so little to do is at the records of the next packets before that of the first one
 * has come from memory. */
SEC("xdp.frags")
int floor_record(struct xdp_md *ctx)
{
	return count_in_record(ctx, 0);
}

/* The same when each packet waits for the record of the one before it, as it does behind a program that does more than that. */
SEC("xdp.frags")
int floor_waits(struct xdp_md *ctx)
{
	return count_in_record(ctx, read);
}

/* The least that sending a packet on costs: constant addresses in its Ethernet header. */
SEC("xdp.frags")
int floor_rewrite(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memset(eth, 2, 2 * ETH_ALEN);
	return XDP_TX;
}

/* The least that wrapping a packet in IPv4 costs: room in front, two constant headers, nothing looked up or computed. */
SEC("xdp.frags")
int floor_ipip(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return XDP_ABORTED;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end)
		return XDP_ABORTED;
	__builtin_memset(eth, 0, sizeof(*eth));
	__builtin_memset(ip, 0, sizeof(*ip));
	return XDP_TX;
}

/* Live frames: to the other end of a veth pair. */
SEC("xdp.frags")
int send(struct xdp_md *ctx)
{
	return bpf_redirect(send_to, 0);
}

/* Live frames: into the network stack of the interface that the run names. */
SEC("xdp.frags")
int inject(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* Passes what isn't the generator's: pings beside a load. */
SEC("xdp.frags")
int drop_load(struct xdp_md *ctx)
{
	__u64 *words = (void *)(long)ctx->data;

	if ((void *)(words + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	return words[0] == frame[0] ? XDP_DROP : XDP_PASS; /* its destination and two bytes of its source */
}

/* Bench writes: source addresses that tc_set drops. Full: bench fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __be32);
	__type(value, __u8);
	__uint(max_entries, 10000);
} sources SEC(".maps");

/* Packets that came to a program at tc. */
__u64 came, listed;

/* tc: the least. */
SEC("tc")
int tc_drop(struct __sk_buff *skb)
{
	came++;
	return TC_ACT_SHOT;
}

/* tc: what somebody would write by hand who has a list of addresses. What isn't on it is dropped too, as all is here. */
SEC("tc")
int tc_set(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__be32 source;

	came++;
	if ((void *)(ip + 1) > end)
		return TC_ACT_SHOT;
	source = ip->saddr;
	if (bpf_map_lookup_elem(&sources, &source))
		listed++;
	return TC_ACT_SHOT;
}
