package compile

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// source makes random snapshots and packets that have much to do with each other: addresses, ports and other values
// come from small pools, with their neighbours, so that hits, nesting and borders are common.
type source struct {
	*rand.Rand
	pool  []netip.Addr
	ports []uint16
}

func newSource(seed uint64) *source {
	s := &source{Rand: rand.New(rand.NewPCG(seed, 0x6761726475))}
	for range 8 {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], s.Uint64())
		binary.BigEndian.PutUint64(a[8:], s.Uint64())
		v4 := netip.AddrFrom4([4]byte(a[:4]))
		s.pool = append(s.pool, netip.AddrFrom16(a), v4, netip.AddrFrom16(v4.As16())) // the last: mapped, but IPv6
		s.ports = append(s.ports, uint16(s.Uint32()))
	}
	s.pool = append(s.pool, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("255.255.255.255"),
		netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
	s.ports = append(s.ports, 0, 1, 65535, 65534, 53, 80, 443)
	return s
}

func (s *source) chance(percent int) bool { return s.IntN(100) < percent }

func pick[T any](s *source, list []T) T { return list[s.IntN(len(list))] }

// addr is a pool address, one that shares a random number of its first bits, or the one beside it.
func (s *source) addr() netip.Addr {
	a := pick(s, s.pool)
	switch s.IntN(4) {
	case 0:
		return a
	case 1:
		if next := a.Next(); next.IsValid() {
			return next
		}
		return a
	}
	bytes := a.AsSlice()
	for bit := s.IntN(a.BitLen()); bit < a.BitLen(); bit++ {
		if s.chance(50) {
			bytes[bit/8] ^= 0x80 >> (bit % 8)
		}
	}
	mutated, _ := netip.AddrFromSlice(bytes)
	return mutated
}

func (s *source) prefix() netip.Prefix {
	a := s.addr()
	length := s.IntN(a.BitLen() + 1)
	switch s.IntN(8) {
	case 0, 1:
		length = a.BitLen()
	case 2, 3:
		length = a.BitLen() - s.IntN(9)
	case 4:
		length = min(a.BitLen(), 8*s.IntN(5))
	}
	prefix, _ := a.Prefix(length)
	return prefix
}

func (s *source) prefixes(most int) []netip.Prefix {
	list := make([]netip.Prefix, 1+s.IntN(most))
	for i := range list {
		list[i] = s.prefix()
	}
	return list
}

func (s *source) pairs(most int) []netip.AddrPort {
	list := make([]netip.AddrPort, 1+s.IntN(most))
	for i := range list {
		list[i] = netip.AddrPortFrom(s.addr(), max(1, pick(s, s.ports)))
	}
	return list
}

// value is one that the field can have: ports from the pool, small numbers of the rest.
func (s *source) value(info rule.FieldInfo) uint32 {
	switch {
	case info.Sets == rule.PortSet:
		return uint32(pick(s, s.ports)) + uint32(s.IntN(3)) - 1&0xffff
	case info.Name == "proto":
		return pick(s, []uint32{6, 17, 1, 58, 132, 0, 255})
	case s.chance(10):
		return info.Max
	case info.Max < 3:
		return uint32(s.IntN(int(info.Max) + 1))
	}
	return uint32(s.IntN(min(int(info.Max), 40)))
}

func (s *source) ranges(info rule.FieldInfo, most int) []model.Range {
	list := make([]model.Range, 1+s.IntN(most))
	for i := range list {
		lo := min(s.value(info), info.Max)
		list[i] = model.Range{Lo: lo, Hi: lo}
		switch s.IntN(6) {
		case 0:
			list[i].Hi = max(lo, s.value(info)&info.Max)
		case 1:
			list[i].Hi = lo + min(info.Max-lo, uint32(s.IntN(20)))
		case 2:
			if s.chance(10) {
				list[i] = model.Range{Lo: 0, Hi: info.Max}
			}
		}
	}
	return list
}

// snapshot has that many rules over random sets.
func (s *source) snapshot(rules int) *model.Snapshot {
	snapshot := &model.Snapshot{}
	for i := range 5 {
		snapshot.Services = append(snapshot.Services, model.Service{
			Name: fmt.Sprintf("s%d", i), Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Port: model.Range{Lo: 80, Hi: 80}, Proto: model.ProtoTCP, Forward: "dsr",
		})
		snapshot.Interfaces = append(snapshot.Interfaces, model.Interface{Name: fmt.Sprintf("eth%d", i)})
	}
	portInfo, _ := rule.Lookup("dport")
	for i := range 4 {
		snapshot.Sets = append(snapshot.Sets,
			model.Set{Name: fmt.Sprintf("addresses%d", i), Prefixes: s.prefixes(1 << s.IntN(8))},
			model.Set{Name: fmt.Sprintf("ports%d", i), Kind: model.Ports, Ports: s.ranges(portInfo, 1<<s.IntN(6))},
			model.Set{Name: fmt.Sprintf("pairs%d", i), Kind: model.Pairs, Pairs: s.pairs(1 << s.IntN(6))})
	}
	snapshot.Sets = append(snapshot.Sets, model.Set{Name: "empty"}, model.Set{Name: "no-ports", Kind: model.Ports})
	snapshot.Filter.Default = pick(s, []model.Action{model.Pass, model.Drop})
	if s.chance(20) {
		snapshot.Filter.Allow = "addresses0"
	}
	for i := range rules {
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{
			Name: fmt.Sprintf("r%d", i), Match: s.match(), Action: pick(s, []model.Action{model.Pass, model.Drop, model.Drop, ""}), Shadow: s.chance(15),
		})
	}
	return snapshot
}

