package dataplane

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// natTable is the table of translations of forward: nat. It lives as long as some snapshot has such a service.
type natTable struct {
	entries, lines *ebpf.Map
	memory         []byte // of entries
	max            int    // translations that a table is made for; 0: natDefault
}

// natDefault is how many translations there is room for when nobody says otherwise.
const natDefault = 200_000

// Translations tells how full the table of translations is.
type Translations struct {
	Live, Max uint64
}

// RoomForTranslations says how many translations there is to be room for when the table is made the next time.
func (d *Dataplane) RoomForTranslations(max int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nats.max = max
}

// natBuckets is the number of buckets, a power of two, for max translations. A new one that finds both of its buckets full is refused:
// until three fifths of all places are taken that are fewer than one in a thousand, so that many are the most there are to be.
func natBuckets(max int) uint32 {
	return 1 << bits.Len(uint(max*5/3-1)/uint(abi.NatEntries))
}

// useNats makes the table of translations if there is none. d.mu is held, or nobody else is there yet.
func (d *Dataplane) useNats() (err error) {
	if d.nats.entries != nil {
		return nil
	}
	max := d.nats.max
	if max == 0 {
		max = natDefault
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.dropNats())
		}
	}()
	buckets := natBuckets(max)
	lines := buckets // twice as many slots as entries
	for _, part := range []struct {
		name string
		size uint32
		to   **ebpf.Map
	}{{abi.AbiMapNatEntries, buckets, &d.nats.entries}, {abi.AbiMapNatLines, lines, &d.nats.lines}} {
		spec := d.specs[part.name].InnerMap.Copy()
		spec.MaxEntries = part.size
		if *part.to, err = ebpf.NewMap(spec); err != nil {
			return permission(fmt.Sprintf("make a table for %d translations", max), err)
		}
	}
	atomic.StoreUint32(&d.control.NatMask, buckets-1)
	atomic.StoreUint32(&d.control.NatSlotMask, lines-1)
	d.control.NatPools = [len(d.control.NatPools)]uint64{}
	var put []func() error
	for name, array := range d.nats.parts() {
		put = append(put, func() error {
			if err := d.maps[name].Put(uint32(0), array); err != nil {
				return fmt.Errorf("put the table of translations: %w", err)
			}
			if d.dir == "" {
				return nil
			}
			return repin(array, d.path(flowsDir, name))
		})
	}
	if err := sideBySide(put...); err != nil {
		return err
	}
	d.nats.memory, err = mapMemory(d.nats.entries)
	return err
}

// parts are the maps of the table, by the names of the outer maps.
func (t *natTable) parts() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{abi.AbiMapNatEntries: t.entries, abi.AbiMapNatLines: t.lines}
}

// dropNats forgets all translations, when no service needs them any more.
func (d *Dataplane) dropNats() error {
	if d.nats.entries == nil {
		return nil
	}
	var errs []error
	for name := range d.nats.parts() {
		errs = append(errs, absent(d.maps[name].Delete(uint32(0)), "drop the table of translations"))
		if d.dir == "" {
			continue
		}
		if err := os.Remove(d.path(flowsDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, d.closeNats())...)
}

// readNats makes the table of another instance this one's, to read. Addresses that translations come from may be added to it at any time: here
// all may be such.
func (d *Dataplane) readNats(from *Dataplane) (err error) {
	d.control.NatMask, d.control.NatSlotMask, d.control.NatKey = from.control.NatMask, from.control.NatSlotMask, from.control.NatKey
	for i := range d.control.NatPools {
		d.control.NatPools[i] = math.MaxUint64
	}
	if from.nats.entries == nil {
		return nil
	}
	if d.nats.entries, err = from.nats.entries.Clone(); err != nil {
		return err
	}
	d.nats.lines, err = from.nats.lines.Clone()
	return err
}

// openNats opens the pinned table, if there is one.
func (d *Dataplane) openNats() error {
	for name, to := range map[string]**ebpf.Map{abi.AbiMapNatEntries: &d.nats.entries, abi.AbiMapNatLines: &d.nats.lines} {
		array, err := ebpf.LoadPinnedMap(d.path(flowsDir, name), nil)
		if errors.Is(err, os.ErrNotExist) { // both, or it died while it made them
			return d.dropNats()
		}
		if err != nil {
			return permission("open the table of translations", err)
		}
		*to = array
	}
	var err error
	d.nats.memory, err = mapMemory(d.nats.entries)
	return err
}

func (d *Dataplane) closeNats() error {
	var errs []error
	if d.nats.memory != nil {
		errs = append(errs, unix.Munmap(d.nats.memory))
	}
	for _, array := range d.nats.parts() {
		if array != nil {
			errs = append(errs, array.Close())
		}
	}
	d.nats = natTable{max: d.nats.max}
	return errors.Join(errs...)
}

// Translations counts those that live.
func (d *Dataplane) Translations() (Translations, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nats.memory == nil {
		return Translations{}, nil
	}
	now, err := d.stateClock()
	if err != nil {
		return Translations{}, err
	}
	buckets := d.nats.all()
	t := Translations{Max: uint64(len(buckets)) * uint64(abi.NatEntries)}
	for i := range buckets {
		for at := range buckets[i].Way {
			way := &buckets[i].Way[at]
			if stateLive(atomic.LoadUint64(&way[0]), atomic.LoadUint64(&way[1]), buckets[i].Entry[at].Proto, now) {
				t.Live++
			}
		}
	}
	return t, nil
}

// all are the table's buckets, written by programs at any time.
func (t *natTable) all() []abi.NatBucket {
	first := (*abi.NatBucket)(unsafe.Pointer(unsafe.SliceData(t.memory)))
	return unsafe.Slice(first, len(t.memory)/int(unsafe.Sizeof(*first)))
}
