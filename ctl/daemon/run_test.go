package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/config"
)

func (w *world) wantEnd(code string) {
	w.Helper()
	select {
	case <-w.process.Done():
	case <-time.After(patience):
		w.Fatal("the daemon doesn't end")
	}
	text := "<nil>"
	if err := w.process.Wait(); err != nil {
		text = err.Error()
	}
	if text != code {
		w.Errorf("ended with %s, want %s", text, code)
	}
}

func (w *world) log() string {
	w.Helper()
	text, err := os.ReadFile(w.path("log"))
	w.must(err)
	return string(text)
}

func (w *world) pinned() bool {
	_, err := os.Stat(w.options.BPFDir)
	return err == nil
}

func TestStartAndEnd(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	status := w.status()
	if status.Revision != 1 || status.Generation != 1 || len(status.Interfaces) != 2 || len(status.Warnings) != 0 {
		t.Errorf("status: %+v", status)
	}
	for _, i := range status.Interfaces {
		if !i.Attached || i.Path != "tc" || i.Ifindex == 0 {
			t.Errorf("interface %+v", i)
		}
	}
	if status.Interfaces[1].Why == "" {
		t.Error("no reason given for the path that was chosen")
	}
	if !w.passes() {
		t.Error("nothing passes")
	}
	_, err := w.api.Explain(t.Context(), api.ExplainRequest{Packet: "arp who-has 192.0.2.1 tell 192.0.2.2", Interface: "nope0"})
	if err == nil || !strings.Contains(err.Error(), "not on an interface nope0, but on in0, out0") {
		t.Errorf("explain on an interface that isn't configured: %v", err)
	}
	_, err = w.api.Apply(t.Context(), api.ApplyRequest{Name: "none.yaml", YAML: "interfaces: {in0: {path: tc}}\n"})
	w.must(err)
	if tables := w.status().Tables; tables[0].Name == "flows" {
		t.Errorf("tables %+v without flow accounting", tables)
	}
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	if w.pinned() {
		t.Errorf("%s is still there", w.options.BPFDir)
	}
	if _, err := os.Stat(w.options.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestApply(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.write("bad.set", "198.51.100.0/24\n")
	w.start()

	changes := []string{"set: +bad", "rule: +bad"}
	for i, want := range []api.ApplyResult{{Revision: 2, Changed: true, Rules: 1, Sets: 1, Changes: changes}, {Revision: 2, Rules: 1, Sets: 1}} {
		got, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "new.yaml", Dir: w.dir, YAML: dropping})
		w.must(err)
		if !strings.HasPrefix(got.Tag, "2-") {
			t.Errorf("apply %d: the tag is %q", i, got.Tag)
		}
		got.Warnings, got.Tag = nil, ""
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("apply %d: %+v, want %+v", i, got, want)
		}
	}
	if w.passes() {
		t.Error("a packet of a bad source passes")
	}
	rules, err := w.api.Rules(t.Context())
	w.must(err)
	if len(rules) != 1 || rules[0].Decided == 0 {
		t.Errorf("rules %+v", rules)
	}
	status := w.status()
	if status.Filter.Decided == 0 || status.Filter.Reached != status.Filter.Decided+status.Filter.Default {
		t.Errorf("filter %+v", status.Filter)
	}

	w.must(w.process.Signal(syscall.SIGHUP)) // the file still says what it said
	w.until("the file is in force again", func() error {
		if status := w.status(); status.Revision != 3 {
			return fmt.Errorf("revision %d", status.Revision)
		}
		return nil
	})
	if !w.passes() {
		t.Error("nothing passes")
	}
}

// uncounted leaves out what passed by interfaces.
func uncounted(s api.Status) api.Status {
	s.Interfaces = slices.Clone(s.Interfaces)
	for i := range s.Interfaces {
		s.Interfaces[i].Traffic = nil
	}
	return s
}

