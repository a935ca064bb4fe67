/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Every struct that crosses the border between the kernel and Go. Fixed width, explicit pad, size asserted.
 * bpf2go makes ctl/abi from this file; ctl/compile writes the tables that it describes.
 *
 * Byte order: members named be_* and all addresses are in network order; everything else is in host order.
 * An IPv4 address is stored in 16 bytes as ::ffff:a.b.c.d; the family travels beside it, so that an IPv6
 * packet that carries an IPv4-mapped address is never taken for IPv4.
 */
#pragma once
#include "types.h"
#include "fields.h"
#include "modes.h"
#include "reasons.h"

enum verdict { VERDICT_PASS, VERDICT_DROP, VERDICT_REJECT, VERDICT_REDIRECT, VERDICT_FORWARD };

#define REASON_ROW(name, verdict, text, help) REASON_##name,
enum reason { REASONS(REASON_ROW) REASON_COUNT };
#undef REASON_ROW

#define FIELD_ROW(name, text, kind, key) FIELD_##name,
enum field { FIELDS(FIELD_ROW) FIELD_COUNT };
#undef FIELD_ROW

#define MODE_ROW(name, text, help) MODE_##name,
enum mode { MODE_NONE, MODES(MODE_ROW) MODE_COUNT };
#undef MODE_ROW

/* What is answered to a packet that a rule rejects; ctl/rule/rejects.go has the words for it. */
enum reject { REJECT_DEFAULT /* to TCP a reset, else port unreachable */, REJECT_TCP_RESET, REJECT_PORT, REJECT_HOST, REJECT_NET, REJECT_ADMIN };

enum family { FAMILY_V4, FAMILY_V6, FAMILY_COUNT };

/* Sizes that both sides must agree on. */
enum limits {
	ABI_VERSION = 11,     /* of struct control. What else is pinned has versions of its own: ctl/dataplane/layout.go */
	GENERATION_SLOTS = 3, /* current, previous, being built: slot = generation % 3 */
	RULE_IDS = 131072,    /* counters; ids below FIRST_RULE_ID are reserved, see enum decider */
	SERVICE_IDS = 4096,   /* id 0: none */
	INTERFACE_IDS = 1024, /* numbers of interfaces; 0: none */
	INTERFACE_PLACES = 1024, /* a power of two */
	BACKEND_IDS = 16384,  /* id 0: none */
	RINGS = 8192,         /* ring ids; 0: none */
	REASON_SLOTS = 64,
	GROUPS = 64,          /* mask groups of a ruleset: one bit each */
	SET_BITS = 512,       /* address sets of a generation: one bit each in a class line; bit 0 is filter.allow */
	BUCKET_SLOTS = 8,
	BUCKET_HOPS = 4,      /* buckets an overflowing entry may be from its own, own included; the compiler grows the table else */
	FLOW_WAYS = 4,        /* records a bucket */
	FLOW_PEEK = 16,       /* CPUs whose records are searched for a flow that another one may have */
	SCAN_RECORDS = 2,     /* rule records that are scanned rather than looked up */
	STATE_ENTRIES = 4,    /* connections a bucket */
	NAT_ENTRIES = 4,      /* translations a bucket */
	NAT_SLOTS = 8,        /* of translated ends, a line */
	NAT_TRIES = 64,       /* ports that are tried for a new translation */
	NAT_POOL = 256,       /* addresses of a service's pool */
	NAT_POOL_BITS = 512,      /* bits that say what can be an address of some pool */
	HINT_BITS = 11,       /* of address_hint() */
	SERVICE_LEVELS = 32,  /* lengths of prefixes that are addresses of services, of both families */
	PROTO_ANY = 255,      /* of a service; no packet has it (IANA) */
	EXITS = 64,           /* interfaces that rules redirect or mirror to: one bit each; 0: none */
	REJECT_SOURCES = 4096, /* sources, by hash, that the answers of action reject are limited for */
	TRACE_STEPS = 64,
	LIMIT_LINES = 65536,  /* of token buckets, a power of two: see limit_spare */
	LIMIT_WORDS = 8,      /* buckets of a line, a word each */
	LIMIT_TICK_BITS = 2,  /* a tick is a quarter of a ns */
	LIMIT_TIME_BITS = 49, /* of such a word, the time in ticks, wraps in 39 hours; above it is a tag */
	LIMIT_SPAN_BITS = 44, /* 73 minutes: a time that is further ahead is the past, wrapped. config takes no longer burst */
	LIMIT_FEWER_BITS = 3, /* limit_spare at most, and at first */
	EVENT_HEAD = 128,     /* bytes of a frame that an event shows */
	EVENT_NOTES = 4,      /* rules that note one packet, a power of two */
	WATCH_DROPS = 1000,   /* dropped packets that become events in a window of time, see watch_drop() */
	WATCH_SHIFT = 30,     /* 2^30 ns: about a second */
	NOTE_BYTES = 104,
	CHECK_MARK = 0x67617264, /* SO_MARK of health checks that go the way of the service's packets; "gard" */
	CAPTURE_SNAP = 16384, /* most bytes of a frame that a capture takes, a power of two */
	CAPTURE_TESTS = 1024, /* of all expressions, a power of two */
	CAPTURE_READERS = 16, /* who capture at once: one bit each */
	CAPTURE_RATE = 200000, /* packets that a CPU tells of in a window of time, as WATCH_DROPS */
	BLOCK_CELLS = 262144, /* entries of block_cells, a power of two */
	BLOCK_CELL4 = 24,     /* prefix length of a cell */
	BLOCK_CELL6 = 40,
	BLOCK_SPREAD = 12,    /* a block that is shorter than a cell by more bits than this is wide: it is in no cell */
};

/* What decided a packet in the filter: an index of rule_counters. Sum over all of them = packets that reached the filter. */
enum decider {
	DECIDER_DEFAULT,
	DECIDER_ALLOW,
	DECIDER_BLOCK,
	DECIDER_HEALTH,
	DECIDER_GONE,        /* rules whose number another one has now: the daemon adds their counts up here */
	FIRST_RULE_ID = 16,
};

