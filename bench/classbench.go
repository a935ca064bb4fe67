package main

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// style is what a kind of ruleset looks like: the parameters of ClassBench (D. E. Taylor, J. S. Turner: "ClassBench: A
// Packet Classification Benchmark", IEEE/ACM Transactions on Networking 15(3), 2007; Washington University technical report
// WUCSE-2004-28), of its files acl1, fw1 and ipc1, which were taken from real filters: weights in thousandths, the rarest left out.
type style struct {
	protocols   []weighted[protocol]
	lengths     []weighted[[2]int] // of source and destination prefix
	sport       []weighted[uint32] // exact ports
	dport       []weighted[uint32]
	sportRanges []model.Range
	dportRanges []model.Range
	branching   float64 // how often both halves of an address block are in use
}

type weighted[T any] struct {
	value  T
	weight int
}

// protocol is a protocol with the classes of ports that rules for it ask for; number 0 is any.
type protocol struct {
	number uint8
	ports  []weighted[[2]class]
}

// class is a kind of port range.
type class uint8

const (
	wild      class = iota // all ports
	high                   // 1024-65535
	arbitrary              // another range
	exact                  // one port
)

var anyPorts = []weighted[[2]class]{{[2]class{wild, wild}, 1}}

// accessLists, firewalls and chains ("ipc") are the three kinds of filters that ClassBench knows.
var (
	accessLists = style{
		protocols: []weighted[protocol]{
			{protocol{6, []weighted[[2]class]{{[2]class{wild, wild}, 216}, {[2]class{wild, arbitrary}, 131}, {[2]class{wild, exact}, 653}}}, 873},
			{protocol{0, anyPorts}, 85}, {protocol{1, anyPorts}, 31},
			{protocol{17, []weighted[[2]class]{{[2]class{wild, arbitrary}, 125}, {[2]class{wild, exact}, 875}}}, 11},
		},
		lengths: []weighted[[2]int]{
			{[2]int{32, 32}, 750}, {[2]int{32, 22}, 49}, {[2]int{23, 32}, 48}, {[2]int{32, 24}, 34}, {[2]int{31, 32}, 27}, {[2]int{23, 16}, 16},
			{[2]int{30, 22}, 14}, {[2]int{32, 31}, 11}, {[2]int{32, 30}, 7}, {[2]int{31, 22}, 7}, {[2]int{30, 32}, 5}, {[2]int{23, 31}, 4},
			{[2]int{23, 28}, 3}, {[2]int{0, 13}, 1}, {[2]int{23, 0}, 1}, {[2]int{23, 2}, 1}, {[2]int{23, 4}, 1}, {[2]int{23, 6}, 1}, {[2]int{23, 8}, 1},
		},
		dport: []weighted[uint32]{{1521, 188}, {1526, 54}, {1221, 42}, {1433, 35}, {1525, 28}, {135, 28}, {14753, 28}, {1712, 24}, {1711, 24},
			{1704, 24}, {1708, 24}, {5555, 21}, {1705, 21}, {6000, 21}, {20, 21}, {21, 21}, {1724, 21}, {1717, 21}, {1707, 19}, {1733, 19}},
		dportRanges: []model.Range{{Lo: 1600, Hi: 1649}, {Lo: 1300, Hi: 1349}, {Lo: 1300, Hi: 1350}, {Lo: 7500, Hi: 7599}, {Lo: 2200, Hi: 2210},
			{Lo: 1025, Hi: 65535}, {Lo: 1700, Hi: 1750}, {Lo: 5001, Hi: 65535}, {Lo: 32200, Hi: 32207}, {Lo: 8000, Hi: 8100}, {Lo: 61700, Hi: 61709}},
		branching: 0.5,
	}
	firewalls = style{
		protocols: []weighted[protocol]{
			{protocol{6, []weighted[[2]class]{{[2]class{wild, wild}, 185}, {[2]class{high, high}, 68}, {[2]class{wild, exact}, 747}}}, 572},
			{protocol{17, []weighted[[2]class]{{[2]class{high, high}, 66}, {[2]class{high, arbitrary}, 11}, {[2]class{arbitrary, high}, 11},
				{[2]class{wild, exact}, 429}, {[2]class{exact, wild}, 308}, {[2]class{high, exact}, 55}, {[2]class{exact, high}, 55}, {[2]class{exact, exact}, 66}}}, 322},
			{protocol{47, anyPorts}, 57}, {protocol{1, anyPorts}, 39}, {protocol{0, anyPorts}, 11},
		},
		lengths: []weighted[[2]int]{
			{[2]int{0, 32}, 548}, {[2]int{32, 0}, 145}, {[2]int{0, 0}, 74}, {[2]int{32, 32}, 57}, {[2]int{30, 0}, 18}, {[2]int{32, 21}, 18},
			{[2]int{21, 0}, 14}, {[2]int{23, 0}, 14}, {[2]int{27, 0}, 14}, {[2]int{28, 32}, 14}, {[2]int{32, 28}, 14}, {[2]int{30, 32}, 14},
			{[2]int{32, 30}, 14}, {[2]int{28, 0}, 7}, {[2]int{29, 0}, 7}, {[2]int{28, 28}, 7}, {[2]int{8, 0}, 4}, {[2]int{12, 0}, 4}, {[2]int{16, 0}, 4},
			{[2]int{26, 0}, 4}, {[2]int{0, 27}, 4}, {[2]int{26, 21}, 4},
		},
		sport: []weighted[uint32]{{123, 231}, {53, 205}, {750, 128}, {161, 103}, {88, 77}, {69, 77}, {24032, 51}, {67, 51}, {7648, 51}, {162, 26}},
		dport: []weighted[uint32]{{22, 170}, {80, 105}, {25, 99}, {53, 99}, {123, 70}, {2105, 29}, {21, 29}, {544, 29}, {750, 29}, {443, 23}, {23, 23},
			{161, 23}, {67, 18}, {119, 18}, {88, 18}, {69, 18}, {7648, 18}, {110, 18}, {1999, 12}, {37, 12}, {754, 12}, {179, 12}, {5999, 12}},
		sportRanges: []model.Range{{Lo: 33434, Hi: 33600}},
		dportRanges: []model.Range{{Lo: 33434, Hi: 33600}},
		branching:   0.5,
	}
	chains = style{
		protocols: []weighted[protocol]{
			{protocol{17, []weighted[[2]class]{{[2]class{wild, wild}, 8}, {[2]class{wild, high}, 173}, {[2]class{high, wild}, 9}, {[2]class{wild, arbitrary}, 17},
				{[2]class{arbitrary, wild}, 8}, {[2]class{wild, exact}, 584}, {[2]class{exact, wild}, 193}, {[2]class{exact, exact}, 8}}}, 377},
			{protocol{0, anyPorts}, 345},
			{protocol{6, []weighted[[2]class]{{[2]class{wild, wild}, 85}, {[2]class{wild, arbitrary}, 70}, {[2]class{arbitrary, wild}, 65},
				{[2]class{wild, exact}, 503}, {[2]class{exact, wild}, 274}, {[2]class{exact, arbitrary}, 2}}}, 261},
			{protocol{1, anyPorts}, 11}, {protocol{47, anyPorts}, 3},
		},
		lengths: []weighted[[2]int]{
			{[2]int{32, 32}, 240}, {[2]int{24, 24}, 96}, {[2]int{24, 32}, 88}, {[2]int{32, 24}, 53}, {[2]int{0, 32}, 39}, {[2]int{23, 24}, 39},
			{[2]int{23, 32}, 31}, {[2]int{24, 16}, 29}, {[2]int{24, 0}, 25}, {[2]int{32, 26}, 24}, {[2]int{0, 24}, 21}, {[2]int{24, 26}, 20},
			{[2]int{26, 24}, 19}, {[2]int{16, 24}, 19}, {[2]int{32, 0}, 15}, {[2]int{16, 32}, 15}, {[2]int{32, 16}, 11}, {[2]int{26, 32}, 11},
			{[2]int{24, 28}, 9}, {[2]int{22, 24}, 9}, {[2]int{17, 24}, 8}, {[2]int{32, 25}, 8}, {[2]int{23, 16}, 8}, {[2]int{28, 16}, 7},
		},
		sport: []weighted[uint32]{{161, 246}, {53, 135}, {80, 87}, {25, 83}, {1433, 75}, {22, 44}, {5540, 40}, {143, 40}, {5550, 32}, {5520, 24}, {5500, 24}},
		dport: []weighted[uint32]{{69, 180}, {514, 180}, {80, 110}, {9003, 80}, {53, 80}, {25, 50}, {1433, 30}, {137, 20}, {22, 20}, {143, 20}, {162, 20},
			{113, 20}, {139, 10}, {119, 10}},
		sportRanges: []model.Range{{Lo: 20, Hi: 23}, {Lo: 109, Hi: 110}, {Lo: 20, Hi: 21}, {Lo: 1645, Hi: 1646}, {Lo: 5000, Hi: 5001}},
		dportRanges: []model.Range{{Lo: 20, Hi: 23}, {Lo: 109, Hi: 110}, {Lo: 20, Hi: 21}, {Lo: 1645, Hi: 1646}, {Lo: 1812, Hi: 1813}, {Lo: 20, Hi: 2511}},
		branching:   0.5,
	}
)

