package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/pkt"
)

// wrappedPackets are what a balancer sends to backends, and what isn't for decap.
var wrappedPackets = []string{
	"ipip 10.0.0.1 > 10.0.0.11 carries udp 198.51.100.7:1000 > 192.0.2.10:53 len 20",
	"ipip 10.0.0.1 > 10.0.0.11 carries tcp [2001:db8::7]:1000 > [2001:db8::10]:443 syn",
	"ipip 2001:db8:ffff::1 > 2001:db8:ffff::11 carries udp 198.51.100.7:1000 > 192.0.2.10:53",
	"ipip 2001:db8:ffff::1 > 2001:db8:ffff::11 carries tcp [2001:db8::7]:1000 > [2001:db8::10]:443 ack len 9",
	"gue 10.0.0.1:65012 > 10.0.0.11:6080 carries udp 198.51.100.7:1000 > 192.0.2.10:53",
	"gue 10.0.0.1:65012 > 10.0.0.11:6080 carries udp [2001:db8::7]:1000 > [2001:db8::10]:53 len 3",
	"gue [2001:db8:ffff::1]:61151 > [2001:db8:ffff::11]:6080 carries tcp 198.51.100.7:1000 > 192.0.2.10:443 syn ack",
	"gue [2001:db8:ffff::1]:61151 > [2001:db8:ffff::11]:6080 carries udp [2001:db8::7]:1000 > [2001:db8::10]:53",
	"udp 198.51.100.7:1000 > 192.0.2.10:6080 len 30",
	"tcp [2001:db8::7]:1000 > [2001:db8::10]:443 syn",
}

// What becomes of a frame. The order is that of enum decap_count, behind what isn't for decap.
const (
	decapOther = iota - 1
	decapDone
	decapECN
	decapFailed
)

// unwrapped is what a frame is without its outer headers: IP in IP (RFC 2003, RFC 2473), or GUE without a header of its own (variant 1 of
// draft-ietf-intarea-gue), unfragmented, without options; and congestion met by the outer header is told by the inner one (RFC 6040), or the
// packet is dropped. least: the kernel takes no header off a packet whose rest isn't one.
func unwrapped(frame []byte, least bool) (out []byte, what int) {
	if len(frame) < 14+20+1 {
		return nil, decapOther
	}
	outer := frame[14:]
	var proto, ecn byte
	var inner []byte
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == 0x0800 && outer[0] == 0x45 && binary.BigEndian.Uint16(outer[6:])&0x3fff == 0:
		proto, ecn, inner = outer[9], outer[1]&3, outer[20:]
	case etherType == 0x86dd && len(outer) > 40:
		proto, ecn, inner = outer[6], outer[1]>>4&3, outer[40:]
	default:
		return nil, decapOther
	}
	if proto == 17 {
		if len(inner) < 8+1 || binary.BigEndian.Uint16(inner[2:]) != 6080 {
			return nil, decapOther
		}
		if inner = inner[8:]; inner[0]>>4 == 4 {
			proto = 4
		} else {
			proto = 41
		}
	}
	version := map[byte]byte{4: 4, 41: 6}[proto]
	if version == 0 || inner[0]>>4 != version {
		return nil, decapOther
	}
	if header := map[byte]int{4: 20, 6: 40}[version]; least && len(inner) < header {
		return nil, decapFailed
	}
	out = append(bytes.Clone(frame[:12]), 0x08, 0x00)
	if version == 6 {
		out[12], out[13] = 0x86, 0xdd
	}
	out = append(out, inner...)
	ip := out[14:]
	switch {
	case ecn != 3 || len(ip) < 20:
	case version == 4 && ip[1]&3 == 0, version == 6 && ip[1]>>4&3 == 0:
		return nil, decapECN
	case version == 4:
		old := ip[1]
		ip[1] |= 3
		sum := uint32(^binary.BigEndian.Uint16(ip[10:])) + uint32(^uint16(old)) + uint32(ip[1]) // RFC 1624, equation 3
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	default:
		ip[1] |= 3 << 4
	}
	return out, decapDone
}

// TestDecapOfRandomFrames holds both entries of decap against unwrapped: frames of tunnels, many of them cut short or with other bytes in their
// headers.
func TestDecapOfRandomFrames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	spec, err := loadDecap()
	if err != nil {
		t.Fatal(err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer collection.Close()
	counters := collection.Maps[decapCounters]
	entries := []struct {
		name       string
		least      bool
		pass, drop uint32
	}{{"decap_tc", true, 0xffffffff, 2}, {"decap_xdp", false, 2, 1}}

	packets := 20_000
	if testing.Short() {
		packets = 2000
	}
	g := rand.New(rand.NewPCG(1, 2))
	met := map[int]int{}
	for range packets {
		text := wrappedPackets[g.IntN(len(wrappedPackets))]
		frame, err := pkt.Parse(fmt.Sprintf("%s ecn %d", text, g.IntN(4)))
		if err != nil {
			t.Fatal(err)
		}
		if g.IntN(2) == 0 { // congestion, met on the way
			if binary.BigEndian.Uint16(frame[12:]) == 0x0800 {
				frame[15] |= 3
			} else {
				frame[15] |= 3 << 4
			}
		}
		for range g.IntN(3) {
			frame[12+g.IntN(min(len(frame), 110)-12)] = byte(g.IntN(256))
		}
		if g.IntN(4) == 0 {
			frame = frame[:14+g.IntN(len(frame)-14)]
		}
		for _, e := range entries {
			if e.name == "decap_tc" && len(frame) < 14+40 {
				continue // test runs take no packet that is shorter than its header
			}
			want, what := unwrapped(frame, e.least)
			met[what]++
			action := e.pass
			switch what {
			case decapOther:
				want = frame
			case decapECN, decapFailed:
				action = e.drop
			}
			before := decapCounts(t, counters)
			result := make([]byte, len(frame)+frameGrowth)
			options := &ebpf.RunOptions{Data: frame, DataOut: result}
			got, err := collection.Programs[e.name].Run(options)
			if err != nil {
				t.Fatalf("%s of %x: %v", e.name, frame, err)
			}
			if got != action || want != nil && !bytes.Equal(options.DataOut, want) {
				t.Fatalf("%s of %x:\n%d %x\nwant\n%d %x", e.name, frame, int32(got), options.DataOut, int32(action), want)
			}
			if what != decapOther {
				before[what]++
			}
			if after := decapCounts(t, counters); !slices.Equal(before, after) {
				t.Fatalf("%s of %x: counted %v, want %v", e.name, frame, after, before)
			}
		}
	}
	for _, what := range []int{decapOther, decapDone, decapECN, decapFailed} {
		if met[what] < packets/500 {
			t.Errorf("the random frames are too tame: %v", met)
		}
	}
}

func decapCounts(t *testing.T, counters *ebpf.Map) []uint64 {
	t.Helper()
	counts := make([]uint64, counters.MaxEntries())
	for i := range counts {
		var parts []abi.Counter
		if err := counters.Lookup(uint32(i), &parts); err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			counts[i] += part.Packets
		}
	}
	return counts
}
