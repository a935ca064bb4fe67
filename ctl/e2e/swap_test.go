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
const (
	snapshotA = `
interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}
sets: {s: {entries: [198.51.100.10]}}
filter:
  default: drop
  rules:
    - {name: echo, match: {src: "@s", proto: udp, dport: 7}, action: pass}
    - {name: one-way, match: {src: 198.51.100.12, dst: 192.0.2.10}, action: pass}
flows: {max: 10000}
services:
  web: {address: 192.0.2.10, port: 9, proto: udp, forward: dsr, backends: [{name: b1, address: 10.0.1.11}]}
`
	snapshotB = `
interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}
sets: {s: {entries: [198.51.100.11]}}
filter:
  default: drop
  rules:
    - {name: echo, match: {not-src: "@s", proto: udp, dport: 7}, action: pass}
    - {name: one-way, match: {src: 198.51.100.13, dst: 192.0.2.10}, action: pass}
flows: {max: 10000}
services:
  web: {address: 192.0.2.10, port: 9, proto: udp, forward: dsr, backends: [{name: b2, address: 10.0.2.11}]}
`
)

var (
	steady = netip.MustParseAddr("198.51.100.10")
	shut   = netip.MustParseAddr("198.51.100.11")
	left   = netip.MustParseAddr("198.51.100.12")
	right  = netip.MustParseAddr("198.51.100.13")

	echoAddress = netip.MustParseAddrPort("198.51.100.1:7")
	webAddress  = netip.MustParseAddrPort("192.0.2.10:9")
)

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
	socket := w.socket(node, at)
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
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			w.prepareXDP()
			a, b := fmt.Sprintf(snapshotA, path), fmt.Sprintf(snapshotB, path)
			w.start(a)
			w.ready()
			w.apply(b)
			w.ready()

			echoed := w.receive(w.box, echoAddress, true)
			atB1, atB2 := w.receive(w.backends[0], webAddress, false), w.receive(w.backends[1], webAddress, false)
			ctx, cancel := context.WithCancel(t.Context())
			var traffic sync.WaitGroup
			stop := sync.OnceFunc(func() {
				cancel()
				traffic.Wait()
			})
			defer stop()
			var lost, asked atomic.Int64
			for range 2 { // flows of their own, on whichever CPU
				traffic.Go(func() { w.pingPong(ctx, steady, &asked, &lost) })
				for source, to := range map[netip.Addr]netip.AddrPort{shut: echoAddress, left: webAddress, right: webAddress} {
					traffic.Go(func() { w.flood(ctx, source, to) })
				}
			}
			begin := time.Now()
			for i := range swaps {
				w.apply([]string{a, b}[i%2])
			}
			took := time.Since(begin)
			stop()

			t.Logf("%d swaps in %s; %d asked and answered; %d at b1, %d at b2", swaps, took.Round(time.Millisecond), asked.Load(), atB1.of(left), atB2.of(right))
			if lost.Load() > 0 {
				t.Errorf("%d of %d packets that both snapshots pass were lost", lost.Load(), asked.Load())
			}
			if n := echoed.of(shut); n > 0 {
				t.Errorf("%d packets passed that both snapshots drop", n)
			}
			if n := atB2.of(left); n > 0 {
				t.Errorf("%d packets passed by A's rules went to B's backend", n)
			}
			if n := atB1.of(right); n > 0 {
				t.Errorf("%d packets passed by B's rules went to A's backend", n)
			}
			if asked.Load() < swaps || atB1.of(left) < swaps || atB2.of(right) < swaps {
				t.Error("too little traffic to prove anything")
			}
		})
	}
}

// pingPong sends datagrams that must be answered, one after the other.
func (w *world) pingPong(ctx context.Context, source netip.Addr, asked, lost *atomic.Int64) {
	socket := w.socket(w.client, netip.AddrPortFrom(source, 0))
	buffer := make([]byte, 64)
	for ctx.Err() == nil {
		asked.Add(1)
		if _, err := socket.WriteToUDPAddrPort([]byte("?"), echoAddress); err != nil {
			w.Errorf("send from %s: %v", source, err)
			return
		}
		_ = socket.SetReadDeadline(time.Now().Add(time.Second)) // fails on a closed socket only, and then so does the read
		if _, _, err := socket.ReadFromUDPAddrPort(buffer); err != nil {
			lost.Add(1)
		}
	}
}

// flood sends datagrams to which no answer is expected, in small bursts so that nobody's buffer overflows.
func (w *world) flood(ctx context.Context, source netip.Addr, to netip.AddrPort) {
	socket := w.socket(w.client, netip.AddrPortFrom(source, 0))
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
