package health

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// State is what is known of a backend.
type State uint8

const (
	Unknown State = iota // no result yet: traffic goes there
	Up
	Down
)

func (s State) String() string { return [...]string{"checking", "up", "down"}[s] }

// Result is the state of a backend and what led to it.
type Result struct {
	State State
	Since time.Time     // of the state; zero while Unknown
	Last  time.Time     // end of the last check; zero before the first
	Took  time.Duration // the last check
	Why   string        // what the last check saw, for people
}

// Change is a transition.
type Change struct {
	Target   Target
	From, To State
	At       time.Time
	Why      string
}

// Options of a Checker.
type Options struct {
	// Concurrency bounds the checks under way at once; 0 means 2048, enough for 1,000 dead backends that each cost the time-out, and
	// a descriptor each.
	Concurrency int
	// Register is called before a check connects, so that the packet path can let the answer in, and its result
	// after the connection is closed. A check goes on when it fails, and blames it if the answer doesn't come. May be nil.
	Register func(Conn) (release func(), err error)
	// Through says from which address a target with Through is checked at the address of its service; zero: what the kernel would
	// send from to the backend. On an error the check goes to the backend's own address. nil: all do.
	Through func(Target) (source netip.Addr, err error)
	// Mark is the SO_MARK of sockets that go to the address of a service.
	Mark uint32
	// Changed is told of each transition, of one backend in order, of several backends at the same time.
	Changed func(Change)
}

// Checker checks targets until it is told of others.
type Checker struct {
	changed func(Change)
	probe   func(context.Context, Target) (seen string, err error)
	slots   chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of Run; nil while it is not running
	running sync.WaitGroup
	checks  map[key]*check
}

// check is one target's. result is guarded by Checker.mu, streak is used only by the goroutine that runs it.
type check struct {
	target Target
	stop   context.CancelFunc // nil while not running
	result Result
	streak int // results in a row that contradict the state
}

// New returns a Checker without targets.
func New(o Options) *Checker {
	if o.Concurrency == 0 {
		o.Concurrency = 2048
	}
	p := prober{register: o.Register, through: o.Through, mark: int(o.Mark)}
	return &Checker{
		changed: o.Changed,
		probe:   p.probe,
		slots:   make(chan struct{}, o.Concurrency),
		checks:  make(map[key]*check),
	}
}

// Set replaces the targets. One that is the same as before goes on undisturbed. known gives the state of new ones
// that is known from before, by service and backend; it may be nil. A transition under way may still be reported after
// Set for a target that Set removed.
func (c *Checker) Set(targets []Target, known func(service, backend string) State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := make(map[key]*check, len(targets))
	for _, t := range targets {
		if old, ok := c.checks[t.key()]; ok && old.target == t {
			wanted[t.key()] = old
			delete(c.checks, t.key())
			continue
		}
		fresh := &check{target: t}
		if old, ok := c.checks[t.key()]; ok && old.target.Address == t.Address {
			fresh.result = old.result // only the manner of checking changed
		} else if known != nil {
			fresh.result.State = known(t.Service, t.Backend)
		}
		wanted[t.key()] = fresh
	}
	for _, old := range c.checks {
		if old.stop != nil {
			old.stop()
		}
	}
	c.checks = wanted
	if c.ctx != nil {
		c.start()
	}
}

// Result returns what is known of a backend; false when it is no target.
func (c *Checker) Result(service, backend string) (Result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	check, ok := c.checks[key{service, backend}]
	if !ok {
		return Result{}, false
	}
	return check.result, true
}

// Run checks until ctx ends, waits for what is under way, and returns nil. It may be called once.
func (c *Checker) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	c.start()
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil // Set starts no others
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// start starts the checks that don't run. c.mu is held.
func (c *Checker) start() {
	for _, check := range c.checks {
		if check.stop != nil {
			continue
		}
		ctx, stop := context.WithCancel(c.ctx)
		check.stop = stop
		c.running.Go(func() { c.run(ctx, check) })
	}
}

// run checks one target until ctx ends: first soon, then at its interval, a tenth more or less so that the checks of
// many backends spread out. The interval goes from when one was due to when the next is: what a check takes, and what it
// waits for its turn, don't make it longer. What is overdue is made at once, and what was missed meanwhile isn't made up for.
func (c *Checker) run(ctx context.Context, check *check) {
	every := check.target.Check.Every
	wait := rand.N(min(every, time.Second))
	due := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case c.slots <- struct{}{}:
		}
		c.once(ctx, check)
		<-c.slots
		due = due.Add(every*9/10 + rand.N(every/5+1))
		if now := time.Now(); due.Before(now) {
			due = now
		}
		timer.Reset(time.Until(due))
	}
}

func (c *Checker) once(ctx context.Context, check *check) {
	t := check.target
	probing, cancel := context.WithTimeout(ctx, t.Check.Timeout)
	defer cancel()
	begin := time.Now()
	seen, err := c.probe(probing, t)
	if ctx.Err() != nil {
		return // stopped: the result says nothing about the backend
	}
	if err != nil {
		seen = explain(err, t.Check.Timeout)
	}
	c.mu.Lock()
	from := check.result.State
	to := check.next(err == nil)
	check.result.State = to
	check.result.Last = time.Now()
	check.result.Took = check.result.Last.Sub(begin)
	check.result.Why = seen
	if from != to {
		check.result.Since = check.result.Last
	}
	change := Change{Target: t, From: from, To: to, At: check.result.Last, Why: seen}
	c.mu.Unlock()
	if from != to && c.changed != nil {
		c.changed(change)
	}
}

// next returns the state after one more result.
func (c *check) next(ok bool) State {
	state, needed := Up, c.target.Check.Up
	if !ok {
		state, needed = Down, c.target.Check.Down
	}
	switch c.result.State {
	case state:
		c.streak = 0
		return state
	case Unknown:
		return state
	}
	c.streak++
	if c.streak < needed {
		return c.result.State
	}
	c.streak = 0
	return state
}
