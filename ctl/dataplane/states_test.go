package dataplane

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// segment is a frame with a TCP segment.
func segment(from, to netip.AddrPort, flags byte) []byte {
	frame := make([]byte, 14+20+20)
	frame[12] = 0x08
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12], tcp[13] = 5<<4, flags
	return frame
}

// stateOf puts a frame through a hook and tells what state it had.
func stateOf(t *testing.T, d *Dataplane, hook Hook, frame []byte) abi.State {
	t.Helper()
	result, err := d.Run(hook, frame, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range result.Trace.Step[:result.Trace.Steps] {
		if abi.Step(step.Step) == abi.StepState {
			return abi.State(step.Result)
		}
	}
	t.Fatal("the program doesn't say which state")
	return 0
}

// client and server are the ends of connection n.
func client(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), uint16(1024+n>>16))
}

var server = netip.MustParseAddrPort("192.0.2.10:80")

// shake makes the three packets of a handshake pass, and tells whether they were taken for one.
func shake(t *testing.T, d *Dataplane, n int) bool {
	t.Helper()
	for _, packet := range []struct {
		hook  Hook
		frame []byte
		want  abi.State
	}{
		{HookXDP, segment(client(n), server, syn), abi.StateNew},
		{HookEgress, segment(server, client(n), syn|ack), abi.StateEstablished},
		{HookXDP, segment(client(n), server, ack), abi.StateEstablished},
	} {
		if got := stateOf(t, d, packet.hook, packet.frame); got != packet.want {
			t.Logf("connection %d: state %d, want %d", n, got, packet.want)
			return false
		}
	}
	return true
}

// TestFloodsSpareConnections fills the table many times over with SYNs that are answered, and with UDP: who has shaken hands
// stays, new ones get in, and what had no place is counted.
func TestFloodsSpareConnections(t *testing.T) {
	features := allOn()
	features.Trace = true
	d := private(t, features)
	commit(t, d, 1)
	const tried = 500 // half of what the table has room for; rarely, both buckets of one are full
	var live []int
	for n := range tried {
		if shake(t, d, n) {
			live = append(live, n)
		}
	}
	before, err := d.States()
	if err != nil || int(before.Live) != len(live) || before.Max != 1024 {
		t.Fatalf("%d live, states: %+v, %v", len(live), before, err)
	}
	if len(live) < tried-5 {
		t.Errorf("%d of %d got in", len(live), tried)
	}
	udp, late := udp4(netip.Addr{}, server.Addr()), 0
	for n := range 4_000 {
		stateOf(t, d, HookXDP, segment(client(1<<16+n), server, syn))
		stateOf(t, d, HookEgress, segment(server, client(1<<16+n), syn|ack))
		copy(udp[14+12:], client(n).Addr().AsSlice())
		stateOf(t, d, HookXDP, udp)
		if n%40 == 0 { // who begins now must be able to
			if shake(t, d, 1<<17+n) {
				late++
			}
			stateOf(t, d, HookXDP, segment(client(1<<17+n), server, rst))
		}
	}
	for _, n := range live {
		if got := stateOf(t, d, HookEgress, segment(server, client(n), ack)); got != abi.StateEstablished {
			t.Errorf("connection %d: state %d after the flood", n, got)
		}
	}
	if late < 95 { // where both buckets of one are full of those that live, it must be refused
		t.Errorf("%d of 100 got in during the flood", late)
	}
	totals, err := d.FlowTotals()
	if err != nil {
		t.Fatal(err)
	}
	after, err := d.States()
	if err != nil || int(after.Live) < len(live) || after.Live > after.Max {
		t.Errorf("states: %+v, %v", after, err)
	}
	t.Logf("%d of %d live; created %d, evicted %d, refused %d", after.Live, after.Max, totals.StateCreated, totals.StateEvicted, totals.StateRefused)
	if totals.StateEvicted == 0 || totals.StateRefused > totals.StateCreated/100 {
		t.Errorf("evicted %d, refused %d", totals.StateEvicted, totals.StateRefused)
	}
	if err := d.Wait(3 * time.Hour); err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, n := range live { // places of what has timed out are free
		if shake(t, d, n) {
			again++
		}
	}
	if again < len(live)-5 {
		t.Errorf("%d of %d got in again, though all have timed out", again, len(live))
	}
}

