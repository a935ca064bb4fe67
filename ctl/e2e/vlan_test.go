//go:build vm

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gardu/ctl/testnet"
)

// patience bounds every wait: what ctl/vmtest emulates is some twenty times slower.
const patience = 3 * time.Minute

// tagID is the VLAN that backends are in.
const tagID = 20

// TestBackendsInVLAN reaches backends by the interface of a VLAN, which takes no frames from XDP, so that gardu puts the tag on itself: checks,
// and a megabyte each way, by each mode, with the default offloads where the path allows them. It needs a kernel with 8021q: `make test-vm`.
func TestBackendsInVLAN(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			for i, node := range w.backends {
				w.joinVLAN(i+1, node)
				w.echoStreams(node)
			}
			w.decapOn(fmt.Sprintf("eth0.%d", tagID))
			config := fmt.Sprintf("interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}\nflows: {max: 10000}\nservices:\n", path)
			for _, f := range forwards {
				config += fmt.Sprintf("  %s:\n    address: %q\n    port: 7\n    proto: tcp\n    forward: %s\n", f.name, f.address, f.mode)
				config += "    health: {tcp: true, every: 5s, timeout: 5s, up: 1, down: 3}\n    backends:\n"
				for i := range w.backends {
					config += fmt.Sprintf("      - {name: b%d, address: %q}\n", i+1, inVLAN(f.backend, i+1))
				}
			}
			w.start(config)
			w.ready()
			for _, f := range forwards {
				t.Run(f.name, func(t *testing.T) {
					before := w.tagged(t)
					if err := w.echoed(net.JoinHostPort(f.address, "7"), 1<<20); err != nil {
						t.Fatal(err)
					}
					// as few as bundles make them
					if got := w.tagged(t) - before; got < 16 {
						t.Errorf("%d packets came in by the VLAN", got)
					}
				})
			}
		})
	}
}

// inVLAN is the address in the VLAN of a backend that has another one outside of it.
func inVLAN(backend string, i int) string {
	return strings.NewReplacer("10.0.", "10.20.", "2001:db8:", "2001:db8:20:").Replace(fmt.Sprintf(backend, i))
}

// joinVLAN puts a backend and the box's interface towards it into the VLAN.
func (w *world) joinVLAN(i int, node *testnet.Node) {
	w.Helper()
	for _, end := range []struct {
		node   *testnet.Node
		parent string
		host   string
	}{{node, "eth0", "11"}, {w.box, node.Name(), "1"}} {
		ifname, err := end.node.AddVLAN(end.parent, tagID)
		w.must(err)
		for _, address := range addresses(fmt.Sprintf("10.20.%d.%s/24", i, end.host), fmt.Sprintf("2001:db8:20:%d::%s/64", i, end.host)) {
			w.must(end.node.AddAddress(ifname, address))
		}
	}
}

// tagged is how many packets backends have received by the VLAN.
func (w *world) tagged(t *testing.T) (packets int) {
	t.Helper()
	for _, node := range w.backends {
		err := node.Do(func() error {
			text, err := os.ReadFile("/proc/thread-self/net/dev")
			if err != nil {
				return err
			}
			_, rest, found := strings.Cut(string(text), fmt.Sprintf("eth0.%d:", tagID))
			fields := strings.Fields(rest)
			if !found || len(fields) < 2 {
				return fmt.Errorf("no such interface in\n%s", text)
			}
			n, err := strconv.Atoi(fields[1])
			packets += n
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return packets
}

// echoStreams makes a backend send back whatever comes, at all of its addresses.
func (w *world) echoStreams(node *testnet.Node) {
	w.Helper()
	listener, err := node.Listen("tcp", ":7")
	w.must(err)
	w.Cleanup(func() { listener.Close() })
	go sendBack(listener)
}

// echoed sends so many bytes that nobody guesses, and reads them back.
func (w *world) echoed(address string, length int) error {
	sent := make([]byte, length)
	var seed [32]byte
	copy(seed[:], address)
	_, _ = rand.NewChaCha8(seed).Read(sent) // never fails
	conn, err := w.client.Dial(w.Context(), "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	writing := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		writing <- err
	}()
	got := make([]byte, length)
	n, err := io.ReadFull(conn, got)
	if err := errors.Join(err, <-writing); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, length, err)
	}
	if !bytes.Equal(got, sent) {
		return errors.New("other bytes came back")
	}
	return nil
}