func (s *source) match() []model.Condition {
	var match []model.Condition
	for _, info := range rule.Fields {
		percent := 30
		if info.Kind != rule.Address && info.Sets == rule.NoSet && info.Name != "proto" {
			percent = 6
		}
		for _, not := range []bool{false, true} {
			if !s.chance(percent) || not && s.chance(60) {
				continue
			}
			c := model.Condition{Field: info.Name, Not: not}
			list := pick(s, []int{1, 1, 1, 3, 8, 40})
			switch {
			case info.Kind == rule.Address && s.chance(20):
				c.Set = pick(s, []string{"pairs0", "pairs1", "pairs2", "pairs3"})
			case info.Kind == rule.Address && s.chance(35):
				c.Set = pick(s, []string{"addresses0", "addresses1", "addresses2", "addresses3", "empty"})
			case info.Kind == rule.Address:
				c.Prefixes = s.prefixes(list)
			case info.Sets == rule.PortSet && s.chance(25):
				c.Set = pick(s, []string{"ports0", "ports1", "ports2", "ports3", "no-ports"})
			case info.Kind == rule.Flags:
				c.Masks = s.flagMasks(list)
			case info.Kind == rule.MAC:
				c.Masks = s.macMasks(list)
			case info.Name == "interface":
				c.Names = s.things("eth%d", list)
			case info.Name == "service":
				c.Names = s.things("s%d", list)
			default:
				c.Ranges = s.ranges(info, list)
			}
			match = append(match, c)
		}
	}
	return match
}

func (s *source) flagMasks(n int) []model.Mask {
	masks := make([]model.Mask, 1+s.IntN(n))
	for i := range masks {
		bits := pick(s, []uint64{0x17, 0x17, 0xff, 2, uint64(s.IntN(255)) + 1})
		masks[i] = model.Mask{Value: s.Uint64() & bits, Bits: bits}
	}
	return masks
}

func (s *source) macMasks(n int) []model.Mask {
	masks := make([]model.Mask, 1+s.IntN(n))
	for i := range masks {
		plen := pick(s, []int{48, 48, 48, 24, 40, 1 + s.IntN(48)})
		masks[i].Bits = (1<<plen - 1) << (48 - plen)
		masks[i].Value = s.mac() & masks[i].Bits
	}
	return masks
}

// mac is one of few, and as many that differ from them in a late bit.
func (s *source) mac() uint64 {
	return 0x02005e005300 + uint64(s.IntN(40)) ^ uint64(s.IntN(2))<<s.IntN(48)
}

// things are names of the first five.
func (s *source) things(format string, n int) []string {
	var names []string
	for range min(n, 3) {
		names = append(names, fmt.Sprintf(format, s.IntN(5)))
	}
	return names
}

func (s *source) packet() *packet {
	value := func(name model.Field) uint32 {
		info, _ := rule.Lookup(name)
		return min(s.value(info), info.Max)
	}
	p := &packet{src: s.addr(), dst: s.addr(), proto: uint8(value("proto")), ttl: uint8(value("ttl")),
		dscp: uint8(value("dscp")), length: uint16(value("length")),
		fragment: uint8(value("fragment")), mac: [2]uint64{s.mac(), s.mac()}, etherType: uint16(value("ethertype")), vlan: uint16(value("vlan")),
		interfaceID: uint16(s.IntN(7)), service: uint16(s.IntN(7)), tcp: s.chance(90), flags: uint8(s.Uint32())}
	for p.src.Is4() != p.dst.Is4() {
		p.dst = s.addr()
	}
	switch p.proto {
	case 6, 17, 132:
		if p.ports = s.chance(95); p.ports {
			p.sport, p.dport = uint16(value("sport")), uint16(value("dport"))
		}
	case 1, 58:
		if p.icmp = s.chance(95); p.icmp {
			p.icmpType, p.icmpCode = uint8(value("icmp-type")), uint8(value("icmp-code"))
		}
	}
	return p
}
