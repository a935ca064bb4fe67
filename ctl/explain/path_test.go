package explain_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
)

// The box that all packet tests play on: packets come in on one interface, or another; all backends are behind a third.
const (
	receivedOn = 1 // loopback: test runs need an interface that exists
	sentBy     = 2
	alsoOn     = 3
)

// received are the interfaces that packets come in on, in the order in which the configuration has them.
var received = []int{receivedOn, alsoOn}

var (
	ourMAC  = [6]byte{2, 0, 0, 0, 0, 2}
	source4 = netip.MustParseAddr("10.0.0.1")
	source6 = netip.MustParseAddr("2001:db8:ffff::1")
)

// path is a packet path under test: the reference model, or the programs on a hook.
type path interface {
	Apply(*model.Snapshot) error
	SetBackend(explain.BackendKey, explain.BackendState) error
	Block(netip.Prefix, time.Time) error
	Unblock(netip.Prefix) error
	Check(proto uint8, local, remote netip.AddrPort) error
	SetExit(string, explain.Exit) error
	LimitRejects(int) error
	WatchDrops(bool) error
	Judge(on int, frame []byte) (explain.Outcome, error) // on: which of the snapshot's interfaces
	JudgeSent(on int, frame []byte) (explain.Outcome, error)
	Wait(time.Duration) error // no time passes otherwise, but for blocks
	Tick(time.Duration)       // for limits alone
	Counters() (explain.Counters, error)
}

// modelPath is the reference model.
type modelPath struct {
	model      explain.Model
	blocks     map[netip.Prefix]time.Time // those that expire
	interfaces []model.Interface
}

func newModelPath() *modelPath {
	return &modelPath{model: explain.Model{MAC: ourMAC, Clock: firstClock, Now: time.Unix(0, 0)}, blocks: map[netip.Prefix]time.Time{}}
}

func (p *modelPath) Apply(s *model.Snapshot) error {
	p.model.Apply(s)
	p.interfaces = s.Interfaces
	return nil
}

func (p *modelPath) SetBackend(key explain.BackendKey, state explain.BackendState) error {
	p.model.SetBackend(key, state)
	return nil
}

func (p *modelPath) Block(prefix netip.Prefix, until time.Time) error {
	p.model.Block(prefix)
	delete(p.blocks, prefix)
	if !until.IsZero() {
		p.blocks[prefix] = until
	}
	return nil
}

func (p *modelPath) Unblock(prefix netip.Prefix) error {
	p.model.Unblock(prefix)
	delete(p.blocks, prefix)
	return nil
}

// expire takes out the blocks whose time is over: the programs know that from a clock that no test stops.
func (p *modelPath) expire() {
	for prefix, until := range p.blocks {
		if !time.Now().Before(until) {
			_ = p.Unblock(prefix)
		}
	}
}

func (p *modelPath) Check(proto uint8, local, remote netip.AddrPort) error {
	p.model.Check(proto, local, remote)
	return nil
}

func (p *modelPath) SetExit(name string, exit explain.Exit) error {
	p.model.SetExit(name, exit)
	return nil
}

func (p *modelPath) LimitRejects(answers int) error {
	p.model.LimitRejects(answers)
	return nil
}

func (p *modelPath) WatchDrops(on bool) error {
	p.model.WatchDrops = on
	return nil
}

func (p *modelPath) Judge(on int, frame []byte) (explain.Outcome, error) {
	p.expire()
	p.model.Ifindex, p.model.Interface = received[on], p.interfaces[on].Name
	return p.model.Judge(frame), nil
}

func (p *modelPath) JudgeSent(on int, frame []byte) (explain.Outcome, error) {
	p.expire()
	p.model.Interface = p.interfaces[on].Name
	return p.model.JudgeSent(frame), nil
}

func (p *modelPath) Wait(ahead time.Duration) error {
	p.model.Now = p.model.Now.Add(ahead)
	p.Tick(ahead)
	return nil
}

func (p *modelPath) Tick(d time.Duration) { p.model.Clock += d }

func (p *modelPath) Counters() (explain.Counters, error) { return p.model.Counters(), nil }

// boxPath is the programs on a hook.
type boxPath struct {
	*explain.Box
	hook  dataplane.Hook
	clock time.Duration
	watch bool

	snapshot *model.Snapshot
}

// firstClock is what limits take for the time at the beginning.
const firstClock = time.Hour

func (p *boxPath) Wait(ahead time.Duration) error {
	p.Tick(ahead)
	return p.Box.Wait(ahead)
}

func (p *boxPath) WatchDrops(on bool) error {
	p.watch = on
	return p.Box.WatchDrops(on)
}

func (p *boxPath) Tick(d time.Duration) { p.clock += d }

