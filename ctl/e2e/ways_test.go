package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"gardu/ctl/api"
)

// lostBackends have one that is reached, one that nobody answers for, one without a route, and a way too narrow for IPv6.
const lostBackends = `interfaces:
  client0: {path: tc}
  b1: {path: tc}
services:
  web:
    address: 192.0.2.11
    port: 80
    proto: tcp
    forward: ipip
    backends:
      - {name: b1, address: 10.0.1.11}
      - {name: silent, address: 10.0.1.99}
      - {name: away, address: 203.0.113.77}
  web6: {address: "2001:db8:10::11", port: 80, proto: tcp, forward: ipip, backends: [{name: b1, address: "2001:db8:1::11"}]}
`

// TestLostBackends tells of backends that packets don't get to: check what can be known before, status and events what shows then, and
// that it is over.
func TestLostBackends(t *testing.T) {
	w := newBoxAlone(t)
	w.innerMTU = 1300
	w.connectClient()
	w.addBackend(1)
	file := w.path("lost.yaml")
	w.must(os.WriteFile(file, []byte(lostBackends), 0o644))
	checked := w.try(binary, "check", file)
	noRoute := "lost.yaml:13:9: warning: no packet gets from this machine to away of web: network is unreachable"
	narrow4 := "lost.yaml:11:9: warning: the way to b1 of web is narrow: packets over 1280 bytes don't fit: ipip adds 20, and the MTU is 1300"
	narrow6 := "IPv6 needs 1280 bytes inside, and there is room for 1260: ipip adds 40, and the MTU is 1300; it takes one of 1320"
	for _, want := range []string{noRoute, narrow4, "warning: the way to b1 of web6 is narrow: " + narrow6} {
		if !strings.Contains(checked.stderr, want) {
			t.Errorf("check: no %q in\n%s", want, checked.stderr)
		}
	}
	if n := strings.Count(checked.stderr, "warning:"); n != 3 || checked.code != 0 {
		t.Errorf("check: exit %d, %d warnings:\n%s", checked.code, n, checked.stderr)
	}

	w.start(lostBackends)
	silent, away := "the way to backend web/silent is not known", "the way to backend web/away is not known"
	for _, want := range []string{silent, away, "the way to backend web6/b1 is too narrow: " + narrow6} {
		w.until(want, func() error { return w.warns(want, true) })
	}
	w.until("events of both", func() error { return w.told(api.EventFault, "silent", "away") })
	if n := w.packets("no-next-hop"); n != 0 {
		t.Errorf("%d packets were sent nowhere before anybody asked", n)
	}

	w.must(w.backends[0].AddAddress("eth0", netip.MustParsePrefix("10.0.1.99/24")))
	kick, err := w.box.Dial(t.Context(), "udp", "10.0.1.99:9") // the kernel asks for it again now, and not in some seconds
	w.must(err)
	defer kick.Close()
	_, err = kick.Write([]byte("!"))
	w.must(err)
	w.must(w.box.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("10.0.1.11")))
	for _, over := range []string{silent, away} {
		w.until("no longer: "+over, func() error { return w.warns(over, false) })
	}
	w.until("events of their end", func() error { return w.told(api.EventMended, "silent", "away") })
}

// told says whether there was an event of that kind about each backend of web.
func (w *world) told(kind string, backends ...string) error {
	told := make(map[string]bool)
	err := w.api.Events(w.Context(), api.EventQuery{}, func(e api.Event) error {
		told[e.Kind+" "+e.Service+"/"+e.Backend] = true
		return nil
	})
	for _, backend := range backends {
		if !told[kind+" web/"+backend] {
			return fmt.Errorf("%s of %s isn't among %v", kind, backend, told)
		}
	}
	return err
}
