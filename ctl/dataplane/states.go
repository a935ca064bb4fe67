package dataplane

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// stateTable is the table of connections behind the field state. It lives as long as some snapshot asks for it.
type stateTable struct {
	array  *ebpf.Map
	memory []byte
}

// States tells how full the table of connections is.
type States struct {
	Live, Max uint64
}

// stateBuckets is the number of buckets, a power of two, for the connections of max flows. A flow has two directions and a
// connection one entry, so at most half of them are in use when the flow table is as full as it is meant to be.
func stateBuckets(max int) uint32 {
	return 1 << bits.Len(uint(max-1)/uint(abi.StateEntries))
}

// useStates makes the table of connections if there is none. d.mu is held, or nobody else is there yet.
func (d *Dataplane) useStates(max int) error {
	if d.states.array != nil {
		return nil
	}
	spec := d.specs[abi.AbiMapStates].InnerMap.Copy()
	spec.MaxEntries = stateBuckets(max)
	var err error
	if d.states.array, err = ebpf.NewMap(spec); err != nil {
		return permission(fmt.Sprintf("make a table for the connections of %d flows", max), err)
	}
	atomic.StoreUint32(&d.control.StateMask, spec.MaxEntries-1)
	if err := d.maps[abi.AbiMapStates].Put(uint32(0), d.states.array); err != nil {
		return errors.Join(fmt.Errorf("put the table of connections: %w", err), d.dropStates())
	}
	if d.states.memory, err = mapMemory(d.states.array); err == nil && d.dir != "" {
		err = repin(d.states.array, d.statesPath())
	}
	if err != nil {
		return errors.Join(err, d.dropStates())
	}
	return nil
}

// dropStates forgets all connections, when no program asks for them any more.
func (d *Dataplane) dropStates() error {
	if d.states.array == nil {
		return nil
	}
	errs := []error{
		absent(d.maps[abi.AbiMapStates].Delete(uint32(0)), "drop the table of connections"),
		d.closeStates(),
	}
	if d.dir != "" {
		if err := os.Remove(d.statesPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readStates makes the table of another instance this one's, to read.
func (d *Dataplane) readStates(from *Dataplane) (err error) {
	d.control.StateMask, d.control.StateFrozen = from.control.StateMask, 1
	if from.states.array != nil {
		d.states.array, err = from.states.array.Clone()
	}
	return err
}

func (d *Dataplane) statesPath() string { return d.path(flowsDir, "states") }

// openStates opens the pinned table, if there is one.
func (d *Dataplane) openStates() error {
	array, err := ebpf.LoadPinnedMap(d.statesPath(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return permission("open the table of connections", err)
	}
	d.states.array = array
	d.states.memory, err = mapMemory(array)
	return err
}

func (d *Dataplane) closeStates() error {
	var errs []error
	if d.states.memory != nil {
		errs = append(errs, unix.Munmap(d.states.memory))
	}
	if d.states.array != nil {
		errs = append(errs, d.states.array.Close())
	}
	d.states = stateTable{}
	return errors.Join(errs...)
}

// States counts the connections that are known, also such as have timed out and whose place nobody has taken, as long as some
// direction was heard of within the longest time-out.
func (d *Dataplane) States() (States, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.states.memory == nil {
		return States{}, nil
	}
	now, err := d.stateClock()
	if err != nil {
		return States{}, err
	}
	entries := d.states.entries()
	states := States{Max: uint64(len(entries))}
	for i := range entries {
		if way := &entries[i].Way; stateLive(atomic.LoadUint64(&way[0]), atomic.LoadUint64(&way[1]), entries[i].Proto, now) {
			states.Live++
		}
	}
	return states, nil
}

// entries are the table's memory, written by programs at any time.
func (t *stateTable) entries() []abi.StateEntry {
	first := (*abi.StateEntry)(unsafe.Pointer(unsafe.SliceData(t.memory)))
	return unsafe.Slice(first, len(t.memory)/int(unsafe.Sizeof(*first)))
}

// stateTicks is the clock of the table's words: so many a second.
const stateTicks = 64

func (d *Dataplane) stateClock() (uint32, error) {
	clock, hz, err := d.Clock()
	return uint32(clock.Jiffies * stateTicks / uint64(hz)), err
}

// stateLive says whether a direction of a connection counts as seen: bpf/state.h in short.
func stateLive(a, b uint64, proto uint8, now uint32) bool {
	flags := [2]abi.StateFlags{abi.StateFlags(a >> 32 & 0xff), abi.StateFlags(b >> 32 & 0xff)}
	limit := int32(stateTimeout(proto, flags) / (time.Second / stateTicks))
	return a != 0 && int32(now-uint32(a)) <= limit || b != 0 && int32(now-uint32(b)) <= limit
}

func stateTimeout(proto uint8, flags [2]abi.StateFlags) time.Duration {
	either, both := flags[0]|flags[1], flags[0]&flags[1]
	seconds := abi.TimeoutOther
	switch {
	case proto == unix.IPPROTO_TCP && either&abi.SeenRst != 0:
		seconds = abi.TimeoutTcpReset
	case proto == unix.IPPROTO_TCP && either&abi.SeenFin != 0:
		seconds = abi.TimeoutTcpClosing
	case proto == unix.IPPROTO_TCP && either&abi.SeenSpoke != 0:
		seconds = abi.TimeoutTcp
	case proto == unix.IPPROTO_TCP:
		seconds = abi.TimeoutTcpOpening
	case (proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP) && both&abi.SeenSpoke != 0:
		seconds = abi.TimeoutUdpBoth
	case proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP:
		seconds = abi.TimeoutUdp
	case proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6:
		seconds = abi.TimeoutEcho
	}
	return time.Duration(seconds) * time.Second
}
