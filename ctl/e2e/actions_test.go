package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/pkt"
	"gardu/ctl/testnet"
)

// prompt is what a refused client waits at most: far less than a first retransmission.
const prompt = 500 * time.Millisecond

// TestReject tries rejected ports of the box itself and of a host behind it, in both families: who connects is refused at once.
func TestReject(t *testing.T) {
	for _, path := range []string{"tc", "xdp", "xdp-generic"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			w.prepareXDP()
			switch path {
			case "tc": // what veth does by default: checksums are left to be done
				w.must(w.client.SetTxChecksum("eth0", true))
			case "xdp": // a veth takes what XDP sends back only if there is a native program here too
				w.runXDP(w.client, "eth0")
			}
			w.start(fmt.Sprintf(`
interfaces:
  client0: {path: %s}
filter:
  rules:
    - {name: closed, match: {dport: 81}, action: reject}
    - {name: admin, match: {proto: tcp, dport: 82}, action: {reject: admin-prohibited}}
    - {name: drop, match: {dport: 83}, action: drop}
`, path))
			for _, address := range []string{"198.51.100.1", "2001:db8:c::1", "10.0.1.11", "2001:db8:1::11"} {
				for _, port := range []string{"81", "82"} {
					if port == "82" && strings.Contains(address, ":") {
						continue // Linux maps IPv6's code to EACCES
					}
					begin := time.Now()
					_, err := w.client.Output(w.Context(), "curl", "-sS", "--max-time", "5", "http://"+net.JoinHostPort(address, port)+"/")
					if spent := time.Since(begin); err == nil || spent > prompt+time.Second {
						t.Errorf("tcp to %s port %s: %v after %v", address, port, err, spent)
					}
				}
				w.refusedAtOnce("tcp", net.JoinHostPort(address, "81"))
				w.refusedAtOnce("udp", net.JoinHostPort(address, "81"))
			}
			status, err := w.api.Status(w.Context())
			w.must(err)
			if got := status.Reasons["rule-reject"]; got.Packets < 12 || got.Verdict != "reject" {
				t.Errorf("rule-reject: %+v", got)
			}
			for _, reason := range []string{"reject-silent", "reject-failed", "reject-limited"} {
				if n := status.Reasons[reason].Packets; n > 0 {
					t.Errorf("%s: %d", reason, n)
				}
			}
		})
	}
}

// refusedAtOnce connects from the client, and with UDP sends, until the answer comes.
func (w *world) refusedAtOnce(network, address string) {
	w.Helper()
	begin := time.Now()
	conn, err := w.client.Dial(w.Context(), network, address)
	if err == nil {
		defer conn.Close()
		w.must(conn.SetDeadline(begin.Add(patience)))
		_, err = conn.Write(make([]byte, 1200))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	if spent := time.Since(begin); !errors.Is(err, syscall.ECONNREFUSED) || spent > prompt {
		w.Errorf("%s to %s: %v after %v", network, address, err, spent)
	}
}

// A connection that a new rule rejects is reset in the middle of a transfer: bundles are on the way there.
func TestRejectEstablished(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	const rule = `
interfaces:
  client0: {path: tc}
filter:
  rules:
    - {name: web, match: {proto: tcp, dport: 80}, action: %s}
`
	w.start(fmt.Sprintf(rule, "pass"))
	path, _ := w.file("blob", blob)
	upload := w.upload("10.0.1.11", path, "blob", "20M")
	done := make(chan error, 1)
	go func() {
		_, err := w.client.Output(w.Context(), "curl", upload.args...)
		done <- err
	}()
	w.until("the upload is on its way", func() error {
		status, err := w.api.Status(w.Context())
		if err == nil && status.Reasons["rule-pass"].Bytes < 1<<20 {
			err = errors.New("less than a megabyte so far")
		}
		return err
	})
	w.apply(fmt.Sprintf(rule, "reject"))
	begin := time.Now()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("the upload ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatalf("the upload goes on")
	}
	if spent := time.Since(begin); spent > 2*time.Second {
		t.Errorf("reset only after %v", spent)
	}
}

// listener is a node beside the box, joined by `ids0` there and eth0 here.
func (w *world) listener() *testnet.Node {
	w.Helper()
	node := w.node("ids")
	w.must(w.network.Connect(testnet.End{Node: node, Name: "eth0"}, testnet.End{Node: w.box, Name: "ids0"}, 0))
	return node
}

// arriving returns what reads the next frame that arrived on eth0 of a node since now; nil: there is none yet.
func (w *world) arriving(node *testnet.Node) (next func() []byte) {
	w.Helper()
	socket := -1
	w.must(node.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(abi.Htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: abi.Htons(unix.ETH_P_ALL), Ifindex: device.Index})
	}))
	w.Cleanup(func() { unix.Close(socket) })
	buffer := make([]byte, 2048)
	return func() []byte {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		w.must(err)
		return buffer[:n]
	}
}

// seen counts the packets to port 9999 that arrive on eth0 of a node from now on.
func (w *world) seen(node *testnet.Node) func(want int) {
	w.Helper()
	next := w.arriving(node)
	count := 0
	return func(want int) {
		w.Helper()
		w.until(fmt.Sprintf("%d packets at %s", want, node.Name()), func() error {
			for frame := next(); frame != nil; frame = next() {
				if strings.Contains(pkt.Summary(frame), ":9999 ") {
					count++
				}
			}
			if count != want {
				return fmt.Errorf("%d packets", count)
			}
			return nil
		})
	}
}

