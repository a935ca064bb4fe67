package compile

import (
	"math/bits"
	"slices"

	"gardu/ctl/abi"
)

const (
	lineBytes = 64
	lineWords = lineBytes / 8
)

// table collects the sections of a table. The first lines are left for the heads, so that offset 0 can mean "absent".
type table struct {
	heads    int
	sections [][]abi.Line
	lines    int
}

// add appends a section and returns its offset, 0 for an empty one.
func (t *table) add(section []abi.Line) uint32 {
	if len(section) == 0 {
		return 0
	}
	offset := uint32(t.heads + t.lines)
	t.sections = append(t.sections, section)
	t.lines += len(section)
	return offset
}

// finish puts the heads before the sections.
func (t *table) finish(heads ...abi.Line) []abi.Line {
	return slices.Concat(slices.Insert(t.sections, 0, heads)...)
}

// array is a section of numbers, little endian as the lines' words are.
type array []abi.Line

// newArray has room for n numbers of that many bits.
func newArray(n, bits int) array { return make(array, (n*bits/8+lineBytes-1)/lineBytes) }

func (a array) word(i int) uint64       { return a[i/lineWords].W[i%lineWords] }
func (a array) setWord(i int, v uint64) { a[i/lineWords].W[i%lineWords] = v }
func (a array) or(i int, v uint64)      { a[i/lineWords].W[i%lineWords] |= v }

// setU32, setU16 and setU8 write a number that is 0 so far.
func (a array) setU32(i int, v uint32) { a.or(i/2, uint64(v)<<(i%2*32)) }
func (a array) setU16(i int, v uint16) { a.or(i/4, uint64(v)<<(i%4*16)) }
func (a array) setU8(i int, v uint8)   { a.or(i/8, uint64(v)<<(i%8*8)) }

const (
	mixSeed  = 0x243F6A8885A308D3
	mixPrime = 0x9E3779B97F4A7C15
)

// mix is mixN of bpf/abi.h.
func mix(words ...uint64) uint64 {
	h := uint64(mixSeed)
	for _, x := range words {
		h = mixOne(h, x)
	}
	return h
}

// mix2 and mix3 are mix of so many words, for where it is called a million times.
func mix2(a, b uint64) uint64    { return mixOne(mixOne(mixSeed, a), b) }
func mix3(a, b, c uint64) uint64 { return mixOne(mix2(a, b), c) }

func mixOne(h, x uint64) uint64 {
	h = (h ^ x) * mixPrime
	return h ^ h>>32
}

// powerOfTwo returns the smallest power of two that is at least n, and 1 for 0.
func powerOfTwo(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }
