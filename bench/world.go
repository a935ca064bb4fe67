package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
)

// flowsMax is what the flow table of every world is made for. It is divided among the CPUs, as traffic is; here one CPU sees
// the flows of the largest case all by itself, unless a scenario says otherwise.
func flowsMax(each int) (int, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	if each == 0 {
		each = flowCounts[len(flowCounts)-1].flows
	}
	return cpus * each, nil
}

// world is a private data plane with one snapshot in force. Cases that differ in their traffic alone share one.
type world struct {
	*dataplane.Dataplane
	arrived int // blocks that were added while packets were sent
}

// lab holds the worlds that were made so far, by name.
type lab map[string]*world

// subject loads what a scenario measures.
func (l lab) subject(s scenario) (*subject, error) {
	loaded, err := l.load(s)
	if err == nil {
		loaded.six = len(loaded.frame) > frameBytes && loaded.frame[ethernetSize]>>4 == 6
	}
	return loaded, err
}

func (l lab) load(s scenario) (*subject, error) {
	switch {
	case s.peer:
		return peer(s)
	case s.program != "":
		g, err := newGenerator(s.tuples(), options{programs: []string{s.program}, records: s.records, length: s.length})
		if err != nil {
			return nil, err
		}
		return &subject{scenario: s, generator: g}, g.put(g.own[s.program])
	}
	w, ok := l[s.world]
	if !ok {
		var err error
		if w, err = newWorld(s); err != nil {
			return nil, fmt.Errorf("world %q: %w", s.world, err)
		}
		l[s.world] = w
		if s.translate > 0 {
			if err := w.makeRoom(s.translate); err != nil {
				return nil, err
			}
		}
	}
	program, err := w.Program(dataplane.HookXDP)
	if err != nil {
		return nil, err
	}
	if s.part > 0 {
		if err := touch(program); err != nil {
			return nil, err
		}
	}
	g, err := newGenerator(s.tuples(), options{length: s.length})
	if err != nil {
		return nil, err
	}
	counted := func() (tally, error) { return w.counted(s.reasons) }
	loaded := &subject{scenario: s, generator: g, counted: counted}
	if s.arriving > 0 {
		loaded.during = func() (func() error, error) { return w.addBlocks(s.arriving) }
	}
	if s.beside != nil {
		loaded.counted = nil // which doesn't tell CPUs apart
		if loaded.during, loaded.release, err = besides(program, s.beside()); err != nil {
			return nil, errors.Join(err, g.close())
		}
	}
	if err := g.put(program); err != nil {
		return nil, err
	}
	if s.limits {
		return loaded, w.tend(loaded)
	}
	return loaded, nil
}

// tend gives limits the room that the daemon gives them under such packets.
func (w *world) tend(s *subject) error {
	for grown := true; grown; {
		if _, err := s.send(s.packets); err != nil {
			return err
		}
		var err error
		if grown, err = w.TendLimits(); err != nil {
			return err
		}
	}
	return nil
}

