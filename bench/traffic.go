package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

const (
	frameBytes   = 64 // FRAME in bpf/bench.c
	frame6Bytes  = 80 // FRAME6
	longFrame    = 1514
	ethernetSize = 14
	ipv4Size     = 20
	ipv6Size     = 40
	udpLength    = 4  // offset in the UDP header
	tcpCheck     = 16 // offset of the checksum in the TCP header
	hops         = 64
)

// tuple is what differs between the packets of a case: TCP segments with ACK set, or UDP datagrams without checksum.
type tuple struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8 // 0: TCP
}

func (t tuple) protocol() uint8 {
	if t.proto == 0 {
		return uint8(model.ProtoTCP)
	}
	return t.proto
}

// frame returns the shortest frame.
func (t tuple) frame() []byte { return t.framed(0) }

// framed returns a whole frame of a length, or the shortest one, with the tuple filled in and checksums right.
func (t tuple) framed(length int) []byte {
	if t.src.Is6() {
		return t.frame6(max(length, frame6Bytes))
	}
	frame := make([]byte, max(length, frameBytes))
	copy(frame, []byte{0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x08, 0x00})
	ip := frame[ethernetSize:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = hops, t.protocol()
	src, dst := t.src.As4(), t.dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:ipv4Size], 0))
	t.segment(ip[ipv4Size:], sum(ip[12:ipv4Size], 0))
	return frame
}

func (t tuple) frame6(length int) []byte {
	frame := make([]byte, length)
	copy(frame, []byte{0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x86, 0xdd})
	ip := frame[ethernetSize:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Size))
	ip[6], ip[7] = t.protocol(), hops
	src, dst := t.src.As16(), t.dst.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	t.segment(ip[ipv6Size:], sum(ip[8:ipv6Size], 0))
	return frame
}

// segment writes what follows the IP header. A TCP header's sequence number is a UDP header's length, and no checksum.
func (t tuple) segment(l4 []byte, addresses uint32) {
	binary.BigEndian.PutUint16(l4, t.sport)
	binary.BigEndian.PutUint16(l4[2:], t.dport)
	binary.BigEndian.PutUint16(l4[udpLength:], uint16(len(l4)))
	l4[12], l4[13] = 5<<4, 0x10 // header length in words, ACK
	binary.BigEndian.PutUint16(l4[14:], 0xffff)
	binary.BigEndian.PutUint16(l4[tcpCheck:], checksum(l4, addresses+uint32(t.protocol())+uint32(len(l4))))
}

// packet is the tuple as bpf/bench.c wants it: network order, read as native integers.
func (t tuple) packet(length int) benchPacket {
	frame := t.framed(length)
	ip, tcp := frame[ethernetSize:], frame[ethernetSize+ipv4Size:]
	native := binary.NativeEndian
	return benchPacket{
		Saddr:    native.Uint32(ip[12:]),
		Daddr:    native.Uint32(ip[16:]),
		Sport:    abi.Htons(t.sport),
		Dport:    abi.Htons(t.dport),
		Ttl:      hops,
		Protocol: t.protocol(),
		IpCheck:  native.Uint16(ip[10:]),
		TcpCheck: native.Uint16(tcp[tcpCheck:]),
	}
}

func (t tuple) packet6(length int) benchPacket6 {
	frame := t.framed(length)
	ip, tcp := frame[ethernetSize:], frame[ethernetSize+ipv6Size:]
	native := binary.NativeEndian
	p := benchPacket6{
		Sport:    abi.Htons(t.sport),
		Dport:    abi.Htons(t.dport),
		Nexthdr:  t.protocol(),
		HopLimit: hops,
		TcpCheck: native.Uint16(tcp[tcpCheck:]),
	}
	for i := range p.Saddr {
		p.Saddr[i] = native.Uint32(ip[8+4*i:])
		p.Daddr[i] = native.Uint32(ip[24+4*i:])
	}
	return p
}

// checksum is RFC 1071's over data, with start added.
func checksum(data []byte, start uint32) uint16 { return ^uint16(sum(data, start)) }

func sum(data []byte, sum uint32) uint32 {
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

// random is the source of everything that is drawn: each run of the benchmark sends the same packets.
func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func addr4(v uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

func addr6(hi, lo uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}
