package metric_test

import (
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/flow"
)

// names knows two services.
type names struct{ flow.Names }

func (names) Service(id uint16) string { return [...]string{"", "web", "gone"}[id] }

// shaken is a report of a flow that began at second 0.
func shaken(service uint16, since int64, server, client time.Duration) flow.Report {
	r := flow.Report{Since: time.Unix(since, 0)}
	r.First, r.Service, r.ServerRTT, r.ClientRTT = time.Unix(0, 0), service, server, client
	return r
}

// Each handshake is counted once, for its service; what was seen of none, or of none that is configured, isn't.
func TestHandshakes(t *testing.T) {
	engine := &changing{services: []api.Service{{Name: "web"}}}
	m := newMetrics(engine)
	for _, batch := range [][]flow.Report{
		{shaken(1, 0, 100*time.Microsecond, 3*time.Millisecond), shaken(1, 0, 101*time.Microsecond, 0)},
		{shaken(1, 300, time.Second, time.Second)}, // reported before
		{shaken(0, 0, time.Second, time.Second), shaken(2, 0, time.Second, time.Second), shaken(1, 0, 0, 0)},
		{shaken(1, 0, 7*time.Second, 0), shaken(1, 0, -time.Second, 0)},
	} {
		m.Handshakes.Consume(batch, names{})
	}
	text := scrape(t, m.Handler())
	for series, want := range map[string]string{
		`gardu_service_handshake_seconds_bucket{service="web",side="server",le="0.0001"}`:  "1",
		`gardu_service_handshake_seconds_bucket{service="web",side="server",le="0.00025"}`: "2",
		`gardu_service_handshake_seconds_bucket{service="web",side="server",le="5"}`:       "2",
		`gardu_service_handshake_seconds_bucket{service="web",side="server",le="+Inf"}`:    "3",
		`gardu_service_handshake_seconds_count{service="web",side="server"}`:               "3",
		`gardu_service_handshake_seconds_sum{service="web",side="server"}`:                 "7.000201",
		`gardu_service_handshake_seconds_bucket{service="web",side="client",le="0.0025"}`:  "0",
		`gardu_service_handshake_seconds_bucket{service="web",side="client",le="0.005"}`:   "1",
		`gardu_service_handshake_seconds_count{service="web",side="client"}`:               "1",
	} {
		if got := value(t, text, series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	if strings.Contains(text, `service="gone"`) || strings.Contains(text, `service=""`) {
		t.Error("a service that isn't configured has series")
	}
	engine.services = nil
	if text := scrape(t, m.Handler()); strings.Contains(text, "gardu_service_handshake_seconds") {
		t.Error("a service that is gone has series")
	}
}
