package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// ErrPinsLost: what was pinned is gone. Packets go on as long as this process lives, and nothing is there for the next one to take over.
var ErrPinsLost = errors.New("what is pinned is gone")

// KeepPinned looks whether everything is pinned still, and pins it again when somebody removed it, which again tells. While that can't
// be, because the bpffs was unmounted, the error is an ErrPinsLost, and the instance works on without pins.
func (d *Dataplane) KeepPinned() (again bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.migration != nil {
		return false, nil
	}
	if d.dir != "" {
		if _, err := os.Stat(d.path(abi.AbiMapControl)); !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		d.lostDir, d.dir = d.dir, ""
		d.movePins("")
	}
	if d.lostDir == "" {
		return false, nil
	}
	if err := d.pinAgain(d.lostDir); err != nil {
		d.dir = ""
		d.movePins("")
		return false, err
	}
	d.lostDir = ""
	return true, nil
}

func (d *Dataplane) pinAgain(dir string) error {
	if on, err := onBPFFS(dir); err != nil || !on {
		return errors.Join(err, fmt.Errorf("%w: no bpffs is mounted at %s any more: mount one with `mount -t bpf bpf %s`, and start gardu again", ErrPinsLost, dir, bpffsRoot))
	}
	for _, sub := range subdirectories {
		err := os.MkdirAll(filepath.Join(dir, sub), 0o700)
		if errors.Is(err, unix.EACCES) { // by Landlock
			return fmt.Errorf("%w: this daemon gave up writing to the bpffs that is mounted at %s now: start gardu again", ErrPinsLost, dir)
		}
		if err != nil {
			return permission("make directory "+filepath.Join(dir, sub), err)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	d.lock.release()
	d.lock, d.dir = lock, dir
	d.movePins(dir)
	return d.pinAll()
}

// movePins tells all hooks where they are pinned, or with "" that they aren't.
func (d *Dataplane) movePins(dir string) {
	move := func(h *hook, sub string) {
		if h.path = ""; dir != "" {
			h.path = filepath.Join(dir, sub, pinName(h.name, h.kind))
		}
	}
	for _, a := range d.attachments {
		for _, h := range a.hooks {
			move(h, linksDir)
		}
	}
	if d.check != nil {
		move(d.check, checkDir)
	}
}

// pinAll pins everything that a daemon takes over, and the control map last.
func (d *Dataplane) pinAll() error {
	var errs []error
	for slot, tables := range d.slots {
		for which, table := range tables {
			if table != nil {
				errs = append(errs, d.pinTable(uint32(slot), abi.Table(which), table))
			}
		}
	}
	for slot, pair := range d.flows.pairs {
		if pair != nil {
			errs = append(errs, d.pinFlows(uint32(slot), pair))
		}
	}
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	if d.ledger.array != nil {
		errs = append(errs, d.pinLedger(d.ledger.array))
	}
	if d.states.array != nil {
		errs = append(errs, repin(d.states.array, d.statesPath()))
	}
	if d.nats.entries != nil {
		for name, array := range d.nats.parts() {
			errs = append(errs, repin(array, d.path(flowsDir, name)))
		}
	}
	if d.dropped.array != nil {
		errs = append(errs, repin(d.dropped.array, d.droppedPath()))
	}
	for name, l := range d.losses {
		errs = append(errs, l.Unpin(), l.Pin(d.path(name)))
	}
	for _, a := range d.attachments {
		for _, h := range a.hooks {
			errs = append(errs, d.repinHook(h))
		}
	}
	if d.check != nil {
		errs = append(errs, d.repinHook(d.check))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := d.pinLayouts(); err != nil {
		return err
	}
	return pinMaps(d.dir, d.maps)
}

// repinHook pins a hook whose pin is gone.
func (d *Dataplane) repinHook(h *hook) error {
	if h.link != nil {
		if err := h.link.Unpin(); err != nil { // it is gone, but the link thinks that it isn't
			return permission("unpin "+h.path, err)
		}
	}
	program, err := d.programAt(h.kind)
	if err != nil {
		return err
	}
	return h.pin(program)
}
