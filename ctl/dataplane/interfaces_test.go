package dataplane

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// An interface counts what came in by it and what left by it, also when another one is looked for in the same place, and without a number
// it counts with the rest. A number that another interface gets takes nothing out of the totals.
func TestInterfacesCountWhatPasses(t *testing.T) {
	const loopback, other = 1, 1 + int(abi.InterfacePlaces)
	features := allOff()
	features.Out = true
	d := private(t, features)
	commit(t, d, 1)
	frame := udp4(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7"))
	pass := func() {
		t.Helper()
		for _, hook := range []Hook{HookIngress, HookXDP, HookEgress} {
			if _, err := d.Run(hook, frame, loopback); err != nil {
				t.Fatal(err)
			}
		}
	}
	of := func(n uint64) abi.Counter { return abi.Counter{Packets: n, Bytes: n * uint64(len(frame))} }
	check := func(when string, want map[uint32][2]abi.Counter) {
		t.Helper()
		for number, want := range want {
			all, err := d.InterfaceCounters([]uint32{number})
			if err != nil {
				t.Fatal(err)
			}
			if got := [2]abi.Counter{all[0].Reason[abi.ReasonDefaultPass], all[0].Sent}; got != want {
				t.Errorf("%s: number %d counted %+v received and sent, want %+v", when, number, got, want)
			}
		}
	}
	set := func(ifindex int, number uint16) {
		t.Helper()
		if err := d.SetInterface(ifindex, abi.Interface{Number: number}); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	check("unknown", map[uint32][2]abi.Counter{0: {of(2), of(1)}})
	set(loopback, 1)
	pass()
	check("known", map[uint32][2]abi.Counter{0: {of(2), of(1)}, 1: {of(2), of(1)}})
	set(other, 2)
	pass()
	check("its place taken", map[uint32][2]abi.Counter{1: {of(4), of(2)}, 2: {}})
	if err := d.DeleteInterface(other); err != nil {
		t.Fatal(err)
	}
	pass()
	check("the place free", map[uint32][2]abi.Counter{1: {of(6), of(3)}})

	bundle := bundleContext{skbContext: skbContext{Ifindex: loopback}, GsoSize: 500, GsoSegs: 3}
	long := append(frame[:len(frame):len(frame)], make([]byte, 1400)...)
	if _, err := program(t, d, HookEgress).Run(&ebpf.RunOptions{Data: long, Context: &bundle}); err != nil {
		t.Fatal(err)
	}
	sent := of(3)
	sent.Add(abi.Counter{Packets: 3, Bytes: uint64(len(long))}) // the kernel adds nothing to a bundle that is a test's
	check("a bundle", map[uint32][2]abi.Counter{1: {of(6), sent}})

	if err := d.ResetInterfaceCounters([]uint32{1}); err != nil {
		t.Fatal(err)
	}
	rest := of(1)
	rest.Add(sent)
	check("the number is another's", map[uint32][2]abi.Counter{0: {of(8), rest}, 1: {}})
	if reasons, err := d.Reasons(1, 2); err != nil || reasons[abi.ReasonDefaultPass] != of(8) {
		t.Errorf("in all %+v, %v", reasons[abi.ReasonDefaultPass], err)
	}
}
