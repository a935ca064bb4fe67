package dataplane

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
)

// limited is a private instance whose one rule drops what is over a limit.
func limited(t *testing.T, limit string) *Dataplane { return limitedWith(t, limit, compile.Features{}) }

func limitedWith(t *testing.T, limit string, more compile.Features) *Dataplane {
	t.Helper()
	needRoot(t)
	snapshot, _, err := config.Parse("limit", fmt.Appendf(nil, `
interfaces:
  eth0: {}
filter:
  rules:
    - {name: fast, match: {}, limit: %s, action: drop}
`, limit), ".")
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := compile.IDs{}.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		t.Fatal(err)
	}
	d := private(t, tables.Features.Or(more))
	var generation Tables
	for which, lines := range [][]abi.Line{abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services} {
		if generation[which], err = d.NewTable(abi.Table(which), lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(1, generation); err != nil {
		t.Fatal(err)
	}
	return d
}

func rawFrame(p packet) (raw []byte) {
	for _, word := range p.frame() {
		raw = binary.LittleEndian.AppendUint64(raw, word)
	}
	return raw
}

// within is how many packets were not over the limit, of all.
func within(t *testing.T, d *Dataplane) (within, all uint64) {
	t.Helper()
	counters, err := d.RuleCounters([]uint32{uint32(abi.FirstRuleId)})
	if err != nil {
		t.Fatal(err)
	}
	return counters[0].Packets - counters[0].Decided, counters[0].Packets
}

// Two CPUs take the tokens of one bucket at once: none is taken twice, none is lost.
func TestLimitIsExactOverCPUs(t *testing.T) {
	burst, each := uint64(100_000), 200_000
	if testing.Short() { // an emulated machine
		burst, each = burst/10, each/10
	}
	d := limited(t, fmt.Sprintf("{rate: 100k/h, burst: %d, per: rule}", burst))
	cpus := min(runtime.NumCPU(), 4)
	raw := rawFrame(packet{flow: 1})
	xdp := program(t, d, HookXDP)
	var running sync.WaitGroup
	for cpu := range cpus {
		running.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its CPU
			var one unix.CPUSet
			one.Set(cpu)
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				t.Error(err)
			}
			if _, err := xdp.Run(&ebpf.RunOptions{Data: raw, Repeat: uint32(each)}); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	passed, all := within(t, d)
	totals, err := d.EffectTotals()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d packets by %d CPUs passed; %+v", passed, all, cpus, totals)
	// A token comes back every 36 ms.
	if all < uint64(cpus*each) || passed < burst || passed > burst+100 || totals.Contended != 0 {
		t.Errorf("%d of %d packets passed, the burst is %d; %+v", passed, all, burst, totals)
	}
}

// More flows than there are buckets: those without one share those of others, which is counted, and no limit is exceeded for it.
func TestFlowsWithoutBucketShare(t *testing.T) {
	manyPackets(t)
	const buckets = uint64(abi.LimitLines) * 8
	d := limited(t, "{rate: 1/h, burst: 1, per: flow}")
	d.control.LimitSpare = 0
	pin(t, 0)
	g := newGenerator(t, program(t, d, HookXDP))
	for port := range uint16(12) {
		var packets []packet
		for i := range uint32(generatorMax) {
			packets = append(packets, packet{flow: i, dport: 1 + port})
		}
		g.send(t, packets)
	}
	passed, all := within(t, d)
	totals, err := d.EffectTotals()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d flows, %d buckets: %d passed, %d shared", all, buckets, passed, totals.Shared)
	// Flows of the same line with the same 12 bits are one: a few of a thousand.
	if passed > buckets || passed < buckets*95/100 || totals.Shared < all-passed-all/100 {
		t.Errorf("%d flows, %d buckets: %d passed; %+v", all, buckets, passed, totals)
	}
}

// Buckets that fill get more room, and nobody has his tokens twice for it.
func TestLimitsGrow(t *testing.T) {
	manyPackets(t)
	d := limited(t, "{rate: 1/h, burst: 1, per: flow}")
	pin(t, 0)
	g := newGenerator(t, program(t, d, HookXDP))
	const flows = 48 << 10 // three quarters of the buckets at first
	send := func() (passed uint64) {
		before, _ := within(t, d)
		for sent := 0; sent < flows; sent += generatorMax {
			var packets []packet
			for i := range min(generatorMax, flows-sent) {
				packets = append(packets, packet{flow: uint32(i), dport: uint16(1 + sent/generatorMax)})
			}
			g.send(t, packets)
		}
		after, _ := within(t, d)
		return after - before
	}
	grow := func(want bool) {
		t.Helper()
		if grown, err := d.TendLimits(); err != nil || grown != want {
			t.Fatalf("got %v, %v, want %v", grown, err, want)
		}
	}
	grow(false) // nobody owes anything
	first := send()
	if again := send(); first < flows*9/10 || first > flows || again > 0 {
		t.Errorf("%d of %d flows passed at first, then %d", first, flows, again)
	}
	grow(true)
	// Those that had no bucket get one; flows of the same line with the same 12 bits are one.
	second := send()
	if first+second > flows || first+second < flows*995/1000 {
		t.Errorf("%d of %d flows passed, and %d with twice the room", first, flows, second)
	}
	grow(false)
	if third := send(); third > 0 {
		t.Errorf("%d flows have passed twice", third)
	}
	for d.LimitsMayGrow() { // what nobody needs
		d.control.LimitSpare--
	}
	grow(false)
}

// Times of buckets repeat every 39 hours. One that was never used is full before that, too, and so is one that was tended since it came full.
func TestLimitTimesRepeat(t *testing.T) {
	const wrap = time.Duration(1 << (abi.LimitTimeBits - abi.LimitTickBits))
	d := limitedWith(t, "{rate: 2/h, burst: 2, per: flow}", compile.Features{Trace: true})
	memory, err := mapMemory(d.maps[abi.AbiMapLimits])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/8)
	pass := func(at time.Duration, flow uint32) bool {
		t.Helper()
		d.SetClock(uint64(at))
		before, _ := within(t, d)
		if _, err := d.Run(HookXDP, rawFrame(packet{flow: flow}), 0); err != nil {
			t.Fatal(err)
		}
		after, _ := within(t, d)
		return after > before
	}
	for round := range time.Duration(3) {
		for i, want := range []bool{true, true, false} {
			if got := pass(round*wrap+wrap-time.Minute, uint32(round)); got != want {
				t.Errorf("round %d, packet %d: passed %v, want %v", round, i+1, got, want)
			}
		}
	}
	// Full again since the last round, and asked when its time seems ahead.
	for range 2 {
		if d.tendLimits(words, uint64(3*wrap+2*time.Hour)) {
			t.Error("three buckets want more room")
		}
	}
	if owing := clearFull(words, uint64(3*wrap+2*time.Hour)); owing != 0 {
		t.Errorf("%d buckets owe something", owing)
	}
	for i, want := range []bool{true, true, false} {
		if got := pass(4*wrap-time.Second, 2); got != want {
			t.Errorf("packet %d much later: passed %v, want %v", i+1, got, want)
		}
	}
}
