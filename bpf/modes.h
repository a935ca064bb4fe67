/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* How packets reach a backend: X(name, text, help). The function is forward_<text> in xdp/lb_modes.h,
 * the Go side is one row in ctl/lb/modes.go. */
#pragma once

#define MODES(X)                                                                                   \
	X(DSR, dsr, "rewrite the destination MAC; the backend owns the service address")          \
	X(IPIP, ipip, "wrap in IPv4 or IPv6 (RFC 2003, 2473, 4213); the backend unwraps")          \
	X(GUE, gue, "wrap in UDP and IPv4 or IPv6 (GUE variant 1, port 6080); the backend unwraps") \
	X(NAT, nat, "translate addresses and ports, and the answers back; the backend sees gardu's address")
