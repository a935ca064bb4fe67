package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// State is what is known of a backend while running, outside the snapshot.
type State struct {
	Down  bool // by its health check
	Slow  int  // tenths of its weight that it has for now, while it starts slowly; 0: all
	Order Order
	Hop   Hop
}

// Order is what somebody wants of a backend for now.
type Order struct {
	Drained bool // new flows go elsewhere
	Out     bool // and those that are on it too
	Weight  *int // in place of the snapshot's
}

func (o Order) equal(other Order) bool {
	same := o.Weight == other.Weight || o.Weight != nil && other.Weight != nil && *o.Weight == *other.Weight
	return same && o.Drained == other.Drained && o.Out == other.Out
}

// runtime is what the state means for a ring.
func (s State) runtime() compile.Runtime {
	return compile.Runtime{Down: s.Down, Drained: s.Order.Drained || s.Order.Out, Weight: s.Order.Weight, Slow: s.Slow}
}

// Hop is the way to a backend. The zero value is "not known": the data plane asks the kernel's routes for each packet.
type Hop struct {
	Ifindex uint32
	VLAN    uint16 // id of the tag that frames have there; 0: none
	DstMAC  [6]byte
	SrcMAC  [6]byte
	MTU     uint16     // bytes of IP; 0: not checked
	Source  netip.Addr // that a tunnel sends from; zero: not known
}

func (h Hop) known() bool { return h.Ifindex != 0 && h.DstMAC != [6]byte{} }

// Entry is a backend as the data plane would hold it.
func Entry(backend compile.Backend, state State) abi.Backend { return entry(backend, state) }

// entry is a backend as the data plane holds it.
func entry(backend compile.Backend, state State) abi.Backend {
	e := abi.Backend{
		State:   uint8(abi.BackendUsed),
		Mode:    uint8(backend.Mode),
		Service: backend.Service,
		BePort:  abi.Htons(backend.Port),
	}
	address, family := abi.PutAddr(backend.Address)
	e.Address, e.Family = address, uint8(family)
	if !state.Down && !state.Order.Out {
		e.State |= uint8(abi.BackendUp)
	}
	switch backend.OnDown {
	case model.DownDrop:
		e.State |= uint8(abi.BackendDownDrop)
	case model.DownReset:
		e.State |= uint8(abi.BackendDownReset)
	}
	if state.Hop.Source.IsValid() {
		e.Source, _ = abi.PutAddr(state.Hop.Source)
	}
	if state.Hop.known() {
		e.State |= uint8(abi.BackendHop)
		e.Ifindex, e.Vlan, e.Mtu = state.Hop.Ifindex, state.Hop.VLAN, state.Hop.MTU
		e.Dmac, e.Smac = state.Hop.DstMAC, state.Hop.SrcMAC
	}
	return e
}

// stateOf reads an entry back.
func stateOf(e abi.Backend) State {
	state := State{Down: abi.BackendState(e.State)&abi.BackendUp == 0}
	if e.Source != [16]byte{} {
		state.Hop.Source = abi.Addr(e.Source, abi.Family(e.Family))
	}
	if abi.BackendState(e.State)&abi.BackendHop != 0 {
		state.Hop.Ifindex, state.Hop.VLAN, state.Hop.MTU = e.Ifindex, e.Vlan, e.Mtu
		state.Hop.DstMAC, state.Hop.SrcMAC = e.Dmac, e.Smac
	}
	return state
}

// ringPutter is asked for many rings at once.
type ringPutter interface {
	PutRing(id uint32, backends []uint16) error
}

// putRing fills a ring with the members that take new flows now.
func putRing(kernel ringPutter, ring compile.Ring, states map[uint16]State) error {
	return kernel.PutRing(ring.ID, ring.Build(runtimes(ring, states)))
}

func runtimes(ring compile.Ring, states map[uint16]State) map[uint16]compile.Runtime {
	now := make(map[uint16]compile.Runtime, len(ring.Members))
	for _, m := range ring.Members {
		now[m.ID] = states[m.ID].runtime()
	}
	return now
}

