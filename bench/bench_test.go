package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
)

func TestFrameIsWhatItsTupleSays(t *testing.T) {
	sent := tuple{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.10"), 40000, 443, 0}
	if err := verify.Frame(sent.frame()); err != nil {
		t.Error(err)
	}
	if got, want := pkt.Summary(sent.frame()), "tcp 198.51.100.7:40000 > 192.0.2.10:443"; !strings.HasPrefix(got, want) {
		t.Errorf("the frame is %q, want %q", got, want)
	}
	if got := sent.packet(0); abi.Ntohs(got.Sport) != 40000 || abi.Ntohs(got.Dport) != 443 {
		t.Errorf("ports are %d and %d", abi.Ntohs(got.Sport), abi.Ntohs(got.Dport))
	}
}

func TestDatagramsNameAServer(t *testing.T) {
	frame := datagramsOf(1)()[0].framed(datagramBytes)
	id := frame[ethernetSize+ipv4Size+8:][1:] // behind the UDP header and the first byte of a short one
	if id[0]>>5 != 0 || string(id[1:1+len(namedServer)]) != namedServer {
		t.Errorf("the connection ID is % x", id[:8])
	}
}

func TestFlowsDiffer(t *testing.T) {
	for _, draw := range []func(int) func() []tuple{clients, clients6, everNew} {
		seen := map[tuple]bool{}
		for _, flow := range draw(100_000)() {
			if seen[flow] {
				t.Fatalf("%v comes twice", flow)
			}
			seen[flow] = true
		}
	}
}

func TestScenariosAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, batch := range batches {
		for _, s := range scenarios(batch) {
			if seen[s.name] && !baseline(s.name) {
				t.Errorf("two cases are called %q", s.name)
			}
			seen[s.name] = true
			if s.than != "" && !seen[s.than] {
				t.Errorf("%q is compared with %q, which doesn't come before it", s.name, s.than)
			}
		}
	}
	for _, c := range liveCases() {
		if seen[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		seen[c.name] = true
		if c.of != "" && !seen[c.of] {
			t.Errorf("%q is compared with %q, which doesn't come before it", c.name, c.of)
		}
	}
}

// Every aim, and every point of a plot, asks for a value that some case gives.
func TestAimsAskForWhatIsMeasured(t *testing.T) {
	var r result
	for _, batch := range batches {
		for _, s := range scenarios(batch) {
			r.Cases = append(r.Cases, row{Name: s.name, Raw: figure{Median: 2}, Net: 1})
		}
	}
	for _, c := range liveCases() {
		r.Live = append(r.Live, liveRow{Name: c.name, Mpps: 1, Of: c.of, More: 1})
	}
	for _, name := range controlNames() {
		r.Control = append(r.Control, controlRow{Name: name, Figure: figure{Median: 1}})
	}
	values := r.values()
	for _, v := range judge(aims, values) {
		if !v.Known {
			t.Errorf("nothing measures %q", v.Says)
		}
	}
	for _, a := range aims {
		if a.why == nil {
			continue
		}
		m := &facts{values: values}
		if why := a.why(m); m.missing || strings.Contains(why, "%!") {
			t.Errorf("why %q is missed asks for what nothing measures: %s", a.says, why)
		}
	}
	for _, s := range structures() {
		for _, p := range s.points {
			if values[p.value] == 0 {
				t.Errorf("nothing measures %q, of %s", p.value, s.name)
			}
		}
	}
}

// What was missed, and nothing else, is told why, if all is known that it takes to tell.
func TestJudge(t *testing.T) {
	by := func(name string) func(*facts) string {
		return func(m *facts) string { return fmt.Sprintf("it is %g", m.of(name)) }
	}
	list := []aim{
		{says: "under", value: "a", limit: 10, why: by("b")}, {says: "over", value: "a", limit: 4, why: by("b")},
		{says: "share", value: "a", of: "b", limit: 0.5, least: true},
		{says: "too small a share", value: "a", of: "b", limit: 4, least: true, why: by("c")}, {says: "unknown", value: "c", limit: 1, why: by("b")},
	}
	want := []string{"reached", "**missed by 2.00x**", "reached", "**missed by 2.00x**", "not measured"}
	r := result{Aims: judge(list, map[string]float64{"a": 8, "b": 4})}
	for i, v := range r.Aims {
		if got := v.text(); got != want[i] {
			t.Errorf("%s: %s, want %s", v.Says, got, want[i])
		}
	}
	page := r.markdown("plot")
	if !strings.Contains(page, "- **over**: it is 4\n") || strings.Count(page, "it is") != 1 {
		t.Errorf("the page says why otherwise:\n%s", page)
	}
}

// A fit must find the shape that points were made by, with noise of a few percent.
func TestFitFindsTheShape(t *testing.T) {
	sizes := []float64{10, 100, 1000, 10_000, 100_000}
	noise := []float64{1.03, 0.98, 1.01, 0.97, 1.02}
	for _, c := range []struct {
		want string
		cost func(n float64) float64
	}{
		{"flat", func(float64) float64 { return 100 }},
		{"log n", func(n float64) float64 { return 40 + 20*math.Log2(n) }},
		{"linear", func(n float64) float64 { return 30 + 3*n }},
		{steps, func(n float64) float64 {
			if n < 5000 {
				return 50
			}
			return 300
		}},
	} {
		var g growth
		for i, n := range sizes {
			g.Points = append(g.Points, point{n, c.cost(n) * noise[i]})
		}
		g.fit()
		if g.Shape != c.want {
			t.Errorf("%s was taken for %s", c.want, g.text())
		}
		if got, want := g.at(1000), c.cost(1000); got < want*0.9 || got > want*1.1 {
			t.Errorf("%s: %.0f at 1,000, want %.0f", c.want, got, want)
		}
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	svg := plot("a < b", "sizes & more", []series{{"one", []point{{1, 10}, {1000, 20}, {1e6, 0}}}, {"two", []point{{10, 5}}}})
	decoder := xml.NewDecoder(strings.NewReader(svg))
	elements := map[string]int{}
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	if elements["circle"] != 3 || elements["polyline"] != 2 {
		t.Errorf("drawn: %v; want 3 circles and 2 lines", elements)
	}
	if plot("nothing", "sizes", nil) != "" {
		t.Error("a plot of nothing")
	}
}

// The generator must give every program under test the same frame each time, whatever the program did to the last one, and
// a program that counts must count all of them. What fails is told, and doesn't stop the others.
func TestMeasure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	worlds := lab{}
	var subjects []*subject
	t.Cleanup(func() {
		if err := closeAll(subjects); err != nil {
			t.Error(err)
		}
		if err := worlds.close(); err != nil {
			t.Error(err)
		}
	})
	wanted := []string{"pass", "pass, 1500 bytes", "pass, IPv6", "xdp-filter, 10,000 addresses", "10,000 addresses"}
	for _, s := range scenarios("filter") {
		if !baseline(s.name) && !slices.Contains(wanted, s.name) {
			continue
		}
		loaded, err := worlds.subject(s)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		subjects = append(subjects, loaded)
	}
	wrong := *subjects[0]
	wrong.scenario.name, wrong.action = "wrong", xdpTX
	wrong.release = nil
	if _, _, err := pin(); err != nil { // the thread ends with the test
		t.Fatal(err)
	}
	const rounds, packets = 2, 1000
	measure(append(subjects, &wrong), rounds, packets, time.Now().Add(time.Hour), func(int) {})
	r := &result{Rounds: rounds, Packets: packets}
	r.add(append(subjects, &wrong))
	r.conclude()
	page := r.markdown("plot")
	for _, s := range subjects {
		if s.failed != nil || len(s.samples) != rounds {
			t.Errorf("%s has %d samples, want %d: %v", s.name, len(s.samples), rounds, s.failed)
		}
		if !strings.Contains(page, "| "+s.name+" |") {
			t.Errorf("%s is not on the page", s.name)
		}
	}
	if want := "| wrong | not measured: the last packet's action is 1, want 3 |"; !strings.Contains(page, want) {
		t.Errorf("the page doesn't say %q", want)
	}
}

// Packets that really travel must all arrive, and be counted, with gardu's programs and with peers.
func TestLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	wanted := []string{liveBareTX, "gardu dsr", "nft fwd", "nft, hash set", "tc u32, 100 rules", "Linux router, nft dnat"}
	l, err := newLive(slices.DeleteFunc(liveCases(), func(c *liveCase) bool { return !slices.Contains(wanted, c.name) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	l.measure(1, 5000, 0, time.Now().Add(time.Hour))
	rows := l.rows()
	if len(rows) != len(wanted) {
		t.Errorf("%d rows, want %d", len(rows), len(wanted))
	}
	for _, row := range rows {
		if row.Failed != "" || row.Lost > 0.5 {
			t.Errorf("%s: failed %q, lost %.2f", row.Name, row.Failed, row.Lost)
		}
	}
}

// Each way is measured by both families, and is told from the others by its name.
func TestWaysAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range ways() {
		name, six := strings.CutSuffix(w.name, ", IPv6")
		if seen[w.name] || six != w.address.Is6() || six && !seen[name] {
			t.Errorf("%s, to %s", w.name, w.address)
		}
		seen[w.name] = true
	}
}

func TestReadWrk(t *testing.T) {
	const out = `Running 2s test @ http://192.0.2.10/name
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.21ms    2.31ms  41.52ms   94.03%
    Req/Sec    24.42k     6.11k   38.54k    66.67%
  Latency Distribution
     50%  750.00us
     75%    1.20ms
     90%    2.10ms
     99%   11.70ms
  51337 requests in 2.10s, 8.03MB read
  Socket errors: connect 0, read 3, write 0, timeout 2
Requests/sec:  24446.19
Transfer/sec:      3.82MB
`
	got, total, err := readWrk(out)
	if want := (requests{rate: 24446.19, p50: 0.75, p99: 11.7, errors: 5}); err != nil || got != want || total != 51337 {
		t.Errorf("%+v, %d, %v; want %+v", got, total, err, want)
	}
}

// The whole page is made of whatever there is, and says what there isn't.
func TestPageOfALittle(t *testing.T) {
	dir := t.TempDir()
	r := &result{Time: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC), Machine: machine{Commit: "abc", CPU: "a CPU"}}
	for i, n := range flowCounts {
		r.Cases = append(r.Cases, row{Name: "all, " + n.name, Raw: figure{Median: 100 * float64(i+1)}, Net: 90 * float64(i+1)})
	}
	r.fail("live", errors.New("no veth here"))
	r.conclude()
	stem, err := r.save(dir)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		".md": "- live: no veth here", "-plan.md": "| all on, ipip, 64k flows | 270 |", "-flows.svg": "<polyline", ".json": `"commit": "abc"`,
	} {
		if got := text(stem + file); !strings.Contains(got, want) {
			t.Errorf("%s doesn't say %q:\n%s", file, want, got)
		}
	}
	if got := text(filepath.Join(dir, "README.md")); !strings.Contains(got, "[2026-11-27-abc](2026-11-27-abc.md), [plan]") {
		t.Errorf("the index is\n%s", got)
	}
}

