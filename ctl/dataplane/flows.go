package dataplane

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

const (
	// flowGuard is how long a flow must be idle before another may take its record.
	flowGuard = 30 * time.Second
	// flowInserts is how many flows a second a CPU may insert into the LRU map at most: at half a microsecond to one each,
	// an eighth to a quarter of its time.
	flowInserts = 250_000
	// flowRoom is how many records there are for each flow expected.
	flowRoom = 2
	// lruLess is the part of the flows expected that the LRU map has no room for. It is for what finds no place in its bucket: two fifths
	// of the flows, if all of them fill both of their records. This much less, and a flow takes no more than 450 bytes, wherever the
	// size is to the kernel's next power of two.
	lruLess = 8
	// flowStart is the size of the LRU map that a new table begins with: nothing is in it before the array has filled up somewhere.
	flowStart = 4096
)

// FlowTable is where flows are kept: an array that the programs write, and the LRU map behind it.
type FlowTable struct {
	Memory []byte // abi.FlowBucket at cpu * buckets + bucket, written by programs at any time
	LRU    *ebpf.Map

	array *ebpf.Map
	max   int // flows that it is made for; the LRU map may not be complete yet
}

// flowTables are the two pairs behind control.flow_slot; nil where there is none.
type flowTables struct {
	mu    sync.RWMutex // held for reading while somebody looks into Memory
	pairs [2]*FlowTable
}

// ReadFlows calls read with the flow table in use and, while a resize isn't finished, the old one after it. They are
// valid until read returns.
func (d *Dataplane) ReadFlows(read func(tables []FlowTable) error) error {
	d.flows.mu.RLock()
	defer d.flows.mu.RUnlock()
	slot := d.control.FlowSlot
	tables := []FlowTable{*d.flows.pairs[slot]}
	if old := d.flows.pairs[1-slot]; old != nil {
		tables = append(tables, *old)
	}
	return read(tables)
}

// FlowsMax is how many flows the table in use is made for.
func (d *Dataplane) FlowsMax() int {
	d.flows.mu.RLock()
	defer d.flows.mu.RUnlock()
	return d.flows.pairs[d.control.FlowSlot].max
}

// ResizeFlows puts a new, empty table for max flows in use. Flows move into it as their packets come; those that send none
// stay in the old table, which ReadFlows shows beside the new one until FinishResize. It does nothing when the size is
// right, and fails while another resize isn't finished.
func (d *Dataplane) ResizeFlows(max int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flows.mu.Lock()
	defer d.flows.mu.Unlock()
	slot := d.control.FlowSlot
	if d.flows.pairs[slot].max == max {
		return nil
	}
	if d.flows.pairs[1-slot] != nil {
		return errors.New("resize the flow table: the last resize is not finished")
	}
	if err := d.createFlows(1-slot, max, lruSize(max)); err != nil {
		return err
	}
	atomic.StoreUint32(&d.control.FlowOld, 1)
	atomic.StoreUint32(&d.control.FlowSlot, 1-slot)
	return nil
}

// Resizing says whether a resize isn't finished.
func (d *Dataplane) Resizing() bool { return atomic.LoadUint32(&d.control.FlowOld) != 0 }

// FinishResize drops the old table with all that is still in it. count sees it when no program writes it any more, to keep
// an account of what is lost, and the one in use; on its error the table stays. It does nothing when no resize is under way.
func (d *Dataplane) FinishResize(count func(old, now FlowTable) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flows.mu.Lock()
	defer d.flows.mu.Unlock()
	slot := 1 - d.control.FlowSlot
	old := d.flows.pairs[slot]
	if old == nil {
		return nil
	}
	atomic.StoreUint32(&d.control.FlowOld, 0)
	// Deleting from an outer map waits for the programs that run.
	err := errors.Join(
		absent(d.maps[abi.AbiMapFlowTables].Delete(slot), "drop a flow table"),
		absent(d.maps[abi.AbiMapFlowLru].Delete(slot), "drop an LRU map"))
	if err == nil {
		err = count(*old, *d.flows.pairs[1-slot])
	}
	if err != nil {
		return err
	}
	return d.dropFlows(slot)
}

// createFlows makes the pair of a slot, with an LRU map of that size.
func (d *Dataplane) createFlows(slot uint32, max int, lru uint32) error {
	table, err := d.newFlows(max, lru)
	if err != nil {
		return err
	}
	return d.useFlows(slot, table)
}

