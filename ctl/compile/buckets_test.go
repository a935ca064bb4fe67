package compile

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// found returns what a lookup of hash in the table gives.
func found(b *bucketTable, hash uint64) []uint32 {
	var refs []uint32
	m := &mirror{}
	lines := slices.Concat(b.buckets, b.chainLines())
	m.bucket(lines, 0, b.mask(), uint32(len(b.buckets)), hash, func(ref uint32) { refs = append(refs, ref) })
	return refs
}

func checkBuckets(t *testing.T, entries []entry) *bucketTable {
	t.Helper()
	want := map[uint64][]uint32{}
	for _, e := range entries {
		want[e.hash] = append(want[e.hash], e.ref)
	}
	b, err := newBucketTable(entries)
	if err != nil {
		t.Fatal(err)
	}
	for hash, refs := range want {
		got := found(b, hash)
		for _, ref := range refs {
			if !slices.Contains(got, ref) {
				t.Fatalf("hash %#x: found %v, want %v", hash, got, refs)
			}
		}
		if !slices.IsSorted(got) {
			t.Fatalf("hash %#x: %v isn't ascending", hash, got)
		}
	}
	return b
}

func TestBuckets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 2, 9, 100, 2000} {
		var entries []entry
		for i := range n {
			entries = append(entries, entry{hash: random.Uint64(), ref: uint32(i)})
			if i%3 == 0 { // a chain, and the same record twice
				entries = append(entries, entry{hash: entries[0].hash, ref: uint32(i)}, entry{hash: entries[0].hash, ref: uint32(i)})
			}
		}
		b := checkBuckets(t, entries)
		if n > 0 && len(b.buckets) > powerOfTwo(n) {
			t.Errorf("%d entries take %d buckets", n, len(b.buckets))
		}
	}
}

// Keys that differ in bits which neither bucket nor tag shows share a chain.
func TestBucketsOfOneTag(t *testing.T) {
	b := checkBuckets(t, []entry{{hash: 1<<63 | 5<<32, ref: 3}, {hash: 5 << 32, ref: 1}, {hash: 4 << 32, ref: 2}})
	if got := found(b, 5<<32); !slices.Equal(got, []uint32{1, 2, 3}) || b.longest != 3 {
		t.Errorf("found %v, longest %d", got, b.longest)
	}
}

// A key that moves on to the next bucket and meets its own tag there makes the table grow.
func TestBucketsOfOneTagSideBySide(t *testing.T) {
	var entries []entry
	for i := range uint64(8) { // bucket 0 is full of these
		entries = append(entries, entry{hash: (2*i + 1) << 32, ref: uint32(i)})
	}
	const tag = 99 << 32
	entries = append(entries, entry{hash: tag | 8, ref: 8}) // of bucket 0 while there are 8
	entries = append(entries, entry{hash: tag | 1, ref: 9})
	for i := range uint64(6) {
		entries = append(entries, entry{hash: (2*i+41)<<32 | 2, ref: 10 + uint32(i)})
	}
	b := checkBuckets(t, entries)
	if got := found(b, tag|8); len(b.buckets) != 16 || !slices.Equal(got, []uint32{8}) {
		t.Errorf("%d buckets, found %v", len(b.buckets), got)
	}
}

// Too many keys for the buckets that one lookup may read, however large the table.
func TestBucketsTooFar(t *testing.T) {
	var entries []entry
	for i := range uint64(33) {
		entries = append(entries, entry{hash: (2*i + 1) << 32, ref: uint32(i)})
	}
	if _, err := newBucketTable(entries); err == nil {
		t.Error("33 keys fit into 4 buckets of 8")
	}
}

func TestPowerOfTwo(t *testing.T) {
	for n, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 1025: 2048} {
		if got := powerOfTwo(n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}
