package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestPrefixes reaches several addresses of services whose address is a prefix: by TCP, by a protocol without ports, and by ping. They are
// checked at the first address that hosts use.
func TestPrefixes(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			for _, node := range w.backends {
				w.must(node.AddAddress("lo", netip.MustParsePrefix("192.0.2.9/32")))
				w.must(node.AddAddress("lo", netip.MustParsePrefix("2001:db8:10::1/128")))
			}
			w.startWeb()
			w.decap()
			w.start(fmt.Sprintf(`interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}
services:
  net4:
    address: 192.0.2.8/29
    port: any
    proto: any
    forward: ipip
    health: {http: /name, port: 80, every: 300ms, timeout: 200ms}
    backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]
  net6:
    address: "2001:db8:10::/64"
    port: any
    proto: any
    forward: gue
    health: {http: /name, port: 80, every: 300ms, timeout: 200ms}
    backends: [{name: b1, address: "2001:db8:1::11"}, {name: b2, address: "2001:db8:2::11"}]
`, path))
			w.ready()
			for _, address := range []string{"192.0.2.10", "192.0.2.13", "2001:db8:10::10", "2001:db8:10::14"} {
				if err := w.answers(host(address)); err != nil {
					t.Errorf("%s: %v", address, err)
				}
				if path == "xdp" { // a veth takes what XDP sends back only where the other end has a program too
					continue
				}
				if _, err := w.client.Output(t.Context(), "ping", "-c", "1", "-W", "2", address); err != nil {
					t.Errorf("ping %s: %v", address, err)
				}
			}
			for network, address := range map[string]string{"ip4:47": "192.0.2.12", "ip6:47": "2001:db8:10::12"} {
				w.echoRaw(network, address)
				if err := w.echoesRaw(network, address); err != nil {
					t.Errorf("%s: %v", address, err)
				}
			}
		})
	}
}

// echoRaw makes every backend send back what it gets of a protocol.
func (w *world) echoRaw(network, address string) {
	w.Helper()
	for _, node := range w.backends {
		var conn net.PacketConn
		w.must(node.Do(func() (err error) {
			conn, err = net.ListenPacket(network, address)
			return err
		}))
		w.Cleanup(func() { conn.Close() })
		go func() {
			buffer := make([]byte, 1500)
			for {
				n, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return // closed
				}
				_, _ = conn.WriteTo(buffer[:n], from)
			}
		}()
	}
}

func (w *world) echoesRaw(network, address string) error {
	conn, err := w.client.Dial(w.Context(), network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent, got := []byte("no ports here"), make([]byte, 1500)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	n, err := conn.Read(got)
	if err == nil && !bytes.HasSuffix(got[:n], sent) { // IPv4 gives the header too
		err = fmt.Errorf("%q came back", got[:n])
	}
	return err
}
