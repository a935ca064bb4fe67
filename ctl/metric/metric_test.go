package metric_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/flow"
	"gardu/ctl/metric"
)

var update = flag.Bool("update", false, "write what is exposed into testdata")

func newMetrics(engine api.Engine) *metric.Metrics {
	return metric.New(engine, slog.New(slog.DiscardHandler))
}

func handler(engine api.Engine) http.Handler { return newMetrics(engine).Handler() }

// everything exposes all families that there are.
func everything() http.Handler {
	m := newMetrics(&complete{})
	m.Handshakes.Consume([]flow.Report{shaken(1, 0, time.Second, time.Second)}, names{})
	return m.Handler()
}

// scrape returns what is exposed.
func scrape(t testing.TB, h http.Handler) string {
	t.Helper()
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// value returns the value of a series as it is written.
func value(t *testing.T, text, series string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSuffix(rest, "\n")
		}
	}
	t.Errorf("there is no %s", series)
	return ""
}

// families lists what is exposed of gardu: name, type, labels, help.
func families(text string) string {
	var list strings.Builder
	kinds := regexp.MustCompile(`(?m)^# HELP (gardu_\w+) (.*)\n# TYPE \w+ (\w+)\n\w+(\{.*?\})? `)
	for _, m := range kinds.FindAllStringSubmatch(text, -1) {
		var labels []string
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[4], -1) {
			labels = append(labels, label[1])
		}
		fmt.Fprintf(&list, "%s %s {%s}\n\t%s\n", m[1], m[3], strings.Join(labels, ", "), m[2])
	}
	return list.String()
}

// complete is the example with all parts that there can be.
type complete struct{ apitest.Engine }

func (e *complete) Status(ctx context.Context) (api.Status, error) {
	status, err := e.Engine.Status(ctx)
	status.States = &api.StateTotals{}
	status.Exits = []api.Exit{{Name: "eth2"}}
	status.Dropped = &api.DroppedTotals{}
	status.Flows.Reports = &api.ReportTotals{}
	status.History = &api.HistoryStatus{}
	status.Sinks = []api.Sink{{Name: "metrics"}}
	status.Losses = []api.Loss{{Interface: "eth2", Why: "it is down"}}
	return status, err
}

// Names and labels are a promise: dashboards and alerts name them.
func TestNames(t *testing.T) {
	got := families(scrape(t, everything()))
	const path = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("exposed:\n%s\nwant:\n%s", got, want)
	}
}

