package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How marked packets are routed. The rule comes before all of other tools' that send by policy, and behind that for the machine's own
// addresses.
const (
	markedPriority = 103
	markedTable    = 26482 // "gr"
	// markedMTU leaves room for any header that is put around, on every way that IPv6 can go.
	markedMTU = 1280
)

// loopback is the index of the loopback in every namespace.
const loopback = 1

// RouteMarked routes what has a mark to the loopback, in a family (unix.AF_INET, AF_INET6), wherever it is to: there a program takes it
// up. It is cheap and may be repeated.
func (h *Handle) RouteMarked(mark uint32, family int) error {
	// Added, not replaced: what is there already makes no notification.
	for _, err := range []error{h.route.RouteAdd(markedRoute(family)), h.route.RuleAdd(markedRule(mark, family))} {
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route packets with mark %#x to the loopback: %w", mark, err)
		}
	}
	return nil
}

// UnrouteMarked undoes RouteMarked. It is no error when there is nothing to undo.
func (h *Handle) UnrouteMarked(mark uint32) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, err := range []error{h.route.RuleDel(markedRule(mark, family)), h.route.RouteDel(markedRoute(family))} {
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EAFNOSUPPORT) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the route of packets with mark %#x: %w", mark, err)
	}
	return nil
}

func markedRule(mark uint32, family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Mark, rule.Protocol = family, markedPriority, markedTable, mark, protocol
	return rule
}

// markedRoute is a default route. To IPv6 it has to be a local one: others to the loopback are for unreachable.
func markedRoute(family int) *netlink.Route {
	all := &net.IPNet{IP: netip.IPv4Unspecified().AsSlice(), Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: netip.IPv6Unspecified().AsSlice(), Mask: net.CIDRMask(0, 128)}
	}
	route := &netlink.Route{Family: family, Dst: all, LinkIndex: loopback, Table: markedTable, Protocol: protocol, MTU: markedMTU}
	if family == unix.AF_INET6 {
		route.Type = unix.RTN_LOCAL
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}
