/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Bytes to facts and nothing else, by the parser of gardu's own programs: the least that judging a packet costs. */
#define HOOK_XDP
#include "../../bpf/parse.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("xdp.frags")
int parse_only(struct xdp_md *ctx)
{
	struct pkt *p = new_pkt(PKT_RECEIVED);

	return p && parse(ctx, p) == REASON_NONE ? XDP_PASS : XDP_ABORTED;
}