/* ---- A generation: three immutable tables of 64-byte lines -------------------------------------------------
 * All that a snapshot says to the packet path. Line 0 of a table is its head; offsets are line numbers, 0 = absent.
 * A table that a new snapshot doesn't change is shared by both generations.
 */
enum table { TABLE_SETS, TABLE_RULES, TABLE_SERVICES, TABLE_COUNT };

struct line {
	__u64 w[8];
};

/* A static hash bucket: slots fill from 0 up, tag 0 ends the bucket early. tag = (hash >> 32) | 1 with bit 31 cleared;
 * bit 31 of slot[0].tag says that entries that belong here went on into the next bucket (wrapping).
 * ref with bit 31: one entry, index ref & 0x7fffffff. Without: a list in the chain area, see `chain`. */
struct bucket {
	struct {
		__u32 tag;
		__u32 ref;
	} slot[BUCKET_SLOTS];
};
#define BUCKET_TAG(hash) ((((__u32)((hash) >> 32)) | 1u) & 0x7fffffffu)
#define BUCKET_OVERFLOW 0x80000000u
#define REF_SINGLE 0x80000000u

/* ---- TABLE_RULES -------------------------------------------------------------------------------------------
 * Three rulesets, each with a head of its own in line `way` and with records, groups and candidate masks of its own.
 *
 * Exact by verification: groups, buckets and candidate masks only narrow down which rule records to verify, and
 * each record states the rule's whole condition. Records are sorted by position in the ruleset, so the smallest
 * record index that matches is the first rule that decides.
 *
 * A group is a mask over (src, dst, proto, sport, dport); all records whose exact parts are that mask are hashed
 * under their masked values. Candidate masks (u64, a bit a group) say which groups can match a given value.
 *   cand_src/cand_dst: indexed by a window of `bits` address bits: (v4 address, or the upper half of a v6 address) >> shift, the
 *                      low `bits` of it; area = v4 words then v6 words, each 2^bits words. The window may lie anywhere, since bits
 *                      outside it only make more candidates; the compiler puts it where the rules differ.
 *   cand_dport/sport:  65536 words.  cand_proto: 256 words.
 */
enum way {
	WAY_IN,              /* received IPv4 and IPv6 */
	WAY_OUT,             /* sent, seen at tc egress: rules with direction: out */
	WAY_LINK,            /* received, neither IPv4 nor IPv6: rules that name the link layer; scanned */
	WAY_COUNT
};
struct rules_head {
	__u32 records;       /* number of rule records */
	__u32 record_off;    /* struct rule_record, one line each */
	__u32 groups;        /* number of groups, sorted by min_record */
	__u32 group_off;     /* struct rule_group, one line each */
	__u32 bucket_off;
	__u32 bucket_mask;   /* buckets - 1 */
	__u32 chain_off;     /* u32 words: count, then record indexes in ascending order; ref is the word index */
	__u32 ext_off;       /* struct rule_extra, one line each */
	__u32 cand_src_off;
	__u32 cand_dst_off;
	__u32 cand_sport_off;
	__u32 cand_dport_off;
	__u32 cand_proto_off;
	__u8 cand_src_bits;  /* 8 to 20 */
	__u8 cand_dst_bits;
	__u8 flags;          /* RULES_* */
	__u8 default_verdict; /* VERDICT_PASS or VERDICT_DROP */
	__u8 cand_src_shift[FAMILY_COUNT]; /* place of the window, from the low end: v4 of 32 bits, v6 of the upper 64 */
	__u8 cand_dst_shift[FAMILY_COUNT];
	__u32 effect_off;    /* struct rule_effect, one line each; none at line 0 of the area */
};
enum rules_flags {
	RULES_SRC_SETS = 2,  /* some rule or filter.allow asks for the sets of the source */
	RULES_DST_SETS = 4,
	RULES_ALLOW = 8,     /* filter.allow is configured: set bit 0 */
	RULES_SCAN = 16,     /* few records: verify one after the other, which is faster than any index */
	RULES_PORTS = 32,    /* some rule depends on ports */
	RULES_SET_FIRST = 64, /* record 0 asks for a set of the source and nothing else, and decides: look before searching */
};

struct rule_group {
	__u64 src_mask[2];   /* host order, [0] the high half; v4: in the low 32 bits of [1], [0] = 0 */
	__u64 dst_mask[2];
	__u32 min_record;    /* no record of this group is before it */
	__u32 key_mask;      /* ANDed with sport << 16 | dport */
	__u8 proto_mask;     /* 0 or 0xff */
	__u8 families;       /* bit FAMILY_V4, bit FAMILY_V6: packets it can match */
	__u16 pad0;
	__u32 pad1;
	__u64 pad2[2];
};
/* Hash of a packet in a group, all in host order, v4 addresses as their 32-bit value:
 *   meta = (sport << 16 | dport) & key_mask | (u64)(proto & proto_mask) << 32 | (u64)group << 40 | (u64)family << 48
 *   v4:  mix2((src & mask) << 32 | (dst & mask), meta)
 *   v6:  mix5(src[0] & m, src[1] & m, dst[0] & m, dst[1] & m, meta)
 * A group without address masks and for both families is entered once a family.
 * mix(h, x) = ((h ^ x) * 0x9E3779B97F4A7C15) folded by h ^= h >> 32; mixN starts at MIX_SEED and takes its words in order.
 * A packet without ports has sport = dport = 0 and matches no group with a nonzero key_mask. */
#define MIX_SEED 0x243F6A8885A308D3ull

