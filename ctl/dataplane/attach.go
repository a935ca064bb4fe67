package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

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

const clsactWhy = "by a clsact filter: this kernel has no TCX"

// attachment is an Attachment with its hooks.
type attachment struct {
	Attachment
	hooks   []*hook
	refused error // why there is a kindFallback, when this process put it there
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
			if a.refused != nil {
				a.Why += ": " + a.refused.Error()
			}
		case kindIngress:
			a.Path, a.TCX = model.PathTC, true
		case kindClsactIngress:
			a.Path, a.Why = model.PathTC, clsactWhy
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

// Attach puts the programs on an interface of the calling thread's network namespace, or changes how they sit there. What fits already stays as it is. Where the
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
	placing := placement{
		AttachOptions: o, program: d.programAt, old: a.hooks,
		dir: d.linksPath(), netlink: d.netlink, noTCX: d.noTCX,
	}
	err := placing.place(a)
	if d.attachments[o.Name] = a; len(a.hooks) == 0 {
		delete(d.attachments, o.Name)
	}
	return a.Attachment, err
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

// DetachAll takes gardu off every interface, the loopback of health checks included. The maps stay.
func (d *Dataplane) DetachAll() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for name := range d.attachments {
		errs = append(errs, d.detach(name))
	}
	if d.check != nil {
		errs = append(errs, d.detachCheck())
	}
	return errors.Join(errs...)
}

// takeOverLinks finds the hooks that are pinned and swaps this process's programs in.
func (d *Dataplane) takeOverLinks() error {
	dir := d.linksPath()
	if d.migration != nil {
		dir = filepath.Join(d.migration.dir, linksDir)
	}
	hooks, err := openHooks(dir, d.netlink)
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
	if err := d.loadThose(d.programs, d.used()); err != nil {
		return err
	}
	for _, a := range d.attachments {
		for _, h := range a.hooks {
			if d.migration != nil { // not before a generation is there
				break
			}
			if err := d.renew(h); err != nil {
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