// Whatever is wrong with a configuration, it changes nothing.
func TestApplyRefused(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	before := uncounted(w.status())
	for _, tc := range []struct{ name, yaml, want string }{
		{"unknown key", base + "fliter: {}\n", "wrong.yaml:6:1: unknown key"},
		{"interface that doesn't exist", strings.Replace(base, "out0", "out1", 1), "interface out1: no such interface"},
		{"set file that doesn't exist", dropping, "bad.set"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "wrong.yaml", Dir: w.dir, YAML: tc.yaml})
			wrong, ok := errors.AsType[config.Errors](err)
			if !ok || !strings.Contains(wrong.Error(), tc.want) {
				t.Errorf("error %v (%T), want %q", wrong, err, tc.want)
			}
			after := uncounted(w.status())
			if after.Revision != before.Revision || after.Generation != before.Generation || fmt.Sprint(after.Interfaces) != fmt.Sprint(before.Interfaces) {
				t.Errorf("before: %+v\nafter: %+v", before, after)
			}
		})
	}
	w.write("gardu.yaml", base+"fliter: {}\n")
	w.must(w.process.Signal(syscall.SIGHUP))
	w.until("the failure is in status", func() error {
		if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "gardu.yaml:6:1") {
			return fmt.Errorf("warnings: %s", text)
		}
		return nil
	})
}

func TestStartRefused(t *testing.T) {
	for _, tc := range []struct{ name, yaml, want string }{
		{"wrong configuration", "interfaces: 7\n", "gardu.yaml:1:"},
		{"interface that doesn't exist", "interfaces: {nope0: {}}\n", "interface nope0: no such interface"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.write("gardu.yaml", tc.yaml)
			w.launch()
			w.wantEnd("exit status 1")
			if !strings.Contains(w.log(), tc.want) {
				t.Errorf("log lacks %q:\n%s", tc.want, w.log())
			}
			if w.pinned() {
				t.Errorf("%s is there", w.options.BPFDir)
			}
		})
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	first := w.process
	w.options.Socket = w.path("other")
	w.launch()
	w.wantEnd("exit status 1")
	if want := fmt.Sprintf("in use by process %d", first.Pid()); !strings.Contains(w.log(), want) {
		t.Errorf("log lacks %q:\n%s", want, w.log())
	}
	w.process = first
	if !w.status().Interfaces[0].Attached {
		t.Error("the first daemon is not attached any more")
	}
}

// kill -9, and the next daemon goes on: same ids and counters, nothing detached in between.
func TestTakeOver(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "198.51.100.0/24\n")
	w.start()
	if w.passes() {
		t.Fatal("a packet of a bad source passes")
	}
	_, err := w.api.Block(t.Context(), []api.BlockRequest{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Why: "test"}})
	w.must(err)
	rules, err := w.api.Rules(t.Context())
	w.must(err)
	status := w.status()

	w.process.Kill()
	if w.passes() { // without a daemon
		t.Error("the data plane stopped with the daemon")
	}
	w.start()
	again, err := w.api.Rules(t.Context())
	w.must(err)
	if again[0].Decided <= rules[0].Decided {
		t.Errorf("decided %d packets before, %d after more", rules[0].Decided, again[0].Decided)
	}
	now := w.status()
	if now.Revision != status.Revision || now.Generation != status.Generation+1 {
		t.Errorf("revision %d generation %d, then %d and %d", status.Revision, status.Generation, now.Revision, now.Generation)
	}
	blocks, err := w.api.Blocks(t.Context())
	w.must(err)
	if len(blocks) != 1 || blocks[0].Why != "test" {
		t.Errorf("blocks %+v", blocks)
	}
}

func TestKeepAttached(t *testing.T) {
	w := newWorld(t)
	w.options.KeepAttached = true
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "198.51.100.0/24\n")
	w.start()
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	if w.passes() {
		t.Error("the data plane is off")
	}
	w.options.KeepAttached = false // so that the test leaves nothing
	w.start()
}