func TestSlowerByChance(t *testing.T) {
	low, high := []float64{1, 2, 3, 4}, []float64{5, 6, 7, 8}
	for _, c := range []struct {
		old, now []float64
		want     float64
	}{{low, high, 1. / 70}, {high, low, 1}, {low, low, 0}, {[]float64{1, 4}, []float64{2, 3}, 4. / 6}} {
		got := slowerByChance(c.old, c.now)
		if c.want == 0 {
			if got < 0.5 {
				t.Errorf("the same against itself: %v", got)
			}
			continue
		}
		if math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%v after %v: %v, want %v", c.now, c.old, got, c.want)
		}
	}
}

// Runs of the same program, with the noise of a machine, must hardly ever fail a check; runs of one that takes 15 % more must.
func TestCheckTellsNoiseFromEffect(t *testing.T) {
	r := random()
	runs := func(cost float64) map[string][]float64 {
		all := map[string][]float64{}
		for i := range 18 {
			for range checkRuns {
				all[string(rune('a'+i))] = append(all[string(rune('a'+i))], cost*(1+0.03*r.NormFloat64()))
			}
		}
		return all
	}
	const trials = 300
	alarms, found := 0, 0
	for range trials {
		slower := func(c comparison) bool { return c.slower }
		if slices.ContainsFunc(compare(runs(100), runs(100)), slower) {
			alarms++
		}
		if slices.ContainsFunc(compare(runs(100), runs(115)), slower) {
			found++
		}
	}
	if alarms > trials/100 || found < trials*99/100 {
		t.Errorf("of %d checks %d failed without reason, and %d with", trials, alarms, found)
	}
}

func TestCheckSaysWhatIsNotMeasured(t *testing.T) {
	runs := make([]float64, checkRuns)
	old := map[string][]float64{"both": runs, "once less": runs, "gone": runs, "seldom": runs[1:]}
	now := map[string][]float64{"both": runs, "once less": runs[1:], "new": runs}
	if got := notMeasured(old, now); !slices.Equal(got, []string{"gone", "once less"}) {
		t.Errorf("%q", got)
	}
}
