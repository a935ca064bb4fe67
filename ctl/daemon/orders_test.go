package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
)

const twoBackends = base + `
services:
  echo:
    address: 192.0.2.10
    port: 7
    proto: udp
    forward: dsr
    backends:
      - {name: b1, address: 10.0.0.11, weight: 60}
      - {name: b2, address: 10.0.0.12}
`

// newFlows opens 32 flows and says to which backends they went.
func (w *world) newFlows() map[string]int {
	w.Helper()
	ports := map[uint16]bool{}
	for range 32 {
		conn := w.dialEcho()
		defer conn.Close()
		_, err := conn.Write([]byte("?"))
		w.must(err)
		ports[netip.MustParseAddrPort(conn.LocalAddr().String()).Port()] = true
	}
	to := map[string]int{}
	w.must(w.api.Flows(w.Context(), api.FlowQuery{Filter: "dport 7"}, func(f api.Flow) error {
		if ports[f.Sport] {
			to[f.Backend]++
		}
		return nil
	}))
	return to
}

// flowOn opens a flow that is on a backend, and returns its socket.
func (w *world) flowOn(backend string) net.Conn {
	w.Helper()
	for range 64 {
		conn := w.dialEcho()
		w.Cleanup(func() { conn.Close() })
		if w.isOn(conn, backend) == nil {
			return conn
		}
	}
	w.Fatalf("of 64 flows none is on %s", backend)
	return nil
}

func (w *world) dialEcho() (conn net.Conn) {
	w.Helper()
	w.must(w.client.Do(func() (err error) {
		w.port++ // one that no flow had before
		from := net.Dialer{LocalAddr: &net.UDPAddr{Port: w.port}}
		conn, err = from.Dial("udp", "192.0.2.10:7")
		return err
	}))
	return conn
}

// isOn sends a packet of the flow and says whether it went to the backend.
func (w *world) isOn(conn net.Conn, backend string) error {
	w.Helper()
	_, err := conn.Write([]byte("?"))
	w.must(err)
	errFound := errors.New("found")
	port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
	is := errors.New("no such flow")
	err = w.api.Flows(w.Context(), api.FlowQuery{Filter: fmt.Sprintf("sport %d and dport 7", port)}, func(f api.Flow) error {
		if is = nil; f.Backend != backend {
			is = fmt.Errorf("the flow is on %q, not %s", f.Backend, backend)
		}
		return errFound
	})
	if !errors.Is(err, errFound) && err != nil {
		w.Fatal(err)
	}
	return is
}

func (w *world) backend1() api.Backend {
	w.Helper()
	all, err := w.api.Backends(w.Context())
	w.must(err)
	i := slices.IndexFunc(all, func(b api.Backend) bool { return b.Name == "b1" })
	if i < 0 {
		w.Fatalf("no b1 in %+v", all)
	}
	return all[i]
}

func (w *world) restart() {
	w.Helper()
	w.process.Kill()
	w.start()
}

// prepare starts with two backends whose neighbours are known, so that nothing is dropped.
func (w *world) prepareTwo() {
	w.Helper()
	w.port = 20000
	w.must(w.backend.AddAddress("eth0", netip.MustParsePrefix("10.0.0.12/24")))
	w.write("gardu.yaml", twoBackends)
	w.start()
	w.until("both ways are known", func() error {
		all, err := w.api.Backends(w.Context())
		for _, b := range all {
			if b.NextHop == "" {
				err = fmt.Errorf("%s has no next hop", b.Name)
			}
		}
		return err
	})
}

// A drained backend gets no new flows and keeps those that it has, over a crash and a change of everything else, until its time is over.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	conn := w.flowOn("b1")
	if to := w.newFlows(); to["b1"] == 0 || to["b2"] == 0 {
		t.Fatalf("new flows go to %v", to)
	}
	ordered, err := w.api.Drain(t.Context(), api.DrainRequest{Service: "echo", Backend: "b1"})
	w.must(err)
	if b := ordered.Backend; b.State != api.StateDraining || b.Active == 0 || b.Since.IsZero() || !b.Until.IsZero() || ordered.Warning != "" {
		t.Errorf("ordered: %+v", ordered)
	}
	drained := func(when string) {
		t.Helper()
		if to := w.newFlows(); to["b1"] != 0 || to["b2"] == 0 {
			t.Errorf("%s new flows go to %v", when, to)
		}
		w.must(w.isOn(conn, "b1"))
		if b := w.backend1(); b.State != api.StateDraining || b.Active == 0 {
			t.Errorf("%s: %+v", when, b)
		}
	}
	drained("at once")
	w.restart()
	drained("after a crash")
	changed := strings.Replace(twoBackends, "weight: 60", "weight: 50", 1) + "filter: {rules: [{name: r, match: {dport: 9}, action: drop}]}\n"
	_, err = w.api.Apply(t.Context(), api.ApplyRequest{Name: "changed.yaml", YAML: changed})
	w.must(err)
	drained("after apply")

	_, err = w.api.Undrain(t.Context(), "echo", "b1")
	w.must(err)
	if to := w.newFlows(); to["b1"] == 0 || w.backend1().State != api.StateUp {
		t.Errorf("after undrain new flows go to %v, and it is %s", to, w.backend1().State)
	}
	_, err = w.api.Drain(t.Context(), api.DrainRequest{Service: "echo", Backend: "b1", Timeout: api.Duration(50 * time.Millisecond)})
	w.must(err)
	w.until("the drain is over", func() error {
		if b := w.backend1(); b.State != api.StateDrained || b.Active != 0 {
			return fmt.Errorf("%+v", b)
		}
		return w.isOn(conn, "b2")
	})
	w.restart()
	w.must(w.isOn(conn, "b2"))
	if b := w.backend1(); b.State != api.StateDrained {
		t.Errorf("after a crash: %+v", b)
	}
	var kinds []string
	w.must(w.api.Events(t.Context(), api.EventQuery{}, func(e api.Event) error {
		kinds = append(kinds, e.Kind)
		return nil
	}))
	if slices.Contains(kinds, api.EventDrained) {
		t.Errorf("the daemon that took over tells of the drain's end again: %v", kinds)
	}
}

