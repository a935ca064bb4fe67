package abi

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// Addr reads an address as the border structs hold it: 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. The
// family travels beside it: an IPv6 packet may carry an IPv4-mapped address, which stays IPv6.
func Addr(raw [16]byte, family Family) netip.Addr {
	addr := netip.AddrFrom16(raw)
	if family == FamilyV4 {
		return addr.Unmap()
	}
	return addr
}

// PutAddr is the inverse of Addr.
func PutAddr(addr netip.Addr) ([16]byte, Family) {
	if addr.Is4() {
		return addr.As16(), FamilyV4
	}
	return addr.As16(), FamilyV6
}

// Ntohs turns a port as the border structs hold it (a uint16 read from network-order bytes) into its number.
func Ntohs(be uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], be)
	return binary.BigEndian.Uint16(b[:])
}

// Htons is the inverse of Ntohs.
func Htons(host uint16) uint16 { return Ntohs(host) }

// MapHelp says who writes a map of the programs, who reads it, and what happens when it is full; "" for other maps.
func MapHelp(name string) string { return mapHelp[name] }

// MapNames are the maps of bpf/maps.h, sorted.
func MapNames() []string { return slices.Sorted(maps.Keys(mapHelp)) }