struct rule_record {
	__u64 src[2];        /* masked value, host order as in rule_group */
	__u64 dst[2];
	__u32 id;            /* index of rule_counters */
	__u16 conditions;    /* RULE_* : present parts */
	__u16 negated;       /* the same bits: that part is negated */
	__u8 src_plen;       /* 0 to 32 or 0 to 128 */
	__u8 dst_plen;
	__u8 proto;
	__u8 verdict;        /* enum verdict */
	__u16 sport_lo, sport_hi;
	__u16 dport_lo, dport_hi;
	__u16 src_set, dst_set; /* bit in the class line; 0 cannot be (filter.allow) and means none */
	__u32 ext;           /* first struct rule_extra of this record, line within ext area; valid with RULE_EXT */
	__u32 effect;        /* line within the effect area; 0: the rule decides by `verdict` and that is all */
};
enum rule_conditions {
	RULE_V4 = 1,         /* only IPv4 packets (src or dst is a v4 prefix, or the field needs it) */
	RULE_V6 = 2,
	RULE_SRC = 4,
	RULE_DST = 8,
	RULE_PROTO = 16,
	RULE_SPORT = 32,     /* sport_lo <= sport <= sport_hi */
	RULE_DPORT = 64,
	RULE_SRC_SET = 128,
	RULE_DST_SET = 256,
	RULE_EXT = 512,
};
/* What a rule does besides, or instead of, deciding at once. One a rule. */
struct rule_effect {
	__u32 id;            /* index of rule_counters */
	__u32 next;          /* first record of the next rule: there the search goes on when this one doesn't decide */
	__u16 flags;         /* EFFECT_* */
	__u8 verdict;        /* with EFFECT_DECIDES: enum verdict */
	__u8 reject;         /* with VERDICT_REJECT: what is answered */
	__u32 interface;     /* redirect, mirror: index of `exits` */
	__u32 log, sample;   /* one packet of so many; 0: none */
	__u8 per;            /* limit: enum limit_per */
	__u8 prefix[FAMILY_COUNT]; /* and with addresses, how many bits of them */
	__u8 pad0;
	__u32 bucket;        /* limit: names the buckets; rules that share it share them */
	__u64 cost;          /* limit: ns << 16 that one packet or byte takes to come back */
	__u64 burst;         /* limit: ticks that a whole burst takes */
	__u32 most;          /* limit: packets or bytes of a burst; what needs more at once is over it */
	__u32 pad1;
	__u64 pad2;
};
enum effect_flags {
	EFFECT_DECIDES = 1,
	EFFECT_SHADOW = 2,   /* counts what it would do */
	EFFECT_LIMIT = 4,    /* concerns only packets over the limit */
	EFFECT_BYTES = 8,    /* the limit is on bytes of IP, not packets */
	EFFECT_MIRROR = 16,
	EFFECT_SKIP = 32768, /* no rule of its own: leads past one that must not match */
};
/* What has a token bucket of its own. */
enum limit_per {
	PER_RULE,            /* no part of the packet: all that the bucket's name stands for */
	PER_SRC,
	PER_DST,
	PER_SERVICE,         /* 0: for none */
	PER_FLOW,            /* addresses, protocol, ports */
};
/* Further conditions of a record on any number field, ANDed: five a line, `more` = 1 when the next line goes on. A condition
 * that lists several ranges, or a port set, is a bitmap in the ext area instead: lo = its first line, 65536 bits.
 * MAC addresses are numbers of 48 bits, of which the first 1 to 48 are compared. Long lists of them are in buckets in the ext area, one
 * line each: MACS_USED | leading bits, filled from 0 up; bucket mix2(leading bits, how many) & hi, full ones go on in the next.
 * Conditions that the flow's key determines come first. */
struct rule_extra {
	struct {
		__u8 field;      /* enum field */
		__u8 flags;      /* EXT_* */
		__u16 part;      /* EXT_MAC: bits 32 to 47 of the leading bits, whose others are in lo; EXT_MACS: how many they are */
		__u32 lo, hi;    /* lo <= fact <= hi; EXT_MASK: (fact & hi) == lo; EXT_MAC: hi leading bits; EXT_MACS: first line, buckets - 1 */
	} cond[5];
	__u16 count;
	__u16 more;
};
enum ext_flags {
	EXT_NEGATED = 1,
	EXT_BITMAP = 2,
	EXT_VOLATILE = 4,    /* the flow's key doesn't determine the fact */
	EXT_MASK = 8,
	EXT_MAC = 16,
	EXT_MACS = 32,
};
#define MACS_USED (1ull << 63)

/* ---- TABLE_SETS --------------------------------------------------------------------------------------------
 * Address -> class, class -> line of SET_BITS bits (word b / 64, bit b % 64): which sets the address is in. Class 0 is "none" (an all-zero line).
 * v4: code = 2 bits a /24, u64 word (a >> 8) / 32, bit pair (a >> 8) % 32:
 *     0 class 0;  1 class = l16[a >> 16] (u16);  2 look into the buckets.
 *     Bucket by mix2(a >> 8, 4); slots of u64: kind << 60 | (a >> 8) << 36 | payload. No slot matches: class 0.
 *     Every slot of a /24 is in the same bucket or the ones it overflows into; UNIFORM of a /24 is the class of the addresses
 *     that no HOST slot of that /24 names; DENSE alone decides its /24.
 *     Before the code: a bit a /23, u64 word (a >> 9) / 64, bit (a >> 9) % 64: 0 means that both codes are 0.
 *     No code table: few /24s are of one class, and every /24 that sets touch is in the buckets. No such bits: the sets are small.
 * v6: for each used prefix length, longest first: h = mix3(hi & mask, lo & mask, 6 | len << 8); bloom word (h >> 40) & bloom_mask must have the
 *     bits 1 << (h & 63), 1 << (h >> 6 & 63), 1 << (h >> 12 & 63); then bucket (h >> 18) & mask. The first hit decides (its class holds
 *     what shorter prefixes add).
 *     Before that, all of them at once: a bloom filter of the networks of 64 - touched_shift bits that a prefix is in or holds.
 *     h = mix1(hi >> touched_shift); word (h >> 40) & touched_mask without the bits 1 << (h & 63), 1 << (h >> 6 & 63) means class 0.
 */
