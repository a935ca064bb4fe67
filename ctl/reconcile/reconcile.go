package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// Table is a table of lines in the kernel. A commit hands it over to the data plane; before that, Close frees it.
type Table interface {
	Close() error
}

// Kernel is what a Reconciler changes: a *dataplane.Dataplane, where T is *dataplane.Table and Tables dataplane.Tables.
type Kernel[T Table, Tables ~[abi.TableCount]T] interface {
	SetFeatures(compile.Features) error
	Prepare(compile.Features, Tables) error // the same, for the tables of the next generation too
	Foresee(features compile.Features, lines [abi.TableCount]int)
	Forget() error
	ResizeFlows(max int) error
	ResetRuleCounters(ids []uint32) error
	ResetBackendCounters(ids []uint32) error
	ResetExitCounters(ids []uint32) error
	ResetInterfaceCounters(numbers []uint32) error
	NewTable(abi.Table, []abi.Line) (T, error)
	Commit(generation uint32, tables Tables) error
	PutRing(id uint32, backends []uint16) error
	DeleteRing(id uint32) error
	PutBackend(id uint16, backend abi.Backend) error
	Backend(id uint16) (abi.Backend, error)
}

// Reconciler knows what the data plane holds and is the only one to change it. It is safe for concurrent use.
type Reconciler[T Table, Tables ~[abi.TableCount]T] struct {
	kernel Kernel[T, Tables]

	applying   sync.Mutex // taken before the others, by Apply alone
	building   sync.Mutex // of rings; taken before mu
	mu         sync.Mutex
	generation uint32
	have       Have
	tables     Tables
	states     map[uint16]State // of the backends in have
	stale      map[uint32]bool  // rings that don't have the states yet
}

// New returns a Reconciler for a data plane at a generation (0: none yet). What a daemon before this one made is
// described without Tables, as far as it is known; the state of its backends is read from the data plane.
func New[T Table, Tables ~[abi.TableCount]T](kernel Kernel[T, Tables], generation uint32, have Have) (*Reconciler[T, Tables], error) {
	r := &Reconciler[T, Tables]{kernel: kernel, generation: generation, have: have, states: map[uint16]State{}, stale: map[uint32]bool{}}
	r.have.Rings, r.have.Backends = map[uint32]compile.Ring{}, map[uint16]compile.Backend{}
	maps.Copy(r.have.Rings, have.Rings)
	for id, backend := range have.Backends {
		entry, err := kernel.Backend(id)
		if err != nil {
			return nil, fmt.Errorf("read backend %s/%s: %w", backend.ServiceName, backend.Name, err)
		}
		if abi.BackendState(entry.State)&abi.BackendUsed != 0 {
			state := stateOf(entry)
			state.Order = have.Orders[id]
			state.Down = state.Down && !state.Order.Out // which a check will tell
			r.have.Backends[id], r.states[id] = backend, state
		}
	}
	return r, nil
}

// Generation is the number of the generation in force; 0: none.
func (r *Reconciler[T, Tables]) Generation() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// Have is what the data plane holds.
func (r *Reconciler[T, Tables]) Have() Have {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.have
	have.Rings, have.Backends = maps.Clone(have.Rings), maps.Clone(have.Backends)
	return have
}

// Tables takes the same tables as those in force, with lines that those lack or without lines that those have. A plan loads what is not there
// to compare with.
func (r *Reconciler[T, Tables]) Tables(same *compile.Tables) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.have.Tables = same
}

// UntidyError is what went wrong after a commit: the generation is in force and right, but something that it doesn't need is
// still there.
type UntidyError struct {
	Err error
}

func (e *UntidyError) Error() string { return fmt.Sprintf("tidy up after the commit: %v", e.Err) }
func (e *UntidyError) Unwrap() error { return e.Err }

// Foresee says what Apply will be asked for next: programs that it needs are loaded while other things are done. forget is to follow, which
// gives up what was loaded for nothing.
func (r *Reconciler[T, Tables]) Foresee(want Want) (forget func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines [abi.TableCount]int
	for _, op := range planTables(r.have, want) {
		lines[op.Table] = len(op.Lines)
	}
	r.kernel.Foresee(r.have.Features.Or(want.Tables.Features), lines)
	return r.kernel.Forget
}

// Apply puts a generation in force, all or nothing. start gives the state of a backend that is new, or has a new
// address; it may call the Reconciler, and wait for who does. After an error, the generation before is in force as it was,
// unless the error is an *UntidyError.
func (r *Reconciler[T, Tables]) Apply(want Want, start func(compile.Backend) State) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	begun := map[uint16]State{}
	for _, backend := range r.begins(want) {
		begun[backend.ID] = start(backend)
	}
	r.building.Lock()
	defer r.building.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	states := maps.Clone(r.states)
	for id, state := range begun {
		if was, ok := states[id]; ok { // it may have changed since start was asked
			state.Order = was.Order
			if was.Hop.known() {
				state.Hop = was.Hop
			}
		}
		states[id] = state
	}
	a := &attempt[T, Tables]{r: r, states: states}
	ops := Plan(r.have, want)
	for i, op := range ops {
		if op.Kind == PutRing {
			a.rings = append(a.rings, op)
			continue
		}
		if err := a.putRings(); err != nil {
			return a.takeBack(err)
		}
		if err := a.do(op); err != nil {
			return a.takeBack(fmt.Errorf("%s: %w", op, err))
		}
		if op.Kind == Commit {
			r.adopt(want, a)
			return r.tidy(ops[i+1:])
		}
	}
	return nil
}

