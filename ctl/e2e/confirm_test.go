package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// session is a TCP connection from the client to the box, like that of somebody who works on it.
type session struct {
	net.Conn
	lines *bufio.Reader
}

// echo sends back what comes to the box, and connects to it. ssh is what sshd would say of the connection.
func (w *world) echo() (s session, ssh string) {
	w.Helper()
	listener, err := w.box.Listen("tcp", "198.51.100.1:2222")
	w.must(err)
	w.Cleanup(func() { listener.Close() })
	go sendBack(listener)
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	conn, err := w.client.Dial(ctx, "tcp", "198.51.100.1:2222")
	w.must(err)
	w.Cleanup(func() { conn.Close() })
	local := conn.LocalAddr().(*net.TCPAddr)
	return session{conn, bufio.NewReader(conn)}, fmt.Sprintf("%s %d 198.51.100.1 2222", local.IP, local.Port)
}

// says sends a line and waits for it to come back. A line that didn't in time comes later: TCP sends it again.
func (s session) says(line string, within time.Duration) error {
	if _, err := fmt.Fprintln(s, line); err != nil {
		return err
	}
	return s.hears(line, within)
}

func (s session) hears(line string, within time.Duration) error {
	if err := s.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	got, err := s.lines.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("heard %q instead of %q", got, line)
	}
	return err
}

const (
	openBox   = "interfaces: {client0: {path: tc}}\n"
	closedBox = openBox + "filter: {rules: [{name: no-ssh, match: {proto: tcp, dport: 2222}, action: drop}]}\n"
)

// TestLockOut lets somebody lock themselves out, in spite of a warning, and then die, they and the daemon: the door opens again.
func TestLockOut(t *testing.T) {
	w := newWorld(t, 0)
	w.start(openBox)
	s, ssh := w.echo()
	w.must(s.says("hello", patience))
	w.must(os.WriteFile(w.path("closed.yaml"), []byte(closedBox+w.apiConfig()), 0o644))
	apply := func(args ...string) ended {
		return w.try("env", append([]string{"SSH_CONNECTION=" + ssh, binary, "--socket", w.path("gardu.sock"), "apply", w.path("closed.yaml")}, args...)...)
	}

	r := apply("--confirm", "60s")
	if r.code != 1 || !strings.Contains(r.stderr, "would be cut off: its packets meet the rule no-ssh, which drops them") || !strings.Contains(r.stderr, "--force") {
		t.Errorf("%+v", r)
	}
	w.must(s.says("still here", patience))
	if status, err := w.api.Status(t.Context()); err != nil || status.Revision != 1 {
		t.Errorf("revision %d, %v", status.Revision, err)
	}

	for i, killed := range []bool{false, true} {
		if r := apply("--confirm", "2s", "--force"); r.code != 0 || !strings.Contains(r.stdout, "waits for `gardu confirm`") {
			t.Fatalf("%+v", r)
		}
		line := fmt.Sprintf("is anybody there %d", i)
		if err := s.says(line, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("locked out, and yet: %v", err)
		}
		if killed {
			w.daemon.Kill()
			w.daemon = nil
			w.start(openBox)
		}
		if err := s.hears(line, patience); err != nil {
			t.Fatalf("killed %t: the session didn't come back: %v", killed, err)
		}
		out, err := w.gardu("confirm")
		if err == nil || !strings.Contains(err.Error()+out, "exit status 1") {
			t.Errorf("confirmed too late: %v, %s", err, out)
		}
	}
	w.must(s.says("never gone", patience))
}