// A set file that changes is in force soon, as a generation of the same revision; one that is broken changes nothing.
func TestSetFile(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "203.0.113.0/24\n")
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	w.write("bad.set", "203.0.113.0/24\n198.51.100.0/24\n")
	w.until("the file is read", func() error { return w.generation(2) })
	if w.passes() {
		t.Error("the set is not in force")
	}
	if status := w.status(); status.Revision != 1 {
		t.Errorf("revision %d", status.Revision)
	}
	w.write("bad.set", "nonsense\n")
	w.until("the failure is in status", func() error {
		if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "bad.set:1") {
			return fmt.Errorf("warnings: %s", text)
		}
		return nil
	})
	if set := w.set(); set.Entries != 2 || set.Wanted != 2 || set.Kernel != 2 || set.State != "kept" || set.Error == "" ||
		strings.Contains(set.Error, "\n") || set.Packets == 0 {
		t.Errorf("set %+v", set)
	}
	if w.passes() {
		t.Error("the last good contents are not in force")
	}
	w.write("bad.set", "203.0.113.0/24\n")
	w.until("the file is read", func() error { return w.generation(3) })
	w.until("the set is counted", func() error {
		if warnings := w.status().Warnings; len(warnings) != 0 {
			return fmt.Errorf("warnings %q", warnings)
		}
		if set := w.set(); set.Entries != 1 || set.Kernel != 1 || set.State != "ok" || set.Error != "" || set.Difference != "" {
			return fmt.Errorf("set %+v", set)
		}
		return nil
	})
}

// set is the only one.
func (w *world) set() api.Set {
	w.Helper()
	sets, err := w.api.Sets(w.Context())
	w.must(err)
	if len(sets) != 1 {
		w.Fatalf("sets %+v", sets)
	}
	return sets[0]
}

// kept waits until a set file is not taken for a reason, and makes sure that what it held before is in force.
func (w *world) kept(reason string) {
	w.Helper()
	w.until("the set is kept: "+reason, func() error {
		if set := w.set(); set.State != "kept" || !strings.Contains(set.Error, reason) {
			return fmt.Errorf("set %+v", set)
		}
		return nil
	})
	if set := w.set(); set.Wanted != 5 || set.Kernel != 5 {
		w.Errorf("%s: set %+v", reason, set)
	}
	if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "set bad holds what was in its file before") {
		w.Errorf("%s: warnings %q", reason, text)
	}
	if w.passes() {
		w.Errorf("%s: what the set held before is not in force", reason)
	}
}

// Whatever becomes of a set file, what it held last stays in force until it holds something good again.
func TestSetFileIsKept(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", dropping)
	const good = "198.51.100.0/24\n203.0.113.1\n203.0.113.3\n203.0.113.5\n203.0.113.7\n203.0.113.7/32\n"
	w.write("bad.set", good)
	w.start()
	if set := w.set(); set.Entries != 6 || set.Wanted != 5 || set.Kernel != 5 || set.State != "ok" {
		t.Errorf("set %+v", set)
	}
	path := w.path("bad.set")
	for _, tc := range []struct {
		reason string
		change func() error
	}{
		{"the file holds no entry", func() error { return os.WriteFile(path, nil, 0o644) }},
		{"set bad would shrink from 5 to 2 entries, and max-shrink is 50%", func() error {
			return os.WriteFile(path, []byte("203.0.113.1\n203.0.113.3\n"), 0o644)
		}},
		{"no such file", func() error { return os.Remove(path) }},
		{"is a directory", func() error { return os.Mkdir(path, 0o755) }},
		{"is a FIFO", func() error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644)) }},
		{"the file is not text", func() error {
			return errors.Join(os.Remove(path), os.WriteFile(path, []byte(strings.Repeat("\x00\x01", 1<<19)), 0o644))
		}},
	} {
		w.must(tc.change())
		w.kept(tc.reason)
	}
	// Nor does a configuration bring in what is broken, or what shrinks too much.
	before := w.status().Generation
	w.write("bad.set", "203.0.113.1\n")
	_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "again.yaml", Dir: w.dir, YAML: dropping})
	if wrong, ok := errors.AsType[config.Errors](err); !ok || !strings.Contains(wrong.Error(), "again.yaml:8:3: set bad would shrink from 5 to 1 entries") {
		t.Errorf("apply of a set that shrinks: %v", err)
	}
	if after := w.status().Generation; after != before {
		t.Errorf("generation %d, then %d", before, after)
	}
	_, err = w.api.Apply(t.Context(), api.ApplyRequest{Name: "again.yaml", Dir: w.dir,
		YAML: strings.Replace(dropping, "{file: bad.set}", "{file: bad.set, max-shrink: 100%}", 1)})
	w.must(err)
	if set := w.set(); set.Wanted != 1 || set.Kernel != 1 || set.State != "ok" {
		t.Errorf("set %+v", set)
	}
	if !w.passes() {
		t.Error("the new contents are not in force")
	}
}

