package lint

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"gardu/ctl/config"
)

func TestWays(t *testing.T) {
	mtus := map[string]int{"10.0.0.11": 1500, "10.0.0.12": 1600, "10.0.0.13": 1290, "10.0.0.14": 9000}
	room := func(to netip.Addr) (int, error) {
		if mtu := mtus[to.String()]; mtu != 0 {
			return mtu, nil
		}
		return 0, errors.New("network is unreachable")
	}
	for _, c := range []struct{ service, backends, want string }{
		{"address: 192.0.2.10, forward: ipip", "12 14", ""},
		{"address: 192.0.2.10, forward: dsr", "11 12", ""},
		{"address: 192.0.2.10, forward: ipip", "12 11", "3:132: warning: the way to b11 of web is narrow: packets over 1480 bytes don't fit: ipip adds 20, and the MTU is 1500"},
		{"address: 192.0.2.10, forward: gue", "11 13", "the way to b13 of web is narrow: packets over 1262 bytes don't fit: gue adds 28, and the MTU is 1290"},
		{`address: "2001:db8::10", forward: ipip`, "13", "the way to b13 of web is narrow: IPv6 needs 1280 bytes inside, and there is room for 1270: ipip adds 20, and the MTU is 1290; it takes one of 1300"},
		{"address: 192.0.2.10, forward: nat", "12 99", "no packet gets from this machine to b99 of web: network is unreachable"},
	} {
		var backends string
		for _, n := range strings.Fields(c.backends) {
			backends += "{name: b" + n + ", address: 10.0.0." + n + "}, "
		}
		text := []byte("interfaces: {eth0: {}}\nservices:\n  web: {" + c.service + ", port: 80, proto: tcp, health: {tcp: true}, backends: [" + backends + "]}\n")
		snapshot, _, err := config.Parse("gardu.yaml", text, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, w := range Ways(snapshot, room, 1500, text) {
			got += w.String()
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || strings.Count(got, "warning") > 1 {
			t.Errorf("%s: %q, want %q", text, got, c.want)
		}
	}
}