// sendNine sends packets to port 9999 of an address, and doesn't care what becomes of them.
func (w *world) sendNine(count int, addresses ...string) {
	w.Helper()
	for _, address := range addresses {
		w.must(w.client.Do(func() error {
			conn, err := net.ListenUDP("udp", nil)
			if err != nil {
				return err
			}
			defer conn.Close()
			for range count {
				if _, err := conn.WriteToUDPAddrPort([]byte("nine"), netip.AddrPortFrom(netip.MustParseAddr(address), 9999)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

const diverting = `
interfaces:
  client0: {path: %s}
filter:
  rules:
    - {name: away, match: {proto: udp, dport: 9999}, action: {%s: ids0}}
    - {name: rest, match: {proto: udp, dport: 9999}, action: drop}
`

// TestRedirect sends packets to another interface, which goes down, away, and comes back.
func TestRedirect(t *testing.T) {
	for _, path := range []string{"tc", "xdp", "xdp-generic"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			w.prepareXDP()
			ids := w.listener()
			w.must(ids.SetGRO("eth0", true))
			w.start(fmt.Sprintf(diverting, path, "redirect"))
			arrived := w.seen(ids)
			w.sendNine(5, "198.51.100.1", "2001:db8:c::1")
			arrived(10)
			w.expectExit(10, 0, "")

			_, err := w.box.Output(w.Context(), "ip", "link", "set", "ids0", "down")
			w.must(err)
			w.until("ids0 known to be down", func() error { return w.exitError("interface is down") })
			w.sendNine(3, "198.51.100.1")
			w.reasonCounted("redirect-failed", 3)
			_, err = w.box.Output(w.Context(), "ip", "link", "set", "ids0", "name", "ids9", "up")
			w.must(err)
			w.until("ids0 known to be away", func() error { return w.exitError("no such interface") })
			_, err = w.box.Output(w.Context(), "ip", "link", "set", "ids9", "down", "name", "ids0")
			w.must(err)
			_, err = w.box.Output(w.Context(), "ip", "link", "set", "ids0", "up")
			w.must(err)
			w.until("ids0 known to be back", func() error { return w.exitError("") })
			w.sendNine(2, "2001:db8:c::1")
			arrived(12)
			w.expectExit(12, 0, "")
		})
	}
}

// TestMirror: auto goes to tc, the copy arrives and the original too, or is dropped.
func TestMirror(t *testing.T) {
	w := newWorld(t, 1)
	ids := w.listener()
	w.start(fmt.Sprintf(diverting, "auto", "mirror"))
	arrived := w.seen(ids)
	w.sendNine(5, "198.51.100.1", "2001:db8:c::1")
	arrived(10)
	w.expectExit(0, 10, "")
	w.reasonCounted("rule-drop", 10)
	status, err := w.api.Status(w.Context())
	w.must(err)
	if i := status.Interfaces[0]; i.Path != "tc" || !strings.Contains(i.Why, "away mirrors") {
		t.Errorf("%+v", i)
	}
	w.apply(strings.Replace(fmt.Sprintf(diverting, "auto", "mirror"), "action: drop", "action: pass", 1))
	delivered := w.seen(w.backends[0])
	w.sendNine(4, "10.0.1.11", "2001:db8:1::11")
	arrived(18)
	delivered(8)
	w.expectExit(0, 18, "")
}

// TestLosses: the far end of a veth takes nothing from XDP unless it has NAPI. The programs are told nothing; status is.
func TestLosses(t *testing.T) {
	w := newWorld(t, 1)
	w.prepareXDP()
	ids := w.listener()
	w.start(fmt.Sprintf(diverting, "xdp", "redirect"))
	w.sendNine(7, "198.51.100.1")
	w.reasonCounted("rule-redirect", 7)
	lost := func(want uint64) func() error {
		return func() error {
			status, err := w.api.Status(w.Context())
			if err != nil {
				return err
			}
			if len(status.Losses) != 1 || status.Losses[0].Interface != "ids0" || status.Losses[0].Packets != want ||
				!strings.Contains(strings.Join(status.Warnings, "\n"), "turn gro on") {
				return fmt.Errorf("%+v, warnings %q", status.Losses, status.Warnings)
			}
			return nil
		}
	}
	w.until("losses counted", lost(7))
	w.daemon.Kill()
	w.daemon = nil
	w.sendNine(2, "198.51.100.1") // the data plane goes on, and so does the count
	w.start(fmt.Sprintf(diverting, "xdp", "redirect"))
	w.until("losses counted without the daemon", lost(9))
	w.must(ids.SetGRO("eth0", true))
	arrived := w.seen(ids)
	w.sendNine(3, "198.51.100.1")
	arrived(3)
	w.until("no more losses", lost(9))
}

func (w *world) expectExit(redirected, mirrored uint64, failure string) {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	if len(status.Exits) != 1 {
		w.Fatalf("exits: %+v", status.Exits)
	}
	if e := status.Exits[0]; e.Name != "ids0" || e.Redirected != redirected || e.Mirrored != mirrored || e.Failed != 0 || e.Error != failure {
		w.Errorf("%+v", e)
	}
}

func (w *world) exitError(want string) error {
	status, err := w.api.Status(w.Context())
	if err == nil && status.Exits[0].Error != want {
		err = fmt.Errorf("it is %q", status.Exits[0].Error)
	}
	return err
}

func (w *world) reasonCounted(reason string, want uint64) {
	w.Helper()
	w.until(fmt.Sprintf("%d packets %s", want, reason), func() error {
		status, err := w.api.Status(w.Context())
		if got := status.Reasons[reason].Packets; err == nil && got != want {
			err = fmt.Errorf("%d", got)
		}
		return err
	})
}
