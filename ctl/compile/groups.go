package compile

import (
	"cmp"
	"slices"

	"gardu/ctl/abi"
)

const (
	maxGroups = int(abi.Groups)

	// Records of a chain longer than this are told apart by their port ranges, see splitRanges.
	longChain = 16
	// neighbours is how many of the nearest groups are tried when one has to be merged.
	neighbours = 4
)

// member is a record in a group. ports is the value that the group hashes of its ports: a record with a range is
// in a group several times when the range is split.
type member struct {
	record uint32
	ports  uint32
}

// group is a rule_group under construction.
type group struct {
	shape   shape
	members []member
	counts  map[uint64]int // members a key; nil: not counted
}

// arrange puts the records into at most maxGroups groups.
func arrange(records []abi.RuleRecord) []*group {
	byShape := map[shape]*group{}
	for i := range records {
		s := shapeOf(&records[i])
		m := member{record: uint32(i), ports: uint32(records[i].SportLo)<<16 | uint32(records[i].DportLo)}
		m.ports &= s.ports
		join(byShape, s, m)
	}
	splitRanges(byShape, records)
	groups := sortedGroups(byShape)
	for len(groups) > maxGroups {
		groups = mergeSmallest(groups, records)
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(a.first(), b.first()), a.shape.compare(b.shape))
	})
	return groups
}

func join(groups map[shape]*group, s shape, m member) {
	g := groups[s]
	if g == nil {
		g = &group{shape: s}
		groups[s] = g
	}
	g.members = append(g.members, m)
}

