package pkt

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Captured is one packet of a capture.
type Captured struct {
	Time   time.Time
	Frame  []byte // as much of it as was captured
	Length int    // on the wire; more than len(Frame) when the capture cut it
}

// Capture reads the packets of a pcap or pcapng file in order, also of one packed by gzip. It believes nothing that the file says of
// itself, so that memory and time are bounded by what it holds. It is for one goroutine.
type Capture struct {
	in     *bufio.Reader
	order  binary.ByteOrder
	next   func() (Captured, error)
	at     int64 // where what was read last begins
	behind int64 // and where that ends
	number int   // of the packet that was read last, from 1

	first    Captured // read ahead, since wrong link types show there
	firstErr error
	ahead    bool

	unit       uint64        // pcap: times are in so many a second
	interfaces []ngDescribed // pcapng: of the section
	block      []byte        // pcapng: memory for one
}

// BrokenError is a capture that can't be read to its end. The packets before that one are whole.
type BrokenError struct {
	Packet int   // from 1
	Offset int64 // in the file (unpacked, if it is packed), of what can't be read
	Cut    bool  // the file ends there; else it is damaged, or not for us
	err    error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("read capture: packet %d, at byte %d: %v", e.Packet, e.Offset, e.err)
}

func (e *BrokenError) Unwrap() error { return e.err }

// LinkError is a capture of something else than Ethernet frames.
type LinkError struct{ Type uint16 }

func (e *LinkError) Error() string {
	name, known := linkTypes[e.Type]
	if !known {
		name = fmt.Sprint(e.Type)
	}
	return fmt.Sprintf("link type is %s, only Ethernet can be read: capture on an Ethernet interface (tcpdump -i eth0, not -i any)", name)
}

// linkTypes that people capture by mistake (www.tcpdump.org/linktypes.html).
var linkTypes = map[uint16]string{0: "BSD loopback", 9: "PPP", 101: "raw IP", 105: "802.11", 113: "Linux cooked (-i any)", 127: "802.11 with radiotap",
	228: "raw IPv4", 229: "raw IPv6", 276: "Linux cooked v2 (-i any)"}

const (
	linkEthernet = 1

	// Sizes of a pcap file (draft-ietf-opsawg-pcap), and the most that a packet is taken to have.
	pcapHead   = 24 // of the file
	pcapRecord = 16 // before each packet
	mostFrame  = 1 << 20
)

// Files begin with one of these; magicNG is the same in either byte order.
const (
	magicNG    = 0x0a0d0d0a
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
	magicGzip  = 0x1f8b
)

// NewCapture tells pcap from pcapng, and reads the file's head. Only Ethernet captures are accepted.
func NewCapture(r io.Reader) (*Capture, error) {
	c := &Capture{in: bufio.NewReaderSize(r, 1<<16)}
	err := c.begin()
	if err == nil {
		c.first, c.firstErr = c.read()
		c.ahead = true
		if link, ok := errors.AsType[*LinkError](c.firstErr); ok {
			err = link
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	return c, nil
}

// begin reads what tells the format.
func (c *Capture) begin() error {
	magic, err := c.in.Peek(4)
	if err == nil && binary.BigEndian.Uint16(magic) == magicGzip {
		var unpacked io.Reader
		if unpacked, err = gzip.NewReader(c.in); err == nil {
			c.in = bufio.NewReaderSize(unpacked, 1<<16)
			magic, err = c.in.Peek(4)
		}
	}
	if err != nil {
		return shortened(err, "the file is empty, or ends in its first bytes")
	}
	if binary.BigEndian.Uint32(magic) == magicNG {
		c.next = c.nextNG
		return nil
	}
	c.next = c.nextPlain
	units := map[uint32]uint64{magicMicro: 1e6, magicNano: 1e9}
	for _, c.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if c.unit = units[c.order.Uint32(magic)]; c.unit != 0 {
			break
		}
	}
	if c.unit == 0 {
		return fmt.Errorf("no pcap or pcapng file begins with the bytes %x", magic)
	}
	head := make([]byte, pcapHead)
	if _, err := io.ReadFull(c.in, head); err != nil {
		return shortened(err, "the file ends before its first packet")
	}
	if major := c.order.Uint16(head[4:]); major != 2 {
		return fmt.Errorf("the file is pcap of version %d, only version 2 is known", major)
	}
	if link := uint16(c.order.Uint32(head[20:])); link != linkEthernet {
		return &LinkError{link}
	}
	c.behind = pcapHead
	return nil
}

// Next returns the next packet, io.EOF after the last, a [BrokenError] when there is more but it can't be read.
func (c *Capture) Next() (Captured, error) {
	if c.ahead {
		c.ahead = false
		return c.first, c.firstErr
	}
	return c.read()
}

func (c *Capture) read() (Captured, error) {
	packet, err := c.next()
	if err == io.EOF {
		return Captured{}, io.EOF
	}
	c.number++
	if err == nil {
		return packet, nil
	}
	text := "the file was cut off in it"
	if whole := c.number - 1; whole > 0 {
		text += fmt.Sprintf("; what is before it is whole (editcap -r IN OUT 1-%d keeps it)", whole)
	}
	return Captured{}, &BrokenError{c.number, c.at, errors.Is(err, io.ErrUnexpectedEOF), shortened(err, text)}
}

// fill reads as much as p takes: io.EOF only where nothing is left and nothing need be.
func (c *Capture) fill(p []byte, within bool) error {
	n, err := io.ReadFull(c.in, p)
	c.behind += int64(n)
	if err == io.EOF && within && len(p) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// nextPlain reads the next packet of a pcap file.
func (c *Capture) nextPlain() (packet Captured, err error) {
	c.at = c.behind
	var head [pcapRecord]byte
	if err := c.fill(head[:], false); err != nil {
		return packet, err
	}
	seconds, part := int64(c.order.Uint32(head[:])), uint64(c.order.Uint32(head[4:]))
	held, length := c.order.Uint32(head[8:]), c.order.Uint32(head[12:])
	if held > mostFrame || length < held {
		return packet, fmt.Errorf("it can't hold %d bytes of a packet of %d: the file is damaged there", held, length)
	}
	packet = Captured{Time: time.Unix(seconds, int64(part*(1e9/c.unit))).UTC(), Frame: make([]byte, held), Length: int(length)}
	return packet, c.fill(packet.Frame, true)
}

// shortened says what the end of a file means where there should be more of it.
func shortened(err error, text string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &shortError{text, err}
	}
	return err
}

// shortError is an end that came too early.
type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }

func (e *shortError) Unwrap() error { return e.err }
