package flow

import (
	"net/netip"
	"time"

	"gardu/ctl/abi"
)

// VLAN ids take the low 12 bits of a flow's tag, its flags the rest.
const (
	tagFlags = 12
	vlanMask = 1<<tagFlags - 1
)

// Key tells flows apart, in one direction. ICMP echo has its identifier as both ports; later fragments and what has
// no ports have 0.
type Key struct {
	Src, Dst netip.AddrPort
	Proto    uint8  // IP protocol number
	VLAN     uint16 // 0: untagged
	Out      bool   // seen where the box sends it, at tc egress
	Fragment bool   // later fragments, whose ports aren't known
}

// Record is what is known of one direction of a flow. Ids are those that compile gave; 0 means none.
type Record struct {
	Key
	Packets, Bytes uint64 // wire packets, IP lengths
	First, Last    time.Time
	Verdict        abi.Verdict
	Reason         abi.Reason
	Rule           uint32 // abi.Decider, or the id of the rule that decided
	Service        uint16
	Backend        uint16
	Ifindex        uint32 // where it came in, or left with Out
	TCPFlags       uint8  // all seen, ORed
	State          abi.FlowState
	TTLMin, TTLMax uint8
	DSCP           uint8  // of the first packet
	Retransmits    uint32 // TCP segments whose sequence numbers had been seen before: an estimate, reordering counts too
}

// NewRecord reads a record of the table.
func NewRecord(raw *abi.FlowRecord, clock Clock) Record {
	v := &raw.Value
	r := Record{
		Key:     NewKey(&raw.Key),
		Packets: v.Packets, Bytes: v.Bytes,
		First: clock.Monotonic(v.First), Last: clock.Jiffies(v.Last),
		Verdict: abi.Verdict(v.Verdict), Reason: abi.Reason(v.Reason),
		Rule: v.Rule, Service: v.Service, Backend: v.Backend,
		Ifindex: v.Ifindex, TCPFlags: v.TcpFlags, State: abi.FlowState(v.State) &^ abi.FlowStateAnswered,
		TTLMin: v.TtlMin, TTLMax: v.TtlMax, DSCP: v.Dscp, Retransmits: v.Retransmits,
	}
	if r.Proto == protoTCP && r.TCPFlags&(tcpFIN|tcpRST) == 0 { // the side that answers may have been opened again
		r.State &^= abi.FlowStateClosed
	}
	if r.Last.Before(r.First) { // the two clocks tick apart
		r.Last = r.First
	}
	return r
}

// NewKey reads the key of a record.
func NewKey(raw *abi.FlowKey) Key {
	flags, family := abi.FlowTag(raw.Tag>>tagFlags), abi.FamilyV4
	if flags&abi.FlowV6 != 0 {
		family = abi.FamilyV6
	}
	return Key{
		Src:      netip.AddrPortFrom(abi.Addr(raw.Saddr, family), abi.Ntohs(raw.BeSport)),
		Dst:      netip.AddrPortFrom(abi.Addr(raw.Daddr, family), abi.Ntohs(raw.BeDport)),
		Proto:    raw.Proto,
		VLAN:     raw.Tag & vlanMask,
		Out:      flags&abi.FlowOut != 0,
		Fragment: flags&abi.FlowLater != 0,
	}
}

// Flow is both directions of a flow: the record of the side that opened it, and what came back.
type Flow struct {
	Record
	PacketsReply, BytesReply uint64
	TCPFlagsReply            uint8
	RetransmitsReply         uint32
	TTLMinReply, TTLMaxReply uint8
	DSCPReply                uint8
	IfindexReply             uint32 // where replies came in, or left
	OutReply                 bool   // replies were seen where the box sends them
	// Times of a TCP handshake that passed here; 0: not seen. Between SYN and SYN+ACK lies the way to the server and back, between
	// that and the ACK the way to the client and back.
	ServerRTT, ClientRTT time.Duration
}

// Ended says whether a TCP connection is over, and how; EndNone for what is not, and of flows that only time ends.
func (f *Flow) Ended() End {
	switch {
	case (f.TCPFlags|f.TCPFlagsReply)&tcpRST != 0:
		return EndRST
	case f.TCPFlags&f.TCPFlagsReply&tcpFIN != 0:
		return EndFIN
	default:
		return EndNone
	}
}

const protoTCP = 6
