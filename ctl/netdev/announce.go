package netdev

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Announce tells everybody on a link that an address is at its MAC: by an ARP announcement (RFC 5227, section 2.3), or an
// unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Who knows the address at another MAC takes over this one.
func (h *Handle) Announce(link Link, address netip.Addr) error {
	if h.packet < 0 {
		return fmt.Errorf("announce %s on %s: %w", address, link.Name, h.refused)
	}
	frame, protocol := advertisement(link.MAC, address), uint16(unix.ETH_P_IPV6)
	if address.Is4() {
		frame, protocol = arpAnnouncement(link.MAC, address), unix.ETH_P_ARP
	}
	to := &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, protocol)), Halen: 6}
	if err := unix.Sendto(h.packet, frame, 0, to); err != nil {
		return fmt.Errorf("announce %s on %s: %w", address, link.Name, linkError(err))
	}
	return nil
}

func arpAnnouncement(mac [6]byte, address netip.Addr) []byte {
	frame := ethernet([6]byte{255, 255, 255, 255, 255, 255}, mac, unix.ETH_P_ARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	frame = append(append(frame, mac[:]...), address.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), address.AsSlice()...)
}

func advertisement(mac [6]byte, address netip.Addr) []byte {
	const (
		icmpv6, hopLimit         = 58, 255
		advert, targetLink, size = 136, 2, 32
		override                 = 0x20
	)
	message := []byte{advert, 0, 0, 0, override, 0, 0, 0}
	message = append(message, address.AsSlice()...)
	message = append(append(message, targetLink, 1), mac[:]...)
	everybody := netip.IPv6LinkLocalAllNodes().AsSlice()
	sum := uint32(icmpv6 + size)
	for _, part := range [][]byte{address.AsSlice(), everybody, message} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum))
	frame := ethernet([6]byte{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	frame = append(frame, 0x60, 0, 0, 0, 0, size, icmpv6, hopLimit)
	frame = append(append(frame, address.AsSlice()...), everybody...)
	return append(frame, message...)
}

func ethernet(to, from [6]byte, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(to[:], from[:]...), kind)
}
