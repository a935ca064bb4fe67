/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Load-time constants. What they make unreachable is taken out before a program is loaded (ctl/dataplane/fold.go), and they with it.
 * Go finds them by name in the object (spec.Variables) and the feature matrix test loads every combination of two. */
#pragma once

#define CONFIG(type, name, help) volatile const type name SEC(".rodata.config") = 1

CONFIG(__u8, cfg_rules, "judge by rules");
CONFIG(__u8, cfg_sets, "look up sets and filter.allow for source and destination");
CONFIG(__u8, cfg_blocks, "look up blocks");
CONFIG(__u8, cfg_services, "balance services");
CONFIG(__u8, cfg_flows, "keep flow records");
CONFIG(__u8, cfg_sample, "count one packet of so many in flow records");
CONFIG(__u8, cfg_dropped, "remember dropped flows");
CONFIG(__u8, cfg_limits, "rules with a limit");
CONFIG(__u8, cfg_events, "rules that log or sample");
CONFIG(__u8, cfg_effects, "rules that do more than decide");
CONFIG(__u8, cfg_actions, "rules that reject, redirect or mirror");
CONFIG(__u8, cfg_fragments, "give later fragments the ports of the first one");
CONFIG(__u8, cfg_link, "match MAC addresses, and judge frames that are neither IPv4 nor IPv6");
CONFIG(__u8, cfg_interfaces, "match interfaces");
CONFIG(__u8, cfg_asked, "match services");
CONFIG(__u8, cfg_health, "let answers to health checks through a filter that would drop them");
CONFIG(__u8, cfg_out, "judge what the kernel sends");
CONFIG(__u8, cfg_down, "drop or reset the flows of backends that are down");
CONFIG(__u8, cfg_state, "judge packets by what passed before them");
CONFIG(__u8, cfg_nat, "translate what goes to backends of services with forward: nat, and what they answer");
CONFIG(__u8, cfg_quic, "send QUIC packets to the server that their connection ID names");
CONFIG(__u8, cfg_capture, "tell of packets that somebody captures");
volatile const __u8 cfg_trace SEC(".rodata.config") = 0; /* record each step for explain; never on in live programs */
