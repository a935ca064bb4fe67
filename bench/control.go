package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/flow"
	"gardu/ctl/lb"
	"gardu/ctl/testnet"
)

// controlRow is something that the daemon does, or takes, and what peers take for the like.
type controlRow struct {
	Name   string  `json:"name"`
	About  string  `json:"about"`
	Unit   string  `json:"unit"`
	Figure figure  `json:"figure"`
	Of     string  `json:"of,omitempty"`    // a row of gardu's that does the like
	Ratio  float64 `json:"ratio,omitempty"` // to that
	Failed string  `json:"failed,omitempty"`
}

// task is a row that is to be measured.
type task struct {
	name, about, unit, of string
	once                  bool // is always the same, or takes too long to be done again
	slow                  bool // not for a short look
	sample                func(*manager) (float64, error)
}

// manager is a daemon in a network of its own, and what tasks share.
type manager struct {
	*site
	list1M   []byte // of 1M prefixes, a line each
	list100k []byte
	started  time.Duration
}

const nothingConfigured = "filter: {default: pass}\n"

// attachedTo is where programs sit that a change may have to swap: those that sit nowhere aren't loaded.
const attachedTo = "interfaces: {client0: {path: xdp}, b1: {path: tc, egress: true}}\n"

const withFlows = attachedTo + "flows: {max: 100000}\n"

// startName is the row that all others need: it leaves a daemon behind.
const startName = "start"

