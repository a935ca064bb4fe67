package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// Netlink is what dataplane asks of rtnetlink, which it doesn't speak itself.
type Netlink interface {
	// AttachFilter adds gardu's tc filter, which is called as its program, to the clsact qdisc of an interface, or replaces its program
	// in one step. The error is unix.ENODEV when the interface is gone.
	AttachFilter(ifindex int, name string, program int) error
	// DetachFilter removes it. It is no error when the filter or the interface is gone.
	DetachFilter(ifindex int, name string) error
	// XDPProgram is the id of the XDP program on an interface, whoever attached it; 0 = none.
	XDPProgram(ifindex int) (uint32, error)
	// DetachXDP removes an XDP program that was attached by netlink.
	DetachXDP(ifindex int) error
}

// Options say what Open opens.
type Options struct {
	Dir        string           // bpffs directory of everything pinned; DefaultDir when empty
	Features   compile.Features // what the programs are made for; see SetFeatures
	FlowsMax   int              // flows expected; what is taken over keeps its size, see ResizeFlows
	DroppedMax int              // dropped flows to remember; likewise, see ResizeDropped
	NATMax     int              // translations at once; what is taken over keeps its size

	// Room is how many lines the tables of the first generation will have; 0: not known. It saves loading the programs again for them.
	Room [abi.TableCount]int

	// Hooks are those where programs will sit first. They are loaded with the rest instead of when Attach and AttachCheck ask for them.
	Hooks []Hook

	Netlink Netlink      // nil: no fall-back to clsact, and the owner of a busy interface stays unknown
	Log     *slog.Logger // nil: silent

	// Fresh names layouts that may begin anew when what is pinned doesn't fit this gardu and can't be converted; FreshAll: any.
	Fresh []string

	layouts []layout // tests: instead of pinnedLayouts
}

// Dataplane is the programs, maps and links of one instance.
type Dataplane struct {
	dir     string // "" = private: nothing is pinned
	lostDir string // where all was pinned until somebody took the pins away; dir is "" then
	netlink Netlink
	log     *slog.Logger
	lock    *lock
	noTCX   bool // tests: as if the kernel had no TCX

	layouts   []layout
	migration *migration // nil: none is under way
	lost      []string   // by the last one

	specs   map[string]*ebpf.MapSpec
	maps    mapSet
	control control
	clock   *ebpf.Program

	mu          sync.Mutex // guards what follows, and orders changes
	programs    *programs
	foreseen    *programs              // that may be asked for next; nil: none are
	soon        []Hook                 // Options.Hooks, while Open is under way
	attachments map[string]*attachment // by interface name
	slots       [abi.GenerationSlots]Tables
	lengths     [abi.TableCount]uint32 // of the arrays of each kind of table, in lines
	losses      map[string]link.Link   // programs that count them, by name
	captureMu   sync.Mutex             // for who only wants to use capture
	capture     *capturing             // guarded by both; nil: none is on
	check       *hook                  // that takes health checks to backends; nil: none does

	blocks  blockTable
	states  stateTable
	nats    natTable
	flows   flowTables
	ledger  ledger
	dropped droppedTable
	run     testRun

	testClock uint64     // ns, guarded by run; 0: the real time
	origin    *Dataplane // of a sibling: whose flows it may recall; nil: none
}

// Open takes over what is pinned under opts.Dir, or creates it; CompleteFlows is to follow. What was attached stays attached, and runs newly
// loaded programs from then on, made for opts.Features and for whatever the generation in force needs besides.
//
// Errors: *LockedError when another process has the directory open, *VersionError when what is pinned doesn't fit
// (nothing was changed), *KernelError when the machine lacks something.
func Open(opts Options) (_ *Dataplane, err error) {
	d, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	begun := false
	defer func() {
		if err == nil {
			return
		}
		d.Close()
		if begun {
			err = errors.Join(err, RemovePlane(d.dir, d.netlink))
		}
	}()
	d.dir = opts.Dir
	if d.dir == "" {
		d.dir = DefaultDir
	}
	mounted, err := makeDir(d.dir, subdirectories...)
	if err != nil {
		return nil, err
	}
	if mounted {
		d.log.Warn("mounted a bpffs, because there was none: what is pinned there lasts as long as this mount", "at", bpffsRoot)
	}
	if d.lock, err = lockDir(d.dir); err != nil {
		return nil, err
	}
	pinned, err := openMaps(d.dir, d.specs)
	if err != nil {
		return nil, err
	}
	features := opts.Features
	d.dropped.max = opts.DroppedMax
	d.nats.max = opts.NATMax
	d.soon = opts.Hooks
	defer func() { d.soon = nil }()
	if begun = pinned == nil; begun {
		err = d.begin(opts)
	} else {
		if err := d.takeOver(pinned, opts); err != nil {
			return nil, err
		}
		features = d.inUse(features)
		if err := d.setLengths(d.lengthsFor(opts.Room), features, Tables{}); err != nil {
			return nil, err
		}
		d.programs, err = d.loadPrograms(features, Tables{})
	}
	if err != nil {
		return nil, err
	}
	if err := d.SetRejectLimit(rejectLimit()); err != nil {
		return nil, err
	}
	if err := d.takeOverLinks(); err != nil {
		return nil, err
	}
	if err := d.takeOverCheck(); err != nil {
		return nil, err
	}
	d.control.Features = features.Bits()
	return d, nil
}

// privateEvents is how large the ring of events of a private instance is, in bytes.
const privateEvents = 1 << 16

