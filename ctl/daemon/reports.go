package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/flow"
	"gardu/ctl/model"
)

// sink takes what flows did: an exporter, the history, a metric.
//
// To add one, write a method that gives the wishes of a snapshot for it, and add a line to wantedSinks. It is opened when a
// snapshot that wants it is in force, and closed when none does any more.
type sink interface {
	// Consume may take its time: it has a goroutine of its own. Reports that come meanwhile wait in a bounded queue, and those
	// that find it full are lost and counted, in status. Calls come one after the other. Other sinks have the same slice, so it
	// must not be changed; it may be kept.
	Consume(reports []flow.Report, names flow.Names)
	// Close is called once, after the last Consume: what is still buffered should leave now.
	Close() error
}

// sinkWish is a sink that a snapshot asks for.
type sinkWish struct {
	name string               // in status; no two sinks have the same
	made string               // what it is made from, as text: when that changes, the sink is closed and opened anew
	open func() (sink, error) // an error is a warning in status, and it is tried again
}

// wantedSinks lists what reports of flows go to under a snapshot. Without any, the flow table isn't looked at.
func (d *Daemon) wantedSinks(snapshot *model.Snapshot) []sinkWish {
	return slices.Concat(
		exportWishes(snapshot),
		d.options.sinks,
		d.metricSinks(snapshot),
		d.historyWishes(snapshot),
	)
}

const (
	queuedBatches = 64              // that may wait for a sink
	sinkPatience  = 5 * time.Second // how long a sink may take to end
)

// reports hands what the tracker finds to the sinks.
type reports struct {
	mu      sync.Mutex // guards changes of outlets
	outlets atomic.Pointer[[]*outlet]
}

// outlet is a sink at work.
type outlet struct {
	sinkWish
	sink  sink
	queue chan reportBatch
	done  chan struct{} // closed when nothing more will be consumed

	mu                   sync.Mutex
	closed               bool
	taken, lost, waiting tally
}

// reportBatch is reports with the names that hold for them.
type reportBatch struct {
	reports []flow.Report
	names   flow.Names
	tally   tally
}

// tally counts reports and what they are of.
type tally struct {
	reports uint64
	flow.Count
}

func tallyOf(reports []flow.Report) tally {
	t := tally{reports: uint64(len(reports))}
	for i := range reports {
		t.Count = t.Plus(reports[i].Delta).Plus(reports[i].DeltaReply)
	}
	return t
}

func (t *tally) add(other tally) {
	t.reports += other.reports
	t.Count = t.Plus(other.Count)
}

func (t *tally) sub(other tally) {
	t.reports -= other.reports
	t.Packets -= other.Packets
	t.Bytes -= other.Bytes
}

func (r *reports) all() []*outlet {
	if all := r.outlets.Load(); all != nil {
		return *all
	}
	return nil
}

