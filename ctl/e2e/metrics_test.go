package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/config"
)

// metered has a service and rules that packets are sent for.
const metered = `
interfaces:
  client0: {path: tc}
  b1: {path: tc}
flows: {max: 10000, idle: 1s, active: 1s}
filter:
  rules:
    - {name: nine, match: {proto: udp, dport: 9}, action: drop}
    - {name: idea, shadow: true, match: {proto: tcp}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}]
`

const prometheusConfig = `
global: {scrape_interval: 200ms}
scrape_configs:
  - job_name: gardu
    static_configs: [{targets: ["127.0.0.1:9180", "127.0.0.1:9181"]}]
`

const prometheusAddress = "127.0.0.1:9090"

// startPrometheus has it scrape the box.
func (w *world) startPrometheus() {
	w.Helper()
	w.must(os.WriteFile(w.path("prometheus.yml"), []byte(prometheusConfig), 0o644))
	log, err := os.Create(w.path("prometheus.log"))
	w.must(err)
	defer log.Close()
	cmd := exec.Command("prometheus", "--config.file="+w.path("prometheus.yml"), "--storage.tsdb.path="+w.path("tsdb"),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	_, err = w.box.Start(cmd)
	w.must(err)
	w.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); err == nil && w.Failed() {
			w.Logf("what prometheus says:\n%s", text)
		}
	})
}

// get asks in the box.
func (w *world) get(url string, args ...string) (string, error) {
	out, err := w.box.Output(w.Context(), "curl", append([]string{"-sS", "--fail", "--max-time", "5", url}, args...)...)
	return string(out), err
}

// query asks Prometheus for a value.
func (w *world) query(expr string) (float64, error) {
	text, err := w.get("http://"+prometheusAddress+"/api/v1/query", "--get", "--data-urlencode", "query="+expr)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s: not one value but %s", expr, text)
	}
	return strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
}

// queryIs waits until Prometheus has that value.
func (w *world) queryIs(expr string, want uint64) {
	w.Helper()
	w.queryAgrees(expr, func() uint64 { return want })
}

// queryAgrees waits until Prometheus has the value that gardu says.
func (w *world) queryAgrees(expr string, said func() uint64) {
	w.Helper()
	w.until(expr, func() error {
		got, err := w.query(expr)
		if want := said(); err == nil && got != float64(want) {
			err = fmt.Errorf("it is %v, not %d", got, want)
		}
		return err
	})
}

func (w *world) service() api.Service {
	w.Helper()
	services, err := w.api.Services(w.Context())
	w.must(err)
	return services[0]
}

// TestMetrics has a real Prometheus scrape while packets pass, the daemon is killed, and the listener moves.
func TestMetrics(t *testing.T) {
	w := newWorld(t, 1)
	w.listen = "127.0.0.1:9180"
	w.startWeb()
	w.start(metered)
	w.ready()
	w.startPrometheus()
	gardu := `{instance="127.0.0.1:9180"}`
	w.queryIs("up"+gardu, 1)

	w.send(w.dial("198.51.100.1:9"), 7)
	const handshakes = 3
	for range handshakes {
		w.must(w.answers("192.0.2.10"))
	}
	w.queryIs(`gardu_rule_decided_packets_total{rule="nine"}`, 7)
	w.queryIs(`gardu_packets_total{reason="rule-drop"}`, 7)
	w.queryAgrees(`gardu_service_flows_total{service="web"}`, func() uint64 { return w.service().Flows })
	w.queryAgrees(`gardu_service_packets_total{service="web"}`, func() uint64 { return w.service().Packets })
	w.queryAgrees(`sum(gardu_packets_total{verdict="forward"})`, func() uint64 { return w.service().Packets })
	w.queryAgrees(`sum by (service) (gardu_backend_bytes_total)`, func() uint64 { return w.service().Bytes })
	w.queryAgrees(`gardu_rule_shadow_packets_total{rule="idea"}`, func() uint64 { return w.rule("idea").Shadow })
	w.queryIs(`sum(gardu_filter_decided_packets_total) - sum(gardu_filter_reached_packets_total)`, 0)
	w.queryIs(`sum(gardu_interface_attached)`, 2)
	w.queryIs(`gardu_table_capacity{table="blocks"}`, 262_144)

	w.queryIs(`gardu_flow_sink_reports_total{sink="metrics"} > bool 0`, 1)
	for _, side := range []string{"server", "client"} {
		series := `{service="web",side="` + side + `"}`
		w.queryIs(`gardu_service_handshake_seconds_count`+series, handshakes)
		w.queryIs(`gardu_service_handshake_seconds_sum`+series+` > bool 0`, 1)
	}

	text, err := w.get("http://127.0.0.1:9180/metrics")
	w.must(err)
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}

	w.must(w.daemon.Signal(syscall.SIGKILL))
	<-w.daemon.Done()
	w.daemon = nil
	w.queryIs("up"+gardu, 0)
	w.start(metered)
	w.queryIs("up"+gardu, 1)
	w.must(w.answers("192.0.2.10"))
	w.queryAgrees(`gardu_service_packets_total{service="web"}`, func() uint64 { return w.service().Packets })
	for _, name := range []string{"packets", "rule_packets", "backend_bytes", "flow_accounted_packets", "flow_unattributed_packets"} {
		w.queryIs(`sum(resets(gardu_`+name+`_total[1m]))`, 0)
	}

	w.moveListener()
}

// moveListener applies other places to listen.
func (w *world) moveListener() {
	w.Helper()
	health := func(address string) error {
		_, err := w.get("http://" + address + "/readyz")
		return err
	}
	w.listen = prometheusAddress
	_, err := w.api.Apply(w.Context(), api.ApplyRequest{Name: "e2e.yaml", YAML: metered + w.apiConfig()})
	wrong, _ := errors.AsType[config.Errors](err)
	if len(wrong) != 1 || wrong[0].Msg != "listen on 127.0.0.1:9090: bind: address already in use" || wrong[0].Pos.Line == 0 || !strings.Contains(wrong[0].Line, "listen:") {
		w.Errorf("applied with a port that is taken: %v", wrong)
	}
	w.must(health("127.0.0.1:9180"))

	w.listen = "127.0.0.1:9181"
	w.apply(metered)
	w.queryIs(`up{instance="127.0.0.1:9181"}`, 1)
	w.until("the old listener is closed", func() error {
		if health("127.0.0.1:9180") == nil {
			return errors.New("it answers")
		}
		return nil
	})

	w.listen = ""
	w.apply(metered)
	w.until("nothing listens", func() error {
		if health("127.0.0.1:9181") == nil {
			return errors.New("it answers")
		}
		return nil
	})
	w.listen = "127.0.0.1:9180"
	w.apply(metered)
	w.until("it listens again", func() error { return health("127.0.0.1:9180") })
}
