package e2e

import (
	"bytes"
	"cmp"
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/flow/export/exporttest"
	"gardu/ctl/testnet"
)

// truth is a box that forwards and balances to b1, and tells nfcapd of it.
const truth = `
interfaces:
  client0: {path: tc}
  b1: {path: tc, egress: true}
filter:
  rules:
    - {name: lossy, direction: out, match: {proto: tcp, dport: 5201, length: 1000-65535}, limit: {rate: 2000/s, burst: 200}, action: drop}
services:
  dsr: {address: 192.0.2.10, port: 80-90, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.1.11}]}
  ipip: {address: 192.0.2.11, port: 80-90, proto: tcp, forward: ipip, backends: [{name: b1, address: 10.0.1.11}]}
  nat: {address: 192.0.2.15, port: 80-90, proto: tcp, forward: nat, backends: [{name: b1, address: 10.0.1.11}]}
flows: {max: 10000, export: [{ipfix: %q}]}
`

// socket is the TCP_INFO that the kernel gave when a connection's end was destroyed.
type socket struct {
	local, peer             netip.AddrPort
	sent, received          uint64 // bytes of payload; received has the FIN, if it was received, as one more
	segmentsOut, segmentsIn uint64
	retransmits             uint32
}

// destroyed has what was said when connections of a node ended.
type destroyed struct {
	node *testnet.Node
	out  string
}

// nobody listens on this port.
const nobody = 1

func (w *world) watchSockets(node *testnet.Node) *destroyed {
	w.Helper()
	s := &destroyed{node, w.path(node.Name() + ".sockets")}
	file, err := os.Create(s.out)
	w.must(err)
	defer file.Close()
	cmd := exec.Command("stdbuf", "-oL", "ss", "--events", "--tcp", "--all", "--numeric", "--info", "--oneline", "--no-header")
	cmd.Stdout, cmd.Stderr = file, file
	_, err = node.Start(cmd)
	w.must(err)
	w.until("ss watches "+node.Name(), func() error {
		if conn, err := node.Dial(w.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", nobody)); err == nil {
			conn.Close()
		}
		text, err := os.ReadFile(s.out)
		if err == nil && len(text) == 0 {
			err = errors.New("it has said nothing")
		}
		return err
	})
	return s
}

// ended are the sockets of a node that are no more.
func (w *world) ended(s *destroyed) (list []socket) {
	w.Helper()
	text, err := os.ReadFile(s.out)
	w.must(err)
	text = text[:bytes.LastIndexByte(text, '\n')+1] // it may be written just now
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 5 {
			w.Fatalf("ss says %q", line)
		}
		local, err := netip.ParseAddrPort(words[3])
		if err != nil {
			continue // one that listened
		}
		peer, err := netip.ParseAddrPort(words[4])
		if err != nil {
			continue
		}
		found := socket{local: unmapped(local), peer: unmapped(peer)}
		if found.peer.Port() == nobody {
			continue
		}
		for _, word := range words[5:] {
			name, value, _ := strings.Cut(word, ":")
			if name == "retrans" {
				_, value, _ = strings.Cut(value, "/")
			}
			n, _ := strconv.ParseUint(value, 10, 64) // other words needn't be numbers
			switch name {
			case "bytes_sent":
				found.sent = n
			case "bytes_received":
				found.received = n
			case "segs_out":
				found.segmentsOut = n
			case "segs_in":
				found.segmentsIn = n
			case "retrans":
				found.retransmits = uint32(n)
			}
		}
		list = append(list, found)
	}
	return list
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// count is what the two ends of a connection say of it, as its flow does. Whoever was in TIME-WAIT has not counted
// what came then, and of the server's end the SYN+ACK isn't counted; so who has more of a direction is right.
func count(client, server socket) (out, in api.Counter) {
	out.Packets = max(client.segmentsOut, server.segmentsIn)
	in.Packets = max(client.segmentsIn, server.segmentsOut+1)
	out.Bytes = client.sent + out.Packets*headerBytes + synExtra
	in.Bytes = server.sent + in.Packets*headerBytes + synExtra
	return out, in
}

// resetLess is how much shorter a reset is that nobody's socket sends, and counts: it has no options. iperf3's server resets what is still on its
// way when it has enough; what comes after that finds no socket any more.
const resetLess = 12

// answering is the server's end of a client's connection. It has another name behind nat, so it is the one that comes closest in how many
// segments went to and fro: three connections are that different. (Bytes needn't be alike: iperf3 closes before all is read.)
func answering(client socket, servers []socket) socket {
	off := func(s socket) uint64 {
		apart := func(a, b uint64) uint64 { return max(a, b) - min(a, b) }
		return apart(s.segmentsIn, client.segmentsOut) + apart(s.segmentsOut, client.segmentsIn)
	}
	return slices.MinFunc(servers, func(a, b socket) int { return cmp.Compare(off(a), off(b)) })
}

