package netdev

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Filter is a BPF program on a clsact qdisc, which decides by its return value ("direct action"): the way to attach
// at tc on kernels before 6.6, which have no TCX. Interface, direction, priority and name tell filters apart.
type Filter struct {
	Ifindex  int
	Egress   bool
	Priority uint16 // the lowest runs first
	Name     string // as `tc filter show` prints it
	Program  int    // file descriptor when it is set, program id when it was read
}

// The filter's handle remembers, across a crash of the daemon, who made the qdisc it hangs on: other tools' filters
// stay untouched, and ours leave no trace.
const (
	handleOwner = 0x67617264 // "gard"
	handleGuest = handleOwner + 1
)

// AddFilter adds a filter, or replaces in one step the program of the one that is there. It makes the clsact qdisc if
// there is none.
func (h *Handle) AddFilter(f Filter) error {
	if err := h.addFilter(f); err != nil {
		return fmt.Errorf("add tc filter %s: %w", f.Name, linkError(err))
	}
	return nil
}

func (h *Handle) addFilter(f Filter) error {
	handle := uint32(handleGuest)
	err := h.route.QdiscAdd(clsact(f.Ifindex))
	switch {
	case err == nil:
		handle = handleOwner
	case !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add clsact qdisc: %w", err)
	}
	all, err := h.filters(f.Ifindex)
	if err != nil {
		return err
	}
	for _, other := range all {
		if bpf, ok := other.(*netlink.BpfFilter); ok && bpf.Handle == handleOwner {
			handle = handleOwner
		}
	}
	return h.route.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  f.attrs(handle),
		Fd:           f.Program,
		Name:         f.Name,
		DirectAction: true,
	})
}

// Filters returns the BPF filters on the clsact qdisc of an interface, anybody's; none without such a qdisc.
func (h *Handle) Filters(ifindex int) ([]Filter, error) {
	all, err := h.filters(ifindex)
	if err != nil {
		return nil, fmt.Errorf("list tc filters: %w", linkError(err))
	}
	var filters []Filter
	for _, other := range all {
		if bpf, ok := other.(*netlink.BpfFilter); ok {
			filters = append(filters, Filter{
				Ifindex:  ifindex,
				Egress:   bpf.Parent == netlink.HANDLE_MIN_EGRESS,
				Priority: bpf.Priority,
				Name:     bpf.Name,
				Program:  bpf.Id,
			})
		}
	}
	return filters, nil
}

// DeleteFilter removes the filter of that interface, direction, priority and name, and the qdisc if AddFilter made it
// and nothing else hangs on it. It is no error when the filter or the interface is gone.
func (h *Handle) DeleteFilter(f Filter) error {
	if err := h.deleteFilter(f); err != nil && !errors.Is(linkError(err), ErrNoLink) {
		return fmt.Errorf("delete tc filter %s: %w", f.Name, err)
	}
	return nil
}

func (h *Handle) deleteFilter(f Filter) error {
	all, err := h.filters(f.Ifindex)
	if err != nil {
		return err
	}
	for _, other := range all {
		bpf, ok := other.(*netlink.BpfFilter)
		if !ok || bpf.Name != f.Name || bpf.Parent != f.parent() || bpf.Priority != f.Priority {
			continue
		}
		if err := h.route.FilterDel(bpf); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if bpf.Handle == handleOwner && len(all) == 1 {
			return h.route.QdiscDel(clsact(f.Ifindex))
		}
		return nil
	}
	return nil
}

// filters lists whatever hangs on the clsact qdisc, both directions.
func (h *Handle) filters(ifindex int) ([]netlink.Filter, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	var all []netlink.Filter
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := dump(func() ([]netlink.Filter, error) { return h.route.FilterList(link, parent) })
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // no such qdisc
		}
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func (f Filter) parent() uint32 {
	if f.Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func (f Filter) attrs(handle uint32) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: f.Ifindex,
		Parent:    f.parent(),
		Handle:    handle,
		Protocol:  unix.ETH_P_ALL,
		Priority:  f.Priority,
	}
}

func clsact(ifindex int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
}
