package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

// AttachOptions say where to attach, and how.
type AttachOptions struct {
	Name    string
	Ifindex int
	Path    model.Path // auto counts as xdp: native, else generic. netdev.ChoosePath knows better
	Egress  bool       // at tc egress too
	Replace bool       // take a foreign XDP program off first
}

// Attachment is how gardu sits on an interface.
type Attachment struct {
	Name    string
	Ifindex int        // 0: the interface is gone
	Want    model.Path // as asked for; Path after a take-over, until Attach is called
	Path    model.Path // in force: xdp, xdp-generic or tc
	Why     string     // why Path is not what was asked for, or how tc is attached; "" when there is nothing to say
	Egress  bool
	TCX     bool // tc hooks are TCX links, not clsact filters
}

// attachment is an Attachment with its hooks.
type attachment struct {
	Attachment
	hooks []*hook
}

func (a *attachment) close() error {
	var errs []error
	for _, h := range a.hooks {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// describe derives what is in force from the hooks.
func (a *attachment) describe() {
	a.Path, a.Why, a.Egress, a.TCX, a.Ifindex = "", "", false, false, 0
	slices.SortFunc(a.hooks, func(x, y *hook) int { return strings.Compare(string(x.kind), string(y.kind)) })
	for _, h := range a.hooks {
		a.Ifindex = h.ifindex
		switch h.kind {
		case kindXDP:
			a.Path = model.PathXDP
		case kindGeneric:
			a.Path = model.PathXDPGeneric
		case kindFallback:
			a.Path, a.Why = model.PathXDPGeneric, "the driver refused native XDP"
		case kindIngress:
			a.Path, a.TCX = model.PathTC, true
		case kindClsactIngress:
			a.Path, a.Why = model.PathTC, "by a clsact filter: this kernel has no TCX"
		case kindEgress:
			a.Egress, a.TCX = true, true
		case kindClsactEgress:
			a.Egress = true
		}
	}
	if a.Want == "" {
		a.Want = a.Path
	}
}

// Attachments tells how gardu sits on every interface, by name.
func (d *Dataplane) Attachments() []Attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Attachment
	for _, name := range slices.Sorted(maps.Keys(d.attachments)) {
		all = append(all, d.attachments[name].Attachment)
	}
	return all
}

// Attach puts the programs on an interface, or changes how they sit there. What fits already stays as it is. Where the
// path changes, the new hook is there before the old one goes (for a moment packets pass both), except between native and
// generic XDP, which can't be at once. Native XDP falls back to generic where the driver refuses, tc to clsact where
// the kernel has no TCX; Attachment says so.
//
// Errors: *BusyError when a foreign XDP program is there and Replace isn't set. On error the interface is as it was.
func (d *Dataplane) Attach(o AttachOptions) (Attachment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.attachments[o.Name]
	if a == nil {
		a = &attachment{Attachment: Attachment{Name: o.Name}}
	}
	placing := placement{d: d, options: o, old: a.hooks}
	if err := placing.run(); err != nil {
		return a.Attachment, errors.Join(err, placing.undo())
	}
	a.Want, a.hooks = o.Path, placing.kept
	err := placing.finish()
	a.describe()
	if placing.refused != nil {
		a.Why = fmt.Sprintf("the driver refused native XDP: %v", placing.refused)
	}
	d.attachments[o.Name] = a
	return a.Attachment, err
}

// placement is one Attach on its way.
type placement struct {
	d       *Dataplane
	options AttachOptions
	old     []*hook // as it was
	kept    []*hook // as it will be
	fresh   []*hook // those of kept that are new
	removed []*hook // those of old that had to go first
	refused error   // why native XDP was not to be had
}

func (p *placement) run() error {
	var err error
	switch p.options.Path {
	case model.PathXDP, model.PathAuto:
		err = p.xdp(kindXDP, kindFallback)
	case model.PathXDPGeneric:
		err = p.xdp(kindGeneric)
	case model.PathTC:
		err = p.tc(kindIngress, kindClsactIngress)
	default:
		err = fmt.Errorf("attach to %s: no path %q", p.options.Name, p.options.Path)
	}
	if err == nil && p.options.Egress {
		err = p.tc(kindEgress, kindClsactEgress)
	}
	return err
}

// keep looks for a hook of that kind that is alive on this very interface.
func (p *placement) keep(k kind) bool {
	for _, h := range p.old {
		if h.kind == k && h.ifindex == p.options.Ifindex {
			p.kept = append(p.kept, h)
			return true
		}
	}
	return false
}

// add attaches a new hook.
func (p *placement) add(k kind) error {
	h, err := attachHook(p.d.linksPath(), p.options.Name, p.options.Ifindex, k, k.program(p.d.programs), p.d.netlink)
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
	if err := p.d.evict(p.options); err != nil {
		return err
	}
	var err error
	for _, k := range kinds {
		if err = p.add(k); err == nil {
			return nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return &BusyError{Interface: p.options.Name, Program: p.d.foreign(p.options.Ifindex)}
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
	if !p.d.noTCX {
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

// undo goes back to the old hooks.
func (p *placement) undo() error {
	var errs []error
	for _, h := range p.fresh {
		errs = append(errs, h.detach())
	}
	for _, h := range p.removed {
		if h.ifindex != p.options.Ifindex {
			continue // it was dead
		}
		again, err := attachHook(p.d.linksPath(), h.name, h.ifindex, h.kind, h.kind.program(p.d.programs), p.d.netlink)
		if err == nil {
			*h = *again
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// foreign is the id of the XDP program that sits on an interface; 0 when it can't be found out.
func (d *Dataplane) foreign(ifindex int) uint32 {
	if d.netlink == nil {
		return 0
	}
	id, err := d.netlink.XDPProgram(ifindex)
	if err != nil {
		return 0
	}
	return id
}

// evict takes a foreign XDP program off, if that was asked for.
func (d *Dataplane) evict(o AttachOptions) error {
	program := d.foreign(o.Ifindex)
	if !o.Replace || program == 0 {
		return nil
	}
	for links := new(link.Iterator); links.Next(); {
		info, err := links.Link.Info()
		if err != nil || uint32(info.Program) != program {
			continue
		}
		if xdp := info.XDP(); xdp == nil || int(xdp.Ifindex) != o.Ifindex {
			continue
		}
		defer links.Close()
		if err := links.Link.Detach(); err != nil {
			return fmt.Errorf("take XDP program %d off %s: %w", program, o.Name, err)
		}
		return nil
	}
	if err := d.netlink.DetachXDP(o.Ifindex); err != nil {
		return fmt.Errorf("take XDP program %d off %s: %w", program, o.Name, err)
	}
	return nil
}

// Detach takes gardu off an interface; ErrNotAttached when it isn't there.
func (d *Dataplane) Detach(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detach(name)
}

func (d *Dataplane) detach(name string) error {
	a := d.attachments[name]
	if a == nil {
		return fmt.Errorf("detach from %s: %w", name, ErrNotAttached)
	}
	for len(a.hooks) > 0 {
		if err := a.hooks[0].detach(); err != nil {
			a.describe()
			return err
		}
		a.hooks = a.hooks[1:]
	}
	delete(d.attachments, name)
	return nil
}

// DetachAll takes gardu off every interface. The maps stay.
func (d *Dataplane) DetachAll() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for name := range d.attachments {
		errs = append(errs, d.detach(name))
	}
	return errors.Join(errs...)
}

// takeOverLinks finds the hooks that are pinned and swaps this process's programs in.
func (d *Dataplane) takeOverLinks() error {
	hooks, err := openHooks(d.linksPath(), d.netlink)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		a := d.attachments[h.name]
		if a == nil {
			a = &attachment{Attachment: Attachment{Name: h.name}}
			d.attachments[h.name] = a
		}
		a.hooks = append(a.hooks, h)
	}
	for _, a := range d.attachments {
		for _, h := range a.hooks {
			if err := h.update(h.kind.program(d.programs)); err != nil {
				return err
			}
		}
		a.describe()
	}
	return nil
}

// linksPath is the directory of pinned hooks; "" for a private instance.
func (d *Dataplane) linksPath() string {
	if d.dir == "" {
		return ""
	}
	return d.path(linksDir)
}
