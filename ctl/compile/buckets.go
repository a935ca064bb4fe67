package compile

import (
	"cmp"
	"fmt"
	"slices"

	"gardu/ctl/abi"
)

const (
	// maxRun is how many buckets one lookup can have to read: a table that would need more is made larger.
	maxRun = int(abi.BucketHops)
	// maxGrow is how often a table is made larger before giving up. With a hash that spreads, once is rare.
	maxGrow = 4
)

// entry says that a lookup of hash must find ref, a record.
type entry struct {
	hash uint64
	ref  uint32
}

// occupancy places items into buckets: an item goes into its own bucket, or the next one with room.
type occupancy struct {
	used  []uint8 // slots filled, a bucket
	over  []bool  // items that belong here went on
	slots uint8   // a bucket
}

// newOccupancy has at least so many buckets, rounded up to a power of two.
func newOccupancy(buckets, slots int) *occupancy {
	n := powerOfTwo(buckets)
	return &occupancy{used: make([]uint8, n), over: make([]bool, n), slots: uint8(slots)}
}

func (o *occupancy) mask() uint64 { return uint64(len(o.used) - 1) }

// place takes a slot for an item that belongs into bucket home. It fails when the item would be too far away.
func (o *occupancy) place(home uint64) (bucket, slot int, ok bool) {
	at := home & o.mask()
	for range min(maxRun, len(o.used)) {
		if o.used[at] < o.slots {
			o.used[at]++
			return int(at), int(o.used[at] - 1), true
		}
		o.over[at] = true
		at = (at + 1) & o.mask()
	}
	return 0, 0, false
}

// placeAll places items, each of which belongs into the bucket of its hash, in the order of their buckets, which keeps them
// nearest to these. It returns which buckets had no room for all of theirs, and fails when an item would be too far away.
func placeAll(hashes []uint64, buckets, slots int, put func(item, bucket, slot int)) (over []bool, ok bool) {
	room := newOccupancy(buckets, slots)
	next := make([]uint32, len(room.used)+1) // where the items of a bucket begin in order, later where they end
	for _, h := range hashes {
		next[h&room.mask()+1]++
	}
	for b := range room.used {
		next[b+1] += next[b]
	}
	order := make([]uint32, len(hashes))
	for i, h := range hashes {
		b := h & room.mask()
		order[next[b]] = uint32(i)
		next[b]++
	}
	item := 0
	for home := range room.used {
		for ; item < int(next[home]); item++ {
			bucket, slot, ok := room.place(uint64(home))
			if !ok {
				return nil, false
			}
			put(int(order[item]), bucket, slot)
		}
	}
	return room.over, true
}

// bucketTable is a section of abi.Bucket and the chains behind it.
type bucketTable struct {
	buckets []abi.Line
	chain   []uint32
	longest int // most records behind one slot
}

func (b *bucketTable) mask() uint32 { return uint32(max(len(b.buckets), 1) - 1) }

// chainLines returns the chain area.
func (b *bucketTable) chainLines() []abi.Line {
	words := newArray(len(b.chain), 32)
	for i, v := range b.chain {
		words.setU32(i, v)
	}
	return words
}

// newBucketTable builds the hash table of entries, which it sorts. A slot is found by its tag alone, so keys that
// share bucket and tag share a chain: records are verified anyway.
func newBucketTable(entries []entry) (*bucketTable, error) {
	if len(entries) == 0 {
		return &bucketTable{}, nil
	}
	hashes := sortedHashes(entries)
	keys := 1
	for i := range hashes[1:] {
		if hashes[i] != hashes[i+1] {
			keys++
		}
	}
	// Three of eight slots at most are in use on average.
	buckets := powerOfTwo((keys + 2) / 3)
	for range maxGrow {
		if table, ok := fill(entries, buckets); ok {
			return table, nil
		}
		buckets *= 2
	}
	return nil, fmt.Errorf("cannot happen: %d hash keys don't fit into %d buckets", keys, buckets)
}

// fill tries with that many buckets; it sorts the entries.
func fill(entries []entry, buckets int) (*bucketTable, bool) {
	mask := uint64(buckets - 1)
	slotOf := func(e entry) uint64 { return (e.hash&mask)<<32 | uint64(tagOf(e.hash)) }
	slices.SortFunc(entries, func(a, b entry) int {
		if a, b := slotOf(a), slotOf(b); a != b {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(a.ref, b.ref)
	})
	t := &bucketTable{longest: 1}
	table := make([]abi.Bucket, buckets)
	room := newOccupancy(buckets, int(abi.BucketSlots))
	for len(entries) > 0 {
		first := entries[0]
		same := 1
		for same < len(entries) && slotOf(entries[same]) == slotOf(first) {
			same++
		}
		refs := uniqueRefs(entries[:same])
		entries = entries[same:]

		bucket, slot, ok := room.place(first.hash)
		if !ok || tagOnWay(table, first.hash&mask, bucket, tagOf(first.hash)) {
			return nil, false
		}
		table[bucket].Slot[slot].Tag = tagOf(first.hash)
		table[bucket].Slot[slot].Ref = t.ref(refs)
		t.longest = max(t.longest, len(refs))
	}
	t.buckets = make([]abi.Line, buckets)
	for i := range table {
		if room.over[i] {
			table[i].Slot[0].Tag |= bucketOverflow
		}
		t.buckets[i] = abi.ToLine(table[i])
	}
	return t, true
}

// uniqueRefs returns the records of entries that are sorted by record.
func uniqueRefs(entries []entry) []uint32 {
	refs := make([]uint32, 0, len(entries))
	for _, e := range entries {
		if len(refs) == 0 || refs[len(refs)-1] != e.ref {
			refs = append(refs, e.ref)
		}
	}
	return refs
}

// ref stores a list of records if it has more than one and returns the slot's ref.
func (t *bucketTable) ref(records []uint32) uint32 {
	if len(records) == 1 {
		return refSingle | records[0]
	}
	at := uint32(len(t.chain))
	t.chain = append(t.chain, uint32(len(records)))
	t.chain = append(t.chain, records...)
	return at
}

// tagOnWay tells whether a lookup that starts in bucket home meets the tag before or in bucket.
func tagOnWay(table []abi.Bucket, home uint64, bucket int, tag uint32) bool {
	for at := int(home); ; at = (at + 1) % len(table) {
		for _, slot := range table[at].Slot {
			if slot.Tag == tag {
				return true
			}
		}
		if at == bucket {
			return false
		}
	}
}

// BUCKET_TAG, BUCKET_OVERFLOW and REF_SINGLE of bpf/abi.h.
const (
	bucketOverflow = 0x80000000
	refSingle      = 0x80000000
)

func tagOf(hash uint64) uint32 { return (uint32(hash>>32) | 1) & 0x7fffffff }
