package dataplane

import (
	"errors"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// The loopback, by which marked packets come: see netdev.RouteMarked.
const (
	loopback      = "lo"
	loopbackIndex = 1
)

// AttachCheck puts the program on the loopback that takes health checks of a service address to the backends in question.
func (d *Dataplane) AttachCheck() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.check != nil && d.check.ifindex != 0 {
		return nil
	}
	dir := d.checkPath()
	attach := func(k kind) error {
		program, err := d.programAt(k)
		if err != nil {
			return err
		}
		d.check, err = attachHook(dir, loopback, loopbackIndex, k, program, d.netlink)
		return err
	}
	if !d.noTCX {
		if err := attach(kindCheck); !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	return attach(kindClsactCheck)
}

// DetachCheck takes it off; it is no error when it isn't there.
func (d *Dataplane) DetachCheck() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detachCheck()
}

func (d *Dataplane) detachCheck() error {
	if d.check == nil {
		return nil
	}
	err := d.check.detach()
	if err == nil {
		d.check = nil
	}
	return err
}

// takeOverCheck finds the hook that a daemon before this one left, and swaps this process's program in.
func (d *Dataplane) takeOverCheck() error {
	dir := d.checkPath()
	if d.migration != nil {
		dir = filepath.Join(d.migration.dir, checkDir)
	}
	hooks, err := openHooks(dir, d.netlink)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		d.check = h
		if d.migration != nil {
			continue
		}
		if err := d.renew(h); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dataplane) checkPath() string {
	if d.dir == "" {
		return ""
	}
	return d.path(checkDir)
}
