package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"gardu/ctl/abi"
)

const (
	frameBytes   = 64 // FRAME in bpf/bench.c
	ethernetSize = 14
	ipv4Size     = 20
	tcpCheck     = 16 // offset of the checksum in the TCP header
)

// tuple is what differs between the packets of a case: IPv4 TCP segments with ACK set, 64-byte frames.
type tuple struct {
	src, dst     netip.Addr
	sport, dport uint16
}

// frame returns a whole frame with the tuple filled in and both checksums right.
func (t tuple) frame() []byte {
	frame := make([]byte, frameBytes)
	copy(frame, []byte{0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x08, 0x00})
	ip := frame[ethernetSize:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = 64, 6 // TTL, TCP
	src, dst := t.src.As4(), t.dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:ipv4Size], 0))

	tcp := ip[ipv4Size:]
	binary.BigEndian.PutUint16(tcp, t.sport)
	binary.BigEndian.PutUint16(tcp[2:], t.dport)
	tcp[12], tcp[13] = 5<<4, 0x10 // header length in words, ACK
	binary.BigEndian.PutUint16(tcp[14:], 0xffff)
	pseudo := uint32(6 + len(tcp))
	for i := 12; i < ipv4Size; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(tcp[tcpCheck:], checksum(tcp, pseudo))
	return frame
}

// packet is the tuple as bpf/bench.c wants it: network order, read as native integers.
func (t tuple) packet() benchPacket {
	frame := t.frame()
	ip, tcp := frame[ethernetSize:], frame[ethernetSize+ipv4Size:]
	native := binary.NativeEndian
	return benchPacket{
		Saddr:    native.Uint32(ip[12:]),
		Daddr:    native.Uint32(ip[16:]),
		Sport:    abi.Htons(t.sport),
		Dport:    abi.Htons(t.dport),
		IpCheck:  native.Uint16(ip[10:]),
		TcpCheck: native.Uint16(tcp[tcpCheck:]),
	}
}

// checksum is RFC 1071's over data, with sum added.
func checksum(data []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// random is the source of everything that is drawn: each run of the benchmark sends the same packets.
func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func addr4(v uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}
