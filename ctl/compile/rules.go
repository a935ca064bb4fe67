package compile

import (
	"math/bits"
	"slices"

	"gardu/ctl/abi"
)

// rulesTable arranges the records of each run for lookup. Exactness doesn't depend on it: records are verified. Cost is the most
// that any packet can meet.
func rulesTable(l *lowered) ([]abi.Line, Cost, error) {
	t := table{heads: int(abi.WayCount)}
	heads := make([]abi.Line, abi.WayCount)
	var total Cost
	for way := range l.runs {
		run := &l.runs[way]
		head, cost, err := t.addRun(run, abi.Way(way) == abi.WayLink)
		if err != nil {
			return nil, Cost{}, err
		}
		heads[way] = abi.ToLine(head)
		total.add(cost)
	}
	return t.finish(heads...), total, nil
}

// addRun adds the sections of a run. scan: don't make an index, however many records there are.
func (t *table) addRun(u *run, scan bool) (abi.RulesHead, Cost, error) {
	head := abi.RulesHead{
		Records:        uint32(len(u.records)),
		Flags:          uint8(u.flags),
		DefaultVerdict: uint8(u.verdict),
	}
	cost := Cost{Records: len(u.records)}
	if scan || len(u.records) <= int(abi.ScanRecords) {
		head.Flags |= uint8(abi.RulesScan)
		cost.Verifications = len(u.records)
	} else if err := t.addIndex(&head, &cost, u.records); err != nil {
		return head, cost, err
	}
	head.RecordOff = t.add(recordLines(u.records))
	head.ExtOff = t.add(u.extras.lines)
	head.EffectOff = t.add(u.effects)
	return head, cost, nil
}

// addIndex adds groups, buckets and candidate masks.
func (t *table) addIndex(head *abi.RulesHead, cost *Cost, records []abi.RuleRecord) error {
	groups := arrange(records)
	head.Groups = uint32(len(groups))

	var entries []entry
	chains := make([]int, len(groups)) // the longest of each group
	groupLines := make([]abi.Line, len(groups))
	for i, g := range groups {
		h := g.shape.hashing(i)
		first := len(entries)
		g.eachKey(records, h, func(m member, hash uint64) {
			entries = append(entries, entry{hash: hash, ref: m.record})
		})
		chains[i] = longestRun(entries[first:])
		groupLines[i] = abi.ToLine(abi.RuleGroup{
			SrcMask: h.src, DstMask: h.dst, KeyMask: h.ports, ProtoMask: h.proto,
			MinRecord: g.first(), Families: g.families(records),
		})
	}
	buckets, err := newBucketTable(entries)
	if err != nil {
		return err
	}
	head.GroupOff = t.add(groupLines)
	head.BucketOff, head.BucketMask = t.add(buckets.buckets), buckets.mask()
	head.ChainOff = t.add(buckets.chainLines())
	probes := t.addCandidates(head, groups, records)

	slices.SortFunc(chains, func(a, b int) int { return b - a })
	cost.Groups, cost.LongestChain, cost.Probes = len(groups), buckets.longest, probes
	for _, chain := range chains[:probes] {
		cost.Verifications += chain
	}
	return nil
}

// add makes the worst of two runs: a packet meets one of them.
func (c *Cost) add(run Cost) {
	c.Records += run.Records
	c.Groups = max(c.Groups, run.Groups)
	c.LongestChain = max(c.LongestChain, run.LongestChain)
	c.Probes = max(c.Probes, run.Probes)
	c.Verifications = max(c.Verifications, run.Verifications)
}

func recordLines(records []abi.RuleRecord) []abi.Line {
	lines := make([]abi.Line, len(records))
	for i := range records {
		lines[i] = abi.ToLine(records[i])
	}
	return lines
}

// longestRun returns how often the most frequent hash occurs.
func longestRun(entries []entry) int {
	hashes := make([]uint64, len(entries))
	for i, e := range entries {
		hashes[i] = e.hash
	}
	slices.Sort(hashes)
	longest, run := 0, 0
	for i, h := range hashes {
		if i > 0 && h != hashes[i-1] {
			run = 0
		}
		run++
		longest = max(longest, run)
	}
	return longest
}

// maxBits returns the most bits that a word of a has.
func (a array) maxBits() int {
	most := 0
	for i := range a {
		for _, w := range a[i].W {
			most = max(most, bits.OnesCount64(w))
		}
	}
	return most
}
