package top

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gardu/ctl/api"
	"gardu/ctl/model"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// golden compares a screen with testdata/NAME.golden. A bar at the end shows where each line ends.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "|\n") + "|\n"
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it anew):\n%s\nwant:\n%s", path, got, want)
	}
}

var now = time.Date(2026, 11, 23, 14, 5, 32, 0, time.UTC)

// reasons are counters after so many seconds of the same traffic.
func reasons(seconds uint64) map[string]api.ReasonCounter {
	counted := func(verdict string, packets, bytes uint64) api.ReasonCounter {
		return api.ReasonCounter{Verdict: verdict, Counter: api.Counter{Packets: seconds * packets, Bytes: seconds * bytes}}
	}
	return map[string]api.ReasonCounter{
		"default-pass": counted("pass", 61_000, 40_000_000), "forward": counted("forward", 120_000, 150_000_000),
		"rule-drop": counted("drop", 5_400, 400_000), "blocked": counted("drop", 800, 48_000), "rule-reject": counted("reject", 3, 180),
	}
}

func readAfter(seconds uint64) counters {
	c := counters{at: now.Add(time.Duration(seconds) * time.Second), status: api.Status{
		Version: "0.1.0", Revision: 7, Uptime: api.Duration(26*time.Hour + 3*time.Minute), Reasons: reasons(seconds),
		Flows:  api.FlowTotals{Entries: 999_000, Max: 1_000_000},
		Tables: []api.Fill{{Name: api.FlowsFill, Entries: 850_000, Max: 1_000_000}}, Warnings: []string{"wan0 is not attached"}}}
	for i, name := range []string{"office-ssh", "ssh", "known-bad", "dns-flood", "idea"} {
		n := uint64(4-i) * 1350 * seconds
		c.rules = append(c.rules, api.Rule{Name: name, Action: []model.Action{"pass", "drop", "drop", "drop", ""}[i], Packets: n, Bytes: n * 60, Decided: n / 2})
	}
	c.services = []api.Service{
		{Name: "web", Backends: 2, BackendsUp: 2, Packets: 100_000 * seconds, Bytes: 120_000_000 * seconds, Flows: 310 * seconds},
		{Name: "dns", Backends: 3, BackendsUp: 1, Packets: 20_000 * seconds, Bytes: 30_000_000 * seconds, Flows: 2_400 * seconds},
		{Name: "mail", Backends: 1, BackendsUp: 0}}
	return c
}

func group(keys map[string]string, flows, packets, bytes, packetsReply, bytesReply uint64) api.FlowGroup {
	return api.FlowGroup{Group: keys, Flows: flows, Packets: packets, Bytes: bytes, PacketsReply: packetsReply, BytesReply: bytesReply}
}

func flowOf(src, sport, dst, dport, proto, verdict, service, rule, backend string) map[string]string {
	return map[string]string{"src": src, "sport": sport, "dst": dst, "dport": dport, "proto": proto, "verdict": verdict,
		"service": service, "rule": rule, "backend": backend}
}

// flowFrame is a frame of two seconds, of flows.
func flowFrame() Frame {
	sample := api.TopSample{Reading: api.Reading{Since: now.Add(-2 * time.Second), Until: now, Total: api.Counter{Packets: 364_000, Bytes: 310_000_000}},
		Unattributed: api.Counter{Packets: 7_300, Bytes: 1_000_000}}
	sample.Groups = []api.FlowGroup{
		group(flowOf("198.51.100.7", "40000", "192.0.2.10", "443", "tcp", "forward", "web", "", "b1"), 1, 24_000, 1_300_000, 110_000, 160_000_000),
		group(flowOf("2001:db8:1111:2222:3333:4444:5555:6666", "51234", "2001:db8::10", "443", "tcp", "forward", "web", "", "b2"), 1, 9_000, 500_000, 40_000, 58_000_000),
		group(flowOf("192.0.2.77", "53", "198.51.100.53", "33333", "udp", "drop", "", "dns-flood", ""), 1, 10_000, 12_000_000, 0, 0),
		group(flowOf("203.0.113.9", "50000", "192.0.2.1", "22", "tcp", "drop", "", "ssh", ""), 1, 3, 180, 0, 0),
		group(flowOf("192.0.2.1", "0", "198.51.100.1", "0", "icmp", "pass", "", "", ""), 1, 2, 168, 2, 168),
		{Other: true, Flows: 5_321, Packets: 90_000, Bytes: 9_000_000, PacketsReply: 80_000, BytesReply: 70_000_000},
	}
	return frame(readAfter(10), readAfter(12), sample)
}