// newFlows makes a pair that no slot has yet.
func (d *Dataplane) newFlows(flows int, lru uint32) (_ *FlowTable, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec := d.specs[abi.AbiMapFlowTables].InnerMap.Copy()
	spec.MaxEntries = uint32(cpus) * flowBuckets(flows, cpus)
	table := &FlowTable{max: max(1, flows)}
	if table.array, err = ebpf.NewMap(spec); err == nil {
		table.Memory, err = mapMemory(table.array)
	}
	if err != nil {
		err = noRoom(fmt.Sprintf("make a table for %d flows", flows), uint64(spec.MaxEntries)*uint64(spec.ValueSize), err)
	} else {
		table.LRU, err = d.newLRU(lru)
	}
	if err != nil {
		return nil, errors.Join(err, table.close())
	}
	return table, nil
}

// noRoom says how much memory a table takes when that is why there is none.
func noRoom(tried string, bytes uint64, err error) error {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.E2BIG) {
		tried = fmt.Sprintf("%s, which takes %d MiB of memory (choose a smaller flows.max, or make room)", tried, bytes>>20)
	}
	return permission(tried, err)
}

func (d *Dataplane) newLRU(size uint32) (*ebpf.Map, error) {
	spec := d.specs[abi.AbiMapFlowLru].InnerMap.Copy()
	spec.MaxEntries = size
	lru, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, noRoom(fmt.Sprintf("make an LRU map for %d flows", size), lruMemory(size), err)
	}
	return lru, nil
}

// useFlows gives a slot its pair.
func (d *Dataplane) useFlows(slot uint32, table *FlowTable) error {
	d.flows.pairs[slot] = table
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return errors.Join(fmt.Errorf("count CPUs: %w", err), d.dropFlows(slot))
	}
	hz, err := hertz()
	if err == nil {
		err = d.putFlows(slot, table)
	}
	if err != nil {
		return errors.Join(err, d.dropFlows(slot))
	}
	atomic.StoreUint32(&d.control.FlowMax[slot], uint32(table.max))
	atomic.StoreUint32(&d.control.FlowBuckets[slot], flowBuckets(table.max, cpus))
	atomic.StoreUint32(&d.control.FlowBudget, flowBudget(lruSize(table.max), cpus, hz))
	return nil
}

// CompleteFlows gives the table in use an LRU map of its whole size, if it began with a small one: the kernel takes a second to make one for a
// million flows, which nobody is to wait for at the start. What was in the small one moves.
func (d *Dataplane) CompleteFlows() error {
	d.flows.mu.RLock()
	table := d.flows.pairs[d.control.FlowSlot]
	size := lruSize(table.max)
	complete := table.LRU.MaxEntries() == size
	d.flows.mu.RUnlock()
	if complete {
		return nil
	}
	lru, err := d.newLRU(size)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flows.mu.Lock()
	defer d.flows.mu.Unlock()
	slot := d.control.FlowSlot
	if d.flows.pairs[slot] != table || table.LRU.MaxEntries() == size { // somebody else was quicker
		return lru.Close()
	}
	old := table.LRU
	table.LRU = lru
	// Putting something into an outer map waits for the programs that run, so nobody looks into the old one after that.
	if err := d.putFlows(slot, table); err != nil {
		table.LRU = old
		return errors.Join(err, d.putFlows(slot, table), lru.Close())
	}
	return errors.Join(moveFlows(old, lru), old.Close())
}