// tasks are the rows, in the order in which they are measured.
func tasks() []task {
	list := []task{
		{name: startName, about: "from exec to an answer of the API, nothing configured", unit: "ms", sample: func(m *manager) (float64, error) {
			if err := m.stop(); err != nil {
				return 0, err
			}
			took, err := m.start(nothingConfigured)
			return ms(took), err
		}},
		// Before there are the names of 100,000 rules to keep, which make each apply longer.
		{name: "backend added to 1,000", about: "apply of a service with 1,001 backends after one with 1,000: ring and entries", unit: "ms",
			sample: func(m *manager) (float64, error) {
				if _, err := m.apply(oneService(1000)); err != nil {
					return 0, err
				}
				took, err := m.apply(oneService(1001))
				return ms(took), err
			}},
	}
	for _, n := range []size{{10, "10"}, {1000, "1,000"}, {10_000, "10,000"}, {100_000, "100,000"}} {
		config := sync.OnceValue(func() string { return twoFields(n.n).yaml() })
		list = append(list, task{name: "apply of " + n.name + " rules", about: "rules of two fields, from text to packets judged by them; programs are swapped on three hooks", unit: "ms", slow: n.n > 10_000,
			sample: func(m *manager) (float64, error) { return m.applied(config()) }})
		if n.n == 10_000 {
			list = append(list, task{name: "change of one rule of 10,000", about: "apply of the same rules but one, with the programs that are there", unit: "ms",
				sample: func(m *manager) (float64, error) {
					if _, err := m.apply(withFlows + config()); err != nil {
						return 0, err
					}
					took, err := m.apply(withFlows + strings.Replace(config(), "action: drop", "action: pass", 1))
					return ms(took), err
				}})
		}
	}
	feed := func(name string) string {
		return "sets: {listed: {file: " + name + "}}\nfilter: {rules: [{name: listed, match: {src: \"@listed\"}, action: drop}]}\n"
	}
	list = append(list,
		task{name: "apply of a list of 100k", about: "prefixes of a file", unit: "ms", sample: func(m *manager) (float64, error) { return m.applied(feed("list100k")) }},
		task{name: "apply of a list of 1M", about: "prefixes of a file", unit: "ms", sample: func(m *manager) (float64, error) { return m.applied(feed("list1M")) }},
		task{name: "daemon's memory with a list of 1M", about: "resident", unit: "MiB", once: true, sample: func(m *manager) (float64, error) { return m.resident() }},
		task{name: "maps' memory with a list of 1M", about: "of all maps, with a flow table for 100k flows", unit: "MiB", once: true, sample: func(m *manager) (float64, error) { return m.maps() }},
		task{name: "take-over", about: "from exec, after kill -9, to an answer of the API, with the list of 1M", unit: "ms", sample: func(m *manager) (float64, error) {
			if err := os.WriteFile(m.path("gardu.yaml"), []byte(m.withAPI(feed("list1M"))), 0o600); err != nil {
				return 0, err
			}
			m.daemon.Kill()
			took, err := m.run()
			return ms(took), err
		}},
		task{name: "ring of 1,000 backends", about: "65,537 slots", unit: "ms", sample: func(*manager) (float64, error) {
			members := make([]lb.Member, 1000)
			for i := range members {
				members[i] = lb.Member{Name: fmt.Sprintf("b%d", i), ID: uint16(i + 1), Weight: 100}
			}
			begin := time.Now()
			lb.Ring(members, lb.RingSize)
			return ms(time.Since(begin)), nil
		}},
		task{name: "backend dead to last misrouted", about: "a TCP check every 100 ms, down after 1; one connection after the other, the last that met the dead backend", unit: "ms",
			sample: func(m *manager) (float64, error) {
				d, err := m.death()
				return ms(d.last.Sub(d.died)), err
			}},
		task{name: "backend found dead to last misrouted", about: "the same, from the daemon's decision on", unit: "ms", sample: func(m *manager) (float64, error) {
			d, err := m.death()
			return ms(max(0, d.last.Sub(d.decided))), err
		}},
		task{name: "sweep of 1M flows", about: "all records of a table that holds 1M flows, packets and bytes added up", unit: "ms", sample: sweepMillion()},
		task{name: "kernel memory a flow", about: "records and the LRU map behind them, for 1M flows", unit: "bytes", once: true, sample: func(*manager) (float64, error) {
			memory, err := dataplane.FlowMemory(1_000_000)
			return float64(memory) / 1e6, err
		}})
	for _, n := range []size{{10, "10"}, {1000, "1,000"}, {10_000, "10,000"}} {
		list = append(list, task{name: "nft -f, " + n.name + " rules", about: "the same rules on the ingress hook", unit: "ms", of: "apply of " + n.name + " rules",
			sample: func(m *manager) (float64, error) {
				var b strings.Builder
				for _, e := range twoFields(n.n) {
					b.WriteString("    " + e.nft() + " drop\n")
				}
				return m.nft("  chain in { type filter hook ingress device \"client0\" priority 0; policy accept;\n" + b.String() + "  }\n")
			}})
	}
	list = slices.Concat(list, previews(), footprint(), checking(), exporting(), asking())
	return append(list,
		task{name: "nft -f, list of 100k", about: "an interval set of the same prefixes", unit: "ms", of: "apply of a list of 100k", once: true, slow: true, sample: func(m *manager) (float64, error) {
			elements := strings.Join(strings.Fields(string(m.list100k)), ", ")
			return m.nft("  set listed { type ipv4_addr; flags interval; auto-merge; elements = { " + elements + " }; }\n")
		}},
		task{name: "nft -f, list of 1M", about: "likewise, if it loads within four minutes", unit: "ms", of: "apply of a list of 1M", once: true, slow: true, sample: func(m *manager) (float64, error) {
			elements := strings.Join(strings.Fields(string(m.list1M)), ", ")
			return m.nft("  set listed { type ipv4_addr; flags interval; auto-merge; elements = { " + elements + " }; }\n")
		}},
		task{name: "ipset restore, list of 100k", about: "hash:net of the same prefixes", unit: "ms", of: "apply of a list of 100k", sample: func(m *manager) (float64, error) { return m.ipset(m.list100k) }},
		task{name: "ipset restore, list of 1M", about: "hash:net of the same prefixes", unit: "ms", of: "apply of a list of 1M", once: true, slow: true,
			sample: func(m *manager) (float64, error) { return m.ipset(m.list1M) }})
}

// controlNames are the names of all rows.
func controlNames() (names []string) {
	for _, t := range tasks() {
		names = append(names, t.name)
	}
	return names
}

