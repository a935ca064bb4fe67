package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

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

// fileSink writes a batch of reports in one go, so that it is in the file or isn't, whatever becomes of the process.
type fileSink struct{ *os.File }

func openFileSink(path string) (sink, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return fileSink{file}, err
}

func (s fileSink) Consume(reports []flow.Report, names flow.Names) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for _, r := range reports {
		if err := encoder.Encode(reported{r, names.Rule(r.Rule), names.Interface(r.Ifindex), r.End.String()}); err != nil {
			panic(err)
		}
	}
	if _, err := s.Write(text.Bytes()); err != nil {
		panic(err)
	}
}

// reports reads what the daemons wrote so far.
func (w *world) reports() []reported {
	w.Helper()
	data, err := os.ReadFile(w.sink)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	w.must(err)
	var all []reported
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var r reported
		w.must(json.Unmarshal(lines.Bytes(), &r))
		all = append(all, r)
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

// everythingReported waits until all packets that were accounted are reported, each once.
func (w *world) everythingReported() {
	w.Helper()
	w.until("everything is reported", func() error {
		f, got := w.status().Flows, sum(w.reports())
		if got.Packets != f.Accounted || got.Bytes != f.AccountedBytes || f.Accounted == 0 {
			return fmt.Errorf("%+v reported, %d packets and %d bytes accounted", got, f.Accounted, f.AccountedBytes)
		}
		return nil
	})
}

func TestReports(t *testing.T) {
	w := newWorld(t)
	w.sink = w.path("reports")
	w.write("gardu.yaml", reporting)
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

// slowSink takes reports when it is told to.
type slowSink struct {
	go_    chan struct{}
	taken  int
	closed bool
}

func (s *slowSink) Consume(reports []flow.Report, _ flow.Names) {
	<-s.go_
	s.taken += len(reports)
}

func (s *slowSink) Close() error {
	s.closed = true
	return nil
}

// A sink that doesn't take anything holds nobody up: what its queue has no room for is counted as lost, the rest isn't lost.
func TestSlowSink(t *testing.T) {
	slow, quick := &slowSink{go_: make(chan struct{})}, &slowSink{go_: make(chan struct{})}
	close(quick.go_)
	var r reports
	noFault := func(name string, err error) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wish := func(name string, s sink) sinkWish { return sinkWish{name, "", func() (sink, error) { return s, nil }} }
	wishes := []sinkWish{wish("slow", slow), wish("quick", quick)}
	r.follow(wishes, noFault)
	outlets := r.all()
	const batches = 3 * queuedBatches
	for range batches {
		one := []flow.Report{{Delta: flow.Count{Packets: 3, Bytes: 300}, DeltaReply: flow.Count{Packets: 2, Bytes: 200}}}
		r.send(reportBatch{one, nil, tallyOf(one)})
		for outlets[1].status().Waiting > 0 { // as fast as it can
		}
	}
	r.follow(wishes, noFault) // changes nothing
	stuck := outlets[0].status()
	if room := uint64(queuedBatches); stuck.Waiting < room || stuck.Waiting > room+1 || stuck.LostReports != batches-stuck.Waiting ||
		stuck.LostPackets != 5*stuck.LostReports || stuck.LostBytes != 500*stuck.LostReports || stuck.Reports != 0 {
		t.Errorf("%+v", stuck)
	}
	close(slow.go_)
	r.close(noFault)
	if uint64(slow.taken) != stuck.Waiting || !slow.closed || quick.taken != batches || !quick.closed {
		t.Errorf("slow %+v, quick %+v", slow, quick)
	}
	if after := outlets[0].status(); after.Reports+after.LostReports != batches || after.Waiting != 0 {
		t.Errorf("%+v", after)
	}
}

// A sink that can't be opened is told of, and tried again; one that is made from something else is another one.
func TestSinksFollowTheSnapshot(t *testing.T) {
	var r reports
	faults := map[string]error{}
	fault := func(name string, err error) { faults[name] = err }
	opened := 0
	wish := sinkWish{"one", "a", func() (sink, error) {
		if opened++; opened == 1 {
			return nil, errors.New("no such collector")
		}
		return &slowSink{}, nil
	}}
	for i, want := range []bool{false, true, true} {
		r.follow([]sinkWish{wish}, fault)
		if got := len(r.all()) == 1 && faults["one"] == nil; got != want {
			t.Errorf("attempt %d: %d sinks, %v", i, len(r.all()), faults)
		}
	}
	first := r.all()[0].sink.(*slowSink)
	wish.made = "b"
	r.follow([]sinkWish{wish}, fault)
	if opened != 3 || !first.closed || len(r.all()) != 1 {
		t.Errorf("opened %d times, %d sinks, first %+v", opened, len(r.all()), first)
	}
	r.close(fault)
	if len(r.all()) != 0 {
		t.Errorf("%d sinks", len(r.all()))
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
