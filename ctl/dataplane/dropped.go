package dataplane

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// droppedTable is where flows are remembered of which packets were dropped; see bpf/dropped.h.
type droppedTable struct {
	max    int          // records that it is to have; what there is may have another size until ResizeDropped
	mu     sync.RWMutex // held for reading while somebody looks into memory
	array  *ebpf.Map
	memory []byte
}

// privateDropped is how many records a private instance has.
const privateDropped = 4096

// ReadDropped calls read with the table of dropped flows, abi.FlowBucket as in FlowTable; with nil when there is none. It is
// valid until read returns.
func (d *Dataplane) ReadDropped(read func(memory []byte) error) error {
	d.dropped.mu.RLock()
	defer d.dropped.mu.RUnlock()
	return read(d.dropped.memory)
}

// WantDropped says how many dropped flows are to be remembered, before programs are loaded that do so.
func (d *Dataplane) WantDropped(max int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropped.max = max
}

// ResizeDropped brings the table to the wanted size, by an empty one in its place; it goes when no program writes it any more. count
// sees the old one when it is out of use, to keep an account; on its error the old one stays. It does nothing when the size is right.
func (d *Dataplane) ResizeDropped(count func(memory []byte) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &d.dropped
	buckets, err := droppedBuckets(t.max)
	if err != nil {
		return err
	}
	wanted := d.programs.features.Dropped
	if t.array == nil || wanted && t.array.MaxEntries() == buckets {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Deleting from an outer map waits for the programs that run.
	if err := absent(d.maps[abi.AbiMapFlowDropped].Delete(uint32(0)), "drop the table of dropped flows"); err != nil {
		return err
	}
	if err := count(t.memory); err != nil {
		return errors.Join(err, d.maps[abi.AbiMapFlowDropped].Put(uint32(0), t.array))
	}
	if err := d.closeDropped(); err != nil {
		return err
	}
	if wanted {
		return d.createDropped(buckets)
	}
	if d.dir == "" {
		return nil
	}
	return os.Remove(d.droppedPath())
}

// useDropped makes the table if there is none. d.mu is held, or nobody else is there yet.
func (d *Dataplane) useDropped() error {
	if d.dropped.array != nil {
		return nil
	}
	buckets, err := droppedBuckets(d.dropped.max)
	if err != nil {
		return err
	}
	d.dropped.mu.Lock()
	defer d.dropped.mu.Unlock()
	return d.createDropped(buckets)
}

func (d *Dataplane) createDropped(buckets uint32) (err error) {
	spec := d.specs[abi.AbiMapFlowDropped].InnerMap.Copy()
	spec.MaxEntries = buckets
	t := &d.dropped
	if t.array, err = ebpf.NewMap(spec); err != nil {
		return permission(fmt.Sprintf("make a table for %d dropped flows", t.max), err)
	}
	if t.memory, err = mapMemory(t.array); err == nil && d.dir != "" {
		err = repin(t.array, d.droppedPath())
	}
	if err != nil {
		return errors.Join(err, d.closeDropped())
	}
	return d.putDropped()
}

// putDropped hands the table to the programs. The mask first: it is wrong for nobody, as there is no table.
func (d *Dataplane) putDropped() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	atomic.StoreUint32(&d.control.DroppedMask, d.dropped.array.MaxEntries()/uint32(cpus)-1)
	if err := d.maps[abi.AbiMapFlowDropped].Put(uint32(0), d.dropped.array); err != nil {
		return errors.Join(fmt.Errorf("put the table of dropped flows: %w", err), d.closeDropped())
	}
	return nil
}

// openDropped opens the pinned table, if there is one.
func (d *Dataplane) openDropped() error {
	array, err := ebpf.LoadPinnedMap(d.droppedPath(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return permission("open the table of dropped flows", err)
	}
	d.dropped.array = array
	if d.dropped.memory, err = mapMemory(array); err != nil {
		return err
	}
	return d.putDropped() // perhaps the daemon before died in between
}

func (d *Dataplane) closeDropped() error {
	var errs []error
	if d.dropped.memory != nil {
		errs = append(errs, unix.Munmap(d.dropped.memory))
	}
	if d.dropped.array != nil {
		errs = append(errs, d.dropped.array.Close())
	}
	d.dropped.array, d.dropped.memory = nil, nil
	return errors.Join(errs...)
}

func (d *Dataplane) droppedPath() string { return d.path(flowsDir, "dropped") }

// droppedBuckets is the number of buckets, a power of two a CPU, for so many records on all CPUs together.
func droppedBuckets(max int) (uint32, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	each := (max + cpus*int(abi.FlowWays) - 1) / (cpus * int(abi.FlowWays))
	if each <= 1 {
		return uint32(cpus), nil
	}
	return uint32(cpus) << (bits.Len(uint(each)) - 1), nil
}
