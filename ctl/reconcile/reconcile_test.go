package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/lb"
)

// fakeTable is a table of the fake kernel.
type fakeTable struct {
	lines  []abi.Line
	closed bool
}

func (t *fakeTable) Close() error {
	t.closed = true
	return nil
}

type fakeTables [abi.TableCount]*fakeTable

// fakeKernel keeps what it is told, and fails when it is asked to.
type fakeKernel struct {
	features   compile.Features
	flowsMax   int
	generation uint32
	tables     fakeTables
	rings      map[uint32][]uint16
	backends   map[uint16]abi.Backend

	mu     sync.Mutex // of rings and log: rings come side by side
	loaded []*fakeTable
	log    []string
	fail   map[string]bool // the first call that is named so fails
}

func newKernel() *fakeKernel {
	return &fakeKernel{rings: map[uint32][]uint16{}, backends: map[uint16]abi.Backend{}, fail: map[string]bool{}}
}

var errBroken = errors.New("broken")

func (k *fakeKernel) call(format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	k.log = append(k.log, name)
	if k.fail[name] {
		delete(k.fail, name)
		return errBroken
	}
	return nil
}

func (k *fakeKernel) SetFeatures(f compile.Features) error {
	err := k.call("features %s", f)
	if err == nil {
		k.features = f
	}
	return err
}

func (k *fakeKernel) Prepare(f compile.Features, _ fakeTables) error {
	return k.SetFeatures(f)
}

func (k *fakeKernel) Foresee(f compile.Features, lines [abi.TableCount]int) {
	k.call("foresee %s, %v", f, lines)
}

func (k *fakeKernel) Forget() error { return k.call("forget") }

func (k *fakeKernel) ResizeFlows(max int) error {
	err := k.call("flows %d", max)
	if err == nil {
		k.flowsMax = max
	}
	return err
}

func (k *fakeKernel) ResetRuleCounters([]uint32) error { return nil }

func (k *fakeKernel) ResetBackendCounters(ids []uint32) error {
	if len(ids) == 0 {
		return nil
	}
	return k.call("reset %d", ids)
}

func (k *fakeKernel) ResetExitCounters([]uint32) error { return nil }

func (k *fakeKernel) ResetInterfaceCounters([]uint32) error { return nil }

func (k *fakeKernel) NewTable(_ abi.Table, lines []abi.Line) (*fakeTable, error) {
	if err := k.call("table %d", lines[0].W[0]); err != nil {
		return nil, err
	}
	table := &fakeTable{lines: lines}
	k.loaded = append(k.loaded, table)
	return table, nil
}

func (k *fakeKernel) Commit(generation uint32, tables fakeTables) error {
	err := k.call("commit %d", generation)
	if err == nil {
		k.generation, k.tables = generation, tables
	}
	return err
}

func (k *fakeKernel) PutRing(id uint32, ring []uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.call("ring %d", id)
	if err == nil {
		k.rings[id] = ring
	}
	return err
}

func (k *fakeKernel) DeleteRing(id uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.call("delete ring %d", id)
	if err == nil {
		delete(k.rings, id)
	}
	return err
}

func (k *fakeKernel) PutBackend(id uint16, backend abi.Backend) error {
	err := k.call("backend %d", id)
	if err == nil {
		k.backends[id] = backend
	}
	return err
}

func (k *fakeKernel) Backend(id uint16) (abi.Backend, error) { return k.backends[id], nil }

// visible is everything that can change what happens to a packet.
func (k *fakeKernel) visible() string {
	var b strings.Builder
	fmt.Fprintf(&b, "generation %d features %s\n", k.generation, k.features)
	for _, t := range k.tables {
		if t != nil {
			fmt.Fprintf(&b, "table %d closed %t\n", t.lines[0].W[0], t.closed)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(k.rings)) {
		fmt.Fprintf(&b, "ring %d: %v\n", id, share(k.rings[id]))
	}
	for _, id := range slices.Sorted(maps.Keys(k.backends)) {
		if e := k.backends[id]; e.State != 0 {
			fmt.Fprintf(&b, "backend %d: %+v\n", id, e)
		}
	}
	return b.String()
}

// share counts the slots of each backend.
func share(ring []uint16) map[uint16]int {
	count := map[uint16]int{}
	for _, id := range ring {
		count[id]++
	}
	return count
}

// table makes a table that is known by a number.
func table(number uint64) []abi.Line { return []abi.Line{{W: [8]uint64{number}}} }

func backend(id uint16, name string) compile.Backend {
	return compile.Backend{ID: id, Service: 1, Name: name, ServiceName: "web", Mode: abi.ModeDsr,
		Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(id)})}
}

