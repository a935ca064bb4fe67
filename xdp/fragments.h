/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Ports of later fragments are those of the first one, if it came before them and not too long ago, and they go where it went. Only the
 * first carries them. */
#pragma once
#include "../bpf/maps.h"
#include "../bpf/state.h"

/* Seconds for which the ports are known: as long as Linux waits for the rest of an IPv4 packet. */
enum { FRAGMENT_TIMEOUT = 30 };

static __always_inline void fragment_key(struct fragment_key *key, const struct pkt *p)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->saddr, p->key.saddr, 16);
	__builtin_memcpy(key->daddr, p->key.daddr, 16);
	key->id = p->fragment_id;
	key->vlan = p->key.tag & FLOW_VLAN_MASK;
	key->proto = p->key.proto;
	key->family = p->family;
}

/* A first fragment that rules with ports are about to judge, or that is for a service address, leaves its ports, if it has such, and
 * once it has one, its backend. */
__noinline int note_first(const struct pkt *p)
{
	struct fragment_key key;
	struct fragment note = {};
	struct control *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || p->has & IS_LATER)
		return 0;
	fragment_key(&key, p);
	note.be_sport = p->key.be_sport;
	note.be_dport = p->key.be_dport;
	note.seen = now_jiffies(c);
	note.backend = p->backend;
	bpf_map_update_elem(&fragments, &key, &note, BPF_ANY);
	return 0;
}

/* What the first fragment left; NULL: it wasn't seen, or too long ago. */
static __always_inline struct fragment *first_of(const struct pkt *p, const struct control *c)
{
	struct fragment_key key;
	struct fragment *first;

	fragment_key(&key, p);
	first = bpf_map_lookup_elem(&fragments, &key);
	return first && (__u32)now_jiffies(c) - first->seen < FRAGMENT_TIMEOUT * c->hz ? first : NULL;
}

enum { FIRST_KNOWN = 32 };

/* Of a later fragment: the first one's source port, its destination port above that, as they lie in the packet, and the bit FIRST_KNOWN.
 * 0: not known. */
__noinline __u64 ports_of_first(const struct pkt *p)
{
	struct fragment *first;
	struct control *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c)
		return 0;
	first = first_of(p, c);
	return first ? 1ull << FIRST_KNOWN | (__u32)first->be_dport << 16 | first->be_sport : 0;
}

/* A later fragment takes the ports while it is judged. Not for longer: its flow's key must stay what it is. */
__noinline int borrow_ports(struct pkt *p)
{
	struct rules_head *head;
	struct fragment *first;
	struct control *c;
	__u32 zero = 0;
	void *rules;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c || !has_ports(p->key.proto))
		return 0;
	rules = table_of(p->generation, TABLE_RULES);
	if (!rules)
		return 0;
	head = line_at(rules, p->way);
	if (!head || !(head->flags & RULES_PORTS))
		return 0;
	first = first_of(p, c);
	if (!first)
		return 0;
	p->key.be_sport = first->be_sport;
	p->key.be_dport = first->be_dport;
	p->has |= HAS_PORTS;
	return 0;
}

static __always_inline void return_ports(struct pkt *p)
{
	p->key.be_sport = p->key.be_dport = 0;
	p->has &= ~HAS_PORTS;
}
