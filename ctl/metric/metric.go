package metric

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gardu/ctl/api"
)

const (
	readTimeout = 10 * time.Second // for all readers of a scrape; Prometheus waits that long by default
	maxScrapes  = 4                // at once; further ones are refused
)

// Metrics answers scrapes.
type Metrics struct {
	registry *prometheus.Registry
	log      *slog.Logger

	Handshakes *Handshakes // is told what flows did
}

// New returns the metrics of an engine, and of this process.
func New(engine api.Engine, log *slog.Logger) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), log: log, Handshakes: &Handshakes{byName: map[string]*sides{}}}
	m.registry.MustRegister(
		&collector{engine: engine, handshakes: m.Handshakes},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handler answers a scrape with all of the metrics, or if some can't be read with an error.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(m.log.Handler(), slog.LevelError),
		MaxRequestsInFlight: maxScrapes,
	})
}

// collector turns what the engine says into metrics. It describes none ahead: the names of what is not configured don't appear.
type collector struct {
	engine     api.Engine
	handshakes *Handshakes

	mu   sync.Mutex // one scrape at a time
	sums sums
}

// Describe implements prometheus.Collector.
func (*collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sums.begin()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	s := scrape{ch}
	for _, read := range []func(context.Context, scrape) error{c.status, c.rules, c.sets, c.services, c.backends} {
		if err := read(ctx, s); err != nil {
			c.sums.fail()
			ch <- prometheus.NewInvalidMetric(buildInfo.desc, err) // makes the scrape fail with this error
			return
		}
	}
}
