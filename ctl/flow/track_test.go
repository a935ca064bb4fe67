package flow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"gardu/ctl/abi"
)

// tracking is a tracker over tables in plain memory, with a clock that the test moves. What it is told to keep survives it.
type tracking struct {
	testing.TB
	*fixture
	old     *fixture // of another size, which is left
	memory  []byte
	tracker *Tracker
	reader  *Reader
	timers  Timers
	second  uint64 // since boot
	got     []Report
}

var secret = [2]uint64{0x0123456789abcdef, 0xfedcba9876543210}

func newTracking(t testing.TB, buckets int) *tracking {
	t.Helper()
	x := &tracking{TB: t, fixture: newFixture(buckets), timers: Timers{Active: 100 * time.Second, Idle: 30 * time.Second}, second: 1000}
	x.memory = zeroed(LedgerSize(buckets * int(abi.FlowWays)))
	tracker, err := NewTracker(x.memory, secret, buckets*int(abi.FlowWays))
	if err != nil {
		t.Fatal(err)
	}
	x.use(tracker)
	return x
}

// zeroed is memory aligned as mapped pages are.
func zeroed(size int) []byte {
	words := make([]uint64, (size+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
}

func (x *tracking) use(tracker *Tracker) {
	x.Helper()
	x.tracker = tracker
	tracker.monotonic = func() uint64 { return x.second * 1e9 }
	var err error
	if x.reader, err = tracker.Reader("test"); err != nil {
		x.Fatal(err)
	}
}

// restart is what a daemon does that takes over from one that died.
func (x *tracking) restart() {
	x.Helper()
	tracker, err := OpenTracker(x.memory, secret)
	if err != nil {
		x.Fatal(err)
	}
	x.use(tracker)
}

func (x *tracking) clock() Clock {
	return NewClock(x.kernel(), 250, wall.Add(time.Duration(int64(x.second)-1000)*time.Second))
}

func (x *tracking) kernel() abi.Clock {
	return abi.Clock{Jiffies: x.second * 250, Monotonic: x.second * 1e9}
}

func (x *tracking) tables() []*Table {
	tables := x.fixture.table(x)
	if x.old != nil {
		tables = append(tables, x.old.table(x)...)
	}
	return tables
}

// pass makes one after some seconds, and returns what it reported.
func (x *tracking) pass(seconds uint64) []Report {
	x.Helper()
	x.second += seconds
	if _, err := x.tracker.Pass(x.tables(), x.clock(), x.kernel(), x.timers); err != nil {
		x.Fatal(err)
	}
	return x.read()
}

func (x *tracking) read() (all []Report) {
	for {
		reports := x.reader.Read(x.clock())
		if len(reports) == 0 {
			x.got = append(x.got, all...)
			return all
		}
		x.reader.Taken()
		all = append(all, reports...)
	}
}

// one is the only report of a pass.
func (x *tracking) one(seconds uint64) Report {
	x.Helper()
	reports := x.pass(seconds)
	if len(reports) != 1 {
		x.Fatalf("%d reports: %+v", len(reports), reports)
	}
	return reports[0]
}

func (x *tracking) none(seconds uint64) {
	x.Helper()
	if reports := x.pass(seconds); len(reports) != 0 {
		x.Fatalf("reports: %+v", reports)
	}
}

// nothing makes a pass that may report ends, but no packets.
func (x *tracking) nothing(seconds uint64) {
	x.Helper()
	if sum := total(x.pass(seconds)); sum != (Count{}) {
		x.Fatalf("reported %+v", sum)
	}
}

// at sets a record in a place; count is packets, all of 100 bytes.
func (x *tracking) at(place int, src, dst string, packets, first, last uint64) *abi.FlowRecord {
	record := &x.buckets[place/int(abi.FlowWays)].Record[place%int(abi.FlowWays)]
	*record = raw(src, dst, packets, first, last)
	return record
}

func total(reports []Report) (sum Count) {
	for i := range reports {
		sum = sum.Plus(reports[i].Delta).Plus(reports[i].DeltaReply)
	}
	return sum
}

func TestReportsOfAFlow(t *testing.T) {
	x := newTracking(t, 4)
	x.pass(0) // nothing is there
	x.at(0, client, server, 5, 1000, 1001)
	x.at(9, server, client, 4, 1000, 1001).Value.First++
	var got []Report
	for second := range uint64(100) { // at its moment, whenever that is
		x.at(0, client, server, 5+second, 1000, x.second+1)
		got = append(got, x.pass(1)...)
	}
	if len(got) != 1 {
		t.Fatalf("%d reports in the active time-out: %+v", len(got), got)
	}
	first := got[0]
	if first.Since != at(1000) || first.Delta.Packets < 5 || first.DeltaReply != (Count{4, 400}) || first.End != EndNone || first.Src.Port() != 40000 {
		t.Errorf("first: %+v", first)
	}
	x.at(0, client, server, 200, 1000, x.second)
	x.none(29)
	last := x.one(2)
	if last.End != EndIdle || last.Since != first.Until || last.Delta.Packets != 200-first.Delta.Packets || last.DeltaReply != (Count{}) ||
		last.Packets != 200 || last.Until != at(int(x.second)) {
		t.Errorf("last: %+v, after %+v", last, first)
	}
	for range 20 {
		x.none(50)
	}
	// It wakes up: a flow of its own for those who have taken it for ended, whose packets are counted from there.
	x.at(0, client, server, 207, 1000, x.second)
	if again := x.one(31); again.End != EndIdle || again.Delta != (Count{7, 700}) || again.Since != last.Until {
		t.Errorf("again: %+v", again)
	}
	if sum := total(x.got); sum != (Count{211, 21100}) || x.tracker.Totals().Reported != (Tally{3, sum}) || x.tracker.Totals().Gone != (Count{}) {
		t.Errorf("%+v in all, totals %+v", sum, x.tracker.Totals())
	}
}

func TestEnds(t *testing.T) {
	const fin, rst, ack = 0x11, 0x04, 0x10
	for _, tc := range []struct {
		name        string
		open, reply uint8 // flags; 0: no record
		after       uint64
		want        End
	}{
		{"both sides closed", fin, fin, 3, EndFIN},
		{"one side closed", fin, ack, 31, EndIdle},
		{"the other side isn't seen", fin, 0, 3, EndFIN},
		{"reset by one", ack, rst, 3, EndRST},
		{"closed and reset", fin, fin | rst, 3, EndRST},
		{"silent", ack, ack, 31, EndIdle},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newTracking(t, 4)
			x.pass(0)
			for place, flags := range []uint8{tc.open, tc.reply} {
				if flags == 0 {
					continue
				}
				r := x.at(place, client, server, 3, 999, 1000)
				if place == 1 {
					r = x.at(place, server, client, 3, 999, 1000)
					r.Value.First++
				}
				if r.Value.TcpFlags = flags; flags != ack {
					r.Value.State = uint8(abi.FlowStateClosed)
				}
			}
			x.none(tc.after - 2)
			if r := x.one(2); r.End != tc.want {
				t.Errorf("%+v", r)
			}
			x.none(200)
		})
	}
}

