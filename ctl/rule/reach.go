package rule

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gardu/ctl/model"
)

// Contradiction says why no packet can match the rule, and which condition of it to blame: ports of a protocol
// without ports, an IPv4 source with an IPv6 destination. why is "" when a packet might match. Sets are taken to
// hold anything, for their files change.
func Contradiction(r model.Rule) (blame model.Condition, why string) {
	families := [2]bool{true, true}
	var limited model.Field
	for _, c := range r.Match {
		if c.Not || c.Prefixes == nil {
			continue
		}
		v4 := slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() })
		v6 := slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
		before := families
		families = [2]bool{families[0] && v4, families[1] && v6}
		if families == [2]bool{} {
			return c, fmt.Sprintf("%s is %s and %s is %s: no packet is both", limited, familyName(before), c.Field, familyName([2]bool{v4, v6}))
		}
		if families != before {
			limited = c.Field
		}
	}

	if blame, why := linkContradiction(r, families, limited); why != "" {
		return blame, why
	}
	for _, c := range r.Match {
		field, ok := Lookup(c.Field)
		if !ok || field.Protocols == nil {
			continue
		}
		possible := slices.ContainsFunc(field.Protocols, func(proto uint32) bool {
			return (families[0] && proto != ProtoICMPv6 || families[1] && proto != ProtoICMP) && leavesProtocol(r, proto)
		})
		if !possible {
			return c, fmt.Sprintf("only packets of %s have %s, and the rest of this rule excludes them", protocolList(field.Protocols), c.Field)
		}
	}
	return model.Condition{}, ""
}

// linkContradiction says why no frame of the Ethernet types that a rule leaves has the rest of what it asks for.
func linkContradiction(r model.Rule, families [2]bool, limited model.Field) (blame model.Condition, why string) {
	possible := func(etherType uint32) bool {
		for _, c := range r.Match {
			if c.Field == "ethertype" && c.Not == inRanges(c.Ranges, etherType) {
				return false
			}
		}
		return true
	}
	types := [2]bool{possible(EtherIPv4), possible(EtherIPv6)}
	for _, c := range r.Match {
		if c.Field == "ethertype" && r.Direction == model.Out && types == [2]bool{} {
			return c, "of what is sent only IPv4 and IPv6 are judged, and ethertype excludes both"
		}
		if field, ok := Lookup(c.Field); ok && !field.Link && types == [2]bool{} {
			return c, fmt.Sprintf("only packets of IPv4 and IPv6 have %s, and ethertype excludes them", c.Field)
		}
		if c.Field == "ethertype" && types != [2]bool{} && !(types[0] && families[0] || types[1] && families[1]) {
			return c, fmt.Sprintf("%s is %s, and ethertype excludes that", limited, familyName(families))
		}
	}
	return model.Condition{}, ""
}

func familyName(families [2]bool) string {
	if families[0] {
		return "IPv4"
	}
	return "IPv6"
}

// leavesProtocol tells whether the proto conditions of a rule leave a protocol.
func leavesProtocol(r model.Rule, proto uint32) bool {
	for i := range r.Match {
		if c := &r.Match[i]; c.Field == "proto" && c.Not == inRanges(c.Ranges, proto) {
			return false
		}
	}
	return true
}

func inRanges(ranges []model.Range, value uint32) bool {
	return slices.ContainsFunc(ranges, func(r model.Range) bool { return r.Lo <= value && value <= r.Hi })
}

func protocolList(protos []uint32) string {
	names := make([]string, len(protos))
	for i, proto := range protos {
		names[i] = ProtocolName(uint8(proto))
	}
	return strings.Join(names, ", ")
}

// Decides tells whether the rule decides every packet that it matches. One that doesn't keeps no other from its packets.
func Decides(r model.Rule) bool {
	return r.Action != "" && r.Action != model.Mirror && !r.Shadow && r.Limit == nil
}

// implies tells whether a packet that fulfils a obviously fulfils b.
func implies(a, b model.Condition, effort *int) bool {
	*effort--
	if a.Field != b.Field || a.Not != b.Not {
		return false
	}
	if a.Not {
		a, b = b, a
	}
	if a.Set != "" || b.Set != "" {
		return a.Set == b.Set
	}
	*effort -= len(a.Prefixes)*len(b.Prefixes) + len(a.Ranges)*len(b.Ranges) + len(a.Masks)*len(b.Masks) + len(a.Names)*len(b.Names)
	if *effort < 0 {
		return false
	}
	for _, p := range a.Prefixes {
		if !slices.ContainsFunc(b.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			return false
		}
	}
	for _, m := range a.Masks {
		if !slices.ContainsFunc(b.Masks, func(n model.Mask) bool { return n.Bits&^m.Bits == 0 && m.Value&n.Bits == n.Value }) {
			return false
		}
	}
	for _, name := range a.Names {
		if !slices.Contains(b.Names, name) {
			return false
		}
	}
	for _, r := range a.Ranges {
		if !slices.ContainsFunc(b.Ranges, func(s model.Range) bool { return s.Lo <= r.Lo && r.Hi <= s.Hi }) {
			return false
		}
	}
	return true
}
