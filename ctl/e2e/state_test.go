package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// onlyAnswers drops all that nobody inside began: inside are the box and what is behind b1.
const onlyAnswers = `
interfaces:
  client0: {path: %[1]s}
  b1: {path: %[1]s}
filter:
  default: drop
  rules:
    - {name: odd, match: {state: invalid}, action: drop}
    - {name: answers, match: {state: established}, action: pass}
    - {name: inside, match: {src: [10.0.1.0/24, "2001:db8:1::/64"]}, action: pass}
%[2]s`

// stateWorld adds to the world what is far away: a web server behind the client, over a link that takes only small packets.
//
//	far eth0 203.0.113.2 --(MTU 1300)-- far0 203.0.113.1 client
func stateWorld(t *testing.T) (w *world, far *testnet.Node) {
	w = newWorld(t, 1)
	far = w.node("far")
	w.must(w.network.Connect(
		testnet.End{Node: far, Name: "eth0", Addresses: addresses("203.0.113.2/24", "2001:db8:f::2/64")},
		testnet.End{Node: w.client, Name: "far0", Addresses: addresses("203.0.113.1/24", "2001:db8:f::1/64")}, 1300))
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		w.must(w.client.SetSysctl(key, "1"))
	}
	for prefix, via := range map[string][2]string{"0.0.0.0/0": {"203.0.113.1", "198.51.100.10"}, "::/0": {"2001:db8:f::1", "2001:db8:c::10"}} {
		w.must(far.AddRoute(netip.MustParsePrefix(prefix), netip.MustParseAddr(via[0])))
		w.must(w.box.AddRoute(netip.MustParsePrefix(prefix), netip.MustParseAddr(via[1])))
	}
	w.serve(far, ":80")
	return w, far
}

// serve runs a web server that takes whatever is sent.
func (w *world) serve(node *testnet.Node, address string) {
	w.Helper()
	listener, err := node.Listen("tcp", address)
	w.must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(rw, "took %d", n)
	})}
	go server.Serve(listener)
	w.Cleanup(func() { server.Close() })
}

// curl fetches a page from a node, within some seconds.
func (w *world) curl(node *testnet.Node, args ...string) (string, error) {
	out, err := node.Output(w.Context(), "curl", append([]string{"-sS", "--fail", "--max-time", "10"}, args...)...)
	return string(out), err
}

// silent expects that nothing comes back.
func (w *world) silent(node *testnet.Node, args ...string) {
	w.Helper()
	if out, err := w.curl(node, append(args, "--max-time", "1")...); err == nil {
		w.Errorf("%s reached %v: %s", node.Name(), args, out)
	}
}

// ping says whether the answer to an echo request comes back.
func (w *world) ping(from *testnet.Node, to string) error {
	var conn net.PacketConn
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if strings.Contains(to, ":") {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	err := from.Do(func() (err error) {
		conn, err = net.ListenPacket(network, "")
		return err
	})
	w.must(err)
	defer conn.Close()
	message := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}
	if request == 8 {
		message[2], message[3] = 0xe5, 0xca
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		return err
	}
	w.must(conn.SetReadDeadline(time.Now().Add(time.Second)))
	for buffer := make([]byte, 1500); ; {
		n, peer, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if n >= 8 && buffer[0] == reply && peer.String() == to {
			return nil
		}
	}
}

// TestState lets the answers in to what the box and a host behind it began, ICMP errors included, and nothing else.
func TestState(t *testing.T) {
	for _, path := range []string{"xdp", "tc"} {
		t.Run(path, func(t *testing.T) {
			w, far := stateWorld(t)
			w.startWeb()
			w.serve(w.box, ":8081")
			open := []string{"10.0.1.11/name", "[2001:db8:1::11]/name", "198.51.100.1:8081/", "[2001:db8:c::1]:8081/"}
			for _, url := range open {
				if _, err := w.curl(far, "http://"+url); err != nil {
					t.Fatalf("without gardu: %v", err)
				}
			}
			w.start(fmt.Sprintf(onlyAnswers, path, ""))

			for _, host := range []string{"203.0.113.2", "[2001:db8:f::2]"} {
				for _, node := range []*testnet.Node{w.box, w.backends[0]} {
					if _, err := w.curl(node, "http://"+host+"/"); err != nil {
						t.Errorf("%s to %s: %v", node.Name(), host, err)
					}
				}
			}
			for _, url := range open {
				w.silent(far, "http://"+url)
			}
			if out, err := w.curl(w.box, "http://10.0.1.11/name"); err != nil || out != "b1" {
				t.Errorf("box to b1: %q, %v", out, err)
			}

			for _, to := range []string{"203.0.113.2", "2001:db8:f::2"} {
				for _, node := range []*testnet.Node{w.box, w.backends[0]} {
					if err := w.ping(node, to); err != nil {
						t.Errorf("%s pings %s: %v", node.Name(), to, err)
					}
				}
			}
			for _, to := range []string{"10.0.1.11", "198.51.100.1", "2001:db8:1::11"} {
				if w.ping(far, to) == nil {
					t.Errorf("ping to %s came through", to)
				}
			}
			w.checkErrors()
			w.checkEgress(true)

			// More than fits the last link at once: its packets find out how small they must be by ICMP errors.
			file, _ := w.file("large", 4<<20)
			for _, host := range []string{"203.0.113.2", "[2001:db8:f::2]"} {
				if out, err := w.curl(w.backends[0], "-T", file, "http://"+host+"/"); err != nil || out != "took 4194304" {
					t.Errorf("upload to %s: %q, %v", host, out, err)
				}
			}
		})
	}
}