// sortedGroups returns the groups that have members, in an order that doesn't depend on chance.
func sortedGroups(byShape map[shape]*group) []*group {
	groups := make([]*group, 0, len(byShape))
	for _, g := range byShape {
		if len(g.members) > 0 {
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, func(a, b *group) int { return a.shape.compare(b.shape) })
	return groups
}

// first is the smallest record of the group.
func (g *group) first() uint32 {
	first := g.members[0].record
	for _, m := range g.members {
		first = min(first, m.record)
	}
	return first
}

// families returns the families that the group can match.
func (g *group) families(records []abi.RuleRecord) uint8 {
	if g.shape.family != 0 {
		return g.shape.family
	}
	var families uint8
	for _, m := range g.members {
		families |= familiesOf(&records[m.record])
	}
	return families
}

// eachKey calls f with the hash of each key of each member: one, or one a family.
func (g *group) eachKey(records []abi.RuleRecord, h hashing, f func(m member, hash uint64)) {
	for _, m := range g.members {
		r := &records[m.record]
		for family := range abi.FamilyCount {
			if familiesOf(r)>>family&1 != 0 {
				f(m, h.hash(family, r.Src, r.Dst, r.Proto, m.ports))
			}
		}
	}
}

// splitRanges tells records that share a long chain apart by a port range that they ask for: the range becomes a few
// blocks of ports, each of which is hashed by its upper bits in a group of its own.
func splitRanges(byShape map[shape]*group, records []abi.RuleRecord) {
	budget := 4*len(records) + 1<<16
	for _, g := range sortedGroups(byShape) {
		if len(g.members) <= longChain {
			continue
		}
		chains := map[uint64]int{}
		h := g.shape.hashing(0)
		g.eachKey(records, h, func(_ member, hash uint64) { chains[hash]++ })
		long := map[uint32]bool{}
		g.eachKey(records, h, func(m member, hash uint64) {
			if chains[hash] > longChain {
				long[m.record] = true
			}
		})
		if len(long) == 0 {
			continue
		}
		kept := g.members[:0]
		for _, m := range g.members {
			blocks := rangeBlocks(&records[m.record], g.shape)
			if !long[m.record] || len(blocks) == 0 || len(blocks) > budget {
				kept = append(kept, m)
				continue
			}
			budget -= len(blocks)
			for _, b := range blocks {
				s := g.shape
				s.ports |= b.mask
				join(byShape, s, member{record: m.record, ports: m.ports | b.ports})
			}
		}
		g.members = kept
	}
}

// block is a set of ports that are alike in the bits of mask.
type block struct{ mask, ports uint32 }

// rangeBlocks splits the port range of a record into blocks; none when it has no range or one of all ports, or when the
// shape has blocks of it already.
func rangeBlocks(r *abi.RuleRecord, s shape) []block {
	lo, hi, shift := r.DportLo, r.DportHi, 0
	if !asks(r, abi.RuleDport) || lo == hi {
		lo, hi, shift = r.SportLo, r.SportHi, 16
		if !asks(r, abi.RuleSport) || lo == hi {
			return nil
		}
	}
	if lo > hi || lo == 0 && hi == 0xffff || s.ports>>shift&0xffff != 0 {
		return nil
	}
	// Steps of two bits: half the groups of single bits, for half as many blocks more.
	const step = 2
	var blocks []block
	for at, end := uint32(lo), uint32(hi)+1; at < end; {
		size := uint32(1)
		for size<<step <= end-at && at%(size<<step) == 0 {
			size <<= step
		}
		blocks = append(blocks, block{mask: (0xffff &^ (size - 1)) << shift, ports: at << shift})
		at += size
	}
	return blocks
}

// mergeSmallest merges the group with the fewest members into that of its neighbours where it lengthens the chains
// least. Both are then hashed by what their shapes have in common.
func mergeSmallest(groups []*group, records []abi.RuleRecord) []*group {
	small := slices.Index(groups, slices.MinFunc(groups, func(a, b *group) int {
		return cmp.Compare(len(a.members), len(b.members))
	}))
	g := groups[small]
	groups = slices.Delete(groups, small, small+1)

	var best *group
	bestCost := -1
	for _, t := range g.nearest(groups) {
		if cost := t.costOf(g, records); bestCost < 0 || cost < bestCost {
			best, bestCost = t, cost
		}
	}
	best.absorb(g, records)
	return mergeEqual(groups, best)
}

// nearest returns the groups that have most in common with g, nearest first: a merger makes the keys of both sides
// less precise, and each member suffers from that.
func (g *group) nearest(groups []*group) []*group {
	type candidate struct {
		*group
		loss int
	}
	near := make([]candidate, 0, neighbours+1)
	for _, t := range groups {
		m := g.shape.meet(t.shape)
		loss := len(g.members)*(g.shape.precision()-m.precision()) + len(t.members)*(t.shape.precision()-m.precision())
		if len(near) == neighbours && loss >= near[neighbours-1].loss {
			continue
		}
		at := slices.IndexFunc(near, func(c candidate) bool { return c.loss > loss })
		if at < 0 {
			at = len(near)
		}
		near = slices.Insert(near, at, candidate{t, loss})
		near = near[:min(len(near), neighbours)]
	}
	nearest := make([]*group, len(near))
	for i, c := range near {
		nearest[i] = c.group
	}
	return nearest
}

// costOf estimates how much longer chains get when g joins t: how many more comparisons looking up each record once
// takes.
func (t *group) costOf(g *group, records []abi.RuleRecord) int {
	m := t.shape.meet(g.shape)
	cost := 0
	if m == t.shape {
		added := map[uint64]int{}
		counts := t.keyCounts(records)
		g.eachKey(records, m.hashing(0), func(_ member, hash uint64) {
			cost += counts[hash] + added[hash]
			added[hash]++
		})
		return cost
	}
	counts := map[uint64]int{}
	count := func(_ member, hash uint64) {
		cost += counts[hash]
		counts[hash]++
	}
	t.eachKey(records, m.hashing(0), count)
	g.eachKey(records, m.hashing(0), count)
	for _, n := range t.keyCounts(records) {
		cost -= n * (n - 1) / 2
	}
	return cost
}

// keyCounts returns how many members share each key.
func (g *group) keyCounts(records []abi.RuleRecord) map[uint64]int {
	if g.counts == nil {
		g.counts = make(map[uint64]int, len(g.members))
		g.eachKey(records, g.shape.hashing(0), func(_ member, hash uint64) { g.counts[hash]++ })
	}
	return g.counts
}

// absorb moves g's members into t.
func (t *group) absorb(g *group, records []abi.RuleRecord) {
	m := t.shape.meet(g.shape)
	if m != t.shape {
		t.counts = nil
	}
	t.shape = m
	if t.counts != nil {
		g.eachKey(records, m.hashing(0), func(_ member, hash uint64) { t.counts[hash]++ })
	}
	t.members = append(t.members, g.members...)
}

// mergeEqual joins a group whose shape has changed with another that has the same.
func mergeEqual(groups []*group, changed *group) []*group {
	for i, g := range groups {
		if g != changed && g.shape == changed.shape {
			changed.members = append(changed.members, g.members...)
			changed.counts = nil
			return slices.Delete(groups, i, i+1)
		}
	}
	return groups
}
