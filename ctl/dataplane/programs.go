package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/fold"
)

// programs are all that run on interfaces, made for the same features and lengths of tables.
type programs struct {
	features compile.Features
	lengths  [abi.TableCount]uint32
	outers   mapSet     // of the tables: they belong to this load
	shared   mapSet     // all maps that aren't made by the load
	next     Tables     // that outers hold where the next generation will be; nil until its commit where it isn't known
	begun    chan error // tells how the load that startLoading began went, once

	mu     sync.Mutex
	loaded [hookCount]*ebpf.Program // nil: not asked for yet
}

// objects are the compiled files, with the programs that each holds.
var objects = []struct {
	spec     func() (*ebpf.CollectionSpec, error)
	programs map[Hook]string
}{
	{loadXdp, map[Hook]string{HookXDP: "gardu_xdp"}},
	{loadTc, map[Hook]string{HookIngress: "gardu_ingress", HookEgress: "gardu_egress", HookCheck: "gardu_check"}},
}

// loadPrograms prepares programs with the constants that features ask for, on the maps and tables of d. The verifier takes long, and few
// machines run all of them: those that sit on an interface are loaded here, each other when it is first asked for; see program.
func (d *Dataplane) loadPrograms(features compile.Features, next Tables) (*programs, error) {
	p := d.foreseen
	if p != nil && p.features == features && p.lengths == d.lengths {
		d.foreseen = nil
	} else {
		err := d.forget()
		if err == nil {
			p, err = d.startLoading(features, d.lengths)
		}
		if err != nil {
			return nil, err
		}
	}
	return d.finishLoading(p, next)
}

// startLoading begins what loadPrograms does. finishLoading, or close, is to follow.
func (d *Dataplane) startLoading(features compile.Features, lengths [abi.TableCount]uint32) (*programs, error) {
	p := &programs{features: features, lengths: lengths, shared: maps.Clone(d.maps), begun: make(chan error, 1)}
	var err error
	if p.outers, err = d.newOuters(lengths); err != nil {
		return nil, err
	}
	maps.Copy(p.shared, p.outers)
	if features.Capture && d.capture != nil {
		maps.Copy(p.shared, d.capture.maps)
	}
	used := d.used()
	go func() { p.begun <- d.loadThose(p, used) }()
	return p, nil
}

// finishLoading gives programs that are loaded, or still being loaded, the tables of all slots, and next where the next generation will be.
func (d *Dataplane) finishLoading(p *programs, next Tables) (*programs, error) {
	p.next = next
	begun := func() error { return <-p.begun }
	room := func() error { return d.makeRoom(p.features) }
	err := sideBySide(append(d.fillOuters(p.outers, next), begun, room)...)
	if err == nil {
		err = d.loadThose(p, d.used()) // who came meanwhile
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// Foresee begins to load the programs that a Prepare or a Commit needs which is about to follow, for these features and for tables of so
// many lines (0: it stays): the verifier takes long, and whoever is about to ask for programs may have other things to do first. Whatever
// is wrong shows there. Forget is to follow, whether they were asked for or not.
func (d *Dataplane) Foresee(features compile.Features, lines [abi.TableCount]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	features.Capture = d.capture != nil
	lengths := d.lengthsFor(lines)
	if d.foreseen == nil && (features != d.programs.features || lengths != d.lengths) {
		d.foreseen, _ = d.startLoading(features, lengths)
	}
}

// Forget gives up what Foresee began and nobody asked for.
func (d *Dataplane) Forget() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forget()
}

func (d *Dataplane) forget() error {
	p := d.foreseen
	if p == nil {
		return nil
	}
	d.foreseen = nil
	<-p.begun // what failed would have been told to who asked for it
	return p.close()
}

// makeRoom makes the tables that only programs with these features use.
func (d *Dataplane) makeRoom(features compile.Features) error {
	if features.State {
		if err := d.useStates(d.FlowsMax()); err != nil {
			return err
		}
	}
	if features.Nat {
		if err := d.useNats(); err != nil {
			return err
		}
	}
	if features.Dropped {
		return d.useDropped()
	}
	return nil
}

// used are the hooks where programs sit, or soon will.
func (d *Dataplane) used() (used [hookCount]bool) {
	for _, h := range d.hooks() {
		used[h.kind.hook()] = true
	}
	for _, hook := range d.soon {
		used[hook] = true
	}
	return used
}

// loadRest loads the programs that aren't yet.
func (d *Dataplane) loadRest(p *programs) error {
	var all [hookCount]bool
	for hook := range all {
		all[hook] = true
	}
	return d.loadThose(p, all)
}

// loadThose loads the programs of some hooks, if they aren't yet.
func (d *Dataplane) loadThose(p *programs, wanted [hookCount]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Side by side: what takes long is the kernel's verifier, which has no lock.
	var errs [hookCount]error
	var running sync.WaitGroup
	for _, object := range objects {
		spec := sync.OnceValues(object.spec)
		for hook, name := range object.programs {
			if wanted[hook] && p.loaded[hook] == nil {
				running.Go(func() {
					p.loaded[hook], errs[hook] = d.load(p, spec, name)
				})
			}
		}
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err // mostly all fail for the same reason
		}
	}
	return nil
}

