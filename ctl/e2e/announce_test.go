package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gardu/ctl/testnet"
)

// staleMAC is where peers believe service addresses to be.
const staleMAC = "02:00:00:00:00:99"

const announceServices = `interfaces:
  client0: {path: tc}
  b1: {path: xdp}
services:
`

func announcedService(name, address string, arp bool) string {
	backend := "10.0.1.11"
	if strings.Contains(address, ":") {
		backend = "2001:db8:1::11"
	}
	return fmt.Sprintf("  %s: {address: %q, port: 80, proto: tcp, forward: ipip, announce: {arp: %t}, backends: [{name: b1, address: %q}]}\n",
		name, address, arp, backend)
}

// neighbours is a node's table.
func (w *world) neighbours(node *testnet.Node, address string) string {
	w.Helper()
	out, err := node.Output(w.Context(), "ip", "neigh", "show", address)
	w.must(err)
	return string(out)
}

// wantMoved waits until a node's table has an address at the box's interface.
func (w *world) wantMoved(node *testnet.Node, address, boxInterface string) {
	w.Helper()
	var mac string
	w.must(w.box.Do(func() error {
		link, err := net.InterfaceByName(boxInterface)
		if err == nil {
			mac = link.HardwareAddr.String()
		}
		return err
	}))
	w.until(address+" announced to "+node.Name(), func() error {
		if table := w.neighbours(node, address); !strings.Contains(table, mac) {
			return fmt.Errorf("the table says %q", table)
		}
		return nil
	})
}

// TestAnnouncements: peers that have service addresses at another MAC, as after a failover, learn of the new one without asking: on start,
// and when a service appears. Only where that is the address's network, and not of services that don't want it.
func TestAnnouncements(t *testing.T) {
	w := newWorld(t, 1)
	b1 := w.backends[0]
	const inside, inside6, outside, later, silent = "198.51.100.200", "2001:db8:c::200", "192.0.2.99", "198.51.100.201", "198.51.100.202"
	for _, node := range []*testnet.Node{w.client, b1} {
		for _, address := range []string{inside, inside6, outside, later, silent} {
			_, err := node.Output(t.Context(), "ip", "neigh", "replace", address, "lladdr", staleMAC, "dev", "eth0", "nud", "stale")
			w.must(err)
		}
	}
	config := announceServices + announcedService("silent", silent, false) + announcedService("inside", inside, true) +
		announcedService("inside6", inside6, true) + announcedService("outside", outside, true)
	w.start(config)
	w.wantMoved(w.client, inside, "client0")
	w.wantMoved(w.client, inside6, "client0")
	w.wantMoved(w.client, outside, "client0")
	w.wantMoved(b1, outside, "b1")
	w.apply(config + announcedService("later", later, true))
	w.wantMoved(w.client, later, "client0")
	for _, address := range []string{inside, inside6, later, silent} {
		if table := w.neighbours(b1, address); !strings.Contains(table, staleMAC) {
			t.Errorf("%s was announced to b1, in whose network it isn't: %q", address, table)
		}
	}
	if table := w.neighbours(w.client, silent); !strings.Contains(table, staleMAC) {
		t.Errorf("%s was announced, and has arp: false: %q", silent, table)
	}
}

// TestAnswersWithoutDaemon: with the daemon killed, who asks for a service address finds it, by ARP and by neighbour solicitation, gets an answer
// to ping, and reaches a backend, whose own address the kernel goes on to look for.
func TestAnswersWithoutDaemon(t *testing.T) {
	w := newWorld(t, 1)
	const inside, inside6 = "198.51.100.200", "2001:db8:c::200"
	for _, address := range []string{inside + "/32", inside6 + "/128"} {
		w.must(w.backends[0].AddAddress("lo", netip.MustParsePrefix(address)))
	}
	for _, family := range []string{"ipv4", "ipv6"} { // or the kernel is sure of a neighbour for half a minute
		w.must(w.box.SetSysctl("net."+family+".neigh.b1.base_reachable_time_ms", "500"))
	}
	w.startWeb()
	w.decap()
	w.start("interfaces: {client0: {path: tc}, b1: {path: tc}}\nservices:\n" + announcedService("four", inside, true) + announcedService("six", inside6, true))
	w.ready()
	w.daemon.Kill()
	w.daemon = nil
	time.Sleep(2 * time.Second) // what nobody asks for is stale by then, and stays so
	for _, address := range []string{"10.0.1.11", "2001:db8:1::11"} {
		w.until("the kernel looks for "+address, func() error {
			if table := w.neighbours(w.box, address); !strings.Contains(table, "managed") || !strings.Contains(table, "REACHABLE") {
				return fmt.Errorf("the table says %q", table)
			}
			return nil
		})
	}
	for _, address := range []string{inside, inside6} {
		if _, err := w.client.Output(t.Context(), "ip", "neigh", "flush", "to", address); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.Output(t.Context(), "ping", "-c", "1", "-W", "2", address); err != nil {
			t.Errorf("ping %s: %v", address, err)
		}
		if err := w.answers(host(address)); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
