package daemon

import (
	"errors"
	"sync"
	"time"

	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/reconcile"
)

// slowTenths is in how many steps a backend that starts slowly gets its weight.
const slowTenths = 10

// slowStarts are the backends that came up a short while ago, by id. When they did is in the kernel too, beside the orders, so that a
// daemon that takes over goes on where the one before it was.
type slowStarts struct {
	mu   sync.Mutex
	byID map[uint16]slowStart
}

type slowStart struct {
	began time.Time
	takes time.Duration
}

// put says since when a backend starts slowly. takes 0: it doesn't.
func (s *slowStarts) put(id uint16, began time.Time, takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if takes == 0 {
		delete(s.byID, id)
		return
	}
	if s.byID == nil {
		s.byID = map[uint16]slowStart{}
	}
	s.byID[id] = slowStart{began, takes}
}

// beginSlow returns how many tenths of its weight a backend gets that comes up now; 0: all.
func (d *Daemon) beginSlow(id uint16, takes time.Duration) int {
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	note := d.orders.byID[id]
	tenths := d.startSlowly(id, &note, takes)
	d.fault("note since when a backend starts slowly", d.keepNote(id, note))
	return tenths
}

// startSlowly does so, and notes when that was.
func (d *Daemon) startSlowly(id uint16, note *dataplane.BackendNote, takes time.Duration) int {
	now := time.Now()
	d.slow.put(id, now, takes)
	if takes == 0 {
		note.Slow = time.Time{}
		return 0
	}
	note.Slow = now
	return 1
}

// endSlow forgets that backends started slowly.
func (d *Daemon) endSlow(ended []uint16) error {
	d.orders.mu.Lock()
	defer d.orders.mu.Unlock()
	var errs []error
	for _, id := range ended {
		note := d.orders.byID[id]
		note.Slow = time.Time{}
		errs = append(errs, d.keepNote(id, note))
	}
	return errors.Join(errs...)
}

// recallSlow goes on with what the daemon before this one began.
func (d *Daemon) recallSlow() {
	for _, b := range d.current.Load().tables.Backends {
		if note := d.orders.get(b.ID); !note.Slow.IsZero() {
			d.slow.put(b.ID, note.Slow, d.slowStart(b))
		}
	}
	d.syncSlow()
}

// tenths is what it gets after so long; 0: all.
func (s slowStart) tenths(passed time.Duration) int {
	tenths := 1 + int(passed*(slowTenths-1)/s.takes)
	if tenths >= slowTenths {
		return 0
	}
	return tenths
}

func (d *Daemon) slowStart(backend compile.Backend) time.Duration {
	service, ok := d.current.Load().snapshot.Service(backend.ServiceName)
	if !ok {
		return 0
	}
	return service.SlowStart
}

// syncSlow gives backends that start slowly more, all in one go: a ring is built once for all of them.
func (d *Daemon) syncSlow() {
	changes, ended := d.slowSteps()
	if len(changes) > 0 {
		d.fault("give backends that start slowly more", d.reconciler.Change(changes))
	}
	if len(ended) > 0 {
		d.fault("note since when a backend starts slowly", d.endSlow(ended))
	}
}

// slowSteps are the changes that are due, and the backends that have their whole weight with them.
func (d *Daemon) slowSteps() (changes map[uint16]func(*reconcile.State), ended []uint16) {
	d.slow.mu.Lock()
	defer d.slow.mu.Unlock()
	changes = map[uint16]func(*reconcile.State){}
	for id, start := range d.slow.byID {
		tenths := start.tenths(time.Since(start.began))
		if state, known := d.reconciler.State(id); !known || state.Slow != tenths {
			changes[id] = func(s *reconcile.State) { s.Slow = tenths }
		}
		if tenths == 0 {
			delete(d.slow.byID, id)
			ended = append(ended, id)
		}
	}
	return changes, ended
}
