package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

func tablesOf(t *testing.T, d *Dataplane) (lengths []int, lru []uint32) {
	t.Helper()
	err := d.ReadFlows(func(tables []FlowTable) error {
		for _, table := range tables {
			lengths, lru = append(lengths, len(table.Memory)), append(lru, table.LRU.MaxEntries())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lengths, lru
}

func TestFlowTableSizes(t *testing.T) {
	for _, c := range []struct {
		max, cpus int
		want      uint32
	}{{0, 2, 1}, {1, 2, 1}, {4, 1, 2}, {4, 2, 1}, {1000, 2, 250}, {1000, 3, 167}, {1 << 20, 2, 1 << 18}, {1_000_000, 64, 7813}} {
		if got := flowBuckets(c.max, c.cpus); got != c.want {
			t.Errorf("%d flows on %d CPUs: %d buckets a CPU, want %d", c.max, c.cpus, got, c.want)
		}
	}
}

func TestResizeFlowsKeepsTheOldTableUntilFinished(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	bytes := func(max int) int {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			t.Fatal(err)
		}
		return cpus * int(flowBuckets(max, cpus)) * 512
	}
	check := func(sizes ...int) {
		t.Helper()
		var wantLengths []int
		var wantLRU []uint32
		for _, max := range sizes {
			wantLengths, wantLRU = append(wantLengths, bytes(max)), append(wantLRU, lruSize(max))
		}
		if lengths, lru := tablesOf(t, d); !slices.Equal(lengths, wantLengths) || !slices.Equal(lru, wantLRU) {
			t.Errorf("tables of %v bytes and LRU maps of %v, want %v and %v", lengths, lru, wantLengths, wantLRU)
		}
		if d.FlowsMax() != sizes[0] || d.Resizing() != (len(sizes) > 1) {
			t.Errorf("for %d flows, resizing: %v", d.FlowsMax(), d.Resizing())
		}
	}
	check(1000)
	for _, max := range []int{5000, 5000} { // the second does nothing
		if err := d.ResizeFlows(max); err != nil {
			t.Fatal(err)
		}
	}
	check(5000, 1000)
	if err := d.ResizeFlows(100); err == nil {
		t.Error("resized while another resize wasn't finished")
	}
	closeIt(t, d)

	d = open(t, dir)
	check(5000, 1000)
	left := 0
	if err := d.FinishResize(func(old, _ FlowTable) error { left = len(old.Memory); return nil }); err != nil || left != bytes(1000) {
		t.Fatal(err)
	}
	check(5000)
	closeIt(t, d)
	d = open(t, dir)
	defer closeIt(t, d)
	check(5000)
	if err := d.ResizeFlows(10); err != nil {
		t.Fatal(err)
	}
	check(10, 5000)
}

// A new table works with a small LRU map until it has a whole one, into which flows move, also if the daemon died before that.
func TestCompleteFlows(t *testing.T) {
	dir, max := testDir(t), 2*flowStart
	begin := func() *Dataplane {
		d, err := Open(Options{Dir: dir, Features: compile.Features{Flows: true}, FlowsMax: max})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	check := func(d *Dataplane, lru uint32) {
		t.Helper()
		if _, sizes := tablesOf(t, d); !slices.Equal(sizes, []uint32{lru}) || d.FlowsMax() != max || d.Resizing() {
			t.Errorf("LRU maps of %v in a table for %d flows, want %d and %d", sizes, d.FlowsMax(), lru, max)
		}
	}
	d := begin()
	check(d, flowStart)
	closeIt(t, d)
	d = begin()
	if err := d.ResizeFlows(max); err != nil { // what it is made for
		t.Fatal(err)
	}
	check(d, flowStart)
	key, value := abi.FlowKey{Tag: 1}, abi.FlowValue{Packets: 5}
	if err := d.flows.pairs[0].LRU.Put(&key, &value); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is left to do
		if err := d.CompleteFlows(); err != nil {
			t.Fatal(err)
		}
	}
	check(d, lruSize(max))
	closeIt(t, d)
	d = begin()
	defer closeIt(t, d)
	check(d, lruSize(max))
	var moved abi.FlowValue
	if err := d.flows.pairs[0].LRU.Lookup(&key, &moved); err != nil || moved.Packets != 5 {
		t.Errorf("moved: %d packets, error %v", moved.Packets, err)
	}
}

func TestFlowsAreSeenAndAccounted(t *testing.T) {
	features := allOff()
	features.Flows = true
	d := private(t, features)
	commit(t, d, 1)
	const n = 5
	for range n {
		if _, err := d.Run(HookXDP, udp4(netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")), 0); err != nil {
			t.Fatal(err)
		}
	}
	totals, err := d.FlowTotals()
	if err != nil || totals.Accounted != n {
		t.Errorf("totals %+v, %v", totals, err)
	}
	err = d.ReadFlows(func(tables []FlowTable) error {
		if !slices.ContainsFunc(tables[0].Memory, func(b byte) bool { return b != 0 }) {
			t.Error("the table is empty")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCountersOfAllCPUsAreAdded(t *testing.T) {
	d := mapsOnly(t)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	put := func(id uint32, packets uint64) {
		t.Helper()
		parts := make([]abi.RuleCounter, cpus)
		for i := range parts {
			parts[i] = abi.RuleCounter{Packets: packets, Bytes: 2 * packets, Decided: 3 * packets, Shadow: 4 * packets}
		}
		if err := d.maps[abi.AbiMapRuleCounters].Put(id, parts); err != nil {
			t.Fatal(err)
		}
	}
	last := uint32(abi.RuleIds) - 1
	all := firstIDs(int(abi.RuleIds))
	for _, id := range []uint32{0, 16, 5000, last} {
		put(id, uint64(id)+1)
	}
	for _, ids := range [][]uint32{{16}, {last, 16, 0}, all, {}} { // asked for one by one, and read as a whole
		got, err := d.RuleCounters(ids)
		if err != nil || len(got) != len(ids) {
			t.Fatalf("%d ids: %d counters, %v", len(ids), len(got), err)
		}
		for i, id := range ids {
			var want abi.RuleCounter
			switch id {
			case 0, 16, 5000, last:
				n := uint64(cpus) * (uint64(id) + 1)
				want = abi.RuleCounter{Packets: n, Bytes: 2 * n, Decided: 3 * n, Shadow: 4 * n}
			}
			if got[i] != want {
				t.Errorf("id %d: %+v, want %+v", id, got[i], want)
			}
		}
	}
	if err := d.ResetRuleCounters([]uint32{16, last}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.RuleCounters([]uint32{16, last, 5000}); err != nil || got[0] != (abi.RuleCounter{}) || got[1] != (abi.RuleCounter{}) || got[2] == (abi.RuleCounter{}) {
		t.Errorf("after the reset: %+v, %v", got, err)
	}
	for range 2 { // what was taken from rules stays in the sum; a second time there is nothing to take
		n := uint64(cpus) * (17 + uint64(last) + 1)
		got, err := d.RuleCounters([]uint32{uint32(abi.DeciderGone)})
		if err != nil || got[0] != (abi.RuleCounter{Packets: n, Bytes: 2 * n, Decided: 3 * n, Shadow: 4 * n}) {
			t.Errorf("rules that are gone: %+v, %v", got, err)
		}
		if err := d.ResetRuleCounters([]uint32{16, last}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.RuleCounters([]uint32{last + 1}); err == nil {
		t.Error("an id out of bounds was read")
	}
	if _, err := d.BackendCounters([]uint32{0, 1}); err != nil {
		t.Error(err)
	}
}