struct sets_head {
	__u32 class_off;     /* one line a class */
	__u32 classes;
	__u32 v4_code_off;
	__u32 v4_l16_off;
	__u32 v4_bucket_off;
	__u32 v4_bucket_mask;
	__u32 v4_dense_off;  /* 8 lines (256 u16 classes) each */
	__u32 v6_bloom_off;  /* u64 words */
	__u32 v6_bloom_mask; /* words - 1 */
	__u32 v6_bucket_off; /* struct sets_bucket6 */
	__u32 v6_bucket_mask;
	__u16 v6_lens;       /* number of used lengths */
	__u16 v6_touched_shift; /* 0 to 63 */
	__u32 v6_len_off;    /* u8 lengths, descending, up to 128 in two lines */
	__u32 v4_touched_off; /* 0: none */
	__u32 v6_touched_off; /* u64 words; 0: none */
	__u32 v6_touched_mask; /* words - 1 */
};
/* v4 slot kinds, bits 60..63 of the u64; 0 ends the bucket. Bit 35 of slot 0: entries went on into the next bucket. */
enum v4_slot { V4_END, V4_HOST /* payload: host << 16 | class */, V4_UNIFORM /* class */, V4_DENSE /* dense index, 32 bits */ };
#define V4_SLOT_OVERFLOW (1ull << 35)

struct sets_bucket6 {
	struct {
		__u64 hi, lo;    /* masked, host order */
	} key[3];
	__u16 class[3];
	__u8 len[3];         /* prefix length; 0 = empty slot */
	__u8 overflow;       /* entries went on into the next bucket */
	__u16 pad[3];
};

/* ---- TABLE_SERVICES ----------------------------------------------------------------------------------------
 * Address filter: bit mix2(hi ^ lo, family) >> 32 & filter_mask must be set, else the address is no service's.
 * Then two lookups in one bucket area: h = mix4(hi, lo, meta, 1) with meta = port << 16 | proto << 8 | family for services with
 * one port; h = mix4(hi, lo, family, 2) for the address itself (refs: its records of several ports or any protocol, and one that
 * carries SERVICE_ARP if any does; answers ARP, ND, ping). v4: hi = 0, lo = 0xffff00000000 | address. Records are verified, and
 * sorted so that of those that fit the first one is meant: of one protocol before any, of fewer ports before more.
 * A service whose address is a prefix is found the same way under the masked address, with cut << 8 added to the family in the
 * filter and to the 1 or 2 of the hashes. Each length that is in use is a level, longest first, asked when the address
 * itself and the levels before have no service that fits. Without such services there is no level, and nobody looks.
 */
struct services_head {
	__u32 services;
	__u32 service_off;   /* struct service_record, one line each */
	__u32 filter_off;    /* bits, u64 words */
	__u32 filter_mask;   /* bits - 1 */
	__u32 bucket_off;
	__u32 bucket_mask;
	__u32 chain_off;
	__u32 levels;        /* lengths of prefixes */
	__u32 level_off;     /* struct service_level, one line each */
	__u32 server_off;    /* struct server_id, one line each */
	__u32 server_bucket_off; /* likewise in buckets, by mix3(id, service | server_salt << 32) */
	__u32 server_bucket_mask;
	__u32 server_salt;   /* with which no two of them share a slot: there are no chains */
	__u32 pad[3];
};
/* A server ID, as QUIC connection IDs of a service carry it, and whose it is. */
struct server_id {
	__u64 id[2];         /* in the order of its bytes, from the high end on; zeros behind it */
	__u16 service, backend;
	__u32 pad0;
	__u64 pad1[5];
};
struct service_level {
	__u64 mask[2];       /* host order, v4: ones before the address */
	__u8 family;
	__u8 cut;            /* bits that the mask cuts off, 1 to 127 */
	__u16 pad0;
	__u32 pad1;
	__u64 pad2[5];
};
struct service_record {
	__u64 addr[2];       /* host order, v4 mapped; of a prefix the first address */
	__u8 family;
	__u8 proto;          /* PROTO_ANY: all but ICMP */
	__u8 mode;           /* enum mode */
	__u8 flags;          /* SERVICE_* */
	__u16 port_lo, port_hi;
	__u16 id;
	__u16 nat_addresses; /* mode nat: addresses of the pool; 0: the one of the way to the backend */
	__u32 ring;          /* index of `rings` */
	__u32 nat_off;       /* their lines: four addresses each, network order, v4 mapped */
	__u16 nat_lo, nat_hi; /* source ports */
	__u32 ring_size;     /* slots of the ring, a prime */
	__u8 cut;            /* bits at the end of the address that may be any; 0: none */
	__u8 quic;           /* how connection IDs name servers, QUIC_*; 0: nobody looks */
	__u16 pad1;
	__u64 pad2[2];
};
enum service_flags { SERVICE_ARP = 1 /* answer ARP and ND */, SERVICE_AFFINITY_SOURCE = 2 };
/* Parts of a byte that says where a connection ID has its server ID, and which connection IDs have one. */
enum quic_form {
	QUIC_ID_BYTES = 15,  /* of the server ID, which is behind the first octet: 1 to 15 */
	QUIC_CONFIG = 7 << 4, /* what the first three bits of the first octet are */
	QUIC_KATRAN = 128,   /* the third one may be any, and a connection ID has 8 bytes (katran's versions 2 and 3) */
};
/* A ring is an array of lines as well: u16 backend ids, ring_size of them; slot = (u64)(u32)h * ring_size >> 32 with
 * h = hash >> 32 of mix5(src hi, src lo, dst hi, dst lo, sport << 32 | dport << 16 | proto) (affinity flow) or
 * mix2(src hi, src lo) (affinity source). No secret in it: two boxes choose alike. */

/* ---- Runtime state, outside the generations ---------------------------------------------------------------- */

