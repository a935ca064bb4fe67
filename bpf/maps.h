/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Every map. Above each: who writes, who reads, what happens when it is full.
 * All programs share one set of maps, pinned under the bpffs directory by these names. */
#pragma once
#include "abi.h"
#include "map.h"

/* An outer map whose inner maps are arrays of as many lines. One length for all of them lets the kernel compile a lookup into the
 * program instead of calling a function for every line; so the loader sets the length of tables, and
 * loads the programs again when one no longer fits. (Sizes, not types: clang keeps only a forward declaration of a type that is
 * named in an inner map alone.) */
#define LINES_OUTER(name, entries, lines)                             \
	struct {                                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);             \
		__type(key, __u32);                                   \
		__uint(max_entries, entries);                         \
		__array(values, struct {                              \
			__uint(type, BPF_MAP_TYPE_ARRAY);             \
			__uint(key_size, sizeof(__u32));              \
			__uint(value_size, sizeof(struct line));      \
			__uint(max_entries, lines);                   \
			__uint(map_flags, BPF_F_MMAPABLE);            \
		});                                                   \
	} name SEC(".maps")

/* Daemon writes (mmap), all programs read: the index of the generation and what changes while running. One entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct control);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} control SEC(".maps");

/* Daemon writes, programs read: enum table, one map each. Key: slot of the generation. Inner maps are immutable once the index
 * points to them. These three belong to one load of the programs: the inner maps are what is pinned. */
LINES_OUTER(tables_sets, GENERATION_SLOTS, 1);
LINES_OUTER(tables_rules, GENERATION_SLOTS, 1);
LINES_OUTER(tables_services, GENERATION_SLOTS, 1);

/* Daemon writes, programs read. Key: ring id. A changed ring is a new inner map, put here in one store. Missing: no-backend. Rings are
 * as long as their services want: only new flows ask them, so that a lookup may be a call. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, RINGS);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct line));
		__uint(max_entries, 1);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	});
} rings SEC(".maps");

/* Daemon writes (health, next hops), programs read. Key: backend id. */
MAP(backends, BPF_MAP_TYPE_ARRAY, __u32, struct backend, BACKEND_IDS);

/* Daemon only: drains and weights that were ordered, kept here so that they survive a crash as the backend's state does. Key: backend
 * id. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct backend_note);
	__uint(max_entries, BACKEND_IDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} backend_notes SEC(".maps");

/* Daemon adds and removes; programs read and count hits. Full: `gardu block` fails and says so. */
MAP(blocks, BPF_MAP_TYPE_HASH, struct block_key, struct block, 262144);

/* Daemon writes (mmap), programs read: see struct block. Never full: blocks share cells. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct block_cell);
	__uint(max_entries, BLOCK_CELLS);
	__uint(map_flags, BPF_F_MMAPABLE);
} block_cells SEC(".maps");

/* Daemon only: origin and reason of a block, kept here so that they survive a crash as the block does. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct block_key);
	__type(value, struct block_note);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} block_notes SEC(".maps");

/* Daemon's health checkers add and remove; programs read when the filter would drop, and gardu_check to find the backend that a check is
 * of (0: it goes to the backend's own address). Full: the check fails and says so, or its answer may be dropped. */
MAP(health_flows, BPF_MAP_TYPE_HASH, struct health_key, __u32, 8192);

/* Daemon writes, programs read. Key: ifindex. Full: attach fails. */
MAP(interfaces, BPF_MAP_TYPE_HASH, __u32, struct interface, INTERFACE_IDS);

/* Programs only, while a rule asks for ports, and for services. Full: the least recently used gives way; the fragments that were still
 * to come of that packet are judged without ports, and of one for a service they are dropped as service-fragment. */
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment, 16384);

/* Daemon writes, programs read. Key: number of an interface that rules send packets or copies to. Away: redirect-failed. */
MAP(exits, BPF_MAP_TYPE_ARRAY, __u32, struct exit, EXITS);

/* Programs write, daemon reads. Per CPU, index as exits. */
MAP(exit_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct exit_counter, EXITS);

/* Programs on the kernel's tracepoints write (tc/losses.c), daemon reads: packets. Full: a further kind of loss isn't counted. */
MAP(losses, BPF_MAP_TYPE_PERCPU_HASH, struct loss_key, __u64, 1024);

