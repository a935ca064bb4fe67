package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// meter only records what passes between the client and b1.
const meter = `
interfaces:
  client0: {path: %[1]s}
  b1: {path: %[1]s}
filter:
  rules: [{name: no-telnet, match: {proto: tcp, dport: 23}, action: %[2]s}]
flows: {max: 10000, dropped: %[3]d}
`

// A plain segment of Linux has 52 bytes of headers, a SYN or SYN+ACK 60.
const headerBytes, synExtra = 52, 8

// drain takes uploads on b1 and answers each with as many bytes as asked for.
func (w *world) drain(answer int) {
	w.Helper()
	for _, node := range []*testnet.Node{w.client, w.backends[0]} { // so that all headers are alike
		w.must(node.SetSysctl("net.ipv4.tcp_sack", "0"))
	}
	listener, err := w.backends[0].Listen("tcp", ":7000")
	w.must(err)
	w.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(io.Discard, conn)
				conn.Write(make([]byte, answer))
				io.Copy(io.Discard, conn)
			}()
		}
	}()
}

// tcpInfo is what the client's kernel says of its end.
func (w *world) tcpInfo(conn net.Conn) *unix.TCPInfo {
	w.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	w.must(err)
	var info *unix.TCPInfo
	var failed error
	w.must(raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }))
	w.must(failed)
	return info
}

// exchange sends to b1, reads its answer to the end, and gives the connection, half closed, and how long it took to open it.
func (w *world) exchange(address string, bytes int) (net.Conn, time.Duration) {
	w.Helper()
	began := time.Now()
	conn, err := w.client.Dial(w.Context(), "tcp", address)
	w.must(err)
	opened := time.Since(began)
	w.Cleanup(func() { conn.Close() })
	w.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write(make([]byte, bytes))
	w.must(err)
	w.must(conn.(*net.TCPConn).CloseWrite())
	_, err = io.Copy(io.Discard, conn)
	w.must(err)
	return conn, opened
}

// flowOf is the flow of a connection.
func (w *world) flowOf(conn net.Conn) (found api.Flow, err error) {
	n := 0
	port := conn.LocalAddr().(*net.TCPAddr).Port
	err = w.api.Flows(w.Context(), api.FlowQuery{Filter: fmt.Sprintf("sport %d", port)}, func(f api.Flow) error {
		found = f
		n++
		return nil
	})
	if err == nil && n != 1 {
		err = fmt.Errorf("%d flows", n)
	}
	return found, err
}

// oneCPU has the box receive the client's packets on its first CPU, as a NIC has a flow's on one. A veth's come in on whichever CPU sends
// them, and each CPU knows only the segments that it saw.
func (w *world) oneCPU() {
	w.Helper()
	_, err := w.box.Output(w.Context(), "unshare", "--mount", "sh", "-c",
		"mount -t sysfs sysfs /sys && echo 1 >/sys/class/net/client0/queues/rx-0/rps_cpus")
	w.must(err)
}

// TestRecordsAgreeWithTheSocket compares a transfer's record with what the client's kernel counted: wire packets and bytes to the unit,
// also through GRO and TSO, and the handshake.
func TestRecordsAgreeWithTheSocket(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			if path == "xdp" {
				w.prepareXDP()
			}
			w.drain(3_000_000)
			w.start(fmt.Sprintf(meter, path, "drop", 1000))
			for _, address := range []string{"10.0.1.11:7000", "[2001:db8:1::11]:7000"} {
				headers := uint64(headerBytes)
				if address[0] == '[' {
					headers += 20
				}
				conn, opened := w.exchange(address, 5_000_000)
				var flow api.Flow
				w.until("the record says what the socket does", func() (err error) {
					info := w.tcpInfo(conn)
					if flow, err = w.flowOf(conn); err != nil {
						return err
					}
					out := api.Counter{Packets: uint64(info.Segs_out), Bytes: info.Bytes_sent + uint64(info.Segs_out)*headers + synExtra}
					// It takes the FIN for a byte.
					in := api.Counter{Packets: uint64(info.Segs_in), Bytes: info.Bytes_received - 1 + uint64(info.Segs_in)*headers + synExtra}
					if info.Total_retrans != flow.Retransmits {
						return fmt.Errorf("%d retransmissions, the socket's %d", flow.Retransmits, info.Total_retrans)
					}
					if got := (api.Counter{Packets: flow.Packets, Bytes: flow.Bytes}); got != out {
						return fmt.Errorf("out %+v, the socket's %+v", got, out)
					}
					if got := (api.Counter{Packets: flow.PacketsReply, Bytes: flow.BytesReply}); got != in {
						return fmt.Errorf("in %+v, the socket's %+v", got, in)
					}
					return nil
				})
				if flow.ServerRTT <= 0 || time.Duration(flow.ServerRTT) > opened || flow.ClientRTT <= 0 {
					t.Errorf("%s: to the server and back %v, to the client %v; it was open after %v", address, flow.ServerRTT, flow.ClientRTT, opened)
				}
				if flow.End != "fin" || flow.Interface != "client0" || flow.InterfaceReply != "b1" || flow.TTLMin != 64 || flow.TTLMinReply != 64 {
					t.Errorf("%s: %+v", address, flow)
				}
			}
		})
	}
}

