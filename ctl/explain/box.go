package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/event"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Box is the real programs on an instance of their own that nothing is attached to: what it does is seen by nobody. It
// needs root and no daemon. It is for one goroutine.
type Box struct {
	plane      *dataplane.Dataplane
	features   compile.Features
	ids        compile.IDs
	tables     *compile.Tables
	snapshot   *model.Snapshot
	names      Names
	backends   map[BackendKey]uint16 // all that ever were
	states     map[BackendKey]BackendState
	ports      map[BackendKey]uint16 // of their own, with mode nat
	onDown     map[BackendKey]model.OnDown
	rings      map[uint32][]lb.Member // as they were put
	exits      map[string]Exit
	interfaces map[int]boxInterface
	generation uint32
	events     *event.Reader // nil: there are none
}

// boxFlows is how many flows a Box remembers.
const boxFlows = 1 << 16

// NewBox loads the programs with these features, tracing included.
func NewBox(features compile.Features) (*Box, error) { return newBox(features, boxFlows) }

func newBox(features compile.Features, flows int) (*Box, error) {
	features.Trace = true
	plane, err := dataplane.OpenPrivate(features, flows)
	if err != nil {
		return nil, err
	}
	b := &Box{
		plane: plane, features: features,
		backends: map[BackendKey]uint16{}, states: map[BackendKey]BackendState{}, ports: map[BackendKey]uint16{}, onDown: map[BackendKey]model.OnDown{}, rings: map[uint32][]lb.Member{},
		exits: map[string]Exit{}, interfaces: map[int]boxInterface{},
	}
	if features.Events {
		if b.events, err = event.NewReader(plane.Events()); err != nil {
			return nil, errors.Join(err, plane.Close())
		}
	}
	return b, nil
}

// Close frees it.
func (b *Box) Close() error {
	if b.events != nil {
		return errors.Join(b.events.Close(), b.plane.Close())
	}
	return b.plane.Close()
}

// SetClock makes it that time for limits, until it is set again; 0: the real one.
func (b *Box) SetClock(now time.Duration) { b.plane.SetClock(uint64(now)) }

// WatchDrops makes dropped packets events, for about four seconds.
func (b *Box) WatchDrops(on bool) (err error) {
	if on && b.events == nil {
		if b.events, err = event.NewReader(b.plane.Events()); err != nil {
			return err
		}
	}
	return b.plane.WatchDrops(on)
}

// Events returns those of the packets since the last call.
func (b *Box) Events() ([]event.Packet, error) {
	if b.events == nil {
		return nil, nil
	}
	return b.events.Pending()
}

// Note is a note on a packet in words: log rule=ssh, shadow rule=idea would=drop, drop.
func (b *Box) Note(n event.Note) string {
	if n.Kind == abi.NoteDrop {
		return n.Word()
	}
	text := n.Word() + " rule=" + b.names.rules[n.Rule]
	if n.Decides {
		text += " would=" + n.Would.String()
	}
	return text
}

// Apply puts a snapshot in force. Blocks, flows and what is known of backends stay.
func (b *Box) Apply(snapshot *model.Snapshot) error {
	ids, _, err := b.ids.Assign(snapshot)
	if err != nil {
		return err
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		return err
	}
	if lacks := b.features.Lacks(tables.Features); lacks != "" {
		return fmt.Errorf("the programs were loaded without %s, which the snapshot needs", lacks)
	}
	b.snapshot, b.ids, b.tables, b.names = snapshot, ids, tables, NewNames(ids, tables.Backends)
	for ifindex := range b.interfaces {
		if err := b.putInterface(ifindex); err != nil {
			return err
		}
	}
	for _, backend := range tables.Backends {
		b.backends[b.key(backend)], b.ports[b.key(backend)] = backend.ID, backend.Port
		b.onDown[b.key(backend)] = backend.OnDown
		if err := b.putBackend(b.key(backend)); err != nil {
			return err
		}
	}
	for key, id := range b.backends { // flows may still be on those of former snapshots
		b.names.backends[id] = key.Name
	}
	if err := b.putRings(); err != nil {
		return err
	}
	for name, exit := range b.exits {
		if err := b.SetExit(name, exit); err != nil {
			return err
		}
	}
	var generation dataplane.Tables
	for which, lines := range map[abi.Table][]abi.Line{
		abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services,
	} {
		if generation[which], err = b.plane.NewTable(abi.Table(which), lines); err != nil {
			return err
		}
	}
	b.generation++
	return b.plane.Commit(b.generation, generation)
}

func (b *Box) key(backend compile.Backend) BackendKey {
	return BackendKey{backend.ServiceName, backend.Name, backend.Address, modeName(backend.Mode)}
}

func modeName(mode abi.Mode) model.Mode {
	i := slices.IndexFunc(lb.Modes(), func(row lb.ModeInfo) bool { return row.ABI == mode })
	return lb.Modes()[i].Name
}

