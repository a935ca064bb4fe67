package api

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gardu/ctl/expr"
)

// amount is what a line counts.
type amount struct{ flows, packets, bytes, packetsReply, bytesReply uint64 }

func (a *amount) add(line *FlowGroup) {
	a.flows += line.Flows
	a.packets += line.Packets
	a.bytes += line.Bytes
	a.packetsReply += line.PacketsReply
	a.bytesReply += line.BytesReply
}

func parseGroup(t *testing.T, text string) expr.GroupKeys {
	t.Helper()
	keys, err := expr.ParseGroup(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

var groupStart = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func randomFlow(r *rand.Rand) Flow {
	n := r.IntN(1 + r.IntN(300)) // some sources come often
	return Flow{Src: netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), Service: fmt.Sprint("s", r.IntN(2)),
		Packets: r.Uint64N(10), Bytes: r.Uint64N(10_000), PacketsReply: r.Uint64N(10), BytesReply: r.Uint64N(1 << r.IntN(20)),
		First: groupStart.Add(-time.Duration(r.IntN(1e6)) * time.Millisecond), Last: groupStart.Add(time.Duration(r.IntN(1e6)) * time.Millisecond)}
}

// However many groups there are and however few find room or are asked for, all lines together are all flows; and a line is short of
// what its group has by no more than it says.
func TestGroupsAreExact(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		sorts := GroupSorts()
		keys := parseGroup(t, "src,service")
		few, all := newGroups(keys, sorts[r.IntN(len(sorts))]), newGroups(keys, "")
		few.limit = 2 + r.IntN(400)
		var want amount
		for range r.IntN(3000) {
			f := randomFlow(r)
			few.add(&f, f.Facts(groupStart))
			all.add(&f, f.Facts(groupStart))
			want.add(&FlowGroup{Flows: 1, Packets: f.Packets, Bytes: f.Bytes, PacketsReply: f.PacketsReply, BytesReply: f.BytesReply})
			if len(few.members) > few.limit {
				t.Fatalf("%d groups with room for %d", len(few.members), few.limit)
			}
		}
		exact := map[string]FlowGroup{}
		for _, line := range all.lines(0) {
			exact[fmt.Sprint(line.Group)] = line
		}
		limit := r.IntN(50)
		lines := few.lines(limit)
		var got amount
		for i, line := range lines {
			got.add(&line)
			if line.Other {
				if i != len(lines)-1 {
					t.Errorf("seed %d: the others are in line %d of %d", seed, i, len(lines))
				}
				continue
			}
			truth, missing := exact[fmt.Sprint(line.Group)], Counter{}
			if line.Missing != nil {
				missing = *line.Missing
			}
			low, high := line.Bytes+line.BytesReply, line.Bytes+line.BytesReply+missing.Bytes
			if n := truth.Bytes + truth.BytesReply; n < low || n > high {
				t.Errorf("seed %d: %v has %d bytes, not %d to %d", seed, line.Group, n, low, high)
			}
			low, high = line.Packets+line.PacketsReply, line.Packets+line.PacketsReply+missing.Packets
			if n := truth.Packets + truth.PacketsReply; n < low || n > high {
				t.Errorf("seed %d: %v has %d packets, not %d to %d", seed, line.Group, n, low, high)
			}
			if line.Missing == nil && (truth.Flows != line.Flows || !truth.First.Equal(line.First) || !truth.Last.Equal(line.Last)) {
				t.Errorf("seed %d: %+v, want %+v", seed, line, truth)
			}
		}
		if got != want {
			t.Errorf("seed %d: the lines add up to %+v, the flows to %+v", seed, got, want)
		}
		if limit > 0 && len(lines) > limit+1 {
			t.Errorf("seed %d: %d lines for a limit of %d", seed, len(lines), limit)
		}
		if !slices.IsSortedFunc(lines[:max(0, len(lines)-1)], func(a, b FlowGroup) int { return few.compare(&a, &b) }) {
			t.Errorf("seed %d: not sorted", seed)
		}
	}
}

// The largest group comes out on top of millions of others that find no room.
func TestGroupFlood(t *testing.T) {
	groups := newGroups(parseGroup(t, "src"), "")
	groups.limit = 100
	big := Flow{Src: netip.MustParseAddr("203.0.113.1"), Packets: 100, Bytes: 100_000, First: groupStart, Last: groupStart}
	for i := range 30_000 {
		if i%3_000 == 0 {
			groups.add(&big, big.Facts(groupStart))
		}
		f := Flow{Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Packets: 1, Bytes: 60, First: groupStart, Last: groupStart}
		groups.add(&f, f.Facts(groupStart))
	}
	lines := groups.lines(1)
	if len(lines) != 2 || lines[0].Group["src"] != "203.0.113.1" || lines[0].Bytes != 1_000_000 || lines[0].Missing != nil ||
		lines[1].Flows != 30_000 || lines[1].Bytes != 1_800_000 {
		t.Errorf("%+v", lines)
	}
}

func TestRate(t *testing.T) {
	for _, c := range []struct {
		took time.Duration
		want float64
	}{{0, 8000}, {time.Microsecond, 8000}, {time.Second, 8000}, {4 * time.Second, 2000}, {-time.Second, 8000}} {
		f := Flow{Bytes: 600, BytesReply: 400, First: groupStart, Last: groupStart.Add(c.took)}
		g := FlowGroup{Bytes: 600, BytesReply: 400, First: f.First, Last: f.Last}
		if f.Rate() != c.want || g.Rate() != c.want {
			t.Errorf("%v: %v and %v, want %v", c.took, f.Rate(), g.Rate(), c.want)
		}
	}
}

// A million flows that are a million groups.
func BenchmarkGroups(b *testing.B) {
	keys, err := expr.ParseGroup("src/24,service")
	if err != nil {
		b.Fatal(err)
	}
	flows := make([]Flow, 1<<16)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range flows {
		flows[i] = randomFlow(r)
	}
	for b.Loop() {
		groups := newGroups(keys, "")
		for i := range 1_000_000 {
			f := &flows[i%len(flows)]
			f.Src = netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})
			groups.add(f, f.Facts(groupStart))
		}
	}
}