// A side that closed and one that just fell silent: the flow ends when both are silent, whichever was last.
func TestHalfClosedEnds(t *testing.T) {
	x := newTracking(t, 4)
	x.pass(0)
	x.timers.Active = time.Hour
	x.at(0, server, client, 3, 999, 1000)
	closed := x.at(1, client, server, 3, 998, 1010)
	closed.Value.TcpFlags, closed.Value.State = 0x11, uint8(abi.FlowStateClosed)
	for range 40 {
		x.none(1)
	}
	if r := x.one(1); r.End != EndIdle {
		t.Errorf("%+v", r)
	}
}

// What was reported isn't again, and what wasn't is, wherever a flow's records are and whatever becomes of them.
func TestReportsOverMoves(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(x *tracking)
		want   uint64 // packets that are reported then, of 10 that were
		gone   uint64
	}{
		{"grows", func(x *tracking) { x.at(0, client, server, 15, 900, x.second) }, 5, 0},
		{"moves to the LRU map", func(x *tracking) {
			x.buckets[0].Record[0] = abi.FlowRecord{}
			x.lru.records = []abi.FlowRecord{raw(client, server, 15, 900, x.second)}
		}, 5, 0},
		{"moves to another table", func(x *tracking) {
			x.old = newFixture(1)
			x.old.put(raw(client, server, 15, 900, x.second))
			x.buckets[0].Record[0] = abi.FlowRecord{}
		}, 5, 0},
		{"another CPU sees it too", func(x *tracking) { x.at(8, client, server, 3, x.second, x.second) }, 3, 0},
		{"the other side answers", func(x *tracking) { x.at(8, server, client, 3, x.second, x.second) }, 3, 0},
		{"gave way, and began again", func(x *tracking) { x.at(0, client, server, 15, x.second, x.second) }, 15, 10},
		{"gave way, and began again with less", func(x *tracking) { x.at(0, client, server, 2, x.second, x.second) }, 2, 10},
		{"one of its records gave way", func(x *tracking) {
			x.at(0, client, server, 4, 900, x.second)
			x.at(8, client, server, 3, x.second, x.second)
		}, 3, 6},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", tc.name, restart), func(t *testing.T) {
				x := newTracking(t, 4)
				x.at(0, client, server, 10, 900, 1000)
				if r := x.one(1); r.Delta.Packets != 10 { // the first pass looks at all
					t.Fatalf("%+v", r)
				}
				if restart {
					x.restart()
				}
				x.second += 10
				tc.change(x)
				got := x.pass(200)
				if sum := total(got); sum != (Count{tc.want, tc.want * 100}) {
					t.Errorf("reported %+v: %+v", sum, got)
				}
				if totals := x.tracker.Totals(); totals.Gone.Packets != tc.gone || totals.Reported.Packets != 10+tc.want {
					t.Errorf("totals %+v", totals)
				}
				x.none(200)
			})
		}
	}
}

