package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/flow"
	"gardu/ctl/model"
)

// sinkEnv names the file that a daemon under test writes reports of flows to.
const sinkEnv = "GARDU_TEST_SINK"

// reported is a report in that file.
type reported struct {
	flow.Report
	RuleName, InterfaceName, Why string
}

// fileSink writes each batch of reports to a file of its own, which is there whole or not at all, whatever becomes of the process.
type fileSink struct{ dir string }

func (s fileSink) Consume(reports []flow.Report, names flow.Names) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for _, r := range reports {
		if err := encoder.Encode(reported{r, names.Rule(r.Rule), names.Interface(r.Ifindex), r.End.String()}); err != nil {
			panic(err)
		}
	}
	path := filepath.Join(s.dir, strconv.FormatInt(time.Now().UnixNano(), 10))
	if err := os.WriteFile(path+".part", text.Bytes(), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		panic(err)
	}
}

func (fileSink) Close() error { return nil }

// reports reads what the daemons wrote so far.
func (w *world) reports() []reported {
	w.Helper()
	entries, err := os.ReadDir(w.sink)
	w.must(err)
	var all []reported
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(w.sink, entry.Name()))
		w.must(err)
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			var r reported
			w.must(json.Unmarshal(lines.Bytes(), &r))
			all = append(all, r)
		}
	}
	return all
}

// sum adds up what was reported.
func sum(reports []reported) (c flow.Count) {
	for _, r := range reports {
		c = c.Plus(r.Delta).Plus(r.DeltaReply)
	}
	return c
}

const reporting = `
interfaces:
  in0: {path: tc}
  out0: {path: auto}
flows: {max: 1000, idle: 1s, active: 1s}
`

// everythingReported waits until every packet that was accounted is reported once, but for those that found no place in the table.
func (w *world) everythingReported() {
	w.Helper()
	w.until("everything is reported", func() error {
		status, reported := w.status(), sum(w.reports())
		f, r := status.Flows, status.Flows.Reports
		if err := exact(f); err != nil {
			return err
		}
		if f.Accounted == 0 || r.Pending != 0 || r.Packets+r.Missed != f.Accounted || reported.Packets != r.Packets || reported.Bytes != r.Bytes ||
			r.Missed == 0 && r.Bytes != f.AccountedBytes {
			return fmt.Errorf("%+v reported, status says %+v of %+v", reported, r, f)
		}
		return nil
	})
}

// reportTo makes the daemon report flows to files.
func (w *world) reportTo(yaml string) {
	w.Helper()
	w.sink = w.path("reports")
	w.must(os.Mkdir(w.sink, 0o700))
	w.write("gardu.yaml", yaml)
}

