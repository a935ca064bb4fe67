package flow

import (
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"
)

const (
	// reportBatch bounds the reports that are read at once.
	reportBatch = 1024
	// passPatience is how long a pass may wait in all for readers whose ring is full, and readerPatience for one that takes nothing.
	passPatience   = 5 * time.Second
	readerPatience = 100 * time.Millisecond
)

// Reader takes reports, every one once and in their order, from where the reader of its name came to before, in whichever process. One
// that falls behind by more than the ring holds loses the oldest.
type Reader struct {
	tracker *Tracker
	place   int
	held    uint64 // reports that were read, and not yet taken
	closed  bool
	slots   []slot
}

// Reader begins with the next report, or goes on. There is one of a name at a time; Close it before the next.
func (t *Tracker) Reader(name string) (*Reader, error) {
	t.ring.Lock()
	defer t.ring.Unlock()
	h, hash := t.ledger.head, nameHash(name)
	free := -1
	for i := range h.readers {
		switch h.readers[i].name {
		case hash:
			return t.attach(i), nil
		case 0:
			if free < 0 {
				free = i
			}
		}
	}
	if free < 0 {
		return nil, fmt.Errorf("flows are reported to %d others, which is as many as can be", maxReaders)
	}
	now := t.ledger.totals().Reported
	h.readers[free] = readerHead{cursor: h.next, start: now, passed: now}
	atomic.StoreUint64(&h.readers[free].name, hash)
	return t.attach(free), nil
}

func (t *Tracker) attach(place int) *Reader {
	t.readers[place] = &Reader{tracker: t, place: place}
	return t.readers[place]
}

// Close leaves the reader's place to the next one of its name. This one reads and takes nothing from then on, so that the memory
// behind it may go.
func (r *Reader) Close() {
	r.tracker.ring.Lock()
	defer r.tracker.ring.Unlock()
	r.tracker.readers[r.place], r.closed, r.held = nil, true, 0
}

func nameHash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return max(1, h.Sum64()) // 0 is no reader
}

// Keep forgets all readers but those named.
func (t *Tracker) Keep(names []string) {
	t.ring.Lock()
	defer t.ring.Unlock()
	keep := map[uint64]bool{}
	for _, name := range names {
		keep[nameHash(name)] = true
	}
	for i := range t.ledger.head.readers {
		if r := &t.ledger.head.readers[i]; r.name != 0 && !keep[r.name] {
			atomic.StoreUint64(&r.name, 0)
		}
	}
}

// Wake has something when there may be more to read.
func (r *Reader) Wake() <-chan struct{} { return r.tracker.wake[r.place] }

// Read gives the next reports, none when there are no more. Until Taken says so they are not taken, and come again in the next process.
func (r *Reader) Read(clock Clock) []Report {
	for {
		r.copySlots()
		var reports []Report
		for i := range r.slots {
			if s := &r.slots[i]; !s.silent {
				reports = append(reports, s.report(clock))
			}
		}
		if len(reports) > 0 || len(r.slots) == 0 {
			return reports
		}
		r.Taken()
	}
}

func (r *Reader) copySlots() {
	t := r.tracker
	t.ring.Lock()
	defer t.ring.Unlock()
	r.slots = r.slots[:0]
	if r.closed {
		return
	}
	head := r.head()
	r.held = min(t.ledger.head.next-head.cursor, reportBatch)
	for i := range r.held {
		r.slots = append(r.slots, *t.ledger.slot(head.cursor + i))
	}
}

func (r *Reader) head() *readerHead { return &r.tracker.ledger.head.readers[r.place] }