// Runtimes returns what is known of the members of rings, also of rings that aren't in the data plane.
func (r *Reconciler[T, Tables]) Runtimes(rings ...compile.Ring) map[uint16]compile.Runtime {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[uint16]compile.Runtime{}
	for _, ring := range rings {
		maps.Copy(all, runtimes(ring, r.states))
	}
	return all
}

// State returns what is known of a backend.
func (r *Reconciler[T, Tables]) State(id uint16) (State, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	state, ok := r.states[id]
	return state, ok
}

// SetUp takes a backend out of its rings or back in, in every generation that is kept. A backend that is gone is no
// error. On an error the data plane may have the backend's state but not yet its ring; calling again completes it.
func (r *Reconciler[T, Tables]) SetUp(id uint16, up bool) error {
	return r.Change(map[uint16]func(*State){id: func(state *State) { state.Down = !up }})
}

// SetOrder does what somebody wants of a backend, in the manner of SetUp.
func (r *Reconciler[T, Tables]) SetOrder(id uint16, order Order) error {
	return r.Change(map[uint16]func(*State){id: func(state *State) { state.Order = order }})
}

// Change changes the states of backends, and the rings that they are in, in the manner of SetUp. The entries come first, at once:
// flows on a dead backend find another one, from the ring without it a moment later. When many change together a ring is built
// once for several of them.
func (r *Reconciler[T, Tables]) Change(changes map[uint16]func(*State)) error {
	if err := r.changeEntries(changes); err != nil {
		return err
	}
	return r.freshen()
}

func (r *Reconciler[T, Tables]) changeEntries(changes map[uint16]func(*State)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for id, change := range changes {
		backend, ok := r.have.Backends[id]
		if !ok {
			continue
		}
		state := r.states[id]
		change(&state)
		errs = append(errs, r.put(backend, state))
	}
	for _, ring := range r.have.Rings {
		if slices.ContainsFunc(ring.Members, func(m lb.Member) bool { return changes[m.ID] != nil }) {
			r.stale[ring.ID] = true
		}
	}
	return errors.Join(errs...)
}

// freshen builds the stale rings. Building takes milliseconds, during which states may change again.
func (r *Reconciler[T, Tables]) freshen() error {
	r.building.Lock()
	defer r.building.Unlock()
	var put []func() error
	for _, id := range r.staleRings() {
		put = append(put, func() error { return r.freshenRing(id) })
	}
	return sideBySide(put)
}

func (r *Reconciler[T, Tables]) freshenRing(id uint32) error {
	r.mu.Lock()
	ring, ok := r.have.Rings[id]
	delete(r.stale, id)
	now := runtimes(ring, r.states)
	r.mu.Unlock()
	if !ok {
		return nil
	}
	if err := r.kernel.PutRing(id, ring.Build(now)); err != nil {
		r.mu.Lock()
		r.stale[id] = true
		r.mu.Unlock()
		return fmt.Errorf("put ring %d of %s: %w", id, ring.Service, err)
	}
	return nil
}

// ringsAtOnce bounds what is built and put side by side.
const ringsAtOnce = 16

// sideBySide does all, many at once: a ring that is put into the kernel's map waits for the programs that run, and all may wait together.
func sideBySide(all []func() error) error {
	if len(all) == 1 {
		return all[0]()
	}
	errs := make([]error, len(all))
	free := make(chan struct{}, ringsAtOnce)
	var running sync.WaitGroup
	for i, one := range all {
		free <- struct{}{}
		running.Go(func() {
			errs[i] = one()
			<-free
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

func (r *Reconciler[T, Tables]) staleRings() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.stale))
}

// SetHop tells the way to a backend. A backend that is gone is no error.
func (r *Reconciler[T, Tables]) SetHop(id uint16, hop Hop) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	backend, ok := r.have.Backends[id]
	state := r.states[id]
	if !ok || state.Hop == hop {
		return nil
	}
	state.Hop = hop
	return r.put(backend, state)
}

func (r *Reconciler[T, Tables]) put(backend compile.Backend, state State) error {
	if err := r.kernel.PutBackend(backend.ID, entry(backend, state)); err != nil {
		return fmt.Errorf("put backend %s/%s: %w", backend.ServiceName, backend.Name, err)
	}
	r.states[backend.ID] = state
	return nil
}
