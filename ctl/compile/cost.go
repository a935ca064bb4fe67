package compile

import (
	"cmp"
	"math/bits"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// Cost is what the snapshot costs: memory, and the most that a packet can meet in the rules.
type Cost struct {
	Records       int // rule records; one rule may need several
	Groups        int // mask groups
	LongestChain  int // most records under one key
	Probes        int // most groups that a packet can have to look into
	Verifications int // most records that a packet can have to compare; an upper bound
	Classes       int // combinations of sets that an address can be in, "none" included
	Bytes         [abi.TableCount]int
}

// add makes the worst of two runs: a packet meets one of them.
func (c *Cost) add(run RunCost) {
	c.Records += run.Records
	c.Groups = max(c.Groups, run.Groups)
	c.LongestChain = max(c.LongestChain, run.LongestChain)
	c.Probes = max(c.Probes, run.Probes)
	c.Verifications = max(c.Verifications, run.Verifications)
}

// RunCost is what the rules for one kind of packets cost: those received, those sent, and frames that are not IP.
type RunCost struct {
	Packets       string   `json:"packets"`         // received, sent, not-ip
	Structure     string   `json:"structure"`       // scan: record after record; index: candidate masks and groups
	Records       int      `json:"records"`         // that the rules became
	Masks         []string `json:"masks"`           // fields whose values narrow down the groups
	Groups        int      `json:"groups"`          // records that are hashed alike
	Typical       float64  `json:"typical_probes"`  // groups looked into for a packet that a record is about, on average
	Probes        int      `json:"probes"`          // the most that are left to any packet
	LongestChain  int      `json:"longest_chain"`   // records that one lookup can bring
	Verifications int      `json:"verifications"`   // the most records that any packet is compared with
	GoOn          int      `json:"go_on"`           // rules that decide nothing: one that matches makes the packet search on
	Crowd         []string `json:"crowd,omitempty"` // the first rules of the longest chain, if it is long: no lookup tells them apart

	bytes int      // of what it looks into, sets excepted
	crowd []uint32 // ids of Crowd
	sets  int      // addresses that are looked up in the sets
}

// crowded is from when on records of a group that no lookup tells apart are worth telling about.
const crowded = 4 * longChain

// maxCrowd is how many of them are named.
const maxCrowd = 100

// nameCrowd names the rules that make the longest chain.
func (c *RunCost) nameCrowd(rules []model.Rule, ids IDs) {
	if len(c.crowd) == 0 {
		return
	}
	wanted := map[uint32]bool{}
	for _, id := range c.crowd {
		wanted[id] = true
	}
	for i := range rules {
		if id := ids.Rules[rules[i].Name]; wanted[id] && len(c.Crowd) < maxCrowd {
			c.Crowd = append(c.Crowd, rules[i].Name)
		}
	}
}

// crowdOf returns the rules that share the most frequent hash.
func crowdOf(entries []entry, records []abi.RuleRecord) []uint32 {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return cmp.Compare(a.hash, b.hash) })
	first, longest, start := 0, 0, 0
	for i := range sorted {
		if sorted[i].hash != sorted[start].hash {
			start = i
		}
		if i-start+1 > longest {
			first, longest = start, i-start+1
		}
	}
	var ids []uint32
	for _, e := range sorted[first : first+longest] {
		ids = append(ids, records[e.ref].Id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// masks are the candidate arrays of a run.
type masks struct {
	src, dst, sport, dport, proto array
	head                          *abi.RulesHead
}

func (m *masks) each(visit func(field string, a array)) {
	for _, one := range []struct {
		field string
		array array
	}{{"src", m.src}, {"dst", m.dst}, {"proto", m.proto}, {"sport", m.sport}, {"dport", m.dport}} {
		if one.array != nil {
			visit(one.field, one.array)
		}
	}
}

// most returns the largest sum of weights that a packet can be left with; a weight a group.
func (m *masks) most(weights []int) int {
	sum := func(word uint64) (n int) {
		for ; word != 0; word &= word - 1 {
			n += weights[bits.TrailingZeros64(word)]
		}
		return n
	}
	least := sum(1<<len(weights) - 1)
	m.each(func(_ string, a array) {
		most := 0
		var last uint64
		for i := range a {
			for _, word := range a[i].W {
				if word != last {
					most, last = max(most, sum(word)), word
				}
			}
		}
		least = min(least, most)
	})
	return least
}

// left returns the groups that are left to a packet with the values that a record asks for.
func (m *masks) left(r *abi.RuleRecord, family abi.Family, all uint64) uint64 {
	address := func(a array, p addressPart, areaBits uint8, shift uint8) {
		if a != nil && p.asked {
			w := window{family: family, bits: int(areaBits), shift: int(shift)}
			first, _ := w.span(&p)
			all &= a.word(int(family)<<areaBits + first)
		}
	}
	number := func(a array, value uint16, asked bool) {
		if a != nil && asked {
			all &= a.word(int(value))
		}
	}
	address(m.src, srcOf(r), m.head.CandSrcBits, m.head.CandSrcShift[family])
	address(m.dst, dstOf(r), m.head.CandDstBits, m.head.CandDstShift[family])
	number(m.proto, uint16(r.Proto), asks(r, abi.RuleProto))
	number(m.sport, r.SportLo, asks(r, abi.RuleSport))
	number(m.dport, r.DportLo, asks(r, abi.RuleDport))
	return all
}

// typical returns how many groups are looked into on average for packets that the records are about. Once a record fits, groups that begin
// behind it can't have a better one.
func (m *masks) typical(groups []*group, records []abi.RuleRecord) float64 {
	const samples = 4096
	var all [abi.FamilyCount]uint64
	firsts := make([]uint32, len(groups))
	for i, g := range groups {
		firsts[i] = slices.MinFunc(g.members, func(a, b member) int { return cmp.Compare(a.record, b.record) }).record
		for family := range abi.FamilyCount {
			if g.families(records)>>family&1 != 0 {
				all[family] |= 1 << i
			}
		}
	}
	sum, n := 0, 0
	for i := 0; i < len(records); i += 1 + len(records)/samples {
		family := abi.FamilyV4
		if familiesOf(&records[i]) == onlyV6 {
			family = abi.FamilyV6
		}
		left := m.left(&records[i], family, all[family])
		for group, first := range firsts {
			if int(first) <= i && left>>group&1 != 0 {
				sum++
			}
		}
		n++
	}
	return float64(sum) / float64(max(n, 1))
}

// What steps take, in ns, on the machine of bench/results: fitted to the cases of both whole runs of 2026-11-27 for up to 100,000 rules and for sets of a
// million, and held against the newest results by a test of bench. A retpoline machine of 2023; others differ by a factor, in all of it.
const (
	nsBase    = 20 // parse, count, leave
	nsSearch  = 18 // begin and end a search
	nsMask    = 2  // look at one array
	nsProbe   = 12 // hash, compare the tags of a bucket
	nsVerify  = 8  // compare a record
	nsScanned = 9  // one step of a scan
	nsSet     = 12 // look an address up in the sets
)

// nsLine is what a line of memory takes, by the size of what it is in: it is in the second or third cache, or in neither.
func nsLine(bytes int) float64 {
	switch {
	case bytes <= 1<<20:
		return 2
	case bytes <= 4<<20:
		return 7
	case bytes <= 16<<20: // of which other guests of the machine have their part: runs of one day differ by half
		return 43
	}
	return 61
}

// Estimate is about what the filter takes for a packet, in ns: one that a rule is about and that finds it at first try, and one
// that meets the worst of everything. Remembered verdicts, which most packets of long flows get, take less.
func (c *RunCost) Estimate(sets int) (typical, worst float64) {
	typical = nsBase + float64(c.sets)*(nsSet+2.5*nsLine(sets))
	worst = nsBase + float64(c.sets)*(nsSet+3.5*nsLine(sets))
	line := nsLine(c.bytes)
	if c.Structure == "scan" {
		return typical + float64(c.Records+1)/2*nsScanned, worst + float64(c.Records)*nsScanned
	}
	rounds := float64(1 + c.GoOn)
	search := nsSearch + float64(len(c.Masks))*(nsMask+line)
	typical += search + c.Typical*(nsProbe+line) + nsVerify + line
	worst += rounds * (search + float64(c.Probes)*(nsProbe+2*line) + float64(c.Verifications)*(nsVerify+line))
	return typical, worst
}

// goOn counts the rules after which the search goes on.
func (u *run) goOn() (n int) {
	for i := 1; i < len(u.effects); i++ {
		flags := abi.EffectFlags(abi.FromLine[abi.RuleEffect](u.effects[i]).Flags)
		if flags&abi.EffectDecides == 0 || flags&(abi.EffectShadow|abi.EffectLimit) != 0 {
			n++
		}
	}
	return n
}
