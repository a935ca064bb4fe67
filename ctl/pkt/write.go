package pkt

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Writer writes a pcapng file in which each packet has a comment. It is for one goroutine.
type Writer struct {
	out        *bufio.Writer
	block      []byte
	interfaces map[string]uint32 // their numbers in the file
}

// Blocks and options of pcapng (draft-ietf-opsawg-pcapng).
const (
	ngInterface  = 1
	ngPacket     = 6
	ngOrder      = 0x1a2b3c4d
	ngEthernet   = 1
	ngComment    = 1
	ngFlags      = 2 // of a packet: which way it went
	ngIfName     = 2
	ngIfResol    = 9
	nanosecond   = 9 // 10^-9
	commentBytes = 4000
)

// NewWriter writes the head of a file of packets; those that Write adds came in by that interface. "": it is for WriteOn alone.
func NewWriter(w io.Writer, ifname string) (*Writer, error) {
	n := &Writer{out: bufio.NewWriterSize(w, 1<<20), interfaces: map[string]uint32{}}
	n.begin(magicNG)
	n.block = binary.LittleEndian.AppendUint32(n.block, ngOrder)
	n.block = binary.LittleEndian.AppendUint32(n.block, 1)                  // version 1.0
	n.block = binary.LittleEndian.AppendUint64(n.block, 0xffffffffffffffff) // of unknown length
	if err := n.end(); err != nil || ifname == "" {
		return n, err
	}
	_, err := n.number(ifname)
	return n, err
}

// number is that of an interface in the file, which tells of it before its first packet.
func (n *Writer) number(ifname string) (uint32, error) {
	if number, known := n.interfaces[ifname]; known {
		return number, nil
	}
	number := uint32(len(n.interfaces))
	n.interfaces[ifname] = number
	n.begin(ngInterface)
	n.block = binary.LittleEndian.AppendUint32(n.block, ngEthernet)
	n.block = binary.LittleEndian.AppendUint32(n.block, 0) // no limit
	n.option(ngIfName, ifname)
	n.option(ngIfResol, string([]byte{nanosecond}))
	n.option(0, "")
	return number, n.end()
}

// Write adds a packet as it was captured.
func (n *Writer) Write(c Captured, comment string) error { return n.write(0, c, "", comment) }

// Ways of a packet at its interface, as pcapng says it.
const (
	inbound  = "\x01\x00\x00\x00"
	outbound = "\x02\x00\x00\x00"
)

// WriteOn adds a packet that came in by an interface, or that left by it.
func (n *Writer) WriteOn(ifname string, out bool, c Captured, comment string) error {
	number, err := n.number(ifname)
	if err != nil {
		return err
	}
	if out {
		return n.write(number, c, outbound, comment)
	}
	return n.write(number, c, inbound, comment)
}

func (n *Writer) write(number uint32, c Captured, way, comment string) error {
	n.begin(ngPacket)
	at := uint64(c.Time.UnixNano())
	for _, word := range []uint32{number, uint32(at >> 32), uint32(at), uint32(len(c.Frame)), uint32(max(c.Length, len(c.Frame)))} {
		n.block = binary.LittleEndian.AppendUint32(n.block, word)
	}
	n.block = append(n.block, c.Frame...)
	n.pad()
	n.option(ngComment, comment[:min(len(comment), commentBytes)])
	if way != "" {
		n.option(ngFlags, way)
	}
	n.option(0, "")
	return n.end()
}

// Flush writes what is left.
func (n *Writer) Flush() error { return n.out.Flush() }

func (n *Writer) begin(kind uint32) {
	n.block = binary.LittleEndian.AppendUint32(n.block[:0], kind)
	n.block = append(n.block, 0, 0, 0, 0) // the length, see end
}

func (n *Writer) option(code uint16, value string) {
	n.block = binary.LittleEndian.AppendUint16(n.block, code)
	n.block = binary.LittleEndian.AppendUint16(n.block, uint16(len(value)))
	n.block = append(n.block, value...)
	n.pad()
}

func (n *Writer) pad() {
	for len(n.block)%4 != 0 {
		n.block = append(n.block, 0)
	}
}

func (n *Writer) end() error {
	length := uint32(len(n.block) + 4)
	binary.LittleEndian.PutUint32(n.block[4:], length)
	n.block = binary.LittleEndian.AppendUint32(n.block, length)
	_, err := n.out.Write(n.block)
	return err
}
