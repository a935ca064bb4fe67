package flow

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"gardu/ctl/abi"
)

// The ledger is what a Tracker remembers: of each flow, what was reported of it, and the last reports themselves until all who
// read them have. It is in memory that outlives the process, and whole whenever the process dies: a report goes into the ring, the
// ring's head moves past it, and from then on it has happened; what else it changes is made up for by who opens the ledger next.
type ledger struct {
	memory  []byte
	head    *ledgerHead
	slots   []slot
	buckets []bucket
}

const (
	ledgerMagic = 0x6761726475_0001 // "gardu" and the version of the layout
	headBytes   = 2 * ledgerPage
	ledgerPage  = 4096
	maxReaders  = 60

	entryWays   = 4 // entries of a bucket
	entryProbes = 8 // buckets that an entry may be in

	minFlows           = 4000 // small tables may fill up with one-sided flows, an entry a record
	minSlots, maxSlots = 1 << 10, 1 << 16
)

// ledgerHead begins the memory.
type ledgerHead struct {
	magic      uint64
	secret     [2]uint64 // of the flow tables that it belongs to
	buckets    uint64    // a power of two
	slots      uint64    // likewise
	next       uint64    // sequence number of the next report: slot number modulo slots
	applied    uint64    // reports before it are in the entries
	swept      uint64    // CLOCK_MONOTONIC ns: what was due until then has been looked at
	jiffies    uint64    // the same moment
	round      uint64    // grows when every flow has been looked at once more
	roundBegan uint64    // CLOCK_MONOTONIC ns
	unused     [5]uint64
	readers    [maxReaders]readerHead
}

// readerHead is how far a reader has come.
type readerHead struct {
	name   uint64 // hash of it; 0: free
	cursor uint64 // sequence number of the first report that it hasn't taken
	start  Tally  // reported before it began
	passed Tally  // reported before the cursor
	lost   Tally  // of what it passed, what it didn't take
}

// Tally counts reports and what they are of, both directions together.
type Tally struct {
	Reports uint64
	Count
}

// Minus subtracts.
func (t Tally) Minus(other Tally) Tally {
	return Tally{t.Reports - other.Reports, Count{t.Packets - other.Packets, t.Bytes - other.Bytes}}
}

func (t *Tally) add(other Tally) {
	t.Reports += other.Reports
	t.Count = t.Plus(other.Count)
}

// entry is what was reported of a flow, by side: the one whose source is the smaller end first. It never becomes free again, so that
// a search may stop at a bucket that isn't full; one whose flow is gone has no counts and is for the next that needs one.
type entry struct {
	flow  uint64 // hash; 0: free
	count [2]Count
	meta  uint64 // see meta
}

type bucket [entryWays]entry

// meta packs what else is known of an entry: until when it was reported in ms (44 bits), whether that was its end (1), and the round
// in which it was last there (16).
func meta(until uint64, ended bool, round uint64) uint64 {
	m := (until+1e6-1)/1e6<<17 | round&0xffff
	if ended {
		m |= 1 << 16
	}
	return m
}

// until is a moment, in ns, at or after the last report: what began later was no part of it.
func (e *entry) until() uint64 { return e.meta >> 17 * 1e6 }

func (e *entry) ended() bool { return e.meta&(1<<16) != 0 }

// missing is for how many rounds the flow wasn't there.
func (e *entry) missing(round uint64) uint16 { return uint16(round) - uint16(e.meta) }

// goneRounds is after how many rounds without it a flow is gone for sure: one may have looked at it early and the next late.
const goneRounds = 3

// slot is a report in the ring, and what it does to the entries.
type slot struct {
	index        uint64 // of the entry
	entry        entry  // as it is afterwards
	totals       Totalled
	since, until uint64 // CLOCK_MONOTONIC ns; since 0: the flow's beginning
	delta        [2]Count
	end          End
	silent       bool // nothing is reported, it only changes the entry
	sides        [2]bool
	sample       uint16 // see Report; 0 is 1
	_            [2]byte
	raw          [2]abi.FlowRecord
}

// Totalled is what became of all packets that were reported, since the flow tables were made.
type Totalled struct {
	Reported Tally
	Gone     Count // of it, what is in no record any more
}

// LedgerSize is the bytes of memory that a ledger for max flows needs.
func LedgerSize(max int) int {
	buckets, slots := ledgerShape(max)
	return ledgerBytes(buckets, slots)
}

func ledgerShape(flows int) (buckets, slots uint64) {
	n := uint64(max(flows, minFlows))
	return powerOfTwo(n*3/2/entryWays + 1), min(maxSlots, powerOfTwo(n/4+minSlots))
}

func ledgerBytes(buckets, slots uint64) int {
	size := headBytes + int(slots)*int(unsafe.Sizeof(slot{})) + int(buckets)*int(unsafe.Sizeof(bucket{}))
	return (size + ledgerPage - 1) / ledgerPage * ledgerPage
}

func powerOfTwo(n uint64) uint64 { return 1 << bits.Len64(n-1) }

// ErrNoLedger is for memory that holds no ledger of these flow tables.
var ErrNoLedger = errors.New("no ledger of these flow tables")

