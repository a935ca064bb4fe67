package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/reconcile"
)

// orders are what somebody wants of backends for now, drains and weights, by backend id. They are kept in the kernel beside the
// backends, and go when the backend does.
type orders struct {
	mu   sync.Mutex
	byID map[uint16]dataplane.BackendNote
	out  map[uint16]bool // drains whose time was over, and that is done
}

func (o *orders) all() map[uint16]dataplane.BackendNote {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.byID)
}

func (o *orders) get(id uint16) dataplane.BackendNote {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byID[id]
}

// isOver says whether the time of a drain is over.
func isOver(note dataplane.BackendNote, now time.Time) bool {
	return !note.Drained.IsZero() && !note.Until.IsZero() && !now.Before(note.Until)
}

func orderOf(note dataplane.BackendNote) reconcile.Order {
	return reconcile.Order{Drained: !note.Drained.IsZero(), Out: isOver(note, time.Now()), Weight: note.Weight}
}

// recallOrders reads what the daemon before this one was told.
func (d *Daemon) recallOrders() (map[uint16]reconcile.Order, error) {
	notes, err := d.plane.BackendNotes()
	if err != nil {
		return nil, err
	}
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	d.orders.byID, d.orders.out = notes, map[uint16]bool{}
	recalled := make(map[uint16]reconcile.Order, len(notes))
	for id, note := range notes {
		recalled[id] = orderOf(note)
		d.orders.out[id] = recalled[id].Out
	}
	return recalled, nil
}

// Drain sends new flows of a backend elsewhere.
func (d *Daemon) Drain(_ context.Context, request api.DrainRequest) (api.Ordered, error) {
	text := "new flows go elsewhere"
	if request.Timeout > 0 {
		text += "; in " + time.Duration(request.Timeout).String() + " those that are left do too"
	}
	return d.order(request.Service, request.Backend, func(note *dataplane.BackendNote) (kind, told string) {
		if note.Drained.IsZero() {
			note.Drained = time.Now()
		}
		note.Until = time.Time{}
		if request.Timeout > 0 {
			note.Until = time.Now().Add(time.Duration(request.Timeout))
		}
		return api.EventDrain, text
	})
}

// Undrain takes a drain back.
func (d *Daemon) Undrain(_ context.Context, service, backend string) (api.Ordered, error) {
	return d.order(service, backend, func(note *dataplane.BackendNote) (kind, told string) {
		note.Drained, note.Until = time.Time{}, time.Time{}
		return api.EventUndrain, "new flows come again"
	})
}

// Weigh gives a backend another weight for now, or that of the configuration back.
func (d *Daemon) Weigh(_ context.Context, request api.WeightRequest) (api.Ordered, error) {
	return d.order(request.Service, request.Backend, func(note *dataplane.BackendNote) (kind, told string) {
		note.Weight = request.Weight
		if request.Weight == nil {
			return api.EventWeight, "that of the configuration"
		}
		return api.EventWeight, fmt.Sprint(*request.Weight)
	})
}

// order changes what is wanted of a backend. It is kept before it is done: what was answered survives a crash.
func (d *Daemon) order(service, backend string, change func(*dataplane.BackendNote) (kind, told string)) (api.Ordered, error) {
	if err := d.changeOrder(service, backend, change); err != nil {
		return api.Ordered{}, err
	}
	all, err := d.backends(d.current.Load())
	if err != nil {
		return api.Ordered{}, err
	}
	ordered := api.Ordered{}
	takers := 0
	for i := range all {
		switch {
		case all[i].Service != service:
			continue
		case all[i].Name == backend:
			ordered.Backend = all[i]
		}
		if all[i].TakesNew() {
			takers++
		}
	}
	if takers == 0 {
		ordered.Warning = fmt.Sprintf("no backend of %s takes new flows: they are dropped", service)
	}
	return ordered, nil
}