// rules draws n different rules, the narrowest first, as ClassBench orders them. Rules for every address are left out: one
// of them would decide for all packets.
func (s style) rules(n int) ruleset {
	r := random()
	seen := make(map[entry]bool, n)
	rules := make(ruleset, 0, n)
	for len(rules) < n {
		e := s.rule(r)
		if (e.src.IsValid() || e.dst.IsValid()) && !seen[e] {
			seen[e] = true
			rules = append(rules, e)
		}
	}
	slices.SortStableFunc(rules, func(a, b entry) int { return cmp.Compare(b.specificity(), a.specificity()) })
	return rules
}

func (s style) rule(r *rand.Rand) entry {
	p, lengths := draw(r, s.protocols), draw(r, s.lengths)
	ports := draw(r, p.ports)
	return entry{
		src: s.prefix(r, 1, lengths[0]), dst: s.prefix(r, 2, lengths[1]), proto: p.number,
		sport: portRange(r, ports[0], s.sport, s.sportRanges), dport: portRange(r, ports[1], s.dport, s.dportRanges),
	}
}

func portRange(r *rand.Rand, c class, ports []weighted[uint32], ranges []model.Range) model.Range {
	switch c {
	case high:
		return model.Range{Lo: 1024, Hi: 65535}
	case arbitrary:
		return ranges[r.IntN(len(ranges))]
	case exact:
		port := draw(r, ports)
		return model.Range{Lo: port, Hi: port}
	}
	return model.Range{}
}

// prefix walks down a tree of addresses, in which one or both halves of a block are in use, always the same ones.
func (s style) prefix(r *rand.Rand, tree uint64, bits int) netip.Prefix {
	if bits == 0 {
		return netip.Prefix{}
	}
	var v uint32
	for depth := range bits {
		node := rand.New(rand.NewPCG(tree<<32|uint64(v), uint64(depth)))
		bit := node.Uint32N(2)
		if node.Float64() < s.branching {
			bit = r.Uint32N(2)
		}
		v |= bit << (31 - depth)
	}
	return prefix4(v, bits)
}

func draw[T any](r *rand.Rand, from []weighted[T]) T {
	sum := 0
	for _, w := range from {
		sum += w.weight
	}
	at := r.IntN(sum)
	for _, w := range from {
		if at -= w.weight; at < 0 {
			return w.value
		}
	}
	panic("weights add up to less than their sum")
}
