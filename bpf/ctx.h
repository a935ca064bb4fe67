/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The one difference between the XDP and the tc program: what a packet's context is. A program file defines HOOK_XDP
 * or HOOK_TC and includes the steps; steps use only the names below. */
#pragma once
#include "types.h"

#define barrier() asm volatile("" ::: "memory")
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

#ifdef HOOK_XDP
typedef struct xdp_md ctx_t;
enum action { ACTION_PASS = XDP_PASS, ACTION_DROP = XDP_DROP };

static __always_inline __u32 ctx_ifindex(ctx_t *ctx) { return ctx->ingress_ifindex; }

/* Bytes of the frame, fragments of a multi-buffer frame included. */
static __always_inline __u32 ctx_length(ctx_t *ctx) { return bpf_xdp_get_buff_len(ctx); }

/* Copy the frame's first bytes; 0 when it went well. */
static __always_inline long ctx_load(ctx_t *ctx, void *to, __u32 bytes) { return bpf_xdp_load_bytes(ctx, 0, to, bytes); }

/* Send the frame out of an interface. */
static __always_inline int ctx_send(ctx_t *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(ifindex, 0);
}
#else
typedef struct __sk_buff ctx_t;
/* UNSPEC lets whatever else sits on the hook have its say. */
enum action { ACTION_PASS = TC_ACT_UNSPEC, ACTION_DROP = TC_ACT_SHOT };

/* skb->cb[0] of what gardu sends itself: the egress program lets it alone. */
#define SENT_BY_GARDU 0x67617264

static __always_inline __u32 ctx_ifindex(ctx_t *ctx) { return ctx->ifindex; }
static __always_inline __u32 ctx_length(ctx_t *ctx) { return ctx->len; }
static __always_inline long ctx_load(ctx_t *ctx, void *to, __u32 bytes) { return bpf_skb_load_bytes(ctx, 0, to, bytes); }
static __always_inline int ctx_send(ctx_t *ctx, __u32 ifindex)
{
	ctx->cb[0] = SENT_BY_GARDU;
	return bpf_redirect(ifindex, 0);
}
#endif

static __always_inline void *ctx_data(ctx_t *ctx) { return (void *)(long)ctx->data; }
static __always_inline void *ctx_data_end(ctx_t *ctx) { return (void *)(long)ctx->data_end; }

/* A header's place in the frame. The mask tells the verifier what parse() makes sure of: offsets are small. */
static __always_inline void *header_at(void *data, __u16 offset) { return data + (offset & 0x7fff); }
static __always_inline void *ctx_at(ctx_t *ctx, __u16 offset) { return header_at(ctx_data(ctx), offset); }
