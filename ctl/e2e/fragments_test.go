package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFragments sends UDP datagrams in three fragments through every mode but nat, and back.
func TestFragments(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			oneWay := slices.DeleteFunc(slices.Clone(forwards), func(f forward) bool { return f.mode == "nat" }) // drops fragments
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			for _, f := range oneWay {
				w.echoUDP(net.JoinHostPort(f.address, "7"))
			}
			w.decap()
			config := fmt.Sprintf("interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}\nservices:\n", path)
			for _, f := range oneWay {
				config += fmt.Sprintf("  %s: {address: %q, port: 7, proto: udp, forward: %s, backends: [{name: b1, address: %q}, {name: b2, address: %q}]}\n",
					f.name, f.address, f.mode, fmt.Sprintf(f.backend, 1), fmt.Sprintf(f.backend, 2))
			}
			w.start(config)
			w.ready()
			for _, f := range oneWay {
				if err := w.echoes(net.JoinHostPort(f.address, "7")); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
			if n := w.packets("service-fragment"); n != 0 {
				t.Errorf("%d later fragments found no first one", n)
			}
			if want, got := uint64(len(oneWay)*sockets*datagrams*3), w.forwarded(); got < want {
				t.Errorf("%d fragments went to backends, %d were sent", got, want)
			}
		})
	}
}

const (
	sockets   = 4
	datagrams = 10
	largeUDP  = 4000 // bytes: three fragments
)

// narrow makes a socket's IPv6 fragments fit the client's link: the box's kernel, which sees that they don't, can't tell the backends,
// whose addresses are those of services.
func narrow(network, _ string, raw syscall.RawConn) error {
	if network != "udp6" {
		return nil
	}
	var refused error
	err := raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU, 1500) })
	return errors.Join(err, refused)
}

// echoUDP makes every backend send datagrams back to who sent them.
func (w *world) echoUDP(address string) {
	w.Helper()
	for _, node := range w.backends {
		var conn net.PacketConn
		w.must(node.Do(func() (err error) {
			conn, err = (&net.ListenConfig{Control: narrow}).ListenPacket(w.Context(), "udp", address)
			return err
		}))
		w.Cleanup(func() { conn.Close() })
		go func() {
			buffer := make([]byte, 2*largeUDP)
			for {
				n, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return // closed
				}
				_, _ = conn.WriteTo(buffer[:n], from) // the client sees what is missing
			}
		}()
	}
}

// echoes sends large ones from several ports, and waits for each of them to come back.
func (w *world) echoes(address string) error {
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	for range sockets {
		conn, err := w.client.Dial(ctx, "udp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		for i := range datagrams {
			sent, got := bytes.Repeat([]byte{byte(i), 0x5a}, largeUDP/2), make([]byte, 2*largeUDP)
			if _, err := conn.Write(sent); err != nil {
				return err
			}
			if err := conn.SetReadDeadline(time.Now().Add(patience / 4)); err != nil {
				return err
			}
			n, err := conn.Read(got)
			if err != nil {
				return fmt.Errorf("datagram %d: %w", i, err)
			}
			if !bytes.Equal(got[:n], sent) {
				return fmt.Errorf("datagram %d came back as %d other bytes", i, n)
			}
		}
	}
	return nil
}
