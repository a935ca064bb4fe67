/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Internet checksums (RFC 1071) and their incremental update (RFC 1624, equation 3). */
#pragma once
#include "types.h"

static __always_inline __u16 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* `csum` as it stands in the packet after a 16-bit word changed; words in network order like the checksum. */
static __always_inline __u16 csum_replace(__u16 csum, __u16 old, __u16 new)
{
	return csum_fold((__u16)~csum + (__u16)~old + new);
}
