package compile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

func rulesNamed(names ...string) *model.Snapshot {
	snapshot := &model.Snapshot{}
	for _, name := range names {
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{Name: name, Action: model.Drop})
	}
	return snapshot
}

func service(name, address string, port uint32, backends ...model.Backend) model.Service {
	return model.Service{
		Name: name, Address: netip.MustParseAddr(address), Port: model.Range{Lo: port, Hi: port}, Proto: model.ProtoTCP,
		Forward: "ipip", Affinity: model.AffinityFlow, Backends: backends,
	}
}

func backend(name, address string, weight int) model.Backend {
	return model.Backend{Name: name, Address: netip.MustParseAddr(address), Weight: weight}
}

func assign(t testing.TB, ids IDs, snapshot *model.Snapshot) (IDs, Reused) {
	t.Helper()
	next, reused, err := ids.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	return next, reused
}

func TestIDsAreStable(t *testing.T) {
	first, _ := assign(t, IDs{}, rulesNamed("a", "b", "c"))
	if want := map[string]uint32{"a": 16, "b": 17, "c": 18}; !maps.Equal(first.Rules, want) {
		t.Fatalf("rules %v, want %v", first.Rules, want)
	}
	before := fmt.Sprint(first)
	second, reused := assign(t, first, rulesNamed("d", "c", "a"))
	if want := map[string]uint32{"a": 16, "b": 17, "c": 18, "d": 19}; !maps.Equal(second.Rules, want) {
		t.Errorf("rules %v, want %v", second.Rules, want)
	}
	if !slices.Equal(second.Away.Rules, []string{"b"}) || len(reused.Rules) != 0 {
		t.Errorf("away %v, reused %v", second.Away.Rules, reused.Rules)
	}
	if fmt.Sprint(first) != before {
		t.Error("Assign changed what it was called on")
	}
	third, _ := assign(t, second, rulesNamed("b"))
	if third.Rules["b"] != 17 || !slices.Equal(third.Away.Rules, []string{"a", "c", "d"}) {
		t.Errorf("b came back as %d, away %v", third.Rules["b"], third.Away.Rules)
	}
}

func TestIDsSurviveJSON(t *testing.T) {
	snapshot := &model.Snapshot{Services: []model.Service{service("web", "192.0.2.10", 443, backend("b1", "10.0.0.11", 100))}}
	first, _ := assign(t, IDs{}, snapshot)
	first, _ = assign(t, first, rulesNamed("a"))
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	var read IDs
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, read) {
		t.Errorf("%+v came back as %+v", first, read)
	}
}

// Numbers in a file that can't be ours are forgotten, not followed.
func TestIDsOutOfRange(t *testing.T) {
	bad := IDs{Rules: map[string]uint32{"a": 3, "b": 1 << 30, "gone": 1 << 31}, Away: Away{Rules: []string{"gone", "never"}}}
	next, _ := assign(t, bad, rulesNamed("a", "b"))
	if want := map[string]uint32{"a": 16, "b": 17}; !maps.Equal(next.Rules, want) || len(next.Away.Rules) != 0 {
		t.Errorf("rules %v, away %v", next.Rules, next.Away.Rules)
	}
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return list
}

func TestIDsAreReusedLast(t *testing.T) {
	n := numbers[uint16]{what: "things", first: 1, end: 6}
	step := func(want map[string]uint16, wantReused []uint16, list ...string) {
		t.Helper()
		have, away, reused, err := n.assign(list)
		if err != nil {
			t.Fatal(err)
		}
		for name, number := range want {
			if have[name] != number {
				t.Errorf("%s has %d, want %d", name, have[name], number)
			}
		}
		if !slices.Equal(reused, wantReused) {
			t.Errorf("reused %v, want %v", reused, wantReused)
		}
		n.have, n.away = have, away
	}
	step(map[string]uint16{"a": 1, "b": 2, "c": 3}, nil, "a", "b", "c")
	step(map[string]uint16{"a": 1, "d": 4, "e": 5}, nil, "a", "d", "e")
	step(map[string]uint16{"a": 1, "d": 4, "f": 2}, []uint16{2}, "a", "d", "f")                    // b is gone for longest
	step(map[string]uint16{"f": 2, "g": 3, "h": 5, "b": 1}, []uint16{3, 5, 1}, "f", "g", "h", "b") // c, e, then a, which leaves
}

