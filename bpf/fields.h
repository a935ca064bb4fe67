/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What a rule can match. X(NAME, "text", KIND, key)
 * KIND  ADDR: a 128-bit address, part of the index;  NUMBER: fact_<NAME>() in bpf/parse.h gives a u32.
 * key   1 when the flow's key determines the value, so that a verdict may be remembered with the flow;
 *       0 lets nothing be remembered that such a condition had a part in. The state isn't in the key, but remembered beside.
 * The same list, with syntax and bounds, is ctl/rule/fields.go; a test holds the two together. */
#pragma once

#define FIELDS(X)                              \
	X(SRC, "src", ADDR, 1)                 \
	X(DST, "dst", ADDR, 1)                 \
	X(PROTO, "proto", NUMBER, 1)           \
	X(SPORT, "sport", NUMBER, 1)           \
	X(DPORT, "dport", NUMBER, 1)           \
	X(ICMP_TYPE, "icmp-type", NUMBER, 0)   \
	X(ICMP_CODE, "icmp-code", NUMBER, 0)   \
	X(TTL, "ttl", NUMBER, 0)               \
	X(DSCP, "dscp", NUMBER, 0)             \
	X(LENGTH, "length", NUMBER, 0)         \
	X(STATE, "state", NUMBER, 1)
