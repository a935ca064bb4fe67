package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"

	"gardu/ctl/compile"
)

// programs are one load of all programs that run on interfaces, made for the same features.
type programs struct {
	features compile.Features
	outers   mapSet // of the tables: they belong to this load
	xdp      *ebpf.Program
	ingress  *ebpf.Program
	egress   *ebpf.Program
	check    *ebpf.Program
}

// at is where the program of a hook belongs, and what loads it.
func (p *programs) at(hook Hook) (program **ebpf.Program, name string, object func() (*ebpf.CollectionSpec, error)) {
	switch hook {
	case HookXDP:
		return &p.xdp, "gardu_xdp", loadXdp
	case HookIngress:
		return &p.ingress, "gardu_ingress", loadTc
	default:
		return &p.egress, "gardu_egress", loadTc
	}
}

// loadPrograms loads the programs with the constants that features ask for, on the maps and tables of d.
func (d *Dataplane) loadPrograms(features compile.Features) (*programs, error) {
	p, err := d.preparePrograms(features)
	if err != nil {
		return nil, err
	}
	if err := d.loadAll(p); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// preparePrograms makes what the programs need, and none of them yet.
func (d *Dataplane) preparePrograms(features compile.Features) (_ *programs, err error) {
	p := &programs{features: features}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if features.State {
		if err := d.useStates(d.FlowsMax()); err != nil {
			return nil, err
		}
	}
	if features.Nat {
		if err := d.useNats(); err != nil {
			return nil, err
		}
	}
	if features.Dropped {
		if err := d.useDropped(); err != nil {
			return nil, err
		}
	}
	p.outers, err = d.newOuters()
	return p, err
}

// mapsFor are the maps that programs share with others.
func (d *Dataplane) mapsFor(p *programs) mapSet {
	shared := maps.Clone(d.maps)
	maps.Copy(shared, p.outers)
	if p.features.Capture && d.capture != nil {
		maps.Copy(shared, d.capture.maps)
	}
	return shared
}

func (d *Dataplane) loadAll(p *programs) error {
	shared := d.mapsFor(p)
	// Side by side: what takes long is the kernel's verifier, which has no lock.
	var errs [2]error
	var running sync.WaitGroup
	for i, object := range []struct {
		spec func() (*ebpf.CollectionSpec, error)
		out  map[string]**ebpf.Program
	}{
		{loadXdp, map[string]**ebpf.Program{"gardu_xdp": &p.xdp}},
		{loadTc, map[string]**ebpf.Program{"gardu_ingress": &p.ingress, "gardu_egress": &p.egress, "gardu_check": &p.check}},
	} {
		running.Go(func() {
			spec, err := object.spec()
			if err == nil {
				err = d.load(spec, shared, p.features, object.out)
			}
			errs[i] = err
		})
	}
	running.Wait()
	return cmp.Or(errs[0], errs[1]) // mostly both fail for the same reason
}

// Load loads the program of a hook of a sibling, where each waits until it is needed: verifying one takes a second.
func (d *Dataplane) Load(hook Hook) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loadLate(hook)
}

// loadLate is Load with mu held.
func (d *Dataplane) loadLate(hook Hook) error {
	program, name, object := d.programs.at(hook)
	if *program != nil {
		return nil
	}
	spec, err := object()
	if err != nil {
		return err
	}
	maps.DeleteFunc(spec.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
	return d.load(spec, d.mapsFor(d.programs), d.programs.features, map[string]**ebpf.Program{name: program})
}

func (p *programs) close() error {
	var errs []error
	for _, one := range []*ebpf.Program{p.xdp, p.ingress, p.egress, p.check} {
		if one != nil {
			errs = append(errs, one.Close())
		}
	}
	p.outers.close()
	return errors.Join(errs...)
}

// load loads one object and hands out its programs.
func (d *Dataplane) load(spec *ebpf.CollectionSpec, shared mapSet, features compile.Features, out map[string]**ebpf.Program) error {
	collection, err := d.collect(spec, shared, features, ebpf.ProgramOptions{})
	if err != nil {
		return permission("load the programs", err)
	}
	defer collection.Close()
	for name, to := range out {
		if *to = collection.DetachProgram(name); *to == nil {
			return fmt.Errorf("load the programs: no %s in the object", name)
		}
	}
	return nil
}

func (d *Dataplane) collect(spec *ebpf.CollectionSpec, shared mapSet, features compile.Features, options ebpf.ProgramOptions) (*ebpf.Collection, error) {
	if err := setConstants(spec, features); err != nil {
		return nil, err
	}
	d.captureSizes(spec.Maps, features)
	replacements := map[string]*ebpf.Map{}
	for name, mapSpec := range spec.Maps {
		if m, ok := shared[name]; ok {
			mapSpec.MaxEntries = m.MaxEntries() // a private instance has a smaller map of blocks
			replacements[name] = m
		}
	}
	for which, name := range tableMaps {
		if mapSpec, ok := spec.Maps[name]; ok {
			mapSpec.InnerMap.MaxEntries = d.lengths[which]
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements, Programs: options})
}

// VerifierLog has the kernel verify the program of that name, made for features, and returns what it says: a summary, or with full
// every instruction that it goes through, which can be many megabytes. Nothing of what runs is touched.
func VerifierLog(features compile.Features, name string, full bool) (string, error) {
	d, err := OpenPrivate(features, 1)
	if err != nil {
		return "", err
	}
	defer d.Close()
	level := ebpf.LogLevelStats
	if full {
		level |= ebpf.LogLevelInstruction
	}
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadXdp, loadTc} {
		spec, err := load()
		if err != nil {
			return "", err
		}
		if spec.Programs[name] == nil {
			continue
		}
		maps.DeleteFunc(spec.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
		shared := maps.Clone(d.maps)
		maps.Copy(shared, d.programs.outers)
		collection, err := d.collect(spec, shared, features, ebpf.ProgramOptions{LogLevel: level, LogSizeStart: 1 << 20})
		if err != nil {
			return "", permission("load "+name, err)
		}
		defer collection.Close()
		return collection.Programs[name].VerifierLog, nil
	}
	return "", fmt.Errorf("there is no program %s", name)
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
	return d.programs.features
}

// SetFeatures loads programs made for features and swaps them in on every hook, each in one step. Before a generation
// that needs more is committed, set the union of both; afterwards, what the new one needs. A capture that is on goes on. On error all
// hooks run what they ran before.
func (d *Dataplane) SetFeatures(features compile.Features) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	features.Capture = d.capture != nil
	if features == d.programs.features {
		return nil
	}
	return d.swapPrograms(features)
}

// swapPrograms loads programs made for features and for the tables as they are, and swaps them in on every hook. On error all
// hooks run what they ran before.
func (d *Dataplane) swapPrograms(features compile.Features) error {
	next, err := d.loadPrograms(features)
	if err != nil {
		return err
	}
	var done []*hook
	for _, h := range d.hooks() {
		if err := h.update(h.kind.program(next)); err != nil {
			for _, h := range done {
				err = errors.Join(err, h.update(h.kind.program(d.programs)))
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
	info, err := d.programs.ingress.Info()
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
