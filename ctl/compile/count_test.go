package compile

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

func TestEntries(t *testing.T) {
	for name, tc := range map[string]struct {
		list []string
		want int
	}{
		"none":             {nil, 0},
		"one":              {[]string{"192.0.2.1/32"}, 1},
		"twice":            {[]string{"192.0.2.1/32", "192.0.2.1/32", "2001:db8::/32", "2001:db8::/32"}, 2},
		"nested":           {[]string{"192.0.2.1/32", "192.0.2.0/24", "2001:db8::1/128", "2001:db8::/32"}, 2},
		"adjacent":         {[]string{"192.0.2.0/25", "192.0.2.128/25", "2001:db8::/33", "2001:db8:8000::/33"}, 2},
		"no siblings":      {[]string{"192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128"}, 4},
		"three in a row":   {[]string{"192.0.2.0/32", "192.0.2.1/32", "192.0.2.2/32"}, 2},
		"siblings at last": {[]string{"192.0.2.0/32", "192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/30", "192.0.2.8/29"}, 1},
		"everything":       {[]string{"0.0.0.0/0", "::/0"}, 2},
		"halves":           {[]string{"0.0.0.0/1", "128.0.0.0/1", "8000::/1", "::/1"}, 2},
		"ends":             {[]string{"0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"}, 4},
		"around 64":        {[]string{"2001:db8::/65", "2001:db8:0:0:8000::/65", "2001:db8:0:1::/64"}, 1},
		"mapped":           {[]string{"::ffff:192.0.2.0/120", "192.0.2.0/24"}, 2},
	} {
		if got := Entries(&model.Set{Prefixes: parsePrefixes(tc.list...)}); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	ports := &model.Set{Kind: model.Ports, Ports: []model.Range{{Lo: 80, Hi: 90}, {Lo: 85, Hi: 95}, {Lo: 96, Hi: 96}, {Lo: 80, Hi: 80}}}
	if got := Entries(ports); got != 17 {
		t.Errorf("%d ports, want 17", got)
	}
}

// What is read back of a table are the entries that went in, set by set.
func TestHeldIsWanted(t *testing.T) {
	for seed := range uint64(16) {
		s := newSource(seed)
		var lists [][]netip.Prefix
		for range 1 + s.IntN(6) {
			lists = append(lists, s.prefixes(1<<s.IntN(11)))
		}
		if seed%2 == 0 { // few enough /24s to go without codes
			for i, list := range lists {
				lists[i] = slices.DeleteFunc(list, func(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() < 18 })
			}
		}
		uses := usesOf(lists...)
		uses[0].bits = append(uses[0].bits, 0)
		if len(uses) > 1 {
			uses = append(uses, setUse{bits: []uint16{511}, in: 1, out: 2})
		}
		lines, _, err := setsTable(uses)
		if err != nil {
			t.Fatal(err)
		}
		bits := []uint16{0}
		for i := range lists {
			bits = append(bits, uses[i].bits[0])
		}
		held, err := Held(lines, bits)
		if err != nil {
			t.Fatal(err)
		}
		for i, list := range lists {
			want := Entries(&model.Set{Prefixes: list})
			if got := held[uses[i].bits[0]]; got != want {
				t.Errorf("seed %d: set %d holds %d of %d entries", seed, i, got, want)
			}
			if i == 0 && held[0] != want {
				t.Errorf("seed %d: bit 0 holds %d of %d entries", seed, held[0], want)
			}
		}
	}
}

// A damaged table is told as one, or counts something else, but never crashes who reads it.
func TestHeldOfDamage(t *testing.T) {
	lists := [][]netip.Prefix{randomPrefixes(2_000, false), randomPrefixes(2_000, true)}
	good, _, err := setsTable(usesOf(lists...))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	told := 0
	for range 30 {
		lines := append([]abi.Line(nil), good...)
		if random.IntN(2) == 0 {
			lines[0].W[random.IntN(8)] ^= 1 << random.IntN(64)
		} else {
			lines = lines[:1+random.IntN(len(lines)-1)]
		}
		if _, err := Held(lines, []uint16{1, 2}); err != nil {
			told++
		}
	}
	if told < 15 {
		t.Errorf("%d of 30 damages were told", told)
	}
}

func TestRadixSortAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, mask := range []uint64{0, 1, 0xff, 0xffff0000, 1<<63 | 1, ^uint64(0)} {
		items := make([]uint64, 10_000)
		for i := range items {
			items[i] = random.Uint64() & mask
		}
		radixSort(items, func(n *uint64) uint64 { return *n })
		for i := range items[1:] {
			if items[i] > items[i+1] {
				t.Fatalf("mask %x: out of order at %d", mask, i)
			}
		}
	}
	radixSort([]uint64(nil), func(n *uint64) uint64 { return *n })
}

// A change of one rule takes the sets over as they are, and what comes out is the same as anew.
func TestCompileAfter(t *testing.T) {
	snapshot := setSnapshot(randomPrefixes(1_000, false))
	before, ids := compiled(t, snapshot)
	next := *snapshot
	next.Filter.Rules = append([]model.Rule{{Name: "more", Match: []model.Condition{{Field: "dst", Set: "big"}}, Action: model.Pass}}, next.Filter.Rules...)
	nextIDs, _, err := ids.Assign(&next)
	if err != nil {
		t.Fatal(err)
	}
	after, err := CompileAfter(before, &next, nextIDs)
	if err != nil {
		t.Fatal(err)
	}
	if &after.Sets[0] != &before.Sets[0] {
		t.Error("the sets were made anew")
	}
	without := *before
	without.Sets = nil
	if again, err := CompileAfter(&without, &next, nextIDs); err != nil || again.String() != after.String() {
		t.Errorf("after tables without lines of sets something else comes out, error %v", err)
	}
	next.Sets = []model.Set{{Name: "big", Prefixes: randomPrefixes(999, false)}}
	other, err := CompileAfter(before, &next, nextIDs)
	if err != nil {
		t.Fatal(err)
	}
	anew, err := Compile(&next, nextIDs)
	if err != nil {
		t.Fatal(err)
	}
	if len(other.Sets) != len(anew.Sets) || other.String() != anew.String() {
		t.Error("tables depend on those before")
	}
}