// newBox loads the programs. It keeps the test on one CPU, because each CPU remembers its flows for itself, and in an
// empty network namespace, where no route or neighbour of this machine is found. The thread ends with the test.
func newBox(t testing.TB, features compile.Features) *explain.Box {
	t.Helper()
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	addInterfaces(t)
	box, err := explain.NewBox(features)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// addInterfaces makes the interfaces with the indexes sentBy and alsoOn: bridges, for which one call is enough.
func addInterfaces(t testing.TB) {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	for _, name := range []string{"b2", "b3"} {
		request, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(socket, unix.SIOCBRADDBR, request); err != nil {
			t.Fatal(err)
		}
	}
}

// newBoxPath is a box that lives as long as the test.
func newBoxPath(t testing.TB, hook dataplane.Hook, features compile.Features) *boxPath {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	box := newBox(t, features)
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	return stopped(t, box, hook)
}

// stopped is the path through a box whose clock stands still but for Wait, so that nothing depends on how quick the test is.
func stopped(t testing.TB, box *explain.Box, hook dataplane.Hook) *boxPath {
	t.Helper()
	if err := box.Wait(0); err != nil {
		t.Fatal(err)
	}
	return &boxPath{Box: box, hook: hook, clock: firstClock}
}

func (p *boxPath) Apply(s *model.Snapshot) error {
	for i, ifindex := range received[:min(len(received), len(s.Interfaces))] {
		if err := p.SetInterface(ifindex, s.Interfaces[i].Name, ourMAC); err != nil {
			return err
		}
	}
	p.snapshot = s
	return p.Box.Apply(s)
}

func (p *boxPath) Judge(on int, frame []byte) (explain.Outcome, error) {
	return p.judge(p.hook, on, frame)
}

// JudgeSent: whatever receives, what is sent is seen at tc egress.
func (p *boxPath) JudgeSent(on int, frame []byte) (explain.Outcome, error) {
	return p.judge(dataplane.HookEgress, on, frame)
}

func (p *boxPath) judge(hook dataplane.Hook, on int, frame []byte) (explain.Outcome, error) {
	p.SetClock(p.clock)
	if err := p.Load(hook); err != nil {
		return explain.Outcome{}, err
	}
	if p.watch { // again: it ends by itself, so no program may have to be loaded before the packet
		if err := p.Box.WatchDrops(true); err != nil {
			return explain.Outcome{}, err
		}
	}
	result, err := p.Run(hook, frame, received[on])
	if err != nil {
		return explain.Outcome{}, err
	}
	names := map[int]string{}
	for i, ifindex := range received[:min(len(received), len(p.snapshot.Interfaces))] {
		names[ifindex] = p.snapshot.Interfaces[i].Name
	}
	told := explain.Explain(result, p.Names(), received[on], names)
	if explain.Why(&told, p.snapshot, frame, result, hook == dataplane.HookEgress); told.Disagreement != "" {
		return explain.Outcome{}, errors.New(told.Disagreement)
	}
	out := explain.Outcome{
		Verdict: told.Verdict, Reason: told.Reason, Rule: told.Rule, Service: told.Service, Backend: told.Backend,
		Ifindex: int(result.Trace.Ifindex),
	}
	if done := actions[hook][result.Action]; done != told.Verdict && !(done == "send" && told.Out != nil) {
		return out, fmt.Errorf("action %d (%s) doesn't fit reason %s", int32(result.Action), done, told.Reason)
	}
	if out.Notes, err = p.notes(frame, out); err != nil {
		return out, err
	}
	if told.Out != nil {
		out.Frame = result.Frame
	} else if told.Verdict == explain.Pass && !bytes.Equal(result.Frame, frame) {
		return out, fmt.Errorf("passed, but as %x", result.Frame)
	}
	return out, nil
}

// notes are those of the frame that was judged last, whose event must tell what became of it.
func (p *boxPath) notes(frame []byte, out explain.Outcome) ([]string, error) {
	events, err := p.Events()
	if err != nil || len(events) == 0 {
		return nil, err
	}
	e := events[0]
	if len(events) > 1 || e.Reason.String() != out.Reason || e.Length != len(frame) || !bytes.HasPrefix(frame, e.Head) || len(e.Head) != min(len(frame), 128) {
		return nil, fmt.Errorf("%d events, the first of them %+v", len(events), e)
	}
	var notes []string
	for _, n := range e.Notes {
		notes = append(notes, p.Note(n))
	}
	return notes, nil
}

// actions are what the programs' return values do.
var actions = map[dataplane.Hook]map[uint32]string{
	dataplane.HookXDP:     {1: explain.Drop, 2: explain.Pass, 3: "send", 4: "send"},
	dataplane.HookIngress: {2: explain.Drop, 0xffffffff: explain.Pass, 7: "send"},
	dataplane.HookEgress:  {2: explain.Drop, 0xffffffff: explain.Pass},
}

var hooks = map[string]dataplane.Hook{"xdp": dataplane.HookXDP, "tc": dataplane.HookIngress}

// allFeatures is everything that can be loaded.
var allFeatures = compile.AllFeatures()

// keysOf lists the backends of a snapshot.
func keysOf(s *model.Snapshot) []explain.BackendKey {
	var keys []explain.BackendKey
	for _, service := range s.Services {
		for _, b := range service.Backends {
			keys = append(keys, explain.BackendKey{Service: service.Name, Name: b.Name, Address: b.Address, Mode: service.Forward})
		}
	}
	return keys
}

// reachable is the state of a backend that is up, and whose MAC address tells the last byte of its own address.
func reachable(key explain.BackendKey) explain.BackendState {
	state := explain.BackendState{
		Hop: true, Ifindex: sentBy, MTU: 1500, OwnMAC: ourMAC, Source: source6,
		NextMAC: [6]byte{2, 0, 0, 0, 1, key.Address.AsSlice()[key.Address.BitLen()/8-1]},
	}
	if key.Address.Is4() {
		state.Source = source4
	}
	return state
}
