/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Received packets at tc ingress, for interfaces where XDP can't be or would send partial checksums; what leaves, at tc egress;
 * and health checks on their way to a backend. */
#define HOOK_TC
#include "../xdp/ingress.h"
#include "check.h"
#include "egress.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int gardu_ingress(struct __sk_buff *ctx)
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

SEC("tc")
int gardu_egress(struct __sk_buff *ctx)
{
	struct pkt *p = new_pkt(PKT_SENT);
	int action = ACTION_PASS;
	struct control *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	if (c && p)
		action = egress(ctx, c, p);
	if (action == ACTION_PASS && ctx->cb[0] != SENT_BY_GARDU)
		count_leaving(ctx);
	return action;
}

SEC("tc")
int gardu_check(struct __sk_buff *ctx)
{
	struct pkt *p;

	if (ctx->mark != CHECK_MARK)
		return ACTION_PASS;
	p = new_pkt(PKT_SENT);
	return p ? check(ctx, p) : ACTION_DROP;
}
