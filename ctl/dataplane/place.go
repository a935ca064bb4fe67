package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

// placement is one Attach on its way.
type placement struct {
	AttachOptions
	program func(kind) (*ebpf.Program, error)
	dir     string // of the pins; "" = none
	netlink Netlink
	noTCX   bool

	old     []*hook // as it was
	kept    []*hook // as it will be
	fresh   []*hook // those of kept that are new
	removed []*hook // those of old that had to go first
	refused error   // why native XDP was not to be had
}

// place makes a what the options ask for, or leaves it as it was.
func (p *placement) place(a *attachment) error {
	if err := p.run(); err != nil {
		err = errors.Join(err, p.undo())
		a.hooks = p.old
		return err
	}
	a.Want, a.hooks = p.Path, p.kept
	if p.refused != nil {
		a.refused = p.refused
	}
	err := p.finish()
	a.describe()
	return err
}

func (p *placement) run() error {
	var err error
	switch p.Path {
	case model.PathXDP, model.PathAuto:
		err = p.xdp(kindXDP, kindFallback)
	case model.PathXDPGeneric:
		err = p.xdp(kindGeneric)
	case model.PathTC:
		err = p.tc(kindIngress, kindClsactIngress)
	default:
		err = fmt.Errorf("attach to %s: no path %q", p.Name, p.Path)
	}
	if err == nil && p.Egress {
		err = p.tc(kindEgress, kindClsactEgress)
	}
	return err
}

// keep looks for a hook of that kind that is alive on this very interface.
func (p *placement) keep(k kind) bool {
	for _, h := range p.old {
		if h.kind == k && h.ifindex == p.Ifindex {
			p.kept = append(p.kept, h)
			return true
		}
	}
	return false
}

// add attaches a new hook.
func (p *placement) add(k kind) error {
	program, err := p.program(k)
	if err != nil {
		return err
	}
	h, err := attachHook(p.dir, p.Name, p.Ifindex, k, program, p.netlink)
	if err != nil {
		return err
	}
	p.kept, p.fresh = append(p.kept, h), append(p.fresh, h)
	return nil
}

// clear detaches old hooks that are in the way of a new one.
func (p *placement) clear(inTheWay func(*hook) bool) error {
	for _, h := range p.old {
		if !inTheWay(h) || slices.Contains(p.removed, h) {
			continue
		}
		if err := h.detach(); err != nil {
			return err
		}
		p.removed = append(p.removed, h)
	}
	return nil
}

// xdp attaches by the first of kinds that works.
func (p *placement) xdp(kinds ...kind) error {
	if slices.ContainsFunc(kinds, p.keep) {
		return nil
	}
	if err := p.clear(func(h *hook) bool { return h.kind.isXDP() }); err != nil {
		return err
	}
	if err := p.evict(); err != nil {
		return err
	}
	var err error
	for _, k := range kinds {
		if err = p.add(k); err == nil {
			return nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return &BusyError{Interface: p.Name, Program: p.foreign()}
		}
		if gone(err) {
			return err
		}
		if k == kindXDP {
			p.refused = errors.Unwrap(err)
		}
	}
	return err
}

// tc attaches by TCX, or by clsact where the kernel has no TCX.
func (p *placement) tc(tcx, clsact kind) error {
	if p.keep(tcx) || p.keep(clsact) {
		return nil
	}
	// What is left of an interface that is gone has the same pin.
	if err := p.clear(func(h *hook) bool { return h.kind == tcx || h.kind == clsact }); err != nil {
		return err
	}
	if !p.noTCX {
		if err := p.add(tcx); !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	return p.add(clsact)
}

// finish detaches the old hooks that the new ones replace.
func (p *placement) finish() error {
	return p.clear(func(h *hook) bool { return !slices.Contains(p.kept, h) })
}

// undo goes back to the old hooks, those that were dead excepted.
func (p *placement) undo() error {
	var errs []error
	for _, h := range p.fresh {
		errs = append(errs, h.detach())
	}
	p.old = slices.DeleteFunc(slices.Clone(p.old), func(h *hook) bool { return slices.Contains(p.removed, h) })
	for _, h := range p.removed {
		if h.ifindex != p.Ifindex {
			continue
		}
		program, err := p.program(h.kind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		again, err := attachHook(p.dir, h.name, h.ifindex, h.kind, program, p.netlink)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.old = append(p.old, again)
	}
	return errors.Join(errs...)
}

// foreign is the id of the XDP program that sits there; 0 when it can't be found out.
func (p *placement) foreign() uint32 {
	if p.netlink == nil {
		return 0
	}
	id, err := p.netlink.XDPProgram(p.Ifindex)
	if err != nil {
		return 0
	}
	return id
}

// evict takes a foreign XDP program off, if that was asked for.
func (p *placement) evict() error {
	program := p.foreign()
	if !p.Replace || program == 0 {
		return nil
	}
	for links := new(link.Iterator); links.Next(); {
		info, err := links.Link.Info()
		if err != nil || uint32(info.Program) != program {
			continue
		}
		if xdp := info.XDP(); xdp == nil || int(xdp.Ifindex) != p.Ifindex {
			continue
		}
		defer links.Close()
		if err := links.Link.Detach(); err != nil {
			return fmt.Errorf("take XDP program %d off %s: %w", program, p.Name, err)
		}
		return nil
	}
	if err := p.netlink.DetachXDP(p.Ifindex); err != nil {
		return fmt.Errorf("take XDP program %d off %s: %w", program, p.Name, err)
	}
	return nil
}
