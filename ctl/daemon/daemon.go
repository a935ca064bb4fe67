package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/event"
	"gardu/ctl/flow"
	"gardu/ctl/flow/history"
	"gardu/ctl/lb/health"
	"gardu/ctl/metric"
	"gardu/ctl/netdev"
	"gardu/ctl/reconcile"
)

// Options say how to run. Only Config is required.
type Options struct {
	Config       string         // file; SIGHUP reads it again
	BPFDir       string         // where everything in the kernel is pinned; dataplane.DefaultDir when empty
	StateDir     string         // DefaultStateDir when empty
	Socket       string         // of the API; what the configuration says when empty
	Version      string         // for status
	KeepAttached bool           // at the end, leave the data plane at work for the next run
	Replace      bool           // take foreign XDP programs off
	Fresh        []string       // what may begin anew when it is another version's: see dataplane.Options
	Log          *slog.Logger   // slog.Default when nil
	LogLevel     *slog.LevelVar // of Log; nil: nobody can change it

	sinks []sinkWish       // tests: besides those of the configuration
	step  func(string)     // tests: is told how far a change has come; nil: nobody is
	now   func() time.Time // tests: see timeOfDay; nil: the machine's
}

type reconciler = reconcile.Reconciler[*dataplane.Table, dataplane.Tables]

// Daemon is a running gardu. It answers the API as an api.Engine.
type Daemon struct {
	options Options
	log     *slog.Logger
	started time.Time
	dir     string // of the configuration, absolute: set files are relative to it

	plane      *dataplane.Dataplane
	netdev     *netdev.Handle
	reconciler *reconciler
	health     *health.Checker
	listener   net.Listener
	doors      doors
	tokens     *tokens
	metrics    *metric.Metrics
	events     <-chan netdev.Event

	planning sync.Mutex              // one plan at a time
	changing sync.Mutex              // one change of the snapshot or of attachments at a time
	saved    state                   // guarded by changing
	onDisk   *state                  // guarded by changing: what is in the state file; nil: not known
	resized  time.Time               // guarded by changing: when the flow table got another size
	current  atomic.Pointer[applied] // what is in force; never nil once started
	tidyAt   atomic.Int64            // when to give back the memory that changes took, in ns since the start; 0: done

	revisions revisions
	before    *before                 // guarded by changing: what comes back when what waits isn't confirmed
	waiting   atomic.Pointer[waiting] // the same as saved.Waiting, to read without the lock
	waits     chan struct{}           // told when that changes

	exits  exits
	orders orders
	slow   slowStarts
	active activeCache
	rates  rates
	checks checks

	announcements announcements

	inherited map[uint16]bool // backends that the daemon before this one knew; until the first commit

	happenings *event.Log[happening] // what `gardu events` shows
	followers  followers
	captures   captures

	links         interfaces
	overruns      atomic.Uint64 // of what the kernel tells of the network
	hops          hops
	lists         lists
	counted       setCountsCache
	totals        totalsCache
	flowClock     atomic.Pointer[flow.Clock]
	dropped       atomic.Pointer[flow.Count] // packets of flow tables that others replaced
	droppedLost   atomic.Pointer[flow.Count] // likewise of tables of dropped flows
	faults        faults
	effectsBefore abi.EffectTotals // what was lost before this daemon served
	pulses        pulses
	confined      confinement
	logLevel      logLevel

	watchers chan struct{} // as many as there are clients that watch the flows
	ending   chan struct{} // closed when clients that wait should go

	reports reports
	history atomic.Pointer[history.History] // nil: none is kept

	historyTold history.Status // what the housekeeper told of last
}

var _ api.Engine = (*Daemon)(nil)

