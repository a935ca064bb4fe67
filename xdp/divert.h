/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Actions redirect and mirror: the frame as it is, or a copy of it, leaves by another interface. */
#pragma once
#include "../bpf/maps.h"
#include "../bpf/pkt.h"
#include "../bpf/verdict.h"

/* An exit and its counter; NULL cannot be. */
static __always_inline struct exit *exit_of(__u32 key, struct exit_counter **counter)
{
	*counter = bpf_map_lookup_elem(&exit_counters, &key);
	return *counter ? bpf_map_lookup_elem(&exits, &key) : NULL;
}

static __always_inline enum reason redirect(ctx_t *ctx, struct pkt *p)
{
	struct exit_counter *counter;
	struct exit *exit = exit_of(p->exit, &counter);
	__u32 ifindex, length = p->way == WAY_LINK ? p->frame_bytes - p->l3 : p->length;

	ifindex = exit ? READ_ONCE(exit->ifindex) : 0;
	if (!ifindex)
		return REASON_REDIRECT_FAILED;
	if (exit->mtu && length > exit->mtu)
		return REASON_TOO_BIG;
	counter->redirected += p->segments;
	p->out_ifindex = ifindex;
	p->action = ctx_send(ctx, ifindex);
	return REASON_RULE_REDIRECT;
}

struct find_mirror {
	ctx_t *ctx;
	__u64 left; /* exits still to serve */
	__u64 sent; /* exits that got theirs */
	__u32 segments;
	__u32 bytes; /* of the frames */
};

/* The copy for one exit: 1 ends the loop. */
static long mirror_one(__u64 i, void *arg)
{
	struct find_mirror *f = arg;
	struct exit_counter *counter;
	struct exit *exit;
	bool failed = true;
	__u64 bit;

	if (!f->left)
		return 1;
	bit = f->left & -f->left;
	exit = exit_of(lowest_bit(f->left), &counter);
	f->left &= f->left - 1;
	if (!exit)
		return 0;
#ifdef HOOK_TC
	__u32 mark = f->ctx->cb[0];

	f->ctx->cb[0] = SENT_BY_GARDU;
	failed = bpf_clone_redirect(f->ctx, exit->ifindex, 0);
	f->ctx->cb[0] = mark;
#endif
	if (failed) {
		counter->failed += f->segments;
	} else {
		f->sent |= bit;
		counter->mirrored += f->segments;
		count_sent(exit->ifindex, f->segments, f->bytes);
	}
	return 0;
}

/* Copies for all rules with action mirror that matched, one an interface. XDP can't copy, so gardu isn't put there with such rules. */
__noinline int mirror(ctx_t *ctx, struct pkt *p)
{
	struct find_mirror f = {.ctx = ctx};

	if (!p)
		return 0;
	f.left = p->mirrors;
	f.segments = p->segments;
	f.bytes = p->frame_bytes;
	bpf_loop(EXITS, mirror_one, &f, 0);
	p->mirrors = f.sent;
	return 0;
}
