package explain

import (
	"encoding/binary"
	"net/netip"

	"gardu/ctl/rule"
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8

	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoICMPv6   = 58
	protoDest     = 60
	protoSCTP     = 132

	maxTags       = 2
	maxExtensions = 8

	flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16
)

// facts are what a packet says about itself, and what is known of it. Offsets count from the start of the frame.
type facts struct {
	dstMAC, srcMAC [6]byte
	etherType      uint16
	vlan           uint16 // id of the outermost tag that has one; 0 = none
	tags           int
	ip             int // offset of what follows the Ethernet header and tags

	src, dst netip.Addr // not valid: neither IPv4 nor IPv6
	proto    uint8
	upper    int // offset of the L4 header
	end      int // of the IP packet
	length   int // bytes of the IP packet
	ttl, tos uint8

	fragment, later bool   // first or later fragment; later: has no L4 header
	id              uint32 // of the packet that it is a fragment of

	hasPorts     bool
	sport, dport uint16

	tcpFlags uint8

	hasICMP            bool
	icmpType, icmpCode uint8
	echoID             uint16 // of what isn't a ping: whatever is there

	sent    bool   // by the kernel, not received
	state   uint32 // stateNew, ...
	trusted bool   // the state is that of a moment ago
}

// parsing is how far a frame could be understood.
type parsing int

const (
	parsed parsing = iota
	notIP
	malformed
)

// parse reads a frame.
func parse(frame []byte) (facts, parsing) {
	var f facts
	if len(frame) < 14 {
		return f, malformed
	}
	f.dstMAC, f.srcMAC = [6]byte(frame), [6]byte(frame[6:])
	f.etherType, f.ip = binary.BigEndian.Uint16(frame[12:]), 14
	for range maxTags {
		if f.etherType != typeVLAN && f.etherType != typeQinQ {
			break
		}
		if len(frame) < f.ip+4 {
			return f, malformed
		}
		if f.vlan == 0 {
			f.vlan = binary.BigEndian.Uint16(frame[f.ip:]) & 0xfff
		}
		f.etherType = binary.BigEndian.Uint16(frame[f.ip+2:])
		f.ip += 4
		f.tags++
	}
	switch f.etherType {
	case typeIPv4:
		return f, f.parseIPv4(frame)
	case typeIPv6:
		return f, f.parseIPv6(frame)
	}
	return f, notIP
}

func (f *facts) parseIPv4(frame []byte) parsing {
	b := frame[f.ip:]
	if len(b) < 20 || b[0]>>4 != 4 {
		return malformed
	}
	header := int(b[0]&0xf) * 4
	f.length = int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || f.length < header || f.length > len(b) {
		return malformed
	}
	f.end, f.upper = f.ip+f.length, f.ip+header
	f.tos, f.ttl, f.proto = b[1], b[8], b[9]
	f.src = netip.AddrFrom4([4]byte(b[12:16]))
	f.dst = netip.AddrFrom4([4]byte(b[16:20]))
	offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff
	more := b[6]&0x20 != 0
	f.fragment, f.later = more || offset != 0, offset != 0
	f.id = uint32(binary.BigEndian.Uint16(b[4:]))
	if f.later {
		return parsed
	}
	return f.parseUpper(frame)
}

func (f *facts) parseIPv6(frame []byte) parsing {
	b := frame[f.ip:]
	if len(b) < 40 || b[0]>>4 != 6 {
		return malformed
	}
	payload := int(binary.BigEndian.Uint16(b[4:]))
	f.length = 40 + payload
	next := b[6]
	if f.length > len(b) || payload == 0 && next == protoHopByHop {
		return malformed
	}
	f.end, f.upper = f.ip+f.length, f.ip+40
	f.tos, f.ttl = b[0]<<4|b[1]>>4, b[7]
	f.src = netip.AddrFrom16([16]byte(b[8:24]))
	f.dst = netip.AddrFrom16([16]byte(b[24:40]))

	for walked := 0; isExtension(next); walked++ {
		rest := frame[f.upper:f.end]
		if walked == maxExtensions || len(rest) < 8 {
			return malformed
		}
		size := 8 * (int(rest[1]) + 1)
		switch next {
		case protoAH:
			size = 4 * (int(rest[1]) + 2) // RFC 4302 section 2.2
		case protoFragment:
			size = 8
			offset, more := binary.BigEndian.Uint16(rest[2:])>>3, rest[3]&1 == 1
			if offset != 0 || more { // neither: an atomic fragment, which is whole (RFC 6946)
				f.fragment, f.id = true, binary.BigEndian.Uint32(rest[4:])
			}
			if offset != 0 {
				f.later, f.proto = true, rest[0]
				return parsed
			}
		}
		if len(rest) < size {
			return malformed
		}
		next = rest[0]
		f.upper += size
	}
	f.proto = next
	return f.parseUpper(frame)
}

func isExtension(next uint8) bool {
	switch next {
	case protoHopByHop, protoRouting, protoDest, protoFragment, protoAH:
		return true
	}
	return false
}

// isIP tells packets from other frames.
func (f facts) isIP() bool { return f.src.IsValid() }

// fragmentKind is the value of the field `fragment`.
func (f facts) fragmentKind() int {
	switch {
	case f.later:
		return rule.FragmentLater
	case f.fragment:
		return rule.FragmentFirst
	}
	return rule.FragmentNone
}

// hasPorts tells the protocols whose header begins with ports.
func hasPorts(proto uint8) bool { return proto == protoTCP || proto == protoUDP || proto == protoSCTP }

// isSYN tells the segment that opens a connection.
func (f facts) isSYN() bool { return f.tcpFlags&(flagSYN|flagACK) == flagSYN }

// parseUpper reads the L4 header, which must be whole.
func (f *facts) parseUpper(frame []byte) parsing {
	b := frame[f.upper:f.end]
	icmp := f.proto == protoICMP && f.src.Is4() || f.proto == protoICMPv6 && f.src.Is6()
	switch {
	case f.proto == protoTCP && len(b) < 20,
		f.proto == protoUDP && len(b) < 8,
		f.proto == protoSCTP && len(b) < 12,
		icmp && len(b) < 8:
		return malformed
	case f.proto == protoTCP:
		if header := int(b[12]>>4) * 4; header < 20 || header > len(b) {
			return malformed
		}
	}
	if hasPorts(f.proto) {
		f.hasPorts = true
		f.sport, f.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	if f.proto == protoTCP {
		f.tcpFlags = b[13]
	}
	if icmp {
		f.hasICMP = true
		f.icmpType, f.icmpCode = b[0], b[1]
		f.echoID = binary.BigEndian.Uint16(b[4:])
	}
	return parsed
}
