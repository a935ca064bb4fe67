package dataplane

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
)

// limited is a private instance whose one rule drops what is over a limit.
func limited(t *testing.T, limit string) *Dataplane {
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
	d := private(t, tables.Features)
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
	frame := packet{flow: 1}.frame()
	raw := make([]byte, 0, frameWords*8)
	for _, word := range frame {
		for i := range 8 {
			raw = append(raw, byte(word>>(8*i)))
		}
	}
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
