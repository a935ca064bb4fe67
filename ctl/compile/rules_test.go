package compile

import (
	"fmt"
	"net/netip"
	"reflect"
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
		{150, 1, 150}, {150, 5, 300}, {60, 60, 500}, {6, 1000, 1000},
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

// go test -fuzz FuzzRules: other seeds than the test above.
func FuzzRules(f *testing.F) {
	f.Add(uint64(1), uint16(3))
	f.Add(uint64(2), uint16(200))
	f.Fuzz(func(t *testing.T, seed uint64, rules uint16) {
		compareRules(t, seed, int(rules%1024), 200)
	})
}

func TestCompileIsDeterministic(t *testing.T) {
	for seed := range uint64(5) {
		s := newSource(seed)
		snapshot := s.snapshot(300)
		snapshot.Services = s.services(50)
		one, ids := compiled(t, snapshot)
		for range 3 {
			again, err := Compile(snapshot, ids)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(one, again) {
				t.Fatalf("seed %d: compiling twice gives different tables", seed)
			}
		}
	}
}

// aim returns a packet that fits the addresses and a port of some rule of r, mostly.
func (s *source) aim(r *model.Rule) *packet {
	p := s.packet()
	p.proto, p.ports, p.icmp = 6, true, false
	for _, c := range r.Match {
		switch {
		case c.Field == "src" && len(c.Prefixes) > 0:
			p.src = pick(s, c.Prefixes).Addr()
		case c.Field == "dst" && len(c.Prefixes) > 0:
			p.dst = pick(s, c.Prefixes).Addr()
		case c.Field == "dport" && len(c.Ranges) > 0:
			one := pick(s, c.Ranges)
			p.dport = uint16(one.Lo + uint32(s.IntN(int(one.Hi-one.Lo)+2)))
		}
	}
	if p.src.Is4() != p.dst.Is4() {
		p.src = p.dst
	}
	return p
}

// checkAimed compares packets that are made for the rules.
func checkAimed(t *testing.T, snapshot *model.Snapshot, packets int) *Tables {
	t.Helper()
	tables, ids := compiled(t, snapshot)
	m := &mirror{Tables: tables}
	s := newSource(7)
	hits := 0
	for range packets {
		p := s.aim(&snapshot.Filter.Rules[s.IntN(len(snapshot.Filter.Rules))])
		want, _ := naive(snapshot, ids, p)
		if got, _ := m.judge(p); got != want {
			t.Fatalf("%+v:\n got %s\nwant %s", *p, describe(snapshot, ids, got), describe(snapshot, ids, want))
		}
		if want != uint32(abi.DeciderDefault) {
			hits++
		}
	}
	t.Logf("%d of %d packets hit a rule; %+v", hits, packets, tables.Cost)
	if hits < packets/4 {
		t.Error("too few hits to prove anything")
	}
	return tables
}

func TestManyShapesBecomeFewGroups(t *testing.T) {
	cost := checkAimed(t, shapesSnapshot(3000), 2000).Cost
	if cost.Groups > maxGroups || cost.LongestChain > 8 {
		t.Errorf("cost %+v", cost)
	}
}

// A thousand rules that only differ in a port range: hashed alike, they would be one chain.
func TestPortRangesAreToldApart(t *testing.T) {
	s := newSource(3)
	snapshot := &model.Snapshot{}
	for i := range 1000 {
		lo := uint32(s.IntN(65000))
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{
			Name: fmt.Sprintf("r%d", i), Action: model.Drop,
			Match: []model.Condition{from("dst", "192.0.2.10/32"), only("proto", 6, 6), only("dport", lo, lo+uint32(s.IntN(500)))},
		})
	}
	if cost := checkAimed(t, snapshot, 2000).Cost; cost.LongestChain > 2*longChain {
		t.Errorf("cost %+v", cost)
	}
}

