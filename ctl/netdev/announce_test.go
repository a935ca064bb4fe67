package netdev_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestAnnounce(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"192.0.2.77", "2001:db8::77"} {
		ip := func(args ...string) string {
			out, err := l.peer.Output(t.Context(), "ip", args...)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		ip("neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "reachable")
		if err := l.handle.Announce(link, netip.MustParseAddr(address)); err != nil {
			t.Fatal(err)
		}
		until(t, "the peer's table has "+address, func() bool {
			return strings.Contains(ip("neigh", "show", address), net.HardwareAddr(link.MAC[:]).String())
		})
	}
}
