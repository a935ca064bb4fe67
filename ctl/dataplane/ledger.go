package dataplane

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The ledger is memory for what was reported of flows: an array that no program reads, pinned beside the flow tables, so that it lives
// as long as they do. ctl/flow says what is in it.
type ledger struct {
	mu sync.Mutex
	ledgerMemory
}

type ledgerMemory struct {
	array  *ebpf.Map
	memory []byte
}

// ledgerPage is the size of its elements, which are nothing but pieces of memory.
const ledgerPage = 4096

// Ledger is the memory, nil when there is none. It is valid until the next MakeLedger.
func (d *Dataplane) Ledger() []byte {
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	return d.ledger.memory
}

// MakeLedger makes memory of that size, zeros at first, and lets it take the place of what there was, if fill succeeds.
func (d *Dataplane) MakeLedger(size int, fill func(memory []byte) error) (err error) {
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	pages := (size + ledgerPage - 1) / ledgerPage
	next := ledgerMemory{}
	next.array, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "ledger", Type: ebpf.Array, KeySize: 4, ValueSize: ledgerPage, MaxEntries: uint32(pages), Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return permission(fmt.Sprintf("make a ledger of flows of %d bytes", size), err)
	}
	if next.memory, err = mapMemory(next.array); err == nil {
		if err = fill(next.memory); err == nil && d.dir != "" {
			err = d.pinLedger(next.array)
		}
	}
	if err != nil {
		return errors.Join(err, next.close())
	}
	old := d.ledger.ledgerMemory
	d.ledger.ledgerMemory = next
	return old.close()
}

// pinLedger takes the old one's place in one step, so that a crash leaves one of them, whole.
func (d *Dataplane) pinLedger(array *ebpf.Map) error {
	path := d.ledgerPath()
	if err := repin(array, path+"-new"); err != nil {
		return err
	}
	if err := os.Rename(path+"-new", path); err != nil {
		return permission("pin "+path, err)
	}
	return nil
}

func (d *Dataplane) ledgerPath() string { return d.path(flowsDir, "ledger") }

// openLedger opens the pinned one, if there is one.
func (d *Dataplane) openLedger() error {
	array, err := ebpf.LoadPinnedMap(d.ledgerPath(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return permission("open the ledger of flows", err)
	}
	d.ledger.array = array
	d.ledger.memory, err = mapMemory(array)
	return err
}

func (m *ledgerMemory) close() error {
	var errs []error
	if m.memory != nil {
		errs = append(errs, unix.Munmap(m.memory))
	}
	if m.array != nil {
		errs = append(errs, m.array.Close())
	}
	*m = ledgerMemory{}
	return errors.Join(errs...)
}

// FlowSecret is the secret of the flow tables' hash. It is another one whenever they are made anew.
func (d *Dataplane) FlowSecret() [2]uint64 { return d.control.HashKey }