/* Daemon writes the limits when it starts, programs the time. One entry: answers of action reject. */
MAP(reject_limit, BPF_MAP_TYPE_ARRAY, __u32, struct reject_limit, 1);

/* Programs only: the time of each source's bucket, by hash. Sources that meet in one share its rate, so a flood of forged ones
 * costs nobody more than that. */
MAP(reject_sources, BPF_MAP_TYPE_ARRAY, __u32, __u64, REJECT_SOURCES);

/* Daemon writes, programs read, so that an interface's number takes no look-up in a hash. Index: the low bits of its ifindex; value:
 * ifindex << 32 | number. Of two interfaces that meet here one is found by `interfaces`. */
MAP(interface_places, BPF_MAP_TYPE_ARRAY, __u32, __u64, INTERFACE_PLACES);

/* Programs write, daemon reads. Per CPU, index: the interface's number; 0: all that the daemon didn't tell of. */
MAP(interface_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct interface_counter, INTERFACE_IDS);

/* Programs write, daemon reads (and zeroes the counters of an id before it gets a new owner). Index: enum decider, rule ids. */
MAP(rule_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct rule_counter, RULE_IDS);

/* As rule_counters. Index: backend id; 0 = packets for a service that found no backend. */
MAP(backend_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct backend_counter, BACKEND_IDS);

/* Programs write, daemon reads. One entry: totals of flow accounting. */
MAP(flow_totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct flow_totals, 1);

/* Programs write (each CPU only its own region), daemon reads by mmap. Key: control.flow_slot. Inner index: cpu * buckets + bucket.
 * Full: see the head of flow.h. Two entries so that flows.max can change while running. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 2);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct flow_bucket));
		__uint(max_entries, 1);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	});
} flow_tables SEC(".maps");

/* (Beside them is pinned what was reported of flows, an array that only the daemon knows: ctl/dataplane/ledger.go, ctl/flow/ledger.go.) */

/* Programs write (spill, return), daemon reads. Key: control.flow_slot. Full: the kernel evicts the least recently used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 2);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LRU_HASH);
		__uint(key_size, sizeof(struct flow_key));
		__uint(value_size, sizeof(struct flow_value));
		__uint(max_entries, 1);
	});
} flow_lru SEC(".maps");

/* Programs write (each CPU only its own region), daemon reads by mmap. Key: 0. Inner index: cpu * buckets + bucket. Flows whose packets
 * were dropped or rejected. Full: see dropped.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct flow_bucket));
		__uint(max_entries, 1);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	});
} flow_dropped SEC(".maps");

/* Programs write, daemon reads by mmap. Key: 0. The table of connections, made when a snapshot first uses the field `state`; see
 * state.h, also for what happens when it is full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct state_bucket));
		__uint(max_entries, 1);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	});
} states SEC(".maps");

/* Programs write, daemon reads by mmap. Key: 0. Translations, and which ends towards backends they have; made when a snapshot first has
 * a service with forward: nat. Full: nat-full, nat-ports; see xdp/nat.h. */
#define NAT_OUTER(name, inner)                                           \
	struct {                                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                \
		__type(key, __u32);                                      \
		__uint(max_entries, 1);                                  \
		__array(values, struct {                                 \
			__uint(type, BPF_MAP_TYPE_ARRAY);                \
			__uint(key_size, sizeof(__u32));                 \
			__uint(value_size, sizeof(inner));               \
			__uint(max_entries, 1);                          \
			__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP); \
		});                                                      \
	} name SEC(".maps")
NAT_OUTER(nat_entries, struct nat_bucket);
NAT_OUTER(nat_lines, struct nat_line);

/* Programs write and read, daemon tends (mmap): token buckets, see xdp/limit.h. Full: packets share buckets, counted in effect_totals. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct line);
	__uint(max_entries, LIMIT_LINES);
	__uint(map_flags, BPF_F_MMAPABLE);
} limits SEC(".maps");

/* Programs write, daemon reads. One entry. */
MAP(effect_totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct effect_totals, 1);

/* Programs write, daemon takes out: struct event. Bytes. Full, or no daemon: events are lost, counted in effect_totals. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* Written only with cfg_trace, by the sibling programs of explain; read and cleared by mmap, packet by packet. One entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct trace);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} trace SEC(".maps");
