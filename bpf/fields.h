/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* What a rule can match. X(NAME, "text", KIND, key)
 * KIND  ADDR: a 128-bit address, part of the index;  NUMBER, FLAGS: fact() in bpf/parse.h gives a u32;  MAC: 48 bits;
 *       THING: the number of something that has a name in the configuration, as fact() gives it.
 * key   1 when the flow's key determines the value, so that a verdict may be remembered with the flow;
 *       0 lets nothing be remembered that such a condition had a part in. The state isn't in the key, but remembered beside.
 *       ICMP and fragments are never remembered, and of the other packets the key says that they are neither.
 * The same list, with syntax and bounds, is ctl/rule/fields.go; a test holds the two together. */
#pragma once

#define FIELDS(X)                              \
	X(SRC, "src", ADDR, 1)                 \
	X(DST, "dst", ADDR, 1)                 \
	X(PROTO, "proto", NUMBER, 1)           \
	X(SPORT, "sport", NUMBER, 1)           \
	X(DPORT, "dport", NUMBER, 1)           \
	X(ICMP_TYPE, "icmp-type", NUMBER, 1)   \
	X(ICMP_CODE, "icmp-code", NUMBER, 1)   \
	X(TTL, "ttl", NUMBER, 0)               \
	X(DSCP, "dscp", NUMBER, 0)             \
	X(LENGTH, "length", NUMBER, 0)         \
	X(STATE, "state", NUMBER, 1)             \
	X(TCP_FLAGS, "tcp-flags", FLAGS, 0)    \
	X(FRAGMENT, "fragment", NUMBER, 1)     \
	X(SRC_MAC, "src-mac", MAC, 0)          \
	X(DST_MAC, "dst-mac", MAC, 0)          \
	X(ETHERTYPE, "ethertype", NUMBER, 1)   \
	X(VLAN, "vlan", NUMBER, 1)             \
	X(INTERFACE, "interface", THING, 1)    \
	X(SERVICE, "service", THING, 1)
