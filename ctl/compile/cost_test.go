package compile

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// hard are rulesets that make searches slow: each leaves out what another index relies on.
var hard = []struct {
	name  string
	match func(i int, r *rand.Rand) []model.Condition
	// What 5,000 rules may come to; 0: nothing hashes them apart, so the rules must be named.
	verifications int
}{
	{"any source", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{within("dst", r, 32), only("proto", 6, 6), portsWithin("dport", r, 0)}
	}, 4},
	{"every length", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{within("src", r, r.IntN(33)), within("dst", r, r.IntN(33)), portsWithin("dport", r, 0)}
	}, 40},
	{"any source, every length, ranges", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{within("dst", r, 8+r.IntN(25)), only("proto", 6, 6), portsWithin("dport", r, 1000)}
	}, 150},
	{"ranges of both ports", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{within("dst", r, 24), portsWithin("sport", r, 20000), portsWithin("dport", r, 20000)}
	}, 10},
	{"ranges alone", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{only("proto", 17, 17), portsWithin("sport", r, 30000), portsWithin("dport", r, 30000)}
	}, 0},
	{"ports alone", func(_ int, r *rand.Rand) []model.Condition {
		return []model.Condition{portsWithin("sport", r, 0), portsWithin("dport", r, 0)}
	}, 4},
	{"one network, lengths", func(i int, r *rand.Rand) []model.Condition {
		return []model.Condition{{Field: "dst", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, only("length", uint32(i%1500), uint32(i%1500))}
	}, 0},
	{"nested", func(i int, r *rand.Rand) []model.Condition {
		return []model.Condition{{Field: "src", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8), 1}), i%33).Masked()}}, within("dst", r, i/33%33)}
	}, 0},
}

func within(field model.Field, r *rand.Rand, length int) model.Condition {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], r.Uint32())
	return model.Condition{Field: field, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(a), length).Masked()}}
}

func portsWithin(field model.Field, r *rand.Rand, width int) model.Condition {
	lo := uint32(1 + r.IntN(65535-width))
	return only(field, lo, lo+uint32(r.IntN(width+1)))
}

func hardSnapshot(match func(int, *rand.Rand) []model.Condition, n int) *model.Snapshot {
	r := rand.New(rand.NewPCG(5, uint64(n)))
	s := &model.Snapshot{}
	for i := range n {
		s.Filter.Rules = append(s.Filter.Rules, model.Rule{Name: fmt.Sprintf("r%d", i), Action: model.Drop, Match: match(i, r)})
	}
	return s
}

// TestHardRulesStayBounded holds the compiler to what it promises of the worst case, or to saying that there is none.
func TestHardRulesStayBounded(t *testing.T) {
	for _, h := range hard {
		t.Run(h.name, func(t *testing.T) {
			snapshot := hardSnapshot(h.match, 5000)
			tables, _ := compiled(t, snapshot)
			run := tables.Runs[0]
			if run.Probes > maxGroups || run.Typical > float64(run.Probes) || h.verifications != 0 && run.Verifications > h.verifications {
				t.Errorf("%+v", run)
			}
			if (len(run.Crowd) == 0) != (run.LongestChain <= crowded) || h.verifications == 0 && len(run.Crowd) == 0 {
				t.Errorf("%d rules are named for a chain of %d", len(run.Crowd), run.LongestChain)
			}
			for _, name := range run.Crowd {
				if !slices.ContainsFunc(snapshot.Filter.Rules, func(r model.Rule) bool { return r.Name == name }) {
					t.Errorf("there is no rule %s", name)
				}
			}
			m := &mirror{Tables: tables}
			s := newSource(11)
			for range 2000 {
				m.judge(s.aim(&snapshot.Filter.Rules[s.IntN(len(snapshot.Filter.Rules))]))
				if m.probes > run.Probes || m.verified > run.Verifications {
					t.Fatalf("a packet met %d groups and %d records: %+v", m.probes, m.verified, run)
				}
			}
		})
	}
}

// TestEstimate holds the model of cost against what it was fitted to, within a half: the rules are not the same.
func TestEstimate(t *testing.T) {
	estimate := func(snapshot *model.Snapshot) float64 {
		tables, _ := compiled(t, snapshot)
		typical, worst := tables.Runs[0].Estimate(tables.Cost.Bytes[abi.TableSets])
		if typical > worst {
			t.Errorf("typically %.0f ns, at most %.0f ns", typical, worst)
		}
		return typical
	}
	listed := RunCost{Structure: "scan", Records: 1, sets: 1}
	set, _ := listed.Estimate(64 << 20)
	for _, tc := range []struct {
		name          string
		got, measured float64
	}{
		{"set 1M, half", set, (143.2 + 227.5) / 2},
		{"rules 10,000", estimate(ruleSnapshot(10_000)), 139.2},
	} {
		if tc.got < tc.measured/1.5 || tc.got > tc.measured*1.5 {
			t.Errorf("%s: %.0f ns, measured were %.0f", tc.name, tc.got, tc.measured)
		}
	}
}

func BenchmarkHard(b *testing.B) {
	for _, h := range hard {
		b.Run(h.name, func(b *testing.B) {
			snapshot := hardSnapshot(h.match, 100_000)
			ids, _, err := IDs{}.Assign(snapshot)
			if err != nil {
				b.Fatal(err)
			}
			var tables *Tables
			for b.Loop() {
				if tables, err = Compile(snapshot, ids); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(tables.Cost.Probes), "probes")
			b.ReportMetric(float64(tables.Cost.Verifications), "verifications")
		})
	}
}
