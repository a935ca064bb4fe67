package dataplane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// kind is a place on an interface where a program can sit, as the names of pins say it.
type kind string

const (
	kindXDP           kind = "xdp"            // in the driver
	kindGeneric       kind = "generic"        // XDP in the stack, because it was asked for
	kindFallback      kind = "fallback"       // the same, because the driver refused
	kindIngress       kind = "ingress"        // tc, by TCX
	kindEgress        kind = "egress"         // likewise
	kindClsactIngress kind = "clsact_ingress" // tc, by a filter on the clsact qdisc
	kindClsactEgress  kind = "clsact_egress"
	kindCheck         kind = "check" // at egress of the loopback
	kindClsactCheck   kind = "clsact_check"
)

func (k kind) isXDP() bool    { return k == kindXDP || k == kindGeneric || k == kindFallback }
func (k kind) isClsact() bool { return strings.HasPrefix(string(k), "clsact_") }

// hook says which program belongs there.
func (k kind) hook() Hook {
	switch k {
	case kindXDP, kindGeneric, kindFallback:
		return HookXDP
	case kindEgress, kindClsactEgress:
		return HookEgress
	case kindCheck, kindClsactCheck:
		return HookCheck
	default:
		return HookIngress
	}
}

// filter is what a filter of that kind is called: as its program.
func (k kind) filter() string { return "gardu_" + strings.TrimPrefix(string(k), "clsact_") }

// hook is one program on one interface.
type hook struct {
	name    string // of the interface
	ifindex int    // 0: the interface is gone
	kind    kind
	path    string    // where it is pinned; "" = it goes with this process
	link    link.Link // nil for clsact
	netlink Netlink   // for clsact
}

// attachHook puts a program on an interface and pins it in dir, if dir isn't "".
func attachHook(dir string, name string, ifindex int, kind kind, program *ebpf.Program, netlink Netlink) (*hook, error) {
	h := &hook{name: name, ifindex: ifindex, kind: kind, netlink: netlink}
	if dir != "" {
		h.path = filepath.Join(dir, pinName(name, kind))
	}
	if err := h.attach(program); err != nil {
		return nil, fmt.Errorf("attach to %s (%s): %w", name, kind, err)
	}
	if err := h.pin(program); err != nil {
		return nil, errors.Join(err, h.detach())
	}
	return h, nil
}

func (h *hook) attach(program *ebpf.Program) (err error) {
	switch h.kind {
	case kindXDP:
		h.link, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: h.ifindex, Flags: link.XDPDriverMode})
	case kindGeneric, kindFallback:
		h.link, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: h.ifindex, Flags: link.XDPGenericMode})
	case kindIngress:
		h.link, err = link.AttachTCX(link.TCXOptions{Program: program, Interface: h.ifindex, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	case kindEgress, kindCheck: // after what others may change on the way out
		h.link, err = link.AttachTCX(link.TCXOptions{Program: program, Interface: h.ifindex, Attach: ebpf.AttachTCXEgress, Anchor: link.Tail()})
	default:
		if h.netlink == nil {
			return &KernelError{Tried: "attach at tc", Lacks: "TCX (Linux 6.6)", Advice: "use a newer kernel"}
		}
		err = h.netlink.AttachFilter(h.ifindex, h.kind.filter(), program.FD())
	}
	return err
}

// pin makes the hook outlive this process. A filter does by itself; the pinned program marks it as ours.
func (h *hook) pin(program *ebpf.Program) error {
	if h.path == "" {
		return nil
	}
	if h.link != nil {
		if err := h.link.Pin(h.path); err != nil {
			return permission("pin "+h.path, err)
		}
		return nil
	}
	if err := os.Remove(h.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return permission("unpin "+h.path, err)
	}
	mark, err := program.Clone()
	if err != nil {
		return fmt.Errorf("pin %s: %w", h.path, err)
	}
	defer mark.Close()
	if err := mark.Pin(h.path); err != nil {
		return permission("pin "+h.path, err)
	}
	return nil
}

// update swaps the program in one step: every packet meets the old one or the new one.
func (h *hook) update(program *ebpf.Program) error {
	var err error
	if h.link != nil {
		err = h.link.Update(program)
	} else if err = h.attach(program); err == nil {
		err = h.pin(program)
	}
	if gone(err) { // with its interface; Attach starts anew when it is back
		h.ifindex, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("swap the program on %s (%s): %w", h.name, h.kind, err)
	}
	return nil
}

// detach takes the program off and leaves no trace of it.
func (h *hook) detach() error {
	var errs []error
	if h.link != nil {
		if err := h.link.Detach(); err != nil && !gone(err) {
			errs = append(errs, err)
		}
		errs = append(errs, h.link.Close())
	} else if h.ifindex != 0 {
		errs = append(errs, h.netlink.DetachFilter(h.ifindex, h.kind.filter()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach from %s (%s): %w", h.name, h.kind, err)
	}
	if h.path == "" {
		return nil
	}
	if err := os.Remove(h.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return permission("unpin "+h.path, err)
	}
	return nil
}

// close lets go of the hook: pinned it stays, else it is gone.
func (h *hook) close() error {
	if h.link == nil {
		if h.path == "" {
			return h.detach()
		}
		return nil
	}
	return h.link.Close()
}

// gone tells the errors of a hook whose interface is no more.
func gone(err error) bool { return errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.ENODEV) }

// openHooks opens all hooks pinned in dir.
func openHooks(dir string, netlink Netlink) ([]*hook, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, permission("read "+dir, err)
	}
	var hooks []*hook
	for _, entry := range entries {
		h := &hook{path: filepath.Join(dir, entry.Name()), netlink: netlink}
		var ok bool
		if h.name, h.kind, ok = parsePinName(entry.Name()); !ok {
			continue
		}
		if err := h.open(); err != nil {
			for _, h := range hooks {
				h.close()
			}
			return nil, err
		}
		hooks = append(hooks, h)
	}
	return hooks, nil
}

// open finds the hook behind a pin.
func (h *hook) open() error {
	if h.kind.isClsact() {
		if h.netlink == nil {
			return fmt.Errorf("open %s: filters need netlink", h.path)
		}
		if device, err := net.InterfaceByName(h.name); err == nil {
			h.ifindex = device.Index
		}
		return nil
	}
	var err error
	if h.link, err = link.LoadPinnedLink(h.path, nil); err != nil {
		return permission("open "+h.path, err)
	}
	h.ifindex, err = linkIfindex(h.link)
	return err
}

// linkIfindex is the interface that a link is on; 0 when it is gone.
func linkIfindex(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	if xdp := info.XDP(); xdp != nil {
		return int(xdp.Ifindex), nil
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex), nil
	}
	return 0, nil
}

// bpffs refuses dots in names and interface names have no colons.
func pinName(name string, kind kind) string {
	return strings.ReplaceAll(name, ".", ":") + "-" + string(kind)
}

func parsePinName(pin string) (name string, k kind, ok bool) {
	dash := strings.LastIndexByte(pin, '-')
	if dash < 0 {
		return "", "", false
	}
	k = kind(pin[dash+1:])
	switch k {
	case kindXDP, kindGeneric, kindFallback, kindIngress, kindEgress, kindClsactIngress, kindClsactEgress, kindCheck, kindClsactCheck:
		return strings.ReplaceAll(pin[:dash], ":", "."), k, true
	}
	return "", "", false
}
