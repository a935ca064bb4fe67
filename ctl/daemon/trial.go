package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/flow"
	"gardu/ctl/lint"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
	"gardu/ctl/reconcile"
	"gardu/ctl/rule"
)

// judgedMax is how many live flows are judged for a plan, each up to four times: about a second.
const judgedMax = 50_000

// newTrial takes live flows, and compares what is in force with a candidate.
func (d *Daemon) newTrial(now *applied, c compiled, state map[uint16]compile.Runtime, ssh string) (t *trial, err error) {
	session, known := lint.Session(ssh, d.netdev)
	t = &trial{daemon: d, links: d.linkNames(), services: map[string]*api.PlannedAssignment{}, groups: map[verdictGroup]*api.PlannedVerdict{},
		reused: c.reused.Backends, isSession: func(f *flow.Flow) bool { return known && isSession(f, session) },
		tables: [2]*compile.Tables{now.tables, c.tables}}
	if d.plane.FlowsMax() == 0 {
		return t, nil
	}
	if t.live, err = d.liveFlows(judgedMax, t.isSession); err != nil {
		return nil, err
	}
	if len(t.live.flows) > 0 {
		t.prepare(now, c)
		t.wishes = [2]dataplane.Trial{d.trialOf(now, now.compiled, state), d.trialOf(now, c, state)}
	}
	return t, nil
}

// judgeAll judges live flows by what is in force and by a candidate, on instances beside the live one.
func (t *trial) judgeAll(ctx context.Context) (*api.PlannedFlows, error) {
	if t.daemon.plane.FlowsMax() == 0 {
		return nil, nil
	}
	t.result = api.PlannedFlows{Live: t.live.seen, Judged: len(t.live.flows)}
	for i := range t.live.flows {
		if err := cmp.Or(ctx.Err(), t.judge(&t.live.flows[i])); err != nil {
			return nil, err
		}
	}
	return t.finish(), nil
}

// liveFlows are some of the flows that may go on, and of those that are dropped at present.
type liveFlows struct {
	flows []flow.Flow
	seen  int
}

// liveFlows takes the first flows that the tables hold, which are where a hash put them. always takes one in any case.
func (d *Daemon) liveFlows(most int, always func(*flow.Flow) bool) (live liveFlows, err error) {
	clock, err := d.clock()
	if err != nil {
		return live, err
	}
	began, idle := time.Now(), d.current.Load().snapshot.Flows.Idle
	take := func(f *flow.Flow) bool {
		if f.Packets+f.PacketsReply == 0 || f.Fragment || !isActive(f, began, idle) {
			return true
		}
		live.seen++
		if len(live.flows) < most || always(f) {
			live.flows = append(live.flows, *f)
		}
		return true
	}
	err = d.readFlows(func(tables []*flow.Table) error { return flow.Flows(tables, clock, take) })
	if err != nil {
		return live, err
	}
	return live, d.readDropped(func(dropped *flow.Table) error {
		if dropped == nil {
			return nil
		}
		return flow.Flows([]*flow.Table{dropped}, clock, take)
	})
}

func isSession(f *flow.Flow, p lint.Peer) bool {
	return f.Proto == model.ProtoTCP && (f.Src == p.Remote && f.Dst == p.Local || f.Src == p.Local && f.Dst == p.Remote)
}

// trial is two instances with different snapshots, and what came of putting flows through both.
type trial struct {
	daemon        *Daemon
	before, after trialSide
	live          liveFlows
	tables        [2]*compile.Tables // of both
	wishes        [2]dataplane.Trial // to have them in force
	links         map[int]string
	indexes       map[string]int
	macs          map[string][6]byte
	reused        []uint16 // backends that would be others
	isSession     func(*flow.Flow) bool

	clock    uint64
	result   api.PlannedFlows
	groups   map[verdictGroup]*api.PlannedVerdict
	services map[string]*api.PlannedAssignment
}

// trialSide is one of the two.
type trialSide struct {
	plane    *dataplane.Dataplane
	rules    map[uint32]string
	services map[uint16]string
	hooks    map[string]dataplane.Hook // of the interfaces that gardu sits on
	out      bool                      // rules judge what is sent
}

// outcome is what became of a packet.
type outcome struct {
	verdict abi.Verdict
	reason  abi.Reason
	rule    string
	service string
	backend uint16
}

