package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/lb/health"
)

// checks is how health checks get to their backends.
type checks struct {
	mu   sync.Mutex // one look at a time
	ways atomic.Pointer[map[backendName]checkWay]
}

// checkWay is how the checks of one backend go through the forwarding path.
type checkWay struct {
	source netip.Addr // zero: what the kernel would send from to the backend
	err    error      // why they can't, and go to the backend's own address
}

// syncChecks prepares the way of health checks through the forwarding path, as targets want it and as the machine is now.
func (d *Daemon) syncChecks(targets []health.Target) {
	d.checks.mu.Lock()
	defer d.checks.mu.Unlock()
	ways := map[backendName]checkWay{}
	defer d.checks.ways.Store(&ways)
	if !slices.ContainsFunc(targets, throughService) {
		d.fault("take health checks off the loopback", errors.Join(d.plane.DetachCheck(), d.netdev.UnrouteMarked(uint32(abi.CheckMark))))
		return
	}
	addresses, err := d.netdev.Addresses()
	failed := errors.Join(err, d.plane.AttachCheck())
	routed := map[int]error{} // by family
	for _, t := range targets {
		if !throughService(t) {
			continue
		}
		family := socketFamily(t.Through.Addr())
		if _, tried := routed[family]; !tried {
			routed[family] = d.netdev.RouteMarked(uint32(abi.CheckMark), family)
		}
		way := checkWay{err: errors.Join(failed, routed[family])}
		if way.err == nil {
			way.source, way.err = d.checkSource(t, addresses)
		}
		ways[backendName{t.Service, t.Backend}] = way
	}
}

// throughService says whether a check is to go the way of packets.
func throughService(t health.Target) bool { return t.Through.IsValid() }

// followChecks looks again, should there be a service address that came to this machine, or a route that is gone.
func (d *Daemon) followChecks() {
	if ways := d.checks.ways.Load(); ways != nil && len(*ways) > 0 {
		d.syncChecks(health.Targets(d.current.Load().snapshot))
	}
}

// checkSource finds what a check is sent from: the answer comes back to it from the backend, with the service's address.
func (d *Daemon) checkSource(t health.Target, addresses []netip.Prefix) (netip.Addr, error) {
	service := t.Through.Addr()
	if slices.ContainsFunc(addresses, func(own netip.Prefix) bool { return own.Addr() == service }) {
		return netip.Addr{}, fmt.Errorf("%s is an address of this machine, and the kernel takes no answers from such", service)
	}
	if service.Is4() == t.Address.Addr().Is4() {
		return netip.Addr{}, nil
	}
	if _, from, err := d.netdev.Way(service); err == nil && from.IsValid() {
		return from, nil
	}
	for _, own := range addresses {
		if from := own.Addr(); from.Is4() == service.Is4() && from.IsGlobalUnicast() {
			return from, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this machine has no address that a server at %s could answer to", service)
}

func socketFamily(address netip.Addr) int {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// checkThrough is what the checker asks.
func (d *Daemon) checkThrough(t health.Target) (netip.Addr, error) {
	if ways := d.checks.ways.Load(); ways != nil {
		if way, ok := (*ways)[backendName{t.Service, t.Backend}]; ok {
			return way.source, way.err
		}
	}
	return netip.Addr{}, errors.New("not prepared")
}

// checkWarnings tells which services are checked less well than they could be, a service once.
func (d *Daemon) checkWarnings(now *applied, warn func(format string, args ...any)) {
	ways := d.checks.ways.Load()
	if ways == nil {
		return
	}
	told := map[string]bool{}
	for _, b := range now.tables.Backends {
		if err := (*ways)[backendName{b.ServiceName, b.Name}].err; err != nil && !told[b.ServiceName] {
			told[b.ServiceName] = true
			warn("health checks of service %s go to the backends' own addresses, and don't tell whether its packets get there: %v", b.ServiceName, err)
		}
	}
}
