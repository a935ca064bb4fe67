package daemon

import (
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
	"gardu/ctl/model"
)

// activeAge is how old a count of the flows on backends may be, unless counting takes more than a tenth of that.
const activeAge = time.Second

// activeCache holds the last count.
type activeCache struct {
	mu   sync.Mutex
	at   time.Time
	took time.Duration
	byID map[uint16]uint64
}

func (c *activeCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID = nil
}

// activeFlows counts the flows on each backend that haven't ended, by backend id. The map is not to be changed.
func (d *Daemon) activeFlows() (map[uint16]uint64, error) {
	d.active.mu.Lock()
	defer d.active.mu.Unlock()
	if d.active.byID != nil && time.Since(d.active.at) < max(activeAge, totalsShare*d.active.took) {
		return d.active.byID, nil
	}
	clock, err := d.clock()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	idle := d.current.Load().snapshot.Flows.Idle
	byID := map[uint16]uint64{}
	err = d.readFlows(func(tables []*flow.Table) error {
		return flow.Flows(tables, clock, func(f *flow.Flow) bool {
			if f.Backend != 0 && isActive(f, began, idle) {
				byID[f.Backend]++
			}
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	d.active.byID, d.active.at, d.active.took = byID, time.Now(), time.Since(began)
	return byID, nil
}

// isActive says whether a flow may go on. An established TCP connection may be silent for as long as its ends like; for how long
// they must expect to be kept is in RFC 5382, section 5.
func isActive(f *flow.Flow, now time.Time, idle time.Duration) bool {
	switch {
	case f.State&abi.FlowStateClosed != 0:
		return false
	case f.Proto == model.ProtoTCP && f.State&abi.FlowStateEstablished != 0:
		return now.Sub(f.Last) < time.Duration(abi.TimeoutTcp)*time.Second
	}
	return now.Sub(f.Last) < idle
}
