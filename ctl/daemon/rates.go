package daemon

import (
	"math"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
)

// rates are two readings of the backends' counters, by id. The current one is held against the older, so a rate is of the time between one and two
// rounds of housekeeping, whoever asks and how often.
type rates struct {
	mu           sync.Mutex
	newer, older backendReading
}

type backendReading struct {
	at   time.Time
	byID map[uint16]abi.BackendCounter
}

// note keeps a reading.
func (r *rates) note(next backendReading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newer, r.older = next, r.newer
}

// of is how a backend's counters grow. What begins anew meanwhile, or is younger than both readings, has none yet.
func (r *rates) of(id uint16, now abi.BackendCounter, at time.Time) api.Rates {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range []backendReading{r.older, r.newer} {
		before, known := from.byID[id]
		seconds := at.Sub(from.at).Seconds()
		if !known || seconds < 1 || now.Packets < before.Packets || now.Bytes < before.Bytes || now.Flows < before.Flows {
			continue
		}
		per := func(n uint64) float64 { return tenths(float64(n) / seconds) }
		return api.Rates{Packets: per(now.Packets - before.Packets), Bytes: per(now.Bytes - before.Bytes), Flows: per(now.Flows - before.Flows)}
	}
	return api.Rates{}
}

// plus adds rates up.
func plus(a, b api.Rates) api.Rates {
	return api.Rates{Packets: tenths(a.Packets + b.Packets), Bytes: tenths(a.Bytes + b.Bytes), Flows: tenths(a.Flows + b.Flows)}
}

func tenths(n float64) float64 { return math.Round(10*n) / 10 }

func (d *Daemon) noteRates() {
	now := d.current.Load()
	ids := make([]uint32, len(now.tables.Backends))
	for i, b := range now.tables.Backends {
		ids[i] = uint32(b.ID)
	}
	counters, err := d.plane.BackendCounters(ids)
	d.fault("read the counters of backends", err)
	if err != nil {
		return
	}
	next := backendReading{at: time.Now(), byID: make(map[uint16]abi.BackendCounter, len(ids))}
	for i, id := range ids {
		next.byID[uint16(id)] = counters[i]
	}
	d.rates.note(next)
}