func TestReports(t *testing.T) {
	w := newWorld(t)
	w.reportTo(reporting)
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	w.everythingReported()
	w.until("the flow's end is reported", func() error {
		for _, r := range w.reports() {
			if r.Dst.Port() == 7777 && r.Why == "idle" && r.InterfaceName == "in0" && r.Packets >= 1 {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.reports())
	})
	if sinks := w.status().Sinks; len(sinks) != 1 || sinks[0].Name != "test" || sinks[0].Packets == 0 || sinks[0].LostReports != 0 {
		t.Errorf("sinks %+v", sinks)
	}
	before := len(w.reports())
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	accounted := w.status().Flows.Accounted
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	if after := w.reports(); len(after) == before || sum(after).Packets < accounted {
		t.Errorf("%d reports of %d packets at the end, %d accounted", len(after)-before, sum(after).Packets, accounted)
	}
}

// clockEnv names a file that says how far the time of day of a daemon under test is from ours.
const clockEnv = "GARDU_TEST_CLOCK"

// clockOf is what a clock that was set says: it has no monotonic reading that would know better.
func clockOf(path string) time.Time {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	ahead, err := time.ParseDuration(string(text))
	if err != nil {
		panic(err)
	}
	return time.Now().Round(0).Add(ahead)
}

// The clock of the machine is set, forth and back by days, while flows go on: totals, reports and the history have each packet once, under the
// time that it was.
func TestClockIsSet(t *testing.T) {
	w := newWorld(t)
	w.reportTo(keeping)
	w.write("clock", "0s")
	w.env = append(w.env, clockEnv+"="+w.path("clock"))
	w.start()
	seen := map[uint16]bool{} // source ports: each time another one
	for _, ahead := range []time.Duration{0, 26 * time.Hour, -50 * time.Hour, 0} {
		w.write("clock", ahead.String())
		if !w.passes() {
			t.Fatal("nothing passes")
		}
		now := time.Now()
		w.until("the flow is reported", func() error {
			for _, r := range w.reports() {
				if r.Dst.Port() != 7777 || seen[r.Src.Port()] {
					continue
				}
				seen[r.Src.Port()] = true
				if r.Last.Sub(now.Add(ahead)).Abs() > patience || r.Until.Before(r.Since) {
					t.Errorf("the clock was %s ahead: %+v", ahead, r)
				}
				return nil
			}
			return errors.New("it isn't")
		})
		w.everythingReported()
		w.until("the history has it all", func() error {
			history, err := w.api.History(t.Context(), api.HistoryQuery{Since: now.Add(-100 * time.Hour), Until: now.Add(100 * time.Hour), Group: "proto"})
			w.must(err)
			var kept flow.Count
			for _, g := range history.Groups {
				kept = kept.Plus(flow.Count{Packets: g.Packets + g.PacketsReply, Bytes: g.Bytes + g.BytesReply})
			}
			status := w.status()
			if f := status.Flows; kept != (flow.Count{Packets: f.Accounted, Bytes: f.AccountedBytes}) || status.History.Lost != (api.HistoryCounts{}) {
				return fmt.Errorf("the clock was %s ahead: it has %+v and lost %+v, accounted are %d packets and %d bytes",
					ahead, kept, status.History.Lost, f.Accounted, f.AccountedBytes)
			}
			return nil
		})
	}
}

// idleSink counts what it is given.
type idleSink struct {
	reports int
	closed  bool
}

func (s *idleSink) Consume(reports []flow.Report, _ flow.Names) { s.reports += len(reports) }

func (s *idleSink) Close() error {
	s.closed = true
	return nil
}

// tracked is a fan-out with a tracker over one flow.
func tracked(t *testing.T) (r *reports, pass func()) {
	t.Helper()
	var table bytes.Buffer
	bucket := abi.FlowBucket{}
	bucket.Record[0] = abi.FlowRecord{Key: abi.FlowKey{Proto: 17, Tag: uint16(abi.FlowUsed) << 12}, Value: abi.FlowValue{Packets: 1, Bytes: 100, First: 1}}
	if err := binary.Write(&table, binary.NativeEndian, bucket); err != nil {
		t.Fatal(err)
	}
	flows, err := flow.NewTable(table.Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := flow.NewTracker(make([]byte, flow.LedgerSize(1000)), [2]uint64{1, 2}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	r = &reports{}
	r.tracker.Store(tracker)
	return r, func() {
		t.Helper()
		now := abi.Clock{Jiffies: 1000, Monotonic: 4e9}
		if _, err := tracker.Pass([]*flow.Table{flows}, flow.NewClock(now, 250, time.Now()), now, flow.Timers{Last: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// A sink that can't be opened is told of, and tried again, and then gets what it missed; one that is made from something else is
// another one, and goes on.
func TestSinksFollowTheSnapshot(t *testing.T) {
	r, pass := tracked(t)
	faults := map[string]error{}
	with := taking{
		clock: func() (flow.Clock, error) { return flow.NewClock(abi.Clock{}, 250, time.Now()), nil },
		names: func() flow.Names { return flowNames{} },
		fault: func(name string, err error) { faults[name] = err },
	}
	opened := 0
	wish := sinkWish{"one", "a", func() (sink, error) {
		if opened++; opened == 1 {
			return nil, errors.New("no such collector")
		}
		return &idleSink{}, nil
	}}
	for i, want := range []bool{false, true, true} {
		r.follow([]sinkWish{wish}, with)
		status := r.all()[0].status()
		if got := status.Error == "" && faults["one"] == nil; got != want || status.Name != "one" {
			t.Errorf("attempt %d: %+v, %v", i, status, faults)
		}
		if i == 0 {
			pass()
		}
	}
	first := r.all()[0].sink.(*idleSink)
	wish.made = "b"
	r.follow([]sinkWish{wish}, with)
	if opened != 3 || !first.closed || first.reports != 1 || len(r.all()) != 1 {
		t.Errorf("opened %d times, %d sinks, first %+v", opened, len(r.all()), first)
	}
	if status := r.all()[0].status(); status.Reports != 1 || status.Packets != 1 || status.Bytes != 100 || status.LostReports+status.Waiting != 0 {
		t.Errorf("%+v", status)
	}
	second := r.all()[0].sink.(*idleSink)
	r.close(with)
	if len(r.all()) != 0 || !second.closed || second.reports != 0 {
		t.Errorf("%d sinks, the last %+v", len(r.all()), second)
	}
}

// Sinks are told apart by their names.
func TestSinkNames(t *testing.T) {
	d := newDaemon(Options{})
	seen := map[string]bool{}
	for _, wish := range d.wantedSinks(&model.Snapshot{}) {
		if seen[wish.name] || wish.name == "" || strings.ContainsAny(wish.name, "\n") {
			t.Errorf("sink %q", wish.name)
		}
		seen[wish.name] = true
	}
}

// datagrams sends some from the client to ports of the backend, where nobody listens.
func (w *world) datagrams(n, ports int) {
	w.Helper()
	w.must(w.client.Do(func() error {
		socket, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return err
		}
		defer socket.Close()
		for i := range n {
			if _, err := socket.WriteTo([]byte("gardu"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 11), Port: 10000 + i%ports}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// kill -9 again and again while packets pass: the next daemon reports what the one before didn't, and nothing twice.
func TestReportsOutliveTheDaemon(t *testing.T) {
	w := newWorld(t)
	w.reportTo(reporting)
	w.start()
	for i := range 4 {
		w.datagrams(500, 50)
		if i%2 == 0 {
			before := len(w.reports())
			w.until("something is reported", func() error {
				if len(w.reports()) == before {
					return errors.New("nothing")
				}
				return nil
			})
		}
		w.process.Kill()
		w.datagrams(100, 10) // nobody looks
		w.start()
	}
	w.datagrams(100, 10)
	w.everythingReported()
	status := w.status()
	if s := status.Sinks[0]; s.LostReports != 0 || s.Packets != status.Flows.Reports.Packets || s.Reports != uint64(len(w.reports())) {
		t.Errorf("sink %+v", s)
	}
}

// A daemon that leaves the data plane at work leaves what it hasn't reported to the next.
func TestReportsWithKeepAttached(t *testing.T) {
	w := newWorld(t)
	w.options.KeepAttached = true
	w.reportTo(reporting)
	for range 2 {
		w.start()
		w.datagrams(200, 20)
		w.must(w.process.Signal(syscall.SIGTERM))
		w.wantEnd("<nil>")
		w.datagrams(200, 20)
	}
	w.options.KeepAttached = false
	w.start()
	w.everythingReported()
}

// The table overflows, changes its size twice, and the daemon dies in between: what is reported, and what had no place, is what passed.
func TestReportsOverAFullTable(t *testing.T) {
	w := newWorld(t)
	w.reportTo(reporting)
	w.start()
	w.datagrams(20_000, 20_000)
	w.everythingReported()
	status := w.status()
	if f := status.Flows; f.Unattributed == 0 {
		t.Errorf("the table didn't overflow: %+v", f)
	}
	told := fmt.Sprintf("%d packets of %d are in no report", status.Flows.Reports.Missed, status.Flows.Accounted)
	if !slices.ContainsFunc(status.Warnings, func(text string) bool { return strings.HasPrefix(text, told) }) {
		t.Errorf("no warning that %s: %q", told, status.Warnings)
	}
	for _, size := range []string{"20000", "1500"} {
		_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "resized.yaml", YAML: strings.Replace(reporting, "1000", size, 1)})
		w.must(err)
		w.datagrams(5000, 5000)
		w.process.Kill()
		w.write("gardu.yaml", strings.Replace(reporting, "1000", size, 1))
		w.start()
		w.datagrams(500, 500)
		w.everythingReported()
	}
}

// Who watches sees flows whose packets are dropped, with their rule, as those that pass.
func TestTopShowsDroppedFlows(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base+"filter: {rules: [{name: no-discard, match: {proto: udp, dport: 9}, action: drop}]}\n")
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	conn, err := w.client.Dial(t.Context(), "udp", "10.0.0.11:9")
	w.must(err)
	defer conn.Close()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	shown := errors.New("shown")
	err = w.api.Top(ctx, api.TopQuery{Group: "verdict,rule", Every: api.MinTopEvery}, func(sample api.TopSample) error {
		for _, g := range sample.Groups {
			if g.Group["verdict"] == "drop" && g.Group["rule"] == "no-discard" && g.Packets > 0 && g.Packets <= sample.Total.Packets {
				return shown
			}
		}
		_, err := conn.Write([]byte("gardu"))
		return err
	})
	if !errors.Is(err, shown) {
		t.Errorf("it is not shown: %v", err)
	}
}

// When sampling changes, what was counted before is reported as counted then, and what comes after as counted by the new one.
func TestSamplingChanges(t *testing.T) {
	w := newWorld(t)
	slow := strings.Replace(reporting, "idle: 1s, active: 1s", "idle: 1h, active: 1h", 1) // nothing is due meanwhile
	w.reportTo(slow)
	w.start()
	sampled := func(of int) (n uint64) {
		for _, r := range w.reports() {
			if r.Proto == unix.IPPROTO_UDP && max(r.Sample, 1) == of {
				n += r.Delta.Packets
			}
		}
		return n
	}
	apply := func(of int) {
		t.Helper()
		yaml := strings.Replace(slow, "max: 1000", fmt.Sprintf("max: 1000, sample: %d", of), 1)
		_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "sampled.yaml", YAML: yaml})
		w.must(err)
	}
	const sent, of = 1000, 10
	for i, step := range []struct{ from, to int }{{1, of}, {of, 2 * of}, {2 * of, 1}, {1, of}} {
		w.datagrams(sent, 5)
		apply(step.to)
		want := uint64(sent / step.from)
		if i == 3 {
			want *= 2 // of the first time, too
		}
		slack := uint64(0)
		if step.from > 1 {
			slack = 8 // each CPU counts for itself
		}
		w.until(fmt.Sprintf("what 1/%d counted is reported", step.from), func() error {
			if got := sampled(step.from); got+slack < want || got > want+slack {
				return fmt.Errorf("%d packets, want %d", got, want)
			}
			return nil
		})
	}
}

// A table that takes long to read is read less often, but not so late that what new flows overwrite was never reported.
func TestPassesComeInTime(t *testing.T) {
	for reading, want := range map[time.Duration]time.Duration{
		0: time.Second, 20 * time.Millisecond: time.Second, 50 * time.Millisecond: 2 * time.Second, 10 * time.Second: 5 * time.Second,
	} {
		if got := passAfter(reading); got != want {
			t.Errorf("after reading for %s the next pass comes in %s, want %s", reading, got, want)
		}
	}
}
