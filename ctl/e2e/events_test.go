package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
)

const eventRules = `
interfaces:
  client0: {path: %s}
filter:
  rules:
    - {name: idea, shadow: true, match: {proto: udp, dport: [5301, 5302]}, action: drop, sample: 1/1}
    - {name: logged, match: {proto: udp, dport: 5301}, action: drop, log: 1/4}
    - {name: flood, match: {proto: udp, dport: 5303}, action: drop, log: 1/1}
    - {name: fast, match: {proto: udp, dport: 5304}, limit: {rate: 2000/s, burst: 200, per: src}, action: drop}
    - {name: sink, match: {proto: udp, dport: 5304}, action: drop}
`

// send sends n packets from the client to a port of the box.
func (w *world) send(conn net.Conn, n int) {
	w.Helper()
	for sent := 0; sent < n; {
		if _, err := conn.Write([]byte("hello")); err == nil { // an error is about the one before: nobody listens there
			sent++
		}
	}
}

func (w *world) dial(address string) net.Conn {
	w.Helper()
	conn, err := w.client.Dial(w.Context(), "udp", address)
	w.must(err)
	w.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) rule(name string) api.Rule {
	w.Helper()
	rules, err := w.api.Rules(w.Context())
	w.must(err)
	for _, r := range rules {
		if r.Name == name {
			return r
		}
	}
	w.Fatalf("no rule %s", name)
	return api.Rule{}
}

// follow runs `gardu events -f` with an expression and returns what reads the events so far.
func (w *world) follow(expr string) func() []api.Event {
	w.Helper()
	path := w.path("events.ndjson")
	out, err := os.Create(path)
	w.must(err)
	defer out.Close()
	cmd := exec.Command(binary, "--socket", w.path("gardu.sock"), "events", "-f", "-n", "1", "-o", "ndjson", expr)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	reader, err := w.box.Start(cmd)
	w.must(err)
	w.Cleanup(func() {
		if err := reader.Signal(os.Interrupt); err != nil {
			w.Error(err)
		}
		if err := reader.Wait(); err != nil {
			w.Errorf("gardu events: %v", err)
		}
	})
	return func() (events []api.Event) {
		text, err := os.ReadFile(path)
		w.must(err)
		for line := range strings.Lines(string(text)) {
			var e api.Event
			if strings.HasSuffix(line, "\n") {
				w.must(json.Unmarshal([]byte(line), &e))
				events = append(events, e)
			}
		}
		return events
	}
}

