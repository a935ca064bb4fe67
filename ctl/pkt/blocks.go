package pkt

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// ngDescribed is an interface as a pcapng file describes it (draft-ietf-opsawg-pcapng).
type ngDescribed struct {
	link  uint16
	snap  uint32 // 0: no limit
	unit  uint64 // times are in so many a second
	since int64  // and begin at that second
}

const (
	ngSimple   = 3 // a packet without a time
	ngObsolete = 2 // a packet as files had it before ngPacket
	ngIfOffset = 14
	ngLink     = 12 // an empty block: its type, and its length before and behind what it holds

	// A block of more bytes than any with a packet in it has, or interfaces than any machine has, is damage.
	mostBlock      = 16 << 20
	mostInterfaces = 1 << 16
)

// nextNG reads blocks up to the next packet of a pcapng file.
func (c *Capture) nextNG() (packet Captured, err error) {
	for {
		kind, body, err := c.nextBlock()
		if err != nil {
			return packet, err
		}
		switch kind {
		case magicNG:
			c.interfaces = nil
		case ngInterface:
			err = c.describe(body)
		case ngPacket, ngObsolete:
			return c.packetIn(kind, body)
		case ngSimple:
			return c.simple(body)
		}
		if err != nil {
			return packet, err
		}
	}
}

// nextBlock reads a whole block. What it gives is good until the next.
func (c *Capture) nextBlock() (kind uint32, body []byte, err error) {
	c.at = c.behind
	var head [8]byte
	if err := c.fill(head[:], false); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint32(head[:]) == magicNG { // a section begins, perhaps of another machine
		order, err := c.in.Peek(4)
		if err != nil {
			return 0, nil, io.ErrUnexpectedEOF
		}
		switch uint32(ngOrder) {
		case binary.LittleEndian.Uint32(order):
			c.order = binary.LittleEndian
		case binary.BigEndian.Uint32(order):
			c.order = binary.BigEndian
		default:
			return 0, nil, fmt.Errorf("a section of the file begins with %x: it is damaged there", order)
		}
	}
	length := c.order.Uint32(head[4:])
	if length < ngLink || length > mostBlock || length%4 != 0 {
		return 0, nil, fmt.Errorf("no block of a pcapng file has %d bytes: it is damaged there", length)
	}
	rest := int(length) - len(head)
	if cap(c.block) < rest {
		c.block = make([]byte, rest)
	}
	body = c.block[:rest]
	if err := c.fill(body, true); err != nil {
		return 0, nil, err
	}
	body, again := body[:rest-4], c.order.Uint32(body[rest-4:])
	if again != length {
		return 0, nil, fmt.Errorf("a block has %d bytes by its head, %d by its end: the file is damaged there", length, again)
	}
	return c.order.Uint32(head[:]), body, nil
}

// describe takes the description of an interface.
func (c *Capture) describe(body []byte) error {
	if len(body) < 8 || len(c.interfaces) == mostInterfaces {
		return fmt.Errorf("interface %d is described in %d bytes: the file is damaged there", len(c.interfaces), len(body))
	}
	i := ngDescribed{link: c.order.Uint16(body), snap: c.order.Uint32(body[4:]), unit: 1e6}
	for rest := body[8:]; len(rest) >= 4; {
		code, size := c.order.Uint16(rest), int(c.order.Uint16(rest[2:]))
		if rest = rest[4:]; code == 0 || size > len(rest) {
			break
		}
		value := rest[:size]
		rest = rest[min(len(rest), (size+3)&^3):]
		switch {
		case code == ngIfResol && size == 1:
			if i.unit = perSecond(value[0]); i.unit == 0 {
				return fmt.Errorf("interface %d counts time by %#x: the file is damaged there", len(c.interfaces), value[0])
			}
		case code == ngIfOffset && size == 8:
			i.since = int64(c.order.Uint64(value))
		}
	}
	c.interfaces = append(c.interfaces, i)
	return nil
}

// perSecond is how many units a second has, 0 if that is no number: 2^n with the highest bit, else 10^n.
func perSecond(resolution byte) uint64 {
	n, base := resolution&0x7f, uint64(10)
	if resolution&0x80 != 0 {
		base = 2
	}
	unit := uint64(1)
	for range n {
		high, low := bits.Mul64(unit, base)
		if high != 0 {
			return 0
		}
		unit = low
	}
	return unit
}

// packetIn is the packet that a block holds.
func (c *Capture) packetIn(kind uint32, body []byte) (packet Captured, err error) {
	const fields = 20
	if len(body) < fields {
		return packet, fmt.Errorf("a block of %d bytes holds no packet: the file is damaged there", len(body)+ngLink)
	}
	number := c.order.Uint32(body)
	if kind == ngObsolete {
		number = uint32(c.order.Uint16(body)) // and how many were lost
	}
	at, err := c.seenBy(number)
	if err != nil {
		return packet, err
	}
	ticks := uint64(c.order.Uint32(body[4:]))<<32 | uint64(c.order.Uint32(body[8:]))
	high, low := bits.Mul64(ticks%at.unit, 1e9)
	part, _ := bits.Div64(high, low, at.unit)
	return frameIn(time.Unix(at.since+int64(ticks/at.unit), int64(part)).UTC(), body[fields:], c.order.Uint32(body[12:]), c.order.Uint32(body[16:]))
}

// simple is a packet of the first interface, without a time.
func (c *Capture) simple(body []byte) (packet Captured, err error) {
	if len(body) < 4 {
		return packet, fmt.Errorf("a block of %d bytes holds no packet: the file is damaged there", len(body)+ngLink)
	}
	at, err := c.seenBy(0)
	if err != nil {
		return packet, err
	}
	length := c.order.Uint32(body)
	held := length
	if at.snap != 0 {
		held = min(held, at.snap)
	}
	return frameIn(time.Time{}, body[4:], held, length)
}

// seenBy is the interface with that number.
func (c *Capture) seenBy(number uint32) (at ngDescribed, err error) {
	if uint64(number) >= uint64(len(c.interfaces)) {
		return at, fmt.Errorf("it was seen by interface %d, of which the file says nothing: it is damaged there", number)
	}
	if at = c.interfaces[number]; at.link != linkEthernet {
		return at, &LinkError{at.link}
	}
	return at, nil
}

// frameIn takes a frame out of a block.
func frameIn(at time.Time, body []byte, held, length uint32) (packet Captured, err error) {
	if uint64(held) > uint64(len(body)) || length < held {
		return packet, fmt.Errorf("it can't hold %d bytes of a packet of %d: the file is damaged there", held, length)
	}
	return Captured{at, append(make([]byte, 0, held), body[:held]...), int(length)}, nil
}