func ring(id uint32, backends ...compile.Backend) compile.Ring {
	r := compile.Ring{ID: id, Service: "web"}
	for _, b := range backends {
		r.Members = append(r.Members, lb.Member{Name: b.Name, ID: b.ID, Weight: 100})
	}
	return r
}

// Two snapshots of one service: b2 goes, b3 comes; the sets stay as they are.
func first() Want {
	b1, b2 := backend(1, "b1"), backend(2, "b2")
	return Want{FlowsMax: 1000, Tables: &compile.Tables{
		Sets: table(1), Rules: table(2), Services: table(3),
		Rings: []compile.Ring{ring(1, b1, b2)}, Backends: []compile.Backend{b1, b2},
		Features: compile.Features{Services: true, Flows: true, Health: true},
	}}
}

func second() Want {
	b1, b3 := backend(1, "b1"), backend(3, "b3")
	return Want{FlowsMax: 2000, Reused: compile.Reused{Backends: []uint16{3}}, Tables: &compile.Tables{
		Sets: table(1), Rules: table(12), Services: table(13),
		Rings: []compile.Ring{ring(2, b1, b3)}, Backends: []compile.Backend{b1, b3},
		Features: compile.Features{Services: true, Flows: true, Rules: true},
	}}
}

func third() Want {
	want := second()
	want.Reused = compile.Reused{}
	want.Tables.Rules = table(22)
	return want
}

func up(compile.Backend) State { return State{} }

func mustApply(t *testing.T, r *Reconciler[*fakeTable, fakeTables], want Want) {
	t.Helper()
	if err := r.Apply(want, up); err != nil {
		t.Fatal(err)
	}
}

func started(t *testing.T, kernel *fakeKernel, generation uint32, have Have) *Reconciler[*fakeTable, fakeTables] {
	t.Helper()
	r, err := New[*fakeTable](kernel, generation, have)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantLog(t *testing.T, kernel *fakeKernel, want ...string) {
	t.Helper()
	if !slices.Equal(kernel.log, want) {
		t.Errorf("calls:\n  %s\nwant:\n  %s", strings.Join(kernel.log, "\n  "), strings.Join(want, "\n  "))
	}
	kernel.log = nil
}

// Who gives the state of a new backend may have to wait for somebody who waits for the Reconciler.
func TestStartMayAsk(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	done := make(chan error, 1)
	go func() {
		done <- r.Apply(second(), func(b compile.Backend) State {
			waited := make(chan error)
			go func() { waited <- r.Change(map[uint16]func(*State){1: func(s *State) { s.Order.Drained = true }}) }()
			return State{Down: <-waited != nil}
		})
	}()
	select {
	case err := <-done:
		if state, _ := r.State(1); err != nil || !state.Order.Drained {
			t.Errorf("%v, %+v", err, state)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("they wait for each other")
	}
}

func TestOrder(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	wantLog(t, kernel, "flows 1000", "table 1", "table 2", "table 3", "features services flows health", "ring 1",
		"backend 1", "backend 2", "commit 1")
	sets := kernel.tables[abi.TableSets]

	mustApply(t, r, second())
	wantLog(t, kernel, "reset [3]", "flows 2000", "table 12", "table 13", "features rules services flows health", "ring 2",
		"backend 3", "commit 2", "features rules services flows")
	if kernel.tables[abi.TableSets] != sets {
		t.Error("the table of sets is the same in both and isn't shared")
	}
	if got := kernel.backends[2]; abi.BackendState(got.State) != abi.BackendUsed|abi.BackendUp {
		t.Errorf("the removed backend has state %d; its flows must end in peace", got.State)
	}

	mustApply(t, r, third())
	wantLog(t, kernel, "table 22", "commit 3", "delete ring 1") // two generations later nobody needs it
}

// What is foreseen is what Apply asks for: programs for both generations, and room for those tables that it loads.
func TestForesee(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	kernel.log = nil
	forget := r.Foresee(second())
	if err := forget(); err != nil {
		t.Fatal(err)
	}
	var lines [abi.TableCount]int
	lines[abi.TableRules], lines[abi.TableServices] = 1, 1 // sets stay
	wantLog(t, kernel, fmt.Sprintf("foresee rules services flows health, %v", lines), "forget")
}

func TestNothingClosedThatIsUsed(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	for _, want := range []Want{first(), second(), third(), first(), third()} {
		mustApply(t, r, want)
		for _, table := range kernel.tables {
			if table.closed {
				t.Fatalf("table %d of the generation in force is closed", table.lines[0].W[0])
			}
		}
	}
}

// Whatever fails before the commit, a packet sees what it saw before, and the next attempt succeeds.
func TestFailureAtEachStep(t *testing.T) {
	steps := []string{"reset [3]", "flows 2000", "features rules services flows health", "table 12", "table 13", "ring 2", "backend 3", "commit 2"}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			kernel := newKernel()
			r := started(t, kernel, 0, Have{})
			mustApply(t, r, first())
			before := kernel.visible()

			kernel.fail[step] = true
			err := r.Apply(second(), up)
			if !errors.Is(err, errBroken) {
				t.Fatalf("error %v", err)
			}
			if untidy := (*UntidyError)(nil); errors.As(err, &untidy) {
				t.Errorf("%v is said to be in force", err)
			}
			if after := kernel.visible(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			for _, table := range kernel.loaded {
				if inForce := slices.Contains(kernel.tables[:], table); table.closed == inForce {
					t.Errorf("table %d: in force %t, closed %t", table.lines[0].W[0], inForce, table.closed)
				}
			}
			mustApply(t, r, second())
			if kernel.generation != 2 || r.Generation() != 2 {
				t.Errorf("generation %d, the reconciler says %d", kernel.generation, r.Generation())
			}
		})
	}
}

