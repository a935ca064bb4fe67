package e2e

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// checkKinds are all kinds of checks, of a service on that port, at a real server of the backends.
var checkKinds = []struct {
	name  string
	port  int
	proto string
	check string
}{
	{"tcp", 8001, "tcp", "tcp: true, port: 80"},
	{"http", 80, "tcp", "http: /name"},
	{"https", 443, "tcp", "https: /"},
	{"udp", 7, "udp", "udp: hello"},
	{"dns", 53, "udp", "dns: www.example.org"},
	{"icmp", 8002, "tcp", "icmp: true"},
}

// checkServices are a service for each kind and address, by mode.
func checkServices(via string, modes ...string) string {
	config := "interfaces:\n  client0: {path: tc}\n  b1: {path: tc}\n  b2: {path: xdp}\nfilter: {default: drop}\nservices:\n"
	for _, kind := range checkKinds {
		for _, f := range forwards {
			for _, mode := range modes {
				if f.mode != mode {
					continue
				}
				config += fmt.Sprintf("  %s-%s:\n    address: %q\n    port: %d\n    proto: %s\n    forward: %s\n", kind.name, f.name, f.address, kind.port, kind.proto, mode)
				config += fmt.Sprintf("    health: {%s, via: %s, every: 300ms, timeout: 250ms, up: 1, down: 1}\n", kind.check, via)
				config += fmt.Sprintf("    backends: [{name: b1, address: %q}, {name: b2, address: %q}]\n", fmt.Sprintf(f.backend, 1), fmt.Sprintf(f.backend, 2))
			}
		}
	}
	return config
}

// startServers answers all kinds of checks on every backend, at its own addresses and at those of services.
func (w *world) startServers() {
	w.Helper()
	w.startWeb()
	for i, node := range w.backends {
		own := addresses(fmt.Sprintf("10.0.%d.11/32", i+1), fmt.Sprintf("2001:db8:%d::11/128", i+1))
		for _, address := range append(own, serviceAddresses...) {
			w.answerUDP(node, netip.AddrPortFrom(address.Addr(), 7), func(packet []byte) []byte { return packet })
			w.answerUDP(node, netip.AddrPortFrom(address.Addr(), 53), answerDNS)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.Listener.Close()
		var err error
		server.Listener, err = node.Listen("tcp", ":443")
		w.must(err)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // checks may refuse its certificate
		server.StartTLS()
		w.Cleanup(server.Close)
	}
}

func (w *world) answerUDP(node *testnet.Node, at netip.AddrPort, answer func(packet []byte) []byte) {
	w.Helper()
	var conn net.PacketConn
	w.must(node.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", at.String())
		return err
	}))
	w.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(answer(packet[:n]), from)
		}
	}()
}

func answerDNS(packet []byte) []byte {
	var message dnsmessage.Message
	if message.Unpack(packet) != nil {
		return nil
	}
	message.Response = true
	answer, _ := message.Pack()
	return answer
}

// startDecap makes one backend unwrap.
func (w *world) startDecap(node *testnet.Node) *testnet.Process {
	w.Helper()
	var out strings.Builder
	cmd := exec.Command(binary, "decap", "-i", "eth0")
	cmd.Stdout, cmd.Stderr = &out, &out
	process, err := node.Start(cmd)
	w.must(err)
	return process
}

// wantStates waits until each backend's state is as want says of its service and name.
func (w *world) wantStates(want func(service, backend string) string) {
	w.Helper()
	w.until("states", func() error {
		list, err := w.api.Backends(w.Context())
		if err != nil {
			return err
		}
		var wrong []error
		for _, b := range list {
			if state := want(b.Service, b.Name); b.State != state {
				wrong = append(wrong, fmt.Errorf("%s/%s is %s (%s), not %s", b.Service, b.Name, b.State, b.Why, state))
			}
		}
		return errors.Join(wrong...)
	})
}

// TestChecksThroughServiceAddress checks backends by every kind of check and mode. b2 doesn't unwrap: its servers are well, as checks of
// its own address say, but packets of a service that is wrapped don't get to them.
func TestChecksThroughServiceAddress(t *testing.T) {
	w := newWorld(t, 2)
	w.prepareXDP()
	w.startServers()
	decap := w.startDecap(w.backends[0])
	w.start(checkServices("service", "dsr", "ipip", "gue"))
	unwraps := func(service, backend string) string {
		if strings.Contains(service, "dsr") || backend == "b1" {
			return "up"
		}
		return "down"
	}
	w.wantStates(unwraps)
	list, err := w.api.Backends(t.Context())
	w.must(err)
	for _, b := range list {
		if b.State == "down" && b.Why != "no answer within 250ms, through the service's address" {
			t.Errorf("%s/%s is down: %s", b.Service, b.Name, b.Why)
		}
	}
	if replies := w.status().Reasons["health-reply"]; replies.Packets == 0 {
		t.Error("no answer was passed as health-reply, and the default is drop")
	}

	w.apply(checkServices("backend", "dsr", "ipip", "gue"))
	w.wantStates(func(string, string) string { return "up" })
	if rules := w.try("ip", "rule").stdout; strings.Contains(rules, "fwmark") {
		t.Errorf("a rule stayed that nothing needs:\n%s", rules)
	}

	w.apply(checkServices("service", "ipip"))
	w.wantStates(unwraps)
	w.startDecap(w.backends[1])
	w.wantStates(func(string, string) string { return "up" })
	w.must(decap.Stop(patience))
	w.wantStates(func(_, backend string) string { return map[string]string{"b1": "down", "b2": "up"}[backend] })
	w.until("the event", func() error {
		out, err := w.gardu("events", "kind down and service http-ipip4in4 and backend b1")
		if err == nil && !strings.Contains(out, "no answer within 250ms, through the service's address") {
			err = fmt.Errorf("it is not in %q", out)
		}
		return err
	})
}