// TestFlowsAgreeWithSocketsAndNfdump compares iperf3's and curl's transfers, forwarded and balanced, with what the kernels of both ends counted
// and what a collector was told: packets and bytes to the unit.
func TestFlowsAgreeWithSocketsAndNfdump(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.backends[0].AddAddress("lo", netip.MustParsePrefix("192.0.2.15/32")))
	for _, node := range []*testnet.Node{w.client, w.backends[0]} { // so that all headers are alike
		w.must(node.SetSysctl("net.ipv4.tcp_sack", "0"))
	}
	w.startWeb()
	w.decap()
	w.startIperf(81)
	nfcapd := exporttest.StartNfcapd(t, func(cmd *exec.Cmd) error { return w.box.Do(cmd.Start) })
	w.start(fmt.Sprintf(truth, nfcapd.Address))
	w.ready()
	w.file("blob", 3<<20)
	clients, servers := w.watchSockets(w.client), w.watchSockets(w.backends[0])

	var told []string // what nfdump has to print
	for name, address := range map[string]string{"": "10.0.1.11", "dsr": "192.0.2.10", "ipip": "192.0.2.11", "nat": "192.0.2.15"} {
		before, beforeThere := len(w.ended(clients)), len(w.ended(servers))
		_, err := w.client.Output(t.Context(), "iperf3", "--client", address, "--port", "81", "--bytes", "3M")
		w.must(err)
		_, err = w.client.Output(t.Context(), "curl", "-sS", "--fail", "--max-time", "20", "-o", "/dev/null", "http://"+address+"/www/blob")
		w.must(err)
		var seen []string
		w.until("flows to "+address+" agree with their sockets", func() error {
			seen = nil
			ends := w.ended(clients)[before:]
			there := w.ended(servers)[beforeThere:]
			if len(ends) != 3 || len(there) != 3 { // iperf3 has one more to say what is sent
				return fmt.Errorf("%d connections, %d at the server's end", len(ends), len(there))
			}
			for _, client := range ends {
				server := answering(client, there)
				out, in := count(client, server)
				f, err := w.flowFrom(client.local.Port())
				if err != nil {
					return err
				}
				if strings.Contains(f.FlagsReply, "R") {
					in.Bytes -= resetLess * (in.Packets - server.segmentsOut - 1)
				}
				got, back := api.Counter{Packets: f.Packets, Bytes: f.Bytes}, api.Counter{Packets: f.PacketsReply, Bytes: f.BytesReply}
				if got != out || back != in || f.Retransmits != client.retransmits || f.RetransmitsReply != server.retransmits || f.Service != name {
					return fmt.Errorf("the flow %+v\nsays %+v and %+v, sockets %+v and %+v: %+v, %+v", f, got, back, out, in, client, server)
				}
				seen = append(seen, fmt.Sprintf("%s %s %d %d %d %d", client.local, client.peer, out.Packets, out.Bytes, in.Packets, in.Bytes))
			}
			return nil
		})
		told = append(told, seen...)
	}
	w.until("all is reported", func() error {
		status, err := w.api.Status(t.Context())
		if err == nil && status.Flows.Reports.Pending > 0 {
			err = fmt.Errorf("%+v", status.Flows.Reports)
		}
		return err
	})
	w.must(w.daemon.Stop(patience))
	w.daemon = nil
	printed := nfcapd.End("-N", "-q", "-o", "fmt:%sa:%sp %da:%dp %ipkt %ibyt %opkt %obyt", "proto tcp")
	lines := map[string]bool{}
	for line := range strings.Lines(printed) {
		line = strings.Join(strings.Fields(line), " ")
		lines[strings.ReplaceAll(strings.ReplaceAll(line, " :", ":"), ": ", ":")] = true
	}
	for _, line := range told {
		if !lines[line] {
			t.Errorf("nfdump doesn't print %q:\n%s", line, printed)
		}
	}
}

func (w *world) startIperf(port int) {
	w.Helper()
	_, err := w.backends[0].Start(exec.Command("iperf3", "--server", "--port", strconv.Itoa(port)))
	w.must(err)
	w.until("iperf3 listens", func() error {
		out, err := w.backends[0].Output(w.Context(), "ss", "-Hltn", fmt.Sprintf("sport = :%d", port))
		if err == nil && len(out) == 0 {
			err = errors.New("it doesn't")
		}
		return err
	})
}

// flowFrom is the flow of a client's port.
func (w *world) flowFrom(port uint16) (found api.Flow, err error) {
	n := 0
	err = w.api.Flows(w.Context(), api.FlowQuery{Filter: fmt.Sprintf("sport %d and not verdict drop", port)}, func(f api.Flow) error {
		found = f
		n++
		return nil
	})
	if err == nil && n != 1 {
		err = fmt.Errorf("%d flows from port %d", n, port)
	}
	return found, err
}

