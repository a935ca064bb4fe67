/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The hash of the static tables (see MIX_SEED in abi.h): a multiplication by 2^64 / golden ratio (Knuth, TAOCP 6.4) and a fold,
 * a word at a time. ctl/compile computes the same. */
#pragma once
#include "types.h"

static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9E3779B97F4A7C15ull;
	return h ^ h >> 32;
}

/* Some bits of an address for a first guess, by one multiplication: HINT_BITS of them. `addr`: as in memory, a multiple of 8. */
static __always_inline __u32 address_hint(const __u8 *addr)
{
	const __u64 *word = (const __u64 *)addr;

	return (word[0] ^ word[1]) * 0x9E3779B97F4A7C15ull >> (64 - HINT_BITS);
}