// benchControl measures the daemon. What fails is told in its row.
func benchControl(s settings, r *result) error {
	site, err := newSite(s.binary, 2)
	if err != nil {
		return err
	}
	m := &manager{site: site, list1M: lines(feedOf(1_000_000)), list100k: lines(feedOf(100_000))}
	for name, list := range map[string][]byte{"list1M": m.list1M, "list100k": m.list100k} {
		if err := os.WriteFile(m.path(name), list, 0o600); err != nil {
			return errors.Join(err, site.close())
		}
	}
	repeats := 3
	if s.quick {
		repeats = 1
	}
	median := map[string]float64{}
	for _, t := range tasks() {
		if s.quick && t.slow || t.name != startName && !s.filter.MatchString(t.name) {
			continue
		}
		say("%s", t.name)
		row := controlRow{Name: t.name, About: t.about, Unit: t.unit, Of: t.of}
		var samples []float64
		for i := 0; i < repeats && err == nil && !(t.once && i > 0); i++ {
			var v float64
			if v, err = t.sample(m); err == nil {
				samples = append(samples, v)
			}
		}
		if len(samples) == 0 {
			row.Failed = cmp.Or(firstLine(err), "nothing was measured")
		} else {
			if err != nil {
				r.fail(t.name, fmt.Errorf("only %d of %d times: %w", len(samples), repeats, err))
			}
			row.Figure = figureOf(samples)
			median[t.name] = row.Figure.Median
			if base := median[t.of]; base > 0 {
				row.Ratio = row.Figure.Median / base
			}
		}
		err = nil
		r.Control = append(r.Control, row)
	}
	return site.close()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// applied is how long a configuration takes, after one with nothing.
func (m *manager) applied(config string) (float64, error) {
	if _, err := m.apply(attachedTo + nothingConfigured); err != nil {
		return 0, err
	}
	took, err := m.apply(withFlows + config)
	return ms(took), err
}

// resident is the daemon's memory.
func (m *manager) resident() (float64, error) {
	for l := range strings.Lines(text(fmt.Sprintf("/proc/%d/status", m.daemon.Pid()))) {
		if fields := strings.Fields(l); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the kernel doesn't say")
}

// maps is the memory of all maps, by the kernel's account.
func (m *manager) maps() (float64, error) {
	out, err := exec.Command(m.binary, "bpf", "--bpffs", m.bpffs, "--time", "0", "-o", "json").Output()
	if err != nil {
		return 0, fmt.Errorf("gardu bpf: %w", err)
	}
	var all struct{ Maps []struct{ Memory float64 } }
	if err := json.Unmarshal(out, &all); err != nil {
		return 0, err
	}
	var sum float64
	for _, one := range all.Maps {
		sum += one.Memory
	}
	return sum / (1 << 20), nil
}

// nft loads a table and returns how long that took.
func (m *manager) nft(body string) (float64, error) {
	if err := os.WriteFile(m.path("nft"), []byte("table netdev bench {\n"+body+"}\n"), 0o600); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	begin := time.Now()
	if _, err := m.box.Output(ctx, "nft", "-f", m.path("nft")); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	_, err := m.box.Output(context.Background(), "nft", "delete", "table", "netdev", "bench")
	return ms(took), err
}

// ipset loads a list and returns how long that took.
func (m *manager) ipset(list []byte) (float64, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "create listed hash:net maxelem %d\n", 1<<21)
	for l := range bytes.Lines(list) {
		fmt.Fprintf(&b, "add listed %s", l)
	}
	if err := os.WriteFile(m.path("ipset"), b.Bytes(), 0o600); err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := m.box.Output(context.Background(), "ipset", "restore", "-file", m.path("ipset")); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	_, err := m.box.Output(context.Background(), "ipset", "destroy", "listed")
	return ms(took), err
}

// death is when a backend died, when the daemon found that it is dead, and when the last connection that met it began.
type death struct{ died, decided, last time.Time }

// death kills one of two backends.
func (m *manager) death() (d death, err error) {
	const config = `interfaces: {client0: {path: xdp}, b1: {path: xdp}, b2: {path: xdp}}
flows: {max: 100000}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    health: {tcp: true, every: 100ms, timeout: 90ms, up: 1, down: 1}
    backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]
`
	var listeners []net.Listener
	for _, node := range m.backends {
		listener, err := node.Listen("tcp", ":80")
		if err != nil {
			return d, err
		}
		defer listener.Close()
		listeners = append(listeners, listener)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
	}
	if _, err := m.apply(config); err != nil {
		return d, err
	}
	if err := m.ready(); err != nil {
		return d, err
	}
	address := netip.AddrPortFrom(serviceAddress, 80).String()
	if err := m.until("clients are answered", func(context.Context) error { return connect(m.client, address) }); err != nil {
		return d, err
	}
	begin := time.Now()
	for d.died.IsZero() || time.Since(d.died) < time.Second {
		if d.died.IsZero() && time.Since(begin) > 300*time.Millisecond {
			listeners[0].Close()
			d.died = time.Now()
			d.last = d.died // if none meets it
		}
		at := time.Now()
		if err := connect(m.client, address); err != nil {
			if d.died.IsZero() {
				return d, fmt.Errorf("connect before anything died: %w", err)
			}
			d.last = at
		}
	}
	err = m.api.Events(context.Background(), api.EventQuery{Filter: "kind down and backend b1"}, func(e api.Event) error {
		if e.Time.After(d.died) && d.decided.IsZero() {
			d.decided = e.Time
		}
		return nil
	})
	if err == nil && d.decided.IsZero() {
		err = errors.New("nobody noticed that the backend was dead")
	}
	return d, err
}

func connect(from *testnet.Node, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // until the other side has closed: it waits, not we
		return err
	}
	return nil
}