// Flows whose records are gone are forgotten after some rounds, and what was reported of them is a part of what no record holds.
func TestGone(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	x.pass(1)
	x.buckets[0].Record[0] = abi.FlowRecord{}
	for range goneRounds + 2 {
		x.none(100)
	}
	if totals := x.tracker.Totals(); totals.Gone != (Count{10, 1000}) {
		t.Errorf("totals %+v", totals)
	}
	x.at(0, client, server, 3, x.second, x.second)
	if r := x.one(100); r.Delta.Packets != 3 {
		t.Errorf("%+v", r)
	}
}

// Long without a daemon, flows are still there.
func TestDaemonWasAway(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	x.pass(1)
	if r := x.one(100_000); r.End != EndIdle || r.Delta != (Count{}) {
		t.Errorf("%+v", r)
	}
	for range 10 {
		x.restart()
		x.none(100_000)
	}
	x.at(0, client, server, 11, 900, x.second)
	if r := x.one(100_000); r.Delta.Packets != 1 || x.tracker.Totals().Gone != (Count{}) {
		t.Errorf("%+v", r)
	}
}

// The wall clock being set changes no delta, and moves no report to a time when nothing happened.
func TestClockStep(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	before := x.one(1)
	x.at(0, client, server, 13, 900, 1100)
	x.second += 150
	const step = 24 * time.Hour
	stepped := NewClock(x.kernel(), 250, x.clock().wall.Add(step))
	if _, err := x.tracker.Pass(x.tables(), stepped, x.kernel(), x.timers); err != nil {
		t.Fatal(err)
	}
	reports := x.reader.Read(stepped)
	if len(reports) != 1 || reports[0].Delta.Packets != 3 || !reports[0].Since.Equal(before.Until.Add(step)) || !reports[0].First.Equal(before.First.Add(step)) {
		t.Errorf("%+v", reports)
	}
}

