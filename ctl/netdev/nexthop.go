package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	// ErrUnresolved is returned by NextHop while the neighbour's MAC is not known. The Hop beside it is complete but for
	// DstMAC; Keep makes the kernel resolve it, and Watch tells when it did.
	ErrUnresolved = errors.New("neighbour not resolved")
	// ErrLocal is returned by NextHop for an address of this machine.
	ErrLocal = errors.New("address of this machine")
)

// Hop is the way of a packet out of this machine.
type Hop struct {
	Ifindex   int
	Source    netip.Addr // address of the way out that the kernel would send from
	Gateway   netip.Addr // zero when the destination is on the link
	Neighbour netip.Addr // whose MAC DstMAC is: the gateway, or the destination
	SrcMAC    [6]byte
	DstMAC    [6]byte
	MTU       int // bytes of IP: of the route where it has one, else of the link
}

// NextHop resolves the way to dst by the kernel's routes and neighbours as they are now; it sends nothing. Beside
// ErrUnresolved and ErrLocal it returns the kernel's own errors, like unix.ENETUNREACH.
func (h *Handle) NextHop(dst netip.Addr) (Hop, error) {
	hop, err := h.routeTo(dst)
	if err != nil {
		return Hop{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	if hop.DstMAC, err = h.neighbour(hop.Ifindex, hop.Neighbour); err != nil {
		return hop, fmt.Errorf("next hop to %s: %s: %w", dst, hop.Neighbour, err)
	}
	return hop, nil
}

func (h *Handle) routeTo(dst netip.Addr) (Hop, error) {
	routes, err := h.route.RouteGet(dst.AsSlice())
	if err != nil {
		return Hop{}, err
	}
	if len(routes) == 0 {
		return Hop{}, unix.ENETUNREACH
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return Hop{}, ErrLocal
	}
	hop := Hop{Ifindex: route.LinkIndex, Neighbour: dst, MTU: route.MTU}
	if source, ok := netip.AddrFromSlice(route.Src); ok {
		hop.Source = source.Unmap()
	}
	gateway := route.Gw
	if via, ok := route.Via.(*netlink.Via); ok { // an IPv4 route by an IPv6 gateway
		gateway = via.Addr
	}
	if addr, ok := netip.AddrFromSlice(gateway); ok && !addr.IsUnspecified() {
		hop.Gateway = addr.Unmap()
		hop.Neighbour = hop.Gateway
	}
	link, err := h.route.LinkByIndex(route.LinkIndex)
	if err != nil {
		return Hop{}, linkError(err)
	}
	copy(hop.SrcMAC[:], link.Attrs().HardwareAddr)
	if hop.MTU == 0 || link.Attrs().MTU < hop.MTU {
		hop.MTU = link.Attrs().MTU
	}
	return hop, nil
}

// neighbour returns the MAC of an address on a link, or ErrUnresolved.
func (h *Handle) neighbour(ifindex int, addr netip.Addr) (mac [6]byte, err error) {
	entry, err := h.neighbourEntry(ifindex, addr)
	if err != nil {
		return mac, err
	}
	const valid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
	if entry == nil || entry.State&valid == 0 || len(entry.HardwareAddr) != len(mac) {
		return mac, ErrUnresolved
	}
	return [6]byte(entry.HardwareAddr), nil
}

// neighbourEntry asks for one entry of the kernel's table; nil when it has none.
func (h *Handle) neighbourEntry(ifindex int, addr netip.Addr) (*netlink.Neigh, error) {
	family := uint8(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	req := h.request(unix.RTM_GETNEIGH, 0)
	req.AddData(&netlink.Ndmsg{Family: family, Index: uint32(ifindex)})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()))
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) || err == nil && len(replies) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, linkError(err)
	}
	entry, err := netlink.NeighDeserialize(replies[0])
	if err != nil {
		return nil, fmt.Errorf("parse the kernel's answer: %w", err)
	}
	return entry, nil
}

// Keep makes the kernel resolve the neighbour of a hop now and, from Linux 5.16 on, keep it resolved by itself, also
// when gardu is gone. On older kernels each call resolves once. It is cheap and may be repeated; a neighbour that an
// administrator made permanent is left alone.
func (h *Handle) Keep(hop Hop) error {
	entry, err := h.neighbourEntry(hop.Ifindex, hop.Neighbour)
	if err == nil && (entry == nil || entry.State&unix.NUD_PERMANENT == 0) {
		err = h.manage(hop, netlink.NTF_EXT_MANAGED)
	}
	if err != nil {
		return fmt.Errorf("keep neighbour %s: %w", hop.Neighbour, err)
	}
	return nil
}

// Release undoes Keep: the neighbour ages as any other. It is no error when there is nothing to undo.
func (h *Handle) Release(hop Hop) error {
	entry, err := h.neighbourEntry(hop.Ifindex, hop.Neighbour)
	if err == nil && entry != nil && entry.FlagsExt&netlink.NTF_EXT_MANAGED != 0 {
		err = h.manage(hop, 0)
	}
	if err != nil && !errors.Is(err, ErrNoLink) {
		return fmt.Errorf("release neighbour %s: %w", hop.Neighbour, err)
	}
	return nil
}

// manage sets or clears the flag by which the kernel refreshes a neighbour by itself, and has it resolved now. The
// state NONE and the flag USE keep what is known of an entry.
func (h *Handle) manage(hop Hop, flagsExt int) error {
	return linkError(h.route.NeighSet(&netlink.Neigh{
		LinkIndex: hop.Ifindex,
		IP:        hop.Neighbour.AsSlice(),
		State:     unix.NUD_NONE,
		Flags:     netlink.NTF_USE,
		FlagsExt:  flagsExt,
	}))
}
