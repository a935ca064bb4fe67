package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// backends returns n members of weight 100 with names and ids from 1.
func backends(n int) []Member {
	members := make([]Member, n)
	for i := range members {
		members[i] = Member{Name: fmt.Sprintf("b%d", i+1), ID: uint16(i + 1), Weight: 100}
	}
	return members
}

func shares(ring []uint16) map[uint16]int {
	count := map[uint16]int{}
	for _, id := range ring {
		count[id]++
	}
	return count
}

// moved is the share of slots that differ, in percent.
func moved(a, b []uint16) float64 {
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return 100 * float64(n) / float64(len(a))
}

func TestRingEmpty(t *testing.T) {
	for name, members := range map[string][]Member{
		"no members": nil,
		"no weight":  {{Name: "a", ID: 1}, {Name: "b", ID: 2, Weight: -1}},
	} {
		ring := Ring(members, RingSize)
		if len(ring) != RingSize || slices.Max(ring) != 0 {
			t.Errorf("%s: the ring isn't %d zeros", name, RingSize)
		}
	}
}

func TestRingOne(t *testing.T) {
	ring := Ring([]Member{{Name: "a", ID: 7, Weight: 1}, {Name: "b", ID: 8}}, RingSize)
	if slices.Min(ring) != 7 || slices.Max(ring) != 7 {
		t.Error("the only member of weight doesn't have every slot")
	}
}

func TestRingIgnoresOrderAndIDs(t *testing.T) {
	members := backends(50)
	for i := range members {
		members[i].Weight = 1 + i*i
	}
	want := Ring(members, RingSize)
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	if !slices.Equal(want, Ring(members, RingSize)) {
		t.Error("another order of members gives another ring")
	}
	for i := range members {
		members[i].ID += 1000
	}
	for i, id := range Ring(members, RingSize) {
		if id != want[i]+1000 {
			t.Fatalf("slot %d: another id of a member moves it", i)
		}
	}
}

func TestRingWeights(t *testing.T) {
	members := backends(100)
	total := 0
	for i := range members {
		members[i].Weight = 100 + 10*i // 100 to 1090
		total += members[i].Weight
	}
	count := shares(Ring(members, RingSize))
	worst := 0.0
	for _, m := range members {
		want := float64(RingSize) * float64(m.Weight) / float64(total)
		worst = max(worst, math.Abs(float64(count[m.ID])-want)/want)
	}
	t.Logf("100 backends, weights 100 to 1090: worst deviation from the weight %.2f %%", 100*worst)
	if worst > 0.01 {
		t.Errorf("deviation %.2f %%, want at most 1 %%", 100*worst)
	}
}

func TestRingExtremeWeights(t *testing.T) {
	members := backends(1000)
	members[0].Weight = 65535
	for i := range members[1:] {
		members[i+1].Weight = 1
	}
	count := shares(Ring(members, RingSize))
	for _, m := range members[1:] {
		if n := count[m.ID]; n > 2 {
			t.Fatalf("%s of weight 1 in 66,534 has %d of %d slots", m.Name, n, RingSize)
		}
	}
}

// The bounds are a little above what was measured; `least` is what any method must move.
func TestRingDisruption(t *testing.T) {
	change := func(n int, f func([]Member) []Member) float64 {
		return moved(Ring(backends(n), RingSize), Ring(f(backends(n)), RingSize))
	}
	weigh := func(weight int) func([]Member) []Member {
		return func(m []Member) []Member {
			m[len(m)/2].Weight = weight
			return m
		}
	}
	remove := func(m []Member) []Member { return slices.Delete(m, len(m)/2, len(m)/2+1) }
	for _, test := range []struct {
		name         string
		got          float64
		least, bound float64 // percent
	}{
		{"remove 1 of 10", change(10, remove), 10, 11.5},
		{"remove 1 of 100", change(100, remove), 1, 1.8},
		{"remove 1 of 1000", change(1000, remove), 0.1, 0.8},
		{"drain 1 of 100", change(100, weigh(0)), 1, 1.8},
		{"double 1 of 10", change(10, weigh(200)), 100.0/11 - 100.0/110, 12},
		{"double 1 of 100", change(100, weigh(200)), 0.98, 2.5},
		{"halve 1 of 10", change(10, weigh(50)), 5.26 - 0.53, 8},
	} {
		t.Logf("%-17s moves %5.2f %% of the slots, the least possible is %.2f %%", test.name, test.got, test.least)
		if test.got > test.bound {
			t.Errorf("%s moves %.2f %%, want at most %.2f %%", test.name, test.got, test.bound)
		}
	}
}

func TestRingKeepsPlacesOfOthers(t *testing.T) {
	before := Ring(backends(10), RingSize)
	after := Ring(backends(9), RingSize) // without b10
	stay := 0
	for i, id := range before {
		if id != 10 && after[i] == id {
			stay++
		}
	}
	if share := float64(stay) / float64(RingSize-shares(before)[10]); share < 0.985 {
		t.Errorf("%.1f %% of the slots of the others stayed, want 98.5 %%", 100*share)
	}
}

func BenchmarkRing(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			members := backends(n)
			for b.Loop() {
				Ring(members, RingSize)
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(time.Millisecond), "ms/ring")
		})
	}
}