func (w *world) generation(want uint32) error {
	if status := w.status(); status.Generation != want {
		return fmt.Errorf("generation %d", status.Generation)
	}
	return nil
}

func TestBlock(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	prefix := netip.MustParsePrefix("198.51.100.10/32")
	_, err := w.api.Block(t.Context(), []api.BlockRequest{{Prefix: prefix, For: api.Duration(time.Hour), Origin: "cli"}})
	w.must(err)
	if w.passes() {
		t.Error("a packet of a blocked source passes")
	}
	blocks, err := w.api.Blocks(t.Context())
	w.must(err)
	if len(blocks) != 1 || blocks[0].Packets == 0 || blocks[0].Expires.IsZero() || blocks[0].Origin != "cli" {
		t.Errorf("blocks %+v", blocks)
	}
	way, err := w.api.Explain(t.Context(), api.ExplainRequest{Packet: "udp 198.51.100.10:4000 > 198.51.100.1:9"})
	w.must(err)
	if way.Reason != "blocked" || way.Block == nil || way.Block.Prefix != prefix || way.Block.Origin != "cli" || len(way.Rules) > 0 {
		t.Errorf("a packet of a blocked source: %+v", way)
	}
	way, err = w.api.Explain(t.Context(), api.ExplainRequest{Packet: "udp 198.51.100.10:4000 > 198.51.100.1:9", At: time.Now().Add(24 * time.Hour)})
	w.must(err)
	if way.Verdict != "pass" || way.Block != nil || way.Cost == nil || strings.Contains(way.Cost.How, "fares otherwise") {
		t.Errorf("the same when the block has expired: %+v, %+v", way, way.Cost)
	}
	result, err := w.api.Unblock(t.Context(), []netip.Prefix{prefix, netip.MustParsePrefix("203.0.113.0/24")})
	w.must(err)
	if len(result.Removed) != 1 || len(result.Missing) != 1 {
		t.Errorf("unblocked %+v", result)
	}
	if !w.passes() {
		t.Error("nothing passes")
	}
}

// Blocks end on time while no daemon lives; those that don't end are as they were for the next one.
func TestBlocksOutliveTheDaemon(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	ours, other := netip.MustParsePrefix("198.51.100.10/32"), netip.MustParsePrefix("203.0.113.0/24")
	made, err := w.api.Block(t.Context(), []api.BlockRequest{
		{Prefix: ours, For: api.Duration(3 * time.Second), Origin: "cli"},
		{Prefix: other, For: api.Duration(time.Hour), Origin: "feed", Why: "scans"},
	})
	w.must(err)
	if len(made) != 2 || made[0].Prefix != ours || !made[0].Created.Before(made[0].Expires) {
		t.Fatalf("made %+v", made)
	}
	end := made[0].Expires
	w.process.Kill()
	if w.passes() && time.Now().Before(end) {
		t.Error("a blocked source passes without a daemon")
	}
	for deadline := end.Add(5 * time.Second); !w.passes() && time.Now().Before(deadline); { // passes() waits for its packet
	}
	if early := time.Until(end); early > 0 || early < -2*time.Second {
		t.Errorf("the block ended %v after its time", -early)
	}
	w.start()
	blocks, err := w.api.Blocks(t.Context())
	w.must(err)
	if len(blocks) != 1 || blocks[0].Prefix != other || blocks[0].Expires.Sub(made[1].Expires).Abs() > 10*time.Millisecond ||
		!blocks[0].Created.Equal(made[1].Created) || blocks[0].Origin != "feed" || blocks[0].Why != "scans" {
		t.Errorf("before %+v, now %+v", made[1], blocks)
	}
	entries := func(want uint64) func() error {
		return func() error {
			for _, table := range w.status().Tables {
				if table.Name == "blocks" && table.Entries != want {
					return fmt.Errorf("%d blocks are in the map", table.Entries)
				}
			}
			return nil
		}
	}
	w.until("the ended block is out of the map", entries(1))
	_, err = w.api.Block(t.Context(), []api.BlockRequest{{Prefix: other, For: api.Duration(time.Second)}})
	w.must(err)
	w.until("the renewed block is out of the map", entries(0))
	blocks, err = w.api.Blocks(t.Context())
	w.must(err)
	if len(blocks) != 0 {
		t.Errorf("blocks %+v", blocks)
	}
}

