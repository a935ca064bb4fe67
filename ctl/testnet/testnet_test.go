package testnet

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func newNet(t *testing.T) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	n, err := New("gardu-testnet-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// pair returns two connected nodes.
func pair(t *testing.T, n *Net) (a, b *Node) {
	t.Helper()
	var err error
	if a, err = n.Node("a"); err != nil {
		t.Fatal(err)
	}
	if b, err = n.Node("b"); err != nil {
		t.Fatal(err)
	}
	err = n.Connect(
		End{Node: a, Name: "eth0", Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")},
		End{Node: b, Name: "eth0", Addresses: prefixes("198.51.100.2/24", "2001:db8:1::2/64")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestNodesTalk(t *testing.T) {
	n := newNet(t)
	a, b := pair(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, address := range []string{"198.51.100.2:7", "[2001:db8:1::2]:7"} {
		listener, err := b.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			conn.Close()
		}()
		conn, err := a.Dial(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if err != nil || string(text) != "hello" {
			t.Errorf("%s: got %q, %v", address, text, err)
		}
		conn.Close()
		listener.Close()
	}
}

func TestProcessRunsInNode(t *testing.T) {
	n := newNet(t)
	a, _ := pair(t, n)
	out, err := a.Output(t.Context(), "ip", "-br", "addr", "show", "eth0")
	if err != nil || !strings.Contains(string(out), "198.51.100.1/24") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := a.Output(t.Context(), "ip", "link", "show", "absent0"); err == nil || !strings.Contains(err.Error(), "absent0") {
		t.Errorf("no error of a failing command: %v", err)
	}
}

func TestStop(t *testing.T) {
	n := newNet(t)
	a, _ := pair(t, n)
	for _, script := range []string{"exec sleep 60", "trap '' TERM; while :; do sleep 60; done"} {
		p, err := a.Start(exec.Command("sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(200 * time.Millisecond); err == nil {
			t.Errorf("%s: ended without a signal", script)
		}
		if err := p.Signal(os.Interrupt); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: still there: %v", script, err)
		}
	}
}

func TestCloseRemovesAll(t *testing.T) {
	n := newNet(t)
	a, b := pair(t, n)
	p, err := a.Start(exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := New("gardu-testnet-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(n.name); !errors.Is(err, ErrBusy) {
		t.Errorf("a second network %s: got %v, want ErrBusy", n.name, err)
	}
	for _, node := range []*Node{a, b} {
		if err := node.close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat("/run/netns/" + node.Namespace()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", node.Namespace(), err)
		}
	}
	n.nodes = nil
	<-p.Done()
}

func TestSweepRemovesWhatACrashLeft(t *testing.T) {
	n := newNet(t)
	node, err := n.Node("left")
	if err != nil {
		t.Fatal(err)
	}
	// A dead process holds no lock.
	if err := n.lock.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := New(n.name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/run/netns/" + node.Namespace()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", node.Namespace(), err)
	}
	n.nodes, n.lock = nil, next.lock // what Cleanup closes
}
