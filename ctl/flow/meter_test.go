package flow

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"gardu/ctl/abi"
)

// meterRig is a table that changes between readings.
type meterRig struct {
	*testing.T
	*fixture
	meter *Meter
}

func newMeterRig(t *testing.T, buckets int) *meterRig {
	return &meterRig{t, newFixture(buckets), NewMeter()}
}

func (r *meterRig) record(at int) *abi.FlowRecord {
	return &r.buckets[at/int(abi.FlowWays)].Record[at%int(abi.FlowWays)]
}

// read gives what flows did, by source port of the opener, at a second after boot.
func (r *meterRig) read(second int) map[uint16][2]uint64 {
	r.Helper()
	return r.readWith(clock, second)
}

func (r *meterRig) readWith(clock Clock, second int) map[uint16][2]uint64 {
	r.Helper()
	got := map[uint16][2]uint64{}
	err := r.meter.Read(r.table(r.T), clock, clock.Monotonic(uint64(second)*1e9), func(f *Flow, did, reply Count) bool {
		if did.Bytes != did.Packets*100 || reply.Bytes != reply.Packets*100 {
			r.Errorf("%+v, %+v", did, reply)
		}
		got[f.Src.Port()] = [2]uint64{did.Packets, reply.Packets}
		return true
	})
	if err != nil {
		r.Fatal(err)
	}
	return got
}

func (r *meterRig) expect(second int, want map[uint16][2]uint64) {
	r.Helper()
	got := r.read(second)
	if len(got) != len(want) {
		r.Errorf("second %d: got %v, want %v", second, got, want)
	}
	for port, n := range want {
		if got[port] != n {
			r.Errorf("second %d: port %d did %v, want %v", second, port, got[port], n)
		}
	}
}

func (r *meterRig) set(at int, packets, last uint64) {
	v := &r.record(at).Value
	v.Packets, v.Bytes, v.Last = packets, packets*100, uint32(last*250)
}

func TestMeter(t *testing.T) {
	r := newMeterRig(t, 4)
	r.put(raw("198.51.100.7:1000", "192.0.2.10:443", 10, 500, 600)) // 0
	r.put(raw("192.0.2.10:443", "198.51.100.7:1000", 5, 501, 600))  // 1: replies to it
	r.put(raw("198.51.100.7:2000", "192.0.2.10:443", 7, 500, 600))  // 2
	r.expect(700, nil)                                              // known from now on
	r.expect(701, nil)                                              // nothing happened

	r.set(0, 13, 702)
	r.set(1, 9, 702)
	r.put(raw("198.51.100.7:3000", "192.0.2.10:443", 2, 702, 702)) // 3: new, all of it
	r.expect(703, map[uint16][2]uint64{1000: {3, 4}, 3000: {2, 0}})

	r.set(3, 3, 704)
	*r.record(2) = raw("198.51.100.7:2000", "192.0.2.10:443", 9, 704, 704) // the record gave way, and the flow came back: 9, not 2
	*r.record(0) = raw("198.51.100.7:1000", "192.0.2.10:443", 4, 704, 704) // likewise; its replies are older now, so it is the other way round
	r.put(raw("198.51.100.7:4000", "192.0.2.10:443", 1000, 300, 704))      // 4: nobody knows what it had before
	r.expect(705, map[uint16][2]uint64{2000: {9, 0}, 3000: {1, 0}})
	r.set(4, 1001, 706)
	r.expect(707, map[uint16][2]uint64{4000: {1, 0}})
}

// A flow that begins while a reading goes on counts once.
func TestMeterBeginsDuringReading(t *testing.T) {
	r := newMeterRig(t, 1)
	r.read(700)
	r.put(raw("198.51.100.7:1000", "192.0.2.10:443", 3, 702, 702)) // after the time of the reading that sees it
	r.expect(701, map[uint16][2]uint64{1000: {3, 0}})
	r.set(0, 5, 703)
	r.expect(704, map[uint16][2]uint64{1000: {2, 0}})
}

// A clock that is read anew says the same: new flows are new.
func TestMeterClockReadAnew(t *testing.T) {
	r := newMeterRig(t, 1)
	r.put(raw("198.51.100.7:1000", "192.0.2.10:443", 100, 690, 699))
	r.read(700)
	anew := NewClock(abi.Clock{Jiffies: 1600 * 250, Monotonic: 1600e9}, 250, wall.Add(600*time.Second+5*time.Millisecond))
	r.set(0, 103, 701)
	r.put(raw("198.51.100.7:2000", "192.0.2.10:443", 2, 701, 701))
	if got := r.readWith(anew, 702); got[1000] != [2]uint64{3, 0} || got[2000] != [2]uint64{2, 0} {
		t.Errorf("%v", got)
	}
}

