package e2e

import (
	"fmt"
	"net"
	"testing"
	"time"

	"gardu/ctl/testnet"
)

// translated are the services of nat.
var translated = forwards[10:]

// TestTranslatedDatagrams sends datagrams by nat, and gets answers, before the daemon is killed, while there is none, and when the next has
// taken over: every socket is answered by the backend that it began with.
func TestTranslatedDatagrams(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			config := fmt.Sprintf("interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}\nservices:\n", path)
			for _, f := range translated {
				config += fmt.Sprintf("  %s: {address: %q, port: 7, proto: udp, forward: nat, backends: [{name: b1, address: %q}, {name: b2, address: %q}]}\n",
					f.name, f.address, fmt.Sprintf(f.backend, 1), fmt.Sprintf(f.backend, 2))
			}
			for _, node := range w.backends {
				w.namesItself(node)
			}
			w.start(config)
			w.ready()

			own := make(map[net.Conn]string)
			for _, f := range translated {
				for range 8 {
					conn, err := w.client.Dial(t.Context(), "udp", net.JoinHostPort(f.address, "7"))
					w.must(err)
					defer conn.Close()
					own[conn] = ""
				}
			}
			ask := func(when string) {
				for range 3 {
					for conn := range own {
						name, err := question(conn)
						if err != nil {
							t.Fatalf("%s: %v", when, err)
						}
						if own[conn] == "" {
							own[conn] = name
						}
						if name != own[conn] {
							t.Errorf("%s: %s answered on a flow of %s", when, name, own[conn])
						}
					}
				}
			}
			ask("with a daemon")
			w.daemon.Kill()
			w.daemon = nil
			ask("without one")
			w.start(config)
			ask("with the next one")
			if n := w.translations(); n != uint64(len(own)) {
				t.Errorf("%d translations of %d flows", n, len(own))
			}
		})
	}
}

// namesItself makes a backend answer datagrams with its name.
func (w *world) namesItself(node *testnet.Node) {
	w.Helper()
	var conn net.PacketConn
	w.must(node.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", ":7")
		return err
	}))
	w.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return // closed
			}
			_, _ = conn.WriteTo([]byte(node.Name()), from) // the client sees what is missing
		}
	}()
}

// question sends a datagram and returns what answers.
func question(conn net.Conn) (string, error) {
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience / 2)); err != nil {
		return "", err
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// translations is how many live.
func (w *world) translations() uint64 {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	for _, table := range status.Tables {
		if table.Name == "translations" {
			return table.Entries
		}
	}
	return 0
}
