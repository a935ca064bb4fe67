package compile

import (
	"slices"
	"sync"

	"gardu/ctl/abi"
)

// rulesTable arranges the records of each run for lookup. Exactness doesn't depend on it: records are verified.
func rulesTable(l *lowered) ([]abi.Line, []RunCost, error) {
	t := table{heads: int(abi.WayCount)}
	heads := make([]abi.Line, abi.WayCount)
	var costs []RunCost
	for way := range l.runs {
		run := &l.runs[way]
		before := t.lines
		head, cost, err := t.addRun(run, abi.Way(way) == abi.WayLink)
		if err != nil {
			return nil, nil, err
		}
		heads[way] = abi.ToLine(head)
		if cost.Records > 0 {
			cost.Packets = wayName(abi.Way(way))
			cost.bytes = (t.lines - before) * lineBytes
			costs = append(costs, cost)
		}
	}
	return t.finish(heads...), costs, nil
}

func wayName(way abi.Way) string {
	return [abi.WayCount]string{abi.WayIn: "received", abi.WayOut: "sent", abi.WayLink: "not-ip"}[way]
}

// addRun adds the sections of a run. scan: don't make an index, however many records there are.
func (t *table) addRun(u *run, scan bool) (abi.RulesHead, RunCost, error) {
	head := abi.RulesHead{
		Records:        uint32(len(u.records)),
		Flags:          uint8(u.flags),
		DefaultVerdict: uint8(u.verdict),
	}
	cost := RunCost{Structure: "index", Records: len(u.records), Masks: []string{}, GoOn: u.goOn()}
	for _, flag := range []abi.RulesFlags{abi.RulesSrcSets, abi.RulesDstSets} {
		if u.flags&flag != 0 {
			cost.sets++
		}
	}
	if scan || len(u.records) <= int(abi.ScanRecords) {
		head.Flags |= uint8(abi.RulesScan)
		cost.Structure, cost.Verifications = "scan", len(u.records)
	} else if err := t.addIndex(&head, &cost, u.records); err != nil {
		return head, cost, err
	}
	if len(u.records) > 0 && setAlone(&u.records[0]) {
		head.Flags |= uint8(abi.RulesSetFirst)
	}
	head.RecordOff = t.add(recordLines(u.records))
	head.ExtOff = t.add(u.extras.lines)
	head.EffectOff = t.add(u.effects)
	return head, cost, nil
}

// setAlone tells whether a record asks for a set of the source and nothing else, and decides: a block list.
func setAlone(r *abi.RuleRecord) bool {
	return r.Conditions == uint16(abi.RuleSrcSet) && r.Negated == 0 && r.Effect == 0
}

// addIndex adds groups, buckets and candidate masks.
func (t *table) addIndex(head *abi.RulesHead, cost *RunCost, records []abi.RuleRecord) error {
	groups := arrange(records)
	head.Groups = uint32(len(groups))

	entries := make([]entry, 0, len(records))
	chains := make([]int, len(groups)) // the longest of each group
	ones := make([]int, len(groups))
	groupLines := make([]abi.Line, len(groups))
	for i, g := range groups {
		h := g.shape.hashing(i)
		first := len(entries)
		g.eachKey(records, h, func(m member, hash uint64) {
			entries = append(entries, entry{hash: hash, ref: m.record})
		})
		chains[i], ones[i] = longestRun(entries[first:]), 1
		if chains[i] > crowded && chains[i] == slices.Max(chains) {
			cost.crowd = crowdOf(entries[first:], records)
		}
		groupLines[i] = abi.ToLine(abi.RuleGroup{
			SrcMask: h.src, DstMask: h.dst, KeyMask: h.ports, ProtoMask: h.proto,
			MinRecord: g.first(), Families: g.families(records),
		})
	}
	var buckets *bucketTable
	var err error
	var running sync.WaitGroup
	running.Go(func() { buckets, err = newBucketTable(entries) }) // which takes about as long as the masks
	m := newMasks(head, groups, records)
	running.Wait()
	if err != nil {
		return err
	}
	head.GroupOff = t.add(groupLines)
	head.BucketOff, head.BucketMask = t.add(buckets.buckets), buckets.mask()
	head.ChainOff = t.add(buckets.chainLines())
	t.addMasks(head, m)
	m.each(func(field string, _ array) { cost.Masks = append(cost.Masks, field) })
	cost.Groups, cost.LongestChain = len(groups), buckets.longest
	cost.Probes, cost.Verifications = m.most(ones), m.most(chains)
	cost.Typical = m.typical(groups, records)
	return nil
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
	hashes := sortedHashes(entries)
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

func sortedHashes(entries []entry) []uint64 {
	hashes := make([]uint64, len(entries))
	for i, e := range entries {
		hashes[i] = e.hash
	}
	slices.Sort(hashes)
	return hashes
}
