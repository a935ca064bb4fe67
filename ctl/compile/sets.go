package compile

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"gardu/ctl/abi"
)

// setsTable builds the table that maps an address to its class, and a class to the sets. It returns the number
// of classes as well.
func setsTable(uses []setUse) ([]abi.Line, int, error) {
	if len(uses) == 0 {
		return make([]abi.Line, 1), 0, nil
	}
	t := flat{lines: make([]abi.Line, 1)}
	c := newClasses(uses)
	v4, v6 := prefixes(uses)
	var head abi.SetsHead
	t.addSets4(&head, sweep4(v4, c))
	t.addSets6(&head, sweep6(v6, c))
	if c.err != nil {
		return nil, 0, c.err
	}
	lines := c.finish(uses)
	head.ClassOff, head.Classes = t.reserve(len(lines)), uint32(len(lines))
	copy(t.lines[head.ClassOff:], lines)
	t.lines[0] = abi.ToLine(head)
	return t.lines, len(lines), nil
}

// flat is a table that is built in place: sets are too large to be copied together. Line 0 is left for the head.
type flat struct{ lines []abi.Line }

// reserve adds n lines of zeros and returns where they begin, 0 for none. What was a part of lines before may be one of
// an old copy afterwards.
func (t *flat) reserve(n int) uint32 {
	if n == 0 {
		return 0
	}
	off := len(t.lines)
	t.lines = slices.Grow(t.lines, n)[:off+n]
	return uint32(off)
}

// release takes back what was reserved from off on, clean.
func (t *flat) release(off uint32) {
	clear(t.lines[off:])
	t.lines = t.lines[:off]
}

// array is the section of so many lines at off.
func (t *flat) array(off uint32, lines int) array { return array(t.lines[off:][:lines]) }

// maxClasses is what the 16 bits of a class number can tell apart.
const maxClasses = 1 << 16

// class numbers a combination of sets; 0 is none.
type class uint16

// classes hands out class numbers. A combination is found by how it came about: a class joined by one more use.
type classes struct {
	lines  []abi.Line
	uses   []abi.Line // bits of each use
	byBits map[abi.Line]class
	joined map[uint32]class // class << 16 | use
	last   uint32           // the same, asked last: mostly it is asked again
	result class
	err    error
}

func newClasses(uses []setUse) *classes {
	c := &classes{
		lines:  make([]abi.Line, 1),
		uses:   make([]abi.Line, len(uses)),
		byBits: map[abi.Line]class{{}: 0},
		joined: map[uint32]class{},
		last:   ^uint32(0),
	}
	for i, use := range uses {
		if use.in == 0 {
			for _, bit := range use.bits {
				array(c.uses[i:i+1]).or(int(bit/64), 1<<(bit%64))
			}
		}
	}
	return c
}

// with returns the class of addresses that are in everything of `in` and in one more use.
func (c *classes) with(in class, use uint16) class {
	key := uint32(in)<<16 | uint32(use)
	if key == c.last {
		return c.result
	}
	result, ok := c.joined[key]
	if !ok {
		line := c.lines[in]
		for i, w := range c.uses[use].W {
			line.W[i] |= w
		}
		if result, ok = c.byBits[line]; !ok {
			if len(c.lines) == maxClasses {
				c.err = &LimitError{What: "combinations of overlapping sets", Limit: maxClasses - 1}
				return 0
			}
			result = class(len(c.lines))
			c.lines = append(c.lines, line)
			c.byBits[line] = result
		}
		c.joined[key] = result
	}
	c.last, c.result = key, result
	return result
}

// finish returns the class lines with the bits of the differences.
func (c *classes) finish(uses []setUse) []abi.Line {
	for _, use := range uses {
		if use.in == 0 {
			continue
		}
		for i := range c.lines {
			line := array(c.lines[i : i+1])
			if line.bit(use.in) && !line.bit(use.out) {
				line.or(int(use.bits[0]/64), 1<<(use.bits[0]%64))
			}
		}
	}
	return c.lines
}

func (a array) bit(i uint16) bool { return a.word(int(i/64))>>(i%64)&1 != 0 }

// prefix4 is an IPv4 prefix of a use: address << 32 | length << 16 | use. Sorted, a prefix follows those that hold it.
type prefix4 uint64

func (p prefix4) first() uint32 { return uint32(p >> 32) }
func (p prefix4) last() uint32  { return p.first() | uint32(uint64(0xffffffff)>>(p>>16&0xff)) }
func (p prefix4) use() uint16   { return uint16(p) }

// prefix6 is an IPv6 prefix of a use, in host order.
type prefix6 struct {
	hi, lo uint64
	len    uint8
	use    uint16
	class  class // of its addresses that no longer prefix holds; from sweep6
}

// prefixes collects the prefixes of all uses by family. Numbers of uses fit 16 bits because bits do.
func prefixes(uses []setUse) (v4 []prefix4, v6 []prefix6) {
	var n4, n6 int
	for _, use := range uses {
		for i := range use.prefixes {
			if use.prefixes[i].Addr().Is4() {
				n4++
			} else {
				n6++
			}
		}
	}
	v4, v6 = make([]prefix4, 0, n4), make([]prefix6, 0, n6)
	for i, use := range uses {
		for _, prefix := range use.prefixes {
			addr, length := prefix.Addr(), prefix.Bits()
			if addr.Is4() {
				b := addr.As4()
				first := binary.BigEndian.Uint32(b[:]) &^ uint32(uint64(0xffffffff)>>length)
				v4 = append(v4, prefix4(first)<<32|prefix4(length)<<16|prefix4(i))
				continue
			}
			v6 = appendPrefix6(v6, addr, uint8(length), uint16(i))
		}
	}
	return v4, v6
}

func appendPrefix6(v6 []prefix6, addr netip.Addr, length uint8, use uint16) []prefix6 {
	if length == 0 { // length 0 marks an empty slot: two halves instead
		return append(v6, prefix6{len: 1, use: use}, prefix6{hi: 1 << 63, len: 1, use: use})
	}
	b := addr.As16()
	hi, lo := mask6(binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), length)
	return append(v6, prefix6{hi: hi, lo: lo, len: length, use: use})
}

// digitBits is how many bits radixSort looks at in a pass.
const digitBits = 11

// radixSort sorts by a number of each item, and keeps the order of those that are equal in it. A million take a tenth of the
// time that slices.Sort does.
func radixSort[T any](items []T, number func(*T) uint64) {
	const digits = (64 + digitBits - 1) / digitBits
	var counts [digits][1 << digitBits]uint32
	differ, first := uint64(0), uint64(0)
	for i := range items {
		n := number(&items[i])
		if i == 0 {
			first = n
		}
		differ |= n ^ first
		for d := range digits {
			counts[d][n>>(d*digitBits)&(1<<digitBits-1)]++
		}
	}
	if differ == 0 {
		return
	}
	from, to := items, make([]T, len(items))
	for d := range digits {
		shift := d * digitBits
		if differ>>shift&(1<<digitBits-1) == 0 {
			continue
		}
		next := &counts[d]
		sum := uint32(0)
		for i, n := range next {
			next[i] = sum
			sum += n
		}
		for i := range from {
			digit := number(&from[i]) >> shift & (1<<digitBits - 1)
			to[next[digit]] = from[i]
			next[digit]++
		}
		from, to = to, from
	}
	if &from[0] != &items[0] {
		copy(items, from)
	}
}
