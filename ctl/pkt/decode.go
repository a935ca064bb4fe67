package pkt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Describe writes a frame as a PACKET on one line. It never fails, and [Parse] turns the text back into the same
// bytes: each layer is put in words only when these give exactly its bytes.
func Describe(frame []byte) string {
	if p := decodeFrame(frame, len(frame)); p != nil {
		return p.String()
	}
	return "hex " + hex.EncodeToString(frame)
}

// Summary is Describe for people: long runs of hex are cut, so that it may not parse back.
func Summary(frame []byte) string {
	const longest = 64
	words := strings.Fields(Describe(frame))
	for i, word := range words {
		if len(word) > longest {
			words[i] = fmt.Sprintf("%s...(%d bytes)", word[:longest], len(word)/2)
		}
	}
	return strings.Join(words, " ")
}

// String writes the PACKET.
func (p *packet) String() string {
	out := []string{p.headText()}
	for bit, name := range tcpFlags {
		if p.kind == kindTCP && p.tcpFlags>>bit&1 == 1 {
			out = append(out, name)
		}
	}
	for _, o := range options {
		if o.show == nil || o.on&p.kind == 0 || p.carried && o.on == kindsAll {
			continue
		}
		if text := o.show(p); text != "" {
			out = append(out, text)
		}
	}
	if p.kind&kindsTunnel != 0 {
		out = append(out, carries, p.inner.String())
	}
	return strings.Join(out, " ")
}

func (p *packet) headText() string {
	var name string
	for _, h := range heads {
		if h.kind == p.kind {
			name = h.name
		}
	}
	switch p.kind {
	case kindTCP, kindUDP, kindSCTP, kindGUE:
		return fmt.Sprintf("%s %s > %s", name, netip.AddrPortFrom(p.src, p.sport), netip.AddrPortFrom(p.dst, p.dport))
	case kindICMP, kindICMPv6:
		for _, known := range icmpNames(p.kind) {
			if known.number == p.icmpType {
				return fmt.Sprintf("%s %s > %s %s", name, p.src, p.dst, known.text)
			}
		}
		return fmt.Sprintf("%s %s > %s %d", name, p.src, p.dst, p.icmpType)
	case kindIP:
		if p.ports != "" {
			return fmt.Sprintf("%s %s > %s", p.ports, netip.AddrPortFrom(p.src, p.sport), netip.AddrPortFrom(p.dst, p.dport))
		}
		return fmt.Sprintf("%s %s > %s proto %d", name, p.src, p.dst, p.proto)
	case kindIPIP:
		return fmt.Sprintf("%s %s > %s", name, p.src, p.dst)
	case kindEther:
		return fmt.Sprintf("%s %#04x", name, p.etherType)
	}
	switch asked := p.asked(); {
	case p.reply:
		return fmt.Sprintf("%s reply %s is-at %s to %s", name, asked, p.hardware, p.dst)
	case p.kind == kindND && p.dst != solicitedNode(asked):
		return fmt.Sprintf("%s who-has %s tell %s to %s", name, asked, p.src, p.dst)
	default:
		return fmt.Sprintf("%s who-has %s tell %s", name, asked, p.src)
	}
}

// asked is the address that ARP or neighbour discovery is about.
func (p *packet) asked() netip.Addr {
	switch {
	case p.kind == kindND:
		return p.target
	case p.reply:
		return p.src
	}
	return p.dst
}

// decodeFrame returns nil when no PACKET but hex gives these bytes. Only so many of them are known: what depends on others is no
// field of the packet, so that it is told as what is below. Here and in what follows known is as many of b, negative when b begins
// behind them.
func decodeFrame(frame []byte, known int) *packet {
	if known < 14 {
		return nil
	}
	var tags []tag
	at := 12
	for known >= at+6 && isTag(binary.BigEndian.Uint16(frame[at:])) {
		tags = append(tags, tag{binary.BigEndian.Uint16(frame[at:]), binary.BigEndian.Uint16(frame[at+2:])})
		at += 4
	}
	etherType, body := binary.BigEndian.Uint16(frame[at:]), frame[at+2:]

	plain := newPacket(kindEther)
	plain.etherType, plain.payload = etherType, body
	for _, p := range []*packet{decodeBody(etherType, body, known-at-2), plain} {
		if p == nil {
			continue
		}
		p.tags = tags
		copy(p.destination[:], frame)
		copy(p.source[:], frame[6:])
		if bytes.Equal(p.frame(), frame) {
			return p
		}
	}
	return nil
}