func example() *screen {
	s := &screen{frame: flowFrame(), every: 2 * time.Second}
	for i := range 90 {
		s.history = append(s.history, 100_000_000+float64((i*37)%50)*1_500_000)
	}
	s.history[60] = 0
	return s
}

func sourceFrame(n int) Frame {
	sample := api.TopSample{Reading: api.Reading{Since: now.Add(-2 * time.Second), Until: now, Total: api.Counter{Packets: 364_000, Bytes: 310_000_000}}}
	for i := range uint64(n) {
		sample.Groups = append(sample.Groups, group(map[string]string{"src/24": fmt.Sprintf("198.51.%d.0/24", i), "service": ""}, 100-i, 50_000/(i+1), 40_000_000/(i+1), 60_000/(i+1), 90_000_000/(i+1)))
	}
	return frame(readAfter(10), readAfter(12), sample)
}

// What a person sees, on a small terminal and on a large one.
func TestScreens(t *testing.T) {
	for name, change := range map[string]func(*screen){
		"flows":    func(*screen) {},
		"groups":   func(s *screen) { s.group, s.frame, s.selected = "src/24,service", sourceFrame(60), 30 },
		"services": func(s *screen) { s.view = viewOf(services) },
		"rules":    func(s *screen) { s.view = viewOf(rules) },
		"drops":    func(s *screen) { s.view, s.filter = viewOf(drops), "src in 198.51.100.0/24" },
		"prompt": func(s *screen) {
			s.prompt = newPrompt("filter", "dport 443 and verdict accept")
			s.prompt.at, s.prompt.problem = 22, `"accept" is not a value of verdict`
		},
		"help":    func(s *screen) { s.help = true },
		"paused":  func(s *screen) { s.paused, s.filter = true, "service web" },
		"waiting": func(s *screen) { *s = screen{every: s.every} },
		"problem": func(s *screen) { s.problem = "the daemon doesn't answer" },
	} {
		for _, size := range [][2]int{{80, 24}, {200, 50}} {
			s := example()
			change(s)
			lines := s.draw(size[0], size[1])
			checkSize(t, lines, size[0], size[1])
			if size[0] == 80 || name == "flows" || name == "groups" || name == "services" {
				golden(t, fmt.Sprintf("%s-%dx%d", name, size[0], size[1]), lines)
			}
		}
	}
}

func checkSize(t *testing.T, lines []string, width, height int) {
	t.Helper()
	if len(lines) != height {
		t.Fatalf("%d lines on a terminal of %d", len(lines), height)
	}
	for i, line := range lines {
		if n := ansi.StringWidth(line); n != width {
			t.Errorf("%dx%d: line %d is %d wide:\n%q", width, height, i, n, line)
		}
	}
}

// Whatever the size and what is shown, the screen is filled exactly.
func TestEverySize(t *testing.T) {
	for width := 0; width < 260; width += 7 {
		for _, height := range []int{0, 1, 9, 10, 11, 24, 63} {
			for v := range views {
				s := example()
				s.view, s.look, s.selected = v, anyStyle, 3
				if v > 0 && views[v].what == noCounters {
					s.frame = sourceFrame(40)
				}
				checkSize(t, s.draw(width, height), width, height)
			}
		}
	}
}

// Colour says what a verdict is and what needs attention. Without it the selection still shows.
func TestStyles(t *testing.T) {
	s := example()
	s.look = anyStyle
	colored := strings.Join(s.draw(120, 24), "\n")
	for _, want := range []string{"\x1b[31mdrop", "\x1b[32mforward", "\x1b[33m  1 warning", "\x1b[7m198.51.100.7:40000"} {
		if !strings.Contains(colored, want) {
			t.Errorf("no %q in\n%q", want, colored)
		}
	}
	s.look = noColor
	mono := strings.Join(s.draw(120, 24), "\n")
	if strings.Contains(mono, "\x1b[3") || !strings.Contains(mono, "\x1b[7m198.51.100.7:40000") {
		t.Errorf("%q", mono)
	}
	if ansi.Strip(mono) != ansi.Strip(colored) {
		t.Error("colour changes the text")
	}
}