// touch reads all of the tables of flows and of translations that a program looks into. A machine that is virtual may have to map each of their pages
// when it is read by its address for the first time, which takes longer than all that a packet takes; packets of which no two are of one flow
// would hardly meet a page twice.
func touch(program *ebpf.Program) error {
	info, err := program.Info()
	if err != nil {
		return fmt.Errorf("look at the program under test: %w", err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if err := touchTable(id); err != nil {
			return err
		}
	}
	return nil
}

func touchTable(id ebpf.MapID) error {
	outer, err := ebpf.NewMapFromID(id)
	if err != nil {
		return fmt.Errorf("open a map of the program under test: %w", err)
	}
	defer outer.Close()
	info, err := outer.Info()
	if err != nil {
		return fmt.Errorf("look at a map of the program under test: %w", err)
	}
	switch info.Name {
	case abi.AbiMapFlowTables:
		return touchInner[abi.FlowBucket](outer)
	case abi.AbiMapNatEntries:
		return touchInner[abi.NatBucket](outer)
	case abi.AbiMapNatLines:
		return touchInner[abi.NatLine](outer)
	}
	return nil
}

func touchInner[value any](outer *ebpf.Map) error {
	var table *ebpf.Map
	if err := outer.Lookup(uint32(0), &table); err != nil {
		return fmt.Errorf("open the table in %s: %w", outer, err)
	}
	defer table.Close()
	const batch = 1 << 12
	keys, values := make([]uint32, batch), make([]value, batch)
	var cursor ebpf.MapBatchCursor
	for {
		_, err := table.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
	}
}

func (l lab) close() error {
	var errs []error
	for _, w := range l {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// Where test packets come in, which is the loopback, and where those for backends leave, unless they really travel.
const (
	testIfindex = 1
	exitIfindex = 2
)

// The places of the interfaces in the counters.
const (
	comeNumber  = 1
	leaveNumber = 2
)

// newWorld compiles the scenario's snapshot and loads it, with its blocks. noFlows takes flow accounting out of the
// programs, also where services would bring it in.
func newWorld(s scenario) (w *world, err error) {
	snapshot := s.snapshot()
	ids, _, err := compile.IDs{}.Assign(snapshot)
	if err != nil {
		return nil, err
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		return nil, err
	}
	if s.noFlows {
		tables.Features.Flows = false
	}
	max := 1
	if tables.Features.Flows {
		if max, err = flowsMax(s.room); err != nil {
			return nil, err
		}
	}
	plane, err := dataplane.OpenPrivate(tables.Features, max, dataplane.RoomForBlocks(roomForBlocks))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, plane.Close())
		}
	}()
	come, leave := cmp.Or(s.come, testIfindex), cmp.Or(s.leave, exitIfindex)
	if err := install(plane, tables, leave); err != nil {
		return nil, err
	}
	plane.WantDropped(snapshot.Flows.Dropped)
	if err := plane.ResizeDropped(func([]byte) error { return nil }); err != nil {
		return nil, err
	}
	for number, ifindex := range map[uint16]int{comeNumber: come, leaveNumber: leave} { // as the daemon does
		if err := plane.SetInterface(ifindex, abi.Interface{Flags: uint8(abi.InterfaceIngress), Number: number}); err != nil {
			return nil, err
		}
	}
	w = &world{Dataplane: plane}
	return w, w.AddBlocks(blocked(0, s.blocks))
}

// install puts the tables in force as generation 1, with all backends up.
func install(plane *dataplane.Dataplane, tables *compile.Tables, leave int) error {
	for _, b := range tables.Backends {
		if err := plane.PutBackend(b.ID, backendEntry(b, leave)); err != nil {
			return err
		}
	}
	for _, r := range tables.Rings {
		if err := plane.PutRing(r.ID, r.Build(nil)); err != nil {
			return err
		}
	}
	var loaded dataplane.Tables
	for table, lines := range map[abi.Table][]abi.Line{
		abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services,
	} {
		var err error
		if loaded[table], err = plane.NewTable(abi.Table(table), lines); err != nil {
			return err
		}
	}
	return plane.Commit(1, loaded)
}

// backendEntry is a backend that is up, with a next hop. BPF_PROG_TEST_RUN only notes where a packet would go, unless frames are live.
func backendEntry(b compile.Backend, leave int) abi.Backend {
	address, family := abi.PutAddr(b.Address)
	source, _ := abi.PutAddr(addr4(10<<24 | 1))
	if b.Address.Is6() {
		source, _ = abi.PutAddr(addr6(0xfd<<56, 1))
	}
	return abi.Backend{
		State:   uint8(abi.BackendUsed | abi.BackendUp | abi.BackendHop),
		Mode:    uint8(b.Mode),
		Family:  uint8(family),
		Service: b.Service,
		Mtu:     1600, // a long packet with a header around it
		Ifindex: uint32(leave),
		Dmac:    [6]uint8{2, 0, 0, 0, 1, 1},
		Smac:    [6]uint8{2, 0, 0, 0, 1, 2},
		Address: address,
		BePort:  abi.Htons(b.Port),
		Source:  source,
	}
}

// behind puts the world's program behind a generator.
func (w *world) behind(g *generator, hook dataplane.Hook) error {
	program, err := w.Program(hook)
	if err != nil {
		return err
	}
	return g.put(program)
}

// makeRoom gives the programs another table of translations, by doing without one for a moment.
func (w *world) makeRoom(room int) error {
	with := w.Features()
	without := with
	without.Nat = false
	w.RoomForTranslations(room)
	for _, features := range []compile.Features{without, with} {
		if err := w.SetFeatures(features); err != nil {
			return err
		}
	}
	return nil
}

// counted returns how many packets left for one of the reasons.
func (w *world) counted(reasons []abi.Reason) (tally, error) {
	counters, err := w.Reasons(comeNumber, leaveNumber)
	if err != nil {
		return tally{}, fmt.Errorf("read the counters: %w", err)
	}
	t := tally{dropped: counters[abi.ReasonRuleDrop].Packets}
	for _, reason := range reasons {
		t.packets += counters[reason].Packets
	}
	return t, nil
}
