package dataplane

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// TendLimits clears token buckets that are full, whose time would seem to be ahead again in 38 hours. If more than half of those in use
// aren't, it doubles them and says so: then less than one in a hundred keys finds no free one in its line. It has to be called when buckets
// are shared, and every few hours else; one call at a time. See xdp/limit.h.
func (d *Dataplane) TendLimits() (grown bool, err error) {
	memory, err := mapMemory(d.maps[abi.AbiMapLimits])
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(memory)) }()
	now, err := readClocks()
	if err != nil {
		return false, err
	}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/8)
	return d.tendLimits(words, uint64(now.monotonic)), nil
}

// LimitsMayGrow says whether there is room for more token buckets than are in use.
func (d *Dataplane) LimitsMayGrow() bool { return atomic.LoadUint32(&d.control.LimitSpare) > 0 }

// tendLimits does so at a time of CLOCK_MONOTONIC, in ns. Programs take and change the words meanwhile: each is changed only as long as it is
// what was seen. Tokens of those that move that are taken within these microseconds may be had again.
func (d *Dataplane) tendLimits(words []uint64, now uint64) (grown bool) {
	spare := atomic.LoadUint32(&d.control.LimitSpare)
	used := len(words) >> spare
	owing := clearFull(words[:used], now)
	if spare == 0 || 2*owing <= used {
		return false
	}
	moves := func(word uint64) bool {
		return word>>(uint64(abi.LimitTimeBits)+uint64(abi.LimitFewerBits)-uint64(spare))&1 != 0
	}
	for i := range words[:used] {
		word := atomic.LoadUint64(&words[i])
		if !moves(word) {
			word = 0
		}
		atomic.StoreUint64(&words[used+i], word)
	}
	atomic.StoreUint32(&d.control.LimitSpare, spare-1)
	for i := range words[:used] {
		if word := atomic.LoadUint64(&words[i]); moves(word) {
			atomic.CompareAndSwapUint64(&words[i], word, 0)
		}
	}
	return true
}

// clearFull clears the buckets that are full, and counts the others.
func clearFull(words []uint64, now uint64) (owing int) {
	const time, span = 1<<abi.LimitTimeBits - 1, 1 << abi.LimitSpanBits
	for i := range words {
		word := atomic.LoadUint64(&words[i])
		ahead := (word - now<<abi.LimitTickBits) & time
		switch {
		case word == 0:
		case ahead == 0 || ahead > span:
			atomic.CompareAndSwapUint64(&words[i], word, 0)
		default:
			owing++
		}
	}
	return owing
}
