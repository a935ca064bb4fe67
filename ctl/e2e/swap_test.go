package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// swaps is how often the snapshot changes under traffic.
const swaps = 1000

// The two snapshots differ in sets, rules and services, such that a packet judged by parts of both shows it:
//
//	source       snapshot A                  snapshot B                      a mixture
//	steady  .10  in @s, "in @s" passes       not in @s, "not in @s" passes   is dropped
//	shut    .11  not in @s, "in @s" drops    in @s, "not in @s" drops        passes
//	left    .12  passes, goes to b1          is dropped                      goes to b2
//	right   .13  is dropped                  passes, goes to b2              goes to b1
//
// One client comes in by tc, the other by XDP.
const (
	snapshotA = `
interfaces: {client0: {path: tc}, other0: {path: xdp}}
sets: {s: {entries: [198.51.100.10, 203.0.113.10]}}
filter:
  default: drop
  rules:
    - {name: echo, match: {src: "@s", proto: udp, dport: 7}, action: pass}
    - {name: one-way, match: {src: [198.51.100.12, 203.0.113.12], dst: 192.0.2.10}, action: pass}
flows: {max: 10000}
services:
  web: {address: 192.0.2.10, port: 9, proto: udp, forward: dsr, backends: [{name: b1, address: 10.0.1.11}]}
`
	snapshotB = `
interfaces: {client0: {path: tc}, other0: {path: xdp}}
sets: {s: {entries: [198.51.100.11, 203.0.113.11]}}
filter:
  default: drop
  rules:
    - {name: echo, match: {not-src: "@s", proto: udp, dport: 7}, action: pass}
    - {name: one-way, match: {src: [198.51.100.13, 203.0.113.13], dst: 192.0.2.10}, action: pass}
flows: {max: 10000}
services:
  web: {address: 192.0.2.10, port: 9, proto: udp, forward: dsr, backends: [{name: b2, address: 10.0.2.11}]}
`
)

var (
	echoAddress = netip.MustParseAddrPort("198.51.100.1:7")
	webAddress  = netip.MustParseAddrPort("192.0.2.10:9")
)

// prober is a client and its addresses.
type prober struct {
	node                      *testnet.Node
	steady, shut, left, right netip.Addr
	asked, lost               atomic.Int64 // of steady
}

func newProber(node *testnet.Node, subnet string) *prober {
	host := func(n string) netip.Addr { return netip.MustParseAddr(subnet + n) }
	return &prober{node: node, steady: host("10"), shut: host("11"), left: host("12"), right: host("13")}
}

// arrivals counts datagrams by source.
type arrivals struct {
	mu     sync.Mutex
	counts map[netip.Addr]int
}

func (a *arrivals) of(source netip.Addr) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[source]
}

// receive counts what comes in on a socket, and sends it back if echo is set.
func (w *world) receive(node *testnet.Node, at netip.AddrPort, echo bool) *arrivals {
	w.Helper()
	return w.arrivalsOn(w.socket(node, at), echo)
}

// arrivalsOn does it on a socket that is open.
func (w *world) arrivalsOn(socket *net.UDPConn, echo bool) *arrivals {
	a := &arrivals{counts: make(map[netip.Addr]int)}
	go func() {
		buffer := make([]byte, 64)
		for {
			n, from, err := socket.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			a.mu.Lock()
			a.counts[from.Addr()]++
			a.mu.Unlock()
			if echo {
				_, _ = socket.WriteToUDPAddrPort(buffer[:n], from)
			}
		}
	}()
	return a
}

// socket is closed when the test ends.
func (w *world) socket(node *testnet.Node, at netip.AddrPort) (socket *net.UDPConn) {
	w.Helper()
	w.must(node.Do(func() (err error) {
		socket, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	}))
	w.Cleanup(func() { socket.Close() })
	return socket
}

