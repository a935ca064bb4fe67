package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// Hook is one of the places where the programs run.
type Hook uint8

const (
	HookXDP Hook = iota
	HookIngress
	HookEgress
	HookCheck // takes health checks to backends
	hookCount
)

// Result is what a program did with a frame.
type Result struct {
	Action uint32    // as the hook's programs return it: XDP_*, or TC_ACT_* with -1 as 0xffffffff
	Frame  []byte    // as it left the program
	Trace  abi.Trace // zero without compile.Features.Trace
}

// frameGrowth is the most that a program adds to a frame: an IPv6 header, and some.
const frameGrowth = 256

// Run puts one frame through a program of a private instance, as if it were on the interface with that index in the
// network namespace of the calling thread; 0 is the loopback. What the program counts, remembers and looks up is the
// instance's own.
//
// ErrFrame: kernels take frames of 14 bytes or more; at tc of one page less some headroom at most, and newer ones no IP
// packet there that ends inside its IP header.
func (d *Dataplane) Run(hook Hook, frame []byte, ifindex int) (Result, error) {
	if d.dir != "" {
		return Result{}, errors.New("run a frame: not on the live data plane, which it would change; use Sibling")
	}
	d.run.Lock()
	defer d.run.Unlock()
	if err := d.run.begin(d.maps[abi.AbiMapTrace]); err != nil {
		return Result{}, err
	}
	program, err := d.program(d.programs, hook)
	if err != nil {
		return Result{}, err
	}
	t := &d.run
	*t.trace() = abi.Trace{Clock: d.testClock}
	var result Result
	var out []byte
	result.Action, out, err = t.at(hook, program, frame, ifindex, 1)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE) {
		return Result{}, fmt.Errorf("run a frame of %d bytes: %w (%v)", len(frame), ErrFrame, err)
	}
	if err != nil {
		return Result{}, fmt.Errorf("run a frame of %d bytes on interface %d: %w", len(frame), ifindex, err)
	}
	result.Frame, result.Trace = bytes.Clone(out), *t.trace()
	return result, nil
}

// StopClock stops the clock by which the programs of a private instance with trace judge state and the age of flows, at that time since
// the machine started. While it stands, the LRU map of flows takes any number.
func (d *Dataplane) StopClock(at time.Duration) {
	d.stopClock(uint64(math.Round(at.Seconds() * float64(d.control.Hz))))
}

func (d *Dataplane) stopClock(jiffies uint64) {
	atomic.StoreUint64(&d.control.Still, jiffies)
	atomic.StoreUint32(&d.control.FlowBudget, math.MaxUint32)
}

// Wait stops that clock so much later than it is.
func (d *Dataplane) Wait(ahead time.Duration) error {
	now, hz, err := d.Clock()
	if err == nil {
		d.stopClock(now.Jiffies + uint64(ahead*time.Duration(hz)/time.Second))
	}
	return err
}

// SetClock makes it that time, in ns, for the limits of a private instance with trace, until it is set again; 0: the real time.
func (d *Dataplane) SetClock(ns uint64) {
	d.run.Lock()
	defer d.run.Unlock()
	d.testClock = ns
}

// OneCPU keeps the calling goroutine on one of the CPUs that it may run on, until release: a flow's record belongs to the CPU that saw its
// packets, so that those of one flow must be run on one.
func OneCPU() (release func(), err error) {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err = unix.SchedGetaffinity(0, &all); err == nil {
		for cpu := range 8 * int(unsafe.Sizeof(all)) {
			if all.IsSet(cpu) {
				one.Set(cpu)
				break
			}
		}
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("stay on one CPU: %w", err)
	}
	return func() {
		if unix.SchedSetaffinity(0, &all) == nil {
			runtime.UnlockOSThread() // or else the thread ends with its goroutine
		}
	}, nil
}

// MoveFlows puts all balanced flows of a private instance on a backend.
func (d *Dataplane) MoveFlows(backend uint16) error {
	return d.ReadFlows(func(tables []FlowTable) error {
		for _, table := range tables {
			size := int(unsafe.Sizeof(abi.FlowRecord{}))
			for at := 0; at+size <= len(table.Memory); at += size {
				record := (*abi.FlowRecord)(unsafe.Pointer(&table.Memory[at]))
				if record.Value.Service != 0 {
					record.Value.Backend = backend
				}
			}
		}
		return nil
	})
}

// Program is what runs at a hook, for who wants to put something in front of it. SetFeatures and Close end it.
func (d *Dataplane) Program(hook Hook) (*ebpf.Program, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.program(d.programs, hook)
}

// xdpContext is the kernel's struct xdp_md.
type xdpContext struct {
	Data, DataEnd, DataMeta                     uint32
	IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// skbContext is the beginning of the kernel's struct __sk_buff, from len to ifindex.
type skbContext struct {
	_                       [9]uint32
	IngressIfindex, Ifindex uint32
}
