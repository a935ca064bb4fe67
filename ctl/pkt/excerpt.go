package pkt

import (
	"encoding/binary"
	"fmt"
)

// Excerpt is Summary of a frame of which only the beginning is known, bytes long when it was whole. It tells what that beginning
// says, and of the payload the length; "..." stands for the rest of a header of which the beginning is told.
func Excerpt(head []byte, bytes int) string {
	p := Captured{Frame: head, Length: bytes}.decode()
	if bytes <= len(head) || p == nil {
		return Summary(head)
	}
	cut := false
	for inner := p; inner != nil; inner = inner.inner {
		inner.sum = right // of bytes that aren't known
		inner.payload = make([]byte, len(inner.payload))
		if inner.cut {
			cut = true
			inner.headerSum, inner.ipOptions, inner.tcpOptions = right, nil, nil
		}
		if inner.ports != "" {
			inner.payload = nil
		}
	}
	if cut {
		return p.String() + " ..."
	}
	return p.String()
}

// Text is the packet for people: Excerpt and, when the capture cut it, how much of it there is.
func (c Captured) Text() string {
	if c.Length <= len(c.Frame) {
		return Summary(c.Frame)
	}
	return fmt.Sprintf("%s (%d of %d bytes)", Excerpt(c.Frame, c.Length), len(c.Frame), c.Length)
}

// mostFilled is how long a frame is made, so that programs can be run with it.
const mostFilled = 3000

// Filled is the frame with zeros for what the capture lacks, to be judged.
func (c Captured) Filled() []byte {
	length := min(c.Length, mostFilled)
	if length <= len(c.Frame) {
		return c.Frame
	}
	whole := make([]byte, length)
	copy(whole, c.Frame)
	return whole
}

// decode returns what is known of the packet, nil when that has no words.
func (c Captured) decode() *packet {
	if c.Length <= len(c.Frame) {
		return decodeFrame(c.Frame, len(c.Frame))
	}
	if c.Length > maxFrame {
		return nil
	}
	frame := make([]byte, c.Length)
	return decodeFrame(frame, copy(frame, c.Frame))
}

// portsHeads are the heads of packets by the protocols that begin with two ports.
var portsHeads = map[uint8]string{protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp"}

// minimal headers of protocols behind IP: without these nobody can say what the packet is.
var minimal = map[uint8]int{protoTCP: 20, protoUDP: 8, protoSCTP: 12, protoICMP: 8, protoICMPv6: 8}

// HasHeaders says whether a capture that cut the packet left its headers, without which it can't be judged.
func (c Captured) HasHeaders() bool {
	b := c.Frame
	if len(b) >= c.Length {
		return true
	}
	if len(b) < 14 {
		return false
	}
	etherType, b := binary.BigEndian.Uint16(b[12:]), b[14:]
	for isTag(etherType) {
		if len(b) < 4 {
			return false
		}
		etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch etherType {
	case typeARP:
		return len(b) >= 28
	case typeIPv4:
		if len(b) < 20 {
			return false
		}
		header := max(20, int(b[0]&0xf)*4)
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // a later fragment
			return len(b) >= header
		}
		return len(b) >= header+minimal[b[9]]
	case typeIPv6:
		return len(b) >= 40 && hasUpper(b[6], b[40:])
	}
	return true
}

// hasUpper walks over the extension headers of IPv6, RFC 8200 section 4.
func hasUpper(next uint8, b []byte) bool {
	for {
		size := 0
		switch next {
		case protoHopByHop, protoRouting, protoDest, protoAH, protoFragment:
			if len(b) < 8 {
				return false
			}
		default:
			return len(b) >= minimal[next]
		}
		switch next {
		case protoFragment:
			if binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				return true
			}
			size = 8
		case protoAH:
			size = (int(b[1]) + 2) * 4
		default:
			size = (int(b[1]) + 1) * 8
		}
		if len(b) < size {
			return false
		}
		next, b = b[0], b[size:]
	}
}
