package compile

import (
	"math/bits"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// maskProduct is product for a field with masks: an alternative each, or, when they must all not be, a condition each. Many become
// few by fold.
func (u *run) maskProduct(record abi.RuleRecord, numbers []numberPlan, conditions []condition) {
	n, rest := &numbers[0], numbers[1:]
	var terms []condition
	if n.wide || n.not && len(n.masks) > conditionsPerLine {
		terms = n.fold(u)
	} else {
		for _, m := range n.masks {
			terms = append(terms, n.masked(m))
		}
	}
	if n.not {
		u.product(record, rest, append(conditions, terms...))
		return
	}
	for _, term := range terms {
		u.product(record, rest, append(conditions, term))
	}
}

// masked is the condition that the value fits a mask, or with not that it doesn't.
func (n *numberPlan) masked(m model.Mask) condition {
	c := condition{field: n.field, flags: n.flags() | abi.ExtMask, lo: uint32(m.Value), hi: uint32(m.Bits)}
	if rule.Fields[n.field].Kind == rule.MAC {
		leading, count := leadingBits(m)
		c.flags, c.lo, c.hi, c.part = n.flags()|abi.ExtMac, uint32(leading), uint32(count), uint16(leading>>32)
	}
	return c
}

// macBits is the length of a MAC address.
const macBits = 48

// leadingBits returns the bits of a MAC address that a mask is about, and how many they are.
func leadingBits(m model.Mask) (leading uint64, count int) {
	count = bits.OnesCount64(m.Bits)
	return m.Value >> (macBits - count), count
}

// fold makes few conditions of many masks: of flags a bitmap of the values that fit one, of MAC addresses a list for each length.
func (n *numberPlan) fold(u *run) []condition {
	if rule.Fields[n.field].Kind == rule.MAC {
		return n.foldMACs(u)
	}
	var values []model.Range
	for v := range rule.Fields[n.field].Max + 1 {
		if slices.ContainsFunc(n.masks, func(m model.Mask) bool { return uint64(v)&m.Bits == m.Value }) {
			values = append(values, model.Range{Lo: v, Hi: v})
		}
	}
	return []condition{n.bitmap(u, values)}
}

func (n *numberPlan) foldMACs(u *run) []condition {
	var lists [macBits + 1][]uint64
	for _, m := range n.masks {
		leading, count := leadingBits(m)
		lists[count] = append(lists[count], leading)
	}
	var terms []condition
	for count, list := range slices.Backward(lists[:]) {
		if list != nil {
			line, mask := u.extras.macs(list, count)
			terms = append(terms, condition{field: n.field, flags: n.flags() | abi.ExtMacs, lo: line, hi: mask, part: uint16(count)})
		}
	}
	return terms
}

// macs stores leading bits of MAC addresses in buckets and returns the first one's line and how many there are, less one.
func (e *extras) macs(leading []uint64, count int) (line, mask uint32) {
	for buckets := powerOfTwo((len(leading) + 3) / 4); ; buckets *= 2 {
		if lines, ok := macBuckets(leading, count, buckets); ok {
			line = uint32(len(e.lines))
			e.lines = append(e.lines, lines...)
			return line, uint32(buckets - 1)
		}
	}
}

// macBuckets fills buckets, unless one overflows further than lookups go.
func macBuckets(leading []uint64, count, buckets int) (lines array, ok bool) {
	lines = make(array, buckets)
	for _, value := range leading {
		at, done := int(mix(value, uint64(count)))&(buckets-1), false
		for hop := 0; hop < int(abi.BucketHops) && !done; hop++ {
			done = lines.put((at+hop)&(buckets-1), value|macsUsed)
		}
		if !done {
			return nil, false
		}
	}
	return lines, true
}

// macsUsed is MACS_USED of bpf/abi.h.
const macsUsed = 1 << 63

// put stores a word in a line if it has room or has the word.
func (a array) put(line int, word uint64) bool {
	for i := range a[line].W {
		if a[line].W[i] == 0 || a[line].W[i] == word {
			a[line].W[i] = word
			return true
		}
	}
	return false
}