// When the wall clock is set, no flow looks new.
func TestMeterClockStep(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		r := newMeterRig(t, 1)
		r.put(raw("198.51.100.7:1000", "192.0.2.10:443", 100, 690, 699))
		r.read(700)
		r.set(0, 103, 701)
		stepped := NewClock(abi.Clock{Jiffies: 1000 * 250, Monotonic: 1000e9}, 250, wall.Add(step))
		if got := r.readWith(stepped, 701); got[1000] != [2]uint64{3, 0} {
			t.Errorf("after a step of %v: %v", step, got)
		}
		r.set(0, 104, 702)
		if got := r.readWith(stepped, 702); got[1000] != [2]uint64{1, 0} {
			t.Errorf("and then: %v", got)
		}
	}
}

// Memory is bounded, and those that are silent for longest are forgotten.
func TestMeterForgets(t *testing.T) {
	r := newMeterRig(t, 256)
	r.meter.limit = 400
	for i := range 900 {
		r.put(raw("198.51.100.7:1000", "192.0.2.10:443", 1, 1, 1))
		binary.BigEndian.PutUint16(r.record(i).Key.Saddr[14:], uint16(i))
	}
	alive := 250 // of 900 go on
	seen := 0
	for reading := range 6 {
		for i := range alive {
			r.set(i, r.record(i).Value.Packets+1, uint64(699+reading))
		}
		seen = 0
		err := r.meter.Read(r.table(t), clock, at(700+reading), func(_ *Flow, did, _ Count) bool {
			seen++
			if did.Packets != 1 {
				t.Errorf("%d packets", did.Packets)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(r.meter.known); n > r.meter.limit {
			t.Fatalf("%d flows are known", n)
		}
	}
	if seen != alive {
		t.Errorf("%d flows of %d are known", seen, alive)
	}
}

// Whatever comes and goes, nothing counts twice: what all readings give of a flow is never more than it had.
func TestMeterNeverTooMuch(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 5))
		r := newMeterRig(t, 8)
		r.meter.limit = 4 + random.IntN(40)
		had, got := map[uint16]uint64{}, map[uint16]uint64{}
		for second := 700; second < 760; second++ {
			for range random.IntN(20) {
				slot := random.IntN(32)
				if rec := r.record(slot); rec.Key.Tag == 0 || random.IntN(10) == 0 {
					port := uint16(1000 + slot)
					*rec = raw("198.51.100.7:1", "192.0.2.10:443", 0, uint64(second), uint64(second))
					rec.Key.BeSport = abi.Htons(port)
				}
				n := random.Uint64N(5)
				had[uint16(1000+slot)] += n
				r.set(slot, r.record(slot).Value.Packets+n, uint64(second))
			}
			for port, n := range r.read(second) {
				got[port] += n[0]
			}
		}
		for port, n := range got {
			if n > had[port] {
				t.Errorf("seed %d: port %d had %d packets, and %d were given", seed, port, had[port], n)
			}
		}
	}
}

// jiffiesAt and Jiffies say the same.
func TestJiffiesAt(t *testing.T) {
	for _, second := range []int{0, 1, 999, 1000, 1001, 4000} {
		if got := clock.Jiffies(clock.jiffiesAt(at(second))); !got.Equal(at(second)) {
			t.Errorf("second %d: %v, want %v", second, got, at(second))
		}
	}
}

// A million flows, of which ten thousand had packets since the last reading.
func BenchmarkMeter1M(b *testing.B) {
	f := fill(b, 1_000_000)
	tables := f.table(b)
	meter := NewMeter()
	second := 2000
	read := func(want int) {
		n := 0
		if err := meter.Read(tables, clock, at(second), func(*Flow, Count, Count) bool { n++; return true }); err != nil || n > want {
			b.Fatal(n, err)
		}
		second += 2
	}
	read(0)
	for b.Loop() {
		for i := range 10_000 {
			v := &f.buckets[i*25].Record[0].Value
			v.Packets, v.Bytes, v.Last = v.Packets+1, v.Bytes+100, uint32(second*250)
		}
		read(10_000)
	}
}
