package daemon

import (
	"net/netip"
	"testing"

	"gardu/ctl/model"
)

// Each address of a small prefix is told of once, those of a large one are not.
func TestAnnouncedAddresses(t *testing.T) {
	services := []model.Service{
		{Address: netip.MustParseAddr("192.0.2.1"), Prefix: netip.MustParsePrefix("192.0.2.0/28"), ARP: true},
		{Address: netip.MustParseAddr("192.0.2.3"), ARP: true},
		{Address: netip.MustParseAddr("198.51.100.1"), Prefix: netip.MustParsePrefix("198.51.100.0/27"), ARP: true},
		{Address: netip.MustParseAddr("2001:db8::1"), Prefix: netip.MustParsePrefix("2001:db8::/64"), ARP: true},
		{Address: netip.MustParseAddr("2001:db8::11"), Prefix: netip.MustParsePrefix("2001:db8::10/124"), ARP: true},
		{Address: netip.MustParseAddr("203.0.113.1")},
	}
	got := announced(services)
	if len(got) != 32 || got[0] != netip.MustParseAddr("192.0.2.0") || got[15] != netip.MustParseAddr("192.0.2.15") ||
		got[31] != netip.MustParseAddr("2001:db8::1f") {
		t.Errorf("%d addresses: %v", len(got), got)
	}
}
