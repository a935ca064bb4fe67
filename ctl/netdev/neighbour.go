package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// protocol marks the neighbours that Keep keeps resolved, so that ReleaseAll finds them after a crash. `ip neigh`
// shows it as "proto 103".
const protocol = 'g'

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
	req := h.request(unix.RTM_GETNEIGH, 0)
	req.AddData(&netlink.Ndmsg{Family: familyOf(addr), Index: uint32(ifindex)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, addr.AsSlice()))
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
		err = h.manage(hop.Ifindex, hop.Neighbour, netlink.NTF_EXT_MANAGED, protocol)
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
		err = h.release(hop.Ifindex, hop.Neighbour)
	}
	if err != nil && !errors.Is(err, ErrNoLink) {
		return fmt.Errorf("release neighbour %s: %w", hop.Neighbour, err)
	}
	return nil
}

// ReleaseAll undoes every Keep in the namespace, also those of a process that died.
func (h *Handle) ReleaseAll() error {
	replies, err := dump(func() ([][]byte, error) {
		req := h.request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
		req.AddData(&netlink.Ndmsg{})
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	})
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	var errs []error
	for _, reply := range replies {
		entry, err := netlink.NeighDeserialize(reply)
		if err != nil || entry.FlagsExt&netlink.NTF_EXT_MANAGED == 0 || protocolOf(reply) != protocol {
			continue
		}
		addr, ok := netip.AddrFromSlice(entry.IP)
		if !ok {
			continue
		}
		if err := h.release(entry.LinkIndex, addr); err != nil && !errors.Is(err, ErrNoLink) {
			errs = append(errs, fmt.Errorf("release neighbour %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Handle) release(ifindex int, addr netip.Addr) error {
	return h.manage(ifindex, addr, 0, unix.RTPROT_KERNEL)
}

// manage sets or clears the flag by which the kernel refreshes a neighbour by itself, and has it resolved now. The
// state NONE and the flag USE keep what is known of an entry.
func (h *Handle) manage(ifindex int, addr netip.Addr, flagsExt uint32, protocol uint8) error {
	req := h.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: familyOf(addr), Index: uint32(ifindex), State: unix.NUD_NONE, Flags: netlink.NTF_USE})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, []byte{protocol}))
	req.AddData(nl.NewRtAttr(netlink.NDA_FLAGS_EXT, nl.Uint32Attr(flagsExt)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return linkError(err)
}

// protocolOf returns who made a neighbour entry; 0 when it doesn't say.
func protocolOf(message []byte) uint8 {
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofNdMsg:])
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type == netlink.NDA_PROTOCOL && len(a.Value) > 0 {
			return a.Value[0]
		}
	}
	return 0
}

func familyOf(addr netip.Addr) uint8 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
