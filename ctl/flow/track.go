package flow

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// Timers say when a flow is reported.
type Timers struct {
	Active time.Duration // a flow that goes on is reported so often
	Idle   time.Duration // one that was silent for so long has ended
	All    bool          // every flow is looked at now
	Last   bool          // and ends, for the table goes
}

// linger is how long a TCP connection that was closed must be silent before it has ended: its last segments come after the FIN.
const linger = 2 * time.Second

// lookMax bounds the flows that are looked at together, and so the memory of a pass: some 500 bytes each.
const lookMax = 1 << 16

// lookSome is how many are few.
const lookSome = 1 << 12

// Tracker turns the records of flow tables into reports: of each flow, what it did since the last one.
//
// A pass sweeps the tables for flows that are due: such as have fallen silent since the pass before, and, at a moment of its own
// once in Timers.Active, every flow. Only those are looked up in the ledger and joined, in a second sweep. So a pass costs what
// reading the table costs, whatever is in it.
//
// What makes reports exact is that a record that began after a flow's last report has nothing in it that was reported, and one that
// began before has no less in it than was. So what is new is told from the sum of a flow's records, on whichever CPUs and in
// whichever table they are. Where records have vanished, it is what is certainly new. Nothing is ever reported twice; packets
// of which no report can be made are a part of those that no record holds, and Totalled.Gone says how many those are.
type Tracker struct {
	mu     sync.Mutex // passes
	ring   sync.Mutex // what readers see: the ring and how far they are
	ledger *ledger

	looks  []look
	index  map[uint64]int32
	filter [lookMax / 2]uint64 // 32 bits a look: of a flow that isn't looked at, nearly always says so
	places []place

	readers  [maxReaders]*Reader // at work
	wake     [maxReaders]chan struct{}
	moved    chan struct{}    // a reader has moved on
	stuck    [maxReaders]bool // it took nothing while the pass waited
	floor    uint64           // no reader is before it
	told     uint64           // the reports that readers were told of
	patience time.Duration    // that a pass has left for readers
	quickest float64          // ns that reading a record took at least
	noRoom   atomic.Uint64    // flows that the last pass couldn't report
	sample   atomic.Uint32    // of how many packets one is counted

	monotonic func() uint64
}

// NewTracker makes a ledger for max flows in zeroed memory of LedgerSize. secret is that of the flow tables' hash.
func NewTracker(memory []byte, secret [2]uint64, max int) (*Tracker, error) {
	l, err := newLedger(memory, secret, max)
	if err != nil {
		return nil, err
	}
	return makeTracker(l), nil
}

// OpenTracker goes on where the Tracker before left off; ErrNoLedger when there was none for these tables.
func OpenTracker(memory []byte, secret [2]uint64) (*Tracker, error) {
	l, err := openLedger(memory, secret)
	if err != nil {
		return nil, err
	}
	return makeTracker(l), nil
}

func makeTracker(l *ledger) *Tracker {
	t := &Tracker{ledger: l, index: map[uint64]int32{}, moved: make(chan struct{}, 1), monotonic: monotonic}
	for i := range t.wake {
		t.wake[i] = make(chan struct{}, 1)
	}
	return t
}

// monotonic is CLOCK_MONOTONIC in ns.
func monotonic() uint64 { return clockNow(unix.CLOCK_MONOTONIC) }

// cpuTime is what this thread has used.
func cpuTime() time.Duration { return time.Duration(clockNow(unix.CLOCK_THREAD_CPUTIME_ID)) }

func clockNow(id int32) uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(id, &now); err != nil {
		panic(err) // cannot happen: every Linux has both
	}
	return uint64(now.Nano())
}

// Grow moves the ledger to other memory if it is too small for max flows. make gets memory that is zero, calls fill, and lets it take
// the old one's place only if that succeeds; the old memory isn't used any more when Grow returns.
func (t *Tracker) Grow(max int, make func(size int, fill func(memory []byte) error) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring.Lock()
	defer t.ring.Unlock()
	if len(t.ledger.memory) >= LedgerSize(max) {
		return nil
	}
	var next *ledger
	err := make(LedgerSize(max), func(memory []byte) (err error) {
		if next, err = newLedger(memory, t.ledger.head.secret, max); err != nil {
			return err
		}
		return next.copyFrom(t.ledger)
	})
	if err != nil {
		return err
	}
	t.ledger, t.floor = next, 0
	return nil
}

// Sampled says of how many packets one is counted in what is reported from now on. Reports that nobody has taken keep what they were
// made under.
func (t *Tracker) Sampled(of int) { t.sample.Store(uint32(of)) }

// window is what a pass looks for.
type window struct {
	all          bool   // every flow is due
	last         bool   // and ends
	active, span uint64 // ns: flows whose moment was in the last span of active
	now          uint64 // ns, modulo active
	jiffies      uint32
	since        uint32 // jiffies that span is
	idle, linger uint32 // jiffies
	ahead        uint32 // jiffies: an age beyond it is of a record younger than the window
}

func (t *Tracker) window(now abi.Clock, clock Clock, timers Timers) window {
	h := t.ledger.head
	active := uint64(max(timers.Active, 1))
	w := window{
		last: timers.Last, active: active, span: now.Monotonic - h.swept, now: now.Monotonic % active,
		jiffies: uint32(now.Jiffies), since: uint32(min(now.Jiffies-h.jiffies, 1<<31)),
		idle: clock.ticks(timers.Idle), linger: clock.ticks(linger), ahead: 1<<32 - 1 - clock.ticks(ahead),
	}
	w.all = w.last || timers.All || w.span >= active
	return w
}

