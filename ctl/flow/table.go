package flow

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

const (
	recordSize  = int(unsafe.Sizeof(abi.FlowRecord{}))
	recordWords = recordSize / 8
	tagWord     = int(unsafe.Sizeof(abi.FlowKey{}))/8 - 1 // the tag is the last member of the key, so it is in the top 16 bits here
	tagShift    = 48

	batch    = 4096 // LRU entries a system call
	maxTries = 16   // reads of a record that is replaced again and again
)

// words is a record as the reader loads it: in aligned 64-bit pieces, each of which the kernel writes in one store.
type words [recordWords]uint64

func (w *words) record() *abi.FlowRecord { return (*abi.FlowRecord)(unsafe.Pointer(w)) }

// LRU is the map behind the array. *ebpf.Map satisfies it.
type LRU interface {
	BatchLookup(cursor *ebpf.MapBatchCursor, keysOut, valuesOut any, opts *ebpf.BatchOptions) (int, error)
}

// Table is one flow table: the array that the programs write and the LRU map that takes what the array has no room for. It is
// for one goroutine at a time.
type Table struct {
	records []words
	lru     LRU

	keys   []abi.FlowKey // room for a batch
	values []abi.FlowValue
}

// NewTable reads an array of abi.FlowBucket mapped at memory, which must stay mapped as long as the table is used.
// lru may be nil: nothing is behind the array.
func NewTable(memory []byte, lru LRU) (*Table, error) {
	if len(memory)%int(unsafe.Sizeof(abi.FlowBucket{})) != 0 {
		return nil, fmt.Errorf("flow table of %d bytes is not made of whole buckets", len(memory))
	}
	if len(memory) == 0 {
		return &Table{lru: lru}, nil
	}
	start := unsafe.Pointer(unsafe.SliceData(memory))
	if uintptr(start)%unsafe.Alignof(uint64(0)) != 0 {
		return nil, errors.New("flow table is not aligned to 8 bytes")
	}
	return &Table{records: unsafe.Slice((*words)(start), len(memory)/recordSize), lru: lru}, nil
}

// Capacity is the number of records that the array has room for.
func (t *Table) Capacity() int { return len(t.records) }

// load copies a record that a program may be replacing at this moment; false when it is free. A program clears the
// tag, writes, and sets the tag, so a copy whose key is still there afterwards is of one flow. Atomic loads
// keep the order on every architecture. Packets and bytes are of the same flow but may be one packet apart.
func load(from *words, to *words) bool {
	for range maxTries {
		to[tagWord] = atomic.LoadUint64(&from[tagWord])
		if to[tagWord]>>tagShift == 0 {
			return false
		}
		for i := range from {
			to[i] = atomic.LoadUint64(&from[i])
		}
		if to[tagWord]>>tagShift != 0 && sameKey(from, to) {
			return true
		}
	}
	return false // replaced faster than it can be read: no flow lives here
}

// sameKey compares the word of the tag first: many flows have the same one, and if this is another flow's already, then so are
// the addresses that are read after it.
func sameKey(live, copied *words) bool {
	if atomic.LoadUint64(&live[tagWord]) != copied[tagWord] {
		return false
	}
	for i := range tagWord {
		if atomic.LoadUint64(&live[i]) != copied[i] {
			return false
		}
	}
	return true
}

// sweepArray calls yield with every record in use, until it returns false. The record is valid during the call;
// slot is where it lives.
func (t *Table) sweepArray(yield func(record *abi.FlowRecord, slot *words) bool) bool {
	var copied words
	for i := range t.records {
		if load(&t.records[i], &copied) && !yield(copied.record(), &t.records[i]) {
			return false
		}
	}
	return true
}

// sweepLRU does the same for the LRU map. An entry that moves while the map is read may be missed or seen twice.
func (t *Table) sweepLRU(yield func(*abi.FlowRecord) bool) (bool, error) {
	if t.lru == nil {
		return true, nil
	}
	if t.keys == nil {
		t.keys, t.values = make([]abi.FlowKey, batch), make([]abi.FlowValue, batch)
	}
	var (
		cursor ebpf.MapBatchCursor
		record abi.FlowRecord
	)
	for {
		n, err := t.lru.BatchLookup(&cursor, t.keys, t.values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, fmt.Errorf("read the LRU map of flows: %w", err)
		}
		for i := range n {
			record.Key, record.Value = t.keys[i], t.values[i]
			if !yield(&record) {
				return false, nil
			}
		}
		if err != nil {
			return true, nil
		}
	}
}

// Sweep calls yield with every record of the tables, the arrays first, until yield returns false. It takes no memory
// that grows with the table, and records are valid during the call only. A flow may have several records: one a
// CPU that saw it, and one in the LRU map. Tables go from the one in use to the oldest; the oldest is read first, for
// flows move the other way, and one that moves meanwhile is rather seen twice than not at all.
func Sweep(tables []*Table, yield func(*abi.FlowRecord) bool) error {
	return sweep(tables, func(record *abi.FlowRecord, _ *words) bool { return yield(record) })
}

// sweep is Sweep that tells where a record of an array lives; nil for one in the LRU map.
func sweep(tables []*Table, yield func(record *abi.FlowRecord, slot *words) bool) error {
	for _, t := range slices.Backward(tables) {
		if !t.sweepArray(yield) {
			return nil
		}
	}
	for _, t := range tables {
		more, err := t.sweepLRU(func(record *abi.FlowRecord) bool { return yield(record, nil) })
		if err != nil || !more {
			return err
		}
	}
	return nil
}
