package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/flow"
	"gardu/ctl/model"
)

// sink takes what flows did: an exporter, the history, a metric.
//
// To add one, write a method that gives the wishes of a snapshot for it, and add a line to wantedSinks. It is opened when a
// snapshot that wants it is in force, and closed when none does any more.
type sink interface {
	// Consume may take its time: it has a goroutine of its own. Reports that come meanwhile wait in a ring that outlives the process;
	// of a sink that falls behind by more than that, the oldest are lost and counted, in status. Calls come one after the other. When
	// Consume returns the reports are done with; if the process dies before, they come again. The slice may be kept.
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

// sinkPatience is how long a sink may take to end.
const sinkPatience = 5 * time.Second

// reports hands what the tracker finds to the sinks.
type reports struct {
	mu      sync.Mutex // guards changes of outlets
	outlets atomic.Pointer[[]*outlet]
	tracker atomic.Pointer[flow.Tracker] // nil until there is a sink
	names   reportNames
}

// outlet is a sink at work, or one that can't be opened, which misses what it would have got.
type outlet struct {
	sinkWish
	sink   sink
	reader *flow.Reader
	why    error         // it can't be opened
	stop   chan struct{} // closed to end it when nothing is left for it
	given  atomic.Bool   // it is given up
	done   chan struct{} // closed when nothing more will be consumed
}

func (r *reports) all() []*outlet {
	if all := r.outlets.Load(); all != nil {
		return *all
	}
	return nil
}

// taking is what a sink's goroutine needs to make reports out of what the tracker wrote.
type taking struct {
	clock func() (flow.Clock, error)
	names func() flow.Names
	fault func(name string, err error) // of a sink, or nil
}

// follow opens and closes sinks until they are the wanted ones.
func (r *reports) follow(wanted []sinkWish, with taking) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next, gone []*outlet
	for _, old := range r.all() {
		if old.why == nil && slices.ContainsFunc(wanted, old.is) {
			next = append(next, old)
		} else {
			gone = append(gone, old)
		}
	}
	kept := slices.Clone(next)
	r.outlets.Store(&kept)
	closeOutlets(gone, with.fault) // before others open: they may be after the same file
	if tracker := r.tracker.Load(); tracker != nil {
		var names []string
		for _, wish := range wanted {
			names = append(names, wish.name)
			if !slices.ContainsFunc(next, func(o *outlet) bool { return o.is(wish) }) {
				if o := openOutlet(tracker, wish, with); o != nil {
					next = append(next, o)
				}
			}
		}
		if len(wanted) > 0 { // at the end of the daemon they keep their places for the next one
			tracker.Keep(names)
		}
	}
	r.outlets.Store(&next)
}

func (o *outlet) is(wish sinkWish) bool { return o.name == wish.name && o.made == wish.made }

// close ends all sinks, after what waits for them.
func (r *reports) close(with taking) { r.follow(nil, with) }

// closeOutlets ends sinks, all at the same time.
func closeOutlets(outlets []*outlet, fault func(name string, err error)) {
	var closing sync.WaitGroup
	for _, o := range outlets {
		closing.Go(func() { fault(o.name, o.close()) })
	}
	closing.Wait()
}

// openOutlet gives nil when there are too many.
func openOutlet(tracker *flow.Tracker, wish sinkWish, with taking) *outlet {
	o := &outlet{sinkWish: wish, stop: make(chan struct{}), done: make(chan struct{})}
	var err error
	if o.reader, err = tracker.Reader(wish.name); err != nil {
		with.fault(wish.name, err)
		return nil
	}
	o.sink, o.why = wish.open()
	with.fault(wish.name, o.why)
	if o.why != nil {
		o.reader.Close()
		close(o.done)
		return o
	}
	go o.run(with)
	return o
}

// run hands over reports until stop is closed and there are no more.
func (o *outlet) run(with taking) {
	defer close(o.done)
	for {
		clock, err := with.clock()
		if err != nil {
			with.fault(o.name, err)
		} else if reports := o.reader.Read(clock); len(reports) > 0 {
			o.sink.Consume(reports, with.names())
			if o.given.Load() {
				return
			}
			o.reader.Taken()
			continue
		}
		select {
		case <-o.reader.Wake():
		case <-o.stop:
			return
		}
	}
}

// close ends a sink after what waits for it. One that doesn't end in time gives up what it waits for, or else is left alone; what it didn't
// take is for the next daemon, if the data plane goes on.
func (o *outlet) close() error {
	if o.why != nil {
		return nil
	}
	close(o.stop)
	defer o.reader.Close()
	select {
	case <-o.done:
		return o.sink.Close()
	case <-time.After(sinkPatience):
	}
	o.given.Store(true)
	_, _, waiting := o.reader.Totals()
	err := fmt.Errorf("it took no more reports of flows for %s: %d of %d packets wait for it", sinkPatience, waiting.Reports, waiting.Packets)
	if s, ok := o.sink.(aborter); ok {
		s.Abort()
		<-o.done
		err = errors.Join(err, o.sink.Close())
	}
	return err
}