// moveFlows puts what is in an LRU map into another one. Of a flow that came again meanwhile there is a record in the array too, of what was
// since; if that one is in the other map already, the old one counts as lost.
func moveFlows(from, to *ebpf.Map) error {
	var key abi.FlowKey
	var value abi.FlowValue
	entries := from.Iterate()
	for entries.Next(&key, &value) {
		if err := to.Update(&key, &value, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("move a flow: %w", err)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("move flows: %w", err)
	}
	return nil
}

// putFlows hands a pair to the programs, and pins it.
func (d *Dataplane) putFlows(slot uint32, table *FlowTable) error {
	err := sideBySide(
		func() error { return d.maps[abi.AbiMapFlowTables].Put(slot, table.array) },
		func() error { return d.maps[abi.AbiMapFlowLru].Put(slot, table.LRU) })
	if err != nil {
		return fmt.Errorf("put flow table %d: %w", slot, err)
	}
	return d.pinFlows(slot, table)
}

func (d *Dataplane) pinFlows(slot uint32, table *FlowTable) error {
	if d.dir == "" {
		return nil
	}
	array, lru := d.flowPaths(slot)
	if err := repin(table.array, array); err != nil {
		return err
	}
	return repin(table.LRU, lru)
}

func (d *Dataplane) flowPaths(slot uint32) (array, lru string) {
	return d.path(flowsDir, fmt.Sprintf("%d-table", slot)), d.path(flowsDir, fmt.Sprintf("%d-lru", slot))
}

// dropFlows frees the pair of a slot, which programs no longer look into.
func (d *Dataplane) dropFlows(slot uint32) error {
	table := d.flows.pairs[slot]
	if table == nil {
		return nil
	}
	d.flows.pairs[slot] = nil
	errs := []error{
		absent(d.maps[abi.AbiMapFlowTables].Delete(slot), "drop a flow table"),
		absent(d.maps[abi.AbiMapFlowLru].Delete(slot), "drop an LRU map"),
		table.close(),
	}
	if d.dir != "" {
		array, lru := d.flowPaths(slot)
		for _, path := range []string{array, lru} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (t *FlowTable) close() error {
	var errs []error
	if t.Memory != nil {
		errs = append(errs, unix.Munmap(t.Memory))
	}
	for _, m := range []*ebpf.Map{t.array, t.LRU} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// openFlows opens the pinned pairs. One that a crash left between its making and its use is dropped.
func (d *Dataplane) openFlows() error {
	for slot := range d.flows.pairs {
		table := &FlowTable{}
		array, lru := d.flowPaths(uint32(slot))
		var err error
		if table.array, err = ebpf.LoadPinnedMap(array, nil); err == nil {
			table.LRU, err = ebpf.LoadPinnedMap(lru, nil)
		}
		if err == nil {
			table.Memory, err = mapMemory(table.array)
		}
		if err != nil {
			table.close()
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return permission("open the flow table", err)
		}
		table.max = int(d.control.FlowMax[slot])
		d.flows.pairs[slot] = table
	}
	slot := d.control.FlowSlot
	if d.flows.pairs[slot] == nil {
		return &VersionError{Dir: d.dir, Lost: []string{"flows"}, Differences: []string{"no flow table"}}
	}
	if d.control.FlowOld == 0 {
		return d.dropFlows(1 - slot)
	}
	return nil
}

func (d *Dataplane) closeFlows() error {
	d.flows.mu.Lock()
	defer d.flows.mu.Unlock()
	var errs []error
	for slot, table := range d.flows.pairs {
		if table != nil {
			errs = append(errs, table.close())
			d.flows.pairs[slot] = nil
		}
	}
	return errors.Join(errs...)
}

// FlowMemory is how many bytes of memory the kernel takes, at most, for the flow table that is made for max flows.
func FlowMemory(max int) (uint64, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	buckets := uint64(cpus) * uint64(flowBuckets(max, cpus)) * uint64(unsafe.Sizeof(abi.FlowBucket{}))
	return buckets + lruMemory(lruSize(max)), nil
}

// lruMemory is likewise what an LRU map of that size takes.
func lruMemory(size uint32) uint64 {
	const overhead, bucket = 48, 16 // of an entry, and of a bucket of the hash (struct htab_elem, struct bucket of kernel/bpf/hashtab.c)
	record := uint64(unsafe.Sizeof(abi.FlowKey{})+unsafe.Sizeof(abi.FlowValue{})) + overhead
	return uint64(size)*record + bucket<<bits.Len32(size-1)
}

// flowBuckets is the number of buckets a CPU that gives max flows their room.
func flowBuckets(flows, cpus int) uint32 {
	perBucket := cpus * int(abi.FlowWays)
	return uint32(max(1, (flowRoom*flows+perBucket-1)/perBucket))
}

// flowBudget is how many flows a CPU may insert for each jiffy into an LRU map of that size: so many that all CPUs together don't turn it
// over in less time than a flow may be idle, or a flood would drive out the flows that live there.
func flowBudget(lru uint32, cpus, hz int) uint32 {
	turnover := int(flowGuard.Seconds()) * cpus * hz
	return uint32(min(1+int(lru)/turnover, flowInserts/hz))
}

// lruSize is the size of the LRU map behind a table for so many flows: a map can't be empty.
func lruSize(flows int) uint32 { return uint32(max(1, flows-flows/lruLess)) }
