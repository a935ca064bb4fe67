package event

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
	"gardu/ctl/ring"
)

// Packet is one that rules noted, or that was dropped while somebody watched, and what became of it. Ids are those that compile gave.
type Packet struct {
	flow.Key          // zero addresses: neither IPv4 nor IPv6
	Monotonic uint64  // ns of CLOCK_MONOTONIC
	Ifindex   uint32  // where it came in, or leaves
	Way       abi.Way // of the rules that judged it
	Length    int     // of the frame, or of a bundle of several
	Packets   int     // on the wire
	Decider   uint32  // abi.Decider, or the id of a rule
	Service   uint16
	Backend   uint16
	Reason    abi.Reason
	Notes     []Note // at least one
	Head      []byte // the first bytes of the frame, as it came
}

// Note is why there is an event: a rule that chose the packet, or NoteDrop.
type Note struct {
	Rule    uint32 // 0 of NoteDrop
	Kind    abi.NoteKind
	Would   abi.Verdict // NoteShadow: what the rule would have decided
	Decides bool        // NoteShadow: it would have
}

// Word is the kind of note as users read it.
func (n Note) Word() string {
	switch n.Kind {
	case abi.NoteLog:
		return "log"
	case abi.NoteSample:
		return "sample"
	case abi.NoteDrop:
		return "drop"
	default:
		return "shadow"
	}
}

// Reader takes packets out of the ring of programs.
type Reader = ring.Reader[Packet]

// NewReader returns a reader of the ring, which must outlive it. What is in it already is read first.
func NewReader(from *ebpf.Map) (*Reader, error) { return ring.NewReader(from, "event", parse) }

// parse reads a struct event.
func parse(raw []byte) (Packet, error) {
	var e abi.Event
	if len(raw) < int(unsafe.Sizeof(e)) { // the ring rounds up
		return Packet{}, fmt.Errorf("read an event: %d bytes are too few", len(raw))
	}
	e = *(*abi.Event)(unsafe.Pointer(unsafe.SliceData(raw)))
	p := Packet{
		Key: flow.NewKey(&e.Key), Monotonic: e.Time, Ifindex: e.Ifindex, Way: abi.Way(e.Way), Length: int(e.Length), Packets: int(e.Packets),
		Decider: e.Decider, Service: e.Service, Backend: e.Backend, Reason: abi.Reason(e.Reason),
		Head: bytes.Clone(e.Head[:min(int(e.HeadBytes), len(e.Head))]),
	}
	if e.Key.Saddr == e.Key.Daddr && e.Key.Saddr == [16]byte{} {
		p.Src, p.Dst = netip.AddrPort{}, netip.AddrPort{}
	}
	for _, note := range e.Note[:min(int(e.Notes), len(e.Note))] {
		p.Notes = append(p.Notes, Note{note.Rule, abi.NoteKind(note.Kind), abi.Verdict(note.Would), note.Decides != 0})
	}
	if e.BeVlanProto != 0 && len(p.Head) >= 12 { // put the tag back that the kernel took out
		tag := binary.BigEndian.AppendUint16(nil, abi.Ntohs(e.BeVlanProto))
		tag = binary.BigEndian.AppendUint16(tag, e.VlanTci)
		p.Head = append(append(bytes.Clone(p.Head[:12]), tag...), p.Head[12:]...)
		p.Length += len(tag)
	}
	return p, nil
}
