package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// loadedServices are asked while everything about their backends changes.
var loadedServices = []forward{forwards[2], forwards[10]} // ipip and nat

// TestChangesUnderLoad adds, weighs, drains, removes and kills backends while wrk asks, over connections that stay open and over new ones.
// No request fails but those on connections that the dead one had.
func TestChangesUnderLoad(t *testing.T) {
	w := newWorld(t, 4)
	w.must(w.client.SetSysctl("net.ipv4.ip_local_port_range", "1024 65535")) // no port twice: see freshAddress
	w.startWeb()
	w.decap()
	w.start(loaded(1, 2, 3))
	w.ready()

	load := w.startLoad()
	w.takesFlows("b1", "b2", "b3")
	w.apply(loaded(1, 2, 3, 4))
	w.ready()
	w.takesFlows("b4")
	for _, f := range loadedServices {
		weight := 400
		_, err := w.api.Weigh(t.Context(), api.WeightRequest{Service: f.name, Backend: "b1", Weight: &weight})
		w.must(err)
		_, err = w.api.Drain(t.Context(), api.DrainRequest{Service: f.name, Backend: "b2"})
		w.must(err)
	}
	w.takesFlows("b1")
	w.keepsPackets("b2")
	w.until("b1 has rates", func() error {
		return w.eachBackend("b1", func(b *api.Backend) error {
			if b.Rates.Packets < 1 || b.Rates.Bytes < 40*b.Rates.Packets || b.Rates.Flows == 0 {
				return fmt.Errorf("%+v", b.Rates)
			}
			return nil
		})
	})
	w.apply(loaded(1, 2, 4))
	w.keepsConnections(w.backends[2])
	w.takesFlows("b4")
	for _, l := range load {
		if got := l.stop(); got.failed() != 0 || got.requests < 100 {
			t.Errorf("%s: nobody died, and of %d requests failed: %+v", l.name, got.requests, got)
		}
	}

	w.freshAddress("198.51.100.11")
	load = w.startLoad()
	w.takesFlows("b1", "b4")
	dead := w.backends[3]
	_, err := dead.Output(t.Context(), "nft", `table inet dead {
		chain in { type filter hook prerouting priority -500; policy drop; }
		chain out { type filter hook output priority -500; policy drop; }
	}`)
	w.must(err)
	open := w.openConnections(dead)
	w.until("b4 is down", func() error {
		return w.eachBackend("b4", func(b *api.Backend) error {
			if b.State != api.StateDown {
				return fmt.Errorf("it is %s", b.State)
			}
			return nil
		})
	})
	w.takesFlows("b1")
	w.until("connections with the dead one end", func() error {
		out, err := w.client.Output(t.Context(), "ss", "-Htano", "state", "established", "dport = :80")
		if again := retransmits.FindAll(out, -1); len(again) > 0 {
			return fmt.Errorf("%d wait for an answer:\n%s", len(again), bytes.Join(again, []byte("\n")))
		}
		return err
	})
	for _, l := range load {
		got, had := l.stop(), open[l.service]
		t.Logf("%s: %+v; the dead backend had %d connections", l.name, got, had)
		if got.failed() != got.read || got.read > had || got.requests < 100 {
			t.Errorf("%s: the dead backend had %d connections, but %+v", l.name, had, got)
		}
	}
}

// retransmits is how ss shows a connection that sends again what nobody acknowledged.
var retransmits = regexp.MustCompile(`.*timer:\(on,[^,]*,[1-9]`)

// loaded is a snapshot in which loadedServices have these backends.
func loaded(backends ...int) string {
	config := "interfaces: {client0: {}, b1: {}, b2: {}, b3: {}, b4: {}}\nservices:\n"
	for _, f := range loadedServices {
		config += fmt.Sprintf("  %s:\n    {address: %s, port: 80, proto: tcp, forward: %s, health: {http: /name, every: 1s, timeout: 1s, up: 1, down: 3}, backends: [", f.name, f.address, f.mode)
		for _, i := range backends {
			config += fmt.Sprintf("{name: b%d, address: %s},", i, fmt.Sprintf(f.backend, i))
		}
		config += "]}\n"
	}
	return config
}

// freshAddress is what the client sends from then on. A backend remembers for a minute who it had a connection with (TIME-WAIT): to a
// connection with the same ends that is moved to it, it answers by acknowledging the old one, instead of a reset.
func (w *world) freshAddress(source string) {
	w.Helper()
	_, err := w.client.Output(w.Context(), "ip", "route", "replace", "default", "via", "198.51.100.1", "src", source)
	w.must(err)
}

// load is a wrk that asks a service.
type load struct {
	name, service string
	process       *testnet.Process
	out           *bytes.Buffer
	w             *world
}

