package compile

import (
	"cmp"
	"slices"

	"gardu/ctl/abi"
)

// class6 is an IPv6 prefix and the class of its addresses that no longer prefix holds.
type class6 struct {
	prefix6
	class class
}

func (p *prefix6) compare(q *prefix6) int {
	return cmp.Or(cmp.Compare(p.hi, q.hi), cmp.Compare(p.lo, q.lo), cmp.Compare(p.len, q.len), cmp.Compare(p.use, q.use))
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
// the next shorter one. It sorts prefixes.
func sweep6(prefixes []prefix6, c *classes) []class6 {
	slices.SortFunc(prefixes, func(p, q prefix6) int { return p.compare(&q) })
	found := make([]class6, 0, len(prefixes))
	var holding []class6 // the prefixes that hold the present one, the longest on top
	for i := 0; i < len(prefixes); {
		p := prefixes[i]
		for len(holding) > 0 && !holding[len(holding)-1].holds(&p) {
			holding = holding[:len(holding)-1]
		}
		inside := class(0)
		if n := len(holding) - 1; n >= 0 {
			inside = holding[n].class
		}
		now := class6{prefix6: p, class: inside}
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
)

// addSets6 adds the IPv6 part. found is the result of sweep6.
func (t *table) addSets6(head *abi.SetsHead, found []class6) {
	if len(found) == 0 {
		return
	}
	var used [129]bool
	bloom := make(array, max(1, powerOfTwo((len(found)+prefixesPerBloomWord-1)/prefixesPerBloomWord)/lineWords))
	words := uint64(len(bloom) * lineWords)
	hashes := make([]uint64, len(found))
	for i := range found {
		p := &found[i]
		used[p.len] = true
		h := mix(p.hi, p.lo, 6|uint64(p.len)<<8)
		hashes[i] = h
		bloom.or(int(h>>40&(words-1)), 1<<(h&63)|1<<(h>>6&63)|1<<(h>>12&63))
	}
	lengths := make(array, 2)
	for length := 128; length > 0; length-- {
		if used[length] {
			lengths.setU8(int(head.V6Lens), uint8(length))
			head.V6Lens++
		}
	}
	var buckets []abi.Line
	for n := powerOfTwo((2*len(found) + prefixesPerTwoBuckets - 1) / prefixesPerTwoBuckets); buckets == nil; n *= 2 {
		buckets = fill6(found, hashes, n)
	}
	head.V6BloomOff, head.V6BloomMask = t.add(bloom), uint32(words-1)
	head.V6BucketOff, head.V6BucketMask = t.add(buckets), uint32(len(buckets)-1)
	head.V6LenOff = t.add(lengths)
}

// fill6 tries with n buckets; nil when some prefix would be too far from its own.
func fill6(found []class6, hashes []uint64, n int) []abi.Line {
	buckets := make([]abi.SetsBucket6, n)
	home := func(i int) uint64 { return hashes[i] >> 18 }
	over, ok := placeAll(len(found), n, slots6, home, func(i, bucket, slot int) {
		p, b := &found[i], &buckets[bucket]
		b.Key[slot].Hi, b.Key[slot].Lo = p.hi, p.lo
		b.Class[slot], b.Len[slot] = uint16(p.class), p.len
	})
	if !ok {
		return nil
	}
	lines := make([]abi.Line, n)
	for i := range buckets {
		if over[i] {
			buckets[i].Overflow = 1
		}
		lines[i] = abi.ToLine(buckets[i])
	}
	return lines
}
