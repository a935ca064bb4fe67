package metric

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gardu/ctl/flow"
)

// buckets are upper bounds: from a rack's to a bad mobile network's, and those with a SYN that was sent again.
var buckets = []time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

var handshakeTimes = prometheus.NewDesc("gardu_service_handshake_seconds",
	"Parts of the TCP handshakes with a service: the way to the server and back, SYN to SYN+ACK, and to the client and back, SYN+ACK to ACK.",
	[]string{"service", "side"}, nil)

// Handshakes adds up how long TCP handshakes took, by service. Flows are told to it as to any sink of reports.
type Handshakes struct {
	mu     sync.Mutex
	byName map[string]*sides
}

// sides are the two parts of a service's handshakes.
type sides struct{ server, client histogram }

type histogram struct {
	counts []uint64 // by bucket, and at last of what fits in none
	sum    time.Duration
}

// Consume takes the handshake of each flow that is reported for the first time; a flow that lives is, after flows.active.
func (h *Handshakes) Consume(reports []flow.Report, names flow.Names) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range reports {
		r := &reports[i]
		if r.ServerRTT <= 0 && r.ClientRTT <= 0 || !r.Since.Equal(r.First) {
			continue
		}
		name := names.Service(r.Service)
		if name == "" {
			continue
		}
		service := h.byName[name]
		if service == nil {
			service = new(sides)
			h.byName[name] = service
		}
		service.server.add(r.ServerRTT)
		service.client.add(r.ClientRTT)
	}
}

// Close has nothing to do.
func (h *Handshakes) Close() error { return nil }

// add counts a time; 0 wasn't seen.
func (g *histogram) add(took time.Duration) {
	if took <= 0 {
		return
	}
	if g.counts == nil {
		g.counts = make([]uint64, len(buckets)+1)
	}
	i, _ := slices.BinarySearch(buckets, took)
	g.counts[i]++
	g.sum += took
}

// collect tells those of services that there are, and forgets the others.
func (h *Handshakes) collect(s scrape, services map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, service := range h.byName {
		if !services[name] {
			delete(h.byName, name)
			continue
		}
		service.server.collect(s, name, "server")
		service.client.collect(s, name, "client")
	}
}

// collect adds the series of a histogram that counted something. Prometheus wants each bucket to count those before it, too.
func (g *histogram) collect(s scrape, labels ...string) {
	if g.counts == nil {
		return
	}
	total := uint64(0)
	upTo := make(map[float64]uint64, len(buckets))
	for i, bound := range buckets {
		total += g.counts[i]
		upTo[bound.Seconds()] = total
	}
	total += g.counts[len(buckets)]
	s.ch <- prometheus.MustNewConstHistogram(handshakeTimes, total, g.sum.Seconds(), upTo, labels...)
}
