/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Why a packet left the way it did. One row a reason: X(name, verdict, text, help).
 * The name on the screen, in metrics and in JSON is `text`; Go reads this table through BTF and
 * the string table in abi.c, so a new row needs no Go edit.
 * Verdicts: PASS to the kernel, DROP, REJECT, REDIRECT (a frame gardu answers or diverts), FORWARD to a backend.
 */
#pragma once

#define REASONS(X)                                                                                              \
	X(NONE, PASS, "none", "not decided; never counted")                                                    \
	X(DEFAULT_PASS, PASS, "default-pass", "no rule decided and filter.default is pass")                    \
	X(RULE_PASS, PASS, "rule-pass", "a rule with action pass decided")                                     \
	X(ALLOWED, PASS, "allowed", "the source is in filter.allow")                                           \
	X(NOT_IP, PASS, "not-ip", "neither IPv4 nor IPv6 (ARP and other ethertypes)")                          \
	X(CONTROL, PASS, "control", "neighbour discovery or MLD, passed although filter.default is drop")      \
	X(HEALTH_REPLY, PASS, "health-reply", "an answer to gardu's own health check")                         \
	X(FRAGMENT_PASS, PASS, "fragment-pass", "as default-pass, of a later fragment whose ports are not known")  \
	X(OUT_PASS, PASS, "out-pass", "sent by the kernel, and no rule with direction out drops it")           \
	X(RULE_DROP, DROP, "rule-drop", "a rule with action drop decided")                                     \
	X(DEFAULT_DROP, DROP, "default-drop", "no rule decided and filter.default is drop")                    \
	X(OUT_DROP, DROP, "out-drop", "sent by the kernel, and a rule with direction out drops it")            \
	X(FRAGMENT_DROP, DROP, "fragment-drop", "as default-drop, of a later fragment whose ports are not known")  \
	X(BLOCKED, DROP, "blocked", "a block covers the source")                                               \
	X(MALFORMED, DROP, "malformed", "headers are cut short or contradict each other")                      \
	X(NO_BACKEND, DROP, "no-backend", "the service has no backend that is up")                             \
	X(BACKEND_DOWN, DROP, "backend-down", "the backend of this flow is down, and on-down of its service is drop")  \
	X(NO_NEXT_HOP, DROP, "no-next-hop", "the way to the backend is not known")                             \
	X(TOO_BIG, DROP, "too-big", "larger than the MTU of the way out, and nobody was told")                 \
	X(SERVICE_FRAGMENT, DROP, "service-fragment", "a later fragment for a service address, and the first wasn't seen before it") \
	X(ENCAP_FAILED, DROP, "encap-failed", "the kernel refused room for the outer header")                  \
	X(TTL_EXCEEDED, DROP, "ttl-exceeded", "translated packets lose a hop of their TTL as routed ones do, and it had none left") \
	X(NAT_FULL, DROP, "nat-full", "the table of translations has no room for another one")                 \
	X(NAT_PORTS, DROP, "nat-ports", "every source port that was tried for a new translation is in use")    \
	X(NO_TABLES, DROP, "no-tables", "cannot happen: the generation's tables are missing")                  \
	X(FORWARD, FORWARD, "forward", "sent to a backend")                                                    \
	X(NAT_REPLY, FORWARD, "nat-reply", "a backend's answer, translated back and sent to the client")        \
	X(RULE_REJECT, REJECT, "rule-reject", "a rule with action reject decided, and its sender was told")            \
	X(REJECT_LIMITED, DROP, "reject-limited", "rejected without an answer: enough were given")                     \
	X(REJECT_SILENT, DROP, "reject-silent", "rejected without an answer: such a packet must get none")             \
	X(REJECT_FAILED, DROP, "reject-failed", "rejected without an answer: the kernel refused room for it")          \
	X(BACKEND_RESET, REJECT, "backend-reset", "the backend of this flow is down, and its client was sent a reset")  \
	X(RULE_REDIRECT, REDIRECT, "rule-redirect", "a rule with action redirect decided")                             \
	X(REDIRECT_FAILED, DROP, "redirect-failed", "the interface that a rule redirects to is away or down")          \
	X(ARP_REPLY, REDIRECT, "arp-reply", "answered an ARP request for a service address")                   \
	X(ND_REPLY, REDIRECT, "nd-reply", "answered a neighbour solicitation for a service address")           \
	X(ECHO_REPLY, REDIRECT, "echo-reply", "answered a ping to a service address")                  \
	X(TOO_BIG_TOLD, REJECT, "too-big-told", "larger than the MTU of the way out, and its sender was told")   \
	X(CANNOT_FRAGMENT, REJECT, "cannot-fragment", "as too-big-told, of IPv4 that may be fragmented, which gardu can't")
