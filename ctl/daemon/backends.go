package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/lb"
	"gardu/ctl/lb/health"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
	"gardu/ctl/reconcile"
)

const (
	// hopPatience is how long a change waits for the neighbours of new backends to answer.
	hopPatience = 300 * time.Millisecond
	hopPause    = 10 * time.Millisecond
	// hopEvery is how often all ways are looked at, whether or not the kernel told of a change.
	hopEvery = 10 * time.Second
)

// hops are the ways to the backends, by backend id.
type hops struct {
	mu   sync.Mutex
	byID map[uint16]way
}

// way is what was found about the way to one backend.
type way struct {
	hop  netdev.Hop
	mac  [6]byte // the last that was known of this neighbour
	err  error
	told bool // that it isn't known
}

// find looks the way up, and has the kernel resolve it and keep it resolved. A neighbour that is silent for now keeps
// the address that it had.
func (d *Daemon) find(backend compile.Backend) way {
	hop, err := d.netdev.NextHop(backend.Address)
	silent := errors.Is(err, netdev.ErrUnresolved)
	if err == nil || silent {
		if err := d.netdev.Keep(hop); err != nil {
			d.log.Debug("next hop is not kept resolved", "backend", name(backend), "error", err)
		}
	}
	d.hops.mu.Lock()
	defer d.hops.mu.Unlock()
	next := way{hop: hop, err: err, mac: hop.DstMAC}
	before := d.hops.byID[backend.ID]
	next.told = before.told
	if silent && before.hop.Ifindex == hop.Ifindex && before.hop.Neighbour == hop.Neighbour {
		next.mac = before.mac
	}
	if d.hops.byID == nil {
		d.hops.byID = map[uint16]way{}
	}
	d.hops.byID[backend.ID] = next
	return next
}

// known is the way as the data plane takes it.
func (w way) known() reconcile.Hop {
	if w.err != nil && !errors.Is(w.err, netdev.ErrUnresolved) {
		return reconcile.Hop{}
	}
	return reconcile.Hop{
		Ifindex: uint32(cmp.Or(w.hop.Parent, w.hop.Ifindex)),
		VLAN:    w.hop.VLAN,
		DstMAC:  w.mac,
		SrcMAC:  w.hop.SrcMAC,
		MTU:     uint16(min(w.hop.MTU, math.MaxUint16)),
		Source:  w.hop.Source,
	}
}

func name(backend compile.Backend) string { return backend.ServiceName + "/" + backend.Name }

// resolveHops finds the ways to backends that are about to be used, and waits a little for neighbours. The ways to those that are in use
// already are known, and kept fresh: looking at a thousand again would take a fifth of a second.
func (d *Daemon) resolveHops(backends []compile.Backend) {
	inUse := map[uint16]bool{}
	if now := d.current.Load(); now != nil {
		for _, backend := range now.tables.Backends {
			inUse[backend.ID] = true
		}
	}
	var waiting []compile.Backend
	for _, backend := range backends {
		if _, known := d.way(backend.ID); known && inUse[backend.ID] {
			continue
		}
		if w := d.find(backend); errors.Is(w.err, netdev.ErrUnresolved) {
			waiting = append(waiting, backend)
		}
	}
	for deadline := time.Now().Add(hopPatience); len(waiting) > 0 && time.Now().Before(deadline); {
		time.Sleep(hopPause)
		waiting = slices.DeleteFunc(waiting, func(backend compile.Backend) bool {
			return !errors.Is(d.find(backend).err, netdev.ErrUnresolved)
		})
	}
}

// rooms tells the MTU of ways. Those that are known, whether or not a neighbour answers, aren't asked for again: there may be thousands.
func (d *Daemon) rooms() func(netip.Addr) (int, error) {
	known := map[netip.Addr]int{}
	if now := d.current.Load(); now != nil {
		for _, b := range now.tables.Backends {
			if w, _ := d.way(b.ID); w.hop.MTU > 0 {
				known[b.Address] = w.hop.MTU
			}
		}
	}
	return func(to netip.Addr) (int, error) {
		if mtu, ok := known[to]; ok {
			return mtu, nil
		}
		return d.netdev.Room(to)
	}
}

func (d *Daemon) way(id uint16) (way, bool) {
	d.hops.mu.Lock()
	defer d.hops.mu.Unlock()
	w, ok := d.hops.byID[id]
	return w, ok
}

// syncHops looks again at the ways that may have changed.
func (d *Daemon) syncHops(dirty changes) {
	for _, backend := range d.current.Load().tables.Backends {
		before, known := d.way(backend.ID)
		if known && !dirty.concerns(before.hop) {
			continue
		}
		w := d.find(backend)
		if state := w.known(); (w.err == nil) != (before.err == nil) {
			d.log.Info("next hop changed", "backend", name(backend), "interface", state.Ifindex, "resolved", w.err == nil, "error", w.err)
		}
		d.pushHop(backend, w)
	}
}

// pushHop tells the data plane. What fails is tried again with the next look.
func (d *Daemon) pushHop(backend compile.Backend, w way) {
	err := d.reconciler.SetHop(backend.ID, w.known())
	d.fault("next hop of "+name(backend), err)
	d.tellWay(backend, w.err)
}

