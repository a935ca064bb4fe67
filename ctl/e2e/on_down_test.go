package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestOnDown: what becomes of a TCP connection when its backend fails its checks, while the backend itself goes on, is what the service says: it
// moves to a backend that doesn't know it, waits until its own is back, or is reset by gardu.
func TestOnDown(t *testing.T) {
	w := newWorld(t, 2)
	config := "interfaces: {client0: {path: tc}, b1: {path: tc}, b2: {path: tc}}\nservices:\n"
	addresses := map[string]string{"move": "192.0.2.10:7", "drop": "192.0.2.11:7", "reset": "192.0.2.12:7"}
	for what, at := range addresses {
		address, _, _ := net.SplitHostPort(at)
		config += fmt.Sprintf("  %[1]s: {address: %[2]s, port: 7, proto: tcp, forward: dsr, on-down: %[1]s, health: {tcp: true, port: 8080, via: backend, every: 100ms, timeout: 90ms, up: 1, down: 1}, "+
			"backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11, backup: true}]}\n", what, address)
		for _, node := range w.backends {
			listener, err := node.Listen("tcp", at)
			w.must(err)
			t.Cleanup(func() { listener.Close() })
			go sendBack(listener)
		}
	}
	w.serve(w.backends[1], ":8080")
	check, err := w.backends[0].Listen("tcp", ":8080")
	w.must(err)
	w.start(config)
	w.ready()

	connections := map[string]net.Conn{}
	for what, at := range addresses {
		conn, err := w.client.Dial(t.Context(), "tcp", at)
		w.must(err)
		t.Cleanup(func() { conn.Close() })
		w.must(told(conn, "before", patience))
		connections[what] = conn
	}
	w.must(check.Close())
	w.until("b1 is down everywhere", func() error { return w.states("b1", "down") })

	for what, want := range map[string]error{"move": syscall.ECONNRESET, "drop": os.ErrDeadlineExceeded, "reset": syscall.ECONNRESET} {
		if err := told(connections[what], "meanwhile", time.Second); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	if n := w.packets("backend-reset"); n == 0 {
		t.Error("gardu has reset nothing")
	}
	if n := w.packets("backend-down"); n == 0 {
		t.Error("nothing was dropped")
	}
	_, err = w.backends[0].Listen("tcp", ":8080")
	w.must(err)
	w.until("b1 is up again everywhere", func() error { return w.states("b1", "up") })
	if err := heard(connections["drop"], "meanwhile", patience); err != nil {
		t.Errorf("drop: what was sent while the backend was down: %v", err)
	}
}

// states checks that a backend is in that state in each service.
func (w *world) states(backend, state string) error {
	list, err := w.api.Backends(w.Context())
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.Name == backend && b.State != state {
			return fmt.Errorf("%s/%s is %s", b.Service, b.Name, b.State)
		}
	}
	return nil
}

// sendBack sends what comes in on connections back, until the listener is closed.
func sendBack(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // who asked sees what is missing
		}()
	}
}

// told sends a text, and waits so long for it to come back.
func told(conn net.Conn, text string, wait time.Duration) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	return heard(conn, text, wait)
}

func heard(conn net.Conn, text string, wait time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%q came back", got)
	}
	return nil
}