func TestWeight(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	weigh := func(weight int) api.Ordered {
		t.Helper()
		ordered, err := w.api.Weigh(t.Context(), api.WeightRequest{Service: "echo", Backend: "b1", Weight: &weight})
		w.must(err)
		return ordered
	}
	conn := w.flowOn("b1")
	if o := weigh(0); o.Backend.Weight != 0 || o.Backend.Configured != 60 || o.Warning != "" {
		t.Errorf("%+v", o)
	}
	w.restart()
	if to := w.newFlows(); to["b1"] != 0 {
		t.Errorf("weight 0: new flows go to %v", to)
	}
	w.must(w.isOn(conn, "b1"))
	weigh(65535)
	if to := w.newFlows(); to["b2"] != 0 { // 0.15 % of the flows
		t.Errorf("weight 65535: new flows go to %v", to)
	}
	// A backend that goes takes what was ordered of it along.
	for _, yaml := range []string{strings.Replace(twoBackends, "- {name: b1, address: 10.0.0.11, weight: 60}", "", 1), twoBackends} {
		_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "b1.yaml", YAML: yaml})
		w.must(err)
	}
	if b := w.backend1(); b.Weight != 60 {
		t.Errorf("came back with %+v", b)
	}
	if to := w.newFlows(); to["b2"] == 0 {
		t.Errorf("came back and gets all flows: %v", to)
	}
	if _, err := w.api.Drain(t.Context(), api.DrainRequest{Service: "echo", Backend: "b2"}); err != nil {
		t.Error(err)
	}
	if o := weigh(0); !strings.Contains(o.Warning, "no backend of echo takes new flows") {
		t.Errorf("%+v", o)
	}
	ordered, err := w.api.Weigh(t.Context(), api.WeightRequest{Service: "echo", Backend: "b1"})
	if err != nil || ordered.Backend.Weight != 60 || ordered.Warning != "" {
		t.Errorf("%+v, %v", ordered, err)
	}
	for _, name := range [][2]string{{"echo", "b9"}, {"web", "b1"}} {
		_, err := w.api.Undrain(t.Context(), name[0], name[1])
		if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeNotFound {
			t.Errorf("%v: %v", name, err)
		}
	}
}

func TestSlowStartSteps(t *testing.T) {
	start := slowStart{takes: 30 * time.Second}
	var got []int
	for _, passed := range []time.Duration{0, 3 * time.Second, 4 * time.Second, 15 * time.Second, 29 * time.Second, 30 * time.Second, time.Hour} {
		got = append(got, start.tenths(passed))
	}
	if want := []int{1, 1, 2, 5, 9, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("tenths %v, want %v", got, want)
	}
}

// A backend that is undrained begins with a tenth of its weight.
func TestSlowStart(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	slow := strings.Replace(twoBackends, "forward: dsr", "forward: dsr\n    slow-start: 1h", 1)
	_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "slow.yaml", YAML: slow})
	w.must(err)
	for _, step := range []string{"drain", "undrain"} {
		if step == "drain" {
			_, err = w.api.Drain(t.Context(), api.DrainRequest{Service: "echo", Backend: "b2"})
		} else {
			_, err = w.api.Undrain(t.Context(), "echo", "b2")
		}
		w.must(err)
	}
	to := map[string]int{}
	for range 4 {
		for backend, n := range w.newFlows() {
			to[backend] += n
		}
	}
	if to["b2"] == 0 || to["b2"] > 40 { // 100*1 of 60*10 + 100*1: 18 of 128
		t.Errorf("new flows go to %v", to)
	}
}

// A daemon that takes over goes on where the one before it was: neither from the beginning nor at once with the whole weight.
func TestSlowStartIsTakenOver(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	slow := strings.Replace(twoBackends, "forward: dsr", "forward: dsr\n    slow-start: 1h", 1)
	w.write("gardu.yaml", slow)
	_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "gardu.yaml", YAML: slow})
	w.must(err)
	_, err = w.api.Drain(t.Context(), api.DrainRequest{Service: "echo", Backend: "b2"})
	w.must(err)
	_, err = w.api.Undrain(t.Context(), "echo", "b2")
	w.must(err)
	for range 2 { // the second one finds what the first one kept
		w.restart()
		to := map[string]int{}
		for range 4 {
			for backend, n := range w.newFlows() {
				to[backend] += n
			}
		}
		if to["b2"] == 0 || to["b2"] > 40 { // as in TestSlowStart
			t.Errorf("new flows go to %v", to)
		}
	}
	all, err := w.api.Backends(t.Context())
	w.must(err)
	for _, b := range all {
		if b.State != api.StateUp {
			t.Errorf("nobody ordered that: %+v", b)
		}
	}
}
