package ipfix

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// Information elements, as IANA numbers them.
const (
	octetDeltaCount          = 1
	packetDeltaCount         = 2
	protocolIdentifier       = 4
	ipClassOfService         = 5
	tcpControlBits           = 6
	sourceTransportPort      = 7
	sourceIPv4Address        = 8
	ingressInterface         = 10
	destinationTransportPort = 11
	destinationIPv4Address   = 12
	egressInterface          = 14
	ipNextHopIPv4Address     = 15
	sourceIPv6Address        = 27
	destinationIPv6Address   = 28
	minimumTTL               = 52
	maximumTTL               = 53
	vlanID                   = 58
	samplingInterval         = 34 // superseded by what PSAMP has, but many collectors know only this
	ipNextHopIPv6Address     = 62
	interfaceName            = 82
	forwardingStatus         = 89
	applicationID            = 95
	applicationName          = 96
	flowEndReason            = 136
	exportingProcessID       = 144
	observationDomainID      = 149
	flowStartMilliseconds    = 152
	flowEndMilliseconds      = 153
	notSentFlowTotalCount    = 166
	notSentPacketTotalCount  = 167
	notSentOctetTotalCount   = 168
	biflowDirection          = 239
	selectorID               = 302
	selectorAlgorithm        = 304
	samplingPacketInterval   = 305
	samplingPacketSpace      = 306
	samplingSize             = 309
	samplingPopulation       = 310
	selectorName             = 335
	virtualStationName       = 350
)

// Enterprises that number elements of their own.
const (
	reversePEN = 29305 // marks an element of IANA's as that of the other direction (RFC 5103)
	ntopPEN    = 35632
	fastipPEN  = 33610
)

// Elements of ntop and FastIP for TCP handshakes, of 32 bits; 0 where it wasn't seen.
const (
	clientLatency    = 123 // ntop, ms: half the way to the client and back
	serverLatency    = 124 // and to the server
	handshakeRTTUsec = 200 // FastIP, us: both ways, there and back
)

const (
	enterpriseBit  = 1 << 15
	variableLength = 65535
)

// Values of elements.
const (
	endIdle      = 1 // of flowEndReason
	endActive    = 2
	endDetected  = 3
	endForced    = 4
	endResources = 5

	initiator = 1 // of biflowDirection: the source opened the flow

	statusForwarded   = 64  // of forwardingStatus
	statusDropped     = 128 // for another reason
	statusDenied      = 129 // by an access list
	statusUnroutable  = 131
	statusAdjacency   = 132 // the next hop isn't known
	statusTooBig      = 133
	statusNoInterface = 142

	algorithmCount  = 1 // of selectorAlgorithm: so many in a row of so many
	algorithmRandom = 3 // so many of so many, at random

	engineUser = 6 // of applicationId: the first byte
)

// field is an element of a template, and how a record's value is written.
type field struct {
	id         uint16
	length     uint16
	enterprise uint32 // 0: IANA
	put        func(b []byte, r *record) []byte
}

// record is a report with what its ids stand for.
type record struct {
	*flow.Report
	hop netip.Addr // of a service's flow: the backend
}

var order = binary.BigEndian

// The parts that templates are made of.
var (
	ends4 = []field{
		{id: sourceIPv4Address, length: 4, put: func(b []byte, r *record) []byte { return append(b, r.Src.Addr().AsSlice()...) }},
		{id: destinationIPv4Address, length: 4, put: func(b []byte, r *record) []byte { return append(b, r.Dst.Addr().AsSlice()...) }},
	}
	ends6 = []field{
		{id: sourceIPv6Address, length: 16, put: func(b []byte, r *record) []byte { return append(b, r.Src.Addr().AsSlice()...) }},
		{id: destinationIPv6Address, length: 16, put: func(b []byte, r *record) []byte { return append(b, r.Dst.Addr().AsSlice()...) }},
	}
	common = []field{
		// First what concerns the other direction: nfdump takes the element for that of this one, and the later one counts.
		u8(ipClassOfService, func(r *record) uint8 { return r.DSCPReply << 2 }).back(),
		u16(tcpControlBits, func(r *record) uint16 { return uint16(r.TCPFlagsReply) }).back(),
		u8(minimumTTL, func(r *record) uint8 { return r.TTLMinReply }).back(),
		u8(maximumTTL, func(r *record) uint8 { return r.TTLMaxReply }).back(),
		u32(ingressInterface, func(r *record) uint32 { return r.IfindexReply }).back(),
		u16(sourceTransportPort, func(r *record) uint16 { return port(r, r.Src) }),
		u16(destinationTransportPort, func(r *record) uint16 { return port(r, r.Dst) }),
		u8(protocolIdentifier, func(r *record) uint8 { return r.Proto }),
		u8(ipClassOfService, func(r *record) uint8 { return r.DSCP << 2 }),
		u16(tcpControlBits, func(r *record) uint16 { return uint16(r.TCPFlags) }),
		u8(minimumTTL, func(r *record) uint8 { return r.TTLMin }),
		u8(maximumTTL, func(r *record) uint8 { return r.TTLMax }),
		u16(vlanID, func(r *record) uint16 { return r.VLAN }),
		u32(ingressInterface, func(r *record) uint32 { return where(r, !r.Out) }),
		u32(egressInterface, func(r *record) uint32 { return where(r, r.Out) }),
		u64(flowStartMilliseconds, func(r *record) uint64 { return milliseconds(r.Since) }),
		u64(flowEndMilliseconds, func(r *record) uint64 { return milliseconds(end(r)) }),
		u64(packetDeltaCount, func(r *record) uint64 { return r.Delta.Packets }),
		u64(octetDeltaCount, func(r *record) uint64 { return r.Delta.Bytes }),
		u64(packetDeltaCount, func(r *record) uint64 { return r.DeltaReply.Packets }).back(),
		u64(octetDeltaCount, func(r *record) uint64 { return r.DeltaReply.Bytes }).back(),
		u8(biflowDirection, func(*record) uint8 { return initiator }),
		u8(flowEndReason, func(r *record) uint8 { return endReasons[r.End] }),
		u8(forwardingStatus, func(r *record) uint8 { return statusOf(r) }),
		u32(selectorID, func(r *record) uint32 { return r.Rule }),
		u32(clientLatency, func(r *record) uint32 { return units(r.ClientRTT, 2*time.Millisecond) }).of(ntopPEN),
		u32(serverLatency, func(r *record) uint32 { return units(r.ServerRTT, 2*time.Millisecond) }).of(ntopPEN),
		u32(handshakeRTTUsec, func(r *record) uint32 { return units(r.ServerRTT+r.ClientRTT, time.Microsecond) }).of(fastipPEN),
	}
	balanced4 = []field{service, {id: ipNextHopIPv4Address, length: 4, put: putHop}}
	balanced6 = []field{service, {id: ipNextHopIPv6Address, length: 16, put: putHop}}

	service = u32(applicationID, func(r *record) uint32 { return application(r.Service) })
)