// Run loads the configuration, puts it in force, and serves until ctx ends. Then it takes everything off the
// interfaces and out of the kernel, unless KeepAttached. SIGHUP reads the configuration again.
//
// What a daemon that died left in the kernel goes on while Run takes over. Errors before that touch nothing:
// config.Errors, *dataplane.LockedError (another daemon), *dataplane.VersionError, *dataplane.KernelError,
// api.ErrInUse.
func Run(ctx context.Context, options Options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	d := newDaemon(options)
	if err := d.start(ctx); err != nil {
		return err
	}
	d.giveUp()
	if err := notify("READY=1"); err != nil {
		d.log.Warn("service manager not told that gardu is ready", "error", err)
	}
	err := d.serve(ctx, stop, reload)
	if err := notify("STOPPING=1"); err != nil {
		d.log.Warn("service manager not told that gardu ends", "error", err)
	}
	return errors.Join(err, d.end())
}

func newDaemon(options Options) *Daemon {
	if options.BPFDir == "" {
		options.BPFDir = dataplane.DefaultDir
	}
	if options.StateDir == "" {
		options.StateDir = DefaultStateDir
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	d := &Daemon{options: options, log: options.Log, started: time.Now(), happenings: event.NewNumberedLog(keptEvents, func(h *happening, n uint64) { h.number = n }),
		doors: doors{next: make(chan door, 1)}}
	d.metrics = metric.New(d, d.log)
	d.tokens = loadTokens(options.StateDir)
	if err := d.tokens.broken; err != nil {
		d.fault("tokens of the API", err)
	}
	d.revisions, d.waits = revisions{filepath.Join(options.StateDir, "revisions"), revisionsMax, revisionsMaxBytes}, make(chan struct{}, 1)
	d.watchers, d.ending = make(chan struct{}, watchersMax), make(chan struct{})
	return d
}

// start brings the data plane up. When it fails, a data plane that was there before is as it was, and one that wasn't
// is gone again.
func (d *Daemon) start(ctx context.Context) (err error) {
	if d.dir, err = filepath.Abs(filepath.Dir(d.options.Config)); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if d.saved, err = loadState(d.options.StateDir); err != nil {
		return err
	}
	if loaded := d.saved; loaded.Version != 0 {
		d.onDisk = &loaded
	}
	first, how, err := d.atStart()
	if err != nil {
		return err
	}
	if d.netdev, err = netdev.Open(); err != nil {
		return err
	}
	fresh := false
	defer func() {
		if err != nil {
			err = errors.Join(err, d.abandon(fresh))
		}
	}()
	next, err := d.compile(first)
	if err != nil {
		return err
	}
	if d.listener, err = api.Listen(d.socket(first)); err != nil {
		return err
	}
	d.plane, err = dataplane.Open(dataplane.Options{
		Dir:        d.options.BPFDir,
		Features:   next.tables.Features,
		FlowsMax:   next.flowsMax(),
		DroppedMax: first.snapshot.Flows.Dropped,
		NATMax:     first.snapshot.NAT.Max,
		Room: [abi.TableCount]int{abi.TableSets: len(next.tables.Sets), abi.TableRules: len(next.tables.Rules),
			abi.TableServices: len(next.tables.Services)},
		Hooks:   d.firstHooks(first, next.interfaces),
		Netlink: d.netdev,
		Log:     d.log,
		Fresh:   d.options.Fresh,
	})
	if err != nil {
		return err
	}
	generation, _ := d.plane.Current()
	if fresh = generation == 0; fresh { // counters begin anew
		d.saved.Rings, d.saved.Backends, d.saved.Dropped, d.saved.DroppedLost = nil, nil, flow.Count{}, flow.Count{}
	}
	dropped := d.saved.Dropped
	d.dropped.Store(&dropped)
	droppedLost := d.saved.DroppedLost
	d.droppedLost.Store(&droppedLost)
	d.resized = d.started // perhaps a moment ago, by the daemon before
	have := d.have()
	if have.Orders, err = d.recallOrders(); err != nil {
		return err
	}
	if d.reconciler, err = reconcile.New[*dataplane.Table](d.plane, generation, have); err != nil {
		return err
	}
	d.inherited = map[uint16]bool{}
	for id := range d.reconciler.Have().Backends {
		d.inherited[id] = true
	}
	d.takeOverLinks()
	d.health = health.New(health.Options{
		Register: d.registerCheck, Through: d.checkThrough, Mark: uint32(abi.CheckMark), Changed: d.healthChanged,
	})
	if d.events, err = netdev.Watch(ctx); err != nil { // before the first look, so that nothing is missed between
		return err
	}
	if how.how != byReturn { // that one was in force: an interface may be away
		if err := d.checkInterfaces(first); err != nil {
			return err
		}
	}
	if err := d.commit(first, next, how); err != nil {
		return err
	}
	d.recallSlow()
	if generation != 0 {
		d.log.Info("took over a data plane at work", "generation", generation, "interfaces", len(d.plane.Attachments()))
	}
	return nil
}

// socket is where the API is served.
func (d *Daemon) socket(c candidate) string {
	switch {
	case d.options.Socket != "":
		return d.options.Socket
	case c.snapshot.API.Socket != "":
		return c.snapshot.API.Socket
	default:
		return api.DefaultSocket
	}
}

// abandon closes what start opened.
func (d *Daemon) abandon(fresh bool) error {
	var errs []error
	if d.listener != nil {
		errs = append(errs, d.listener.Close())
	}
	if d.plane != nil {
		d.reports.close(d.taking())
		errs = append(errs, d.plane.Close())
		if fresh {
			errs = append(errs, dataplane.RemovePlane(d.options.BPFDir, d.netdev), d.releaseNetwork())
		}
	}
	d.netdev.Close()
	return errors.Join(errs...)
}

// releaseNetwork takes back what the kernel was told by netlink.
func (d *Daemon) releaseNetwork() error {
	return errors.Join(d.netdev.ReleaseAll(), d.netdev.UnrouteMarked(uint32(abi.CheckMark)))
}

// serve runs what runs beside the packets, until ctx ends or one of them fails.
func (d *Daemon) serve(ctx context.Context, stop context.CancelFunc, reload <-chan os.Signal) error {
	parts := []func(context.Context) error{
		func(ctx context.Context) error { return api.Serve(ctx, d.listener, d, d.log) },
		d.serveTCP,
		d.readEvents,
		d.tendEffects,
		d.sendAway,
		d.health.Run,
		func(ctx context.Context) error { return d.watchConfig(ctx, reload) },
		d.watchWaiting,
		d.watchNetwork,
		d.housekeep,
		d.trackFlows,
		d.feedWatchdog,
	}
	var err error
	if d.effectsBefore, err = d.plane.EffectTotals(); err != nil { // before anybody can follow events
		return err
	}
	var running sync.WaitGroup
	errs := make([]error, len(parts))
	for i, part := range parts {
		running.Go(func() {
			defer stop()
			errs[i] = part(ctx)
		})
	}
	running.Go(d.completeFlows)
	debug.SetGCPercent(quietGC)
	d.log.Info("serving", "socket", d.socket(d.current.Load().candidate), "revision", d.current.Load().revision,
		"generation", d.reconciler.Generation())
	running.Wait()
	return errors.Join(errs...)
}

// end leaves the data plane at work, or takes it off without a trace.
func (d *Daemon) end() error {
	defer d.netdev.Close()
	if err := d.endReports(); err != nil {
		d.log.Error("not everything that flows did was reported", "error", err)
	}
	if d.options.KeepAttached {
		d.keepPinned() // a last chance
		d.log.Info("ending; the data plane goes on")
		return errors.Join(d.plane.EndCapture(), d.plane.Close()) // a client may not have let go yet
	}
	d.log.Info("ending; detaching")
	return errors.Join(d.plane.DetachAll(), d.plane.Close(), dataplane.RemovePlane(d.options.BPFDir, d.netdev), d.releaseNetwork())
}

// watchConfig reads the configuration again on SIGHUP, and set files when they change.
func (d *Daemon) watchConfig(ctx context.Context, reload <-chan os.Signal) error {
	ticker := time.NewTicker(listPoll)
	defer ticker.Stop()
	for {
		d.beat(loopConfig)
		select {
		case <-ctx.Done():
			return nil
		case <-reload:
			d.reload()
		case <-ticker.C:
			d.rereadLists()
			d.rereadCertificate()
		}
	}
}

// keepPinned has what the next daemon takes over pinned again when somebody took the pins away.
func (d *Daemon) keepPinned() {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.lookAtPins()
}

// lookAtPins is keepPinned for who holds changing.
func (d *Daemon) lookAtPins() {
	again, err := d.plane.KeepPinned()
	d.fault("keep what the next daemon takes over", err)
	if again {
		d.log.Warn("somebody removed what was pinned; it is pinned again", "dir", d.options.BPFDir)
		d.happened(api.Event{Kind: api.EventMended, Text: "what was pinned under " + d.options.BPFDir + " was removed by somebody; it is pinned again"})
	}
}

// reload is SIGHUP.
func (d *Daemon) reload() {
	text, err := os.ReadFile(d.options.Config)
	var result api.ApplyResult
	if err == nil {
		result, err = d.apply(api.ApplyRequest{Name: d.options.Config, YAML: string(text), Dir: d.dir}, change{how: byReload})
	}
	d.faults.set("reload", err)
	if err != nil {
		d.happened(api.Event{Kind: api.EventFault, Text: "reload: " + summary(err)})
		d.log.Error("configuration not applied; the one before stays in force", "file", d.options.Config, "error", err)
		return
	}
	d.log.Info("configuration read again", "file", d.options.Config, "revision", result.Revision, "changed", result.Changed)
}

const (
	expireEvery    = time.Second     // how often blocks that have expired are removed
	housekeepEvery = 5 * time.Second // how often a flow table that was resized is looked at

	// tidyAfter is how long after the last change its memory is given back to the system: taking it anew costs the next change more
	// than compiling does.
	tidyAfter = 10 * time.Second
)

func (d *Daemon) housekeep(ctx context.Context) error {
	expire, ticker := time.NewTicker(expireEvery), time.NewTicker(housekeepEvery)
	defer expire.Stop()
	defer ticker.Stop()
	d.noteRates()
	for {
		d.beat(loopHousekeep)
		select {
		case <-ctx.Done():
			return nil
		case <-expire.C:
			d.expireBlocks()
			d.syncOrders()
			d.announceAgain()
			d.syncSlow()
			d.tidyCapture()
			d.syncLogLevel()
			continue
		case <-ticker.C:
		}
		d.noteRates()
		d.syncHealth()
		d.followSinks()
		d.fault("finish resize of the flow table", d.finishResize())
		d.completeFlows() // again, if there was no memory
		d.keepPinned()
		d.saveAgain()
		d.tellHistory()
		if at := d.tidyAt.Load(); at != 0 && int64(time.Since(d.started)) > at && d.tidyAt.CompareAndSwap(at, 0) {
			d.shed()
			debug.FreeOSMemory() // reading and compiling took several times what is kept
		}
	}
}

// How much the heap may grow, in percent of what is in use, before it is collected: while a configuration is applied, which is to be
// quick, and else, when it is to be small.
const hurriedGC, quietGC = 100, 50

// hurriedHeap is how many bytes the heap may grow while a configuration is applied, where hurriedGC percent are less. It is given back with
// the rest; see tidyAfter.
const hurriedHeap = 48 << 20

// hurry lets the heap grow as far as it may while a configuration is applied.
func hurry() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(max(hurriedGC, int(hurriedHeap*100/max(live[0].Value.Uint64(), 1<<20))))
}

// summary is an error in one line: of a wrong configuration, the first mistake.
func summary(err error) string {
	if wrong, ok := errors.AsType[config.Errors](err); ok && len(wrong) > 0 {
		first := fmt.Sprintf("%s: %s", wrong[0].Pos, wrong[0].Msg)
		if len(wrong) > 1 {
			return fmt.Sprintf("%s, and %d more", first, len(wrong)-1)
		}
		return first
	}
	return err.Error()
}
