package dataplane

import (
	"encoding/binary"
	"net/netip"
	"os"
	"regexp"
	"testing"

	"gardu/ctl/abi"
)

// While the daemon has not found the way to a backend, the kernel's routes say it. A tunnel needs to know as well where it
// sends from: what comes from nowhere is lost on the way, although it was counted as forwarded.
func TestWayByTheKernelsRoutes(t *testing.T) {
	w := newWires(t)
	w.send(t, 1)
	eventually(t, "both know their neighbour", func() (known bool) {
		w.do(t, func() error {
			table, err := os.ReadFile("/proc/thread-self/net/arp")
			known = regexp.MustCompile(`(?m)^198\.51\.100\.1 +0x1 +0x2 `).Match(table) // complete
			return err
		})
		return known
	})
	w.do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	r := newRig(t, 100)
	words := packet{flow: 1}.frame()
	frame := make([]byte, 0, 128)
	for _, word := range words {
		frame = binary.NativeEndian.AppendUint64(frame, word)
	}
	address, _ := abi.PutAddr(netip.MustParseAddr("198.51.100.1"))
	source, _ := abi.PutAddr(netip.MustParseAddr("198.51.100.2"))
	for _, c := range []struct {
		name   string
		mode   abi.Mode
		source [16]byte
		want   abi.Reason
	}{
		{"dsr", abi.ModeDsr, [16]byte{}, abi.ReasonForward},
		{"ipip", abi.ModeIpip, source, abi.ReasonForward},
		{"ipip, source unknown", abi.ModeIpip, [16]byte{}, abi.ReasonNoNextHop},
		{"gue", abi.ModeGue, source, abi.ReasonForward},
		{"gue, source unknown", abi.ModeGue, [16]byte{}, abi.ReasonNoNextHop},
	} {
		b := r.backends[0]
		err := r.PutBackend(b.ID, abi.Backend{
			State: uint8(abi.BackendUsed | abi.BackendUp), Mode: uint8(c.mode), Service: b.Service, Address: address, Source: c.source,
		})
		if err != nil {
			t.Fatal(err)
		}
		before, err := r.Reasons()
		if err != nil {
			t.Fatal(err)
		}
		w.do(t, func() error {
			_, err := r.Run(HookIngress, frame, w.ifindex)
			return err
		})
		after, err := r.Reasons()
		if err != nil {
			t.Fatal(err)
		}
		if after[c.want].Packets != before[c.want].Packets+1 {
			t.Errorf("%s: reasons %v, then %v", c.name, before, after)
		}
	}
}
