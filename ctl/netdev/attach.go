package netdev

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// gardu's own filters.
const (
	IngressFilter = "gardu_ingress"
	EgressFilter  = "gardu_egress"
	CheckFilter   = "gardu_check" // at egress, after the other
)

func own(ifindex int, name string) Filter {
	f := Filter{Ifindex: ifindex, Egress: name != IngressFilter, Priority: 1, Name: name}
	if name == CheckFilter {
		f.Priority = 2
	}
	return f
}

// AttachFilter adds gardu's own filter of that name to an interface, or replaces its program in one step. When the
// interface is gone, the error is both ErrNoLink and ENODEV.
func (h *Handle) AttachFilter(ifindex int, name string, program int) error {
	f := own(ifindex, name)
	f.Program = program
	err := h.AddFilter(f)
	if errors.Is(err, ErrNoLink) {
		return fmt.Errorf("%w (%w)", err, unix.ENODEV)
	}
	return err
}

// DetachFilter removes gardu's own filter of that name. It is no error when the filter or the interface is gone.
func (h *Handle) DetachFilter(ifindex int, name string) error {
	return h.DeleteFilter(own(ifindex, name))
}

// XDPProgram returns the id of the XDP program on an interface, whoever attached it; 0 when there is none.
func (h *Handle) XDPProgram(ifindex int) (uint32, error) {
	l, err := h.route.LinkByIndex(ifindex)
	if err != nil {
		return 0, fmt.Errorf("XDP program of interface %d: %w", ifindex, linkError(err))
	}
	if xdp := l.Attrs().Xdp; xdp != nil {
		return xdp.ProgId, nil
	}
	return 0, nil
}

// DetachXDP removes the XDP program that was attached to an interface by netlink, in whichever mode. One that a BPF link
// holds it can't remove.
func (h *Handle) DetachXDP(ifindex int) error {
	l, err := h.route.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("detach XDP from interface %d: %w", ifindex, linkError(err))
	}
	xdp := l.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return nil
	}
	mode := uint32(nl.XDP_FLAGS_DRV_MODE)
	if xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		mode = nl.XDP_FLAGS_SKB_MODE
	}
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(ifindex)
	attrs := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	attrs.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(^uint32(0))) // -1: none
	attrs.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(mode))
	req := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(message)
	req.AddData(attrs)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("detach XDP from %s: %w", l.Attrs().Name, linkError(err))
	}
	return nil
}