// checkErrors expects to be told by ICMP that a port is closed, and which router a packet that lives short got to.
func (w *world) checkErrors() {
	w.Helper()
	inside := w.backends[0]
	for _, to := range []string{"203.0.113.2:9", "[2001:db8:f::2]:9"} {
		conn, err := inside.Dial(w.Context(), "udp", to)
		w.must(err)
		defer conn.Close()
		w.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
		_, err = conn.Write([]byte("anybody there?"))
		w.must(err)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			w.Errorf("UDP to %s: %v, want refused", to, err)
		}
	}
	var errs net.PacketConn
	w.must(inside.Do(func() (err error) {
		errs, err = net.ListenPacket("ip4:icmp", "")
		return err
	}))
	defer errs.Close()
	w.must(errs.SetReadDeadline(time.Now().Add(5 * time.Second)))
	conn, err := inside.Dial(w.Context(), "udp", "203.0.113.2:33434")
	w.must(err)
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	w.must(err)
	w.must(raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, 2)
	}))
	w.must(err)
	_, err = conn.Write([]byte("which way?"))
	w.must(err)
	buffer := make([]byte, 1500)
	if n, router, err := errs.ReadFrom(buffer); err != nil || n < 8 || buffer[0] != 11 || router.String() != "198.51.100.10" {
		w.Errorf("traceroute: %v from %v, type %d", err, router, buffer[0])
	}
}

// checkEgress expects gardu at tc egress of every interface, or of none, and that status says why.
func (w *world) checkEgress(want bool) {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	for _, i := range status.Interfaces {
		if i.Egress != want || strings.Contains(i.Why, "egress") != want {
			w.Errorf("%s: egress is %t, because %q", i.Name, i.Egress, i.Why)
		}
	}
}

// TestStateSurvives kills the daemon and applies configurations while a connection is silent: what comes after that is an
// answer still.
func TestStateSurvives(t *testing.T) {
	w, far := stateWorld(t)
	listener, err := far.Listen("tcp", ":7")
	w.must(err)
	defer listener.Close()
	config := fmt.Sprintf(onlyAnswers, "auto", "")
	w.start(config)
	conn, err := w.box.Dial(t.Context(), "tcp", "203.0.113.2:7")
	w.must(err)
	defer conn.Close()
	peer, err := listener.Accept()
	w.must(err)
	defer peer.Close()
	speak := func(when string) {
		t.Helper()
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		w.must(conn.SetReadDeadline(time.Now().Add(5 * time.Second)))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	speak("at first")
	w.daemon.Kill()
	w.daemon = nil
	speak("without a daemon")
	w.start(config)
	speak("with the next daemon")
	w.apply(fmt.Sprintf(onlyAnswers, "auto", "    - {name: more, match: {proto: esp}, action: drop}\n"))
	speak("after an apply")
	w.checkEgress(true)
	before, err := w.api.Status(t.Context())
	w.must(err)
	if before.States == nil || before.States.Entries == 0 || before.States.Refused != 0 {
		t.Errorf("states: %+v", before.States)
	}

	w.apply("interfaces: {client0: {path: auto}, b1: {path: auto, egress: true}}\n")
	after, err := w.api.Status(t.Context())
	w.must(err)
	for _, i := range after.Interfaces {
		if i.Egress != (i.Name == "b1") || strings.Contains(i.Why, "egress") {
			t.Errorf("without state %s: egress is %t, %q", i.Name, i.Egress, i.Why)
		}
	}
	if after.States != nil {
		t.Errorf("connections are still known: %+v", after.States)
	}
}

// TestOut drops what the box and a host behind it send, on every path, and lets the rest go.
func TestOut(t *testing.T) {
	const config = `
interfaces: {client0: {path: %s}, b1: {path: %[1]s}}
filter:
  rules:
    - {name: no-web, direction: out, match: {dst: [203.0.113.2, "2001:db8:f::2"], proto: tcp, dport: 80}, action: drop}
`
	for _, path := range []string{"xdp", "tc"} {
		t.Run(path, func(t *testing.T) {
			w, far := stateWorld(t)
			w.serve(far, ":8080")
			w.startWeb()
			w.start(fmt.Sprintf(config, path))
			for _, host := range []string{"203.0.113.2", "[2001:db8:f::2]"} {
				for _, node := range []*testnet.Node{w.box, w.backends[0]} {
					w.silent(node, "http://"+host+"/")
					if _, err := w.curl(node, "http://"+host+":8080/"); err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := w.curl(far, "http://10.0.1.11/name"); err != nil {
				t.Error(err)
			}
			w.checkEgress(true)
			status, err := w.api.Status(t.Context())
			w.must(err)
			rules, err := w.api.Rules(t.Context())
			w.must(err)
			checkOut(t, status, rules[0])
			w.apply("interfaces: {client0: {path: auto}, b1: {path: auto}}\n")
			w.checkEgress(false)
			if _, err := w.curl(w.box, "http://203.0.113.2/"); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkOut expects that the rule's packets are those that were dropped on their way out, and not among those received.
func checkOut(t *testing.T, status api.Status, rule api.Rule) {
	t.Helper()
	if dropped := status.Reasons["out-drop"].Packets; dropped == 0 || dropped != rule.Decided || status.Reasons["out-pass"].Packets == 0 {
		t.Errorf("dropped %d, the rule decided %d: %v", dropped, rule.Decided, status.Reasons)
	}
	if f := status.Filter; f.Decided != 0 || f.Default != f.Reached {
		t.Errorf("received: %+v", f)
	}
}
