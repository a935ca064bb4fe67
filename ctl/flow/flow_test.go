package flow

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// Plain memory in the shape of the mapped array, and a slice in that of the LRU map.
type fixture struct {
	buckets []abi.FlowBucket
	lru     fakeLRU
	next    int
	made    *Table
}

func newFixture(buckets int) *fixture { return &fixture{buckets: make([]abi.FlowBucket, buckets)} }

func (f *fixture) table(t testing.TB) []*Table {
	t.Helper()
	if f.made != nil {
		return []*Table{f.made}
	}
	size := len(f.buckets) * int(unsafe.Sizeof(abi.FlowBucket{}))
	table, err := NewTable(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f.buckets))), size), &f.lru)
	if err != nil {
		t.Fatal(err)
	}
	f.made = table
	return []*Table{table}
}

// put stores a record in the next free place of the array.
func (f *fixture) put(r abi.FlowRecord) {
	f.buckets[f.next/int(abi.FlowWays)].Record[f.next%int(abi.FlowWays)] = r
	f.next++
}

// fakeLRU gives its records two at a time, as the kernel gives them a batch at a time.
type fakeLRU struct {
	records []abi.FlowRecord
	at      int
	fail    error
	begin   func()
}

func (l *fakeLRU) BatchLookup(_ *ebpf.MapBatchCursor, keys, values any, _ *ebpf.BatchOptions) (int, error) {
	if l.fail != nil {
		return 0, l.fail
	}
	if l.at == 0 && l.begin != nil {
		l.begin()
	}
	n := 0
	for ; n < 2 && l.at < len(l.records); n++ {
		keys.([]abi.FlowKey)[n], values.([]abi.FlowValue)[n] = l.records[l.at].Key, l.records[l.at].Value
		l.at++
	}
	if l.at == len(l.records) {
		l.at = 0
		return n, ebpf.ErrKeyNotExist
	}
	return n, nil
}

// raw makes a TCP record; first and last are seconds after boot on a machine with 250 jiffies a second.
func raw(src, dst string, packets, first, last uint64) abi.FlowRecord {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	tag := abi.FlowUsed
	if s.Addr().Is6() {
		tag |= abi.FlowV6
	}
	var r abi.FlowRecord
	r.Key = abi.FlowKey{
		Saddr: s.Addr().As16(), Daddr: d.Addr().As16(),
		BeSport: abi.Htons(s.Port()), BeDport: abi.Htons(d.Port()),
		Proto: 6, Tag: uint16(tag) << tagFlags,
	}
	r.Value = abi.FlowValue{Packets: packets, Bytes: packets * 100, First: first * 1e9, Last: uint32(last * 250)}
	return r
}

var (
	wall  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock = NewClock(abi.Clock{Jiffies: 1000 * 250, Monotonic: 1000e9}, 250, wall)
)

// at is the wall time of a second after boot.
func at(second int) time.Time { return wall.Add(time.Duration(second-1000) * time.Second) }