func (o outcome) passes() bool { return o.verdict != abi.VerdictDrop && o.verdict != abi.VerdictReject }

// prepare learns the names of both sides, and where gardu sits with either.
func (t *trial) prepare(now *applied, c compiled) {
	d := t.daemon
	t.macs, t.indexes = map[string][6]byte{}, map[string]int{}
	for index, name := range t.links {
		t.indexes[name] = index
	}
	hooks := map[string]dataplane.Hook{}
	for _, i := range d.interfaceStatus(now, nil) {
		if link, _ := d.links.get(i.Name); i.Attached {
			hooks[i.Name], t.macs[i.Name] = hookOf(i.Path), link.mac
		}
	}
	t.before = trialSide{rules: now.rules, services: now.services, hooks: hooks, out: now.tables.Features.Out}
	t.after = trialSide{rules: turn(c.ids.Rules), services: turn(c.ids.Services), hooks: map[string]dataplane.Hook{}, out: c.tables.Features.Out}
	for _, i := range c.interfaces {
		t.after.hooks[i.Name] = dataplane.HookIngress
		if hook, ok := hooks[i.Name]; ok {
			t.after.hooks[i.Name] = hook
		}
	}
}

// load makes both instances, with the programs that most packets will meet: the kernel verifies them side by side.
func (t *trial) load() error {
	if len(t.live.flows) == 0 {
		return nil
	}
	plane := t.daemon.plane
	return bothSides(
		func() (err error) { t.before.plane, err = ready(plane.Sibling, t.before.hooks); return err },
		func() (err error) {
			t.after.plane, err = ready(func() (*dataplane.Dataplane, error) { return plane.Try(t.wishes[1]) }, t.after.hooks)
			return err
		},
	)
}

func (t *trial) close() {
	for _, side := range []*trialSide{&t.before, &t.after} {
		if side.plane != nil {
			side.plane.Close()
		}
	}
}

// bothSides runs two functions at once.
func bothSides(one, other func() error) error {
	done := make(chan error, 1)
	go func() { done <- one() }()
	err := other()
	return cmp.Or(<-done, err)
}

// ready makes an instance and loads its programs for these hooks.
func ready(load func() (*dataplane.Dataplane, error), hooks map[string]dataplane.Hook) (*dataplane.Dataplane, error) {
	plane, err := load()
	if err != nil {
		return nil, err
	}
	for _, hook := range hooks {
		if _, err := plane.Program(hook); err != nil {
			plane.Close()
			return nil, err
		}
	}
	return plane, nil
}

func hookOf(path model.Path) dataplane.Hook {
	if path == model.PathTC {
		return dataplane.HookIngress
	}
	return dataplane.HookXDP
}

// trialOf is what a candidate would put in force.
func (d *Daemon) trialOf(now *applied, c compiled, state map[uint16]compile.Runtime) dataplane.Trial {
	trial := dataplane.Trial{Features: c.tables.Features, Rings: map[uint32][]uint16{}, Backends: map[uint16]abi.Backend{},
		Interfaces: map[int]abi.Interface{}, Exits: map[uint16]abi.Exit{}}
	was := [abi.TableCount][]abi.Line{abi.TableSets: now.tables.Sets, abi.TableRules: now.tables.Rules, abi.TableServices: now.tables.Services}
	for which, lines := range [abi.TableCount][]abi.Line{abi.TableSets: c.tables.Sets, abi.TableRules: c.tables.Rules, abi.TableServices: c.tables.Services} {
		if !slices.Equal(lines, was[which]) {
			trial.Tables[which] = lines
		}
	}
	for _, ring := range c.tables.Rings {
		trial.Rings[ring.ID] = ring.Build(state)
	}
	for _, backend := range c.tables.Backends {
		trial.Backends[backend.ID] = d.trialBackend(backend)
	}
	for _, i := range c.interfaces {
		if link, err := d.netdev.Link(i.Name); err == nil {
			trial.Interfaces[link.Index] = abi.Interface{Mac: link.MAC, Flags: uint8(abi.InterfaceIngress), Number: c.ids.Interfaces[i.Name]}
		}
	}
	for name, id := range c.ids.Exits {
		trial.Exits[id] = d.findExit(name).Exit
	}
	return trial
}

