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

// A bundle of more than 64 KB has no length in its IPv6 header, and a jumbo option that the kernel put there; its
// packets on the wire have none. (The kernel takes no such frame for a test, but a short one is made alike.)
func TestBundleWithJumboOption(t *testing.T) {
	d := private(t, allOn())
	if err := d.Commit(1, Tables{}); err != nil {
		t.Fatal(err)
	}
	const payload, size = 2500, 1000
	frame := make([]byte, 14+40+8+20+payload)
	frame[12], frame[13] = 0x86, 0xdd
	frame[14], frame[21] = 0x60, 64
	frame[14+8], frame[14+24] = 0x20, 0x20
	copy(frame[14+40:], []byte{6, 0, 0xc2, 4})
	frame[14+40+8+12] = 5 << 4
	for _, c := range []struct {
		gso    uint32
		option byte
		reason abi.Reason
		want   abi.Counter
	}{
		{size, 0xc2, abi.ReasonDefaultPass, abi.Counter{Packets: 3, Bytes: 3*(14+40+20) + payload}},
		{size, 0x05, abi.ReasonMalformed, abi.Counter{Packets: 1, Bytes: uint64(len(frame))}},
		{0, 0xc2, abi.ReasonMalformed, abi.Counter{Packets: 2, Bytes: 2 * uint64(len(frame))}},
	} {
		frame[14+40+2] = c.option
		_, err := d.Program(HookIngress).Run(&ebpf.RunOptions{
			Data:    frame,
			DataOut: make([]byte, len(frame)+frameGrowth),
			Context: &bundleContext{skbContext: skbContext{Ifindex: 1, IngressIfindex: 1}, GsoSize: c.gso},
		})
		if err != nil {
			t.Fatal(err)
		}
		reasons, err := d.Reasons()
		if err != nil {
			t.Fatal(err)
		}
		if reasons[c.reason] != c.want {
			t.Errorf("gso %d, option %#x: %+v, want %+v", c.gso, c.option, reasons[c.reason], c.want)
		}
	}
}
