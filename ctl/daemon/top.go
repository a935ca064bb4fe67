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
	meter := flow.NewMeter()
	before, err := d.readChanges(ctx, meter, yield)
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
		now, err := d.readChanges(ctx, meter, yield)
		if err != nil {
			return err
		}
		if err := read(api.Reading{Since: before.at, Until: now.at, Total: between(before.began, now.began), Least: between(before.ended, now.began)}); err != nil {
			return err
		}
		before = now
	}
}

// reading is when the flow table was read, how long that took, and what had been accounted before and after it.
type reading struct {
	at           time.Time
	took         time.Duration
	began, ended api.Counter
}

func between(before, now api.Counter) api.Counter {
	return api.Counter{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes}
}

func (d *Daemon) readChanges(ctx context.Context, meter *flow.Meter, yield func(api.Flow, api.FlowChange) error) (r reading, err error) {
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
	err = d.readFlows(func(tables []*flow.Table) error {
		return meter.Read(tables, clock, r.at, func(f *flow.Flow, did, reply flow.Count) bool {
			if stopped = ctx.Err(); stopped == nil {
				stopped = yield(names.flow(f), api.FlowChange{Packets: did.Packets, Bytes: did.Bytes, PacketsReply: reply.Packets, BytesReply: reply.Bytes})
			}
			return stopped == nil
		})
	})
	r.took = time.Since(r.at)
	if err = errors.Join(err, stopped); err != nil {
		return r, err
	}
	r.ended, err = d.accounted()
	return r, err
}

// accounted is what reached flow accounting so far.
func (d *Daemon) accounted() (api.Counter, error) {
	totals, err := d.plane.FlowTotals()
	return api.Counter{Packets: totals.Accounted, Bytes: totals.AccountedBytes}, err
}

// sendAway lets clients that watch go when ctx ends, so that the server needn't cut them off.
func (d *Daemon) sendAway(ctx context.Context) error {
	<-ctx.Done()
	close(d.ending)
	return nil
}
