package lb

import (
	"fmt"
	"net/netip"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// ModeInfo describes one way in which packets reach a backend.
type ModeInfo struct {
	Name   model.Mode
	ABI    abi.Mode
	Help   string
	Mixed  bool                 // a service of one family can have backends of the other
	Checks bool                 // answers come from the service's address, so a health check can go the same way
	Header [abi.FamilyCount]int // bytes added to the packet, by the family of the backend's address
}

// ModeNAT is the mode that has a pool, and backends with ports of their own.
const ModeNAT model.Mode = "nat"

// Modes returns a row for each mode of bpf/modes.h, in its order.
func Modes() []ModeInfo {
	return []ModeInfo{
		{
			Name: "dsr", ABI: abi.ModeDsr,
			Help:   "rewrite the destination MAC; the backend owns the service address",
			Checks: true,
		},
		{
			Name: "ipip", ABI: abi.ModeIpip,
			Help:   "wrap in IPv4 or IPv6 (RFC 2003, 2473, 4213); the backend unwraps",
			Mixed:  true,
			Checks: true,
			Header: [abi.FamilyCount]int{abi.FamilyV4: 20, abi.FamilyV6: 40},
		},
		{
			Name: "gue", ABI: abi.ModeGue,
			Help:   "wrap in UDP and IPv4 or IPv6 (GUE variant 1, port 6080); the backend unwraps",
			Mixed:  true,
			Checks: true,
			Header: [abi.FamilyCount]int{abi.FamilyV4: 28, abi.FamilyV6: 48},
		},
		{
			Name: ModeNAT, ABI: abi.ModeNat,
			Help: "translate addresses and ports, and the answers back; the backend sees gardu's address",
		},
	}
}

// FindMode returns the row of that name.
func FindMode(name model.Mode) (ModeInfo, bool) {
	for _, mode := range Modes() {
		if mode.Name == name {
			return mode, true
		}
	}
	return ModeInfo{}, false
}

// Carries tells whether packets for service can reach backend in this mode.
func (m ModeInfo) Carries(service, backend netip.Addr) bool {
	return m.Mixed || service.Is4() == backend.Is4()
}

// LeastIPv6 is what every way carries of IPv6 (RFC 8200, section 5): no sender makes its packets smaller.
const LeastIPv6 = 1280

// Narrow says what doesn't fit the way to a backend with that MTU: IPv6, or packets of clients of up to `largest` bytes of IP. "": all fits.
func (m ModeInfo) Narrow(service, backend netip.Addr, mtu, largest int) string {
	adds := m.Overhead(backend)
	room := mtu - adds
	switch {
	case mtu == 0:
		return ""
	case service.Is6() && room < LeastIPv6:
		return fmt.Sprintf("IPv6 needs %d bytes inside, and there is room for %d: %s adds %d, and the MTU is %d; it takes one of %d",
			LeastIPv6, max(room, 0), m.Name, adds, mtu, LeastIPv6+adds)
	case room < largest:
		return fmt.Sprintf("packets over %d bytes don't fit: %s adds %d, and the MTU is %d", max(room, 0), m.Name, adds, mtu)
	}
	return ""
}

// Overhead is how many bytes the packet grows on the way to backend.
func (m ModeInfo) Overhead(backend netip.Addr) int {
	_, family := abi.PutAddr(backend)
	return m.Header[family]
}
