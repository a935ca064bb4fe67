package compile

import (
	"slices"

	"gardu/ctl/abi"
)

// span is a range of IPv4 addresses of one class.
type span struct {
	first, last uint32
	class       class
}

// sweep4 turns prefixes into spans, ascending and apart from each other, that leave out class 0. It sorts prefixes.
func sweep4(prefixes []prefix4, c *classes) []span {
	radixSort(prefixes, func(p *prefix4) uint64 { return uint64(*p) })
	spans := make([]span, 0, len(prefixes))
	var at uint64 // what is before is done
	emit := func(end uint64, class class) {
		if at >= end {
			return
		}
		if n := len(spans) - 1; n >= 0 && spans[n].class == class && uint64(spans[n].last)+1 == at {
			spans[n].last = uint32(end - 1)
		} else {
			spans = append(spans, span{uint32(at), uint32(end - 1), class})
		}
	}
	type open struct {
		end   uint64
		class class
	}
	var holding []open // the prefixes that hold the present address, the longest on top
	closeUntil := func(addr uint64) {
		for n := len(holding) - 1; n >= 0 && holding[n].end <= addr; n-- {
			emit(holding[n].end, holding[n].class)
			at = max(at, holding[n].end)
			holding = holding[:n]
		}
	}
	for _, p := range prefixes {
		first := uint64(p.first())
		closeUntil(first)
		inside := class(0)
		if n := len(holding) - 1; n >= 0 {
			inside = holding[n].class
			emit(first, inside)
		}
		at = first
		holding = append(holding, open{uint64(p.last()) + 1, c.with(inside, p.use())})
	}
	closeUntil(1 << 32)
	return spans
}

const (
	codeUniform16 = 1 // the class is that of the /16
	codeBuckets   = 2

	// maxHosts is how many slots a /24 may take before it becomes dense: all of them in one bucket.
	maxHosts = int(abi.BucketSlots) - 1
	// slotsPerBucket is how many slots a bucket has in use at most, on average.
	slotsPerBucket = 4

	// directBlocks is up to how many /24s go without the bits that tell whether anything touches one: as many buckets stay in a CPU's nearer
	// caches.
	directBlocks = 1 << 14
	// uncodedBlocks is up to how many /24s of one class go without the code table, of 4 MB, which says that without a bucket. Lists of
	// addresses have none: a packet that is on one then looks at one line less. As many slots take up to 4 MB of buckets.
	uncodedBlocks = 1 << 17
)

// uniform16 is the code line of a /16 of one class: codeUniform16 for each of its /24s.
func uniform16() (line abi.Line) {
	for i := range line.W {
		line.W[i] = 0x5555555555555555
	}
	return line
}

// sets4 is the IPv4 part of the table under construction.
type sets4 struct {
	codes, l16 array    // nil: none, every /24 is in the buckets
	slots      []uint64 // those of a /24 next to each other
	dense      []abi.Line
	denseIndex map[[256]class]int // equal ones are stored once: most come from a prefix at some place in its /24

	block  uint32     // the /16 being built
	full   [256]class // of its /24s with one class; 0: none or mixed; the /16 as a whole goes without
	mixed  uint32     // the /24 being collected
	pieces []span     // of it
}

// addSets4 adds the IPv4 part. Spans are those of sweep4.
func (t *flat) addSets4(head *abi.SetsHead, spans []span) {
	if len(spans) == 0 {
		return
	}
	s := &sets4{slots: make([]uint64, 0, len(spans)), denseIndex: map[[256]class]int{}}
	blocks, uniform := count24(spans)
	if blocks > directBlocks {
		touched := len(newArray(1<<23, 1))
		head.V4TouchedOff = t.reserve(touched)
		touch23(t.array(head.V4TouchedOff, touched), spans)
	}
	if uniform > uncodedBlocks {
		codes, l16 := len(newArray(1<<24, 2)), len(newArray(1<<16, 16))
		head.V4CodeOff = t.reserve(codes + l16)
		head.V4L16Off = head.V4CodeOff + uint32(codes)
		s.codes, s.l16 = t.array(head.V4CodeOff, codes), t.array(head.V4L16Off, l16)
	}
	s.block = spans[0].first >> 16
	for _, sp := range spans {
		s.add(sp)
	}
	s.endBlock()
	head.V4BucketOff, head.V4BucketMask = s.buckets(t)
	head.V4DenseOff = t.reserve(len(s.dense))
	copy(t.lines[head.V4DenseOff:], s.dense)
}

// count24 counts the /24s that spans touch, and those of one class.
func count24(spans []span) (touched, uniform int64) {
	for _, sp := range spans {
		touched += int64(sp.last>>8) - int64(sp.first>>8) + 1
		uniform += max(0, (int64(sp.last)+1)>>8-(int64(sp.first)+255)>>8)
	}
	return touched, uniform
}

// touch23 sets the bit of each /23 that spans touch.
func touch23(bits array, spans []span) {
	for _, sp := range spans {
		first, last := sp.first>>9, sp.last>>9
		for ; first <= last && first%64 != 0; first++ {
			bits.or(int(first/64), 1<<(first%64))
		}
		for ; first+63 <= last; first += 64 {
			bits.setWord(int(first/64), ^uint64(0))
		}
		for ; first <= last; first++ {
			bits.or(int(first/64), 1<<(first%64))
		}
	}
}