// SetBackend says what is known of a backend from now on, in every ring that has it.
func (b *Box) SetBackend(key BackendKey, state BackendState) error {
	b.states[key] = state
	if _, known := b.backends[key]; !known {
		return nil // put by the Apply that brings it
	}
	if err := b.putBackend(key); err != nil {
		return err
	}
	return b.putRings()
}

func (b *Box) putBackend(key BackendKey) error {
	state := b.states[key]
	mode, ok := lb.FindMode(key.Mode)
	if !ok {
		return fmt.Errorf("backend %s: no mode %q", key, key.Mode)
	}
	entry := abi.Backend{
		State: uint8(abi.BackendUsed), Mode: uint8(mode.ABI), Service: b.ids.Services[key.Service], Mtu: uint16(state.MTU),
		Ifindex: uint32(state.Ifindex), Dmac: state.NextMAC, Smac: state.OwnMAC, Vlan: state.VLAN,
	}
	if !state.Down {
		entry.State |= uint8(abi.BackendUp)
	}
	switch b.onDown[key] {
	case model.DownDrop:
		entry.State |= uint8(abi.BackendDownDrop)
	case model.DownReset:
		entry.State |= uint8(abi.BackendDownReset)
	}
	if state.Hop {
		entry.State |= uint8(abi.BackendHop)
	}
	var family abi.Family
	entry.Address, family = abi.PutAddr(key.Address)
	entry.Family = uint8(family)
	entry.BePort = abi.Htons(b.ports[key])
	if state.Source.IsValid() {
		entry.Source, _ = abi.PutAddr(state.Source)
	}
	return b.plane.PutBackend(b.backends[key], entry)
}

// putRings builds the rings of the snapshot from the backends that are up.
func (b *Box) putRings() error {
	down := map[uint16]compile.Runtime{}
	for key, state := range b.states {
		if id, known := b.backends[key]; known {
			down[id] = compile.Runtime{Down: state.Down}
		}
	}
	for _, ring := range b.tables.Rings {
		members := ring.Live(down)
		if slices.Equal(members, b.rings[ring.ID]) {
			continue
		}
		if err := b.plane.PutRing(ring.ID, ring.Build(down)); err != nil {
			return err
		}
		b.rings[ring.ID] = members
	}
	return nil
}

// Block drops what comes from the prefix, until the time or, with the zero time, until it is unblocked.
func (b *Box) Block(prefix netip.Prefix, until time.Time) error {
	return b.plane.AddBlocks([]dataplane.Block{{Prefix: prefix.Masked(), Expires: until, Origin: "explain"}})
}

// Unblock takes a block back.
func (b *Box) Unblock(prefix netip.Prefix) error {
	_, err := b.plane.RemoveBlocks([]netip.Prefix{prefix.Masked()})
	return err
}

// Check lets the answers to one of gardu's own health checks pass.
func (b *Box) Check(proto uint8, local, remote netip.AddrPort) error {
	return b.plane.AddHealthFlow(local, remote, proto, 0)
}

// boxInterface is what a Box is told of an interface.
type boxInterface struct {
	name string
	mac  [6]byte
}

// SetInterface tells the name and the MAC address of the interface with that index.
func (b *Box) SetInterface(ifindex int, name string, mac [6]byte) error {
	b.interfaces[ifindex] = boxInterface{name, mac}
	return b.putInterface(ifindex)
}

func (b *Box) putInterface(ifindex int) error {
	i := b.interfaces[ifindex]
	return b.plane.SetInterface(ifindex, abi.Interface{
		Mac: i.mac, Flags: uint8(abi.InterfaceIngress), Number: b.ids.Interfaces[i.name],
	})
}

// SetExit says what is known of an interface that rules redirect or mirror to. Apply forgets none.
func (b *Box) SetExit(name string, exit Exit) error {
	b.exits[name] = exit
	id, ok := b.ids.Exits[name]
	if !ok {
		return nil // put by the Apply that brings it
	}
	return b.plane.PutExit(id, abi.Exit{Ifindex: uint32(exit.Ifindex), Mtu: uint32(exit.MTU)})
}

// LimitRejects lets so many more rejected packets be answered, 1 or more.
func (b *Box) LimitRejects(answers int) error {
	cost := uint64(time.Hour)
	burst := uint64(answers-1) * cost
	return b.plane.SetRejectLimit(abi.RejectLimit{Cost: cost, Burst: burst, SourceCost: cost, SourceBurst: burst})
}

// Run puts a frame through the program of that hook.
func (b *Box) Run(hook dataplane.Hook, frame []byte, ifindex int) (dataplane.Result, error) {
	return b.plane.Run(hook, frame, ifindex)
}