// follow opens and closes sinks until they are the wanted ones. fault takes the error of each that can't be opened, or nil.
func (r *reports) follow(wanted []sinkWish, fault func(name string, err error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next, gone []*outlet
	for _, old := range r.all() {
		if slices.ContainsFunc(wanted, old.is) {
			next = append(next, old)
		} else {
			gone = append(gone, old)
		}
	}
	kept := slices.Clone(next)
	r.outlets.Store(&kept)
	closeOutlets(gone, fault) // before others open: they may be after the same file
	for _, wish := range wanted {
		if slices.ContainsFunc(next, func(o *outlet) bool { return o.is(wish) }) {
			continue
		}
		s, err := wish.open()
		fault(wish.name, err)
		if err == nil {
			next = append(next, newOutlet(wish, s))
		}
	}
	r.outlets.Store(&next)
}

func (o *outlet) is(wish sinkWish) bool { return o.name == wish.name && o.made == wish.made }

// close ends all sinks, after what waits for them.
func (r *reports) close(fault func(name string, err error)) { r.follow(nil, fault) }

// closeOutlets ends sinks, all at the same time.
func closeOutlets(outlets []*outlet, fault func(name string, err error)) {
	var closing sync.WaitGroup
	for _, o := range outlets {
		closing.Go(func() { fault(o.name, o.close()) })
	}
	closing.Wait()
}

// send hands a batch to every sink that has room for it.
func (r *reports) send(batch reportBatch) {
	for _, o := range r.all() {
		o.offer(batch)
	}
}

func newOutlet(wish sinkWish, s sink) *outlet {
	o := &outlet{sinkWish: wish, sink: s, queue: make(chan reportBatch, queuedBatches), done: make(chan struct{})}
	go o.run()
	return o
}

func (o *outlet) run() {
	defer close(o.done)
	for batch := range o.queue {
		o.sink.Consume(batch.reports, batch.names)
		o.mu.Lock()
		o.taken.add(batch.tally)
		o.waiting.sub(batch.tally)
		o.mu.Unlock()
	}
}

func (o *outlet) offer(batch reportBatch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed { // while the batch was made
		return
	}
	select {
	case o.queue <- batch:
		o.waiting.add(batch.tally)
	default:
		o.lost.add(batch.tally)
	}
}

// close ends a sink after what waits for it. One that doesn't end in time gives up what it waits for, or else is left alone.
func (o *outlet) close() error {
	o.mu.Lock()
	o.closed = true
	close(o.queue)
	o.mu.Unlock()
	select {
	case <-o.done:
		return o.sink.Close()
	case <-time.After(sinkPatience):
	}
	o.mu.Lock()
	waiting := o.waiting
	o.mu.Unlock()
	err := fmt.Errorf("it took no more reports of flows for %s: %d of %d packets are lost", sinkPatience, waiting.reports, waiting.Packets)
	if s, ok := o.sink.(aborter); ok {
		s.Abort()
		<-o.done
		err = errors.Join(err, o.sink.Close())
	}
	return err
}

func (o *outlet) status() api.Sink {
	o.mu.Lock()
	defer o.mu.Unlock()
	status := api.Sink{
		Name: o.name, Reports: o.taken.reports, Packets: o.taken.Packets, Bytes: o.taken.Bytes, Waiting: o.waiting.reports,
		LostReports: o.lost.reports, LostPackets: o.lost.Packets, LostBytes: o.lost.Bytes,
	}
	if e, ok := o.sink.(exporter); ok { // what it took and lost; perhaps of a batch that it hasn't taken whole yet
		lost, err := e.State()
		status.Reports -= min(status.Reports, lost.Reports)
		status.Packets -= min(status.Packets, lost.Packets)
		status.Bytes -= min(status.Bytes, lost.Bytes)
		status.LostReports += lost.Reports
		status.LostPackets += lost.Packets
		status.LostBytes += lost.Bytes
		if err != nil {
			status.Error = err.Error()
		}
	}
	return status
}

// sinkStatus is what went to each sink.
func (d *Daemon) sinkStatus() []api.Sink {
	var sinks []api.Sink
	for _, o := range d.reports.all() {
		sinks = append(sinks, o.status())
	}
	return sinks
}

// followSinks opens and closes sinks as the snapshot in force wants them. One that can't be opened is tried again by the housekeeper.
func (d *Daemon) followSinks() {
	d.reports.follow(d.wantedSinks(d.current.Load().snapshot), d.sinkFault)
}

func (d *Daemon) sinkFault(name string, err error) { d.faults.set("report flows to "+name, err) }

const (
	passEvery = time.Second // how often the flow table is looked at
	passShare = 20          // a pass may take one part in so many of a CPU's time
)

// trackFlows looks at the flow table again and again and reports what flows do, until ctx ends. Large tables are looked at less
// often, for the sake of the CPU.
func (d *Daemon) trackFlows(ctx context.Context) error {
	timer := time.NewTimer(passEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		began := time.Now()
		d.faults.set("report flows", d.reportFlows(false))
		timer.Reset(max(passEvery, passShare*time.Since(began)))
	}
}

// reportFlows looks at the flow table once; the last time before it goes, everything is reported.
func (d *Daemon) reportFlows(last bool) error {
	if len(d.reports.all()) == 0 {
		return nil
	}
	clock, err := d.clock()
	if err != nil {
		return err
	}
	var names flow.Names
	now := d.current.Load().snapshot.Flows
	timers := flow.Timers{Active: now.Active, Idle: now.Idle, Last: last}
	return d.readFlows(func(tables []*flow.Table) error {
		return d.tracker.Pass(tables, clock, time.Now(), timers, func(reports []flow.Report) {
			if names == nil {
				names = d.flowNames()
			}
			d.reports.send(reportBatch{reports, names, tallyOf(reports)})
		})
	})
}

// endReports reports once more and ends the sinks.
func (d *Daemon) endReports() error {
	err := d.reportFlows(!d.options.KeepAttached)
	var errs []error
	var mu sync.Mutex
	d.reports.close(func(name string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("report flows to %s: %w", name, err))
		}
	})
	return errors.Join(append(errs, err)...)
}