// TestConnectionsThatAreAllAlive: a table full of them refuses, and counts it.
func TestConnectionsThatAreAllAlive(t *testing.T) {
	features := allOn()
	features.Trace = true
	d := private(t, features)
	commit(t, d, 1)
	for n := range 4096 {
		for _, flags := range []byte{syn, ack} {
			stateOf(t, d, HookXDP, segment(client(n), server, flags))
			stateOf(t, d, HookEgress, segment(server, client(n), flags|ack))
		}
	}
	totals, err := d.FlowTotals()
	if err != nil {
		t.Fatal(err)
	}
	states, err := d.States()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, created %d, evicted %d, refused %d", states, totals.StateCreated, totals.StateEvicted, totals.StateRefused)
	if states.Live < states.Max*95/100 || totals.StateRefused == 0 {
		t.Errorf("states: %+v, refused %d", states, totals.StateRefused)
	}
}

// TestConnectionsOfManyCPUs lets several threads write the same few buckets: nobody is ever taken for another.
func TestConnectionsOfManyCPUs(t *testing.T) {
	features := allOn()
	d := private(t, features)
	commit(t, d, 1)
	const threads, rounds = 4, 3000
	xdp := program(t, d, HookXDP)
	var running sync.WaitGroup
	for thread := range threads {
		running.Go(func() {
			for round := range rounds {
				// Everybody opens the same connections, and connections of its own that nobody answers.
				for _, n := range []int{round, 1<<20 + thread*rounds + round} {
					_, err := xdp.Run(&ebpf.RunOptions{Data: segment(client(n), server, syn)})
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	running.Wait()
	// In each direction only the client's side has passed: no way back is open.
	entries := d.states.entries()
	used := 0
	for i := range entries {
		e := &entries[i]
		if e.Way[0] == 0 && e.Way[1] == 0 {
			continue
		}
		used++
		fromServer := e.Way[0]
		if netip.AddrFrom16(e.A).Unmap() != server.Addr() {
			fromServer = e.Way[1]
		}
		if fromServer != 0 || e.Way[0]>>32&0x80 != 0 {
			t.Fatalf("an entry that nobody made: %+v", *e)
		}
	}
	if used < len(entries)*9/10 {
		t.Errorf("%d of %d entries are in use", used, len(entries))
	}
}

// TestConnectionsArePinned: the table is there for the next daemon, and gone when nobody asks for it any more.
func TestConnectionsArePinned(t *testing.T) {
	dir := testDir(t)
	first := open(t, dir, compile.Features{Rules: true, State: true})
	path := first.statesPath()
	entries := first.states.entries()
	now, err := first.stateClock()
	if err != nil {
		t.Fatal(err)
	}
	entries[7] = abi.StateEntry{Proto: unix.IPPROTO_UDP, Way: [2]uint64{1<<40 | uint64(abi.Seen)<<32 | uint64(now)}}
	closeIt(t, first)
	second := open(t, dir)
	defer closeIt(t, second)
	if states, err := second.States(); err != nil || states.Live != 1 {
		t.Errorf("after a restart: %+v, %v", states, err)
	}
	sibling, err := second.Sibling()
	if err != nil {
		t.Fatal(err)
	}
	if states, err := sibling.States(); err != nil || states.Max != 0 {
		t.Errorf("a sibling's own: %+v, %v", states, err)
	}
	commit(t, sibling, 1)
	if got := stateOf(t, sibling, HookXDP, segment(client(1), server, syn)); got != abi.StateNew {
		t.Errorf("a SYN in the sibling: state %d", got)
	}
	if got := stateOf(t, sibling, HookEgress, segment(server, client(1), syn|ack)); got != abi.StateInvalid {
		t.Errorf("an answer to what only explain has seen: state %d", got)
	}
	closeIt(t, sibling)
	if states, err := second.States(); err != nil || states.Live != 1 {
		t.Errorf("after explaining: %+v, %v", states, err)
	}
	without := allOn()
	without.State = false
	if err := second.SetFeatures(without); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// TestRoutedConnectionsAreKnownByTheirNewEnds: what came in by another interface of gardu's may leave with other addresses, and
// so its answers come for these.
func TestRoutedConnectionsAreKnownByTheirNewEnds(t *testing.T) {
	features := allOn()
	features.Trace, features.Out = true, false
	d := private(t, features)
	commit(t, d, 1)
	if err := d.SetInterface(1, abi.Interface{Flags: uint8(abi.InterfaceIngress)}); err != nil {
		t.Fatal(err)
	}
	inside, outside := client(1), client(2)
	stateOf(t, d, HookXDP, segment(inside, server, syn))
	_, err := program(t, d, HookEgress).Run(&ebpf.RunOptions{
		Data: segment(outside, server, syn), Context: &skbContext{Ifindex: 1, IngressIfindex: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := stateOf(t, d, HookXDP, segment(server, outside, syn|ack)); got != abi.StateEstablished {
		t.Errorf("the answer: state %d", got)
	}
	if totals, err := d.FlowTotals(); err != nil || totals.Sent != 0 || totals.Accounted != 2 {
		t.Errorf("counted twice: %+v, %v", totals, err)
	}
}