// trialBackend is the entry of a backend. The neighbour of one that is new need not be known yet: it will be.
func (d *Daemon) trialBackend(backend compile.Backend) abi.Backend {
	state, _ := d.reconciler.State(backend.ID)
	if state.Hop.Ifindex == 0 {
		hop, err := d.netdev.NextHop(backend.Address)
		state.Hop = way{hop: hop, mac: hop.DstMAC, err: err}.known()
	}
	if state.Hop.DstMAC == [6]byte{} {
		state.Hop.DstMAC = [6]byte{0: 2}
	}
	return reconcile.Entry(backend, state)
}

// judge puts a packet of each direction of a flow through both instances.
func (t *trial) judge(f *flow.Flow) error {
	var before, after outcome
	for _, reply := range []bool{false, true} {
		if reply && (f.PacketsReply == 0 || f.Service != 0) { // what backends answer has other ends, or goes another way
			continue
		}
		frame, ifname, out, err := t.packet(f, reply)
		if err != nil {
			return err
		}
		b, err := t.run(&t.before, frame, ifname, out)
		if err != nil {
			return err
		}
		a, err := t.run(&t.after, frame, ifname, out)
		if err != nil {
			return err
		}
		if !reply || before.passes() && after.passes() && (b.verdict != a.verdict || b.service != a.service) {
			before, after = b, a
		}
		if !reply {
			t.assign(f, b, a)
		}
	}
	t.note(f, before, after)
	return nil
}

// assign follows the opener of a flow to its backend. One that is on a backend stays there while its service has it.
func (t *trial) assign(f *flow.Flow, before, after outcome) {
	if before.service == "" || f.Backend == 0 || before.verdict != abi.VerdictForward {
		return
	}
	s := t.services[before.service]
	if s == nil {
		s = &api.PlannedAssignment{Service: before.service}
		t.services[before.service] = s
	}
	s.Live++
	switch {
	case after.service != before.service || after.verdict != abi.VerdictForward || slices.Contains(t.reused, f.Backend):
		s.Leave++
	case after.backend != before.backend:
		s.Anew++
	}
}

// verdictGroup is what flows have in common that are told together.
type verdictGroup struct {
	before, after abi.Verdict
	reason        abi.Reason
	rule, service string
}

// examplesMax is how many flows of a group are told by name.
const examplesMax = 5

func (t *trial) note(f *flow.Flow, before, after outcome) {
	if before.verdict == after.verdict && before.service == after.service {
		return
	}
	switch {
	case before.passes() && !after.passes():
		t.result.Cut++
	case !before.passes() && after.passes():
		t.result.Opened++
	}
	key := verdictGroup{before.verdict, after.verdict, after.reason, after.rule, cmp.Or(before.service, after.service)}
	g := t.groups[key]
	if g == nil {
		g = &api.PlannedVerdict{Before: key.before.String(), After: key.after.String(), Reason: key.reason.String(), Rule: key.rule, Service: key.service}
		t.groups[key] = g
	}
	g.Flows++
	if f.Proto == model.ProtoTCP && f.State&abi.FlowStateEstablished != 0 {
		g.Established++
	}
	text := flowText(f)
	if t.isSession(f) {
		g.Session = text
	}
	if len(g.Examples) < examplesMax {
		g.Examples = append(g.Examples, text)
	}
}

func flowText(f *flow.Flow) string {
	if f.Src.Port() == 0 && f.Dst.Port() == 0 {
		return fmt.Sprintf("%s %s > %s", rule.ProtocolName(f.Proto), f.Src.Addr(), f.Dst.Addr())
	}
	return fmt.Sprintf("%s %s > %s", rule.ProtocolName(f.Proto), f.Src, f.Dst)
}

// run puts a frame through one instance. What gardu doesn't sit on, passes.
func (t *trial) run(side *trialSide, frame []byte, ifname string, out bool) (outcome, error) {
	hook, ok := side.hooks[ifname]
	if out {
		hook, ok = dataplane.HookEgress, ok && side.out
	}
	if !ok {
		return outcome{verdict: abi.VerdictPass}, nil
	}
	t.clock += uint64(24 * time.Hour) // so that no flow meets a limit that others used up
	side.plane.SetClock(t.clock)
	result, err := side.plane.Run(hook, frame, t.indexes[ifname])
	if err != nil {
		return outcome{}, err
	}
	reason := abi.Reason(result.Trace.Reason)
	o := outcome{verdict: reason.Verdict(), reason: reason, service: side.services[result.Trace.Service], backend: result.Trace.Backend}
	if result.Trace.Rule >= uint32(abi.FirstRuleId) {
		o.rule = side.rules[result.Trace.Rule]
	}
	return o, nil
}

