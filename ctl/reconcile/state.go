package reconcile

import (
	"errors"
	"fmt"
	"net/netip"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/lb"
)

// State is what is known of a backend while running, outside the snapshot.
type State struct {
	Down bool // by its health check
	Hop  Hop
}

// Hop is the way to a backend. The zero value is "not known": the data plane asks the kernel's routes for each packet.
type Hop struct {
	Ifindex uint32
	DstMAC  [6]byte
	SrcMAC  [6]byte
	MTU     uint16     // bytes of IP; 0: not checked
	Source  netip.Addr // that a tunnel sends from; zero: not known
}

func (h Hop) known() bool { return h.Ifindex != 0 && h.DstMAC != [6]byte{} }

// entry is a backend as the data plane holds it.
func entry(backend compile.Backend, state State) abi.Backend {
	e := abi.Backend{
		State:   uint8(abi.BackendUsed),
		Mode:    uint8(backend.Mode),
		Service: backend.Service,
	}
	address, family := abi.PutAddr(backend.Address)
	e.Address, e.Family = address, uint8(family)
	if !state.Down {
		e.State |= uint8(abi.BackendUp)
	}
	if state.Hop.Source.IsValid() {
		e.Source, _ = abi.PutAddr(state.Hop.Source)
	}
	if state.Hop.known() {
		e.State |= uint8(abi.BackendHop)
		e.Ifindex, e.Mtu = state.Hop.Ifindex, state.Hop.MTU
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
		state.Hop.Ifindex, state.Hop.MTU = e.Ifindex, e.Mtu
		state.Hop.DstMAC, state.Hop.SrcMAC = e.Dmac, e.Smac
	}
	return state
}

type ringPutter interface {
	PutRing(id uint32, backends []uint16) error
}

// putRing fills a ring with the members that take new flows now.
func putRing(kernel ringPutter, ring compile.Ring, states map[uint16]State) error {
	now := make(map[uint16]compile.Runtime, len(ring.Members))
	for _, m := range ring.Members {
		now[m.ID] = compile.Runtime{Down: states[m.ID].Down}
	}
	return kernel.PutRing(ring.ID, lb.Ring(ring.Live(now), lb.RingSize))
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
	r.mu.Lock()
	defer r.mu.Unlock()
	backend, ok := r.have.Backends[id]
	if !ok {
		return nil
	}
	state := r.states[id]
	state.Down = !up
	// The entry first: flows on a dead backend find another one at once, from the ring without it a moment later.
	if err := r.put(backend, state); err != nil {
		return err
	}
	var errs []error
	for _, ring := range r.have.Rings {
		for _, m := range ring.Members {
			if m.ID != id {
				continue
			}
			if err := putRing(r.kernel, ring, r.states); err != nil {
				errs = append(errs, fmt.Errorf("put ring %d of %s: %w", ring.ID, ring.Service, err))
			}
		}
	}
	return errors.Join(errs...)
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
