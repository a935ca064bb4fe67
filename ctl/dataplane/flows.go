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
)

// FlowTable is where flows are kept: an array that the programs write, and the LRU map behind it.
type FlowTable struct {
	Memory []byte // abi.FlowBucket at cpu * buckets + bucket, written by programs at any time
	LRU    *ebpf.Map

	array *ebpf.Map
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
	return int(d.flows.pairs[d.control.FlowSlot].LRU.MaxEntries())
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
	if d.flows.pairs[slot].LRU.MaxEntries() == lruSize(max) {
		return nil
	}
	if d.flows.pairs[1-slot] != nil {
		return errors.New("resize the flow table: the last resize is not finished")
	}
	if err := d.createFlows(1-slot, max); err != nil {
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

// createFlows makes the pair of a slot.
func (d *Dataplane) createFlows(slot uint32, max int) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	hz, err := hertz()
	if err != nil {
		return err
	}
	buckets := flowBuckets(max, cpus)
	arraySpec := d.specs[abi.AbiMapFlowTables].InnerMap.Copy()
	arraySpec.MaxEntries = uint32(cpus) * buckets
	lruSpec := d.specs[abi.AbiMapFlowLru].InnerMap.Copy()
	lruSpec.MaxEntries = lruSize(max)

	table := &FlowTable{}
	d.flows.pairs[slot] = table
	if table.array, err = ebpf.NewMap(arraySpec); err != nil {
		err = permission(fmt.Sprintf("make a table for %d flows", max), err)
	} else if table.LRU, err = ebpf.NewMap(lruSpec); err != nil {
		err = permission(fmt.Sprintf("make an LRU map for %d flows", max), err)
	} else if table.Memory, err = mapMemory(table.array); err == nil {
		err = d.putFlows(slot, table)
	}
	if err != nil {
		return errors.Join(err, d.dropFlows(slot))
	}
	atomic.StoreUint32(&d.control.FlowMask[slot], buckets-1)
	atomic.StoreUint32(&d.control.FlowBudget, flowBudget(max, cpus, hz))
	return nil
}

// putFlows hands a pair to the programs, and pins it.
func (d *Dataplane) putFlows(slot uint32, table *FlowTable) error {
	if err := d.maps[abi.AbiMapFlowTables].Put(slot, table.array); err != nil {
		return fmt.Errorf("put flow table %d: %w", slot, err)
	}
	if err := d.maps[abi.AbiMapFlowLru].Put(slot, table.LRU); err != nil {
		return fmt.Errorf("put LRU map %d: %w", slot, err)
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
	const lruOverhead, lruBucket = 48, 16 // of an entry, and of a bucket of the hash (struct htab_elem, struct bucket of kernel/bpf/hashtab.c)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	buckets := uint64(cpus) * uint64(flowBuckets(max, cpus)) * uint64(unsafe.Sizeof(abi.FlowBucket{}))
	record := uint64(unsafe.Sizeof(abi.FlowKey{})+unsafe.Sizeof(abi.FlowValue{})) + lruOverhead
	return buckets + uint64(lruSize(max))*record + lruBucket<<bits.Len32(lruSize(max)-1), nil
}

// flowBuckets is the number of buckets a CPU, a power of two, that gives max flows their room.
func flowBuckets(max, cpus int) uint32 {
	perBucket := cpus * int(abi.FlowWays)
	buckets := (flowRoom*max + perBucket - 1) / perBucket
	if buckets <= 1 {
		return 1
	}
	return 1 << bits.Len(uint(buckets-1))
}

// flowBudget is how many flows a CPU may insert into the LRU map in a jiffy: so many that all CPUs together don't turn it
// over in less time than a flow may be idle, or a flood would drive out the flows that live there.
func flowBudget(max, cpus, hz int) uint32 {
	turnover := int(flowGuard.Seconds()) * cpus * hz
	return uint32(min(1+max/turnover, flowInserts/hz))
}

// lruSize is the size of the LRU map for max flows: a map can't be empty.
func lruSize(flows int) uint32 { return uint32(max(1, flows)) }