// When the process dies between a report and what it changes, the next one makes up for it.
func TestDiesWhileReporting(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	x.pass(1)
	x.at(0, client, server, 15, 900, 1000)
	index, _ := x.tracker.ledger.find(x.tracker.ledger.hash(&x.buckets[0].Record[0].Key))
	was := *x.tracker.ledger.entry(index)
	x.one(200)
	*x.tracker.ledger.entry(index) = was // it got no further than the head of the ring
	x.tracker.ledger.head.applied--
	x.restart()
	x.none(200)
	if sum := total(x.got); sum.Packets != 15 {
		t.Errorf("%+v", sum)
	}
}

// A report that was read but not taken comes again after a restart, and only then.
func TestNotTaken(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	if _, err := x.tracker.Pass(x.tables(), x.clock(), x.kernel(), x.timers); err != nil {
		t.Fatal(err)
	}
	read := x.reader.Read(x.clock())
	x.restart()
	if again := x.read(); len(read) != 1 || len(again) != 1 || again[0] != read[0] {
		t.Errorf("%+v, then %+v", read, again)
	}
	x.restart()
	if more := x.read(); len(more) != 0 {
		t.Errorf("taken and given again: %+v", more)
	}
}

// A reader that takes nothing loses what the ring has no room for, the oldest first, and nobody else loses anything.
func TestRingIsFull(t *testing.T) {
	x := newTracking(t, 4*1024)
	slow, err := x.tracker.Reader("slow")
	if err != nil {
		t.Fatal(err)
	}
	held := slow.Read(x.clock()) // nothing
	flows := len(x.tracker.ledger.slots) * 3 / 2
	for i := range flows {
		x.put(raw(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1024).String(), server, 2, 900, 1000))
	}
	done := make(chan []Report)
	go func() { // the other one keeps up
		var all []Report
		for len(all) < flows {
			reports := x.reader.Read(x.clock())
			x.reader.Taken()
			if all = append(all, reports...); len(reports) == 0 {
				<-x.reader.Wake()
			}
		}
		done <- all
	}()
	if _, err := x.tracker.Pass(x.tables(), x.clock(), x.kernel(), x.timers); err != nil {
		t.Fatal(err)
	}
	if got := <-done; total(got).Packets != uint64(2*flows) {
		t.Errorf("%d reports", len(got))
	}
	var late []Report
	for reports := held; ; late = append(late, reports...) {
		if reports = slow.Read(x.clock()); len(reports) == 0 {
			break
		}
		slow.Taken()
	}
	taken, lost, waiting := slow.Totals()
	if taken.Reports != uint64(len(late)) || lost.Reports == 0 || taken.Reports+lost.Reports != uint64(flows) ||
		taken.Packets+lost.Packets != uint64(2*flows) || waiting != (Tally{}) || len(late) < len(x.tracker.ledger.slots)/2 {
		t.Errorf("taken %+v, lost %+v, waiting %+v", taken, lost, waiting)
	}
	if _, lost, _ := x.reader.Totals(); lost != (Tally{}) {
		t.Errorf("lost by who kept up: %+v", lost)
	}
	// Who is forgotten holds nobody up.
	x.tracker.Keep([]string{"test"})
	again, err := x.tracker.Reader("slow")
	if err != nil {
		t.Fatal(err)
	}
	if taken, lost, waiting := again.Totals(); taken != (Tally{}) || lost != (Tally{}) || waiting != (Tally{}) {
		t.Errorf("a new reader: %+v %+v %+v", taken, lost, waiting)
	}
}