var endReasons = [flow.Ends]uint8{
	flow.EndNone: endActive, flow.EndIdle: endIdle, flow.EndFIN: endDetected, flow.EndRST: endDetected, flow.EndEvicted: endResources,
	flow.EndForced: endForced,
}

// dropped says of a reason why the packet went no further, where IPFIX has a word for it.
var dropped = map[abi.Reason]uint8{
	abi.ReasonRuleDrop: statusDenied, abi.ReasonDefaultDrop: statusDenied, abi.ReasonOutDrop: statusDenied,
	abi.ReasonFragmentDrop: statusDenied, abi.ReasonBlocked: statusDenied, abi.ReasonRuleReject: statusDenied,
	abi.ReasonRejectLimited: statusDenied, abi.ReasonRejectSilent: statusDenied, abi.ReasonRejectFailed: statusDenied,
	abi.ReasonNoBackend: statusUnroutable, abi.ReasonNoNextHop: statusAdjacency, abi.ReasonTooBig: statusTooBig,
	abi.ReasonTooBigTold: statusTooBig, abi.ReasonCannotFragment: statusTooBig,
	abi.ReasonRedirectFailed: statusNoInterface,
}

func u8(id uint16, value func(*record) uint8) field {
	return field{id: id, length: 1, put: func(b []byte, r *record) []byte { return append(b, value(r)) }}
}

func u16(id uint16, value func(*record) uint16) field {
	return field{id: id, length: 2, put: func(b []byte, r *record) []byte { return order.AppendUint16(b, value(r)) }}
}

func u32(id uint16, value func(*record) uint32) field {
	return field{id: id, length: 4, put: func(b []byte, r *record) []byte { return order.AppendUint32(b, value(r)) }}
}

func u64(id uint16, value func(*record) uint64) field {
	return field{id: id, length: 8, put: func(b []byte, r *record) []byte { return order.AppendUint64(b, value(r)) }}
}

// back makes the field one of the other direction.
func (f field) back() field {
	return f.of(reversePEN)
}

// of makes the field one of an enterprise's.
func (f field) of(enterprise uint32) field {
	f.enterprise = enterprise
	return f
}

func putHop(b []byte, r *record) []byte { return append(b, r.hop.AsSlice()...) }

// application is the applicationId of a service: whose numbers these are, and a number of three bytes.
func application(service uint16) uint32 { return engineUser<<24 | uint32(service) }

// port is an end's port. In the place of ICMP's, records have the identifier of an echo, which collectors would take for the
// type and code.
func port(r *record, end netip.AddrPort) uint16 {
	const icmp, icmpv6 = 1, 58
	if r.Proto == icmp || r.Proto == icmpv6 {
		return 0
	}
	return end.Port()
}

func where(r *record, here bool) uint32 {
	if here {
		return r.Ifindex
	}
	return 0
}

// end is when the last packet of the report came.
func end(r *record) time.Time {
	if r.Last.Before(r.Since) {
		return r.Since
	}
	return r.Last
}

// units that a time has, to the nearest.
func units(d, unit time.Duration) uint32 {
	return uint32(min(max((d+unit/2)/unit, 0), math.MaxUint32))
}

// milliseconds since 1970; 0 for what is before that.
func milliseconds(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

func statusOf(r *record) uint8 {
	switch r.Verdict {
	case abi.VerdictPass, abi.VerdictRedirect, abi.VerdictForward:
		return statusForwarded
	}
	if status, ok := dropped[r.Reason]; ok {
		return status
	}
	return statusDropped
}