/* One line of settings that change while running. Written by the daemon through mmap, word by word. */
struct control {
	__u32 generation;    /* THE index: read once per hook traversal. 0 = nothing applied: pass everything */
	__u32 block_epoch;   /* grows when blocks are added; never 0 once it has */
	__u32 flow_slot;     /* which of flow_tables is in use */
	__u32 flow_buckets[2]; /* a CPU, of each flow table */
	__u32 flow_old;      /* 1: look into the other flow table on a miss */
	__u32 abi_version;
	__u32 health;        /* entries in health_flows: 0 skips the lookup */
	__u64 hash_key[2];   /* secret of the flow hash, random, fixed for the life of the maps */
	__u64 block_lens4;   /* bit n: some block has a v4 prefix of length n */
	__u64 block_lens6[3]; /* likewise, bit n of word n / 64 */
	__u32 flow_guard;    /* jiffies that a flow must be idle before another may take its record */
	__u32 flow_budget;   /* inserts into the LRU map that a CPU may make for each jiffy */
	__u32 flow_cpus;     /* regions of a flow table: possible CPUs */
	__u32 ring_changes;  /* grows when a ring changes: flows may be on backends that their ring doesn't give any more */
	__u64 features;      /* what the programs in force were made for: cfg_ constants, a bit each */
	__u32 wide_epoch;    /* block_epoch when a block that is in no cell was added last */
	__u32 hz;            /* jiffies a second */
	__u32 state_mask;    /* buckets of the table of connections - 1 */
	__u32 state_frozen;  /* 1: read connections, don't write them (explain, with cfg_trace) */
	__u32 watch_until;   /* so long dropped packets become events: CLOCK_MONOTONIC in WATCH_SHIFT; 0: nobody follows events */
	__u32 dropped_mask;  /* buckets a CPU - 1, of the table of dropped flows */
	__u32 flow_sample;   /* one packet of so many counts in flow records; 0 and 1: all do */
	__u32 nat_mask;      /* buckets of the table of translations - 1 */
	__u32 nat_slot_mask; /* lines of slots - 1 */
	__u32 flow_max[2];   /* flows expected of each flow table; the daemon alone */
	__u32 limit_spare;   /* of the bits that number a line of `limits`, so many aren't used yet: the daemon doubles the lines when they fill */
	__u64 nat_key;       /* secret of the choice of ports; 0 in private instances, so that it can be foretold */
	__u64 still;         /* jiffies at which the clock stands (private instances, with cfg_trace); 0: it runs */
	__u64 nat_pools[NAT_POOL_BITS / 64]; /* a bit each by hash: addresses that translations came from since their table was made. Programs
	                      * set them */
	__u8 service_hints[1 << HINT_BITS]; /* by address_hint(): 0: no service of a generation that a slot holds has such an address */
};

struct block_key {
	__u8 addr[16];       /* masked, network order, v4 mapped */
	__u8 plen;           /* within its family: 1 to 32, 1 to 128 */
	__u8 family;
	__u16 pad;
};
struct block {
	__u64 expires;       /* CLOCK_MONOTONIC ns; 0 = never */
	__u64 packets;
	__u64 bytes;         /* frame lengths */
	__u64 created;       /* CLOCK_REALTIME ns */
};
/* What blocks there may be for a source: so a flow that was asked at an earlier epoch looks at one word to know whether any that came
 * since may concern it, however many there are, and a new one is only looked up by the lengths that it may be blocked by. The
 * cell of a source is mix2(family, bits) & (BLOCK_CELLS - 1), bits = its first BLOCK_CELL4 or BLOCK_CELL6 bits. A block is in the
 * cells of all addresses that it covers, unless it is wide. */
struct block_cell {
	__u32 epoch;         /* block_epoch when a block of this cell was added last; 0: there is none */
	__u32 lens;          /* prefix lengths of its blocks, perhaps of some that are gone. v4: bit n - (BLOCK_CELL4 - BLOCK_SPREAD);
	                      * v6: bit n / 64 */
};

struct block_note {      /* for people only; the data plane doesn't read it */
	char text[NOTE_BYTES]; /* "origin\0why\0", NUL padded */
};

/* One backend of one service, runtime state. Written by the daemon: seq odd, fields, seq even. */
struct backend {
	__u32 seq;
	__u8 state;          /* BACKEND_* bits */
	__u8 mode;           /* enum mode */
	__u8 family;         /* of `address` and `source`: the outer family for ipip */
	__u8 pad0;
	__u16 service;
	__u16 mtu;           /* of the way out, bytes of IP; 0 = unknown, not checked */
	__u32 ifindex;
	__u8 address[16], source[16]; /* network order, v4 mapped; source 0 = not known */
	__u8 dmac[6], smac[6]; /* together and in this order, as in an Ethernet header */
	__be16 be_port;      /* mode nat: where it listens; 0: at the port of the service */
	__u16 vlan;          /* id of the 802.1Q tag that frames get at `ifindex`; 0: none */
};
enum backend_state {
	BACKEND_USED = 1,    /* the entry is valid */
	BACKEND_UP = 2,      /* forward flows that are on it */
	BACKEND_HOP = 4,     /* ifindex, dmac, smac, mtu are valid; else ask the FIB */
	BACKEND_DOWN_DROP = 8,   /* while it isn't up, TCP flows on it are dropped until they begin anew; else they move */
	BACKEND_DOWN_RESET = 16, /* likewise, and their clients get a reset */
};

struct backend_note {    /* what somebody ordered while running, and what else outlives a daemon; the data plane doesn't read it */
	__u64 drained;       /* CLOCK_REALTIME ns, since when it gets no new flows; 0: it does */
	__u64 until;         /* CLOCK_REALTIME ns, when the flows that are left go elsewhere; 0: never */
	__u32 weight;        /* instead of the configuration's, plus 1; 0: the configuration's */
	__u32 slow;          /* CLOCK_REALTIME s, since when it starts slowly; 0: it doesn't */
};

struct interface {
	__u8 mac[6];
	__u8 flags;          /* INTERFACE_* */
	__u8 pad0;
	__u16 number;        /* stable by name: rules name the interface and programs count by it */
	__u16 pad1;
};
enum interface_flags { INTERFACE_INGRESS = 1 /* gardu counts flows where they come in here */ };

