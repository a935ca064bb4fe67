package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gardu/ctl/model"
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
	Parent    int        // where frames leave with a tag, when that is a VLAN's interface, which takes none from XDP; else 0
	VLAN      uint16     // the tag
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

// Room is the MTU of the way to an address, in bytes of IP, whether or not its neighbour answers.
func (h *Handle) Room(to netip.Addr) (int, error) {
	hop, err := h.routeTo(to)
	return hop.MTU, err
}

// FromClients is how many bytes of IP clients behind the interfaces of a snapshot send at once: as many as fit the narrowest, and hardly more
// than most of the Internet takes. 0: not known.
func (h *Handle) FromClients(s *model.Snapshot) (largest int) {
	for _, i := range s.Interfaces {
		if link, err := h.Link(i.Name); err == nil && link.MTU > 0 && (largest == 0 || link.MTU < largest) {
			largest = link.MTU
		}
	}
	return min(largest, 1500)
}

// Way tells by which interface the kernel would send to an address, and from which address of its own.
func (h *Handle) Way(to netip.Addr) (ifname string, from netip.Addr, err error) {
	hop, err := h.routeTo(to)
	if errors.Is(err, ErrLocal) {
		return "lo", to, nil
	}
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("route to %s: %w", to, err)
	}
	link, err := h.LinkByIndex(hop.Ifindex)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("route to %s: %w", to, err)
	}
	return link.Name, hop.Source, nil
}

// tagOf tells where what is sent to a VLAN's interface leaves, and with which tag. Other tags than those of 802.1Q are left to the kernel.
func tagOf(link netlink.Link) (parent int, id uint16) {
	vlan, ok := link.(*netlink.Vlan)
	other := ok && vlan.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q && vlan.VlanProtocol != netlink.VLAN_PROTOCOL_UNKNOWN
	if !ok || other || vlan.ParentIndex == 0 {
		return 0, 0
	}
	return vlan.ParentIndex, uint16(vlan.VlanId)
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
	hop.Parent, hop.VLAN = tagOf(link)
	if hop.MTU == 0 || link.Attrs().MTU < hop.MTU {
		hop.MTU = link.Attrs().MTU
	}
	return hop, nil
}