// ticks are jiffies, rounded up.
func (c Clock) ticks(d time.Duration) uint32 {
	return uint32(min((int64(d)*c.hz+1e9-1)/1e9, 1<<31))
}

// age is for how many jiffies a record was silent.
func (w *window) age(last uint32) uint32 {
	age := w.jiffies - last
	if age > w.ahead {
		return 0
	}
	return age
}

// moment says whether it is time to look at a flow whatever it does. Flows have their moments at different times.
func (w *window) moment(flow uint64) bool {
	if w.all {
		return true
	}
	offset, _ := bits.Mul64(flow, w.active)
	since := w.now - offset
	if offset > w.now {
		since += w.active
	}
	return since < w.span
}

// silenced says whether a record has fallen silent in the window.
func (w *window) silenced(v *abi.FlowValue) bool {
	age := w.age(v.Last)
	return age-w.idle-1 < w.since || abi.FlowState(v.State)&abi.FlowStateClosed != 0 && age-w.linger-1 < w.since
}

// Pass looks at the flows of the tables that are due. now is the kernel's time before it. It says how much CPU time it takes to read the
// tables once, which it does twice at least when flows are due.
func (t *Tracker) Pass(tables []*Table, clock Clock, now abi.Clock, timers Timers) (reading time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	runtime.LockOSThread() // whose time is measured
	defer runtime.UnlockOSThread()
	defer t.tell()
	w := t.window(now, clock, timers)
	t.patience, t.stuck = passPatience, [maxReaders]bool{}
	var noRoom uint64
	err = inParts(func(depth int, part uint64) (full bool, err error) {
		began := cpuTime()
		if full, err = t.pick(tables, &w, depth, part); full || err != nil {
			return full, err
		}
		reading = t.readingOf(tables, cpuTime()-began)
		missed, err := t.settle(tables, nil, &w)
		noRoom += missed
		return false, err
	})
	if err != nil {
		return reading, err
	}
	t.noRoom.Store(noRoom)
	t.endPass(now, w.active)
	return reading, nil
}

// readingOf is how much CPU time it takes to read the tables, without what is done about flows: at the rate of the quickest so far.
func (t *Tracker) readingOf(tables []*Table, took time.Duration) time.Duration {
	records := 1
	for _, table := range tables {
		records += table.Capacity()
	}
	if rate := float64(took) / float64(records); t.quickest == 0 || rate < t.quickest {
		t.quickest = rate
	}
	return time.Duration(t.quickest * float64(records))
}

// Leave reports all flows that have records in old, a table that no program uses any more, while others are in use; and forgets what
// was reported of those records.
func (t *Tracker) Leave(old *Table, rest []*Table, clock Clock, now abi.Clock, timers Timers) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.tell()
	w := t.window(now, clock, timers)
	w.all = true
	t.patience, t.stuck = passPatience, [maxReaders]bool{}
	return inParts(func(depth int, part uint64) (full bool, err error) {
		if full, err = t.pick([]*Table{old}, &w, depth, part); full || err != nil {
			return full, err
		}
		_, err = t.settle(rest, []*Table{old}, &w)
		return false, err
	})
}

// endPass notes how far the pass came. When every flow has been looked at once more, those that weren't there are gone.
func (t *Tracker) endPass(now abi.Clock, active uint64) {
	h := t.ledger.head
	atomic.StoreUint64(&h.swept, now.Monotonic)
	atomic.StoreUint64(&h.jiffies, now.Jiffies)
	if h.roundBegan == 0 {
		atomic.StoreUint64(&h.roundBegan, now.Monotonic)
	}
	if now.Monotonic-h.roundBegan < active {
		return
	}
	atomic.StoreUint64(&h.roundBegan, now.Monotonic)
	atomic.StoreUint64(&h.round, h.round+1)
	for i := range uint64(len(t.ledger.buckets) * entryWays) {
		if e := t.ledger.entry(i); e.count != [2]Count{} && e.missing(h.round) >= goneRounds {
			t.forget(i)
		}
	}
}

// forget notes that a flow is gone with all its packets.
func (t *Tracker) forget(index uint64) {
	s := slot{index: index, entry: *t.ledger.entry(index), silent: true}
	gone := s.entry.count[0].Plus(s.entry.count[1])
	s.entry.count = [2]Count{}
	t.append(&s, gone)
}

// inParts calls do for all flows, or for parts of them by a hash when it says that they are too many.
func inParts(do func(depth int, part uint64) (full bool, err error)) error {
	for depth, part := 0, uint64(0); part < 1<<depth; part++ {
		for {
			full, err := do(depth, part)
			if err != nil {
				return err
			}
			if !full {
				break
			}
			depth, part = depth+1, part*2
		}
	}
	return nil
}

// hash of a flow, the same for both directions, which nobody can choose who doesn't know the secret.
func (l *ledger) hash(key *abi.FlowKey) uint64 {
	w := (*[5]uint64)(unsafe.Pointer(key))
	from, to := l.hashEnd(w[0], w[1], w[4]&0xffff), l.hashEnd(w[2], w[3], w[4]>>16&0xffff)
	return max(1, fold(from+to, w[4]&^eitherWay>>32^l.head.secret[1])) // 0 is no flow
}

// eitherWay are the bits of a key's last word that a flow's directions needn't have in common: the zone, FLOW_OUT, and the ports,
// which are in the ends.
const eitherWay = uint64(abi.FlowOut)<<(tagFlags+tagShift) | 0xff<<40 | 1<<32 - 1

func (l *ledger) hashEnd(a, b, port uint64) uint64 {
	secret := &l.head.secret
	return fold(fold(a^secret[0], b^secret[1])^secret[0], port^secret[1])
}

// fold mixes two words.
func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}
