package daemon

import (
	"sync"
	"time"

	"gardu/ctl/compile"
	"gardu/ctl/reconcile"
)

// slowTenths is in how many steps a backend that starts slowly gets its weight.
const slowTenths = 10

// slowStarts are the backends that came up a short while ago, by id. A daemon that takes over knows nothing of them: they have their
// whole weight from then on.
type slowStarts struct {
	mu   sync.Mutex
	byID map[uint16]slowStart
}

type slowStart struct {
	began time.Time
	takes time.Duration
}

// begin returns how many tenths of its weight a backend gets at first; 0: all.
func (s *slowStarts) begin(id uint16, takes time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if takes == 0 {
		delete(s.byID, id)
		return 0
	}
	if s.byID == nil {
		s.byID = map[uint16]slowStart{}
	}
	s.byID[id] = slowStart{time.Now(), takes}
	return 1
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
	d.slow.mu.Lock()
	defer d.slow.mu.Unlock()
	changes := map[uint16]func(*reconcile.State){}
	for id, start := range d.slow.byID {
		tenths := start.tenths(time.Since(start.began))
		if state, known := d.reconciler.State(id); !known || state.Slow != tenths {
			changes[id] = func(s *reconcile.State) { s.Slow = tenths }
		}
		if tenths == 0 {
			delete(d.slow.byID, id)
		}
	}
	if len(changes) == 0 {
		return
	}
	d.fault("give backends that start slowly more", d.reconciler.Change(changes))
}
