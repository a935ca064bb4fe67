package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNoLink is returned for an interface that does not exist.
var ErrNoLink = errors.New("no such interface")

// Handle speaks to the kernel about the network namespace in which it was opened, whichever namespace the calling
// thread is in later. It is safe for concurrent use.
type Handle struct {
	route   *netlink.Handle
	sockets map[int]*nl.SocketHandle // for requests that the netlink library has no call for
	inet    int                      // socket for ethtool ioctls
	packet  int                      // socket for frames; -1: there is none, because of
	refused error
}

// Open returns a Handle for the network namespace of the calling thread.
func Open() (*Handle, error) {
	route, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	h := &Handle{route: route, sockets: make(map[int]*nl.SocketHandle), inet: -1, packet: -1}
	for _, family := range []int{unix.NETLINK_ROUTE, unix.NETLINK_GENERIC} {
		socket, err := nl.Subscribe(family)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("open netlink: %w", err)
		}
		h.sockets[family] = &nl.SocketHandle{Socket: socket}
	}
	h.inet, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	// It receives nothing. Most of who opens a Handle never sends, and some may not.
	h.packet, h.refused = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	return h, nil
}

// Close frees the sockets. It changes nothing in the kernel.
func (h *Handle) Close() {
	h.route.Close()
	for _, s := range h.sockets {
		s.Close()
	}
	for _, socket := range []int{h.inet, h.packet} {
		if socket >= 0 {
			unix.Close(socket)
		}
	}
}

// Link is a network interface.
type Link struct {
	Name       string
	Index      int
	MAC        [6]byte // zero when the link has none
	MTU        int     // bytes of IP
	Kind       string  // of a virtual link: "veth", "bridge", "vlan"; "" for hardware and virtio
	Driver     string  // as ethtool names it; "" when the link doesn't tell
	Up         bool    // administratively
	Running    bool    // up, and something is at the other end
	Loopback   bool
	Ethernet   bool           // frames begin with an Ethernet header (the loopback's do, too)
	Addresses  []netip.Prefix // with the host part
	TxChecksum bool           // leaves checksums of what it sends to the device, which on veth and virtio means: undone
	GRO        bool           // bundles received segments
	StripsVLAN bool           // takes VLAN tags off what it receives, which XDP then never sees (rx-vlan-offload)
	LRO        bool           // has the NIC merge received segments
	XDP        XDPSupport
	XDPSend    XDPSupport // takes frames that XDP programs of other interfaces redirect to it
}

// Link returns the interface of that name; errors.Is(err, ErrNoLink) when there is none.
func (h *Handle) Link(name string) (Link, error) {
	l, err := h.route.LinkByName(name)
	if err != nil {
		return Link{}, fmt.Errorf("interface %s: %w", name, linkError(err))
	}
	return h.describe(l, name)
}

// LinkByIndex is Link for an interface index.
func (h *Handle) LinkByIndex(index int) (Link, error) {
	l, err := h.route.LinkByIndex(index)
	if err != nil {
		return Link{}, fmt.Errorf("interface %d: %w", index, linkError(err))
	}
	return h.describe(l, l.Attrs().Name)
}

// Links returns all interfaces of the namespace, by index.
func (h *Handle) Links() ([]Link, error) {
	list, err := dump(h.route.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	links := make([]Link, 0, len(list))
	for _, l := range list {
		link, err := h.describe(l, l.Attrs().Name)
		if errors.Is(err, ErrNoLink) {
			continue // vanished since it was listed
		}
		if err != nil {
			return nil, err
		}
		links = append(links, link)
	}
	return links, nil
}

// Addresses returns the addresses of all interfaces, each with the length of its subnet.
func (h *Handle) Addresses() ([]netip.Prefix, error) {
	prefixes, err := h.addresses(nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return prefixes, nil
}

func (h *Handle) describe(l netlink.Link, name string) (Link, error) {
	attrs := l.Attrs()
	link := Link{
		Name:     name,
		Index:    attrs.Index,
		MTU:      attrs.MTU,
		Up:       attrs.Flags&net.FlagUp != 0,
		Running:  attrs.RawFlags&unix.IFF_RUNNING != 0,
		Loopback: attrs.Flags&net.FlagLoopback != 0,
		Ethernet: attrs.EncapType == "ether" || attrs.EncapType == "loopback",
	}
	copy(link.MAC[:], attrs.HardwareAddr)
	if kind := l.Type(); kind != "device" {
		link.Kind = kind
	}
	var err error
	if link.Addresses, err = h.addresses(l); err != nil {
		return Link{}, fmt.Errorf("addresses of %s: %w", name, linkError(err))
	}
	link.Driver = h.driver(attrs.Name)
	link.TxChecksum = h.offload(attrs.Name, unix.ETHTOOL_GTXCSUM)
	link.GRO = h.offload(attrs.Name, unix.ETHTOOL_GGRO)
	link.StripsVLAN = h.flag(attrs.Name, flagRxVLAN)
	link.LRO = h.flag(attrs.Name, flagLRO)
	link.XDP, link.XDPSend = h.xdpSupport(attrs.Index, link.Driver)
	return link, nil
}

func (h *Handle) addresses(l netlink.Link) ([]netip.Prefix, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.route.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			ones, _ := a.Mask.Size()
			prefixes = append(prefixes, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return prefixes, nil
}

// dumpAttempts bounds the repetitions of a listing that a change interrupted.
const dumpAttempts = 10

// dump lists again what changed while it was listed.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpAttempts {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// linkError turns the several ways of saying "not there" into ErrNoLink.
func linkError(err error) error {
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) {
		return ErrNoLink
	}
	return err
}