// Of many rings that are put side by side, one that can't be takes all of them back.
func TestFailureOfOneRing(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	before := kernel.visible()
	want := second()
	for id := uint32(10); id < 110; id++ {
		want.Tables.Rings = append(want.Tables.Rings, ring(id, want.Tables.Backends...))
	}
	kernel.fail["ring 60"] = true
	if err := r.Apply(want, up); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "put ring 60 of web") {
		t.Fatalf("error %v", err)
	}
	if after := kernel.visible(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	mustApply(t, r, want)
	if len(kernel.rings) != 102 {
		t.Errorf("%d rings", len(kernel.rings))
	}
	mustApply(t, r, second())
	mustApply(t, r, third())
	mustApply(t, r, third())
	if len(kernel.rings) > 2 {
		t.Errorf("%d rings are left", len(kernel.rings))
	}
}

func TestFailureAfterCommit(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	kernel.fail["features rules services flows"] = true
	err := r.Apply(second(), up)
	if untidy := (*UntidyError)(nil); !errors.As(err, &untidy) || !errors.Is(err, errBroken) {
		t.Fatalf("error %v", err)
	}
	if r.Generation() != 2 {
		t.Errorf("generation %d", r.Generation())
	}
	kernel.log = nil
	mustApply(t, r, third())
	if !slices.Contains(kernel.log, "features rules services flows") {
		t.Errorf("not tried again: %v", kernel.log)
	}
}

// A daemon that takes over puts rings and backends again, with the state that the data plane remembers.
func TestTakeOver(t *testing.T) {
	kernel := newKernel()
	before := started(t, kernel, 0, Have{})
	mustApply(t, before, first())
	hop := Hop{Ifindex: 3, DstMAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Source: netip.MustParseAddr("10.0.0.254")}
	if err := errors.Join(before.SetUp(2, false), before.SetHop(1, hop)); err != nil {
		t.Fatal(err)
	}
	was := kernel.visible()
	delete(kernel.rings, 1)
	kernel.log = nil

	have := before.Have()
	have.Tables = nil
	r := started(t, kernel, kernel.generation, have)
	mustApply(t, r, first())
	wantLog(t, kernel, "table 1", "table 2", "table 3", "ring 1", "backend 1", "backend 2", "commit 2")
	if now := strings.Replace(kernel.visible(), "generation 2", "generation 1", 1); now != was {
		t.Errorf("before:\n%s\nafter:\n%s", was, now)
	}
	if state, _ := r.State(1); state.Hop != hop {
		t.Errorf("hop %+v", state.Hop)
	}
}