// packet makes one like those of a flow, from the middle of it, and says where it is seen.
func (t *trial) packet(f *flow.Flow, reply bool) (frame []byte, ifname string, out bool, err error) {
	src, dst, packets, bytes := f.Src, f.Dst, f.Packets, f.Bytes
	ttl, dscp, ifindex, out := f.TTLMin, f.DSCP, f.Ifindex, f.Out
	if reply {
		src, dst, packets, bytes = f.Dst, f.Src, f.PacketsReply, f.BytesReply
		ttl, dscp, ifindex, out = f.TTLMinReply, f.DSCPReply, f.IfindexReply, f.OutReply
	}
	text := packetText(f, reply, src, dst)
	length := int(bytes / max(1, packets))
	if room := length - headersOf(f); room > 0 {
		text += fmt.Sprintf(" len %d", min(room, 1400))
	}
	text += fmt.Sprintf(" ttl %d", ttl)
	if dscp != 0 {
		text += fmt.Sprintf(" dscp %d", dscp)
	}
	if f.VLAN != 0 {
		text += fmt.Sprintf(" vlan %d", f.VLAN)
	}
	if frame, err = pkt.Parse(text); err != nil {
		return nil, "", false, fmt.Errorf("make a packet of the flow %s: %w", flowText(f), err)
	}
	ifname = t.links[int(ifindex)]
	if mac, ok := t.macs[ifname]; ok && !out {
		copy(frame, mac[:])
	}
	return frame, ifname, out, nil
}

// headersOf is about what a packet's headers take.
func headersOf(f *flow.Flow) int {
	n := 20
	if f.Src.Addr().Is6() {
		n = 40
	}
	if f.Proto == model.ProtoTCP {
		return n + 20
	}
	return n + 8
}

const (
	protoICMP   = 1
	protoICMPv6 = 58
	protoSCTP   = 132

	flagSYN = 0x02
	flagACK = 0x10
)

// packetText is the head of a packet in the words of pkt.
func packetText(f *flow.Flow, reply bool, src, dst netip.AddrPort) string {
	switch f.Proto {
	case model.ProtoTCP:
		flags := "ack"
		if f.TCPFlags&flagACK == 0 && f.TCPFlags&flagSYN != 0 && !reply {
			flags = "syn" // nothing else of it was seen
		}
		return fmt.Sprintf("tcp %s > %s %s", src, dst, flags)
	case model.ProtoUDP:
		return fmt.Sprintf("udp %s > %s", src, dst)
	case protoSCTP:
		return fmt.Sprintf("sctp %s > %s", src, dst)
	case protoICMP, protoICMPv6:
		if f.Src.Port() == 0 {
			break
		}
		what := "echo-request"
		if reply {
			what = "echo-reply"
		}
		return fmt.Sprintf("icmp %s > %s %s id %d", src.Addr(), dst.Addr(), what, f.Src.Port())
	}
	return fmt.Sprintf("ip %s > %s proto %d", src.Addr(), dst.Addr(), f.Proto)
}

// finish sorts what was found.
func (t *trial) finish() *api.PlannedFlows {
	t.result.Otherwise, t.result.Services = []api.PlannedVerdict{}, []api.PlannedAssignment{}
	for _, g := range t.groups {
		t.result.Otherwise = append(t.result.Otherwise, *g)
	}
	slices.SortFunc(t.result.Otherwise, func(a, b api.PlannedVerdict) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Service, b.Service), cmp.Compare(a.After, b.After))
	})
	for _, s := range t.services {
		if s.Leave+s.Anew > 0 {
			t.result.Services = append(t.result.Services, *s)
		}
	}
	slices.SortFunc(t.result.Services, func(a, b api.PlannedAssignment) int { return cmp.Compare(a.Service, b.Service) })
	return &t.result
}