/* An interface that rules redirect or mirror to. Outside of the generations: interfaces come and go, are renamed, or are down. */
struct exit {
	__u32 ifindex;       /* 0: it is away or down */
	__u32 mtu;           /* bytes of IP; 0: not checked */
};
struct exit_counter {    /* packets; a bundle counts its segments */
	__u64 redirected;
	__u64 mirrored;
	__u64 failed;        /* copies that could not be made */
};

/* Packets that were lost after XDP sent them. */
struct loss_key {
	__u32 ifindex;       /* where to */
	__u32 error;         /* errno; 0: no room */
};

/* How many answers action reject gives. A bucket of tokens is a time: when all that was taken from it is paid for. */
struct reject_limit {
	__u64 cost, burst;     /* of all together: ns an answer (0: no limit), ns that the time may be ahead of the clock */
	__u64 source_cost, source_burst; /* of each source */
	__u64 time;            /* CLOCK_MONOTONIC ns, coarse */
};

/* ---- Flows -------------------------------------------------------------------------------------------------- */
struct flow_key {
	__u8 saddr[16], daddr[16];
	__be16 be_sport, be_dport; /* ICMP echo: both the identifier; other ICMP, later fragments, no ports: 0 */
	__u8 proto;
	__u8 zone;
	__u16 tag;           /* FLOW_* flags << 12 | VLAN id (0 = untagged); 0 = the record is free */
};
#define FLOW_VLAN_MASK 0xfff
enum flow_tag { FLOW_OUT = 1, FLOW_V6 = 2, FLOW_LATER = 4 /* later fragments */, FLOW_USED = 8 };

struct flow_value {
	__u64 packets;       /* wire packets */
	__u64 bytes;         /* IP lengths */
	__u32 last;          /* jiffies, low 32 bits */
	__u32 generation;    /* verdict, rule, service, backend were found under it; 0 = judge again */
	__u32 rule;          /* decider */
	__u32 block_epoch;
	__u16 backend;
	__u16 service;
	__u8 verdict;
	__u8 reason;
	__u8 tcp_flags;      /* OR of all seen */
	__u8 state;          /* FLOW_STATE_* */
	__u64 first;         /* CLOCK_MONOTONIC ns */
	__u32 ifindex;       /* where it came in (or left, with FLOW_OUT) */
	__u8 ttl_min, ttl_max;
	__u8 dscp;           /* of the first packet */
	__u8 spilled;        /* record 0 of a bucket: some flow of it went to the LRU map */
	__u32 asked;         /* jiffies: when the table of connections was last asked and told */
	__u8 seen;           /* enum state that it gave */
	__u8 judged;         /* enum state under which the verdict was found */
	__u8 exit;           /* verdict redirect: where to */
	__u8 quic;           /* as its service's, while the generation is the same */
	/* TCP alone, of this direction: */
	__u64 syn;           /* CLOCK_MONOTONIC ns of its SYN or SYN+ACK, the last one before it acknowledged something; 0: none */
	__u64 acked;         /* of the first segment with ACK after that; 0: none */
	__u32 seq;           /* the sequence number after the highest that was seen; 0: none was */
	__u32 retransmits;   /* segments that carry again what is below it */
};
enum flow_state {
	FLOW_STATE_ESTABLISHED = 1, /* TCP: a segment without SYN; else a second packet */
	FLOW_STATE_CLOSED = 2,      /* FIN or RST */
	FLOW_STATE_ANSWERED = 4,    /* SYN+ACK: the other direction opened the flow, whether or not its SYN has a record still */
};

struct flow_record {
	struct flow_key key;
	struct flow_value value;
};
struct flow_bucket {
	struct flow_record record[FLOW_WAYS];
};

/* Per-CPU totals of flow accounting, packets and IP bytes; of sampled packets, but for created, filtered, sent, out_decided and state_*. accounted = in records + in LRU + unattributed + lru_lost. */
struct flow_totals {
	__u64 accounted, accounted_bytes;
	__u64 evicted, evicted_bytes;     /* one-packet records that gave way: unattributed */
	__u64 refused, refused_bytes;     /* no room, or over the LRU insert budget: unattributed */
	__u64 spilled, spilled_bytes;     /* moved into the LRU map */
	__u64 returned, returned_bytes;   /* and back */
	__u64 created;                    /* records made */
	__u64 filtered;                   /* packets that reached the filter: counted on their own to check the deciders' sum */
	__u64 sent, sent_bytes;           /* packets seen at tc egress, frame bytes */
	__u32 tick, budget;               /* LRU inserts left, and up to which jiffy they were given */
	__u64 state_created;              /* entries made in the table of connections */
	__u64 state_evicted;              /* that took the place of one that wasn't confirmed */
	__u64 state_refused;              /* packets whose connection found no place: their answers count as new */
	__u64 out_decided;                /* sent packets that a rule decided */
	__u64 dropped, dropped_bytes;     /* packets that went no further = in records of dropped flows + dropped_lost */
	__u64 dropped_lost, dropped_lost_bytes; /* of records that gave way, and of what is no flow's */
	__u32 sample_at, sample_pick;     /* which of the next flow_sample packets this one is, and which one counts */
};

/* What a packet is to what passed before it; the value of the field `state`. */
enum state { STATE_NONE /* the packet has none */, STATE_NEW, STATE_ESTABLISHED, STATE_INVALID };

/* A connection, whoever began: its ends in the order of their bytes, and a word for each direction, way[0] from a to b.
 * Word: bits 0-31 when something last passed, in 1/64 s; 32-39 SEEN_*; 40-63 bits of the connection's hash. 0: nothing passed. */
