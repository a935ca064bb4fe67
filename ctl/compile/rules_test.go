package compile

import (
	"fmt"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// compiled assigns ids and compiles, or fails the test.
func compiled(t testing.TB, snapshot *model.Snapshot) (*Tables, IDs) {
	t.Helper()
	ids, _, err := IDs{}.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := Compile(snapshot, ids)
	if err != nil {
		t.Fatal(err)
	}
	return tables, ids
}

func describe(s *model.Snapshot, ids IDs, decider uint32) string {
	for i, r := range s.Filter.Rules {
		if ids.Rules[r.Name] == decider {
			return fmt.Sprintf("rule %d: %s %+v", i, r.Action, r.Match)
		}
	}
	return fmt.Sprintf("decider %d", decider)
}

// Random rules against random packets: the tables, read as the programs read them, say what the rules say.
func TestRulesAgreeWithNaive(t *testing.T) {
	for _, size := range []struct{ snapshots, rules, packets int }{
		{400, 1, 100}, {300, 5, 200}, {60, 60, 500}, {6, 1000, 1000},
	} {
		t.Run(fmt.Sprintf("%d rules", size.rules), func(t *testing.T) {
			decided := 0
			for i := range size.snapshots {
				seed := uint64(size.rules*1000 + i)
				decided += compareRules(t, seed, size.rules, size.packets)
				if t.Failed() {
					return
				}
			}
			t.Logf("%d packets, %d decided by a rule", size.snapshots*size.packets, decided)
		})
	}
}

func compareRules(t *testing.T, seed uint64, rules, packets int) (decided int) {
	s := newSource(seed)
	snapshot := s.snapshot(rules)
	tables, ids := compiled(t, snapshot)
	m := &mirror{Tables: tables}
	for range packets {
		p := s.packet()
		want, wantVerdict := naive(snapshot, ids, p)
		got, gotVerdict := m.judge(p)
		if got != want || gotVerdict != wantVerdict {
			t.Errorf("seed %d, packet %+v:\n got %s\nwant %s", seed, *p, describe(snapshot, ids, got), describe(snapshot, ids, want))
			return decided
		}
		if m.probes > tables.Cost.Probes || m.verified > tables.Cost.Verifications {
			t.Errorf("seed %d: %d probes, %d verifications are above the stated cost %+v", seed, m.probes, m.verified, tables.Cost)
			return decided
		}
		if want >= uint32(abi.FirstRuleId) {
			decided++
		}
	}
	return decided
}