// add splits a span at the borders of /16s and /24s.
func (s *sets4) add(sp span) {
	for first := uint64(sp.first); first <= uint64(sp.last); {
		at := uint32(first)
		if at>>16 != s.block {
			s.endBlock()
			s.block = at >> 16
		}
		switch {
		case s.codes != nil && at&0xffff == 0 && sp.last-at >= 0xffff:
			s.codes[s.block] = uniform16()
			s.l16.setU16(int(s.block), uint16(sp.class))
			first += 1 << 16
		case at&0xff == 0 && sp.last-at >= 0xff:
			s.full[at>>8&0xff] = sp.class
			first += 1 << 8
		default:
			last := min(sp.last, at|0xff)
			if at>>8 != s.mixed {
				s.endMixed()
				s.mixed = at >> 8
			}
			s.pieces = append(s.pieces, span{at, last, sp.class})
			first = uint64(last) + 1
		}
	}
}

// endBlock writes the codes of the /16: its most frequent class is that of the l16 word.
func (s *sets4) endBlock() {
	s.endMixed()
	some := mostFrequent(s.full[:])
	if some == 0 {
		return
	}
	common := class(0) // none
	if s.codes != nil {
		common = some
		s.l16.setU16(int(s.block), uint16(common))
	}
	for i, class := range s.full {
		key24 := s.block<<8 | uint32(i)
		switch class {
		case 0:
		case common:
			s.setCode(key24, codeUniform16)
		default:
			s.setCode(key24, codeBuckets)
			s.slots = append(s.slots, slot4(abi.V4Uniform, key24, uint64(class)))
		}
	}
	s.full = [256]class{}
}

func (s *sets4) setCode(key24 uint32, code uint64) {
	if s.codes == nil {
		return
	}
	s.codes.or(int(key24/32), code<<(key24%32*2))
}

// mostFrequent returns the class that most have, of those that are not 0. Mostly there is but one.
func mostFrequent(list []class) class {
	var some class
	alike := true
	for _, class := range list {
		if some == 0 {
			some = class
		}
		alike = alike && (class == 0 || class == some)
	}
	if alike {
		return some
	}
	sorted := slices.Sorted(slices.Values(list))
	var best class
	bestRun, run := 0, 0
	for i, class := range sorted {
		if i > 0 && class != sorted[i-1] {
			run = 0
		}
		if run++; class != 0 && run > bestRun {
			best, bestRun = class, run
		}
	}
	return best
}

func slot4(kind abi.V4Slot, key24 uint32, payload uint64) uint64 {
	return uint64(kind)<<60 | uint64(key24)<<36 | payload
}

// endMixed writes the slots of the /24 that has been collected.
func (s *sets4) endMixed() {
	if len(s.pieces) == 0 {
		return
	}
	s.setCode(s.mixed, codeBuckets)
	if !s.hosts() {
		s.otherwise()
	}
	s.pieces = s.pieces[:0]
}

// hosts writes a /24 of few addresses: the frequent case, made short.
func (s *sets4) hosts() bool {
	addresses := 0
	for _, p := range s.pieces {
		addresses += int(p.last-p.first) + 1
	}
	if addresses > maxHosts {
		return false
	}
	for _, p := range s.pieces {
		for addr := p.first; ; addr++ {
			s.host(addr, p.class)
			if addr == p.last {
				break
			}
		}
	}
	return true
}

func (s *sets4) host(addr uint32, class class) {
	s.slots = append(s.slots, slot4(abi.V4Host, addr>>8, uint64(addr&0xff)<<16|uint64(class)))
}

// otherwise writes a /24 as its most frequent class and exceptions from it, or as a class for each address.
func (s *sets4) otherwise() {
	var list [256]class
	for _, p := range s.pieces {
		for i := p.first & 0xff; i <= p.last&0xff; i++ {
			list[i] = p.class
		}
	}
	uniform := mostFrequent(list[:])
	exceptions := 0
	for _, class := range list {
		if class != uniform {
			exceptions++
		}
	}
	if exceptions < maxHosts {
		s.slots = append(s.slots, slot4(abi.V4Uniform, s.mixed, uint64(uniform)))
		for i, class := range list {
			if class != uniform {
				s.host(s.mixed<<8|uint32(i), class)
			}
		}
		return
	}
	index, ok := s.denseIndex[list]
	if !ok {
		index = len(s.denseIndex)
		s.denseIndex[list] = index
		words := newArray(len(list), 16)
		for i, class := range list {
			words.setU16(i, uint16(class))
		}
		s.dense = append(s.dense, words...)
	}
	s.slots = append(s.slots, slot4(abi.V4Dense, s.mixed, uint64(index)))
}

// buckets places the slots into buckets of the table.
func (s *sets4) buckets(t *flat) (off, mask uint32) {
	if len(s.slots) == 0 {
		return 0, 0
	}
	hashes := make([]uint64, len(s.slots))
	for i, slot := range s.slots {
		hashes[i] = mix2(slot>>36&0xffffff, 4)
	}
	for n := powerOfTwo((len(s.slots) + slotsPerBucket - 1) / slotsPerBucket); ; n *= 2 {
		off = t.reserve(n)
		if s.fill(t.array(off, n), hashes) {
			return off, uint32(n - 1)
		}
		t.release(off)
	}
}

func (s *sets4) fill(lines array, hashes []uint64) bool {
	over, ok := placeAll(hashes, len(lines), int(abi.BucketSlots), func(i, bucket, slot int) {
		lines[bucket].W[slot] = s.slots[i]
	})
	for i, over := range over {
		if over {
			lines.or(i*lineWords, v4SlotOverflow)
		}
	}
	return ok
}

const v4SlotOverflow = 1 << 35 // V4_SLOT_OVERFLOW of bpf/abi.h