// TestEvents shows what rules log and sample, and what became of those packets, on every path.
func TestEvents(t *testing.T) {
	for _, path := range []string{"tc", "xdp", "xdp-generic"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 0)
			w.prepareXDP()
			w.start(fmt.Sprintf(eventRules, path))
			events := w.follow("kind apply or dst 198.51.100.1, 2001:db8:c::1")
			w.until("the reader listens", func() error {
				if n := len(events()); n == 0 {
					return fmt.Errorf("it has said nothing")
				}
				return nil
			})
			w.send(w.dial("198.51.100.1:5301"), 8)
			w.send(w.dial("[2001:db8:c::1]:5302"), 1)
			var seen map[string][]api.Event
			w.until("all events", func() error {
				seen = map[string][]api.Event{}
				for _, e := range events() {
					seen[e.Kind+" "+e.Rule] = append(seen[e.Kind+" "+e.Rule], e)
				}
				// Each CPU counts its own: at least two of eight, at most one more for each CPU.
				if n := len(seen["log logged"]); n < 2 || len(seen["shadow idea"]) < 9 {
					return fmt.Errorf("%+v", seen)
				}
				return nil
			})
			for _, e := range seen["log logged"] {
				if e.Verdict != "drop" || e.Decided != "logged" || e.Interface != "client0" || e.Direction != "in" || e.Dport != 5301 || e.Proto != "udp" ||
					!strings.HasPrefix(e.Packet, fmt.Sprintf("udp 198.51.100.10:%d > 198.51.100.1:5301 ", e.Sport)) || time.Since(e.Time) > patience {
					t.Errorf("%+v", e)
				}
			}
			for _, e := range seen["shadow idea"] {
				want, reason := "drop", "rule-drop"
				if e.Dport == 5302 {
					want, reason = "pass", "default-pass"
				}
				if e.Would != "drop" || e.Verdict != want || e.Reason != reason || e.Length != len(e.Head) {
					t.Errorf("%+v", e)
				}
			}
			if out, err := w.gardu("events", "-o", "csv", "kind log and verdict pass"); err != nil || strings.Count(out, "\n") != 1 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestLostEventsAreCounted stops the daemon while more packets are logged than the ring holds.
func TestLostEventsAreCounted(t *testing.T) {
	w := newWorld(t, 0)
	w.start(fmt.Sprintf(eventRules, "tc"))
	events := w.follow("kind lost, apply")
	w.until("the reader listens", func() error {
		if n := len(events()); n == 0 {
			return fmt.Errorf("it has said nothing")
		}
		return nil
	})
	w.must(w.daemon.Signal(syscall.SIGSTOP))
	const flood = 12_000
	w.send(w.dial("198.51.100.1:5303"), flood)
	w.must(w.daemon.Signal(syscall.SIGCONT))
	w.until("the loss told", func() error {
		status, err := w.api.Status(w.Context())
		if err != nil {
			return err
		}
		if status.Events.Lost == 0 || status.Events.Sent+status.Events.Lost != flood || !strings.Contains(strings.Join(status.Warnings, "\n"), "events were lost") {
			return fmt.Errorf("%+v, warnings %q", status.Events, status.Warnings)
		}
		var told uint64
		for _, e := range events() {
			if e.Kind == "lost" {
				told += e.Count
			}
		}
		if told < status.Events.Lost {
			return fmt.Errorf("%d of %d lost events told", told, status.Events.Lost)
		}
		return nil
	})
}

// TestLimitIsExact sends much faster than a limit, and finds what is within it to be what the limit says.
func TestLimitIsExact(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 0)
			w.prepareXDP()
			w.start(fmt.Sprintf(eventRules, path))
			conn := w.dial("198.51.100.1:5304")
			begin := time.Now()
			var sent int
			for ; time.Since(begin) < 2*time.Second; sent += 100 {
				w.send(conn, 100)
			}
			took := time.Since(begin)
			w.until("all packets there", func() error {
				if n := w.rule("fast").Packets; n != uint64(sent) {
					return fmt.Errorf("%d of %d", n, sent)
				}
				return nil
			})
			r := w.rule("fast")
			within, want := float64(r.Packets-r.Decided), 200+2000*took.Seconds()
			t.Logf("%d packets in %s: %.0f within the limit, %.0f expected (%+.2f %%)", sent, took, within, want, 100*(within/want-1))
			if within < 0.95*want || within > 1.05*want {
				t.Error("that is more than 5 % off")
			}
			if r.Limit == nil || *r.Limit != (api.Limit{Rate: "2k/s", Burst: "200", Per: "src"}) || r.Direction != "in" {
				t.Errorf("it is shown as %+v", r)
			}
			if sink := w.rule("sink").Packets; float64(sink) != within {
				t.Errorf("%d packets went on to the next rule", sink)
			}
		})
	}
}

// TestDropsAreFollowed: what is dropped becomes an event without a rule that logs it, for who follows and as long as somebody does.
func TestDropsAreFollowed(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 0)
			w.prepareXDP()
			w.start(fmt.Sprintf(eventRules, path))
			conn := w.dial("198.51.100.1:5304")
			applies := w.follow("kind apply")
			w.until("somebody follows, for other things", func() error {
				if len(applies()) == 0 {
					return errors.New("it has said nothing")
				}
				return nil
			})
			w.send(conn, 300)
			if totals := w.eventTotals(); totals != (api.EventTotals{}) {
				t.Errorf("nobody wants dropped packets: %+v", totals)
			}
			events := w.follow("kind apply or verdict drop and dport 5304")
			w.until("a dropped packet", func() error {
				w.send(conn, 1)
				for _, e := range events() {
					if e.Kind == api.EventDrop && e.Rule == "sink" && e.Reason == "rule-drop" && e.Length == len(e.Head) && strings.Contains(e.Packet, "> 198.51.100.1:5304 ") {
						return nil
					}
				}
				return fmt.Errorf("%+v", events())
			})
			if out, err := w.gardu("events", "-o", "ndjson", "kind drop"); err != nil || out != "" {
				t.Errorf("dropped packets are remembered: %v\n%s", err, out)
			}
			// more than are told of: the follower gets to know
			w.until("the rest told", func() error {
				w.send(conn, 2000)
				for _, e := range events() {
					if e.Kind == api.EventLost && e.Count > 0 && strings.Contains(e.Text, "more packets were dropped") {
						return nil
					}
				}
				return fmt.Errorf("%+v", w.eventTotals())
			})
		})
	}
}

func (w *world) eventTotals() api.EventTotals {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status.Events
}