func collect(t *testing.T, tables []*Table, limit int) map[Key]Flow {
	t.Helper()
	got := map[Key]Flow{}
	if err := flows(tables, clock, limit, func(f *Flow) bool {
		if _, twice := got[f.Key]; twice {
			t.Errorf("flow %v given twice", f.Key)
		}
		got[f.Key] = *f
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func only(t *testing.T, tables []*Table) Flow {
	t.Helper()
	got := collect(t, tables, joinMax)
	if len(got) != 1 {
		t.Fatalf("%d flows, want 1: %v", len(got), got)
	}
	for _, f := range got {
		return f
	}
	panic("unreachable")
}

const client, server = "198.51.100.7:40000", "192.0.2.10:443"

func TestNewRecord(t *testing.T) {
	r := raw("[2001:db8::1]:40000", "[2001:db8::2]:443", 3, 900, 950)
	r.Key.Tag |= uint16(abi.FlowOut)<<tagFlags | 7
	r.Value.Verdict, r.Value.Reason = uint8(abi.VerdictForward), uint8(abi.ReasonForward)
	r.Value.Rule, r.Value.Service, r.Value.Backend = 17, 2, 3
	got := NewRecord(&r, clock)
	want := Record{
		Key: Key{Src: netip.MustParseAddrPort("[2001:db8::1]:40000"), Dst: netip.MustParseAddrPort("[2001:db8::2]:443"),
			Proto: 6, VLAN: 7, Out: true},
		Packets: 3, Bytes: 300, First: at(900), Last: at(950),
		Verdict: abi.VerdictForward, Reason: abi.ReasonForward, Rule: 17, Service: 2, Backend: 3,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestMappedAddressStaysIPv6(t *testing.T) {
	r := raw(client, server, 1, 1, 1)
	r.Key.Tag |= uint16(abi.FlowV6) << tagFlags
	if got := NewRecord(&r, clock); !got.Src.Addr().Is4In6() {
		t.Errorf("source %v of an IPv6 packet", got.Src)
	}
}

func TestJiffiesWrap(t *testing.T) {
	c := NewClock(abi.Clock{Jiffies: 1<<32 + 250, Monotonic: 1e9}, 250, wall)
	for _, tc := range []struct {
		low  uint32
		want time.Duration
	}{
		{250, 0},
		{0, -time.Second},
		{0xffffffff - 249, -2 * time.Second}, // before the wrap
		{500, time.Second},                   // written after the clock was read
		{0x80000000 + 250, -2 * 4294967296 * time.Second / 1000}, // 99 days ago
	} {
		if got := c.Jiffies(tc.low).Sub(wall); got != tc.want {
			t.Errorf("jiffies %#x: %v, want %v", tc.low, got, tc.want)
		}
	}
}

// A clock is good until the wall clock was set, or it is too old to tell later from very long ago.
func TestClockAgrees(t *testing.T) {
	first := NewClock(abi.Clock{Jiffies: 1 << 32, Monotonic: 1e9}, 250, wall)
	for _, tc := range []struct {
		name string
		age  time.Duration // by the kernel's clocks
		set  time.Duration // of the wall clock since
		want bool
	}{
		{"at once", 0, 0, true},
		{"a while later", 10 * time.Minute, 0, true},
		{"a tick off", 10 * time.Minute, 4 * time.Millisecond, true},
		{"the wall clock was set", 10 * time.Minute, time.Second, false},
		{"the wall clock was set back", 10 * time.Minute, -time.Second, false},
		{"too old", 2 * ahead, 0, false},
	} {
		later := abi.Clock{Jiffies: 1<<32 + uint64(tc.age.Seconds()*250), Monotonic: 1e9 + uint64(tc.age)}
		if got := first.Agrees(NewClock(later, 250, wall.Add(tc.age+tc.set))); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}

func TestJoin(t *testing.T) {
	f := newFixture(4)
	open, reply := raw(client, server, 5, 100, 110), raw(server, client, 4, 101, 120)
	open.Value.TcpFlags, reply.Value.TcpFlags = 0x02, 0x12
	reply.Key.Tag |= uint16(abi.FlowOut) << tagFlags // answered by the box itself
	reply.Key.Zone = 1
	f.put(reply)
	f.put(open)
	f.put(raw("198.51.100.7:40001", server, 1, 100, 100))
	got := collect(t, f.table(t), joinMax)
	if len(got) != 2 {
		t.Fatalf("%d flows, want 2: %v", len(got), got)
	}
	joined := got[NewKey(&open.Key)]
	if joined.Packets != 5 || joined.PacketsReply != 4 || joined.BytesReply != 400 ||
		joined.TCPFlags != 0x02 || joined.TCPFlagsReply != 0x12 || joined.First != at(100) || joined.Last != at(120) {
		t.Errorf("joined: %+v", joined)
	}
}

func TestOpenerOfATie(t *testing.T) {
	f := newFixture(1)
	f.put(raw(server, client, 1, 100, 100))
	f.put(raw(client, server, 1, 100, 100))
	if got := only(t, f.table(t)); got.Dst.Port() != 443 {
		t.Errorf("opened by %v", got.Src)
	}
}

// Who was answered opened the flow, also when its SYN lost its record, but not who only rejects what it never asked for.
func TestOpenerWasAnswered(t *testing.T) {
	for _, c := range []struct {
		name   string
		flags  uint8 // of the client's record, which begins after the server's
		opener string
	}{
		{"the SYN is forgotten", 0x18, client}, {"reset later", 0x1c, client}, {"an ACK", 0x10, client},
		{"rejected", tcpRST, server}, {"rejected with ACK", tcpRST | tcpACK, server},
	} {
		f := newFixture(1)
		answer, later := raw(server, client, 5, 100, 120), raw(client, server, 4, 101, 120)
		answer.Value.TcpFlags, answer.Value.State = 0x1a, uint8(abi.FlowStateEstablished|abi.FlowStateAnswered)
		later.Value.TcpFlags, later.Value.State = c.flags, uint8(abi.FlowStateEstablished)
		f.put(answer)
		f.put(later)
		if got := only(t, f.table(t)); got.Src.String() != c.opener || got.State != abi.FlowStateEstablished {
			t.Errorf("%s: opened by %v, state %d", c.name, got.Src, got.State)
		}
	}
}

// Both directions of a flow have one key and one hash, whatever their ends are, and each its side; nothing else has them.
func TestJointKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addrs := [][16]uint8{netip.MustParseAddr("198.51.100.7").As16(), netip.MustParseAddr("192.0.2.10").As16(), netip.MustParseAddr("2001:db8::7").As16(), {}}
	seen := map[abi.FlowKey]abi.FlowKey{} // by joint key: the smaller of the two
	for range 200_000 {
		pick := func(n int) uint16 { return uint16(r.IntN(n)) }
		key := abi.FlowKey{Saddr: addrs[r.IntN(4)], Daddr: addrs[r.IntN(4)], BeSport: abi.Htons(pick(3)), BeDport: abi.Htons(pick(3)), Proto: uint8(pick(3)),
			Zone: uint8(pick(2)), Tag: (uint16(abi.FlowUsed)|pick(8))<<tagFlags | pick(2)}
		back := key
		back.Saddr, back.Daddr, back.BeSport, back.BeDport = key.Daddr, key.Saddr, key.BeDport, key.BeSport
		back.Zone, back.Tag = uint8(pick(2)), back.Tag^pick(2)<<tagFlags // seen elsewhere, perhaps as sent
		one, side := joint(key)
		other, opposite := joint(back)
		itself := key.Saddr == key.Daddr && key.BeSport == key.BeDport
		if one != other || hash(&key) != hash(&back) || hash(&key) != hash(&one) || (side == opposite) != itself {
			t.Fatalf("%+v: %+v, side %d; %+v: %+v, side %d", key, one, side, back, other, opposite)
		}
		if again, which := joint(one); again != one || which != 0 {
			t.Fatalf("%+v joins as %+v, side %d", one, again, which)
		}
		same := key // what makes a flow, in the order in which its ends are
		same.Zone, same.Tag = 0, same.Tag&^(uint16(abi.FlowOut)<<tagFlags)
		if side == 1 {
			same.Saddr, same.Daddr, same.BeSport, same.BeDport = key.Daddr, key.Saddr, key.BeDport, key.BeSport
		}
		if before, there := seen[one]; there && before != same {
			t.Fatalf("%+v and %+v are one flow", before, same)
		}
		seen[one] = same
	}
	if len(seen) < 1000 {
		t.Errorf("only %d flows", len(seen))
	}
}

// What a sweep keeps in memory depends on its limit, not on the size of the table.
func TestMemoryOfASweep(t *testing.T) {
	const limit = 1000
	took := map[int]uint64{}
	for _, n := range []int{2000, 64_000} {
		f := newFixture(n / 2)
		for i := range n {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1024).String()
			f.put(raw(src, server, 1, 10, 20))
			f.put(raw(server, src, 2, 11, 20))
		}
		tables := f.table(t)
		j := joiner{limit: limit}
		var packets uint64
		if err := j.flows(tables, clock, func(f *Flow) bool { packets += f.Packets + f.PacketsReply; return true }); err != nil {
			t.Fatal(err)
		}
		if packets != uint64(3*n) || cap(j.pairs) > 2*limit || len(j.index) > limit {
			t.Errorf("%d flows: %d packets, room for %d flows in memory, %d in the index", n, packets, cap(j.pairs), len(j.index))
		}
		account := Account{Counters: func() (abi.FlowTotals, error) { return abi.FlowTotals{Created: 1}, nil }}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if totals, err := account.Total(tables); err != nil || totals.Records.Packets != uint64(3*n) {
			t.Fatalf("%+v, %v", totals, err)
		}
		runtime.ReadMemStats(&after)
		took[n] = after.TotalAlloc - before.TotalAlloc
	}
	if took[64_000] > took[2000]+1<<16 {
		t.Errorf("bytes of memory that a sweep took, by flows: %v", took)
	}
}

func TestRecordsOfOneKeyAreAdded(t *testing.T) {
	f := newFixture(4)
	a, b, c := raw(client, server, 5, 100, 110), raw(client, server, 7, 90, 120), raw(client, server, 11, 80, 95)
	a.Value.Backend, b.Value.Backend = 1, 2
	a.Value.TtlMin, a.Value.TtlMax = 60, 64
	b.Value.TtlMin, b.Value.TtlMax = 58, 58
	c.Value.TtlMin, c.Value.TtlMax = 59, 59
	f.put(a)
	f.put(b)
	f.lru.records = []abi.FlowRecord{c}
	got := only(t, f.table(t))
	if got.Packets != 23 || got.Bytes != 2300 || got.First != at(80) || got.Last != at(120) || got.Backend != 2 ||
		got.TTLMin != 58 || got.TTLMax != 64 {
		t.Errorf("%+v", got)
	}
}

// A handshake is put together from both directions, and from the CPUs that each passed on.
func TestHandshakeOverCPUs(t *testing.T) {
	open := func(first, syn, acked uint64) abi.FlowRecord {
		r := raw(client, server, 1, first, 200)
		r.Value.Syn, r.Value.Acked, r.Value.Retransmits = syn*1e9, acked*1e9, 1
		return r
	}
	reply := raw(server, client, 1, 103, 200)
	reply.Value.Syn = 103e9
	for name, c := range map[string]struct {
		records        []abi.FlowRecord
		server, client time.Duration
		retransmits    uint32
	}{
		"one CPU":                     {[]abi.FlowRecord{open(100, 100, 107)}, 3 * time.Second, 4 * time.Second, 1},
		"the ACK on another":          {[]abi.FlowRecord{open(100, 100, 0), open(107, 0, 0)}, 3 * time.Second, 4 * time.Second, 2},
		"later segments on another":   {[]abi.FlowRecord{open(110, 0, 0), open(100, 100, 107)}, 3 * time.Second, 4 * time.Second, 2},
		"another SYN on another":      {[]abi.FlowRecord{open(100, 100, 0), open(102, 102, 107)}, time.Second, 4 * time.Second, 2},
		"the SYN wasn't seen":         {[]abi.FlowRecord{open(107, 0, 0), open(108, 0, 0)}, 0, 0, 2},
		"of the connection before it": {[]abi.FlowRecord{open(50, 50, 51)}, 53 * time.Second, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(4)
			for _, r := range c.records {
				f.put(r)
			}
			f.put(reply)
			if got := only(t, f.table(t)); got.ServerRTT != c.server || got.ClientRTT != c.client || got.Retransmits+got.RetransmitsReply != c.retransmits {
				t.Errorf("server %s, client %s, %d retransmissions", got.ServerRTT, got.ClientRTT, got.Retransmits+got.RetransmitsReply)
			}
		})
	}
}

// A record that goes to the LRU map after its place in the array was read is one record, not two.
func TestMovedDuringSweep(t *testing.T) {
	f := newFixture(1)
	f.put(raw(client, server, 5, 100, 110))
	f.lru.records = []abi.FlowRecord{raw(client, server, 6, 100, 111)}
	if got := only(t, f.table(t)); got.Packets != 11 {
		t.Errorf("two records that are both there: %d packets, want 11", got.Packets)
	}
	f.lru.begin = func() { f.buckets[0].Record[0] = abi.FlowRecord{} }
	if got := only(t, f.table(t)); got.Packets != 6 {
		t.Errorf("moved: %d packets, want 6", got.Packets)
	}
}

// A flow that goes from the old table to the new one while they are read is not missed, and not given twice.
func TestMovedToTheNewTableDuringSweep(t *testing.T) {
	now, old := newFixture(1), newFixture(1)
	now.buckets[0].Record[1] = raw("198.51.100.8:1", server, 1, 1, 1)
	old.put(raw(client, server, 5, 100, 110))
	tables := append(now.table(t), old.table(t)...)
	var seen joiner
	seen.limit, seen.index = joinMax, map[abi.FlowKey]int{}
	err := sweep(tables, func(record *abi.FlowRecord, slot *words) bool {
		seen.add(record, slot)
		if old.buckets[0].Record[0].Key.Tag != 0 {
			now.buckets[0].Record[0] = old.buckets[0].Record[0] // before where the sweep is
			old.buckets[0].Record[0] = abi.FlowRecord{}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.pairs) != 2 {
		t.Errorf("%d flows, want 2", len(seen.pairs))
	}
	for _, p := range seen.pairs {
		if f := p.flow(clock); f.Packets != 1 && f.Packets != 5 {
			t.Errorf("%d packets", f.Packets)
		}
	}
}

// However few flows fit in memory, each is given exactly once with both directions.
func TestFlowsInParts(t *testing.T) {
	f := newFixture(1000)
	for i := range 1000 {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1024).String()
		f.put(raw(src, server, 1, 10, 20))
		f.lru.records = append(f.lru.records, raw(server, src, 2, 11, 20))
	}
	for _, limit := range []int{100, 999, 1000, joinMax} {
		got := collect(t, f.table(t), limit)
		if len(got) != 1000 {
			t.Errorf("limit %d: %d flows", limit, len(got))
		}
		for _, flow := range got {
			if flow.Packets != 1 || flow.PacketsReply != 2 {
				t.Fatalf("limit %d: %+v", limit, flow)
			}
		}
	}
}

func TestFlowsStop(t *testing.T) {
	f := newFixture(2)
	f.put(raw(client, server, 1, 1, 1))
	f.put(raw("198.51.100.7:40001", server, 1, 1, 1))
	n := 0
	if err := Flows(f.table(t), clock, func(*Flow) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d flows after the first said stop, error %v", n, err)
	}
}

func TestTotal(t *testing.T) {
	f := newFixture(4)
	f.put(raw(client, server, 5, 1, 1))
	f.put(raw(server, client, 4, 1, 60))
	f.lru.records = []abi.FlowRecord{raw("198.51.100.8:1", server, 3, 1, 1), raw("198.51.100.9:1", server, 2, 1, 1), raw("198.51.100.10:1", server, 2, 1, 1)}
	counters := abi.FlowTotals{
		Created: 5, Accounted: 34, AccountedBytes: 3400, Evicted: 1, EvictedBytes: 100, Refused: 2, RefusedBytes: 200,
		Spilled: 20, SpilledBytes: 2000, Returned: 2, ReturnedBytes: 200, // 18 went behind and stayed, 7 are there
	}
	account := Account{
		Counters:  func() (abi.FlowTotals, error) { return counters, nil },
		Dropped:   Count{4, 400},
		LiveSince: 30 * 250,
	}
	got, err := account.Total(f.table(t))
	if err != nil {
		t.Fatal(err)
	}
	if got.Capacity != 16 || got.Live != 1 || got.Records != (Sum{2, 9, 900}) || got.LRU != (Sum{3, 7, 700}) ||
		got.Lost != (Count{11, 1100}) || got.Unattributed != (Count{18, 1800}) {
		t.Errorf("%+v", got)
	}
	if sum := got.Records.Packets + got.LRU.Packets + got.Unattributed.Packets; sum != got.Accounted.Packets {
		t.Errorf("%d packets found, %d accounted", sum, got.Accounted.Packets)
	}
}

// A flow that comes back into the array between the counters and the sweep is not lost.
func TestTotalWhileFlowsMove(t *testing.T) {
	f := newFixture(1)
	f.put(raw(client, server, 5, 1, 1))
	read := 0
	got, err := Account{Counters: func() (abi.FlowTotals, error) {
		read++
		counters := abi.FlowTotals{Created: 1, Accounted: 5, Spilled: 5}
		if read == 2 {
			counters.Returned = 5
		}
		return counters, nil
	}}.Total(f.table(t))
	if err != nil || got.Lost != (Count{}) {
		t.Errorf("lost %+v, error %v", got.Lost, err)
	}
}

func TestErrors(t *testing.T) {
	if _, err := NewTable(make([]byte, 100), nil); err == nil {
		t.Error("half a bucket is accepted")
	}
	broken := errors.New("no such map")
	f := newFixture(1)
	f.lru.fail = broken
	if err := Flows(f.table(t), clock, func(*Flow) bool { return true }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// A writer replaces records as the programs do while the reader sweeps: no copy may mix two flows. The fields of
// each flow are derived from one number, so that a mixture shows.
func TestNoTornReads(t *testing.T) {
	var (
		slot words
		stop atomic.Bool
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		for n := uint64(1); !stop.Load(); n++ {
			atomic.StoreUint64(&slot[tagWord], 0)
			for i := range slot {
				if i != tagWord {
					atomic.StoreUint64(&slot[i], n)
				}
			}
			atomic.StoreUint64(&slot[tagWord], 1<<63|n&(1<<tagShift-1))
		}
	}()
	var copied words
	read := 0
	for began := time.Now(); time.Since(began) < 200*time.Millisecond || read == 0 && time.Since(began) < time.Minute; {
		if !load(&slot, &copied) {
			continue
		}
		read++
		for i, w := range copied {
			if i != tagWord && w != copied[0] {
				t.Fatalf("torn: word %d is of %d, the first of %d", i, w, copied[0])
			}
		}
	}
	stop.Store(true)
	<-done
	if read == 0 {
		t.Error("nothing was read")
	}
	t.Logf("%d reads", read)
}

func BenchmarkSweep1M(b *testing.B) {
	f := fill(b, 1_000_000)
	tables := f.table(b)
	b.ResetTimer()
	for range b.N {
		n := 0
		if err := Sweep(tables, func(*abi.FlowRecord) bool { n++; return true }); err != nil || n != 1_000_000 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkFlows1M(b *testing.B) {
	f := fill(b, 1_000_000)
	tables := f.table(b)
	b.ResetTimer()
	for range b.N {
		n := 0
		if err := Flows(tables, clock, func(*Flow) bool { n++; return true }); err != nil || n != 1_000_000 {
			b.Fatal(n, err)
		}
	}
}

func fill(b *testing.B, n int) *fixture {
	b.Helper()
	f := newFixture(n / int(abi.FlowWays) * 2) // half full, as a table of the right size is
	for i := range n {
		r := raw(client, server, 1, 1, 1)
		r.Key.Saddr[13], r.Key.Saddr[14], r.Key.Saddr[15] = byte(i>>16), byte(i>>8), byte(i)
		f.put(r)
		f.next++
	}
	return f
}
