package dataplane

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/model"
)

const (
	xdpDrop = 1
	xdpPass = 2
	tcNext  = ^uint32(0)
	tcShot  = 2
)

func TestRunOnEveryHook(t *testing.T) {
	features := allOn()
	features.Trace = true
	d := private(t, features)
	frame := udp4(netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1"))
	commit(t, d, 1)
	for _, c := range []struct {
		hook       Hook
		pass, drop uint32
	}{{HookXDP, xdpPass, xdpDrop}, {HookIngress, tcNext, tcShot}, {HookEgress, tcNext, tcNext}} {
		result, err := d.Run(c.hook, frame, 0)
		if err != nil {
			t.Fatal(err)
		}
		if result.Action != c.pass || !bytes.Equal(result.Frame, frame) {
			t.Errorf("hook %d: action %d, frame %x", c.hook, result.Action, result.Frame)
		}
		if c.hook != HookEgress && abi.Reason(result.Trace.Reason) != abi.ReasonDefaultPass {
			t.Errorf("hook %d: trace %+v", c.hook, result.Trace)
		}
		add(t, d, Block{Prefix: prefix("198.51.100.0/24")})
		if result, err = d.Run(c.hook, frame, 0); err != nil || result.Action != c.drop {
			t.Errorf("hook %d: blocked: action %d, %v", c.hook, result.Action, err)
		}
		if _, err := d.RemoveBlocks([]netip.Prefix{prefix("198.51.100.0/24")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Run(HookXDP, frame[:13], 0); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame without a whole header: %v", err)
	}
	for _, size := range []int{14, 20, 1514, 9014, 60000} {
		long := append(bytes.Clone(frame), make([]byte, 60000)...)[:size]
		if result, err := d.Run(HookXDP, long, 0); err != nil || len(result.Frame) != size {
			t.Errorf("a frame of %d bytes: %d left, %v", size, len(result.Frame), err)
		}
	}
	if _, err := d.Run(HookXDP, frame, 1<<30); err == nil || errors.Is(err, ErrFrame) {
		t.Errorf("on an interface that doesn't exist: %v", err)
	}
}

func TestSiblingSeesWhatIsLiveAndChangesNothing(t *testing.T) {
	d := open(t, testDir(t), compile.Features{Blocks: true, Rules: true})
	defer closeIt(t, d)
	frame := udp4(netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1"))
	drop, err := d.NewTable(abi.TableRules, []abi.Line{abi.ToLine(abi.RulesHead{DefaultVerdict: uint8(abi.VerdictDrop)})})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(1, Tables{abi.TableRules: drop}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Run(HookXDP, frame, 0); err == nil {
		t.Error("a frame was run on the live programs")
	}
	reason := func(s *Dataplane) abi.Reason {
		t.Helper()
		result, err := s.Run(HookXDP, frame, 0)
		if err != nil {
			t.Fatal(err)
		}
		return abi.Reason(result.Trace.Reason)
	}
	sibling := func() *Dataplane {
		t.Helper()
		s, err := d.Sibling()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := sibling()
	if got := reason(s); got != abi.ReasonDefaultDrop {
		t.Errorf("by the rules in force: %s", got)
	}
	closeIt(t, s)
	add(t, d, Block{Prefix: prefix("198.51.100.7/32"), Expires: time.Now().Add(time.Hour)})
	s = sibling()
	defer closeIt(t, s)
	later, err := d.SiblingIf(Assumption{NoFlows: true, Later: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, later)
	if got := reason(later); got != abi.ReasonDefaultDrop {
		t.Errorf("when the block has expired: %s", got)
	}
	for generation := uint32(2); generation < 6; generation++ { // the sibling keeps its own
		if err := d.Commit(generation, Tables{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := reason(s); got != abi.ReasonBlocked {
		t.Errorf("blocked: %s", got)
	}
	if s.control.HashKey != d.control.HashKey {
		t.Error("flows of the sibling are hashed by another key")
	}
	if n := packets(t, d); n != 0 {
		t.Errorf("%d packets counted live", n)
	}
	if b := blocksOf(t, d)[0]; b.Packets != 0 {
		t.Errorf("hits counted live: %+v", b)
	}
	totals, err := d.FlowTotals()
	if err != nil || totals.Accounted != 0 || totals.Filtered != 0 {
		t.Errorf("live totals %+v, %v", totals, err)
	}
}

func TestBackends(t *testing.T) {
	d := mapsOnly(t)
	want := abi.Backend{State: uint8(abi.BackendUsed | abi.BackendUp), Service: 3, Ifindex: 7, Mtu: 1500}
	for i := range 3 {
		want.Ifindex++
		if err := d.PutBackend(9, want); err != nil {
			t.Fatal(err)
		}
		got, err := d.Backend(9)
		if err != nil {
			t.Fatal(err)
		}
		if want.Seq = got.Seq; got != want || got.Seq != uint32(2*(i+1)) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if err := d.PutBackend(uint16(abi.BackendIds), want); err == nil {
		t.Error("a backend id out of bounds was written")
	}
}

func TestRings(t *testing.T) {
	d := mapsOnly(t)
	slots := make([]uint16, 101) // not whole lines
	for i := range slots {
		slots[i] = uint16(i + 1)
	}
	if err := d.PutRing(5, slots); err != nil {
		t.Fatal(err)
	}
	if err := d.PutRing(5, slots[:7]); err != nil { // rings may differ in length
		t.Fatal(err)
	}
	var id uint32
	if err := d.maps[abi.AbiMapRings].Lookup(uint32(5), &id); err != nil || id == 0 {
		t.Errorf("ring 5 is map %d, %v", id, err)
	}
	for range 2 {
		if err := d.DeleteRing(5); err != nil {
			t.Error(err)
		}
	}
	if err := d.PutRing(uint32(abi.Rings), slots); err == nil {
		t.Error("a ring id out of bounds was written")
	}
}

func TestHealthFlowsAreCountedAndForgotten(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	local, remote := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.10:80")
	for range 2 { // the second changes nothing
		if err := d.AddHealthFlow(local, remote, model.ProtoTCP, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.AddHealthFlow(remote, local, model.ProtoTCP, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.RemoveHealthFlow(remote, local, model.ProtoTCP); err != nil {
			t.Fatal(err)
		}
	}
	if d.control.Health != 1 {
		t.Errorf("%d health flows", d.control.Health)
	}
	closeIt(t, d)
	d = open(t, dir)
	defer closeIt(t, d)
	if d.control.Health != 0 {
		t.Errorf("%d health flows of a daemon that is gone", d.control.Health)
	}
}

func TestInterfaces(t *testing.T) {
	d := mapsOnly(t)
	if err := d.SetInterface(7, abi.Interface{Mac: [6]uint8{2, 0, 0, 0, 0, 1}, Flags: uint8(abi.InterfaceIngress)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.DeleteInterface(7); err != nil {
			t.Error(err)
		}
	}
}

func TestDecap(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	for _, c := range []struct {
		path model.Path
		pin  string
	}{{model.PathTC, ""}, {model.PathXDP, ""}, {model.PathXDPGeneric, dir}, {model.PathTC, dir}, {"", dir}} {
		w.do(t, func() error {
			d, err := AttachDecap(DecapOptions{Name: "eth0", Ifindex: w.ifindex, Path: c.path, Pin: c.pin, Netlink: w.netlink})
			if err != nil {
				return err
			}
			if c.path == "" {
				c.path = model.PathTC
			}
			if a := d.Attachment(); a.Path != c.path || a.Ifindex != w.ifindex {
				t.Errorf("%+v", a)
			}
			if err := unix.Access(dir, unix.F_OK); (err == nil) != (c.pin != "") {
				t.Errorf("%s: the directory: %v", c.path, err)
			}
			counts, err := d.Counts()
			if counts != (DecapCounts{}) {
				t.Errorf("%+v", counts)
			}
			closeIt(t, d)
			return err
		})
	}
	w.do(t, func() error { return DetachDecap(dir, "eth0", w.netlink) })
	if err := unix.Access(dir, unix.F_OK); err == nil {
		t.Error("the directory is still there")
	}
	if err := DetachDecap(dir, "eth0", nil); err == nil {
		t.Error("detached twice")
	}
}

// TestCheckProgram: what has no mark is left alone, what has one goes to the backend that it is registered with, or nowhere.
func TestCheckProgram(t *testing.T) {
	d := private(t, allOn())
	local, service := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:53")
	frame := udp4(local.Addr(), service.Addr())
	frame[34], frame[35], frame[36], frame[37] = 40000>>8, 40000&0xff, 0, 53
	run := func(mark uint32) (uint32, []byte) {
		t.Helper()
		options := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+frameGrowth), Context: &markedContext{Mark: mark, Ifindex: 1}}
		action, err := program(t, d, HookCheck).Run(options)
		if err != nil {
			t.Fatal(err)
		}
		return action, options.DataOut
	}
	if action, _ := run(0); action != tcNext {
		t.Errorf("not marked: action %d", action)
	}
	if action, _ := run(uint32(abi.CheckMark)); action != tcShot {
		t.Errorf("not registered: action %d", action)
	}
	backend := abi.Backend{State: uint8(abi.BackendUsed | abi.BackendHop), Mode: uint8(abi.ModeIpip), Ifindex: 1, Dmac: [6]byte{2, 1}, Smac: [6]byte{2, 2}}
	backend.Address, _ = abi.PutAddr(netip.MustParseAddr("10.0.0.11"))
	backend.Source, _ = abi.PutAddr(netip.MustParseAddr("10.0.0.1"))
	if err := d.PutBackend(7, backend); err != nil { // which is down: that is what checks are for
		t.Fatal(err)
	}
	if err := d.AddHealthFlow(local, service, unix.IPPROTO_UDP, 7); err != nil {
		t.Fatal(err)
	}
	if err := d.AddHealthFlow(local, service, unix.IPPROTO_UDP, 8); err == nil {
		t.Error("two backends have the same check")
	}
	const tcRedirect = 7
	action, out := run(uint32(abi.CheckMark))
	if action != tcRedirect || len(out) != len(frame)+20 || !bytes.Equal(out[34:], frame[14:]) || !bytes.Equal(out[30:34], []byte{10, 0, 0, 11}) {
		t.Errorf("action %d, frame %x", action, out)
	}
	if action, _ := run(0); action != tcNext {
		t.Errorf("registered, not marked: action %d", action)
	}
}

// markedContext is the beginning of struct __sk_buff with a mark.
type markedContext struct {
	Len, PktType, Mark uint32
	_                  [6]uint32
	IngressIfindex     uint32
	Ifindex            uint32
}
