package pkt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Captured is one packet of a capture.
type Captured struct {
	Time   time.Time
	Frame  []byte // as much of it as was captured
	Length int    // on the wire; more than len(Frame) when the capture cut it
}

// Capture reads the packets of a pcap or pcapng file in order. It is for one goroutine.
type Capture struct {
	source gopacket.PacketDataSource
	number int
}

// magicNG begins every pcapng file, in either byte order.
const magicNG = 0x0a0d0d0a

// NewCapture tells pcap from pcapng and reads the file's head. Only Ethernet captures are accepted.
func NewCapture(r io.Reader) (*Capture, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", shortened(err, "the file is empty, or ends in its first bytes"))
	}
	var source interface {
		gopacket.PacketDataSource
		LinkType() layers.LinkType
	}
	if binary.BigEndian.Uint32(magic) == magicNG {
		options := pcapgo.DefaultNgReaderOptions
		options.ErrorOnMismatchingLinkType = true // rather than leaving packets out
		source, err = pcapgo.NewNgReader(&blocks{in: buffered}, options)
	} else {
		source, err = pcapgo.NewReader(buffered)
	}
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", shortened(err, "the file ends before its first packet: it is no pcap or pcapng file, or was cut off"))
	}
	if link := source.LinkType(); link != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("read capture: link type is %s, only Ethernet can be read: capture on an Ethernet interface (tcpdump -i eth0, not -i any)", link)
	}
	return &Capture{source: source}, nil
}

// Next returns the next packet, io.EOF after the last.
func (c *Capture) Next() (Captured, error) {
	frame, info, err := c.source.ReadPacketData()
	if err == io.EOF {
		return Captured{}, io.EOF
	}
	c.number++
	if err != nil {
		return Captured{}, fmt.Errorf("read capture: packet %d: %w", c.number, shortened(err, fmt.Sprintf("the file was cut off in it; the %d before it are whole (editcap -r IN OUT 1-%d keeps them)", c.number-1, c.number-1)))
	}
	return Captured{Time: info.Timestamp, Frame: frame, Length: info.Length}, nil
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
