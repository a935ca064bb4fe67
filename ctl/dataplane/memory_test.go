package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
)

// flowBytes is the most that an expected flow may take of the kernel's memory: two records, and its place in the LRU map behind them.
const flowBytes = 450

// What the kernel took for a flow table is what was planned, and for each flow little enough. Kernels before 6.4 guess what a hash takes, and
// too little.
func TestMemoryOfFlows(t *testing.T) {
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	exact := version >= 6<<16|4<<8
	for _, flows := range []int{
		1000,
		1 << 18,
		300_000, // the LRU map has just more than 1 << 18, so the kernel makes twice as many buckets of its hash
	} {
		d := private(t, allOff())
		if err := d.ResizeFlows(flows); err != nil {
			t.Fatal(err)
		}
		var took uint64
		pair := d.flows.pairs[d.control.FlowSlot]
		for _, m := range []*ebpf.Map{pair.array, pair.LRU} {
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			bytes, ok := info.Memlock()
			if !ok {
				t.Fatal("the kernel doesn't say how much memory a map takes")
			}
			took += bytes
		}
		planned, err := FlowMemory(flows)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d flows: %d bytes, %d each", flows, took, took/uint64(flows))
		if over := float64(planned) / float64(took); over < 0.98 || over > 1.01 && flows > 1000 && exact {
			t.Errorf("%d flows: %d bytes planned, %d taken", flows, planned, took)
		}
		if flows > 1000 && took > uint64(flows)*flowBytes {
			t.Errorf("a flow takes %d bytes", took/uint64(flows))
		}
	}
}
