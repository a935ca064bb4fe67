/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What is lost after XDP sent it: a driver has no room, or can't take the frame. The program that sent it is told nothing, only these
 * tracepoints are. Loaded when something is sent from XDP. */
#include <bpf/bpf_core_read.h>
#include "../bpf/maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The parts of the kernel's structs that are read here; their places come from its BTF. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));
struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));
typedef struct {
	struct net *net;
} possible_net_t;
struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

volatile const __u32 cfg_netns SEC(".rodata.config") = 0; /* ours, by its inode: other namespaces have the same indexes */

static __always_inline bool is_ours(struct net_device *device)
{
	__u32 ifindex = BPF_CORE_READ(device, ifindex);

	return BPF_CORE_READ(device, nd_net.net, ns.inum) == cfg_netns && bpf_map_lookup_elem(&interfaces, &ifindex);
}

static __always_inline int lose(__u32 ifindex, int error, __u32 packets)
{
	struct loss_key key = {.ifindex = ifindex, .error = error < 0 ? -error : error};
	__u64 one = packets, *count = bpf_map_lookup_elem(&losses, &key);

	if (count)
		*count += packets;
	else
		bpf_map_update_elem(&losses, &key, &one, BPF_NOEXIST);
	return 0;
}

/* The kernel refused a redirect: no such interface, no XDP there, or the frame is too long. index: of the interface. */
SEC("raw_tp/xdp_redirect_err")
int lost_redirect(struct bpf_raw_tracepoint_args *ctx)
{
	return is_ours((void *)ctx->args[0]) ? lose(ctx->args[6], ctx->args[3], 1) : 0;
}

/* A driver took a batch of redirected frames, or a part of it. */
SEC("raw_tp/xdp_devmap_xmit")
int lost_batch(struct bpf_raw_tracepoint_args *ctx)
{
	struct net_device *to = (void *)ctx->args[1];
	int drops = ctx->args[3];

	return drops > 0 && is_ours((void *)ctx->args[0]) ? lose(BPF_CORE_READ(to, ifindex), ctx->args[4], drops) : 0;
}

/* Likewise of frames that go back by the interface that they came in by. */
SEC("raw_tp/xdp_bulk_tx")
int lost_answer(struct bpf_raw_tracepoint_args *ctx)
{
	struct net_device *device = (void *)ctx->args[0];
	int drops = ctx->args[2];

	return drops > 0 && is_ours(device) ? lose(BPF_CORE_READ(device, ifindex), ctx->args[3], drops) : 0;
}
