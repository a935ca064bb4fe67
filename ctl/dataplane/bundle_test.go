package dataplane

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/pkt"
	"gardu/ctl/pkt/verify"
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
		_, err = program(t, d, HookIngress).Run(&ebpf.RunOptions{
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
		_, err := program(t, d, HookIngress).Run(&ebpf.RunOptions{
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

// apply puts a configuration in force, as generation 1.
func apply(t *testing.T, d *Dataplane, text string) {
	t.Helper()
	snapshot, _, err := config.Parse("test", []byte(text), ".")
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
	var generation Tables
	for which, lines := range [][]abi.Line{abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services} {
		if generation[which], err = d.NewTable(abi.Table(which), lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(1, generation); err != nil {
		t.Fatal(err)
	}
}

// A rejected bundle gets one answer, which fits the whole of it: a reset after its last byte, or an error that quotes its first packet
// as that was on the wire.
func TestBundlesAreRejected(t *testing.T) {
	d := private(t, allOn())
	apply(t, d, "filter: {rules: [{name: r, match: {}, action: reject}]}")
	const size, actRedirect = 1000, 7
	for _, c := range []struct {
		in, out string
		header  int // of the quoted packet, all of IP; 0: nothing is quoted
		quoted  int // bytes
	}{
		{"tcp 198.51.100.7:1 > 192.0.2.1:9 ack seq 10 ackno 77 len 2500", "tcp 192.0.2.1:9 > 198.51.100.7:1 rst seq 77 win 0 df", 0, 0},
		{"tcp 198.51.100.7:1 > 192.0.2.1:9 fin seq 10 len 2500 vlan 7", "tcp 192.0.2.1:9 > 198.51.100.7:1 rst ack ackno 2511 win 0 df vlan 7", 0, 0},
		{"tcp [2001:db8::7]:1 > [2001:db8::1]:9 psh seq 10 len 2500", "tcp [2001:db8::1]:9 > [2001:db8::7]:1 rst ack ackno 2510 win 0", 0, 0},
		{"udp 198.51.100.7:1 > 192.0.2.1:9 len 2500", "icmp 192.0.2.1 > 198.51.100.7 unreachable code 3 df", 28, 548},
		{"udp [2001:db8::7]:1 > [2001:db8::1]:9 len 2500 qinq 1 vlan 2", "icmpv6 2001:db8::1 > 2001:db8::7 unreachable code 4 qinq 1 vlan 2", 48, 1048},
	} {
		in, want := packetOf(t, c.in), packetOf(t, c.out+" mac 02:00:00:00:00:02 > 02:00:00:00:00:01")
		options := &ebpf.RunOptions{
			Data: in, DataOut: make([]byte, len(in)+frameGrowth),
			Context: &bundleContext{skbContext: skbContext{Ifindex: 1, IngressIfindex: 1}, GsoSize: size},
		}
		if action, err := program(t, d, HookIngress).Run(options); err != nil || action != actRedirect {
			t.Fatalf("%s: action %d, %v", c.in, action, err)
		}
		got := options.DataOut
		if err := verify.Frame(got); err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
		if c.header == 0 && !bytes.Equal(got, want) || len(got) != len(want)+c.quoted {
			t.Errorf("%s:\n got %s\nwant %s and %d bytes", c.in, pkt.Describe(got), pkt.Describe(want), c.quoted)
			continue
		}
		if c.header == 0 {
			continue
		}
		length := int(binary.BigEndian.Uint16(got[len(want)+2:]))
		if c.header == 48 {
			length = 40 + int(binary.BigEndian.Uint16(got[len(want)+4:]))
		}
		if length != c.header+size {
			t.Errorf("%s: the quoted header says %d bytes, not %d", c.in, length, c.header+size)
		}
	}
}

func packetOf(t *testing.T, text string) []byte {
	t.Helper()
	frame, err := pkt.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}