func TestUpAndDown(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	kernel.log = nil

	if err := r.SetUp(1, false); err != nil {
		t.Fatal(err)
	}
	wantLog(t, kernel, "backend 1", "ring 1")
	if got := share(kernel.rings[1]); got[2] != lb.RingSize {
		t.Errorf("slots %v", got)
	}
	if err := r.SetUp(2, false); err != nil {
		t.Fatal(err)
	}
	if got := share(kernel.rings[1]); got[0] != lb.RingSize {
		t.Errorf("all are down: slots %v", got)
	}
	if err := r.SetUp(1, true); err != nil {
		t.Fatal(err)
	}
	kernel.log = nil

	// The next generation keeps what is known, and both rings follow.
	mustApply(t, r, second())
	if got := share(kernel.rings[2]); got[1] == 0 || got[3] == 0 {
		t.Errorf("slots %v", got)
	}
	kernel.log = nil
	if err := r.SetUp(1, false); err != nil {
		t.Fatal(err)
	}
	if got := share(kernel.rings[2]); got[3] != lb.RingSize {
		t.Errorf("slots %v", got)
	}
	if got := share(kernel.rings[1]); got[0] != lb.RingSize {
		t.Errorf("ring of the generation before: slots %v", got)
	}
	if err := r.SetUp(99, true); err != nil {
		t.Errorf("a backend that is gone: %v", err)
	}
}

// A drained backend keeps its flows and gets no new ones, until it is out; the next daemon goes on with that.
func TestOrders(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	order := func(id uint16, order Order) {
		t.Helper()
		if err := r.SetOrder(id, order); err != nil {
			t.Fatal(err)
		}
	}
	isUp := func(id uint16) bool { return abi.BackendState(kernel.backends[id].State)&abi.BackendUp != 0 }
	order(1, Order{Drained: true})
	if got := share(kernel.rings[1]); got[2] != lb.RingSize || !isUp(1) {
		t.Errorf("drained: slots %v, up %t", got, isUp(1))
	}
	order(1, Order{Drained: true, Out: true})
	if isUp(1) {
		t.Error("out, and keeps its flows")
	}
	order(1, Order{})
	ten := 10
	order(2, Order{Weight: &ten})
	if got := share(kernel.rings[1]); got[2] < lb.RingSize/11-1 || got[2] > lb.RingSize/11+1 || !isUp(1) {
		t.Errorf("weights 100 and 10: slots %v, up %t", got, isUp(1))
	}
	rings := fmt.Sprint(share(kernel.rings[1]))
	have := r.Have()
	have.Tables, have.Orders = nil, map[uint16]Order{2: {Weight: &ten}}
	r = started(t, kernel, kernel.generation, have)
	mustApply(t, r, first())
	if got := fmt.Sprint(share(kernel.rings[1])); got != rings {
		t.Errorf("after the next daemon came: slots %s, not %s", got, rings)
	}
	order(99, Order{Drained: true}) // has gone
}

// A ring that could not be put is built with the next change, or when the same is asked for again.
func TestRingIsTriedAgain(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	kernel.fail["ring 1"] = true
	if err := r.SetUp(1, false); !errors.Is(err, errBroken) {
		t.Fatalf("error %v", err)
	}
	if err := r.SetUp(1, false); err != nil {
		t.Fatal(err)
	}
	if got := share(kernel.rings[1]); got[2] != lb.RingSize {
		t.Errorf("slots %v", got)
	}
}

func TestSetHop(t *testing.T) {
	kernel := newKernel()
	r := started(t, kernel, 0, Have{})
	mustApply(t, r, first())
	kernel.log = nil
	hop := Hop{Ifindex: 3, DstMAC: [6]byte{2, 0, 0, 0, 0, 1}, SrcMAC: [6]byte{2, 0, 0, 0, 0, 2}, MTU: 1500}
	for range 2 { // the same again is no write
		if err := r.SetHop(1, hop); err != nil {
			t.Fatal(err)
		}
	}
	wantLog(t, kernel, "backend 1")
	got := kernel.backends[1]
	if abi.BackendState(got.State) != abi.BackendUsed|abi.BackendUp|abi.BackendHop || got.Ifindex != 3 || got.Mtu != 1500 ||
		got.Dmac != hop.DstMAC || got.Smac != hop.SrcMAC {
		t.Errorf("%+v", got)
	}
	if err := r.SetHop(1, Hop{}); err != nil {
		t.Fatal(err)
	}
	if got := kernel.backends[1]; abi.BackendState(got.State)&abi.BackendHop != 0 {
		t.Errorf("still has a hop: %+v", got)
	}
}

func TestPlanReads(t *testing.T) {
	var lines []string
	for _, op := range Plan(Have{}, second()) {
		lines = append(lines, op.String())
	}
	want := []string{
		"reset counters of reused ids",
		"resize flow table to 2000",
		"load sets table of 1 lines",
		"load rules table of 1 lines",
		"load services table of 1 lines",
		"swap in programs for both generations: rules services flows",
		"put ring 2 of web",
		"put backend 1, web/b1 at 10.0.0.1",
		"put backend 3, web/b3 at 10.0.0.3",
		"commit",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("plan:\n  %s", strings.Join(lines, "\n  "))
	}
}