func (d *Daemon) changeOrder(service, backend string, change func(*dataplane.BackendNote) (kind, told string)) error {
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	b, err := d.findBackend(service, backend)
	if err != nil {
		return err
	}
	note := d.orders.byID[b.ID]
	kind, told := change(&note)
	if err := d.putOrder(b, note); err != nil {
		return err
	}
	d.active.forget() // nothing new comes from here on: what is counted now is what is left
	d.log.Info(kind, "backend", name(b), "what", told)
	d.happened(api.Event{Kind: kind, Service: service, Backend: backend, Text: told})
	return nil
}

// putOrder keeps an order and does it. orders.mu is held.
func (d *Daemon) putOrder(b compile.Backend, note dataplane.BackendNote) error {
	order := orderOf(note)
	before, _ := d.reconciler.State(b.ID)
	slow := before.Slow
	if before.Order.Drained && !order.Drained {
		slow = d.startSlowly(b.ID, &note, d.slowStart(b))
	}
	if err := d.keepNote(b.ID, note); err != nil {
		return err
	}
	d.orders.out[b.ID] = isOver(note, time.Now())
	return d.reconciler.Change(map[uint16]func(*reconcile.State){b.ID: func(s *reconcile.State) { s.Order, s.Slow = order, slow }})
}

// keepNote keeps what outlives this daemon. orders.mu is held.
func (d *Daemon) keepNote(id uint16, note dataplane.BackendNote) error {
	if note == d.orders.byID[id] {
		return nil
	}
	if err := d.plane.SetBackendNote(id, note); err != nil {
		return err
	}
	if note == (dataplane.BackendNote{}) {
		delete(d.orders.byID, id)
	} else {
		d.orders.byID[id] = note
	}
	return nil
}

func (d *Daemon) findBackend(service, backend string) (compile.Backend, error) {
	now := d.current.Load()
	if b, ok := now.backends[backendName{service, backend}]; ok {
		return b, nil
	}
	var names []string
	for _, s := range now.snapshot.Services {
		if s.Name != service {
			continue
		}
		for _, b := range s.Backends {
			names = append(names, b.Name)
		}
		return compile.Backend{}, api.NewProblem(api.CodeNotFound, "%s has no backend %s, but %s", service, backend, someNames(names))
	}
	for _, s := range now.snapshot.Services {
		names = append(names, s.Name)
	}
	return compile.Backend{}, api.NewProblem(api.CodeNotFound, "there is no service %s, but %s", service, cmp.Or(someNames(names), "none at all"))
}

// someNames are names for an error: not all of very many.
func someNames(names []string) string {
	const most = 20
	slices.Sort(names)
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// syncOrders ends the drains whose time is over. What fails is tried again.
func (d *Daemon) syncOrders() {
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	now := time.Now()
	for _, b := range d.current.Load().tables.Backends {
		note, ordered := d.orders.byID[b.ID]
		if !ordered || !isOver(note, now) || d.orders.out[b.ID] {
			continue
		}
		err := d.reconciler.SetOrder(b.ID, orderOf(note))
		d.fault("end the drain of "+name(b), err)
		if err != nil {
			continue
		}
		d.orders.out[b.ID] = true
		d.log.Info("drained", "backend", name(b))
		d.happened(api.Event{Kind: api.EventDrained, Service: b.ServiceName, Backend: b.Name, Text: "its time is over: flows that were left go elsewhere"})
	}
}

// forgetOrders ends those for backends that have gone.
func (d *Daemon) forgetOrders(backends []compile.Backend) {
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	if len(d.orders.byID) == 0 {
		return
	}
	used := make(map[uint16]bool, len(backends))
	for _, b := range backends {
		used[b.ID] = true
	}
	for id := range d.orders.byID {
		if used[id] {
			continue
		}
		if err := d.putOrder(compile.Backend{ID: id}, dataplane.BackendNote{}); err != nil {
			d.log.Warn("the order for a backend that has gone is not forgotten", "id", id, "error", err)
		}
	}
}