// LoadAll loads those programs of a private instance that nobody has run yet, to see whether the kernel takes them.
func (d *Dataplane) LoadAll() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loadRest(d.programs)
}

// programAt is the program in force that belongs to a place on an interface.
func (d *Dataplane) programAt(k kind) (*ebpf.Program, error) { return d.program(d.programs, k.hook()) }

// renew swaps the program in force in on a hook.
func (d *Dataplane) renew(h *hook) error {
	program, err := d.programAt(h.kind)
	if err != nil {
		return err
	}
	return h.update(program)
}

// program is what runs at a hook.
func (d *Dataplane) program(p *programs, hook Hook) (*ebpf.Program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loaded[hook] != nil {
		return p.loaded[hook], nil
	}
	for _, object := range objects {
		if name, ok := object.programs[hook]; ok {
			var err error
			p.loaded[hook], err = d.load(p, object.spec, name)
			return p.loaded[hook], err
		}
	}
	return nil, fmt.Errorf("no program runs at hook %d", hook)
}

func (p *programs) close() error {
	var errs []error
	for _, one := range p.loaded {
		if one != nil {
			errs = append(errs, one.Close())
		}
	}
	p.outers.close()
	return errors.Join(errs...)
}

// load loads a program of an object.
func (d *Dataplane) load(p *programs, from func() (*ebpf.CollectionSpec, error), name string) (*ebpf.Program, error) {
	object, err := from()
	if err != nil {
		return nil, err
	}
	program, ok := object.Programs[name]
	if !ok {
		return nil, fmt.Errorf("load %s: it isn't in the object", name)
	}
	alone := *object // others may be loaded from it
	alone.Programs = map[string]*ebpf.ProgramSpec{name: program}
	collection, err := d.collect(alone.Copy(), p, ebpf.ProgramOptions{})
	if err != nil {
		return nil, permission("load "+name, err)
	}
	defer collection.Close()
	return collection.DetachProgram(name), nil
}

// collect loads an object on the maps of d, made as p is.
func (d *Dataplane) collect(spec *ebpf.CollectionSpec, p *programs, options ebpf.ProgramOptions) (*ebpf.Collection, error) {
	if err := setConstants(spec, p.features); err != nil {
		return nil, err
	}
	d.captureSizes(spec.Maps, p.features)
	replacements := map[string]*ebpf.Map{}
	for name, mapSpec := range spec.Maps {
		if m, ok := p.shared[name]; ok {
			mapSpec.MaxEntries = m.MaxEntries() // a private instance has a smaller map of blocks
			replacements[name] = m
		}
	}
	for which, name := range tableMaps {
		if mapSpec, ok := spec.Maps[name]; ok {
			mapSpec.InnerMap.MaxEntries = p.lengths[which]
		}
	}
	if err := fold.Constants(spec); err != nil {
		return nil, err
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements, Programs: options})
}

// VerifierLog has the kernel verify the program of that name, made for features, and returns what it says: a summary, or with full
// every instruction that it goes through, which can be many megabytes. Nothing of what runs is touched.
func VerifierLog(features compile.Features, name string, full bool) (string, error) {
	options := ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats, LogSizeStart: 1 << 20}
	if full {
		options.LogLevel |= ebpf.LogLevelInstruction
	}
	var names []string
	for _, object := range append(objectSpecs(), loadLosses, loadDecap, loadClock) {
		spec, err := object()
		if err != nil {
			return "", err
		}
		names = slices.AppendSeq(names, maps.Keys(spec.Programs))
		if spec.Programs[name] == nil {
			continue
		}
		maps.DeleteFunc(spec.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
		collection, err := collectAlone(spec, features, name, options)
		if err != nil {
			return "", permission("load "+name, err)
		}
		defer collection.Close()
		return collection.Programs[name].VerifierLog, nil
	}
	slices.Sort(names)
	return "", fmt.Errorf("there is no program %s: gardu has %s", name, strings.Join(names, ", "))
}

