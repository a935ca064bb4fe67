package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gardu/ctl/netdev"
)

// Node is a network namespace.
type Node struct {
	name      string
	namespace string
	ns        netns.NsHandle

	mu        sync.Mutex
	processes []*Process
}

// Name is the node's name in its network.
func (n *Node) Name() string { return n.name }

// Namespace is the name by which `ip netns exec` finds the node.
func (n *Node) Namespace() string { return n.namespace }

// Do calls f on a thread that is in the node's namespace: sockets that f opens and processes that it starts belong to
// the node. f must do so itself, not on another goroutine.
func (n *Node) Do(f func() error) error {
	return onNewThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.namespace, err)
		}
		return f()
	})
}

// onNewThread runs f on a thread that is thrown away after it, since a thread that was in another namespace must never
// serve other goroutines.
func onNewThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// Dial connects from the node.
func (n *Node) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens for streams in the node.
func (n *Node) Listen(network, address string) (listener net.Listener, err error) {
	err = n.Do(func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// AddAddress gives an interface an address.
func (n *Node) AddAddress(ifname string, addr netip.Prefix) error {
	err := n.onLink(ifname, func(link netlink.Link) error {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrAdd(link, a)
	})
	return n.wrap("add address "+addr.String()+" to "+ifname, err)
}

// AddRoute sends packets for dst by a neighbour.
func (n *Node) AddRoute(dst netip.Prefix, via netip.Addr) error {
	err := n.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			Gw:  via.AsSlice(),
		})
	})
	return n.wrap("add route to "+dst.String(), err)
}

// AddVLAN makes the interface of a VLAN on another one, up: NAME.ID, as others call it too. Without 8021q in the kernel it can't.
func (n *Node) AddVLAN(parent string, id int) (ifname string, err error) {
	ifname = fmt.Sprintf("%s.%d", parent, id)
	err = n.onLink(parent, func(link netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = ifname, link.Attrs().Index
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	})
	if err != nil {
		return "", n.wrap("add "+ifname, err)
	}
	return ifname, n.up(ifname)
}

// DeleteLink removes an interface, and the other end of its pair.
func (n *Node) DeleteLink(ifname string) error {
	return n.wrap("delete "+ifname, n.onLink(ifname, netlink.LinkDel))
}

// SetTxChecksum turns the checksum offload of an interface's sent packets on or off. It must be off where a program
// at the peer forwards by XDP.
func (n *Node) SetTxChecksum(ifname string, on bool) error {
	return n.withNetdev(func(h *netdev.Handle) error { return h.SetTxChecksum(ifname, on) })
}

// SetGRO turns the bundling of received segments on or off. It must be on where a program at the peer sends by XDP.
func (n *Node) SetGRO(ifname string, on bool) error {
	return n.withNetdev(func(h *netdev.Handle) error { return h.SetGRO(ifname, on) })
}

func (n *Node) withNetdev(f func(*netdev.Handle) error) error {
	err := n.Do(func() error {
		h, err := netdev.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
	return n.wrap("set offload", err)
}

// SetSysctl sets one of the namespace's settings, like "net.ipv4.ip_forward".
func (n *Node) SetSysctl(key, value string) error {
	err := n.Do(func() error { return sysctl(key, value) })
	return n.wrap("sysctl "+key, err)
}

func sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	return os.WriteFile(path, []byte(value), 0)
}

// prepare runs in the new namespace.
func (n *Node) prepare() error {
	settings := map[string]string{
		"net.ipv4.conf.all.rp_filter":        "0",
		"net.ipv4.conf.default.rp_filter":    "0",
		"net.ipv6.conf.all.accept_dad":       "0",
		"net.ipv6.conf.default.accept_dad":   "0",
		"net.ipv6.conf.default.accept_ra":    "0",
		"net.ipv6.conf.all.disable_ipv6":     "0",
		"net.ipv6.conf.default.disable_ipv6": "0",
	}
	for key, value := range settings {
		if err := sysctl(key, value); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func (n *Node) up(ifname string) error {
	return n.wrap("set up "+ifname, n.onLink(ifname, netlink.LinkSetUp))
}

func (n *Node) onLink(ifname string, f func(netlink.Link) error) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return f(link)
	})
}

func (n *Node) wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.name, what, err)
	}
	return nil
}

func (n *Node) close() error {
	n.mu.Lock()
	processes := n.processes
	n.mu.Unlock()
	for _, p := range processes {
		p.Kill()
	}
	err := errors.Join(n.ns.Close(), netns.DeleteNamed(n.namespace))
	return n.wrap("delete namespace", err)
}
