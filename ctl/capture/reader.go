package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/ring"
)

// Packet is one that was captured, and what became of it. Ids are those that compile gave.
type Packet struct {
	Src, Dst  netip.AddrPort // zero: neither IPv4 nor IPv6, or its header couldn't be read
	Proto     uint8
	VLAN      uint16
	Monotonic uint64 // ns of CLOCK_MONOTONIC, when it came
	Ifindex   uint32 // where it came in, or leaves
	Out       bool   // seen where it leaves
	Packets   int    // on the wire
	Decider   uint32 // abi.Decider, or the id of a rule
	Service   uint16
	Backend   uint16
	Reason    abi.Reason
	Readers   uint32 // who wants it, a bit each
	Before    Frame  // as it came
	After     Frame  // what gardu sends instead; no bytes: nothing
	SentBy    uint32 // index of the interface where it sends that
	Mirrors   uint64 // exits that got a copy of it as it came, a bit each
}

// Frame is what was taken of a frame.
type Frame struct {
	Length int // of the whole, or of a bundle of several
	Bytes  []byte
}

// Reader takes packets out of the ring of programs.
type Reader = ring.Reader[Packet]

// NewReader returns a reader of the ring, which must outlive it. What is in it already is read first.
func NewReader(from *ebpf.Map) (*Reader, error) {
	return ring.NewReader(from, "captured packet", parse)
}

// parse reads a struct captured and the frames behind it.
func parse(raw []byte) (Packet, error) {
	var c abi.Captured
	head := int(unsafe.Sizeof(c))
	if len(raw) >= head { // the ring rounds up
		c = *(*abi.Captured)(unsafe.Pointer(unsafe.SliceData(raw)))
	}
	before, after := uint64(c.Before), uint64(c.After)
	if len(raw) < head || uint64(len(raw)-head) < before+after {
		return Packet{}, fmt.Errorf("read a captured packet: %d bytes are too few", len(raw))
	}
	frames := bytes.Clone(raw[head : uint64(head)+before+after])
	p := Packet{
		Proto: c.Key.Proto, VLAN: c.Key.Tag & vlanMask, Monotonic: c.Time, Ifindex: c.Ifindex, Out: abi.Way(c.Way) == abi.WayOut,
		Packets: int(c.Packets), Decider: c.Decider, Service: c.Service, Backend: c.Backend, Reason: abi.Reason(c.Reason), Readers: c.Readers,
		Before: newFrame(frames[:before:before], c.Length, c.BeVlanProto, c.VlanTci), SentBy: c.OutIfindex, Mirrors: c.Mirrors,
	}
	if after > 0 {
		p.After = newFrame(frames[before:], c.OutLength, c.BeOutVlanProto, c.OutVlanTci)
	}
	if family := abi.Family(c.Family); family < abi.FamilyCount {
		p.Src = netip.AddrPortFrom(abi.Addr(c.Key.Saddr, family), abi.Ntohs(c.Key.BeSport))
		p.Dst = netip.AddrPortFrom(abi.Addr(c.Key.Daddr, family), abi.Ntohs(c.Key.BeDport))
	}
	return p, nil
}

const vlanMask = 0xfff

// newFrame puts the tag back that the kernel keeps beside the frame.
func newFrame(raw []byte, length uint32, beProto, tci uint16) Frame {
	if beProto == 0 || len(raw) < 12 {
		return Frame{int(length), raw}
	}
	tagged := append(make([]byte, 0, len(raw)+4), raw[:12]...)
	tagged = binary.BigEndian.AppendUint16(tagged, abi.Ntohs(beProto))
	tagged = binary.BigEndian.AppendUint16(tagged, tci)
	return Frame{int(length) + 4, append(tagged, raw[12:]...)}
}