struct state_entry {
	__u8 a[16], b[16];
	__be16 be_aport, be_bport; /* of a ping: the identifier at the end that asks, 0 at the other */
	__u8 proto, family;
	__u16 pad0;
	__u64 way[2];
	__u64 pad1;
};
enum state_flags {
	SEEN = 1,
	SEEN_SYN = 2,
	SEEN_FIN = 4,
	SEEN_RST = 8,
	SEEN_SPOKE = 16,     /* something that wasn't a SYN passed while established */
	SEEN_ONE_SIDED = 32, /* to a backend: answers don't come by */
	SEEN_UDP = 64,       /* of a translation: it is of UDP, not of TCP */
};
struct state_bucket {
	struct state_entry entry[STATE_ENTRIES];
};
/* Seconds for which a direction counts as seen. */
enum state_timeouts {
	TIMEOUT_TCP_OPENING = 60,
	TIMEOUT_TCP = 7440,        /* RFC 5382, section 5 */
	TIMEOUT_TCP_CLOSING = 240, /* likewise: a FIN was seen */
	TIMEOUT_TCP_RESET = 10,
	TIMEOUT_UDP = 60,          /* and SCTP */
	TIMEOUT_UDP_BOTH = 180,    /* both sides have spoken after an answer; RFC 4787, section 4.3, wants two minutes */
	TIMEOUT_ECHO = 30,
	TIMEOUT_OTHER = 600,
};

/* A translation: what a client sends to a service goes on from `pool` to `address`, and answers come back. The head is as in
 * struct state_entry, the client's end first, whatever the order; words as there, way[0] of what the client sent. See xdp/nat.h. */
struct nat_entry {
	__u8 client[16], service[16];
	__be16 be_client_port, be_service_port;
	__u8 proto, family;
	__u16 pad0;
	__u8 pool[16];
	__be16 be_pool_port, be_port;
	__u16 backend;
	__u16 vlan;          /* id of the tag of the client's first frame; 0: it had none, or two */
};
struct nat_more {
	__u8 address[16];
	__u64 hash;          /* of the ends towards the backend: says where the slot is that refers to this entry; 0: there is none */
	__u8 macs[12];       /* of the client's first frame turned round: where answers go when there is no route */
	__u32 ifindex;       /* likewise */
	__u64 pad0;
};
/* Words of all its translations are together: most of who looks into a bucket finds nothing there, and reads no more than a line. */
struct nat_bucket {
	__u64 way[NAT_ENTRIES][2];
	struct nat_entry entry[NAT_ENTRIES];
	struct nat_more more[NAT_ENTRIES];
};
/* The ends towards backends that are taken, by hash: a word is half of the hash << 32 | index of the entry + 1; 0: free. */
struct nat_line {
	__u64 slot[NAT_SLOTS];
};

struct counter {
	__u64 packets;
	__u64 bytes;         /* frame lengths */
};
/* What passed by an interface. */
struct interface_counter {
	struct counter reason[REASON_SLOTS]; /* received packets; and sent ones that rules judge, by reasons of their own */
	struct counter sent;  /* by gardu itself; where it is at tc egress also by the kernel. As the frames left */
};
struct rule_counter {
	__u64 packets, bytes; /* matched */
	__u64 decided;
	__u64 shadow;
};
struct backend_counter {
	__u64 packets, bytes;
	__u64 flows;         /* flows assigned to it */
	__u64 named;         /* packets whose QUIC connection ID named it */
};

/* The ports of a packet in fragments, which only the first one carries, and the backend that it went to. */
struct fragment_key {
	__u8 saddr[16], daddr[16];
	__u32 id;            /* as it stands in the header */
	__u16 vlan;
	__u8 proto;
	__u8 family;
};
struct fragment {
	__be16 be_sport, be_dport;
	__u32 seen;          /* jiffies, low 32 bits */
	__u16 backend;       /* 0: none */
	__u16 pad;
};

/* Our own health check's connection, local end first. */
struct health_key {
	__u8 laddr[16], raddr[16];
	__be16 be_lport, be_rport;
	__u8 proto, family;
	__u16 pad;
};

/* What effects cost and lose. Per CPU. */
struct effect_totals {
	__u64 sent;          /* events */
	__u64 lost;          /* events: the ring was full */
	__u64 unnoted;       /* notes of rules on a packet that had EVENT_NOTES already */
	__u64 shared;        /* packets that took tokens of another bucket, because their line of `limits` had no free one */
	__u64 contended;     /* packets over a limit only because other CPUs took tokens of the same bucket all the time */
	__u64 unwatched;     /* dropped packets that didn't become events while somebody followed them: there were too many */
};

/* ---- Events --------------------------------------------------------------------------------------------------
 * A packet that rules logged or sampled, or that was dropped while somebody watched, with what became of it. */
enum note_kind { NOTE_LOG, NOTE_SAMPLE, NOTE_SHADOW /* log or sample of a shadow rule */, NOTE_DROP /* no rule's */ };
struct event_note {
	__u32 rule;
	__u8 kind;           /* enum note_kind */
	__u8 would;          /* NOTE_SHADOW: enum verdict that the rule would have decided */
	__u16 decides;       /* NOTE_SHADOW: it would have decided at all */
};
struct event {
	__u64 time;          /* CLOCK_MONOTONIC ns */
	struct flow_key key; /* of what isn't IP: zeros but for the tag */
	__u32 ifindex;       /* where it came in, or leaves */
	__u32 length;        /* of the frame, or bundle, as it came */
	__u32 packets;       /* wire packets */
	__u32 decider;
	__u16 service, backend;
	__u8 reason;
	__u8 way;            /* enum way */
	__u8 notes;
	__u8 head_bytes;
	__be16 be_vlan_proto; /* a tag that the kernel has taken out of the frame; 0: none */
	__u16 vlan_tci;
	__u32 pad;
	struct event_note note[EVENT_NOTES];
	__u8 head[EVENT_HEAD]; /* as it came */
};

