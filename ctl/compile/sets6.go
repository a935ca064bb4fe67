package compile

import (
	"cmp"
	"math/bits"
	"slices"

	"gardu/ctl/abi"
)

func (p *prefix6) compare(q *prefix6) int {
	return cmp.Or(cmp.Compare(p.hi, q.hi), cmp.Compare(p.lo, q.lo), cmp.Compare(p.len, q.len), cmp.Compare(p.use, q.use))
}

// sort6 sorts by the upper half, and the few that share it as a whole.
func sort6(prefixes []prefix6) {
	radixSort(prefixes, func(p *prefix6) uint64 { return p.hi })
	for first := 0; first < len(prefixes); {
		end := first + 1
		for end < len(prefixes) && prefixes[end].hi == prefixes[first].hi {
			end++
		}
		if end-first > 1 {
			slices.SortFunc(prefixes[first:end], func(p, q prefix6) int { return p.compare(&q) })
		}
		first = end
	}
}

func (p *prefix6) holds(q *prefix6) bool {
	hi, lo := mask6(q.hi, q.lo, p.len)
	return p.hi == hi && p.lo == lo && p.len <= q.len
}

// mask6 returns the first n bits of an address, n from 1 to 128.
func mask6(hi, lo uint64, n uint8) (uint64, uint64) {
	if n <= 64 {
		return hi &^ (1<<(64-n) - 1), 0
	}
	return hi, lo &^ (1<<(128-n) - 1)
}

// sweep6 returns each prefix once, with the class of everything that holds it, but for prefixes that add nothing to
// the next shorter one. It sorts prefixes and writes what it returns over them.
func sweep6(prefixes []prefix6, c *classes) []prefix6 {
	sort6(prefixes)
	found := prefixes[:0] // never ahead of what is read
	var holding []prefix6 // the prefixes that hold the present one, the longest on top
	for i := 0; i < len(prefixes); {
		p := prefixes[i]
		for len(holding) > 0 && !holding[len(holding)-1].holds(&p) {
			holding = holding[:len(holding)-1]
		}
		inside := class(0)
		if n := len(holding) - 1; n >= 0 {
			inside = holding[n].class
		}
		now := p
		now.class = inside
		for ; i < len(prefixes) && prefixes[i].hi == p.hi && prefixes[i].lo == p.lo && prefixes[i].len == p.len; i++ {
			now.class = c.with(now.class, prefixes[i].use)
		}
		if now.class != inside {
			found = append(found, now)
			holding = append(holding, now)
		}
	}
	return found
}

const (
	slots6 = 3 // of a bucket
	// prefixesPerTwoBuckets is how many slots of two buckets are in use at most, on average.
	prefixesPerTwoBuckets = 3
	// prefixesPerBloomWord leaves about one false hit in a hundred.
	prefixesPerBloomWord = 4
	// networksPerWord leaves one false hit in twenty.
	networksPerWord = 8
)

// addSets6 adds the IPv6 part. found is the result of sweep6.
func (t *flat) addSets6(head *abi.SetsHead, found []prefix6) {
	if len(found) == 0 {
		return
	}
	var used [129]bool
	lines := max(1, powerOfTwo((len(found)+prefixesPerBloomWord-1)/prefixesPerBloomWord)/lineWords)
	words := uint64(lines * lineWords)
	head.V6BloomOff, head.V6BloomMask = t.reserve(lines), uint32(words-1)
	bloom := t.array(head.V6BloomOff, lines)
	hashes := make([]uint64, len(found))
	for i := range found {
		p := &found[i]
		used[p.len] = true
		h := mix3(p.hi, p.lo, 6|uint64(p.len)<<8)
		hashes[i] = h >> 18
		bloom.or(int(h>>40&(words-1)), 1<<(h&63)|1<<(h>>6&63)|1<<(h>>12&63))
	}
	head.V6LenOff = t.reserve(2)
	lengths := t.array(head.V6LenOff, 2)
	for length := 128; length > 0; length-- {
		if used[length] {
			lengths.setU8(int(head.V6Lens), uint8(length))
			head.V6Lens++
		}
	}
	if head.V6Lens > 1 {
		t.touch6(head, found)
	}
	for n := powerOfTwo((2*len(found) + prefixesPerTwoBuckets - 1) / prefixesPerTwoBuckets); ; n *= 2 {
		off := t.reserve(n)
		if fill6(t.array(off, n), found, hashes) {
			head.V6BucketOff, head.V6BucketMask = off, uint32(n-1)
			return
		}
		t.release(off)
	}
}

// networks6 returns the longest length, of at most 64 bits, at which the networks that prefixes are in or hold are no more than the
// prefixes, or than fill a line; and about how many they are. 0: at none, or they are so large a part of all networks that an address
// outside of them is seldom met.
func networks6(found []prefix6) (length, n int) {
	var first [66]int // sums up to a length: prefixes of at least that length that are the first in their network of it
	var own [65]int   // prefixes of a length; longer ones count as 64
	for i := range found {
		from, to := 1, min(int(found[i].len), 64)
		if i > 0 {
			from = bits.LeadingZeros64(found[i].hi^found[i-1].hi) + 1
		}
		if from <= to {
			first[from]++
			first[to+1]--
		}
		own[to]++
	}
	room, inside, whole := max(len(found), lineWords*networksPerWord), 0, 0
	for l := 1; l <= 64; l++ {
		inside += first[l]
		whole = 2 * (whole + own[l-1])
		if inside+whole > room {
			break
		}
		length, n = l, inside+whole
	}
	if uint64(n)<<4>>length != 0 { // of all networks, an eighth is given out (2000::/3)
		return 0, 0
	}
	return length, n
}

// touch6 adds the bits of the networks that prefixes touch.
func (t *flat) touch6(head *abi.SetsHead, found []prefix6) {
	length, n := networks6(found)
	if length == 0 {
		return
	}
	lines := max(1, powerOfTwo((n+networksPerWord-1)/networksPerWord)/lineWords)
	words := uint64(lines * lineWords)
	head.V6TouchedOff, head.V6TouchedMask, head.V6TouchedShift = t.reserve(lines), uint32(words-1), uint16(64-length)
	touched := t.array(head.V6TouchedOff, lines)
	for i := range found {
		p := &found[i]
		first := p.hi >> head.V6TouchedShift
		for network := range uint64(1) << max(0, length-int(p.len)) {
			h := mixOne(mixSeed, first+network)
			touched.or(int(h>>40&(words-1)), 1<<(h&63)|1<<(h>>6&63))
		}
	}
}

// fill6 puts the prefixes into buckets, struct sets_bucket6 of bpf/abi.h; false when some would be too far from its own.
func fill6(lines array, found []prefix6, hashes []uint64) bool {
	over, ok := placeAll(hashes, len(lines), slots6, func(i, bucket, slot int) {
		p, line := &found[i], &lines[bucket]
		line.W[2*slot], line.W[2*slot+1] = p.hi, p.lo
		line.W[6] |= uint64(p.class) << (16 * slot)
		if slot < 2 {
			line.W[6] |= uint64(p.len) << (48 + 8*slot)
		} else {
			line.W[7] |= uint64(p.len)
		}
	})
	for i, over := range over {
		if over {
			lines[i].W[7] |= 1 << 8
		}
	}
	return ok
}