// startLoad asks each of loadedServices, once over connections that stay open and once over a new one for each request.
func (w *world) startLoad() (all []*load) {
	w.Helper()
	for _, f := range loadedServices {
		for _, keeps := range []bool{true, false} {
			l := &load{name: f.name + ", connections that stay open", service: f.name, out: new(bytes.Buffer), w: w}
			args := []string{"-t1", "-c32", "-d10m", "--timeout", patience.String()}
			if !keeps {
				l.name = f.name + ", new connections"
				args = append(args, "-H", "Connection: close")
			}
			cmd := exec.Command("wrk", append(args, "http://"+host(f.address)+"/name")...)
			cmd.Stdout, cmd.Stderr = l.out, l.out
			var err error
			l.process, err = w.client.Start(cmd)
			w.must(err)
			all = append(all, l)
		}
	}
	return all
}

// outcome is what wrk says of its requests: errors by kind.
type outcome struct{ requests, connect, read, write, timeout, status int }

func (o outcome) failed() int { return o.connect + o.read + o.write + o.timeout + o.status }

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in `)
	wrkErrors   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkStatus   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

// stop ends it and reads what it says.
func (l *load) stop() (o outcome) {
	l.w.Helper()
	l.w.must(l.process.Signal(syscall.SIGINT))
	if err := l.process.Wait(); err != nil {
		l.w.Fatalf("wrk: %v\n%s", err, l.out)
	}
	for pattern, into := range map[*regexp.Regexp][]*int{
		wrkRequests: {&o.requests},
		wrkErrors:   {&o.connect, &o.read, &o.write, &o.timeout},
		wrkStatus:   {&o.status},
	} {
		found := pattern.FindSubmatch(l.out.Bytes())
		if found == nil && pattern == wrkRequests {
			l.w.Fatalf("wrk says nothing of requests:\n%s", l.out)
		}
		for i := range max(0, len(found)-1) {
			*into[i], _ = strconv.Atoi(string(found[i+1]))
		}
	}
	return o
}

// eachBackend calls f with the backends of that name, of all services.
func (w *world) eachBackend(name string, f func(*api.Backend) error) error {
	list, err := w.api.Backends(w.Context())
	if err != nil {
		return err
	}
	found := 0
	for i := range list {
		if list[i].Name != name {
			continue
		}
		found++
		if err := f(&list[i]); err != nil {
			return fmt.Errorf("%s/%s: %w", list[i].Service, name, err)
		}
	}
	if found != len(loadedServices) {
		return fmt.Errorf("there are %d backends called %s", found, name)
	}
	return nil
}

// takesFlows waits until each of the backends has got new flows of each service.
func (w *world) takesFlows(names ...string) {
	w.Helper()
	for _, name := range names {
		w.grows(name+" gets new flows", name, 50, func(b *api.Backend) uint64 { return b.Flows })
	}
}

// keepsPackets waits until a backend has got packets of each service.
func (w *world) keepsPackets(name string) {
	w.Helper()
	w.grows(name+" gets packets", name, 100, func(b *api.Backend) uint64 { return b.Packets })
}

func (w *world) grows(what, name string, by uint64, of func(*api.Backend) uint64) {
	w.Helper()
	before := make(map[string]uint64)
	w.must(w.eachBackend(name, func(b *api.Backend) error {
		before[b.Service] = of(b)
		return nil
	}))
	w.until(what, func() error {
		return w.eachBackend(name, func(b *api.Backend) error {
			if got := of(b) - before[b.Service]; got < by {
				return fmt.Errorf("%d", got)
			}
			return nil
		})
	})
}

// keepsConnections checks that a backend that is configured no more still answers on the connections that it has.
func (w *world) keepsConnections(node *testnet.Node) {
	w.Helper()
	before := w.received(node)
	w.until(node.Name()+" goes on answering", func() error {
		if got := w.received(node) - before; got < 200 {
			return fmt.Errorf("it got %d packets", got)
		}
		return nil
	})
	if open := w.openConnections(node); len(open) != len(loadedServices) {
		w.Errorf("%s has the connections %v", node.Name(), open)
	}
}

// received is how many packets came in by a node's eth0.
func (w *world) received(node *testnet.Node) (packets int) {
	w.Helper()
	out, err := node.Output(w.Context(), "cat", "/proc/net/dev")
	w.must(err)
	_, counts, found := strings.Cut(string(out), "eth0:")
	if fields := strings.Fields(counts); found && len(fields) > 1 {
		packets, err = strconv.Atoi(fields[1])
		w.must(err)
	}
	return packets
}

// openConnections are those that a backend's web server has, by service: that of nat is asked at the backend's own address.
func (w *world) openConnections(node *testnet.Node) map[string]int {
	w.Helper()
	out, err := node.Output(w.Context(), "ss", "-Htan", "exclude", "time-wait", "exclude", "listening", "sport = :80")
	w.must(err)
	open := make(map[string]int)
	for line := range strings.Lines(string(out)) {
		for _, f := range loadedServices {
			own := f.address
			if f.mode == "nat" {
				own = "10.0."
			}
			if fields := strings.Fields(line); len(fields) > 3 && strings.HasPrefix(fields[3], own) {
				open[f.name]++
			}
		}
	}
	return open
}
