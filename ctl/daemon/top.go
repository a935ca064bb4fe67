package daemon

import (
	"context"
	"errors"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/flow"
)

const (
	watchersMax  = 8                      // that read the flow table at once
	firstReading = 500 * time.Millisecond // nobody likes to wait for the first numbers
	readingShare = 10                     // a reading may take a tenth of the time
)

// FlowChanges reads the flows again and again.
func (d *Daemon) FlowChanges(ctx context.Context, every time.Duration, yield func(api.Flow, api.FlowChange) error, read func(api.Reading) error) error {
	select {
	case d.watchers <- struct{}{}:
		defer func() { <-d.watchers }()
	default:
		return api.NewProblem(api.CodeFull, "%d clients watch the flows already, and no more are served at once", watchersMax)
	}
	meters := meters{flow.NewMeter(), flow.NewMeter()}
	before, err := d.readChanges(ctx, meters, yield)
	if err != nil {
		return err
	}
	for wait := min(every, firstReading); ; wait = every {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ending:
			return nil
		case <-time.After(max(wait, readingShare*before.took)):
		}
		now, err := d.readChanges(ctx, meters, yield)
		if err != nil {
			return err
		}
		if err := read(api.Reading{Since: before.at, Until: now.at, Total: between(before.began, now.began), Least: between(before.ended, now.began)}); err != nil {
			return err
		}
		before = now
	}
}

// meters are one for flows and one for those of which packets were dropped: the same ends may be in both.
type meters struct{ passed, dropped *flow.Meter }

// reading is when the flow table was read, how long that took, and what had been accounted before and after it.
type reading struct {
	at           time.Time
	took         time.Duration
	began, ended api.Counter
}

func between(before, now api.Counter) api.Counter {
	return api.Counter{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes}
}

func (d *Daemon) readChanges(ctx context.Context, meters meters, yield func(api.Flow, api.FlowChange) error) (r reading, err error) {
	clock, err := d.clock()
	if err != nil {
		return r, err
	}
	if r.began, err = d.accounted(); err != nil {
		return r, err
	}
	r.at = time.Now()
	names := d.flowNames()
	var stopped error
	give := func(f *flow.Flow, did, reply flow.Count) bool {
		if stopped = ctx.Err(); stopped == nil {
			stopped = yield(names.flow(f), api.FlowChange{Packets: did.Packets, Bytes: did.Bytes, PacketsReply: reply.Packets, BytesReply: reply.Bytes})
		}
		return stopped == nil
	}
	err = d.readFlows(func(tables []*flow.Table) error {
		if err := meters.passed.Read(tables, clock, r.at, give); err != nil || stopped != nil {
			return err
		}
		return d.readDropped(func(table *flow.Table) error {
			if table == nil {
				return nil
			}
			return meters.dropped.Read([]*flow.Table{table}, clock, r.at, give)
		})
	})
	r.took = time.Since(r.at)
	if err = errors.Join(err, stopped); err != nil {
		return r, err
	}
	r.ended, err = d.accounted()
	return r, err
}

// accounted is what reached flow accounting so far, and what was dropped and remembered or was to be.
func (d *Daemon) accounted() (api.Counter, error) {
	totals, err := d.plane.FlowTotals()
	return api.Counter{Packets: totals.Accounted + totals.Dropped, Bytes: totals.AccountedBytes + totals.DroppedBytes}, err
}

// sendAway lets clients that watch go when ctx ends, so that the server needn't cut them off.
func (d *Daemon) sendAway(ctx context.Context) error {
	<-ctx.Done()
	close(d.ending)
	return nil
}