// Numbers that the running generation goes by aren't given away.
func TestIDsInUse(t *testing.T) {
	n := numbers[uint16]{what: "backends", first: 1, end: 3, inUse: true, have: map[string]uint16{"a": 1, "b": 2}}
	_, _, _, err := n.assign([]string{"b", "c"})
	var limit *LimitError
	if !errors.As(err, &limit) || limit.Name != "c" || limit.Limit != 2 {
		t.Errorf("error %v, want no room for c", err)
	}
	n.away = []string{"a"}
	have, _, reused, err := n.assign([]string{"b", "c"})
	if err != nil || have["c"] != 1 || !slices.Equal(reused, []uint16{1}) {
		t.Errorf("have %v, reused %v, error %v", have, reused, err)
	}
}

func TestRingChangesWithItsBackends(t *testing.T) {
	base := service("web", "192.0.2.10", 443, backend("b1", "10.0.0.11", 100), backend("b2", "10.0.0.12", 100))
	ids := IDs{}
	ring := func(s model.Service) (ring uint32, backends []uint16) {
		t.Helper()
		snapshot := &model.Snapshot{Services: []model.Service{s}}
		ids, _ = assign(t, ids, snapshot)
		tables, err := Compile(snapshot, ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range tables.Backends {
			backends = append(backends, b.ID)
		}
		return tables.Rings[0].ID, backends
	}
	variant := func(change func(*model.Service)) model.Service {
		s := base
		s.Backends = slices.Clone(base.Backends)
		change(&s)
		return s
	}
	ring1, ids1 := ring(base)
	for _, test := range []struct {
		name     string
		service  model.Service
		sameRing bool
		same     []bool // backend ids
	}{
		{"another port", variant(func(s *model.Service) { s.Port.Lo, s.Port.Hi = 80, 80 }), true, []bool{true, true}},
		{"another order", variant(func(s *model.Service) { slices.Reverse(s.Backends) }), true, nil},
		{"another weight", variant(func(s *model.Service) { s.Backends[0].Weight = 1 }), false, []bool{true, true}},
		{"another address", variant(func(s *model.Service) { s.Backends[0].Address = netip.MustParseAddr("10.0.0.99") }), false, []bool{false, true}},
		{"another mode", variant(func(s *model.Service) { s.Forward = "dsr" }), false, []bool{false, false}},
		{"one less", variant(func(s *model.Service) { s.Backends = s.Backends[:1] }), false, []bool{true}},
		{"back again", base, true, []bool{true, true}},
	} {
		ring2, ids2 := ring(test.service)
		if (ring1 == ring2) != test.sameRing {
			t.Errorf("%s: ring %d becomes %d", test.name, ring1, ring2)
		}
		for i, same := range test.same {
			if (ids1[i] == ids2[i]) != same {
				t.Errorf("%s: backend %d becomes %d", test.name, ids1[i], ids2[i])
			}
		}
	}
}

func TestLimits(t *testing.T) {
	tooManyServices := &model.Snapshot{}
	for i := range int(abi.ServiceIds) {
		tooManyServices.Services = append(tooManyServices.Services, service(fmt.Sprintf("s%d", i), "192.0.2.1", uint32(i)))
	}
	tooManyBackends := &model.Snapshot{Services: []model.Service{service("web", "192.0.2.1", 80)}}
	for i := range int(abi.BackendIds) {
		address := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		tooManyBackends.Services[0].Backends = append(tooManyBackends.Services[0].Backends,
			model.Backend{Name: fmt.Sprintf("b%d", i), Address: address, Weight: 1})
	}
	tooManySets := &model.Snapshot{}
	for i := range int(abi.SetBits) {
		tooManySets.Sets = append(tooManySets.Sets, model.Set{Name: fmt.Sprintf("set%d", i)})
	}
	for _, test := range []struct {
		snapshot *model.Snapshot
		want     string
	}{
		{rulesNamed(names("r", int(abi.RuleIds)-int(abi.FirstRuleId)+1)...), `too many rules: no room for "r131056", at most 131056`},
		{tooManyServices, `too many services: no room for "s4095", at most 4095`},
		{tooManyBackends, `too many backends: no room for "web/b16383@10.0.63.255/ipip", at most 16383`},
		{tooManySets, `too many sets: no room for "set511", at most 511`},
	} {
		_, _, err := IDs{}.Assign(test.snapshot)
		var limit *LimitError
		if !errors.As(err, &limit) || err.Error() != test.want {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
	}
}

// As many as there is room for.
func TestLimitsReached(t *testing.T) {
	snapshot := rulesNamed(names("r", int(abi.RuleIds)-int(abi.FirstRuleId))...)
	ids, _ := assign(t, IDs{}, snapshot)
	if last := ids.Rules["r131055"]; last != uint32(abi.RuleIds)-1 {
		t.Errorf("the last rule has %d", last)
	}
	others := rulesNamed(names("other", len(snapshot.Filter.Rules))...)
	_, reused := assign(t, ids, others)
	if len(reused.Rules) != len(snapshot.Filter.Rules) {
		t.Errorf("%d ids reused, want all", len(reused.Rules))
	}
}

func TestTooManyRecords(t *testing.T) {
	// Without bits for sets, lists have to be multiplied out.
	var prefixes []netip.Prefix
	for i := range 1100 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	snapshot := rulesNamed("wide")
	snapshot.Filter.Rules[0].Match = []model.Condition{{Field: "src", Prefixes: prefixes}, {Field: "dst", Prefixes: prefixes}}
	ids, _ := assign(t, IDs{}, snapshot)
	ids.Sets = nil
	_, err := Compile(snapshot, ids)
	if want := `too many rule records: no room for "wide", at most 1048576`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Long lists get the bits that named sets leave.
func TestListsWithoutBits(t *testing.T) {
	s := newSource(1)
	snapshot := &model.Snapshot{}
	for i := range int(abi.SetBits) - 3 {
		snapshot.Sets = append(snapshot.Sets, model.Set{Name: fmt.Sprintf("set%d", i), Prefixes: s.prefixes(2)})
	}
	for i := range 4 {
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{
			Name: fmt.Sprintf("r%d", i), Action: model.Drop,
			Match: []model.Condition{
				{Field: "src", Prefixes: slices.Repeat(s.prefixes(3), 9)}, {Field: "src", Not: true, Set: fmt.Sprintf("set%d", i)},
			},
		})
	}
	tables, ids := compiled(t, snapshot)
	if len(ids.Sets) != int(abi.SetBits)-1 {
		t.Errorf("%d bits are in use", len(ids.Sets))
	}
	m := &mirror{Tables: tables}
	for range 3000 {
		p := s.packet()
		want, _ := naive(snapshot, ids, p)
		if got, _ := m.judge(p); got != want {
			t.Fatalf("%+v: got %s, want %s", *p, describe(snapshot, ids, got), describe(snapshot, ids, want))
		}
	}
}

func TestLive(t *testing.T) {
	five := 5
	ring := Ring{Members: []lb.Member{{Name: "a", ID: 1, Weight: 100}, {Name: "b", ID: 2, Weight: 100}, {Name: "c", ID: 3, Weight: 100},
		{Name: "d", ID: 4, Weight: 100}}}
	got := ring.Live(map[uint16]Runtime{1: {Down: true, Weight: &five}, 2: {Drained: true}, 3: {Weight: &five}})
	for i, want := range []int{0, 0, 5, 100} {
		if got[i].Weight != want {
			t.Errorf("%s has weight %d, want %d", got[i].Name, got[i].Weight, want)
		}
	}
	if ring.Members[0].Weight != 100 {
		t.Error("Live changed the ring")
	}
}

// What is written can be read, and says the same, also of names that JSON has to escape.
func TestIDsAsJSON(t *testing.T) {
	ids, _ := assign(t, IDs{}, rulesNamed("b", "a", `quoted "\`, "ümlaut", "<tag>"))
	text, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	var again IDs
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if len(ids.Rules) != 5 || !ids.Equal(again) {
		t.Errorf("%s\nis read as %+v", text, again)
	}
	if none, err := json.Marshal(IDs{}); err != nil || json.Unmarshal(none, &again) != nil || len(again.Rules) != 0 && !again.Equal(ids) {
		t.Errorf("%s, %v", none, err)
	}
	for _, other := range []IDs{{}, {Rules: ids.Rules, Away: Away{Rules: []string{"a"}}}} {
		if ids.Equal(other) {
			t.Errorf("%+v equals %+v", ids, other)
		}
	}
}

// Backups get flows only while nobody else does; who starts slowly has a part of its weight.
func TestLiveBackupsAndSlowStart(t *testing.T) {
	ring := Ring{Members: []lb.Member{{Name: "a", ID: 1, Weight: 100}, {Name: "b", ID: 2, Weight: 50}, {Name: "c", ID: 3, Weight: 30, Backup: true}}}
	zero := 0
	for _, test := range []struct {
		state map[uint16]Runtime
		want  [3]int
	}{
		{nil, [3]int{100, 50, 0}},
		{map[uint16]Runtime{1: {Down: true}}, [3]int{0, 50, 0}},
		{map[uint16]Runtime{1: {Down: true}, 2: {Drained: true}}, [3]int{0, 0, 30}},
		{map[uint16]Runtime{1: {Down: true}, 2: {Weight: &zero}}, [3]int{0, 0, 30}},
		{map[uint16]Runtime{1: {Down: true}, 2: {Down: true}, 3: {Down: true}}, [3]int{0, 0, 0}},
		{map[uint16]Runtime{2: {Slow: 1}}, [3]int{1000, 50, 0}},
		{map[uint16]Runtime{1: {Slow: 9}, 2: {Slow: 3}}, [3]int{900, 150, 0}},
		{map[uint16]Runtime{2: {Slow: 1, Down: true}}, [3]int{100, 0, 0}},
	} {
		var got [3]int
		for i, m := range ring.Live(test.state) {
			got[i] = m.Weight
		}
		if got != test.want {
			t.Errorf("%+v: weights %v, want %v", test.state, got, test.want)
		}
	}
}

// What makes another ring gets another id, so that the generation before keeps its own.
func TestRingKey(t *testing.T) {
	make := func(change func(*model.Service)) string {
		s := service("web", "192.0.2.10", 443, backend("b1", "10.0.0.11", 100), backend("b2", "10.0.0.12", 100))
		change(&s)
		return ringKey(&s)
	}
	same := make(func(*model.Service) {})
	keys := map[string]string{same: "as it is"}
	for name, change := range map[string]func(*model.Service){
		"size":   func(s *model.Service) { s.Ring = 251 },
		"weight": func(s *model.Service) { s.Backends[1].Weight = 50 },
		"backup": func(s *model.Service) { s.Backends[1].Backup = true },
	} {
		if other, ok := keys[make(change)]; ok {
			t.Errorf("%s: the ring is that of %s", name, other)
		}
		keys[make(change)] = name
	}
	if make(func(s *model.Service) { s.Ring = lb.RingSize; slices.Reverse(s.Backends) }) != same {
		t.Error("the default size, or another order of backends, is another ring")
	}
}