// Wait stops the clock of connections and flows, so much later than it was.
func (b *Box) Wait(ahead time.Duration) error { return b.plane.Wait(ahead) }

// Names are those behind the ids of the present snapshot.
func (b *Box) Names() Names { return b.names }

// Explain asks a question and tells the packet's way. interfaces names the interface that received the packet, or sends it, and those of
// the next hops, by index.
func (b *Box) Explain(q Question, interfaces map[int]string) (api.Explanation, error) {
	answer, err := Ask(b.plane, q, b.names, b.tables.Backends)
	if err != nil {
		return api.Explanation{}, err
	}
	told := Explain(answer.Result, b.Names(), q.Ifindex, interfaces)
	Why(&told, b.snapshot, q.Frame, answer.Result, q.Hook == dataplane.HookEgress)
	return told, nil
}

// Cost is what the packet of a question takes. The programs have no trace from then on.
func (b *Box) Cost(q Question) (*api.PacketCost, error) {
	answer, err := Ask(b.plane, q, b.names, b.tables.Backends)
	if err != nil {
		return nil, err
	}
	if err := b.plane.SetFeatures(b.tables.Features); err != nil {
		return nil, err
	}
	return Cost(b.plane, q, answer)
}

const (
	undecided   = " undecided"
	sentDecided = "sent and decided"
)

// Counters reads the totals in the names of Counters.
func (b *Box) Counters() (Counters, error) {
	var all Counters
	var numbers []uint32
	for _, number := range b.ids.Interfaces {
		numbers = append(numbers, uint32(number))
	}
	reasons, err := b.plane.Reasons(numbers...)
	if err != nil {
		return nil, err
	}
	for r, c := range reasons {
		all.Add("reason "+abi.Reason(r).String(), Counter{c.Packets, c.Bytes, 0})
	}
	deciders := map[string]uint32{
		DeciderDefault: uint32(abi.DeciderDefault), DeciderAllow: uint32(abi.DeciderAllow), DeciderBlock: uint32(abi.DeciderBlock),
		DeciderHealth: uint32(abi.DeciderHealth),
	}
	for name, id := range b.ids.Rules {
		deciders["rule "+name] = id
	}
	for name, id := range deciders {
		c, err := b.plane.RuleCounters([]uint32{id})
		if err != nil {
			return nil, err
		}
		all.Add(name, Counter{c[0].Packets, c[0].Bytes, 0})
		all.Add(name+undecided, Counter{Packets: c[0].Packets - c[0].Decided})
		all.Add(name+" shadow", Counter{Packets: c[0].Shadow})
	}
	exits, err := b.plane.ExitCounters()
	if err != nil {
		return nil, err
	}
	for name, id := range b.ids.Exits {
		all.Add("redirect "+name, Counter{Packets: exits[id].Redirected})
		all.Add("mirror "+name, Counter{Packets: exits[id].Mirrored + exits[id].Failed})
	}
	backends := map[string][]uint32{"none": {0}}
	for key, id := range b.backends {
		backends[key.String()] = append(backends[key.String()], uint32(id))
	}
	for name, ids := range backends {
		parts, err := b.plane.BackendCounters(ids)
		if err != nil {
			return nil, err
		}
		for _, c := range parts {
			all.Add("backend "+name, Counter{c.Packets, c.Bytes, c.Flows})
			all.Add("named "+name, Counter{Packets: c.Named})
		}
	}
	totals, err := b.plane.FlowTotals()
	if err != nil {
		return nil, err
	}
	all.Add(sentDecided, Counter{Packets: totals.OutDecided})
	effects, err := b.plane.EffectTotals()
	if err != nil {
		return nil, err
	}
	if effects.Lost != 0 || effects.Shared != 0 || effects.Contended != 0 {
		return nil, fmt.Errorf("a table of effects was too small: %+v", effects)
	}
	return all, b.checkTotals(all, totals)
}

// checkTotals: allowed + blocked + decided + default are the packets that reached the filter, exactly.
func (b *Box) checkTotals(all Counters, totals abi.FlowTotals) error {
	var decided uint64
	for name, c := range all {
		switch {
		case strings.HasPrefix(name, "reason "), strings.HasPrefix(name, "backend "), strings.HasPrefix(name, "named "), strings.HasPrefix(name, "redirect "),
			strings.HasPrefix(name, "mirror "), strings.HasSuffix(name, " shadow"), name == sentDecided:
		case strings.HasSuffix(name, undecided):
			decided -= c.Packets
		default:
			decided += c.Packets
		}
	}
	decided -= totals.OutDecided
	if decided != totals.Filtered {
		return fmt.Errorf("%d packets reached the filter, and it decided %d", totals.Filtered, decided)
	}
	if totals.Refused != 0 || totals.Spilled != 0 {
		return errors.New("the flow table was too small")
	}
	return nil
}