// begins are the backends that want a state to begin with.
func (r *Reconciler[T, Tables]) begins(want Want) (all []compile.Backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, backend := range want.Tables.Backends {
		if now, ok := r.have.Backends[backend.ID]; !ok || now != backend {
			all = append(all, backend)
		}
	}
	return all
}

// adopt makes the committed generation the one in force.
func (r *Reconciler[T, Tables]) adopt(want Want, a *attempt[T, Tables]) {
	r.generation++
	r.tables = a.tables
	r.states = a.states
	r.have.Tables = want.Tables
	r.have.Features = r.have.Features.Or(want.Tables.Features)
	for _, ring := range want.Tables.Rings {
		r.have.Rings[ring.ID] = ring
	}
	for _, backend := range want.Tables.Backends {
		r.have.Backends[backend.ID] = backend
	}
}

// tidy does what may wait until after the commit. It goes on after an error.
func (r *Reconciler[T, Tables]) tidy(ops []Op) error {
	var errs []error
	var rings []func() error
	deleted := make([]bool, len(ops))
	for i, op := range ops {
		switch op.Kind {
		case NarrowFeatures:
			if err := r.kernel.SetFeatures(op.Features); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", op, err))
				continue
			}
			r.have.Features = op.Features
		case DeleteRing:
			rings = append(rings, func() error {
				if err := r.kernel.DeleteRing(op.Ring.ID); err != nil {
					return fmt.Errorf("%s: %w", op, err)
				}
				deleted[i] = true
				return nil
			})
		}
	}
	errs = append(errs, sideBySide(rings))
	for i, op := range ops {
		if deleted[i] {
			delete(r.have.Rings, op.Ring.ID)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &UntidyError{err}
	}
	return nil
}

// attempt is an Apply under way, before its commit.
type attempt[T Table, Tables ~[abi.TableCount]T] struct {
	r      *Reconciler[T, Tables]
	states map[uint16]State
	tables Tables
	rings  []Op           // to be put before whatever comes next
	undo   []func() error // in the order of what was done
}

// putRings puts the rings that follow each other in the plan.
func (a *attempt[T, Tables]) putRings() error {
	var put []func() error
	for _, op := range a.rings {
		a.onFailure(func() error {
			if before, known := a.r.have.Rings[op.Ring.ID]; known {
				return putRing(a.r.kernel, before, a.r.states)
			}
			return a.r.kernel.DeleteRing(op.Ring.ID)
		})
		put = append(put, func() error {
			if err := putRing(a.r.kernel, op.Ring, a.states); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			return nil
		})
	}
	a.rings = nil
	return sideBySide(put)
}

func (a *attempt[T, Tables]) do(op Op) error {
	kernel, have := a.r.kernel, a.r.have
	switch op.Kind {
	case ResetCounters: // of ids that nobody has any more: nothing to take back
		return errors.Join(kernel.ResetRuleCounters(op.Reused.Rules), kernel.ResetBackendCounters(wide(op.Reused.Backends)),
			kernel.ResetExitCounters(wide(op.Reused.Exits)), kernel.ResetInterfaceCounters(wide(op.Reused.Interfaces)))
	case WidenFeatures:
		a.onFailure(func() error { return kernel.SetFeatures(have.Features) })
		return kernel.Prepare(op.Features, a.tables)
	case ResizeFlows: // stays, whatever follows: a way back would lose the flows that are in the old table
		err := kernel.ResizeFlows(op.FlowsMax)
		if err == nil {
			a.r.have.FlowsMax = op.FlowsMax
		}
		return err
	case ShareTable:
		a.tables[op.Table] = a.r.tables[op.Table]
		return nil
	case LoadTable:
		table, err := kernel.NewTable(op.Table, op.Lines)
		if err == nil {
			a.tables[op.Table] = table
			a.onFailure(table.Close)
		}
		return err
	case PutBackend:
		before, err := kernel.Backend(op.Backend.ID)
		if err != nil {
			return err
		}
		a.onFailure(func() error { return kernel.PutBackend(op.Backend.ID, before) })
		return kernel.PutBackend(op.Backend.ID, entry(op.Backend, a.states[op.Backend.ID]))
	case Commit:
		return kernel.Commit(a.r.generation+1, a.tables)
	default:
		return errors.New("can't be done before the commit")
	}
}

// onFailure remembers how to take back what is about to be done. An operation that fails may have been done in part, so it is
// taken back as well.
func (a *attempt[T, Tables]) onFailure(undo func() error) { a.undo = append(a.undo, undo) }

// takeBack undoes everything, the last first, and returns what led to it with what went wrong on the way back.
func (a *attempt[T, Tables]) takeBack(cause error) error {
	errs := []error{cause}
	for _, undo := range slices.Backward(a.undo) {
		if err := undo(); err != nil {
			errs = append(errs, fmt.Errorf("and on the way back: %w", err))
		}
	}
	return errors.Join(errs...)
}

func wide(ids []uint16) []uint32 {
	wide := make([]uint32, len(ids))
	for i, id := range ids {
		wide[i] = uint32(id)
	}
	return wide
}