func (o *outlet) status() api.Sink {
	taken, lost, waiting := o.reader.Totals()
	status := api.Sink{
		Name: o.name, Reports: taken.Reports, Packets: taken.Packets, Bytes: taken.Bytes, Waiting: waiting.Reports,
		LostReports: lost.Reports, LostPackets: lost.Packets, LostBytes: lost.Bytes,
	}
	if o.why != nil {
		status.Error = summary(o.why)
		return status
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

// reportStatus closes the account of reports; nil without any sink.
func (d *Daemon) reportStatus(totals flow.Totals) *api.ReportTotals {
	tracker := d.reports.tracker.Load()
	if tracker == nil || len(d.reports.all()) == 0 {
		return nil
	}
	now := tracker.Totals()
	less := func(a, b uint64) uint64 { return a - min(a, b) } // they are read one after the other
	there := totals.Records.Packets + totals.LRU.Packets
	return &api.ReportTotals{
		Reports: now.Reported.Reports, Packets: now.Reported.Packets, Bytes: now.Reported.Bytes,
		Pending: less(there+now.Gone.Packets, now.Reported.Packets),
		Missed:  less(totals.Unattributed.Packets, now.Gone.Packets),
		NoRoom:  tracker.NoRoom(),
	}
}

// followSinks opens and closes sinks as the snapshot in force wants them. One that can't be opened is tried again by the housekeeper.
func (d *Daemon) followSinks() {
	now := d.current.Load()
	wanted := d.wantedSinks(now.snapshot)
	if !now.tables.Features.Flows {
		wanted = nil
	}
	if len(wanted) > 0 {
		err := d.openTracker()
		d.fault("remember what was reported of flows", err)
		if err != nil {
			return
		}
	}
	d.reports.follow(wanted, d.taking())
}

func (d *Daemon) taking() taking {
	return taking{d.clock, func() flow.Names { return d.reports.names.get(d) }, d.sinkFault}
}

func (d *Daemon) sinkFault(name string, err error) { d.fault("report flows to "+name, err) }

// openTracker goes on where the daemon before left off, with room for as many flows as the table has.
func (d *Daemon) openTracker() error {
	if tracker := d.reports.tracker.Load(); tracker != nil {
		return tracker.Grow(d.plane.FlowsMax(), d.plane.MakeLedger)
	}
	secret, max := d.plane.FlowSecret(), d.plane.FlowsMax()
	tracker, err := flow.OpenTracker(d.plane.Ledger(), secret)
	if errors.Is(err, flow.ErrNoLedger) {
		err = d.plane.MakeLedger(flow.LedgerSize(max), func(memory []byte) (err error) {
			tracker, err = flow.NewTracker(memory, secret, max)
			return err
		})
	} else if err == nil {
		err = tracker.Grow(max, d.plane.MakeLedger)
	}
	if err != nil {
		return err
	}
	tracker.Sampled(d.plane.FlowsSampled())
	d.reports.tracker.Store(tracker)
	return nil
}

// reportNames are the names of what is in force, made again now and then.
type reportNames struct {
	mu    sync.Mutex
	names flowNames
	at    time.Time
}

func (n *reportNames) get(d *Daemon) flowNames {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names.applied == nil || n.names.applied.snapshot != d.current.Load().snapshot || time.Since(n.at) > lookAgain {
		n.names, n.at = d.flowNames(), time.Now()
	}
	return n.names
}

const (
	passEvery  = time.Second     // how often the flow table is looked at
	passShare  = 20              // reading it may take one part in so many of a CPU's time,
	passAtMost = 5 * time.Second // but new flows soon take the places of old ones, which must be reported by then
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
		reading, err := d.reportFlows(flow.Timers{})
		d.fault("report flows", err)
		timer.Reset(passAfter(reading))
	}
}

// passAfter is how long to wait until the next pass, when reading the table takes so much CPU time.
func passAfter(reading time.Duration) time.Duration {
	return min(max(passEvery, passShare*2*reading), passAtMost)
}

// sampleFlows lets one packet of so many count. What was counted before is reported before, so that no report is of both,
// but for what passes meanwhile.
func (d *Daemon) sampleFlows(of int) {
	if max(of, 1) == max(d.plane.FlowsSampled(), 1) {
		return
	}
	_, err := d.reportFlows(flow.Timers{All: true})
	d.fault("report flows", err)
	d.plane.SampleFlows(of)
	if tracker := d.reports.tracker.Load(); tracker != nil {
		tracker.Sampled(of)
	}
}

// reportFlows looks at the flow table once, and if it is to go reports everything. It says how much CPU time reading the table takes.
func (d *Daemon) reportFlows(what flow.Timers) (reading time.Duration, err error) {
	tracker := d.reports.tracker.Load()
	if tracker == nil || len(d.reports.all()) == 0 {
		return 0, nil
	}
	err = d.readFlows(func(tables []*flow.Table) error {
		clock, now, timers, err := d.trackTime()
		if err != nil {
			return err
		}
		timers.All, timers.Last = what.All, what.Last
		reading, err = tracker.Pass(tables, clock, now, timers)
		return err
	})
	return reading, err
}

func (d *Daemon) trackTime() (flow.Clock, abi.Clock, flow.Timers, error) {
	clock, err := d.clock()
	if err != nil {
		return flow.Clock{}, abi.Clock{}, flow.Timers{}, err
	}
	now, _, err := d.plane.Clock()
	flows := d.current.Load().snapshot.Flows
	return clock, now, flow.Timers{Active: flows.Active, Idle: flows.Idle}, err
}

// leaveFlows reports what a flow table holds that goes, and that no program uses any more.
func (d *Daemon) leaveFlows(old, now *flow.Table) error {
	tracker := d.reports.tracker.Load()
	if tracker == nil || len(d.reports.all()) == 0 {
		return nil
	}
	clock, kernel, timers, err := d.trackTime()
	if err != nil {
		return err
	}
	return tracker.Leave(old, []*flow.Table{now}, clock, kernel, timers)
}

// endReports ends the sinks. When the flow table goes, all that is in it is reported before.
func (d *Daemon) endReports() error {
	var errs []error
	if !d.options.KeepAttached {
		_, err := d.reportFlows(flow.Timers{Last: true})
		errs = append(errs, err)
	}
	var mu sync.Mutex
	with := d.taking()
	with.fault = func(name string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("report flows to %s: %w", name, err))
		}
	}
	d.reports.close(with)
	return errors.Join(errs...)
}
