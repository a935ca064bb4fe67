/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Received packets at XDP. */
#define HOOK_XDP
#include "ingress.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("xdp.frags")
int gardu_xdp(struct xdp_md *ctx)
{
	struct pkt *p = new_pkt(PKT_RECEIVED);
	enum reason reason;
	struct control *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p)
		return ACTION_DROP;
	reason = c ? ingress(ctx, c, p) : REASON_NO_TABLES;
	note_if_dropped(ctx, p, reason);
	return leave(ctx, c, p, reason);
}
