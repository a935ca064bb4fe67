package compile

import (
	"math/bits"
	"slices"

	"gardu/ctl/abi"
)

// rulesTable arranges records for lookup. Exactness doesn't depend on it: records are verified.
func rulesTable(l *lowered) ([]abi.Line, Cost, error) {
	head := abi.RulesHead{
		Records:        uint32(len(l.records)),
		Flags:          uint8(l.flags),
		DefaultVerdict: uint8(l.verdict),
	}
	if len(l.records) <= int(abi.ScanRecords) {
		return scanTable(head, l)
	}
	groups := arrange(l.records)
	head.Groups = uint32(len(groups))

	var entries []entry
	chains := make([]int, len(groups)) // the longest of each group
	groupLines := make([]abi.Line, len(groups))
	for i, g := range groups {
		h := g.shape.hashing(i)
		first := len(entries)
		g.eachKey(l.records, h, func(m member, hash uint64) {
			entries = append(entries, entry{hash: hash, ref: m.record})
		})
		chains[i] = longestRun(entries[first:])
		groupLines[i] = abi.ToLine(abi.RuleGroup{
			SrcMask: h.src, DstMask: h.dst, KeyMask: h.ports, ProtoMask: h.proto,
			MinRecord: g.first(), Families: g.families(l.records),
		})
	}
	buckets, err := newBucketTable(entries)
	if err != nil {
		return nil, Cost{}, err
	}

	var t table
	head.RecordOff = t.add(recordLines(l))
	head.GroupOff = t.add(groupLines)
	head.BucketOff, head.BucketMask = t.add(buckets.buckets), buckets.mask()
	head.ChainOff = t.add(buckets.chainLines())
	head.ExtOff = t.add(l.extras.lines)
	probes := t.addCandidates(&head, groups, l.records)

	slices.SortFunc(chains, func(a, b int) int { return b - a })
	cost := Cost{Records: len(l.records), Groups: len(groups), LongestChain: buckets.longest, Probes: probes}
	for _, chain := range chains[:probes] {
		cost.Verifications += chain
	}
	return t.finish(abi.ToLine(head)), cost, nil
}

// scanTable holds the records alone: so few are verified one after the other.
func scanTable(head abi.RulesHead, l *lowered) ([]abi.Line, Cost, error) {
	var t table
	head.Flags |= uint8(abi.RulesScan)
	head.RecordOff = t.add(recordLines(l))
	head.ExtOff = t.add(l.extras.lines)
	return t.finish(abi.ToLine(head)), Cost{Records: len(l.records), Verifications: len(l.records)}, nil
}

func recordLines(l *lowered) []abi.Line {
	lines := make([]abi.Line, len(l.records))
	for i := range l.records {
		lines[i] = abi.ToLine(l.records[i])
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
