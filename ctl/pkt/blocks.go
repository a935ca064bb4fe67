package pkt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// blocks passes a pcapng file on, and tells a file that ends within a block from one that ends behind the last: the reader
// behind it takes both for the end.
type blocks struct {
	in    io.Reader
	order binary.ByteOrder
	head  []byte // of the block that begins, as far as it was seen
	left  uint64 // bytes of the block behind its head
}

// headBytes are a block's type and length and, of a section's first block, what tells the order of bytes.
const headBytes = 12

// blockBytes is more than any block with a packet in it has.
const blockBytes = 16 << 20

func (b *blocks) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if wrong := b.follow(p[:n]); wrong != nil {
		return 0, wrong
	}
	if err == io.EOF && (b.left > 0 || len(b.head) > 0) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// follow walks over bytes that were read.
func (b *blocks) follow(p []byte) error {
	for len(p) > 0 {
		if b.left > 0 {
			n := min(b.left, uint64(len(p)))
			b.left -= n
			p = p[n:]
			continue
		}
		n := min(headBytes-len(b.head), len(p))
		b.head = append(b.head, p[:n]...)
		p = p[n:]
		if len(b.head) < headBytes {
			return nil
		}
		if err := b.begin(); err != nil {
			return err
		}
	}
	return nil
}

// begin takes a block's length from its head.
func (b *blocks) begin() error {
	if binary.BigEndian.Uint32(b.head) == magicNG {
		b.order = binary.LittleEndian
		if binary.BigEndian.Uint32(b.head[8:]) == ngOrder {
			b.order = binary.BigEndian
		}
	}
	length := b.order.Uint32(b.head[4:])
	if length < headBytes || length > blockBytes || length%4 != 0 {
		return fmt.Errorf("a block of %d bytes", length)
	}
	b.head, b.left = b.head[:0], uint64(length)-headBytes
	return nil
}