func TestTooManyReaders(t *testing.T) {
	x := newTracking(t, 4)
	for i := range maxReaders - 1 {
		if _, err := x.tracker.Reader(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.tracker.Reader("one more"); err == nil {
		t.Error("one reader too many")
	}
}

// A ledger that grows knows what it knew.
func TestGrow(t *testing.T) {
	x := newTracking(t, 256)
	for i := range 1000 {
		x.put(raw(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1024).String(), server, 2, 900, 1000))
	}
	x.pass(1)
	if err := x.tracker.Grow(100, nil); err != nil { // is large enough
		t.Fatal(err)
	}
	broken := errors.New("no memory")
	if err := x.tracker.Grow(50_000, func(int, func([]byte) error) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	err := x.tracker.Grow(50_000, func(size int, fill func([]byte) error) error {
		x.memory = zeroed(size)
		return fill(x.memory)
	})
	if err != nil {
		t.Fatal(err)
	}
	x.nothing(200)
	x.restart()
	x.nothing(200)
	if taken, _, _ := x.reader.Totals(); taken.Packets != 2000 {
		t.Errorf("%+v", taken)
	}
}

func TestOpenTracker(t *testing.T) {
	x := newTracking(t, 4)
	for name, memory := range map[string][]byte{
		"nothing":         nil,
		"zeros":           zeroed(1 << 20),
		"too short":       x.memory[:len(x.memory)-ledgerPage],
		"of another kind": func() []byte { m := slices.Clone(x.memory); m[0]++; return m }(),
	} {
		if _, err := OpenTracker(memory, secret); !errors.Is(err, ErrNoLedger) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenTracker(x.memory, [2]uint64{1, 2}); !errors.Is(err, ErrNoLedger) {
		t.Errorf("of other tables: %v", err)
	}
	if _, err := NewTracker(x.memory[:headBytes], secret, 1000); err == nil {
		t.Error("a ledger without room")
	}
}

// A flow that the ledger has no room for is not reported, so never twice.
func TestLedgerIsFull(t *testing.T) {
	x := newTracking(t, 4096)
	x.memory = zeroed(LedgerSize(1))
	tracker, err := NewTracker(x.memory, secret, 1)
	if err != nil {
		t.Fatal(err)
	}
	x.use(tracker)
	const flows = 12_000
	for i := range flows {
		x.put(raw(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1024).String(), server, 2, 900, 1000))
	}
	x.pass(1)
	if reports := x.tracker.Totals().Reported.Reports; reports == 0 || reports == flows || reports+x.tracker.NoRoom() != flows {
		t.Errorf("%d reports, %d flows without room", reports, x.tracker.NoRoom())
	}
	x.nothing(200)
}

// What a table holds that is left is reported before it goes, and nothing of it afterwards.
func TestLeave(t *testing.T) {
	x := newTracking(t, 4)
	x.old = newFixture(2)
	x.old.put(raw(client, server, 10, 900, 1000)) // there alone
	x.old.put(raw("198.51.100.8:1", server, 20, 900, 1000))
	x.at(0, "198.51.100.8:1", server, 5, 950, 1000) // in both
	x.at(1, "198.51.100.9:1", server, 7, 950, 1000) // not there
	x.old.lru.records = []abi.FlowRecord{raw("198.51.100.10:1", server, 4, 900, 1000)}
	x.pass(1)
	x.old.buckets[0].Record[0].Value.Packets += 3
	x.old.buckets[0].Record[1].Value.Packets += 2
	x.buckets[0].Record[0].Value.Packets++
	x.second += 5
	if err := x.tracker.Leave(x.old.table(t)[0], x.fixture.table(t), x.clock(), x.kernel(), x.timers); err != nil {
		t.Fatal(err)
	}
	got := x.read()
	ends := map[End]uint64{}
	for _, r := range got {
		ends[r.End] += r.Delta.Packets
	}
	if len(got) != 3 || ends[EndEvicted] != 3 || ends[EndNone] != 3 {
		t.Errorf("%+v", got)
	}
	x.old = nil
	if totals := x.tracker.Totals(); totals.Reported.Packets != 46+6 || totals.Gone.Packets != 13+22+4 {
		t.Errorf("totals %+v", totals)
	}
	x.nothing(200)
	x.buckets[0].Record[0].Value.Packets += 9
	if r := x.one(200); r.Delta.Packets != 9 {
		t.Errorf("%+v", r)
	}
}

// A record that goes elsewhere while the tables are read: nothing is reported twice because of it, or lost.
func TestMovesDuringAPass(t *testing.T) {
	x := newTracking(t, 4)
	x.at(0, client, server, 10, 900, 1000)
	x.lru.records = []abi.FlowRecord{raw("198.51.100.9:1", server, 7, 900, 1000)}
	x.pass(1)
	reads := 0
	for step := range 50 {
		x.lru.begin = func() { // between the array and the LRU map
			if reads++; reads%7 != step%3 {
				return
			}
			array, lru := &x.buckets[0].Record[0], &x.lru.records[0]
			array.Value.Packets++
			array.Value.Bytes += 100
			*array, *lru = *lru, *array
		}
		x.pass(200)
	}
	x.lru.begin = nil
	x.pass(200)
	want := x.buckets[0].Record[0].Value.Packets + x.lru.records[0].Value.Packets
	if sum := total(x.got); sum != (Count{want, want * 100}) || x.tracker.Totals().Gone != (Count{}) {
		t.Errorf("reported %+v of %d packets, totals %+v", sum, want, x.tracker.Totals())
	}
}

// world of the test below: what the kernel does to records, at random, with an account of where packets went.
type churn struct {
	*tracking
	*rand.Rand
	accounted, lost uint64 // packets
}

func (c *churn) key(n uint64) (src, dst string) {
	src, dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n / 2)}), 1024).String(), server
	if n%2 == 1 {
		src, dst = dst, src
	}
	return src, dst
}