// sweepMillion fills a table with 1M flows, once, each CPU with its part, and returns what sweeps it.
func sweepMillion() func(*manager) (float64, error) {
	fill := sync.OnceValues(func() (*world, error) {
		cpus := runtime.NumCPU()
		w, err := newWorld(scenario{snapshot: flowsOnly, room: 1_000_000 / cpus})
		if err != nil {
			return nil, err
		}
		all := everNew(1_000_000)()
		errs := make(chan error)
		for cpu, part := range slices.Collect(slices.Chunk(all, (len(all)+cpus-1)/cpus)) {
			go func() { errs <- see(w, part, cpu) }()
		}
		for range cpus {
			err = errors.Join(err, <-errs)
		}
		return w, err
	})
	return func(*manager) (took float64, err error) {
		w, err := fill()
		if err != nil {
			return 0, err
		}
		records := 0
		var packets uint64
		err = w.ReadFlows(func(tables []dataplane.FlowTable) error {
			begin := time.Now()
			var all []*flow.Table
			for _, t := range tables {
				table, err := flow.NewTable(t.Memory, t.LRU)
				if err != nil {
					return err
				}
				all = append(all, table)
			}
			err := flow.Sweep(all, func(record *abi.FlowRecord) bool {
				records++
				packets += record.Value.Packets
				return true
			})
			took = ms(time.Since(begin))
			return err
		})
		if err == nil && records < 950_000 {
			err = fmt.Errorf("the table holds %d flows", records)
		}
		return took, err
	}
}

// see has a CPU receive packets, on a thread that ends with its goroutine.
func see(w *world, packets []tuple, cpu int) error {
	g, err := newGenerator(packets, options{})
	if err != nil {
		return err
	}
	defer g.close()
	runtime.LockOSThread()
	if err := stay(cpu); err != nil {
		return err
	}
	if err := w.behind(g, dataplane.HookXDP); err != nil {
		return err
	}
	_, err = g.send(len(packets))
	return err
}

// oneService has n backends.
func oneService(n int) string {
	var b strings.Builder
	b.WriteString(attachedTo + "flows: {max: 10000}\nservices:\n  big:\n    address: 192.0.2.10\n    port: 80\n    proto: tcp\n    forward: ipip\n    backends:\n")
	for i := range n {
		fmt.Fprintf(&b, "      - {name: b%d, address: %s}\n", i, addr4(10<<24|1<<16+uint32(i)+20))
	}
	return b.String()
}

// yaml is the ruleset as a configuration.
func (s ruleset) yaml() string {
	var b strings.Builder
	b.WriteString("filter:\n  rules:\n")
	for i, e := range s {
		var match []string
		if e.src.Bits() > 0 {
			match = append(match, "src: "+e.src.String())
		}
		if e.dst.Bits() > 0 {
			match = append(match, "dst: "+e.dst.String())
		}
		if e.dport.Hi > 0 {
			match = append(match, fmt.Sprintf("dport: %d", e.dport.Lo))
		}
		fmt.Fprintf(&b, "    - {name: rule-%d, match: {%s}, action: drop}\n", i, strings.Join(match, ", "))
	}
	return b.String()
}

// lines are the prefixes of a list, one a line.
func lines(l list) []byte {
	var b bytes.Buffer
	for _, p := range l.prefixes {
		if p.IsSingleIP() {
			fmt.Fprintln(&b, p.Addr())
			continue
		}
		fmt.Fprintln(&b, p)
	}
	return b.Bytes()
}

func controlPart(b *strings.Builder, rows []controlRow) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n## What the daemon takes\n\n| what | median | min | max | unit | beside | ratio | |\n|---|--:|--:|--:|---|---|--:|---|\n")
	for _, c := range rows {
		if c.Failed != "" {
			fmt.Fprintf(b, "| %s | not measured: %s |\n", c.Name, c.Failed)
			continue
		}
		ratio := ""
		if c.Ratio > 0 {
			ratio = short(c.Ratio)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.Name, short(c.Figure.Median), short(c.Figure.Min), short(c.Figure.Max), c.Unit, c.Of, ratio, c.About)
	}
}