// Names come from configurations: they move no cursor and keep the columns.
func TestHostileNames(t *testing.T) {
	s := example()
	s.view = viewOf(services)
	s.frame.Services = []Counted{{Name: "\x1b[2J\x07evil\n", Word: "1/1 up"}, {Name: strings.Repeat("永", 100), Word: "1/1 up"}}
	lines := s.draw(80, 24)
	checkSize(t, lines, 80, 24)
	if text := strings.Join(lines, ""); strings.ContainsAny(text, "\x1b\x07\n") || !strings.Contains(text, "?[2J?evil?") {
		t.Errorf("%q", text)
	}
}

// The numbers of a frame against those of its counters, by hand.
func TestFrame(t *testing.T) {
	f := flowFrame()
	if f.Total != (Rate{182_000, 155_000_000}) || f.Unattributed != (Rate{3_650, 500_000}) {
		t.Errorf("%+v, %+v", f.Total, f.Unattributed)
	}
	if g := f.Groups[0]; g.Sent != (Rate{12_000, 650_000}) || g.Reply != (Rate{55_000, 80_000_000}) || g.Both() != (Rate{67_000, 80_650_000}) {
		t.Errorf("%+v", g)
	}
	if v := f.Verdicts[4]; v.Name != "drop" || v.Rate != (Rate{6_200, 448_000}) {
		t.Errorf("%+v", v)
	}
	if d := f.Drops; len(d) != 3 || d[0].Name != "rule-drop" || d[0].Packets != 5_400 || d[2].Word != "reject" {
		t.Errorf("%+v", d)
	}
	if r := f.Rules[0]; r.Name != "office-ssh" || r.Packets != 5_400 || r.Other != 2_700 || r.Bytes != 324_000 {
		t.Errorf("%+v", r)
	}
	if s := f.Services[1]; s.Name != "dns" || s.Word != "1/3 up" || s.Flows != 2_400 || s.Bytes != 30_000_000 {
		t.Errorf("%+v", s)
	}
}

// A counter that began anew has counted what it holds, and what wasn't there before all of it. No time has no rate.
func TestFrameAfterReset(t *testing.T) {
	f := frame(readAfter(10), readAfter(2), api.TopSample{})
	if f.Verdicts[0].Packets != 0 { // the clock went back: no rate
		t.Errorf("%+v", f.Verdicts)
	}
	before, after := readAfter(10), readAfter(2)
	after.at = before.at.Add(2 * time.Second)
	before.rules = nil
	f = frame(before, after, api.TopSample{})
	if f.Verdicts[0].Packets != 61_000 || f.Rules[0].Packets != 5_400 {
		t.Errorf("%+v, %+v", f.Verdicts[0], f.Rules[0])
	}
}

// What a pipe gets: the time that the numbers are of, how full the flow table is only of now, and why there is no table.
func TestPrint(t *testing.T) {
	print := func(f Frame, o Options) []string {
		t.Helper()
		var out strings.Builder
		if err := Print(&out, f, o, 120); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	}
	f := sourceFrame(3)
	lines := print(f, Options{Group: "src/24, service"})
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "2026-11-23T14:05:32Z  1.24 Gbit/s  ") || !strings.HasSuffix(lines[0], "flow table 85% of 1.00M") ||
		!strings.HasPrefix(lines[2], "198.51.0.0/24 ") || strings.Contains(lines[2], "(various)") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	f.Groups = nil
	at := now.Truncate(time.Minute)
	past := f
	past.Since, past.Until = at, at.Add(time.Minute)
	day := at.Local().Format("2006-01-02 15:04") + " to " + at.Local().Add(time.Minute).Format("15:04")
	for _, c := range []struct {
		frame       Frame
		options     Options
		begin, then string
	}{
		{f, Options{Group: "src"}, now.Format(time.RFC3339), "no packets"},
		{f, Options{Group: "src", Filter: "dport 1"}, now.Format(time.RFC3339), "no packets in flows that the filter picks"},
		{past, Options{Group: "src", At: at}, day, "nothing is known of that time"},
	} {
		lines := print(c.frame, c.options)
		if len(lines) != 2 || !strings.HasPrefix(lines[0], c.begin+"  ") || strings.Contains(lines[0], "flow table") != c.options.At.IsZero() || lines[1] != c.then {
			t.Errorf("%s", strings.Join(lines, "\n"))
		}
	}
}