// record finds one, in use or not.
func (c *churn) record() *abi.FlowRecord {
	table := c.fixture
	if c.old != nil && c.IntN(3) == 0 {
		table = c.old
	}
	return &table.buckets[c.IntN(len(table.buckets))].Record[c.IntN(int(abi.FlowWays))]
}

func (c *churn) step() {
	r := c.record()
	switch used := r.Key.Tag != 0; c.IntN(12) {
	case 0, 1, 2:
		if !used {
			*r = raw(func() (string, string, uint64, uint64, uint64) {
				s, d := c.key(c.Uint64N(60))
				return s, d, 1, c.second, c.second
			}())
			r.Value.First += c.Uint64N(1e9)
			c.accounted++
		}
	case 3, 4, 5, 6, 7:
		if used {
			n := c.Uint64N(5)
			r.Value.Packets, r.Value.Bytes, r.Value.Last = r.Value.Packets+n, r.Value.Bytes+100*n, uint32(c.second*250)
			c.accounted += n
		}
	case 8: // gives way
		if used {
			c.lost += r.Value.Packets
			*r = abi.FlowRecord{}
		}
	case 9, 10: // goes behind
		if used {
			c.spill(r)
		}
	default: // comes back
		if lru := &c.lru; !used && len(lru.records) > 0 {
			i := c.IntN(len(lru.records))
			*r = lru.records[i]
			lru.records = slices.Delete(lru.records, i, i+1)
		}
	}
}

// spill does what flow_spill() does.
func (c *churn) spill(r *abi.FlowRecord) {
	for i := range c.lru.records {
		if there := &c.lru.records[i]; there.Key == r.Key {
			there.Value.Packets += r.Value.Packets
			there.Value.Bytes += r.Value.Bytes
			there.Value.First = min(there.Value.First, r.Value.First)
			*r = abi.FlowRecord{}
			return
		}
	}
	c.lru.records = append(c.lru.records, *r)
	*r = abi.FlowRecord{}
}

// check closes the account: nothing was reported twice, and what was not reported is in records, or in what was lost.
func (c *churn) check() {
	c.Helper()
	there := uint64(0)
	if err := Sweep(c.tables(), func(r *abi.FlowRecord) bool { there += r.Value.Packets; return true }); err != nil {
		c.Fatal(err)
	}
	if there+c.lost != c.accounted {
		c.Fatalf("the test's own account: %d there, %d lost, %d in all", there, c.lost, c.accounted)
	}
	totals := c.tracker.Totals()
	if sum := total(c.got); sum != totals.Reported.Count || sum.Bytes != 100*sum.Packets {
		c.Fatalf("reported %+v, totals %+v", sum, totals)
	}
	if totals.Gone.Packets > c.lost {
		c.Fatalf("%d packets reported of records that are gone, which held %d", totals.Gone.Packets, c.lost)
	}
	if totals.Reported.Packets > c.accounted {
		c.Fatalf("%d reported of %d packets", totals.Reported.Packets, c.accounted)
	}
}