// A hundred thousand blocks in one batch, then a thousand more and the same again.
func TestManyBlocks(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	block := func(from, n int, first netip.Prefix) {
		t.Helper()
		requests := []api.BlockRequest{{Prefix: first}}
		for i := range n {
			k := uint32(from + i)
			addr := netip.AddrFrom4([4]byte{240, byte(k >> 16), byte(k >> 8), byte(k)})
			requests = append(requests, api.BlockRequest{Prefix: netip.PrefixFrom(addr, 32), For: api.Duration(time.Hour), Why: "one of many"})
		}
		start := time.Now()
		blocks, err := w.api.Block(t.Context(), requests)
		w.must(err)
		t.Logf("%d blocks in %v", len(requests), time.Since(start))
		if len(blocks) != len(requests) {
			t.Fatalf("%d of %d blocks", len(blocks), len(requests))
		}
	}
	away := netip.MustParsePrefix("203.0.113.0/24")
	block(0, 100_000, away)
	block(100_000, 1000, away)
	if !w.passes() {
		t.Error("nothing passes")
	}
	block(100_000, 1000, netip.MustParsePrefix("198.51.100.0/24"))
	if w.passes() {
		t.Error("a blocked source passes")
	}
	blocks, err := w.api.Blocks(t.Context())
	w.must(err)
	if len(blocks) != 101_002 {
		t.Errorf("%d blocks", len(blocks))
	}
}

// A rule keeps its counters under its name over changes around it, over kill -9 and a restart; what was decided adds up to what
// reached the filter, rules that are gone included.
func TestRuleCountersStay(t *testing.T) {
	const first = base + `
filter:
  rules:
    - {name: mine, match: {proto: udp, dport: 7777}, action: pass}
    - {name: leaving, match: {proto: tcp}, action: drop}
`
	const second = base + `
filter:
  allow: [203.0.113.0/24]
  rules:
    - {name: before, match: {proto: udp, dport: 1}, action: drop}
    - {name: mine, match: {src: 198.51.100.0/24, proto: udp}, action: pass}
`
	w := newWorld(t)
	w.write("gardu.yaml", first)
	w.start()
	mine := func() api.Rule {
		t.Helper()
		rules, err := w.api.Rules(t.Context())
		w.must(err)
		for _, rule := range rules {
			if rule.Name == "mine" {
				return rule
			}
		}
		t.Fatal("the rule is not listed")
		return api.Rule{}
	}
	addsUp := func() {
		t.Helper()
		w.until("the sum is that of the filter", func() error { // packets may come in between two reads
			f := w.status().Filter
			if sum := f.Allowed + f.Blocked + f.Health + f.Decided + f.Default; sum != f.Reached {
				return fmt.Errorf("%d packets reached the filter, %d were decided: %+v", f.Reached, sum, f)
			}
			return nil
		})
	}
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	if conn, err := w.dialTCP(); err == nil {
		conn.Close()
		t.Error("TCP passes")
	}
	counted := mine()
	if counted.Packets == 0 || counted.Decided != counted.Packets {
		t.Errorf("%+v", counted)
	}
	addsUp()
	grew := func(what string) {
		t.Helper()
		now := mine()
		if now.Packets != counted.Packets || now.Bytes != counted.Bytes || now.Decided != counted.Decided {
			t.Errorf("%s: was %+v, is %+v", what, counted, now)
		}
		if !w.passes() {
			t.Errorf("%s: nothing passes", what)
		}
		if now = mine(); now.Packets <= counted.Packets {
			t.Errorf("%s: %d packets, then %d", what, counted.Packets, now.Packets)
		}
		counted = now
		addsUp()
	}
	w.write("gardu.yaml", second)
	w.must(w.process.Signal(syscall.SIGHUP))
	w.until("the second configuration is in force", func() error { return w.generation(2) })
	grew("another configuration")
	w.process.Kill()
	w.start()
	grew("kill -9")
	_, err := w.api.Block(t.Context(), []api.BlockRequest{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}})
	w.must(err)
	if w.passes() {
		t.Error("a blocked source passes")
	}
	addsUp()
}

