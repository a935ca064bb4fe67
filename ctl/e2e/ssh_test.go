package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"testing"
	"time"
)

// shell is somebody who works on the box by SSH.
type shell struct {
	*world
	in    io.Writer
	lines chan string
}

// sshd serves the box, with keys made for this, and somebody logs in from the client.
func (w *world) sshd() shell {
	w.Helper()
	// Where sshd gives up privileges it wants an empty directory, which Debian's unit makes.
	w.must(os.MkdirAll("/run/sshd", 0o755))
	for _, key := range []string{"host", "user"} {
		w.must(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.path(key)).Run())
	}
	public, err := os.ReadFile(w.path("user.pub"))
	w.must(err)
	w.must(os.WriteFile(w.path("authorized"), public, 0o600))
	w.must(os.WriteFile(w.path("sshd_config"), []byte(fmt.Sprintf(`ListenAddress 198.51.100.1:2222
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
`, w.path("host"), w.path("authorized"))), 0o600))
	log, err := os.Create(w.path("sshd.log"))
	w.must(err)
	defer log.Close()
	daemon := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", w.path("sshd_config"))
	daemon.Stdout, daemon.Stderr = log, log
	_, err = w.box.Start(daemon)
	w.must(err)
	w.until("sshd listens", func() error {
		conn, err := w.client.Dial(w.Context(), "tcp", "198.51.100.1:2222")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	me, err := user.Current()
	w.must(err)
	hear, out, err := os.Pipe()
	w.must(err)
	in, say, err := os.Pipe()
	w.must(err)
	w.Cleanup(func() { hear.Close(); say.Close() })
	client := exec.Command("ssh", "-F", "none", "-i", w.path("user"), "-p", "2222", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", me.Username+"@198.51.100.1", "exec /bin/sh")
	client.Stdin, client.Stdout, client.Stderr = in, out, out
	_, err = w.client.Start(client)
	w.must(err)
	in.Close()
	out.Close()
	s := shell{w, say, make(chan string, 1000)}
	go func() {
		for lines := bufio.NewScanner(hear); lines.Scan(); {
			s.lines <- lines.Text()
		}
		close(s.lines)
	}()
	return s
}

// types sends a command, and returns at once.
func (s shell) types(command string) {
	s.Helper()
	_, err := fmt.Fprintln(s.in, command)
	s.must(err)
}

var errNothing = errors.New("nothing is heard")

// hears collects what is said until a line that begins so.
func (s shell) hears(end string, within time.Duration) (string, error) {
	var heard []string
	for late := time.After(within); ; {
		select {
		case line, ok := <-s.lines:
			if !ok {
				return "", fmt.Errorf("the session is over: %s", strings.Join(heard, "\n"))
			}
			if heard = append(heard, line); strings.HasPrefix(line, end) {
				return strings.Join(heard, "\n"), nil
			}
		case <-late:
			return strings.Join(heard, "\n"), errNothing
		}
	}
}

// TestLockOutBySSH lets somebody lock themselves out of the very session that they say it in. The door opens again, whatever becomes of
// the daemon meanwhile, and the session goes on.
func TestLockOutBySSH(t *testing.T) {
	w := newWorld(t, 0)
	w.start(openBox)
	s := w.sshd()
	gardu := binary + " --socket " + w.path("gardu.sock") + " "
	w.must(os.WriteFile(w.path("closed.yaml"), []byte(closedBox+w.apiConfig()), 0o644))

	s.types(gardu + "apply " + w.path("closed.yaml") + " --confirm 60s 2>&1; echo done $?")
	heard, err := s.hears("done ", patience)
	if err != nil || !strings.HasSuffix(heard, "done 1") || !strings.Contains(heard, "would be cut off: its packets meet the rule no-ssh, which drops them") {
		t.Fatalf("it isn't refused: %v\n%s", err, heard)
	}

	waits := func() error {
		status, err := w.api.Status(t.Context())
		if err == nil && status.Waiting == nil {
			err = errors.New("nothing waits to be confirmed")
		}
		return err
	}
	for i, step := range []struct {
		name string
		kill func()
	}{
		{"nothing happens", func() {}},
		{"killed while it waits, and started at once", func() {
			w.daemon.Kill()
			w.daemon = nil
			w.start(openBox)
		}},
		{"killed while it waits, and started when the time is over", func() {
			deadline := time.Now().Add(2 * time.Second)
			w.daemon.Kill()
			w.daemon = nil
			w.until("the time is over", func() error {
				if time.Now().Before(deadline) {
					return errors.New("it isn't")
				}
				return nil
			})
			w.start(openBox)
		}},
	} {
		s.types(gardu + "apply " + w.path("closed.yaml") + " --confirm 2s --force 2>&1; echo applied $?")
		w.until(step.name+": it waits to be confirmed", waits)
		s.types(fmt.Sprintf("echo here %d", i))
		if heard, err := s.hears("here ", 300*time.Millisecond); !errors.Is(err, errNothing) && waits() == nil {
			t.Errorf("%s: locked out, and yet %q is heard, %v", step.name, heard, err)
		}
		step.kill()
		if heard, err := s.hears(fmt.Sprintf("here %d", i), patience); err != nil {
			t.Fatalf("%s: the session doesn't come back: %v, %q", step.name, err, heard)
		}
		s.types(gardu + "confirm 2>&1; echo confirmed $?")
		if heard, err := s.hears("confirmed ", patience); err != nil || !strings.HasSuffix(heard, "confirmed 1") {
			t.Errorf("%s: confirmed too late: %v\n%s", step.name, err, heard)
		}
	}
}
