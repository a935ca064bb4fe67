package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// Loss is packets that the kernel lost after XDP sent them out of an interface.
type Loss struct {
	Ifindex int
	Err     error // what the kernel said; nil: there was no room
	Packets uint64
}

// lossPrograms are those of tc/losses.c and their tracepoints, each pinned under its name.
var lossPrograms = map[string]string{
	"lost_redirect": "xdp_redirect_err",
	"lost_batch":    "xdp_devmap_xmit",
	"lost_answer":   "xdp_bulk_tx",
}

// CountLosses has the losses of this network namespace counted from now on, instead of those of a daemon before.
func (d *Dataplane) CountLosses() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.losses != nil {
		return nil
	}
	spec, err := loadLosses()
	if err != nil {
		return err
	}
	var namespace unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &namespace); err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	if err := spec.Variables["cfg_netns"].Set(uint32(namespace.Ino)); err != nil {
		return fmt.Errorf("set constant cfg_netns: %w", err)
	}
	replacements := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		switch {
		case name == abi.AbiMapLosses || name == abi.AbiMapInterfaces:
			replacements[name] = d.maps[name]
		case !strings.HasPrefix(name, "."): // all others are there because they are in the same header
			delete(spec.Maps, name)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return permission("load the programs that count losses", err)
	}
	defer collection.Close()
	for program, tracepoint := range lossPrograms {
		if err := d.countLosses(collection.Programs[program], program, tracepoint); err != nil {
			return errors.Join(err, d.closeLosses())
		}
	}
	return nil
}

func (d *Dataplane) countLosses(program *ebpf.Program, name, tracepoint string) error {
	var pin string
	if d.dir != "" {
		pin = d.path(name)
		if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
			return permission("unpin "+pin, err)
		}
	}
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: program})
	if err != nil {
		return permission("attach to tracepoint "+tracepoint, err)
	}
	if d.losses == nil {
		d.losses = map[string]link.Link{}
	}
	d.losses[name] = l
	if pin == "" {
		return nil
	}
	if err := l.Pin(pin); err != nil {
		return permission("pin "+pin, err)
	}
	return nil
}

// closeLosses lets go of the programs; those that are pinned go on.
func (d *Dataplane) closeLosses() error {
	var errs []error
	for _, l := range d.losses {
		errs = append(errs, l.Close())
	}
	d.losses = nil
	return errors.Join(errs...)
}

// Losses reads what was lost so far, by interface.
func (d *Dataplane) Losses() ([]Loss, error) {
	var list []Loss
	var key abi.LossKey
	var perCPU []uint64
	entries := d.maps[abi.AbiMapLosses].Iterate()
	for entries.Next(&key, &perCPU) {
		loss := Loss{Ifindex: int(key.Ifindex)}
		if key.Error != 0 {
			loss.Err = unix.Errno(key.Error)
		}
		for _, n := range perCPU {
			loss.Packets += n
		}
		list = append(list, loss)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read losses: %w", err)
	}
	slices.SortFunc(list, func(a, b Loss) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), cmp.Compare(b.Packets, a.Packets))
	})
	return list, nil
}
