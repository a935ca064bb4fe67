package dataplane

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// bundleContext is the kernel's struct __sk_buff up to gso_size.
type bundleContext struct {
	skbContext
	_       [30]uint32
	GsoSegs uint32
	_       [2]uint32
	GsoSize uint32
	_       uint32
}

// A bundle whose number of segments nobody knows, as it comes from a guest, is counted also where it isn't parsed to its end.
func TestBundlesOfUnknownSegmentsAreCounted(t *testing.T) {
	d := private(t, allOn())
	if err := d.Commit(1, Tables{}); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 3000)
	for reason, etherType := range map[abi.Reason]uint16{abi.ReasonNotIp: 0x8847, abi.ReasonMalformed: 0x86dd} {
		binary.BigEndian.PutUint16(frame[12:], etherType)
		before, err := d.Reasons()
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Program(HookIngress).Run(&ebpf.RunOptions{
			Data:    frame,
			DataOut: make([]byte, len(frame)+frameGrowth),
			Context: &bundleContext{skbContext: skbContext{Ifindex: 1, IngressIfindex: 1}, GsoSize: 1000},
		})
		if err != nil {
			t.Fatal(err)
		}
		after, err := d.Reasons()
		if err != nil {
			t.Fatal(err)
		}
		if after[reason].Packets != before[reason].Packets+1 || after[reason].Bytes != before[reason].Bytes+uint64(len(frame)) {
			t.Errorf("reason %d: %+v, then %+v", reason, before[reason], after[reason])
		}
	}
}
