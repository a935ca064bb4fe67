package pkt

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// frame builds the bytes of an Ethernet frame.
func (p *packet) frame() []byte {
	f := append([]byte{}, p.destination[:]...)
	f = append(f, p.source[:]...)
	for _, t := range p.tags {
		f = binary.BigEndian.AppendUint16(f, t.protocol)
		f = binary.BigEndian.AppendUint16(f, t.control)
	}
	switch {
	case p.kind == kindEther:
		f = binary.BigEndian.AppendUint16(f, p.etherType)
		f = append(f, p.payload...)
	case p.kind == kindARP:
		f = binary.BigEndian.AppendUint16(f, typeARP)
		f = append(f, p.arp()...)
	case p.src.Is4():
		f = binary.BigEndian.AppendUint16(f, typeIPv4)
		f = append(f, p.ip()...)
	default:
		f = binary.BigEndian.AppendUint16(f, typeIPv6)
		f = append(f, p.ip()...)
	}
	f = append(f, make([]byte, p.pad)...)
	if p.truncate != right && p.truncate < len(f) {
		f = f[:p.truncate]
	}
	return f
}

// ip builds the IP packet.
func (p *packet) ip() []byte {
	upper := p.upper()
	proto := uint8(override(p.proto, int(p.upperProtocol())))
	if p.src.Is4() {
		return p.ipv4(proto, upper)
	}
	return p.ipv6(proto, upper)
}

func (p *packet) ipv4(proto uint8, upper []byte) []byte {
	header := 20 + len(p.ipOptions)
	h := make([]byte, header, header+len(upper))
	h[0] = byte(override(p.version, 4)<<4 | override(p.ihl, header/4)&0xf)
	h[1] = p.tos
	binary.BigEndian.PutUint16(h[2:], uint16(override(p.total, header+len(upper))))
	binary.BigEndian.PutUint16(h[4:], uint16(p.id))
	binary.BigEndian.PutUint16(h[6:], p.fragmentField())
	h[8], h[9] = p.ttl, proto
	copy(h[12:], p.src.AsSlice())
	copy(h[16:], p.dst.AsSlice())
	copy(h[20:], p.ipOptions)
	binary.BigEndian.PutUint16(h[10:], uint16(override(p.headerSum, int(^onesSum(0, h)))))
	return append(h, upper...)
}

// fragmentField is the 16 bits of flags and fragment offset of IPv4.
func (p *packet) fragmentField() uint16 {
	var field uint16
	if p.df {
		field |= 0x4000
	}
	for _, e := range p.extensions {
		field |= e.offset
		if e.more {
			field |= 0x2000
		}
	}
	return field
}

func (p *packet) ipv6(proto uint8, upper []byte) []byte {
	var chain []byte
	for i, e := range p.extensions {
		next := proto
		if i+1 < len(p.extensions) {
			next = p.extensions[i+1].number
		}
		chain = append(chain, e.bytes(next, p.id)...)
	}
	first := proto
	if len(p.extensions) > 0 {
		first = p.extensions[0].number
	}
	h := make([]byte, 40, 40+len(chain)+len(upper))
	binary.BigEndian.PutUint32(h, uint32(override(p.version, 6))<<28|uint32(p.tos)<<20|p.label)
	binary.BigEndian.PutUint16(h[4:], uint16(override(p.total, len(chain)+len(upper))))
	h[6], h[7] = first, p.ttl
	copy(h[8:], p.src.AsSlice())
	copy(h[24:], p.dst.AsSlice())
	return append(append(h, chain...), upper...)
}

// bytes builds one extension header with the least content that is valid.
func (e extension) bytes(next uint8, id uint32) []byte {
	switch e.number {
	case protoFragment:
		h := []byte{next, 0, 0, 0, 0, 0, 0, 0}
		field := e.offset << 3
		if e.more {
			field |= 1
		}
		binary.BigEndian.PutUint16(h[2:], field)
		binary.BigEndian.PutUint32(h[4:], id)
		return h
	case protoRouting: // type 253 (experiment), no segments left
		return []byte{next, 0, 253, 0, 0, 0, 0, 0}
	case protoAH: // 16 bytes, its length field counts 4-byte units less 2
		return []byte{next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}
	}
	return []byte{next, 0, 1, 4, 0, 0, 0, 0} // PadN of 4
}

