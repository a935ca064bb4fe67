package compile

import (
	"fmt"
	"math/bits"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// Entries counts what a set holds after it is merged: the fewest prefixes that hold the same addresses, or the ports, or the pairs.
// Duplicates, nested and adjacent entries make no difference.
func Entries(set *model.Set) int {
	if set.Kind == model.Ports {
		n := 0
		for _, r := range union(set.Ports) {
			n += int(r.Hi-r.Lo) + 1
		}
		return n
	}
	if set.Kind == model.Pairs {
		return len(uniquePairs(set))
	}
	v4, v6 := prefixes([]setUse{{prefixes: set.Prefixes}})
	radixSort(v4, func(p *prefix4) uint64 { return uint64(*p) })
	sort6(v6)
	n := 0
	var run runs4
	for _, p := range v4 {
		n += run.add(p.first(), p.last())
	}
	var merged merge6
	for i := range v6 {
		merged.add(&v6[i])
	}
	return n + run.end() + len(merged)
}

// runs4 counts the prefixes that ranges of addresses need, which come in order of their beginnings.
type runs4 struct {
	open        bool
	first, last uint32
}

// add returns how many prefixes the ranges before this one need, if it doesn't go on where they end.
func (r *runs4) add(first, last uint32) (before int) {
	if r.open && (first <= r.last || first == r.last+1) {
		r.last = max(r.last, last)
		return 0
	}
	before = r.end()
	*r = runs4{true, first, last}
	return before
}

func (r *runs4) end() (n int) {
	if !r.open {
		return 0
	}
	r.open = false
	for at, end := uint64(r.first), uint64(r.last)+1; at < end; n++ {
		size := uint64(1) << min(bits.TrailingZeros64(at|1<<32), bits.Len64(end-at)-1)
		at += size
	}
	return n
}

// merge6 merges prefixes that come in order.
type merge6 []prefix6

func (m *merge6) add(p *prefix6) {
	list := *m
	if n := len(list); n > 0 && list[n-1].holds(p) {
		return
	}
	list = append(list, *p)
	for n := len(list); n > 1 && siblings(&list[n-2], &list[n-1]); n-- {
		list[n-2].len--
		list = list[:n-1]
	}
	*m = list
}

// siblings tells that two prefixes are the halves of one, a the lower.
func siblings(a, b *prefix6) bool {
	if a.len != b.len || a.len == 0 {
		return false
	}
	hi, lo := a.hi, a.lo
	if a.len <= 64 {
		hi ^= 1 << (64 - a.len)
	} else {
		lo ^= 1 << (128 - a.len)
	}
	return hi == b.hi && lo == b.lo && (hi > a.hi || lo > a.lo)
}

// Held counts what a table of sets holds, by the bits of sets, in the way of Entries: from the lines alone, as the programs
// read them. It fails when the lines can't have come from here.
func Held(lines []abi.Line, sets []uint16) (map[uint16]int, error) {
	head := abi.FromLine[abi.SetsHead](lines[0])
	h := &holding{lines: lines, head: &head, sets: sets}
	held := make(map[uint16]int, len(sets))
	if head.Classes == 0 {
		return held, nil
	}
	if err := h.readClasses(); err != nil {
		return nil, err
	}
	if err := h.count4(); err != nil {
		return nil, err
	}
	if err := h.count6(); err != nil {
		return nil, err
	}
	for i, set := range sets {
		held[set] = h.found[i]
	}
	return held, nil
}

// holding is the state of Held.
type holding struct {
	lines []abi.Line
	head  *abi.SetsHead
	sets  []uint16

	members [][]int // indexes in sets, by class
	runs    []runs4 // by index in sets
	found   []int   // likewise
}

// section returns lines of the table, if it has them.
func (h *holding) section(what string, off uint32, n int) (array, error) {
	if end := uint64(off) + uint64(n); end > uint64(len(h.lines)) {
		return nil, fmt.Errorf("the table of sets is damaged: its %s end in line %d of %d", what, end, len(h.lines))
	}
	return array(h.lines[off:][:n]), nil
}

func (h *holding) readClasses() error {
	classes, err := h.section("classes", h.head.ClassOff, int(h.head.Classes))
	if err != nil {
		return err
	}
	h.runs, h.found = make([]runs4, len(h.sets)), make([]int, len(h.sets))
	h.members = make([][]int, len(classes))
	for class := range classes {
		line := classes[class : class+1]
		for i, set := range h.sets {
			if line.word(int(set/64))>>(set%64)&1 != 0 {
				h.members[class] = append(h.members[class], i)
			}
		}
	}
	return nil
}

func (h *holding) of(class uint16) ([]int, error) {
	if int(class) >= len(h.members) {
		return nil, fmt.Errorf("the table of sets is damaged: it names class %d of %d", class, len(h.members))
	}
	return h.members[class], nil
}

// count4 walks over all addresses, a /24 at a time.
func (h *holding) count4() error {
	walk := h.count4Codes
	if h.head.V4CodeOff == 0 {
		walk = h.count4Buckets
	}
	if err := walk(); err != nil {
		return err
	}
	for i := range h.runs {
		h.found[i] += h.runs[i].end()
	}
	return nil
}

// count4Codes follows the code table.
func (h *holding) count4Codes() error {
	codes, err := h.section("codes", h.head.V4CodeOff, len(newArray(1<<24, 2)))
	if err != nil {
		return err
	}
	l16, err := h.section("classes of /16s", h.head.V4L16Off, len(newArray(1<<16, 16)))
	if err != nil {
		return err
	}
	for key24 := uint32(0); key24 < 1<<24; key24++ {
		word := codes.word(int(key24 / 32))
		if key24%32 == 0 && word == 0 {
			key24 += 31
			continue
		}
		switch word >> (key24 % 32 * 2) & 3 {
		case 0:
		case codeUniform16:
			err = h.range4(key24<<8, key24<<8|0xff, l16.u16(int(key24>>8)))
		default:
			err = h.mixed4(key24)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// count4Buckets looks at the /24s that the buckets name: all there are, where there are no codes.
func (h *holding) count4Buckets() error {
	if h.head.V4BucketOff == 0 {
		return nil
	}
	buckets, err := h.section("IPv4 buckets", h.head.V4BucketOff, int(h.head.V4BucketMask)+1)
	if err != nil {
		return err
	}
	var keys []uint32
	for i := range buckets {
		for _, slot := range buckets[i].W {
			if abi.V4Slot(slot>>60) == abi.V4End {
				break
			}
			keys = append(keys, uint32(slot>>36&0xffffff))
		}
	}
	slices.Sort(keys)
	for _, key24 := range slices.Compact(keys) {
		if err := h.mixed4(key24); err != nil {
			return err
		}
	}
	return nil
}

// range4 notes that addresses are of a class.
func (h *holding) range4(first, last uint32, class uint16) error {
	members, err := h.of(class)
	for _, i := range members {
		h.found[i] += h.runs[i].add(first, last)
	}
	return err
}

// mixed4 notes the addresses of a /24 that is in the buckets.
func (h *holding) mixed4(key24 uint32) error {
	var list [256]uint16
	var hosts [256]bool
	bucket := uint32(mix2(uint64(key24), 4)) & h.head.V4BucketMask
	for more, hop := true, 0; more && hop < maxRun; hop++ {
		line, err := h.section("IPv4 buckets", h.head.V4BucketOff+bucket, 1)
		if err != nil {
			return err
		}
		for _, slot := range line[0].W {
			kind := abi.V4Slot(slot >> 60)
			if kind == abi.V4End {
				break
			}
			switch host := uint8(slot >> 16); {
			case uint32(slot>>36&0xffffff) != key24:
			case kind == abi.V4Host:
				list[host], hosts[host] = uint16(slot), true
			case kind == abi.V4Uniform:
				for i := range list {
					if !hosts[i] {
						list[i] = uint16(slot)
					}
				}
			default:
				dense, err := h.section("dense /24s", h.head.V4DenseOff+uint32(slot)*8, 8)
				if err != nil {
					return err
				}
				for i := range list {
					list[i] = dense.u16(i)
				}
			}
		}
		more = line[0].W[0]&v4SlotOverflow != 0
		bucket = (bucket + 1) & h.head.V4BucketMask
	}
	for i := 0; i < len(list); {
		first := i
		for i < len(list) && list[i] == list[first] {
			i++
		}
		if err := h.range4(key24<<8|uint32(first), key24<<8|uint32(i-1), list[first]); err != nil {
			return err
		}
	}
	return nil
}

// count6 sorts what is in the buckets.
func (h *holding) count6() error {
	if h.head.V6BucketOff == 0 {
		return nil
	}
	buckets, err := h.section("IPv6 buckets", h.head.V6BucketOff, int(h.head.V6BucketMask)+1)
	if err != nil {
		return err
	}
	var all []prefix6 // use is the class
	for i := range buckets {
		b := abi.FromLine[abi.SetsBucket6](buckets[i])
		for k := range slots6 {
			if b.Len[k] != 0 {
				all = append(all, prefix6{hi: b.Key[k].Hi, lo: b.Key[k].Lo, len: b.Len[k], use: b.Class[k]})
			}
		}
	}
	sort6(all)
	merged := make([]merge6, len(h.sets))
	for i := range all {
		members, err := h.of(all[i].use)
		if err != nil {
			return err
		}
		for _, set := range members {
			merged[set].add(&all[i])
		}
	}
	for i := range merged {
		h.found[i] += len(merged[i])
	}
	return nil
}

func (a array) u16(i int) uint16 { return uint16(a.word(i/4) >> (i % 4 * 16)) }