// thousandBackends are two services by ipip, checked by TCP and by HTTP through their addresses: a thousand backends in one node, and one in another.
func thousandBackends() (config string, addresses map[netip.Addr]bool) {
	var b strings.Builder
	addresses = map[netip.Addr]bool{}
	b.WriteString("interfaces: {client0: {path: tc}, b1: {path: tc}, b2: {path: tc}}\nfilter: {default: drop}\nservices:\n")
	for i, check := range []string{"tcp: true", "http: /name"} {
		fmt.Fprintf(&b, "  s%d:\n    address: 192.0.2.1%d\n    port: 80\n    proto: tcp\n    forward: ipip\n", i, i)
		fmt.Fprintf(&b, "    health: {%s, every: 5s, timeout: 4s, up: 1, down: 3}\n    backends:\n", check)
		for k := range 500 {
			address := netip.AddrFrom4([4]byte{10, 1, byte(2*i + k>>8), byte(k)})
			addresses[address] = true
			fmt.Fprintf(&b, "      - {name: b%d, address: %s}\n", k, address)
		}
	}
	b.WriteString("      - {name: dead, address: 10.0.2.11}\n")
	return b.String(), addresses
}

// TestThousandBackendsThroughServiceAddress: each of a thousand backends is sent checks of its own, and that one of them is dead is told of it and of
// no other. The dead one is well but for that it doesn't unwrap; once it does, it is up.
func TestThousandBackendsThroughServiceAddress(t *testing.T) {
	w := newWorld(t, 2)
	w.startWeb()
	w.must(w.box.AddRoute(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.0.1.11")))
	w.startDecap(w.backends[0])
	next := w.arriving(w.backends[0])
	config, unasked := thousandBackends()
	w.start(config)
	w.wantStates(func(_, backend string) string {
		if backend == "dead" {
			return "down"
		}
		return "up"
	})
	w.until("packets for each backend", func() error {
		for frame := next(); frame != nil; frame = next() {
			if len(frame) >= 34 && frame[23] == unix.IPPROTO_IPIP {
				delete(unasked, netip.AddrFrom4([4]byte(frame[30:34])))
			}
		}
		if len(unasked) > 0 {
			return fmt.Errorf("none for %d", len(unasked))
		}
		return nil
	})
	w.until("the event", func() error {
		out, err := w.gardu("events", "kind down and backend dead")
		if err == nil && !strings.Contains(out, "no answer within 4s, through the service's address") {
			err = fmt.Errorf("it is not in %q", out)
		}
		return err
	})
	w.startDecap(w.backends[1])
	w.wantStates(func(string, string) string { return "up" })
}

// TestChecksOfOwnAddress: the kernel would take no answer from an address that is its own, so that is said, and the backend itself is asked.
func TestChecksOfOwnAddress(t *testing.T) {
	w := newWorld(t, 2)
	w.startServers()
	w.start(checkServices("service", "ipip"))
	w.wantStates(func(string, string) string { return "down" })
	for _, address := range serviceAddresses {
		w.must(w.box.AddAddress("lo", address))
	}
	w.wantStates(func(string, string) string { return "up" })
	const want = "health checks of service tcp-ipip4in4 go to the backends' own addresses, and don't tell whether its packets get there: " +
		"192.0.2.11 is an address of this machine, and the kernel takes no answers from such"
	if warnings := w.status().Warnings; !slices.Contains(warnings, want) {
		t.Errorf("not among the warnings: %q", warnings)
	}
	w.must(w.daemon.Stop(patience))
	if rules := w.try("ip", "rule").stdout; strings.Contains(rules, "fwmark") {
		t.Errorf("a rule stayed after the daemon:\n%s", rules)
	}
}

// TestChecksOfNames: names in checks are said to backends and looked up by nobody, so check can't know that they are wrong; status and events
// tell what backends make of them.
func TestChecksOfNames(t *testing.T) {
	w := newWorld(t, 1)
	w.startServers()
	w.answerUDP(w.backends[0], netip.MustParseAddrPort("10.0.1.11:5353"), func(packet []byte) []byte {
		answer := answerDNS(packet)
		answer[3] |= byte(dnsmessage.RCodeNameError)
		return answer
	})
	const config = `interfaces: {client0: {path: tc}}
services:
  tls:
    address: 192.0.2.10
    port: 443
    proto: tcp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}]
    health: {https: /, tls-name: nothing.invalid, via: backend, every: 300ms, timeout: 250ms, up: 1, down: 1}
  dns:
    address: 192.0.2.10
    port: 53
    proto: udp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}]
    health: {dns: nothing.invalid, port: 5353, via: backend, every: 300ms, timeout: 250ms, up: 1, down: 1}
`
	w.must(os.WriteFile(w.path("names.yaml"), []byte(config), 0o644))
	if r := w.try(binary, "check", w.path("names.yaml")); r.code != 0 || strings.Contains(r.stderr, "warning") {
		t.Errorf("check: %+v", r)
	}
	w.start(config)
	for service, why := range map[string]string{"tls": "tls: failed to verify certificate: x509: certificate is valid for example.com, *.example.com, not nothing.invalid", "dns": "DNS NXDOMAIN"} {
		told := service + "/b1 is down: " + why
		w.until(told, func() error { return w.warns(told, true) })
		w.until("an event: "+why, func() error {
			out, err := w.gardu("events", "kind down and service "+service)
			if err == nil && !strings.Contains(out, why) {
				err = fmt.Errorf("it is not in %q", out)
			}
			return err
		})
	}
}

func (w *world) status() api.Status {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status
}
