package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFragments sends UDP datagrams in three fragments through every mode, and back.
func TestFragments(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			for _, f := range forwards {
				w.echoUDP(f, "7")
			}
			w.decap()
			config := fmt.Sprintf("interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}\nservices:\n", path)
			for _, f := range forwards {
				config += fmt.Sprintf("  %s: {address: %q, port: 7, proto: udp, forward: %s, backends: [{name: b1, address: %q}, {name: b2, address: %q}]}\n",
					f.name, f.address, f.mode, fmt.Sprintf(f.backend, 1), fmt.Sprintf(f.backend, 2))
			}
			w.start(config)
			w.ready()
			for _, f := range forwards {
				address := net.JoinHostPort(f.address, "7")
				if f.name == "nat4" { // its backends don't know yet that the client's link takes less than theirs
					w.until("each backend is told", func() error {
						err := w.echoes(address, 1, time.Second)
						if told := w.packets("cannot-fragment"); told < uint64(len(w.backends)) {
							return errors.Join(err, fmt.Errorf("%d were", told))
						}
						return nil
					})
				}
				if err := w.echoes(address, datagrams, patience/4); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
			if n := w.packets("service-fragment"); n != 0 {
				t.Errorf("%d later fragments found no first one", n)
			}
			if want, got := uint64(len(forwards)*sockets*datagrams*3), w.forwarded(); got < want {
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
func (w *world) echoUDP(f forward, port string) {
	w.Helper()
	for i, node := range w.backends {
		address := f.address
		if f.mode == "nat" {
			address = fmt.Sprintf(f.backend, i+1)
		}
		var conn net.PacketConn
		w.must(node.Do(func() (err error) {
			conn, err = (&net.ListenConfig{Control: narrow}).ListenPacket(w.Context(), "udp", net.JoinHostPort(address, port))
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

// echoes sends n large ones from each of several ports, and waits for each of them to come back.
func (w *world) echoes(address string, n int, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	for range sockets {
		conn, err := w.client.Dial(ctx, "udp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		for i := range n {
			sent, got := bytes.Repeat([]byte{byte(i), 0x5a}, largeUDP/2), make([]byte, 2*largeUDP)
			if _, err := conn.Write(sent); err != nil {
				return err
			}
			if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
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
