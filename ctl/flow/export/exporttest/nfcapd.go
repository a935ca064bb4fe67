package exporttest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 15 * time.Second

// Tool finds a program that a test needs.
func Tool(t testing.TB, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s, of Debian's package %s", name, from)
	}
	return path
}

// Nfcapd is nfdump's collector at work.
type Nfcapd struct {
	testing.TB
	Address string       // where it listens
	Said    bytes.Buffer // what it said, once it has ended

	command *exec.Cmd
	dir     string
}

// StartNfcapd starts a collector on the loopback, by start, and waits until it listens.
func StartNfcapd(t testing.TB, start func(*exec.Cmd) error) *Nfcapd {
	t.Helper()
	path := Tool(t, "nfcapd", "nfdump")
	probe, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	n := &Nfcapd{TB: t, dir: t.TempDir(), Address: probe.LocalAddr().String()}
	probe.Close()
	host, port, _ := net.SplitHostPort(n.Address) // it has both
	n.command = exec.Command(path, "-b", host, "-p", port, "-w", n.dir, "-t", "3600", "-v", "1")
	n.command.Stdout, n.command.Stderr = &n.Said, &n.Said
	if err := start(n.command); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.stop)
	n.until("it listens", func() bool { _, bound := n.queued(); return bound })
	return n
}

func (n *Nfcapd) stop() {
	_ = n.command.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = n.command.Wait()
}

func (n *Nfcapd) until(what string, reached func() bool) {
	n.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.Fatalf("nfcapd: not reached: %s", what)
		}
	}
}

// queued says whether the collector's socket is there, and what waits in it.
func (n *Nfcapd) queued() (queue string, bound bool) {
	n.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", n.command.Process.Pid))
	if err != nil {
		n.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(n.Address)
	number, _ := net.LookupPort("udp", port)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) {
			_, queue, _ = strings.Cut(fields[4], ":")
			return queue, true
		}
	}
	return "", false
}

// End stops the collector once it has taken what was sent, and returns what nfdump prints of its files.
func (n *Nfcapd) End(arguments ...string) string {
	n.Helper()
	n.until("it has taken everything", func() bool { queue, _ := n.queued(); return strings.Trim(queue, "0") == "" })
	n.stop()
	out, err := exec.Command(Tool(n, "nfdump", "nfdump"), append([]string{"-R", n.dir}, arguments...)...).CombinedOutput()
	if err != nil {
		n.Fatalf("nfdump: %v: %s", err, out)
	}
	return string(out)
}