func TestCompileRefuses(t *testing.T) {
	rule := func(match ...model.Condition) model.Filter {
		return model.Filter{Rules: []model.Rule{{Name: "r", Match: match}}}
	}
	sets := []model.Set{{Name: "a"}, {Name: "p", Kind: model.Ports}}
	for name, test := range map[string]struct {
		filter model.Filter
		want   string
	}{
		"unknown field":  {rule(only("colour", 1, 1)), `rule "r": unknown field "colour"`},
		"absent set":     {rule(model.Condition{Field: "src", Set: "b"}), `rule "r": set "b" doesn't exist`},
		"wrong kind":     {rule(model.Condition{Field: "src", Set: "p"}), `rule "r": set "p" is of the wrong kind`},
		"wrong kind too": {rule(model.Condition{Field: "dport", Set: "a"}), `rule "r": set "a" is of the wrong kind`},
		"twice":          {rule(only("ttl", 1, 1), only("ttl", 2, 2)), `rule "r": two conditions on "ttl"`},
		"action":         {model.Filter{Rules: []model.Rule{{Name: "r", Action: "eat"}}}, `rule "r": unknown action "eat"`},
		"default":        {model.Filter{Default: "eat"}, `filter.default: unknown action "eat"`},
		"allow":          {model.Filter{Allow: "b"}, `filter.allow: set "b" doesn't exist`},
	} {
		snapshot := &model.Snapshot{Sets: sets, Filter: test.filter}
		ids, _ := assign(t, IDs{}, snapshot)
		if _, err := Compile(snapshot, ids); err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func TestFeatures(t *testing.T) {
	for name, test := range map[string]struct {
		snapshot model.Snapshot
		want     Features
	}{
		"nothing":        {model.Snapshot{}, Features{Blocks: true}},
		"flows":          {model.Snapshot{Flows: model.Flows{Enabled: true}}, Features{Blocks: true, Flows: true}},
		"default drop":   {model.Snapshot{Filter: model.Filter{Default: model.Drop}}, Features{Blocks: true, Rules: true}},
		"rule":           {*rulesNamed("r"), Features{Blocks: true, Rules: true}},
		"balancer":       {*balancer(), Features{Blocks: true, Services: true, Flows: true, Health: true}},
		"set in a rule":  {*setSnapshot(nil), Features{Blocks: true, Rules: true, Sets: true}},
		"only for allow": {model.Snapshot{Sets: []model.Set{{Name: "a"}}, Filter: model.Filter{Allow: "a"}}, Features{Blocks: true, Rules: true, Sets: true}},
	} {
		if tables, _ := compiled(t, &test.snapshot); tables.Features != test.want {
			t.Errorf("%s: %+v, want %+v", name, tables.Features, test.want)
		}
	}
}

// A verdict may be remembered if no rule up to the one that decides looks at more of a packet than the flow's key, or does
// more than decide.
func TestRemember(t *testing.T) {
	tcp22 := only("proto", 6, 6)
	for name, test := range map[string]struct {
		rules []model.Rule
		want  bool
	}{
		"key fields":                    {[]model.Rule{{Match: []model.Condition{tcp22, only("dport", 22, 22)}, Action: model.Drop}}, true},
		"ttl, and it matches":           {[]model.Rule{{Match: []model.Condition{only("ttl", 0, 255)}, Action: model.Pass}}, false},
		"ttl, and it doesn't":           {[]model.Rule{{Match: []model.Condition{only("ttl", 1, 1)}, Action: model.Pass}}, false},
		"ttl of other flows":            {[]model.Rule{{Match: []model.Condition{only("dport", 80, 80), only("ttl", 1, 1)}, Action: model.Pass}}, true},
		"ttl of another protocol":       {[]model.Rule{{Match: []model.Condition{only("proto", 17, 30), only("ttl", 1, 1)}, Action: model.Pass}}, true},
		"ttl behind the rule":           {[]model.Rule{{Match: []model.Condition{tcp22}, Action: model.Pass}, {Match: []model.Condition{only("ttl", 1, 1)}, Action: model.Drop}}, true},
		"ttl before the rule":           {[]model.Rule{{Match: []model.Condition{only("ttl", 1, 1)}, Action: model.Drop}, {Match: []model.Condition{tcp22}, Action: model.Pass}}, false},
		"observes":                      {[]model.Rule{{Match: []model.Condition{tcp22}}}, false},
		"observes other flows":          {[]model.Rule{{Match: []model.Condition{only("proto", 17, 17)}}}, true},
		"shadow before the rule":        {[]model.Rule{{Action: model.Drop, Shadow: true}, {Action: model.Pass}}, false},
		"shadow behind the rule":        {[]model.Rule{{Action: model.Pass}, {Action: model.Drop, Shadow: true}}, true},
		"shadow, then another searches": {[]model.Rule{{Action: model.Drop, Shadow: true}, {Match: []model.Condition{only("ttl", 1, 1)}}}, false},
	} {
		for _, more := range []int{0, 20} { // scanned, and by index
			snapshot := rulesNamed()
			for i, r := range test.rules {
				r.Name = fmt.Sprintf("r%d", i)
				snapshot.Filter.Rules = append(snapshot.Filter.Rules, r)
			}
			for i := range more {
				snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{
					Name: fmt.Sprintf("more%d", i), Match: []model.Condition{only("dport", uint32(1000+i), uint32(1000+i))}, Action: model.Drop,
				})
			}
			tables, _ := compiled(t, snapshot)
			m := &mirror{Tables: tables}
			m.judge(&packet{src: netip.MustParseAddr("198.51.100.1"), dst: netip.MustParseAddr("192.0.2.1"), proto: 6, ports: true, sport: 1, dport: 22, ttl: 64})
			if m.remember != test.want {
				t.Errorf("%s, %d more rules: remember %t", name, more, m.remember)
			}
		}
	}
}