// TestRetransmissionsBehindARule has a rule drop what iperf3 sends too fast, and compares what is sent again.
func TestRetransmissionsBehindARule(t *testing.T) {
	w := newWorld(t, 1)
	w.oneCPU()
	w.startIperf(5201)
	w.start(fmt.Sprintf(truth, "127.0.0.1:1"))
	clients := w.watchSockets(w.client)
	before := len(w.ended(clients))
	_, err := w.client.Output(t.Context(), "iperf3", "--client", "10.0.1.11", "--bytes", "3M")
	w.must(err)
	var f api.Flow
	w.until("as many retransmissions as the socket sent", func() error {
		ends := w.ended(clients)[before:]
		for _, client := range ends {
			if client.retransmits == 0 {
				continue // iperf3 has one more to say what is sent
			}
			if f, err = w.flowFrom(client.local.Port()); err != nil {
				return err
			}
			if f.Retransmits != client.retransmits {
				return fmt.Errorf("%d, the socket's %d, of %d packets", f.Retransmits, client.retransmits, f.Packets)
			}
			return nil
		}
		return fmt.Errorf("no such socket of %+v", ends)
	})
	rules, err := w.api.Rules(t.Context())
	w.must(err)
	if len(rules) != 1 || rules[0].Decided == 0 {
		t.Errorf("%d retransmissions, rules %+v", f.Retransmits, rules)
	}
}

// TestHandshakeTimesAreThoseOnTheWire holds both times of a handshake between those at the box's two interfaces: from the moment the
// packet left the box until its answer came in there at least, and from when it came in until the answer left at most.
func TestHandshakeTimesAreThoseOnTheWire(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.backends[0].AddAddress("lo", netip.MustParsePrefix("192.0.2.15/32")))
	w.startWeb()
	w.start(fmt.Sprintf(truth, "127.0.0.1:1"))
	w.ready()
	outer, inner := w.tap("client0"), w.tap("b1")
	w.until("the kernel stamps packets", func() error { // which it begins to do a moment later
		_, err := w.client.Output(t.Context(), "curl", "-sS", "--fail", "--max-time", "2", "http://10.0.1.11/name")
		if err == nil {
			_, err = inner.handshake()
		}
		return err
	})
	for _, address := range []string{"10.0.1.11:80", "192.0.2.15:80"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := w.client.Dial(ctx, "tcp", address)
		cancel()
		w.must(err)
		defer conn.Close()
		var f api.Flow
		w.until("the handshake's times are known", func() (err error) {
			if f, err = w.flowOf(conn); err == nil && (f.ServerRTT == 0 || f.ClientRTT == 0) {
				err = fmt.Errorf("%+v", f)
			}
			return err
		})
		var a, b [3]time.Duration
		w.until("the wire's times are known", func() (err error) {
			if a, err = outer.handshake(); err == nil {
				b, err = inner.handshake()
			}
			return err
		})
		const grain = time.Microsecond // by which clocks that are set all the time may differ
		for _, c := range []struct {
			what        string
			got         api.Duration
			least, most time.Duration
		}{
			{"to the server and back", f.ServerRTT, b[1] - b[0], a[1] - a[0]},
			{"to the client and back", f.ClientRTT, a[2] - a[1], b[2] - b[1]},
		} {
			if got := time.Duration(c.got); got < c.least-grain || got > c.most+grain {
				t.Errorf("%s, %s: %v, on the wire %v to %v", address, c.what, got, c.least, c.most)
			}
		}
	}
}

// wire has the handshakes that passed an interface of the box.
type wire struct {
	mu   sync.Mutex
	seen []segment
}

type segment struct {
	flags uint8
	at    time.Duration // since 1970
}

const tcpSYN, tcpACK = 0x02, 0x10

// tap listens to an interface of the box, as tcpdump does.
func (w *world) tap(ifname string) *wire {
	w.Helper()
	const protocol = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff // in network order
	var fd int
	w.must(w.box.Do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index})
	}))
	t := &wire{}
	var reading sync.WaitGroup
	over := make(chan struct{})
	reading.Go(func() {
		for !closed(over) {
			t.read(fd)
		}
	})
	w.Cleanup(func() {
		close(over)
		reading.Wait()
		unix.Close(fd)
	})
	return t
}

// read takes a packet, if it is of TCP over IPv4.
func (t *wire) read(fd int) {
	var packet, control [256]byte
	n, controls, _, _, err := unix.Recvmsg(fd, packet[:], control[:], 0)
	if err != nil || n < 40 || packet[0] != 0x45 || packet[9] != unix.IPPROTO_TCP {
		return
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil || len(messages) != 1 || len(messages[0].Data) != 16 {
		return
	}
	stamp := messages[0].Data
	at := time.Duration(endian.NativeEndian.Uint64(stamp))*time.Second + time.Duration(endian.NativeEndian.Uint64(stamp[8:]))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = append(t.seen, segment{packet[20+13], at})
}

// handshake is when the three segments of the last one passed.
func (t *wire) handshake() (at [3]time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	step := 0
	for _, s := range t.seen {
		switch {
		case s.flags&(tcpSYN|tcpACK) == tcpSYN:
			step = 0
		case s.flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK:
			step = 1
		case step != 2:
			continue
		}
		at[step] = s.at
		step++
	}
	if step != 3 {
		err = fmt.Errorf("of the last handshake %d segments passed", step)
	}
	return at, err
}
