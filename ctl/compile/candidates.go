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

// newMasks makes the arrays that say which groups can match a value, where they would narrow anything.
func newMasks(head *abi.RulesHead, groups []*group, records []abi.RuleRecord) *masks {
	m := &masks{head: head}
	c := candidates{groups: groups, records: records}
	m.src, head.CandSrcBits, head.CandSrcShift = c.addresses(srcOf)
	m.dst, head.CandDstBits, head.CandDstShift = c.addresses(dstOf)
	m.sport = c.numbers(ports, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.SportLo), uint32(r.SportHi), asks(r, abi.RuleSport)
	})
	m.dport = c.numbers(ports, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.DportLo), uint32(r.DportHi), asks(r, abi.RuleDport)
	})
	m.proto = c.numbers(protocols, func(r *abi.RuleRecord) (uint32, uint32, bool) {
		return uint32(r.Proto), uint32(r.Proto), asks(r, abi.RuleProto)
	})
	return m
}

// addMasks adds these arrays.
func (t *table) addMasks(head *abi.RulesHead, m *masks) {
	head.CandSrcOff, head.CandDstOff, head.CandProtoOff = t.add(m.src), t.add(m.dst), t.add(m.proto)
	head.CandSportOff, head.CandDportOff = t.add(m.sport), t.add(m.dport)
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

// halfBits is how many bits of an address the window can look at: all of IPv4's, the upper half of IPv6's.
var halfBits = [abi.FamilyCount]int{abi.FamilyV4: 32, abi.FamilyV6: 64}

// half returns the value of those bits.
func (p *addressPart) half(family abi.Family) uint64 {
	if family == abi.FamilyV4 {
		return p.value[1]
	}
	return p.value[0]
}

// window is where an array looks at addresses of one family: at `bits` bits, `shift` bits from the low end.
type window struct {
	family      abi.Family
	bits, shift int
}

// span returns the words, of those for the window's family, that stand for addresses which a record can match.
func (w window) span(p *addressPart) (first, last int) {
	all := 1<<w.bits - 1
	if !p.asked {
		return 0, all
	}
	free := halfBits[w.family] - int(p.plen) - w.shift // bits of the window that the prefix leaves open
	if free >= w.bits {
		return 0, all
	}
	first = int(p.half(w.family)>>w.shift) & all
	return first, first + 1<<max(0, free) - 1
}

// addresses returns the array for the source or destination, the bits that index it and where they are in an address.
func (c *candidates) addresses(part func(*abi.RuleRecord) addressPart) (array, uint8, [abi.FamilyCount]uint8) {
	var open [abi.FamilyCount]uint64 // groups that take every address
	var shifts [abi.FamilyCount]uint8
	most, closed := 0, 0
	for i, g := range c.groups {
		for _, m := range g.members {
			r := &c.records[m.record]
			if part(r).asked {
				continue
			}
			for family := range abi.FamilyCount {
				if familiesOf(r)>>family&1 != 0 {
					open[family] |= 1 << i
				}
			}
		}
		if (open[abi.FamilyV4]|open[abi.FamilyV6])>>i&1 == 0 {
			closed++
			most = max(most, len(g.members))
		}
	}
	if closed < worthwhile {
		return nil, 0, shifts
	}
	// Eight words a record keep the largest group out of most words that are not its own.
	areaBits := min(max(bits.Len(uint(most))+3, minCandidateBits), maxCandidateBits)
	words := newArray(2<<areaBits, 64)
	for family := range abi.FamilyCount {
		area, shift := c.bestArea(window{family: family, bits: areaBits}, part, open[family])
		shifts[family] = uint8(shift)
		for v, word := range area {
			words.setWord(int(family)<<areaBits+v, word)
		}
	}
	return words, uint8(areaBits), shifts
}

// windowStep is how far apart the places are that are tried for a window, in bits.
const windowStep = 4

// bestArea tries the places for a window and returns the words and the shift of the one that leaves the fewest candidates
// to the packets that the records are about.
func (c *candidates) bestArea(w window, part func(*abi.RuleRecord) addressPart, open uint64) (best []uint64, shift int) {
	longest := 0
	for i := range c.records {
		if p := part(&c.records[i]); p.asked && familiesOf(&c.records[i])>>w.family&1 != 0 {
			longest = max(longest, int(p.plen))
		}
	}
	fewest := 0
	for w.shift = halfBits[w.family] - w.bits; w.shift >= 0; w.shift -= windowStep {
		area, left := c.area(w, part, open)
		if best == nil || left < fewest {
			best, shift, fewest = area, w.shift, left
		}
		if w.shift <= halfBits[w.family]-longest {
			break // below, no prefix says anything
		}
	}
	return best, shift
}

// area returns the words of a window, and how many candidates they leave, summed over the records' own addresses.
func (c *candidates) area(w window, part func(*abi.RuleRecord) addressPart, open uint64) (words []uint64, left int) {
	words = make([]uint64, 1<<w.bits)
	for v := range words {
		words[v] = open
	}
	type wide struct {
		first, last int
	}
	var own []int
	for i, g := range c.groups {
		if open>>i&1 != 0 {
			continue
		}
		done := map[wide]bool{}
		for _, m := range g.members {
			r := &c.records[m.record]
			p := part(r)
			if familiesOf(r)>>w.family&1 == 0 {
				continue
			}
			first, last := w.span(&p)
			own = append(own, first)
			if last > first {
				if done[wide{first, last}] {
					continue
				}
				done[wide{first, last}] = true
			}
			for v := first; v <= last; v++ {
				words[v] |= 1 << i
			}
		}
	}
	for _, v := range own {
		left += bits.OnesCount64(words[v])
	}
	return words, left
}