// upper builds what follows the IP header.
func (p *packet) upper() []byte {
	switch p.kind {
	case kindTCP:
		h := binary.BigEndian.AppendUint16(nil, p.sport)
		h = binary.BigEndian.AppendUint16(h, p.dport)
		h = binary.BigEndian.AppendUint32(h, p.seq)
		h = binary.BigEndian.AppendUint32(h, p.ack)
		h = append(h, byte(override(p.offset, 5+len(p.tcpOptions)/4)<<4), p.tcpFlags)
		h = binary.BigEndian.AppendUint16(h, p.window)
		h = append(h, 0, 0, 0, 0)
		h = append(append(h, p.tcpOptions...), p.payload...)
		return p.putSum(h, 16)
	case kindUDP:
		return p.udp(p.payload)
	case kindGUE:
		return p.udp(p.inner.ip())
	case kindSCTP:
		h := binary.BigEndian.AppendUint16(nil, p.sport)
		h = binary.BigEndian.AppendUint16(h, p.dport)
		h = binary.BigEndian.AppendUint32(h, p.tagSCTP)
		h = append(append(h, 0, 0, 0, 0), p.payload...)
		binary.LittleEndian.PutUint32(h[8:], uint32(override(p.sum, int(sumSCTP(h)))))
		return h
	case kindICMP, kindICMPv6:
		h := []byte{p.icmpType, p.icmpCode, 0, 0}
		h = binary.BigEndian.AppendUint16(h, p.rest[0])
		h = binary.BigEndian.AppendUint16(h, p.rest[1])
		return p.putSum(append(h, p.payload...), 2)
	case kindND:
		return p.putSum(p.nd(), 2)
	case kindIPIP:
		return p.inner.ip()
	}
	return p.payload
}

func (p *packet) udp(payload []byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, p.sport)
	h = binary.BigEndian.AppendUint16(h, p.dport)
	h = binary.BigEndian.AppendUint16(h, uint16(override(p.udpLength, 8+len(payload))))
	return p.putSum(append(append(h, 0, 0), payload...), 6)
}

// nd builds a neighbour solicitation or advertisement with the link-layer address option, RFC 4861 section 4.3. A
// solicitation from :: (duplicate address detection) carries no option.
func (p *packet) nd() []byte {
	kind, flags, option := byte(icmpv6Solicitation), byte(0), byte(1)
	if p.reply {
		kind, flags, option = icmpv6Advertisement, 0x60, 2 // solicited, override
	}
	h := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, p.target.AsSlice()...)
	if !p.src.IsUnspecified() {
		h = append(append(h, option, 1), p.hardware[:]...)
	}
	return h
}

// arp builds an Ethernet/IPv4 request or reply, RFC 826.
func (p *packet) arp() []byte {
	operation, asked := byte(1), mac{}
	if p.reply {
		operation, asked = 2, p.destination
	}
	h := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	h = append(append(h, p.hardware[:]...), p.src.AsSlice()...)
	return append(append(h, asked[:]...), p.dst.AsSlice()...)
}

// putSum writes the Internet checksum of h, with the pseudo-header where the protocol has one, at that offset.
func (p *packet) putSum(h []byte, at int) []byte {
	binary.BigEndian.PutUint16(h[at:], uint16(override(p.sum, int(upperSum(p.upperProtocol(), p.src, p.dst, h)))))
	return h
}

// upperSum is the checksum that TCP, UDP, ICMP or ICMPv6 bytes h, checksum field zero, should carry.
func upperSum(proto uint8, src, dst netip.Addr, h []byte) uint16 {
	var pseudo uint16
	if proto != protoICMP {
		b := append(src.AsSlice(), dst.AsSlice()...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(h)))
		pseudo = onesSum(0, append(b, 0, 0, 0, proto))
	}
	sum := ^onesSum(pseudo, h)
	if sum == 0 && proto == protoUDP {
		return 0xffff // RFC 768: 0 says that there is none
	}
	return sum
}

// sumSCTP is the CRC-32c that the SCTP packet b should carry, RFC 9260 appendix A.
func sumSCTP(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, b[:8])
	sum = crc32.Update(sum, table, make([]byte, 4))
	return crc32.Update(sum, table, b[12:])
}

// onesSum adds the 16-bit words of b to sum in ones' complement; an odd last byte is padded with zero.
func onesSum(sum uint16, b []byte) uint16 {
	total := uint32(sum)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		total += word
		total = total&0xffff + total>>16
	}
	return uint16(total)
}

// override returns what was asked for, or the right value.
func override(asked, value int) int {
	if asked == right {
		return value
	}
	return asked
}