// An interface that vanishes is attached again when it is back.
func TestInterfaceComesBack(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	w.must(w.box.DeleteLink("in0"))
	w.until("status tells", func() error {
		if i := w.status().Interfaces[0]; i.Attached || i.Error == "" {
			return fmt.Errorf("%+v", i)
		}
		return nil
	})
	w.connect(w.client, "198.51.100.10/24", "in0", "198.51.100.1/24")
	w.must(w.client.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	w.until("it is attached again", func() error {
		if i := w.status().Interfaces[0]; !i.Attached {
			return fmt.Errorf("%+v", i)
		}
		return nil
	})
	before := w.status().Filter.Reached
	if !w.passes() {
		t.Error("nothing passes")
	}
	if after := w.status().Filter.Reached; after == before {
		t.Error("nothing is judged")
	}
}

// An interface that goes in the middle of traffic takes nothing out of any total, neither its own nor those of flows.
func TestTotalsOutliveInterfaces(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	conn, err := w.client.Dial(t.Context(), "udp", "10.0.0.11:9")
	w.must(err)
	defer conn.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				conn.Write([]byte("gardu")) // fails once the interface is gone
			}
		}
	}()
	w.until("traffic", func() error {
		if i := w.status().Interfaces[0]; i.Received.Packets < 1000 {
			return fmt.Errorf("%+v", i.Traffic)
		}
		return nil
	})
	before := w.status()
	w.must(w.box.DeleteLink("in0"))
	close(stop)
	<-stopped
	w.until("every packet is in some total", func() error {
		status := w.status()
		if i := status.Interfaces[0]; i.Attached || i.Received.Packets < before.Interfaces[0].Received.Packets {
			return fmt.Errorf("%+v, before %+v", i.Traffic, before.Interfaces[0].Traffic)
		}
		var received, left api.Counter
		for _, i := range status.Interfaces {
			received.Packets, received.Bytes = received.Packets+i.Received.Packets, received.Bytes+i.Received.Bytes
		}
		for _, reason := range status.Reasons {
			left.Packets, left.Bytes = left.Packets+reason.Packets, left.Bytes+reason.Bytes
		}
		if received != left {
			return fmt.Errorf("%+v were received by interfaces, %+v left for a reason", received, left)
		}
		return exact(status.Flows)
	})
}

func TestFlowsAndResize(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	count := func() (flows []api.Flow) {
		err := w.api.Flows(t.Context(), api.FlowQuery{Filter: "dport 7777"}, func(f api.Flow) error {
			flows = append(flows, f)
			return nil
		})
		w.must(err)
		return flows
	}
	flows := count()
	if len(flows) != 1 || flows[0].Interface != "in0" || flows[0].Proto != "udp" || flows[0].Verdict != "pass" ||
		time.Since(flows[0].Last) > time.Minute || flows[0].First.After(flows[0].Last) {
		t.Fatalf("flows %+v", flows)
	}
	if again := count(); fmt.Sprint(again) != fmt.Sprint(flows) {
		t.Errorf("read again: %+v\nbefore:     %+v", again, flows)
	}
	for _, size := range []string{"2000", "3000"} { // the second while the first resize isn't finished
		_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "bigger.yaml", YAML: strings.Replace(base, "1000", size, 1)})
		w.must(err)
		if size == "2000" && len(count()) != 1 {
			t.Error("the flow is not seen while the table is resized")
		}
	}
	w.until("the account of the third table closes", func() error {
		f := w.status().Flows
		if f.Max < 6000 || f.Unattributed == 0 {
			return fmt.Errorf("%+v", f)
		}
		return exact(f)
	})
}