func objectSpecs() (specs []func() (*ebpf.CollectionSpec, error)) {
	for _, object := range objects {
		specs = append(specs, object.spec)
	}
	return specs
}

// collectAlone loads one program on maps that nobody else has.
func collectAlone(spec *ebpf.CollectionSpec, features compile.Features, name string, options ebpf.ProgramOptions) (*ebpf.Collection, error) {
	for _, object := range objects {
		if !slices.Contains(slices.Collect(maps.Values(object.programs)), name) {
			continue
		}
		d, err := OpenPrivate(features, 1)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return d.collect(spec, d.programs, options)
	}
	used := map[string]bool{}
	for _, instruction := range spec.Programs[name].Instructions {
		used[instruction.Reference()] = true
	}
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool { return !used[name] && !strings.HasPrefix(name, ".") })
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: options})
}

// setConstants sets the load-time constants of bpf/config.h.
func setConstants(spec *ebpf.CollectionSpec, f compile.Features) error {
	for name, on := range f.Constants() {
		variable, ok := spec.Variables[name]
		if !ok {
			continue // no program of this object asks for it
		}
		var value uint8
		if on {
			value = 1
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return nil
}

// Features are what the programs are made for.
func (d *Dataplane) Features() compile.Features {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.features()
}

// features are those, or none before the first load.
func (d *Dataplane) features() (f compile.Features) {
	if d.programs != nil {
		f = d.programs.features
	}
	return f
}

// SetFeatures loads programs made for features and swaps them in on every hook, each in one step. Before a generation
// that needs more is committed, set the union of both; afterwards, what the new one needs. A capture that is on goes on. On error all
// hooks run what they ran before.
func (d *Dataplane) SetFeatures(features compile.Features) error {
	return d.Prepare(features, Tables{})
}

// Prepare does what SetFeatures does. With the same swap of programs all tables of a kind get the length of its next one, and the programs
// get the next ones (nil: as it is now), so that Commit need not wait for these.
func (d *Dataplane) Prepare(features compile.Features, next Tables) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	features.Capture = d.capture != nil
	lengths := d.lengthsOf(next)
	if features == d.programs.features && lengths == d.lengths {
		return nil
	}
	return d.setLengths(lengths, features, next)
}

// swapPrograms loads programs made for features and for the tables as they are, and swaps them in on every hook. They find tables where
// the next generation will be. On error all hooks run what they ran before.
func (d *Dataplane) swapPrograms(features compile.Features, tables Tables) error {
	next, err := d.loadPrograms(features, tables)
	if err != nil {
		return err
	}
	var done []*hook
	hooks := d.hooks()
	if d.migration != nil {
		hooks = nil // they run another gardu's programs until finishMigration
	}
	for _, h := range hooks {
		if err := h.update(next.loaded[h.kind.hook()]); err != nil {
			for _, h := range done {
				err = errors.Join(err, d.renew(h))
			}
			return errors.Join(err, next.close())
		}
		done = append(done, h)
	}
	for _, a := range d.attachments {
		a.describe() // an interface may turn out to be gone
	}
	old := d.programs
	d.programs = next
	d.control.Features = features.Bits()
	err = old.close()
	if !features.State {
		err = errors.Join(err, d.dropStates())
	}
	if !features.Nat {
		err = errors.Join(err, d.dropNats())
	}
	return err
}

// hooks are all places where programs sit.
func (d *Dataplane) hooks() (all []*hook) {
	for _, a := range d.attachments {
		all = append(all, a.hooks...)
	}
	if d.check != nil {
		all = append(all, d.check)
	}
	return all
}

// inUse adds to features what the programs in force were made for, so that taking over never switches a step off. A capture has
// ended with the daemon that it was of.
func (d *Dataplane) inUse(features compile.Features) compile.Features {
	features = features.Or(compile.FeaturesOf(d.control.Features))
	features.Blocks = features.Blocks || d.blocks.any()
	features.Capture = false
	return features
}

// Interpreted says whether the kernel interprets the programs because it has no JIT compiler in use.
func (d *Dataplane) Interpreted() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := d.clock.Info() // a program like any other
	if err != nil {
		return false, fmt.Errorf("ask for the size of a program: %w", err)
	}
	size, err := info.JitedSize()
	if err != nil {
		return false, fmt.Errorf("ask for the size of a program: %w", err)
	}
	return size == 0, nil
}

// ProgramName is what a program calls itself, whoever loaded it; "program 42" when that can't be found out.
func ProgramName(id uint32) string {
	program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprintf("program %d", id)
	}
	return info.Name
}