// TestSwap alternates the two snapshots under traffic. No packet may see a mixture.
func TestSwap(t *testing.T) {
	w := newWorld(t, 2)
	w.prepareXDP()
	other := w.node("other")
	w.must(w.network.Connect(
		testnet.End{Node: other, Name: "eth0", Addresses: addresses("203.0.113.10/24", "203.0.113.11/24", "203.0.113.12/24", "203.0.113.13/24")},
		testnet.End{Node: w.box, Name: "other0", Addresses: addresses("203.0.113.1/24")}, 0))
	w.must(other.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("203.0.113.1")))
	w.must(other.SetTxChecksum("eth0", false))
	probers := map[string]*prober{"tc": newProber(w.client, "198.51.100."), "xdp": newProber(other, "203.0.113.")}

	for _, snapshot := range []string{snapshotA, snapshotB} { // next hops are known from then on
		if w.daemon == nil {
			w.start(snapshot)
		} else {
			w.apply(snapshot)
		}
		w.ready()
	}
	echoed := w.receive(w.box, echoAddress, true)
	atB1, atB2 := w.receive(w.backends[0], webAddress, false), w.receive(w.backends[1], webAddress, false)

	ctx, cancel := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	stop := sync.OnceFunc(func() {
		cancel()
		traffic.Wait()
	})
	defer stop()
	for _, p := range probers {
		traffic.Go(func() { w.pingPong(ctx, p) })
		for source, to := range map[netip.Addr]netip.AddrPort{p.shut: echoAddress, p.left: webAddress, p.right: webAddress} {
			traffic.Go(func() { w.flood(ctx, p.node, source, to) })
		}
	}
	begin := time.Now()
	for i := range swaps {
		w.apply([]string{snapshotA, snapshotB}[i%2])
		if i%100 == 50 { // a block comes, and goes by itself
			_, err := w.gardu("block", probers["xdp"].shut.String(), "--for", "1s")
			w.must(err)
		}
	}
	took := time.Since(begin).Round(time.Millisecond)
	stop()

	t.Logf("%d swaps in %s", swaps, took)
	w.filterAddsUp()
	for path, p := range probers {
		t.Logf("%s: %d asked and answered, %d at b1, %d at b2", path, p.asked.Load(), atB1.of(p.left), atB2.of(p.right))
		if lost := p.lost.Load(); lost > 0 {
			t.Errorf("%s: %d of %d packets that both snapshots pass were lost", path, lost, p.asked.Load())
		}
		if n := echoed.of(p.shut); n > 0 {
			t.Errorf("%s: %d packets passed that both snapshots drop", path, n)
		}
		if n := atB2.of(p.left); n > 0 {
			t.Errorf("%s: %d packets passed by A's rules went to B's backend", path, n)
		}
		if n := atB1.of(p.right); n > 0 {
			t.Errorf("%s: %d packets passed by B's rules went to A's backend", path, n)
		}
		if p.asked.Load() < swaps || atB1.of(p.left) < swaps || atB2.of(p.right) < swaps {
			t.Errorf("%s: too little traffic to prove anything", path)
		}
	}
}

// filterAddsUp checks that whatever reached the filter was decided by someone, once.
func (w *world) filterAddsUp() {
	w.Helper()
	var filter api.FilterTotals
	w.until("the last packets are counted", func() error { // the totals aren't read in one moment
		before := filter
		status, err := w.api.Status(w.Context())
		if err != nil {
			return err
		}
		if filter = status.Filter; filter != before {
			return fmt.Errorf("%+v so far", filter)
		}
		return nil
	})
	if sum := filter.Allowed + filter.Blocked + filter.Health + filter.Decided + filter.Default; sum != filter.Reached {
		w.Errorf("%d packets reached the filter, %d were decided: %+v", filter.Reached, sum, filter)
	}
	if filter.Blocked == 0 || filter.Decided == 0 || filter.Default == 0 {
		w.Errorf("too little was tried: %+v", filter)
	}
}

// pingPong sends datagrams that must be answered, one after the other, without ever filling the machine: what changes
// snapshots needs a share of it, too.
func (w *world) pingPong(ctx context.Context, p *prober) {
	socket := w.socket(p.node, netip.AddrPortFrom(p.steady, 0))
	buffer := make([]byte, 64)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range 10 {
			p.asked.Add(1)
			if _, err := socket.WriteToUDPAddrPort([]byte("?"), echoAddress); err != nil {
				w.Errorf("send from %s: %v", p.steady, err)
				return
			}
			_ = socket.SetReadDeadline(time.Now().Add(time.Second)) // fails on a closed socket only, and then so does the read
			if _, _, err := socket.ReadFromUDPAddrPort(buffer); err != nil {
				p.lost.Add(1)
			}
		}
	}
}

// flood sends datagrams to which no answer is expected, in small bursts so that nobody's buffer overflows.
func (w *world) flood(ctx context.Context, node *testnet.Node, source netip.Addr, to netip.AddrPort) {
	socket := w.socket(node, netip.AddrPortFrom(source, 0))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range 10 {
			if _, err := socket.WriteToUDPAddrPort([]byte("!"), to); err != nil {
				w.Errorf("send from %s: %v", source, err)
				return
			}
		}
	}
}
