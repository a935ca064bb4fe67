package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"gardu/ctl/abi"
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
}

// Frame is what was taken of a frame.
type Frame struct {
	Length int // of the whole, or of a bundle of several
	Bytes  []byte
}

// Reader takes packets out of the ring. There must be one at a time. Read and Close may be called concurrently.
type Reader struct {
	ring   *ringbuf.Reader
	record ringbuf.Record
}

// NewReader returns a reader of the ring, which must outlive it.
func NewReader(ring *ebpf.Map) (*Reader, error) {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, fmt.Errorf("read the ring of captured packets: %w", err)
	}
	return &Reader{ring: reader}, nil
}

// Close makes Read return os.ErrClosed.
func (r *Reader) Close() error { return r.ring.Close() }

// Read waits for the next packet.
func (r *Reader) Read() (Packet, error) {
	if err := r.ring.ReadInto(&r.record); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return Packet{}, os.ErrClosed
		}
		return Packet{}, fmt.Errorf("read a captured packet: %w", err)
	}
	return parse(r.record.RawSample)
}

// Pending returns the packets that are there now.
func (r *Reader) Pending() (all []Packet, err error) {
	r.ring.SetDeadline(time.Unix(1, 0))
	defer r.ring.SetDeadline(time.Time{})
	for {
		packet, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, packet)
	}
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
		Before: newFrame(frames[:before:before], c.Length, c.BeVlanProto, c.VlanTci), SentBy: c.OutIfindex,
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
