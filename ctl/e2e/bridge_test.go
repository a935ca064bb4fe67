package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"gardu/ctl/testnet"
)

const bridgedServices = `
filter: {rules: [{name: closed, match: {proto: tcp, dport: 81}, action: drop}]}
services:
  routed: {address: 192.0.2.10, port: 80, proto: tcp, forward: ipip, backends: [{name: b1, address: 198.51.100.11}]}
  near: {address: 198.51.100.200, port: 80, proto: tcp, forward: dsr, backends: [{name: b1, address: 198.51.100.11}]}
`

// TestBridges holds what docs/limits.md says of bridges, and of what the balancer sends itself. Client and backend are on the same network, which is a
// bridge of the box:
//
//	client eth0 198.51.100.10 --- client0 \
//	                                       br0 198.51.100.1
//	b1     eth0 198.51.100.11 --- b1      /
func TestBridges(t *testing.T) {
	for _, c := range []struct {
		interfaces string
		bridged    bool // rules see what goes from port to port
		lost       bool // the service's packets
	}{
		{interfaces: "client0: {path: tc}, b1: {path: tc}", bridged: true},
		{interfaces: "client0: {path: xdp-generic}, b1: {path: xdp-generic}", bridged: true},
		{interfaces: "br0: {path: auto}"},
		{interfaces: "client0: {path: xdp}, b1: {path: xdp}", bridged: true, lost: true},
	} {
		t.Run(c.interfaces, func(t *testing.T) {
			w := newBoxAlone(t)
			w.bridge()
			w.prepareXDP()
			w.runXDP(w.client, "eth0")
			w.startWeb()
			w.serve(w.backends[0], ":81")
			w.decap()
			w.start("interfaces: {" + c.interfaces + "}" + bridgedServices)
			w.ready()
			if reached := w.answers("198.51.100.11:80"); reached != nil {
				t.Errorf("what is no service's: %v", reached)
			}
			if reached := w.answers("198.51.100.11:81"); (reached != nil) != c.bridged {
				t.Errorf("what a rule drops: %v", reached)
			}
			for _, service := range []string{"192.0.2.10", "198.51.100.200"} {
				before := w.forwarded()
				if err := w.answers(service); (err != nil) != c.lost {
					t.Errorf("%s: %v", service, err)
				}
				if w.forwarded() == before {
					t.Errorf("%s: nothing was forwarded", service)
				}
				before = w.forwarded()
				if _, err := w.box.Output(w.Context(), "curl", "-sS", "--max-time", "1", "http://"+service); err == nil || w.forwarded() != before {
					t.Errorf("the box reached %s, %v", service, err)
				}
			}
			text := strings.Join(w.status().Warnings, "\n")
			if told := strings.Contains(text, "packets that XDP sent to br0 were lost"); told != c.lost {
				t.Errorf("status warns: %q", text)
			}
			if told := strings.Contains(w.try(binary, "doctor", w.path("gardu.yaml")).stdout, "what XDP programs send out of it is lost"); told != c.lost {
				t.Error("doctor doesn't tell")
			}
		})
	}
}

// bridge makes client and backend ports of a bridge of the box.
func (w *world) bridge() {
	w.Helper()
	ip := func(words string) {
		w.Helper()
		_, err := w.box.Output(w.Context(), "ip", strings.Fields(words)...)
		w.must(err)
	}
	ip("link add br0 type bridge")
	ip("address add 198.51.100.1/24 dev br0")
	ip("link set br0 up")
	backend := w.node("b1")
	w.backends = append(w.backends, backend)
	for _, plug := range []struct {
		node       *testnet.Node
		port, host string
	}{{w.client, "client0", "198.51.100.10/24"}, {backend, "b1", "198.51.100.11/24"}} {
		w.must(w.network.Connect(testnet.End{Node: plug.node, Name: "eth0", Addresses: addresses(plug.host)}, testnet.End{Node: w.box, Name: plug.port}, innerMTU))
		ip("link set " + plug.port + " master br0")
		w.must(plug.node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	}
	for key, value := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
		w.must(backend.SetSysctl("net.ipv4.conf.all."+key, value))
	}
	for _, address := range addresses("192.0.2.10/32", "198.51.100.200/32") {
		w.must(backend.AddAddress("lo", address))
	}
}