// TestInterfacesAgreeWithFlows compares what was received by one interface and sent by the other with what the flow did, through GRO and
// TSO. What else passes (neighbour discovery) makes it try again.
func TestInterfacesAgreeWithFlows(t *testing.T) {
	const ethernet = 14
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			if path == "xdp" {
				w.prepareXDP()
			}
			w.drain(3_000_000)
			w.start(strings.ReplaceAll(fmt.Sprintf(meter, path, "drop", 1000), "path: "+path, "egress: true, path: "+path))
			traffic := func() map[string]api.Traffic {
				status, err := w.api.Status(w.Context())
				w.must(err)
				all := map[string]api.Traffic{}
				for _, i := range status.Interfaces {
					all[i.Name] = *i.Traffic
				}
				return all
			}
			less := func(a, b api.Counter) api.Counter {
				return api.Counter{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
			}
			var failed error
			for range 4 {
				before := traffic()
				conn, _ := w.exchange("10.0.1.11:7000", 5_000_000)
				var flow api.Flow
				w.until("the flow is whole", func() (err error) {
					info := w.tcpInfo(conn)
					if flow, err = w.flowOf(conn); err == nil && (flow.Packets != uint64(info.Segs_out) || flow.PacketsReply != uint64(info.Segs_in)) {
						err = fmt.Errorf("%+v", flow)
					}
					return err
				})
				after := traffic()
				out := api.Counter{Packets: flow.Packets, Bytes: flow.Bytes + ethernet*flow.Packets}
				back := api.Counter{Packets: flow.PacketsReply, Bytes: flow.BytesReply + ethernet*flow.PacketsReply}
				client, b1 := "client0", "b1"
				got := []api.Counter{less(after[client].Received, before[client].Received), less(after[b1].Sent, before[b1].Sent),
					less(after[b1].Received, before[b1].Received), less(after[client].Sent, before[client].Sent)}
				if want := []api.Counter{out, out, back, back}; !slices.Equal(got, want) {
					failed = fmt.Errorf("interfaces say %+v, the flow %+v", got, want)
					continue
				}
				return
			}
			t.Error(failed)
		})
	}
}

// TestRetransmissionsAreSeen loses segments behind the box and compares what was sent again.
func TestRetransmissionsAreSeen(t *testing.T) {
	w := newWorld(t, 1)
	w.oneCPU()
	w.drain(10)
	w.start(fmt.Sprintf(meter, "tc", "drop", 1000))
	_, err := w.backends[0].Output(t.Context(), "nft", "table ip t {\nchain c {\ntype filter hook input priority 0\ntcp dport 7000 numgen inc mod 30 == 7 drop\n}\n}")
	w.must(err)
	conn, _ := w.exchange("10.0.1.11:7000", 3_000_000)
	var again uint32
	w.until("as many retransmissions as the socket sent", func() error {
		info := w.tcpInfo(conn)
		flow, err := w.flowOf(conn)
		if err != nil {
			return err
		}
		again = info.Total_retrans
		if flow.Retransmits != again || flow.Packets != uint64(info.Segs_out) {
			return fmt.Errorf("%d of %d packets, the socket's %d of %d", flow.Retransmits, flow.Packets, again, info.Segs_out)
		}
		return nil
	})
	if again == 0 {
		t.Error("nothing was lost")
	}
}

// TestDroppedFlowsAreShown looks for what is dropped and rejected with its rule, beside what passes, over a restart of the daemon
// and with another size of the table.
func TestDroppedFlowsAreShown(t *testing.T) {
	w := newWorld(t, 1)
	w.start(fmt.Sprintf(meter, "tc", "reject", 1000))
	if conn, err := w.client.Dial(t.Context(), "tcp", "10.0.1.11:23"); err == nil {
		conn.Close()
		t.Fatal("it was let in")
	}
	account := func(attributed uint64) {
		t.Helper()
		status, err := w.api.Status(t.Context())
		w.must(err)
		if d := status.Dropped; d == nil || d.Packets != 1 || d.Attributed != attributed || d.Attributed+d.Unattributed != d.Packets {
			t.Errorf("%+v", d)
		}
	}
	shown := func() (n int) {
		t.Helper()
		w.must(w.api.Flows(t.Context(), api.FlowQuery{Filter: "verdict reject and rule no-telnet and dport 23 and packets 1"}, func(api.Flow) error {
			n++
			return nil
		}))
		return n
	}
	account(1)
	if shown() != 1 {
		t.Error("it isn't shown")
	}
	w.daemon.Kill()
	w.start(fmt.Sprintf(meter, "tc", "reject", 1000))
	account(1)
	if shown() != 1 {
		t.Error("it isn't shown after a restart")
	}
	w.apply(fmt.Sprintf(meter, "tc", "reject", 100))
	account(0)
	if shown() != 0 {
		t.Error("it is shown still")
	}
}