func isTag(etherType uint16) bool {
	return etherType == typeVLAN || etherType == typeQinQ || etherType == 0x9100
}

func decodeBody(etherType uint16, body []byte, known int) *packet {
	switch etherType {
	case typeARP:
		return decodeARP(body, known)
	case typeIPv4, typeIPv6:
		p, total := decodeIP(body, known)
		if p != nil {
			p.pad = len(body) - total
		}
		return p
	}
	return nil
}

func decodeARP(b []byte, known int) *packet {
	if known < 28 {
		return nil
	}
	p := newPacket(kindARP)
	p.reply = b[7] == 2
	copy(p.hardware[:], b[8:])
	p.src, p.dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	p.pad = len(b) - 28
	return p
}

// decodeIP decodes the IP packet at the head of b and gives its length, or nil.
func decodeIP(b []byte, known int) (*packet, int) {
	base, upper, total := decodeHeader(b, known)
	if base == nil {
		return nil, 0
	}
	known -= total - len(upper)
	plain := *base
	plain.payload = upper
	if head := portsHeads[uint8(plain.proto)]; head != "" && known >= 4 && known < len(upper) && !base.isLater() {
		plain.ports, plain.cut = head, true // taken only when nothing better is
		plain.sport, plain.dport = binary.BigEndian.Uint16(upper), binary.BigEndian.Uint16(upper[2:])
	}
	for _, p := range append(decodeUpper(base, upper, known), &plain) {
		if bytes.Equal(p.ip(), b[:total]) {
			return p, total
		}
	}
	return nil, 0
}

// decodeHeader decodes the IP header and IPv6 extension headers into a packet of kindIP.
func decodeHeader(b []byte, known int) (p *packet, upper []byte, total int) {
	p = newPacket(kindIP)
	switch {
	case known >= 20 && b[0]>>4 == 4:
		header := int(b[0]&0xf) * 4
		total = int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || total < header || total > len(b) {
			return nil, nil, 0
		}
		p.tos, p.ttl, p.proto = b[1], b[8], int(b[9])
		p.id = uint32(binary.BigEndian.Uint16(b[4:]))
		field := binary.BigEndian.Uint16(b[6:])
		p.df = field&0x4000 != 0
		if field&0x3fff != 0 {
			p.extensions = []extension{{protoFragment, field & 0x1fff, field&0x2000 != 0}}
		}
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.ipOptions, p.cut = b[20:header], known < header
		bare := append(append([]byte{}, b[:10]...), 0, 0)
		if sum := ^onesSum(0, append(bare, b[12:header]...)); sum != binary.BigEndian.Uint16(b[10:]) {
			p.headerSum = int(binary.BigEndian.Uint16(b[10:]))
		}
		return p, b[header:total], total
	case known >= 40 && b[0]>>4 == 6:
		total = 40 + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return nil, nil, 0
		}
		first := binary.BigEndian.Uint32(b)
		p.tos, p.label, p.ttl = uint8(first>>20), first&0xfffff, b[7]
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		upper = p.decodeExtensions(b[6], b[40:total], min(known-40, total-40))
		return p, upper, total
	}
	return nil, nil, 0
}

// decodeExtensions walks the extension headers that a PACKET can have, sets proto to what follows and returns its bytes.
func (p *packet) decodeExtensions(next uint8, b []byte, known int) []byte {
	for {
		e := extension{number: next}
		if next == protoFragment && known >= 8 {
			field := binary.BigEndian.Uint16(b[2:])
			e.offset, e.more = field>>3, field&1 != 0
			p.id = binary.BigEndian.Uint32(b[4:])
		}
		switch next {
		case protoHopByHop, protoDest, protoRouting, protoAH, protoFragment:
		default:
			p.proto = int(next)
			return b
		}
		if known < len(e.bytes(0, 0)) || !bytes.HasPrefix(b, e.bytes(b[0], p.id)) {
			p.proto = int(next)
			return b
		}
		p.extensions = append(p.extensions, e)
		size := len(e.bytes(0, 0))
		next, b, known = b[0], b[size:], known-size
	}
}

