/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Maps and types only: the object that ctl/abi is generated from, and the string table behind reasons, modes and fields. */
#include "types.h"
#include "config.h"
#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct reason_text { char text[24]; char verdict[12]; char help[92]; };
#define ROW(name, verdict, text, help) [REASON_##name] = {text, #verdict, help},
const struct reason_text reason_texts[REASON_COUNT] SEC(".rodata.text") = {REASONS(ROW)};
#undef ROW

struct field_text { char text[24]; char kind[7]; unsigned char key; };
#define ROW(name, text, kind, key) [FIELD_##name] = {text, #kind, key},
const struct field_text field_texts[FIELD_COUNT] SEC(".rodata.text") = {FIELDS(ROW)};
#undef ROW

struct mode_text { char text[24]; char help[104]; };
#define ROW(name, text, help) [MODE_##name] = {#text, help},
const struct mode_text mode_texts[MODE_COUNT] SEC(".rodata.text") = {MODES(ROW)};
#undef ROW

/* Types that no map holds directly, named so that their BTF is kept. */
struct keep {
	struct line line;
	struct flow_bucket flow_bucket;
	struct state_bucket state_bucket;
	struct nat_bucket nat_bucket;
	struct nat_line nat_line;
	struct flow_value flow_value;
	struct bucket bucket;
	struct rules_head rules_head;
	struct rule_group rule_group;
	struct rule_record rule_record;
	struct rule_extra rule_extra;
	struct rule_effect rule_effect;
	struct sets_head sets_head;
	struct sets_bucket6 sets_bucket6;
	struct services_head services_head;
	struct service_record service_record;
	struct service_level service_level;
	struct server_id server_id;
	enum quic_form quic_form;
	enum cid cid;
	struct clock clock;
	enum verdict verdict;
	enum reason reason;
	enum field field;
	enum mode mode;
	enum family family;
	enum limits limits;
	enum decider decider;
	enum table table;
	enum way way;
	enum rules_flags rules_flags;
	enum rule_conditions rule_conditions;
	enum ext_flags ext_flags;
	enum effect_flags effect_flags;
	enum limit_per limit_per;
	enum note_kind note_kind;
	struct event event;
	struct captured captured;
	struct capture_test capture_test;
	struct capture_filter capture_filter;
	struct capture_totals capture_totals;
	enum capture_fact capture_fact;
	enum capture_kind capture_kind;
	enum v4_slot v4_slot;
	enum service_flags service_flags;
	enum backend_state backend_state;
	enum interface_flags interface_flags;
	enum flow_tag flow_tag;
	enum flow_state flow_state;
	enum state state;
	enum state_flags state_flags;
	enum state_timeouts state_timeouts;
	enum step step;
};
const struct keep keep SEC(".rodata.text") = {};