// OpenPrivate makes an instance of its own, pinned and attached nowhere: Run puts packets through it. It works
// beside a daemon and without one. Its map of blocks is small, but for RoomForBlocks.
func OpenPrivate(features compile.Features, flowsMax int, options ...PrivateOption) (_ *Dataplane, err error) {
	d, err := prepare(Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	d.specs[abi.AbiMapBlocks].MaxEntries = privateBlocks
	d.specs[abi.AbiMapEvents].MaxEntries = privateEvents
	d.dropped.max = privateDropped
	d.nats.max = flowsMax
	for _, option := range options {
		option(d)
	}
	if err := d.create(flowsMax, lruSize(flowsMax), nil, func() error { return nil }); err != nil {
		return nil, err
	}
	d.control.NatKey = 0 // which ports are chosen can be foretold
	if d.programs, err = d.loadPrograms(features, Tables{}); err != nil {
		return nil, err
	}
	return d, nil
}

// PrivateOption changes what OpenPrivate makes.
type PrivateOption func(*Dataplane)

// RoomForBlocks makes the map of blocks as large as that.
func RoomForBlocks(n int) PrivateOption {
	return func(d *Dataplane) { d.specs[abi.AbiMapBlocks].MaxEntries = uint32(n) }
}

// prepare makes a Dataplane without maps.
func prepare(opts Options) (*Dataplane, error) {
	if err := checkBTF(kernelBTF); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, permission("raise RLIMIT_MEMLOCK", err)
	}
	d := &Dataplane{netlink: opts.Netlink, log: opts.Log, layouts: opts.layouts, attachments: map[string]*attachment{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.layouts == nil {
		d.layouts = pinnedLayouts()
	}
	for which := range d.lengths {
		d.lengths[which] = minLength
	}
	var err error
	if d.specs, err = mapSpecs(); err != nil {
		return nil, err
	}
	if d.clock, err = loadClockProgram(); err != nil {
		return nil, err
	}
	return d, nil
}

// begin makes everything anew. Programs are verified while the rest is made: each takes a CPU for about as long.
func (d *Dataplane) begin(opts Options) error {
	err := d.create(opts.FlowsMax, min(flowStart, lruSize(opts.FlowsMax)), nil, func() (err error) {
		d.lengths = d.lengthsFor(opts.Room)
		d.foreseen, err = d.startLoading(opts.Features, d.lengths)
		return err
	})
	if err != nil {
		return err
	}
	d.programs, err = d.loadPrograms(opts.Features, Tables{})
	return err
}

// create makes all maps but the shared ones, the LRU map of flows of that size, and pins them if there is a directory. made is called when
// those are there that programs are loaded with.
func (d *Dataplane) create(flowsMax int, lru uint32, shared mapSet, made func() error) (err error) {
	var table *FlowTable
	flows := make(chan error, 1)
	go func() {
		var err error
		table, err = d.newFlows(flowsMax, lru)
		flows <- err
	}()
	if d.maps, err = createMaps(d.specs, shared); err == nil {
		d.control, err = mapControl(d.maps[abi.AbiMapControl])
	}
	if err == nil {
		err = d.control.initialise()
	}
	if err == nil {
		err = made()
	}
	if err = errors.Join(err, <-flows); err != nil {
		if table != nil {
			err = errors.Join(err, table.close())
		}
		return err
	}
	if err := d.useFlows(0, table); err != nil {
		return err
	}
	if err := d.openBlocks(); err != nil {
		return err
	}
	if d.dir == "" {
		return nil
	}
	if err := d.pinLayouts(); err != nil {
		return err
	}
	return pinMaps(d.dir, d.maps)
}

// takeOver finds out what the pinned maps hold.
func (d *Dataplane) takeOver(pinned mapSet, opts Options) error {
	m, err := judge(d.dir, pinned, d.specs, d.layouts, opts.Fresh)
	if err != nil {
		pinned.close()
		return err
	}
	if m != nil {
		return d.migrate(m, pinned, opts.FlowsMax)
	}
	d.maps = pinned
	return d.takeOverAll()
}

func (d *Dataplane) takeOverAll() (err error) {
	if d.control, err = mapControl(d.maps[abi.AbiMapControl]); err != nil {
		return err
	}
	if err := d.openTables(); err != nil {
		return err
	}
	if err := d.openFlows(); err != nil {
		return err
	}
	if err := d.openLedger(); err != nil {
		return err
	}
	if err := d.openStates(); err != nil {
		return err
	}
	if err := d.openNats(); err != nil {
		return err
	}
	if err := d.openDropped(); err != nil {
		return err
	}
	if err := d.openBlocks(); err != nil {
		return err
	}
	if err := d.countBlocks(); err != nil {
		return err
	}
	return d.forgetHealthFlows()
}

// Close frees what this process holds. Everything pinned stays, and stays attached; what is private is gone.
func (d *Dataplane) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, a := range d.attachments {
		errs = append(errs, a.close())
	}
	d.attachments = nil
	if d.check != nil {
		errs = append(errs, d.check.close())
	}
	if d.capture != nil {
		d.capture.maps.close()
	}
	errs = append(errs, d.forget())
	if d.programs != nil {
		errs = append(errs, d.programs.close())
	}
	errs = append(errs, d.closeTables(), d.closeFlows(), d.ledger.close(), d.closeStates(), d.closeNats(), d.closeDropped(), d.closeLosses(), d.blocks.cells.unmap(), d.run.close())
	if d.control.memory != nil {
		errs = append(errs, d.control.unmap())
	}
	d.maps.close()
	if d.migration != nil {
		d.migration.old.close()
	}
	if d.clock != nil {
		errs = append(errs, d.clock.Close())
	}
	if d.lock != nil {
		d.lock.release()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the data plane: %w", err)
	}
	return nil
}

// path is a pin's place, for a Dataplane that has a directory.
func (d *Dataplane) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}