// newLedger writes an empty one for max flows into zeroed memory of LedgerSize.
func newLedger(memory []byte, secret [2]uint64, max int) (*ledger, error) {
	if len(memory) < LedgerSize(max) {
		return nil, fmt.Errorf("a ledger for %d flows in %d bytes: needs %d", max, len(memory), LedgerSize(max))
	}
	head := (*ledgerHead)(unsafe.Pointer(unsafe.SliceData(memory)))
	head.secret = secret
	head.buckets, head.slots = ledgerShape(max)
	atomic.StoreUint64(&head.magic, ledgerMagic)
	return openLedger(memory, secret)
}

// openLedger finds a ledger in memory, and ends what the process before was about.
func openLedger(memory []byte, secret [2]uint64) (*ledger, error) {
	if len(memory) < headBytes {
		return nil, ErrNoLedger
	}
	l := &ledger{memory: memory, head: (*ledgerHead)(unsafe.Pointer(unsafe.SliceData(memory)))}
	h := l.head
	if h.magic != ledgerMagic || h.secret != secret || !sane(h.buckets) || !sane(h.slots) || ledgerBytes(h.buckets, h.slots) > len(memory) {
		return nil, ErrNoLedger
	}
	slots := headBytes + int(h.slots)*int(unsafe.Sizeof(slot{}))
	l.slots = unsafe.Slice((*slot)(unsafe.Pointer(&memory[headBytes])), h.slots)
	l.buckets = unsafe.Slice((*bucket)(unsafe.Pointer(&memory[slots])), h.buckets)
	if h.applied > h.next || h.next-h.applied > 1 {
		return nil, ErrNoLedger
	}
	if h.applied < h.next {
		if l.slot(h.applied).index >= uint64(len(l.buckets)*entryWays) {
			return nil, ErrNoLedger
		}
		l.apply()
	}
	return l, nil
}

// sane also bounds what a size may be multiplied with.
func sane(n uint64) bool { return n != 0 && n < 1<<32 && n&(n-1) == 0 }

func (l *ledger) slot(sequence uint64) *slot { return &l.slots[sequence%uint64(len(l.slots))] }

func (l *ledger) entry(index uint64) *entry { return &l.buckets[index/entryWays][index%entryWays] }

// tally is what a report is of.
func (s *slot) tally() Tally {
	if s.silent {
		return Tally{}
	}
	return Tally{1, s.delta[0].Plus(s.delta[1])}
}

// totals are as of the last report.
func (l *ledger) totals() Totalled {
	if l.head.next == 0 {
		return Totalled{}
	}
	return l.slot(l.head.next - 1).totals
}

// write lets a report happen. The slot that it takes must have been read by all.
func (l *ledger) write(s *slot) {
	*l.slot(l.head.next) = *s
	atomic.StoreUint64(&l.head.next, l.head.next+1)
	l.apply()
}

// apply makes the entries follow the last report.
func (l *ledger) apply() {
	s := l.slot(l.head.applied)
	*l.entry(s.index) = s.entry
	atomic.StoreUint64(&l.head.applied, l.head.applied+1)
}

// find looks for the entry of a flow.
func (l *ledger) find(flow uint64) (index uint64, ok bool) {
	for probe := range uint64(entryProbes) {
		number := l.bucket(flow, probe)
		for way := range l.buckets[number] {
			switch l.buckets[number][way].flow {
			case flow:
				return number*entryWays + uint64(way), true
			case 0:
				return 0, false
			}
		}
	}
	return 0, false
}

// room finds the entry of a flow, or one that it may have; false when all are in use.
func (l *ledger) room(flow uint64) (index uint64, ok bool) {
	if index, ok = l.find(flow); ok {
		return index, true
	}
	for probe := range uint64(entryProbes) {
		number := l.bucket(flow, probe)
		for way := range l.buckets[number] {
			e := &l.buckets[number][way]
			if e.flow == 0 || e.count == [2]Count{} && e.missing(l.head.round) >= goneRounds {
				return number*entryWays + uint64(way), true
			}
		}
	}
	return 0, false
}

// bucket is where an entry may be: flows that meet in one part ways in the next.
func (l *ledger) bucket(flow, probe uint64) uint64 {
	return (flow + probe*(flow>>32|1)) & uint64(len(l.buckets)-1)
}

// touch notes that the flow of an entry is still there.
func (l *ledger) touch(index uint64) {
	e := l.entry(index)
	if m := e.meta&^0xffff | l.head.round&0xffff; m != e.meta {
		atomic.StoreUint64(&e.meta, m)
	}
}

// copyFrom takes over what another ledger knows. Flows that find no room are as if nothing had been reported of them, so it must
// be the larger one.
func (l *ledger) copyFrom(old *ledger) error {
	h := l.head
	h.next, h.applied, h.swept, h.jiffies = old.head.next, old.head.applied, old.head.swept, old.head.jiffies
	h.round, h.roundBegan, h.readers = old.head.round, old.head.roundBegan, old.head.readers
	for sequence := h.next - min(h.next, uint64(len(old.slots)), uint64(len(l.slots))); sequence < h.next; sequence++ {
		*l.slot(sequence) = *old.slot(sequence)
	}
	for b := range old.buckets {
		for _, e := range &old.buckets[b] {
			if e.flow == 0 || e.count == [2]Count{} {
				continue
			}
			index, ok := l.room(e.flow)
			if !ok {
				return errors.New("the larger ledger has no room for what the smaller one holds")
			}
			*l.entry(index) = e
		}
	}
	return nil
}
