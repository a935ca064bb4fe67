package pkt

import "net/netip"

// kind is the head of a PACKET; a bit each, so that an option can name those that it applies to.
type kind uint16

const (
	kindTCP kind = 1 << iota
	kindUDP
	kindSCTP
	kindICMP
	kindICMPv6
	kindIP
	kindIPIP
	kindGUE
	kindND
	kindARP
	kindEther

	kindsPorts  = kindTCP | kindUDP | kindSCTP
	kindsICMP   = kindICMP | kindICMPv6
	kindsTunnel = kindIPIP | kindGUE
	kindsIP     = kindsPorts | kindsICMP | kindIP | kindsTunnel | kindND
	kindsAll    = kindsIP | kindARP | kindEther
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100 // IEEE 802.1Q
	typeQinQ = 0x88a8 // IEEE 802.1ad

	protoHopByHop = 0
	protoICMP     = 1
	protoIPv4     = 4
	protoTCP      = 6
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoICMPv6   = 58
	protoDest     = 60
	protoSCTP     = 132

	icmpv6Solicitation  = 135
	icmpv6Advertisement = 136

	portGUE = 6080

	laterOffset = 185 // units of 8 bytes: what follows a 1480-byte first fragment
)

type mac [6]byte

var (
	defaultSource      = mac{2, 0, 0, 0, 0, 1}
	defaultDestination = mac{2, 0, 0, 0, 0, 2}
	broadcast          = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

type tag struct {
	protocol uint16 // TPID
	control  uint16 // priority, drop-eligible bit and VLAN id
}

// extension is an IPv6 extension header, or the fragment fields of an IPv4 header (number protoFragment).
type extension struct {
	number uint8
	offset uint16 // fragment: units of 8 bytes
	more   bool   // fragment: others follow
}

// right in a field that can be overridden stands for the value that the frame should have.
const right = -1

// packet is one PACKET, between text and bytes. Numbers are in host order.
type packet struct {
	kind kind

	source, destination mac
	tags                []tag // outermost first
	etherType           uint16
	pad                 int // zero bytes behind the IP packet
	truncate            int // keep so many bytes of the frame; right: all

	src, dst     netip.Addr // ARP: sender and target; nd: IPv6 source and destination
	sport, dport uint16
	tos, ttl     uint8
	label        uint32
	id           uint32 // IPv4 identification; IPv6: that of the fragment header
	df           bool
	proto        int // right: what the kind says
	version      int
	ihl          int // 32-bit words
	total        int // IPv4 total length, IPv6 payload length
	headerSum    int
	ipOptions    []byte // IPv4
	extensions   []extension

	seq, ack   uint32
	window     uint16
	tcpFlags   uint8
	tcpOptions []byte
	offset     int // TCP data offset, 32-bit words
	udpLength  int
	tagSCTP    uint32 // verification tag
	icmpType   uint8
	icmpCode   uint8
	rest       [2]uint16 // ICMP: second word of the header, echo's id and seq
	sum        int       // checksum of TCP, UDP, SCTP, ICMP

	reply    bool       // ARP and nd
	target   netip.Addr // nd
	hardware mac        // the announced address; who-has: the asker's, its source MAC unless given
	given    bool       // hardware was

	payload []byte
	inner   *packet // ipip, gue
	carried bool    // inside another: has no Ethernet header

	// Of a frame of which only the beginning is known:
	cut   bool   // the last header of which something is told isn't whole
	ports string // kindIP: the head of a packet of which only the ports are known besides; "": not even these
}

// newPacket returns a packet of that kind with every option at its default.
func newPacket(k kind) *packet {
	return &packet{
		kind: k, source: defaultSource, destination: defaultDestination, truncate: right,
		ttl: 64, proto: right, version: right, ihl: right, total: right, headerSum: right,
		window: 65535, offset: right, udpLength: right, sum: right,
	}
}

// defaults fills what follows from the addresses, once these are known.
func (p *packet) defaults() {
	switch {
	case p.kind == kindND:
		p.ttl = 255
	case p.kind == kindARP && !p.reply:
		p.destination = broadcast
	}
	if p.kind&kindsIP != 0 && p.dst.IsMulticast() {
		p.destination = multicastMAC(p.dst)
	}
	p.hardware = p.source
}

// upperProtocol is the protocol number of the kind; nd is ICMPv6.
func (p *packet) upperProtocol() uint8 {
	switch p.kind {
	case kindTCP:
		return protoTCP
	case kindUDP, kindGUE:
		return protoUDP
	case kindSCTP:
		return protoSCTP
	case kindICMP:
		return protoICMP
	case kindICMPv6, kindND:
		return protoICMPv6
	case kindIPIP:
		if p.inner.src.Is4() {
			return protoIPv4
		}
		return protoIPv6
	}
	return 0
}

// multicastMAC maps a group to its Ethernet address: RFC 1112 section 6.4, RFC 2464 section 7.
func multicastMAC(group netip.Addr) mac {
	b := group.AsSlice()
	if group.Is4() {
		return mac{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	return mac{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// solicitedNode is the group that a neighbour solicitation for target goes to, RFC 4291 section 2.7.1.
func solicitedNode(target netip.Addr) netip.Addr {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	b := target.As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group)
}