// Taken says that what was read last is done with.
func (r *Reader) Taken() {
	t := r.tracker
	t.ring.Lock()
	defer t.ring.Unlock()
	if r.closed {
		return
	}
	t.advance(r.head(), r.held, false)
	r.held = 0
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// Totals are what the reader took, what it lost, and what is before it.
func (r *Reader) Totals() (taken, lost, waiting Tally) {
	t := r.tracker
	t.ring.Lock()
	defer t.ring.Unlock()
	if r.closed {
		return taken, lost, waiting
	}
	head := r.head()
	return head.passed.Minus(head.start).Minus(head.lost), head.lost, t.ledger.totals().Reported.Minus(head.passed)
}

// advance moves a cursor.
func (t *Tracker) advance(r *readerHead, by uint64, lost bool) {
	for range by {
		tally := t.ledger.slot(r.cursor).tally()
		r.passed.add(tally)
		if lost {
			r.lost.add(tally)
		}
		atomic.StoreUint64(&r.cursor, r.cursor+1)
	}
}

// report is what a slot says.
func (s *slot) report(clock Clock) Report {
	var p pair
	for i, there := range s.sides {
		if there {
			p.side[i] = side{raw: s.raw[i], records: 1}
		}
	}
	f, open := p.flow(clock), p.opener()
	r := Report{Flow: f, Since: clock.Monotonic(s.since), Until: clock.Monotonic(s.until), Delta: s.delta[open], DeltaReply: s.delta[1-open], End: s.end,
		Sample: int(s.sample)}
	if s.since == 0 {
		r.Since = f.First
	}
	return r
}

// append makes a report happen, when there is room for it in the ring. gone is what vanished of what was reported.
func (t *Tracker) append(s *slot, gone Count) {
	t.ring.Lock()
	defer t.ring.Unlock()
	h, size := t.ledger.head, uint64(len(t.ledger.slots))
	for h.next-t.floor >= size {
		if t.floor = t.behind(); h.next-t.floor >= size {
			t.makeRoom(h.next - size)
		}
	}
	s.sample = uint16(t.sample.Load())
	s.totals = t.ledger.totals()
	s.totals.Reported.add(s.tally())
	s.totals.Gone = s.totals.Gone.Plus(gone)
	t.ledger.write(s)
	if h.next-t.told >= reportBatch/4 {
		t.wakeReaders()
	}
}

// behind is how far the last reader is.
func (t *Tracker) behind() uint64 {
	last := t.ledger.head.next
	for i := range t.ledger.head.readers {
		if r := &t.ledger.head.readers[i]; r.name != 0 {
			last = min(last, r.cursor)
		}
	}
	return last
}

// makeRoom waits for readers that are at the oldest report, or lets them lose some.
func (t *Tracker) makeRoom(oldest uint64) {
	t.wakeReaders()
	for i := range t.ledger.head.readers {
		r := &t.ledger.head.readers[i]
		for r.name != 0 && r.cursor == oldest {
			if t.readers[i] == nil || t.stuck[i] || !t.await() {
				t.stuck[i] = true
				t.pass(i)
			}
		}
	}
}

// pass moves a reader on that doesn't move by itself. What it is about to take is not lost.
func (t *Tracker) pass(place int) {
	head := &t.ledger.head.readers[place]
	if r := t.readers[place]; r != nil && r.held > 0 {
		t.advance(head, r.held, false)
		r.held = 0
		return
	}
	t.advance(head, uint64(len(t.ledger.slots)/16), true)
}

// await gives readers a moment; false when none has moved in it, or there is no time left.
func (t *Tracker) await() bool {
	wait := min(readerPatience, t.patience)
	if wait <= 0 {
		return false
	}
	t.ring.Unlock()
	defer t.ring.Lock()
	began, timer := time.Now(), time.NewTimer(wait)
	defer timer.Stop()
	defer func() { t.patience -= time.Since(began) }()
	select {
	case <-t.moved:
		return true
	case <-timer.C:
		return false
	}
}

// tell lets readers know that there may be more.
func (t *Tracker) tell() {
	t.ring.Lock()
	defer t.ring.Unlock()
	t.wakeReaders()
}

func (t *Tracker) wakeReaders() {
	t.told = t.ledger.head.next
	for i := range t.wake {
		select {
		case t.wake[i] <- struct{}{}:
		default:
		}
	}
}

// Totals are what was reported since the flow tables were made.
func (t *Tracker) Totals() Totalled {
	t.ring.Lock()
	defer t.ring.Unlock()
	return t.ledger.totals()
}

// NoRoom is how many flows the last pass could not report, because the ledger was full.
func (t *Tracker) NoRoom() uint64 { return t.noRoom.Load() }