// The numbers are those of the engine's example.
func TestValues(t *testing.T) {
	text := scrape(t, handler(&apitest.Engine{}))
	for series, want := range map[string]string{
		`gardu_build_info{version="0.1.0"}`:                               "1",
		`gardu_config_revision`:                                           "7",
		`gardu_warnings`:                                                  "2",
		`gardu_packets_total{reason="blocked",verdict="drop"}`:            "800",
		`gardu_bytes_total{reason="forward",verdict="forward"}`:           "4.2e+09",
		`gardu_packets_total{reason="malformed",verdict="drop"}`:          "0",
		`gardu_filter_decided_packets_total{by="block"}`:                  "800",
		`gardu_interface_attached{interface="wan0"}`:                      "0",
		`gardu_interface_info{egress="true",interface="eth1",path="xdp"}`: "1",
		`gardu_table_entries{table="flows"}`:                              "850000",
		`gardu_rule_decided_packets_total{rule="ssh"}`:                    "1200",
		`gardu_set_entries{kind="addresses",set="known-bad"}`:             "999000",
		`gardu_service_bytes_total{service="web"}`:                        "4.2e+09",
		`gardu_service_backends_up{service="web"}`:                        "1",
		`gardu_backend_up{backend="b1",service="web"}`:                    "1",
		`gardu_backend_up{backend="b2",service="web"}`:                    "0",
		`gardu_backend_next_hop_resolved{backend="b2",service="web"}`:     "0",
		`gardu_flow_unattributed_packets_total`:                           "15",
	} {
		if got := value(t, text, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total"} {
		value(t, text, name)
	}
}

func TestLint(t *testing.T) {
	text := scrape(t, everything())
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool")
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// What can't be read makes the scrape fail: Prometheus then says that gardu is down, instead of showing half of it.
func TestFailure(t *testing.T) {
	answer := httptest.NewRecorder()
	handler(&apitest.Engine{Fail: errors.New("no such map")}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != http.StatusInternalServerError || !strings.Contains(answer.Body.String(), "no such map") {
		t.Errorf("%d: %s", answer.Code, answer.Body)
	}
}

// changing is an engine whose numbers a test changes.
type changing struct {
	apitest.Engine
	status   api.Status
	rules    []api.Rule
	services []api.Service
	fail     error
}

func (e *changing) Status(context.Context) (api.Status, error)      { return e.status, nil }
func (e *changing) Rules(context.Context) ([]api.Rule, error)       { return e.rules, nil }
func (e *changing) Services(context.Context) ([]api.Service, error) { return e.services, e.fail }

// However many rules there are, so many series there are and no more; what they counted is all there.
func TestManyRules(t *testing.T) {
	engine := &changing{}
	for i := range 25_000 {
		engine.rules = append(engine.rules, api.Rule{Name: fmt.Sprintf("r%d", i), Packets: 1, Bytes: 100, Decided: 1})
	}
	text := scrape(t, handler(engine))
	if n := strings.Count(text, "\ngardu_rule_packets_total{"); n != 10_001 {
		t.Errorf("%d series of rules", n)
	}
	for series, want := range map[string]string{
		`gardu_rule_packets_total{rule="r9999"}`:          "1",
		`gardu_rule_packets_total{rule="_other"}`:         "15000",
		`gardu_rule_bytes_total{rule="_other"}`:           "1.5e+06",
		`gardu_rule_decided_packets_total{rule="_other"}`: "15000",
		`gardu_rule_shadow_packets_total{rule="_other"}`:  "0",
	} {
		if got := value(t, text, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}

// A counter never goes down while the daemon lives, for Prometheus would count all of it again.
func TestCountersOnlyGrow(t *testing.T) {
	engine := &changing{}
	h := handler(engine)
	for _, step := range []struct {
		what                          string
		service                       uint64 // sum of backends
		unattributed                  uint64
		fail                          error
		wantService, wantUnattributed string
	}{
		{what: "at first", service: 1000, unattributed: 50, wantService: "1000", wantUnattributed: "50"},
		{what: "after traffic", service: 1100, unattributed: 60, wantService: "1100", wantUnattributed: "60"},
		{what: "without a backend that counted 400", service: 700, unattributed: 60, wantService: "1100", wantUnattributed: "60"},
		{what: "after more traffic", service: 720, unattributed: 60, wantService: "1120", wantUnattributed: "60"},
		{what: "when the difference is off", service: 720, unattributed: 58, wantService: "1120", wantUnattributed: "60"},
		{what: "in a scrape that fails", fail: errors.New("no such map")},
		{what: "when it has caught up", service: 721, unattributed: 61, wantService: "1121", wantUnattributed: "61"},
	} {
		engine.status.Flows.Unattributed = step.unattributed
		engine.services = []api.Service{{Name: "web", Packets: step.service}}
		if engine.fail = step.fail; step.fail != nil {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
			continue
		}
		text := scrape(t, h)
		if got := value(t, text, `gardu_service_packets_total{service="web"}`); got != step.wantService {
			t.Errorf("%s: the service has %s packets, want %s", step.what, got, step.wantService)
		}
		if got := value(t, text, "gardu_flow_unattributed_packets_total"); got != step.wantUnattributed {
			t.Errorf("%s: %s packets are unattributed, want %s", step.what, got, step.wantUnattributed)
		}
	}
}

// Interfaces may have any name, and two errors the same text.
func TestHostileNames(t *testing.T) {
	engine := &changing{status: api.Status{
		Interfaces: []api.Interface{{Name: "a\xff\"\n\\{}", Attached: true}},
		Losses: []api.Loss{
			{Interface: "veth\xff", Packets: 3, Why: "it is down"},
			{Interface: "veth\xfe", Packets: 4, Why: "it is down"},
			{Interface: "veth\xfe", Packets: 5, Why: "it is down"},
		},
	}}
	text := scrape(t, handler(engine))
	if got := value(t, text, "gardu_lost_packets_total{interface=\"veth\uFFFD\",why=\"it is down\"}"); got != "12" {
		t.Errorf("%s packets lost", got)
	}
	if !regexp.MustCompile(`(?m)^gardu_interface_attached\{interface="a.\\"\\n\\\\\{\}"\} 1$`).MatchString(text) {
		t.Error("the interface is absent")
	}
}

// A scrape of as much as a configuration can hold.
func BenchmarkScrape(b *testing.B) {
	for _, rules := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(rules), func(b *testing.B) {
			engine := &changing{}
			for i := range rules {
				engine.rules = append(engine.rules, api.Rule{Name: fmt.Sprintf("rule-%d", i), Packets: uint64(i)})
			}
			h := handler(engine)
			for b.Loop() {
				scrape(b, h)
			}
		})
	}
}