/* ---- Capture: see capture.h. Made with cfg_capture only, and never pinned ------------------------------------- */
enum capture_fact {
	CAPTURE_SPORT, CAPTURE_DPORT, CAPTURE_PROTO, CAPTURE_VLAN, CAPTURE_INTERFACE, CAPTURE_DIRECTION /* 0 in, 1 out */, CAPTURE_LENGTH, /* when it comes */
	CAPTURE_VERDICT, CAPTURE_REASON, CAPTURE_RULE /* decider */, CAPTURE_SERVICE, CAPTURE_BACKEND, /* when it leaves */
	CAPTURE_FACTS = 16
};
enum capture_kind {
	CAPTURE_NUMBER,      /* does value[0] <= fact <= value[1] hold? */
	CAPTURE_ADDRESS,     /* is the source (0), the destination (1), masked, the value? */
	CAPTURE_TAKE,        /* a reader wants it; then `yes` */
	CAPTURE_END
};
/* Expressions are tests that lead to later ones, as they hold or not. */
struct capture_test {
	__u8 kind;           /* enum capture_kind */
	__u8 fact;           /* enum capture_fact; CAPTURE_ADDRESS: which; CAPTURE_TAKE: the reader */
	__u8 family;         /* CAPTURE_ADDRESS: enum family */
	__u8 pad;
	__u16 yes, no;       /* index of the next one */
	__u64 value[2];      /* CAPTURE_ADDRESS: as it stands in flow_key */
	__u64 mask[2];
};
struct capture_filter {
	__u32 before, after; /* where to begin: with a packet that comes, of which not all is known yet; with one that leaves */
	__u32 snap;          /* bytes of a frame, 1 to CAPTURE_SNAP */
	__u32 pad;
	struct capture_test test[CAPTURE_TESTS];
};
struct capture_totals {
	__u64 sent;          /* packets told of */
	__u64 lost;          /* not told, because the ring was full */
	__u64 refused;       /* not told, because they were more than CAPTURE_RATE */
};
/* A packet as it is told: behind it are `before` bytes of the frame that came, and `after` of the one that leaves. */
struct captured {
	__u64 time;          /* CLOCK_MONOTONIC ns, when it came */
	struct flow_key key; /* as it came */
	__u64 mirrors;       /* exits that got a copy of it as it came, a bit each */
	__u32 ifindex;       /* where it came in, or leaves */
	__u32 out_ifindex;   /* where gardu sends it; 0: it doesn't */
	__u32 length, out_length; /* of the frames */
	__u32 before, after;
	__u32 packets;       /* wire packets */
	__u32 decider;
	__u32 readers;       /* who wants it, a bit each */
	__u16 service, backend;
	__be16 be_vlan_proto, be_out_vlan_proto; /* tags that the kernel keeps beside the frame; 0: none */
	__u16 vlan_tci, out_vlan_tci;
	__u8 reason;
	__u8 way;            /* enum way */
	__u8 family;         /* enum family; FAMILY_COUNT: no addresses are known */
	__u8 pad;
	__u32 pad2;
};

/* ---- Trace (explain): written only with cfg_trace ----------------------------------------------------------- */
enum step {
	STEP_PARSE, STEP_FLOW, STEP_STATE, STEP_ALLOW, STEP_BLOCK, STEP_RULE, STEP_DEFAULT, STEP_SERVICE, STEP_BACKEND, STEP_NEXT_HOP, STEP_LEAVE,
	STEP_LIMIT, STEP_NAT, STEP_REMEMBERED, STEP_CID,
	STEP_COUNT
};
/* What a QUIC packet's connection ID says of where the packet goes. */
enum cid {
	CID_NONE,            /* the packet is too short to have one, or the ID is */
	CID_NAMED,           /* to the server that made it */
	CID_OF_CLIENT,       /* nothing: Initial and 0-RTT packets may have one that the client made up */
	CID_OTHER_CONFIG,    /* nothing: its first bits are those of another configuration */
	CID_UNKNOWN,         /* nothing: no backend has this server ID */
	CID_DOWN,            /* to one that is down */
};
struct trace_step {
	__u16 step;          /* enum step */
	__u16 result;        /* STEP_LEAVE: reason; STEP_STATE: enum state; STEP_CID: enum cid; others: 0 no, 1 yes */
	__u32 arg;           /* rule id, decider, service id, backend id, ifindex, source port, by step */
};
struct trace {
	__u64 clock;         /* in: what limits take for the time, ns; 0: the real one */
	__u32 steps;
	__u32 reason;
	__u32 rule;          /* decider */
	__u16 service, backend;
	__u32 ifindex;       /* where it leaves; 0 = not sent by gardu */
	__u32 pad;
	struct flow_key flow; /* under which its flow was looked for; tag 0: it wasn't */
	struct trace_step step[TRACE_STEPS];
};

struct clock {
	__u64 jiffies;
	__u64 monotonic;     /* ns, bpf_ktime_get_ns */
};

#define ABI_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " is not " #size " bytes")
ABI_SIZE(struct line, 64);
ABI_SIZE(struct bucket, 64);
ABI_SIZE(struct rules_head, 64);
ABI_SIZE(struct rule_group, 64);
ABI_SIZE(struct rule_record, 64);
ABI_SIZE(struct rule_extra, 64);
ABI_SIZE(struct rule_effect, 64);
ABI_SIZE(struct event, 240);
ABI_SIZE(struct capture_test, 40);
ABI_SIZE(struct captured, 112);
ABI_SIZE(struct sets_head, 64);
ABI_SIZE(struct sets_bucket6, 64);
ABI_SIZE(struct services_head, 64);
ABI_SIZE(struct service_record, 64);
ABI_SIZE(struct service_level, 64);
ABI_SIZE(struct server_id, 64);
ABI_SIZE(struct control, 2280);
ABI_SIZE(struct backend, 64);
ABI_SIZE(struct backend_note, 24);
ABI_SIZE(struct flow_key, 40);
ABI_SIZE(struct flow_value, 88);
ABI_SIZE(struct flow_record, 128);
ABI_SIZE(struct state_entry, 64);
ABI_SIZE(struct nat_entry, 64);
ABI_SIZE(struct nat_bucket, 512);
ABI_SIZE(struct nat_line, 64);
ABI_SIZE(struct block_key, 20);
ABI_SIZE(struct health_key, 40);
ABI_SIZE(struct interface, 12);
ABI_SIZE(struct fragment_key, 40);
ABI_SIZE(struct fragment, 12);
