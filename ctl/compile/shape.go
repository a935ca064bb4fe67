package compile

import (
	"cmp"
	"math/bits"

	"gardu/ctl/abi"
)

// shape says which bits of a packet's addresses, protocol and ports a group hashes: a rule_group's masks.
type shape struct {
	family   uint8 // onlyV4 or onlyV6 when an address is hashed, else 0: either
	src, dst uint8 // prefix lengths; 0: not hashed
	proto    bool
	ports    uint32 // of sport << 16 | dport
}

const (
	exactSport = 0xffff0000
	exactDport = 0x0000ffff
)

// shapeOf returns all that can be hashed of a record: its exact parts.
func shapeOf(r *abi.RuleRecord) shape {
	var s shape
	if asks(r, abi.RuleSrc) {
		s.src = r.SrcPlen
	}
	if asks(r, abi.RuleDst) {
		s.dst = r.DstPlen
	}
	if s.src|s.dst != 0 {
		s.family = familiesOf(r)
	}
	s.proto = asks(r, abi.RuleProto)
	if asks(r, abi.RuleSport) && r.SportLo == r.SportHi {
		s.ports |= exactSport
	}
	if asks(r, abi.RuleDport) && r.DportLo == r.DportHi {
		s.ports |= exactDport
	}
	return s
}

// asks tells whether a record has that part, not negated: only then packets it matches are alike in it.
func asks(r *abi.RuleRecord, part abi.RuleConditions) bool {
	return r.Conditions&^r.Negated&uint16(part) != 0
}

// familiesOf returns the families that a record can match.
func familiesOf(r *abi.RuleRecord) uint8 {
	switch {
	case r.Conditions&uint16(abi.RuleV4) != 0:
		return onlyV4
	case r.Conditions&uint16(abi.RuleV6) != 0:
		return onlyV6
	}
	return anyFamily
}

// meet returns the shape that hashes what both do.
func (s shape) meet(t shape) shape {
	m := shape{family: s.family & t.family, proto: s.proto && t.proto, ports: s.ports & t.ports}
	if m.family != 0 {
		m.src, m.dst = min(s.src, t.src), min(s.dst, t.dst)
	}
	if m.src|m.dst == 0 {
		m.family = 0
	}
	return m
}

// precision is about how many bits tell the keys of a shape apart: real addresses and ports differ in fewer than
// they have.
func (s shape) precision() int {
	n := bits.OnesCount32(s.ports)
	if s.proto {
		n += 3
	}
	if s.family == onlyV6 {
		return n + int(s.src)/2 + int(s.dst)/2
	}
	return n + int(s.src) + int(s.dst)
}

func (s shape) compare(t shape) int {
	rank := func(s shape) uint64 {
		r := uint64(s.family)<<56 | uint64(s.src)<<48 | uint64(s.dst)<<40 | uint64(s.ports)
		if s.proto {
			r |= 1 << 32
		}
		return r
	}
	return cmp.Compare(rank(s), rank(t))
}

// mask returns the address mask of a prefix length as rule_group holds it.
func (s shape) mask(plen uint8) [2]uint64 {
	switch {
	case s.family == onlyV4:
		return [2]uint64{0, uint64(uint32(^uint64(0) << (32 - plen)))}
	case plen <= 64:
		return [2]uint64{^uint64(0) << (64 - plen), 0}
	}
	return [2]uint64{^uint64(0), ^uint64(0) << (128 - plen)}
}

// hashing is a shape as a rule_group has it, and its number.
type hashing struct {
	src, dst [2]uint64
	ports    uint32
	proto    uint8
	group    int
}

func (s shape) hashing(group int) hashing {
	h := hashing{src: s.mask(s.src), dst: s.mask(s.dst), ports: s.ports, group: group}
	if s.proto {
		h.proto = 0xff
	}
	return h
}

// hash is a packet's hash in a group, see bpf/abi.h. Of a record, it is the hash of all packets that it matches,
// when the group's shape hashes nothing that the record leaves open.
func (h *hashing) hash(family abi.Family, src, dst [2]uint64, proto uint8, ports uint32) uint64 {
	meta := uint64(ports&h.ports) | uint64(proto&h.proto)<<32 | uint64(h.group)<<40 | uint64(family)<<48
	if family == abi.FamilyV4 {
		return mix((src[1]&h.src[1])<<32|dst[1]&h.dst[1], meta)
	}
	return mix(src[0]&h.src[0], src[1]&h.src[1], dst[0]&h.dst[0], dst[1]&h.dst[1], meta)
}
