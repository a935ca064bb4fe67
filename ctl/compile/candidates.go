package compile

import (
	"math/bits"

	"gardu/ctl/abi"
)

const (
	minCandidateBits = 8
	maxCandidateBits = 20
	ports            = 65536
	protocols        = 256
)

// addCandidates adds the arrays that say which groups can match a value, where they would narrow anything, and
// returns the most groups that a packet can be left with.
func (t *table) addCandidates(head *abi.RulesHead, groups []*group, records []abi.RuleRecord) int {
	probes := len(groups)
	add := func(a array) uint32 {
		if a == nil {
			return 0
		}
		probes = min(probes, a.maxBits())
		return t.add(a)
	}
	c := candidates{groups: groups, records: records}
	var src, dst array
	src, head.CandSrcBits = c.addresses(srcOf)
	dst, head.CandDstBits = c.addresses(dstOf)
	head.CandSrcOff, head.CandDstOff = add(src), add(dst)
	head.CandSportOff = add(c.numbers(ports, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.SportLo), uint32(r.SportHi), asks(r, abi.RuleSport)
	}))
	head.CandDportOff = add(c.numbers(ports, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.DportLo), uint32(r.DportHi), asks(r, abi.RuleDport)
	}))
	head.CandProtoOff = add(c.numbers(protocols, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.Proto), uint32(r.Proto), asks(r, abi.RuleProto)
	}))
	return probes
}

type candidates struct {
	groups  []*group
	records []abi.RuleRecord
}

// worthwhile is how many groups an array must be able to rule out: reading the array costs as much as one group.
const worthwhile = 2

// numbers returns the array for a number field. part gives a record's range, or false when it takes every value.
func (c *candidates) numbers(size int, part func(*abi.RuleRecord) (lo, hi uint32, asked bool)) array {
	var open uint64 // groups that take every value
	for i, g := range c.groups {
		for _, m := range g.members {
			if _, _, asked := part(&c.records[m.record]); !asked {
				open |= 1 << i
				break
			}
		}
	}
	if len(c.groups)-bits.OnesCount64(open) < worthwhile {
		return nil
	}
	words := newArray(size, 64)
	for v := range size {
		words.setWord(v, open)
	}
	starts := make([]int, size+1) // ranges that start at a value, less those that ended before it
	for i, g := range c.groups {
		if open>>i&1 != 0 {
			continue
		}
		clear(starts)
		for _, m := range g.members {
			if lo, hi, _ := part(&c.records[m.record]); lo <= hi {
				starts[lo]++
				starts[hi+1]--
			}
		}
		covering := 0
		for v := range size {
			if covering += starts[v]; covering > 0 {
				words.or(v, 1<<i)
			}
		}
	}
	return words
}

// addressPart is what a record asks of an address: a prefix, when asked.
type addressPart struct {
	value [2]uint64
	plen  uint8
	asked bool
}

func srcOf(r *abi.RuleRecord) addressPart {
	return addressPart{r.Src, r.SrcPlen, asks(r, abi.RuleSrc)}
}

func dstOf(r *abi.RuleRecord) addressPart {
	return addressPart{r.Dst, r.DstPlen, asks(r, abi.RuleDst)}
}

// span returns the words of an area that stand for addresses which the record can match.
func (p *addressPart) span(family abi.Family, areaBits int) (first, last int) {
	if !p.asked {
		return 0, 1<<areaBits - 1
	}
	top := p.value[0]
	if family == abi.FamilyV4 {
		top = p.value[1] << 32
	}
	first = int(top >> (64 - areaBits))
	return first, first + 1<<max(0, areaBits-int(p.plen)) - 1
}

// addresses returns the array for the source or destination, and the bits that index it.
func (c *candidates) addresses(part func(*abi.RuleRecord) addressPart) (array, uint8) {
	var open [abi.FamilyCount]uint64 // groups that take every address
	most, longest, closed := 0, 0, 0
	for i, g := range c.groups {
		for _, m := range g.members {
			r := &c.records[m.record]
			p := part(r)
			for family := range abi.FamilyCount {
				if familiesOf(r)>>family&1 != 0 && !p.asked {
					open[family] |= 1 << i
				}
			}
			if p.asked {
				longest = max(longest, int(p.plen))
			}
		}
		if (open[abi.FamilyV4]|open[abi.FamilyV6])>>i&1 == 0 {
			closed++
			most = max(most, len(g.members))
		}
	}
	if closed < worthwhile {
		return nil, 0
	}
	// Eight words a record keep the largest group out of most words that are not its own.
	areaBits := min(max(min(bits.Len(uint(most))+3, longest), minCandidateBits), maxCandidateBits)
	words := newArray(2<<areaBits, 64)
	for family, groups := range open {
		for v := range 1 << areaBits {
			words.setWord(family<<areaBits+v, groups)
		}
	}
	for i, g := range c.groups {
		c.mark(words, areaBits, i, g, part, open)
	}
	return words, uint8(areaBits)
}

// mark sets the bit of a group in every word whose addresses one of its records can match.
func (c *candidates) mark(words array, areaBits, i int, g *group, part func(*abi.RuleRecord) addressPart, open [abi.FamilyCount]uint64) {
	type wide struct {
		family abi.Family
		first  int
		plen   uint8
	}
	done := map[wide]bool{}
	for _, m := range g.members {
		r := &c.records[m.record]
		p := part(r)
		for family := range abi.FamilyCount {
			if familiesOf(r)>>family&1 == 0 || open[family]>>i&1 != 0 {
				continue
			}
			first, last := p.span(family, areaBits)
			if last > first {
				key := wide{family, first, p.plen}
				if done[key] {
					continue
				}
				done[key] = true
			}
			for v := first; v <= last; v++ {
				words.or(int(family)<<areaBits+v, 1<<i)
			}
		}
	}
}
