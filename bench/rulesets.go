package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// manyPackets is how many different packets a filter's case has.
const manyPackets = 65_536

// entry is a rule of a generated ruleset; what is zero is not asked for.
type entry struct {
	src, dst     netip.Prefix
	sport, dport model.Range // Hi 0: any
	proto        uint8
}

// ruleset is generated rules, all of which drop.
type ruleset []entry

func (e entry) match() []model.Condition {
	var all []model.Condition
	prefix := func(field model.Field, p netip.Prefix) {
		if p.Bits() > 0 {
			all = append(all, model.Condition{Field: field, Prefixes: []netip.Prefix{p}})
		}
	}
	number := func(field model.Field, r model.Range) {
		if r.Hi > 0 {
			all = append(all, model.Condition{Field: field, Ranges: []model.Range{r}})
		}
	}
	prefix("src", e.src)
	prefix("dst", e.dst)
	number("proto", model.Range{Lo: uint32(e.proto), Hi: uint32(e.proto)})
	number("sport", e.sport)
	number("dport", e.dport)
	return all
}

// specificity orders rules as people do: what is narrow first.
func (e entry) specificity() int {
	bits := max(0, e.src.Bits()) + max(0, e.dst.Bits())
	for _, r := range []model.Range{e.sport, e.dport} {
		switch {
		case r.Hi == 0:
		case r.Lo == r.Hi:
			bits += 16
		default:
			bits += 8
		}
	}
	return bits
}

// snapshot has the rules, and nothing else that a packet could meet.
func (s ruleset) snapshot() *model.Snapshot {
	snapshot := nothing()
	for i, e := range s {
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{Name: fmt.Sprintf("rule-%d", i), Match: e.match(), Action: model.Drop})
	}
	return snapshot
}

// packets draws packets of which half match a rule. Of the others one half is random, and the other half would match a
// rule but for one of its fields. The last packet is one that rule 0 drops.
func (s ruleset) packets() []tuple {
	r := random()
	tuples := make([]tuple, manyPackets)
	for i := range tuples {
		e := s[r.IntN(len(s))]
		switch {
		case i%2 == 0:
			tuples[i] = e.hit(r)
		case i%4 == 1:
			tuples[i] = entry{}.hit(r)
		default:
			tuples[i] = e.near(r)
		}
	}
	r.Shuffle(len(tuples), func(i, j int) { tuples[i], tuples[j] = tuples[j], tuples[i] })
	tuples[len(tuples)-1] = s[0].hit(r)
	return tuples
}

// behind has the rules behind one that drops what is on a list.
func (s ruleset) behind(l list) *model.Snapshot {
	snapshot := l.blocked()
	snapshot.Filter.Rules = append(snapshot.Filter.Rules, s.snapshot().Filter.Rules...)
	return snapshot
}

// packetsBehind are packets of which half are on the list and the others match a rule.
func (s ruleset) packetsBehind(l list) []tuple {
	r := random()
	tuples := l.sources(100)
	for i := range tuples {
		if i%2 == 0 {
			tuples[i] = s[r.IntN(len(s))].hit(r)
		}
	}
	return tuples
}

// hit is a packet that the rule matches.
func (e entry) hit(r *rand.Rand) tuple {
	t := tuple{src: within(r, e.src), dst: within(r, e.dst), sport: between(r, e.sport), dport: between(r, e.dport), proto: e.proto}
	if t.proto == 0 && r.IntN(3) == 0 {
		t.proto = uint8(model.ProtoUDP)
	}
	return t
}

// near is a packet with another value in one of the fields that the rule asks for.
func (e entry) near(r *rand.Rand) tuple {
	other := []func(){}
	if e.src.Bits() > 0 {
		other = append(other, func() { e.src = netip.Prefix{} })
	}
	if e.dst.Bits() > 0 {
		other = append(other, func() { e.dst = netip.Prefix{} })
	}
	if e.dport.Hi > 0 {
		other = append(other, func() { e.dport = model.Range{} })
	}
	other[r.IntN(len(other))]()
	return e.hit(r)
}

func within(r *rand.Rand, p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return addr4(r.Uint32())
	}
	return addr4(number4(p.Addr()) | uint32(uint64(r.Uint32())>>p.Bits()))
}

func between(r *rand.Rand, ports model.Range) uint16 {
	if ports.Hi == 0 {
		return uint16(r.Uint32())
	}
	return uint16(ports.Lo + r.Uint32N(ports.Hi-ports.Lo+1))
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func prefix4(v uint32, bits int) netip.Prefix { return netip.PrefixFrom(addr4(v), bits).Masked() }

// twoFields is n rules of two fields each, of 16 shapes in turn: source or destination and port, source and destination.
func twoFields(n int) ruleset {
	shapes := []struct{ src, dst int }{
		{32, 0}, {24, 0}, {20, 0}, {16, 0}, {0, 32}, {0, 24}, {0, 20}, {0, 16},
		{32, 32}, {32, 24}, {32, 16}, {24, 32}, {24, 24}, {24, 16}, {16, 32}, {16, 24},
	}
	r := random()
	rules := make(ruleset, n)
	for i := range rules {
		shape := shapes[i%len(shapes)]
		e := entry{}
		if shape.src > 0 {
			e.src = prefix4(r.Uint32(), shape.src)
		}
		if shape.dst > 0 {
			e.dst = prefix4(r.Uint32(), shape.dst)
		}
		if shape.src == 0 || shape.dst == 0 {
			port := 1 + r.Uint32N(10_000)
			e.dport = model.Range{Lo: port, Hi: port}
		}
		rules[i] = e
	}
	return rules
}

// concatenated is 1,000 rules of a source prefix and a range of destination ports.
func concatenated() ruleset {
	r := random()
	rules := make(ruleset, 1000)
	for i := range rules {
		lo := 1 + r.Uint32N(60_000)
		rules[i] = entry{src: prefix4(r.Uint32(), 24), proto: uint8(model.ProtoTCP), dport: model.Range{Lo: lo, Hi: lo + 1 + r.Uint32N(100)}}
	}
	return rules
}

// hard is n rules of two fields in 64 shapes, whose addresses are so close together that neither address alone says
// much about which shapes can match.
func hard(n int) ruleset {
	lengths := []int{12, 14, 16, 18, 20, 22, 24, 32}
	const net, spread = 10 << 24, 1 << 20 // 10.0.0.0/12
	r := random()
	rules := make(ruleset, n)
	for i := range rules {
		rules[i] = entry{
			src: prefix4(net|r.Uint32N(spread*16), lengths[i%8]),
			dst: prefix4(net|r.Uint32N(spread*16), lengths[i/8%8]),
		}
	}
	slices.SortStableFunc(rules, func(a, b entry) int { return cmp.Compare(b.specificity(), a.specificity()) })
	return rules
}

// hardPackets are packets for hard rules of which half match one, all from and to the addresses that rules are about.
func (s ruleset) hardPackets() []tuple {
	r := random()
	tuples := s.packets()
	for i := range tuples[:len(tuples)-1] {
		if !netip.PrefixFrom(addr4(10<<24), 8).Contains(tuples[i].src) {
			tuples[i].src = addr4(10<<24 | r.Uint32N(1<<24))
		}
		if !netip.PrefixFrom(addr4(10<<24), 8).Contains(tuples[i].dst) {
			tuples[i].dst = addr4(10<<24 | r.Uint32N(1<<24))
		}
	}
	return tuples
}
