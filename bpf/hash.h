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
