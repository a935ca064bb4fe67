package daemon

import (
	"context"
	"fmt"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
)

const (
	effectsInterval = time.Second
	tendInterval    = time.Hour // of limits whose buckets nobody shares; the data plane asks for one in 38
)

// tendEffects does each second, until ctx ends, what events and limits of rules (xdp/effects.h) leave to the daemon: it tells of what was lost,
// gives limits room, and has the programs go on telling of dropped packets while somebody follows these.
func (d *Daemon) tendEffects(ctx context.Context) error {
	ticker := time.NewTicker(effectsInterval)
	defer ticker.Stop()
	seen := d.effectsBefore
	var tended time.Time
	for {
		totals, err := d.plane.EffectTotals()
		d.fault("count lost events", err)
		if err != nil {
			totals = seen
		}
		d.tellLost(totals.Lost-seen.Lost, totals.Unwatched-seen.Unwatched)
		if totals.Shared > seen.Shared || time.Since(tended) > tendInterval {
			_, err := d.plane.TendLimits()
			d.fault("tend the limits", err)
			tended = time.Now()
		}
		seen = totals
		d.watch(0)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// tellLost tells of events that the ring had no room for, and of dropped packets that were too many to be told of.
func (d *Daemon) tellLost(events, drops uint64) {
	if events > 0 {
		d.happened(api.Event{Kind: api.EventLost, Count: events, Text: fmt.Sprintf("%d events: the ring was full", events)})
	}
	if drops > 0 {
		text := fmt.Sprintf("%d more packets were dropped: at most %d a second are told of", drops, abi.WatchDrops)
		d.happenings.Pass(happening{Event: api.Event{Time: time.Now(), Kind: api.EventLost, Count: drops, Text: text}, aboutDrops: true})
	}
}