// exact says whether every packet is accounted for.
func exact(f api.FlowTotals) error {
	if found := f.Attributed + f.Unattributed; found != f.Accounted {
		return fmt.Errorf("%d packets found, %d accounted: %+v", found, f.Accounted, f)
	}
	return nil
}

const balancing = base + `
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends:
      - {name: b1, address: 10.0.0.11}
    health: {tcp: true, port: 8080, via: backend, every: 100ms, timeout: 90ms, up: 1, down: 2}
`

// What the kernel sends is explained where gardu sees it, and nowhere else.
func TestExplainSent(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	sent := api.ExplainRequest{Packet: "udp 192.0.2.1:53 > 198.51.100.10:4000", Out: true}
	_, err := w.api.Explain(t.Context(), sent)
	w.wantProblem(err, api.CodeConflict, "what the kernel sends by in0 gardu doesn't see")
	_, err = w.api.Apply(t.Context(), api.ApplyRequest{Name: "egress.yaml", YAML: strings.Replace(base, "path: auto", "path: auto, egress: true", 1) +
		"filter: {rules: [{name: none, direction: out, match: {interface: out0, proto: udp}, action: drop}]}\n"})
	w.must(err)
	sent.Interface = "out0"
	if way, err := w.api.Explain(t.Context(), sent); err != nil || way.Verdict != "drop" || way.Rule != "none" || way.Interface != "out0" {
		t.Errorf("sent: %+v, %v", way, err)
	}
}

// A backend's state follows its checks into the data plane, and the next daemon knows it.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", balancing)
	listener, err := w.backend.Listen("tcp", "10.0.0.11:8080")
	w.must(err)
	w.start()
	w.until("the backend is up", func() error { return w.backendIs("up") })
	if hop := w.backends()[0].NextHop; !strings.HasPrefix(hop, "out0 ") {
		t.Errorf("next hop %q", hop)
	}
	packet := api.ExplainRequest{Packet: "tcp 198.51.100.10:40000 > 192.0.2.10:80 syn"}
	way, err := w.api.Explain(t.Context(), packet)
	w.must(err)
	if way.Verdict != "forward" || way.Service != "web" || way.Backend != "b1" || len(way.Out) != 1 || way.Out[0].Interface != "out0" {
		t.Errorf("explained: %+v", way)
	}
	_, err = w.api.Explain(t.Context(), api.ExplainRequest{Packet: "arp who-has 192.0.2.1 tell 192.0.2.2", WithFlow: true})
	w.wantProblem(err, api.CodeConflict, "belongs to none")

	w.must(listener.Close())
	w.until("the backend is down", func() error { return w.backendIs("down") })
	if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "web/b1 is down") || !strings.Contains(text, "no backend that is up and not drained") {
		t.Errorf("warnings: %s", text)
	}
	if way, err = w.api.Explain(t.Context(), packet); err != nil || way.Reason != "no-backend" {
		t.Errorf("explained: %+v, %v", way, err)
	}

	w.process.Kill()
	w.start()
	if err := w.backendIs("down"); err != nil {
		t.Errorf("the next daemon doesn't know: %v", err)
	}
	if way, err = w.api.Explain(t.Context(), packet); err != nil || way.Reason != "no-backend" {
		t.Errorf("explained: %+v, %v", way, err)
	}
	listener, err = w.backend.Listen("tcp", "10.0.0.11:8080")
	w.must(err)
	defer listener.Close()
	w.until("the backend is up", func() error { return w.backendIs("up") })
}

func (w *world) backends() []api.Backend {
	w.Helper()
	backends, err := w.api.Backends(w.Context())
	w.must(err)
	if len(backends) != 1 {
		w.Fatalf("backends %+v", backends)
	}
	return backends
}

func (w *world) backendIs(state string) error {
	w.Helper()
	if b := w.backends()[0]; b.State != state {
		return fmt.Errorf("%+v", b)
	}
	return nil
}