// tellWay makes events of ways that are found or lost.
func (d *Daemon) tellWay(backend compile.Backend, err error) {
	d.hops.mu.Lock()
	w, known := d.hops.byID[backend.ID]
	news := known && w.told != (err != nil)
	if news {
		w.told = err != nil
		d.hops.byID[backend.ID] = w
	}
	d.hops.mu.Unlock()
	event := api.Event{Kind: api.EventMended, Service: backend.ServiceName, Backend: backend.Name, Text: "the way to it is known"}
	if err != nil {
		event.Kind, event.Text = api.EventFault, "the way to it is not known: "+summary(err)
	}
	if news {
		d.happened(event)
	}
}

// forgetHops tells the data plane the ways that were just found, and lets go of neighbours that no backend needs any more.
func (d *Daemon) forgetHops(backends []compile.Backend) {
	used := map[uint16]bool{}
	neighbours := map[netdev.Event]bool{}
	for _, backend := range backends {
		used[backend.ID] = true
		w, _ := d.way(backend.ID)
		neighbours[netdev.Event{Ifindex: w.hop.Ifindex, Address: w.hop.Neighbour}] = true
		d.pushHop(backend, w)
	}
	d.hops.mu.Lock()
	defer d.hops.mu.Unlock()
	for id, w := range d.hops.byID {
		if used[id] {
			continue
		}
		delete(d.hops.byID, id)
		if !neighbours[netdev.Event{Ifindex: w.hop.Ifindex, Address: w.hop.Neighbour}] {
			d.release(w)
		}
	}
}

func (d *Daemon) release(w way) {
	if !w.hop.Neighbour.IsValid() {
		return
	}
	if err := d.netdev.Release(w.hop); err != nil {
		d.log.Debug("neighbour not released", "neighbour", w.hop.Neighbour, "error", err)
	}
}

// startState is the state of a backend that is new to the data plane: up until a check says otherwise.
func (d *Daemon) startState(backend compile.Backend) reconcile.State {
	w, _ := d.way(backend.ID)
	state := reconcile.State{Hop: w.known(), Order: orderOf(d.orders.get(backend.ID))}
	if now := d.current.Load(); now != nil {
		if service, ok := now.snapshot.Service(backend.ServiceName); ok { // others are at work
			state.Slow = d.beginSlow(backend.ID, service.SlowStart)
		}
	}
	return state
}

// knownHealth is what the daemon before this one knew of a backend.
func (d *Daemon) knownHealth(service, backend string) health.State {
	b := d.current.Load().backends[backendName{service, backend}]
	if !d.inherited[b.ID] {
		return health.Unknown
	}
	if state, ok := d.reconciler.State(b.ID); ok && state.Down {
		return health.Down
	}
	return health.Up
}

// healthChanged is told of each transition.
func (d *Daemon) healthChanged(change health.Change) {
	log := d.log.Info
	if change.To == health.Down {
		log = d.log.Warn
	}
	log("backend "+change.To.String(), "backend", change.Target.Service+"/"+change.Target.Backend, "was", change.From.String(), "why", change.Why)
	kind := api.EventUp
	if change.To == health.Down {
		kind = api.EventDown
	}
	d.happened(api.Event{Kind: kind, Service: change.Target.Service, Backend: change.Target.Backend, Text: change.Why})
	b, ok := d.current.Load().backends[backendName{change.Target.Service, change.Target.Backend}]
	if ok && b.Address == change.Target.Address.Addr() {
		d.setUp(b, change.To != health.Down)
	}
}

// syncHealth makes the data plane agree with the checks: after a change of the snapshot, and now and then, should a write
// have failed.
func (d *Daemon) syncHealth() {
	for _, b := range d.current.Load().tables.Backends {
		result, checked := d.health.Result(b.ServiceName, b.Name)
		up := !checked || result.State != health.Down
		if state, ok := d.reconciler.State(b.ID); ok && state.Down == up {
			d.setUp(b, up)
		}
	}
}

func (d *Daemon) setUp(backend compile.Backend, up bool) {
	slow := 0
	if state, _ := d.reconciler.State(backend.ID); up && state.Down {
		slow = d.beginSlow(backend.ID, d.slowStart(backend))
	} else if up {
		slow = state.Slow
	}
	err := d.reconciler.Change(map[uint16]func(*reconcile.State){backend.ID: func(s *reconcile.State) { s.Down, s.Slow = !up, slow }})
	d.fault("state of "+name(backend), err)
}

// registerCheck lets the answers to a health check through the filter, and what it sends through to its backend.
func (d *Daemon) registerCheck(conn health.Conn) (release func(), err error) {
	var backend uint16
	if conn.Through {
		if backend = d.current.Load().backends[backendName{conn.Service, conn.Backend}].ID; backend == 0 {
			return nil, fmt.Errorf("%s/%s is gone", conn.Service, conn.Backend)
		}
	}
	if err := d.plane.AddHealthFlow(conn.Local, conn.Remote, conn.Proto, backend); err != nil {
		return nil, err
	}
	return func() {
		if err := d.plane.RemoveHealthFlow(conn.Local, conn.Remote, conn.Proto); err != nil {
			d.log.Warn("health check not forgotten", "check", fmt.Sprintf("%s > %s", conn.Local, conn.Remote), "error", err)
		}
	}, nil
}

// tooNarrow says why nobody gets to a backend with an IPv6 packet of full size, and nobody can be told; "": it isn't so.
func tooNarrow(snapshot *model.Snapshot, b compile.Backend, mtu int) string {
	service, ok := snapshot.Service(b.ServiceName)
	if !ok {
		return ""
	}
	mode, _ := lb.FindMode(service.Forward)
	return mode.Narrow(service.Address, b.Address, mtu, 0)
}