// decodeUpper lists the packets that the bytes behind the IP header may be, best first.
func decodeUpper(base *packet, b []byte, known int) []*packet {
	p := *base
	number := uint8(p.proto)
	p.proto = right
	known = min(known, len(b))
	switch {
	case number == protoTCP && known >= 20:
		p.kind = kindTCP
		p.seq, p.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		header := int(b[12]>>4) * 4
		if header < 20 || header > len(b) {
			return nil
		}
		p.tcpFlags, p.window = b[13], binary.BigEndian.Uint16(b[14:])
		p.tcpOptions, p.payload, p.cut = b[20:header], b[header:], known < header
		p.decodeSum(b, 16)
	case number == protoUDP && known >= 8:
		p.kind = kindUDP
		p.payload = b[8:]
		if length := int(binary.BigEndian.Uint16(b[4:])); length != len(b) {
			p.udpLength = length
		}
		p.decodeSum(b, 6)
		p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		if tunnel := p.decodeGUE(known - 8); tunnel != nil {
			return []*packet{tunnel, &p}
		}
	case number == protoSCTP && known >= 12:
		p.kind = kindSCTP
		p.tagSCTP, p.payload = binary.BigEndian.Uint32(b[4:]), b[12:]
		if sum := int(binary.LittleEndian.Uint32(b[8:])); sum != int(sumSCTP(b)) {
			p.sum = sum
		}
	case number == protoICMP && p.src.Is4() && known >= 8, number == protoICMPv6 && p.src.Is6() && known >= 8:
		return decodeICMP(p, b, known)
	case number == protoIPv4 || number == protoIPv6:
		inner, total := decodeIP(b, known)
		if inner == nil || total != len(b) {
			return nil
		}
		inner.carried = true
		p.kind, p.inner = kindIPIP, inner
		return []*packet{&p}
	default:
		return nil
	}
	p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return []*packet{&p}
}

// decodeGUE is the UDP packet p as what carries another one, or nil.
func (p packet) decodeGUE(known int) *packet {
	if p.dport != portGUE {
		return nil
	}
	inner, total := decodeIP(p.payload, known)
	if inner == nil || total != len(p.payload) {
		return nil
	}
	inner.carried = true
	p.kind, p.inner, p.payload = kindGUE, inner, nil
	return &p
}

func decodeICMP(p packet, b []byte, known int) []*packet {
	p.kind = kindICMP
	if p.src.Is6() {
		p.kind = kindICMPv6
	}
	p.icmpType, p.icmpCode = b[0], b[1]
	p.rest = [2]uint16{binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])}
	p.payload = b[8:]
	p.decodeSum(b, 2)
	if p.kind == kindICMP || b[0] != icmpv6Solicitation && b[0] != icmpv6Advertisement || len(b) < 24 || known < min(len(b), 32) {
		return []*packet{&p}
	}
	nd := p
	nd.kind, nd.reply, nd.payload = kindND, b[0] == icmpv6Advertisement, nil
	nd.target = netip.AddrFrom16([16]byte(b[8:24]))
	nd.hardware = nd.source
	if len(b) == 32 {
		copy(nd.hardware[:], b[26:])
	}
	if nd.reply && nd.target != nd.src {
		return []*packet{&p} // no words for it
	}
	return []*packet{&nd, &p}
}

// decodeSum keeps the checksum at that offset of b when it is wrong.
func (p *packet) decodeSum(b []byte, at int) {
	bare := bytes.Clone(b)
	bare[at], bare[at+1] = 0, 0
	if sum := binary.BigEndian.Uint16(b[at:]); sum != upperSum(p.upperProtocol(), p.src, p.dst, bare) {
		p.sum = int(sum)
	}
}