// rest lets everything be reported that can be.
func (c *churn) rest() {
	c.Helper()
	for range goneRounds + 2 {
		c.pass(100)
	}
	totals := c.tracker.Totals()
	if missed := c.lost - totals.Gone.Packets; totals.Reported.Packets+missed != c.accounted {
		c.Fatalf("%d reported + %d missed of %d packets", totals.Reported.Packets, missed, c.accounted)
	}
	for range 3 {
		c.none(100)
	}
}

func TestReportsAddUp(t *testing.T) {
	for seed := range uint64(6) {
		c := &churn{newTracking(t, 8), rand.New(rand.NewPCG(seed, 1)), 0, 0}
		for round := range 300 {
			for range c.IntN(40) {
				c.step()
			}
			switch c.IntN(30) {
			case 0:
				c.restart()
			case 1:
				c.rest()
			case 2:
				if c.old == nil { // a resize
					c.old, c.fixture = c.fixture, newFixture(4+c.IntN(8))
					c.old.lru, c.lru = fakeLRU{}, c.old.lru
				} else {
					if err := c.tracker.Leave(c.old.table(t)[0], c.fixture.table(t), c.clock(), c.kernel(), c.timers); err != nil {
						t.Fatal(err)
					}
					c.read()
					for b := range c.old.buckets {
						for _, r := range c.old.buckets[b].Record {
							c.lost += r.Value.Packets
						}
					}
					c.old = nil
				}
			}
			c.pass(c.Uint64N(20))
			c.check()
			if t.Failed() {
				t.Fatalf("seed %d round %d", seed, round)
			}
		}
		c.rest()
	}
}

func BenchmarkPass1M(b *testing.B) {
	f := fill(b, 1_000_000)
	x := &tracking{TB: b, fixture: f, timers: Timers{Active: 5 * time.Minute, Idle: time.Minute}, second: 1000}
	x.memory = zeroed(LedgerSize(1_000_000))
	tracker, err := NewTracker(x.memory, secret, 1_000_000)
	if err != nil {
		b.Fatal(err)
	}
	x.use(tracker)
	go func() { // takes all reports
		for range x.reader.Wake() {
			for len(x.reader.Read(clock)) > 0 {
				x.reader.Taken()
			}
		}
	}()
	pass := func() {
		if _, err := tracker.Pass(x.tables(), x.clock(), x.kernel(), x.timers); err != nil {
			b.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	pass()
	runtime.ReadMemStats(&after)
	if _, lost, _ := x.reader.Totals(); lost.Reports > 0 {
		b.Logf("lost %+v", lost)
	}
	b.ResetTimer()
	b.ReportMetric(float64(after.Sys-before.Sys)/1e6, "MB-for-1M-reports")
	for range b.N {
		x.second++
		pass()
	}
}

// What is done about many flows, or a first look at new memory, doesn't make the next passes come late.
func TestReadingIsTheQuickest(t *testing.T) {
	var tracker Tracker
	small, large := []*Table{{records: make([]words, 999)}}, []*Table{{records: make([]words, 9999)}}
	for _, c := range []struct {
		tables     []*Table
		took, want time.Duration
	}{
		{small, 5000, 5000}, {small, 1000, 1000}, {small, 7000, 1000}, {large, 90_000, 10_000}, {large, 8000, 8000}, {small, 1000, 800},
	} {
		if got := tracker.readingOf(c.tables, c.took); got != c.want {
			t.Errorf("after %s: %s, want %s", c.took, got, c.want)
		}
	}
}
