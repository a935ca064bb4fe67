package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gardu/ctl/api"
)

// lastSeen is when each client's socket was last heard of.
type lastSeen struct {
	mu    sync.Mutex
	times map[uint16]time.Time
}

// listenLast notes what comes to a backend.
func (w *world) listenLast(at int) *lastSeen {
	w.Helper()
	seen := &lastSeen{times: make(map[uint16]time.Time)}
	socket := w.socket(w.backends[at], netip.MustParseAddrPort("192.0.2.10:9"))
	go func() {
		buffer := make([]byte, 64)
		for {
			_, from, err := socket.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // closed
			}
			seen.mu.Lock()
			seen.times[from.Port()] = time.Now()
			seen.mu.Unlock()
		}
	}()
	return seen
}

// ports are those that were heard of.
func (s *lastSeen) ports() map[uint16]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := make(map[uint16]bool)
	for port := range s.times {
		ports[port] = true
	}
	return ports
}

func (s *lastSeen) last() (last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.times {
		if at.After(last) {
			last = at
		}
	}
	return last
}

// TestDeadBackend lets one of two backends fail its checks, while the machine goes on to take packets: its flows go to the other one, and no
// other flow moves. When it got its last packet is logged; the benchmark says how late that is.
func TestDeadBackend(t *testing.T) {
	const flows = 64
	w := newWorld(t, 2)
	dead, other := w.listenLast(0), w.listenLast(1)
	w.serve(w.backends[1], ":8080")
	check, err := w.backends[0].Listen("tcp", ":8080")
	w.must(err)
	w.start(`interfaces: {client0: {path: tc}}
services:
  log:
    address: 192.0.2.10
    port: 9
    proto: udp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]
    health: {tcp: true, port: 8080, via: backend, every: 100ms, timeout: 90ms, up: 1, down: 1}
`)
	w.ready()

	ctx, cancel := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	defer senders.Wait()
	defer cancel()
	for range flows {
		conn, err := w.client.Dial(ctx, "udp", "192.0.2.10:9")
		w.must(err)
		senders.Go(func() { everyMillisecond(ctx, conn) })
	}
	w.until("all flows are heard of, and both backends have some", func() error {
		if a, b := len(dead.ports()), len(other.ports()); a == 0 || b == 0 || a+b < flows {
			return fmt.Errorf("%d and %d of %d", a, b, flows)
		}
		return nil
	})
	others, begun := other.ports(), time.Now()
	w.must(check.Close())
	var decided time.Time
	w.until("the decision", func() (err error) {
		decided, err = w.decidedDown(begun)
		return err
	})
	w.until("all flows are on the backend that is left", func() error {
		if n := len(other.ports()); n < flows {
			return fmt.Errorf("%d of %d", n, flows)
		}
		return nil
	})
	for port := range dead.ports() {
		if others[port] {
			t.Errorf("port %d was on the other backend, and reached the dead one", port)
		}
	}
	t.Logf("its last packet came %s after the decision", dead.last().Sub(decided))
}

// everyMillisecond sends something until the end.
func everyMillisecond(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = conn.Write([]byte("!")) // a backend that is gone is what this is about
		}
	}
}

// decidedDown is when a backend was found dead, after that time.
func (w *world) decidedDown(after time.Time) (at time.Time, err error) {
	err = w.api.Events(w.Context(), api.EventQuery{}, func(e api.Event) error {
		if e.Kind == api.EventDown && e.Time.After(after) {
			at = e.Time
		}
		return nil
	})
	if err == nil && at.IsZero() {
		err = errors.New("none yet")
	}
	return at, err
}
