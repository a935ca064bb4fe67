package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/flow/export/exporttest"
	"gardu/ctl/pkt"
	"gardu/ctl/testnet"
)

// sender puts frames on the wire from a node's end.
func (w *world) sender(node *testnet.Node, ifname string) (fd int) {
	w.Helper()
	w.must(node.Do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}))
	w.Cleanup(func() { unix.Close(fd) })
	return fd
}

// onOneCPU runs f on the first CPU, which then also receives what f sends.
func (w *world) onOneCPU(f func() error) {
	w.Helper()
	w.must(w.box.Do(func() error { // a thread of its own, that ends with it
		var first unix.CPUSet
		first.Set(0)
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			return err
		}
		return f()
	}))
}

// recorded is a packet of a capture that is made up: its text, and whether it comes from b1.
type recorded struct {
	text string
	back bool
}

// talk makes up what the two ends of a connection send each other, some of it again, in order.
func talk(r *rand.Rand, number int) (list []recorded) {
	client, server := fmt.Sprintf("198.51.100.10:%d", 20000+number), "10.0.1.11:80"
	if number%2 == 1 {
		client, server = fmt.Sprintf("[2001:db8:c::10]:%d", 20000+number), "[2001:db8:1::11]:443"
	}
	proto := "tcp"
	if number%3 == 2 {
		proto = "udp"
	}
	var seq [2]uint32
	say := func(side int, again bool, bytes int, options string) {
		from, to := client, server
		if side == 1 {
			from, to = server, client
		}
		text := fmt.Sprintf("%s %s > %s len %d ttl %d %s", proto, from, to, bytes, 60+r.IntN(4), options)
		if proto == "tcp" {
			text += fmt.Sprintf(" seq %d ackno %d", seq[side], seq[side^1])
			if seq[side] += uint32(bytes); strings.Contains(options, "syn") || strings.Contains(options, "fin") {
				seq[side]++
			}
		}
		list = append(list, recorded{text, side == 1})
		if again {
			list = append(list, recorded{text, side == 1})
		}
	}
	if proto == "udp" {
		for range 1 + r.IntN(20) {
			say(r.IntN(2), false, r.IntN(1400), "")
		}
		return list
	}
	seq = [2]uint32{r.Uint32(), r.Uint32()} // they may wrap
	say(0, false, 0, "syn")
	say(1, false, 0, "syn ack")
	say(0, false, 0, "ack")
	for range r.IntN(30) {
		say(r.IntN(2), r.IntN(8) == 0, 1+r.IntN(1400), "ack")
	}
	switch r.IntN(3) {
	case 0:
		say(0, false, 0, "fin ack")
		say(1, false, 0, "fin ack")
		say(0, false, 0, "ack")
	case 1:
		say(r.IntN(2), false, 0, "rst ack")
	}
	return list
}

// madeUp is a capture of many conversations at once.
func (w *world) madeUp(conversations int) (list []recorded) {
	r := rand.New(rand.NewPCG(7, 7))
	var waiting [][]recorded
	for i := range conversations {
		waiting = append(waiting, talk(r, i))
	}
	for len(waiting) > 0 {
		i := r.IntN(len(waiting))
		list = append(list, waiting[i][0])
		if waiting[i] = waiting[i][1:]; len(waiting[i]) == 0 {
			waiting = slices.Delete(waiting, i, i+1)
		}
	}
	return list
}

// statistic is what a capture says of a conversation.
type statistic struct {
	packets, bytes, retransmits [2]int // by the opener, and back
	ttlMin, ttlMax              [2]int
	fin                         [2]bool
	rst                         bool
}

// statistics are those of Wireshark's dissectors, by the opener's end.
func (w *world) statistics(file string) map[string]*statistic {
	w.Helper()
	fields := []string{"ip.src", "ipv6.src", "tcp.srcport", "udp.srcport", "ip.len", "ipv6.plen", "ip.ttl", "ipv6.hlim", "tcp.flags",
		"tcp.analysis.retransmission", "tcp.analysis.fast_retransmission", "tcp.analysis.spurious_retransmission", "tcp.dstport", "udp.dstport"}
	arguments := []string{"-r", file, "-T", "fields", "-E", "separator=;"}
	for _, f := range fields {
		arguments = append(arguments, "-e", f)
	}
	out, err := exec.Command(exporttest.Tool(w, "tshark", "tshark"), arguments...).Output()
	w.must(err)
	all := map[string]*statistic{}
	openers := map[string]string{}
	for line := range strings.Lines(string(out)) {
		v := strings.Split(strings.TrimRight(line, "\n"), ";")
		number := func(a, b int) int {
			n, err := strconv.ParseInt(cmp.Or(v[a], v[b]), 0, 64)
			w.must(err)
			return int(n)
		}
		from, to := cmp.Or(v[2], v[3]), cmp.Or(v[12], v[13])
		port := from // the client's, which has more digits
		if len(to) > len(from) {
			port = to
		}
		side := 0
		s := all[port]
		if s == nil {
			s = &statistic{ttlMin: [2]int{255, 255}}
			all[port], openers[port] = s, from
		} else if openers[port] != from {
			side = 1
		}
		s.packets[side]++
		s.bytes[side] += number(4, 5)
		if v[1] != "" {
			s.bytes[side] += 40
		}
		s.ttlMin[side], s.ttlMax[side] = min(s.ttlMin[side], number(6, 7)), max(s.ttlMax[side], number(6, 7))
		if v[9]+v[10]+v[11] != "" {
			s.retransmits[side]++
		}
		if v[2] != "" {
			flags := number(8, 8)
			s.fin[side] = s.fin[side] || flags&1 != 0
			s.rst = s.rst || flags&4 != 0
		}
	}
	return all
}

// TestKnownCapture sends a capture of 150 conversations through the programs: each flow has exactly the statistics that Wireshark
// finds in the file.
func TestKnownCapture(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			if path == "xdp" {
				w.prepareXDP()
			}
			w.start(fmt.Sprintf(meter, path, "drop", 1000))
			packets := w.madeUp(150)
			w.record(packets)
			want := w.statistics(w.path("known.pcapng"))
			again := 0
			for _, s := range want {
				again += s.retransmits[0] + s.retransmits[1]
			}
			t.Logf("%d packets, %d of them again", len(packets), again)
			if again == 0 {
				t.Error("nothing was sent again")
			}
			var wrong []string
			w.until("the flows are those of the capture", func() error {
				wrong = nil
				seen := 0
				err := w.api.Flows(t.Context(), api.FlowQuery{Filter: "sport 20000-20999 or dport 20000-20999"}, func(f api.Flow) error {
					seen++
					s := want[fmt.Sprint(max(f.Sport, f.Dport))]
					got := fmt.Sprint(f.Packets, f.PacketsReply, f.Bytes, f.BytesReply, f.Retransmits, f.RetransmitsReply,
						f.TTLMin, f.TTLMax, f.End)
					end := ""
					if s.fin[0] && s.fin[1] {
						end = "fin"
					} else if s.rst {
						end = "rst"
					}
					is := fmt.Sprint(s.packets[0], s.packets[1], s.bytes[0], s.bytes[1], s.retransmits[0], s.retransmits[1], s.ttlMin[0], s.ttlMax[0], end)
					if got != is {
						wrong = append(wrong, fmt.Sprintf("%+v: %s, Wireshark says %s", f, got, is))
					}
					return nil
				})
				if err == nil && (seen != len(want) || len(wrong) > 0) {
					err = fmt.Errorf("%d flows of %d, %d wrong: %.2000s", seen, len(want), len(wrong), strings.Join(wrong, "\n"))
				}
				return err
			})
		})
	}
}

// record writes the capture and sends it, each packet to the interface that it came by.
func (w *world) record(packets []recorded) {
	w.Helper()
	file, err := os.Create(w.path("known.pcapng"))
	w.must(err)
	defer file.Close()
	out, err := pkt.NewWriter(file, "")
	w.must(err)
	client, backend := w.sender(w.client, "eth0"), w.sender(w.backends[0], "eth0")
	at := time.Unix(1_700_000_000, 0)
	w.onOneCPU(func() error {
		for _, p := range packets {
			frame, err := pkt.Parse(p.text)
			if err != nil {
				return err
			}
			ifname, fd := "client0", client
			if p.back {
				ifname, fd = "b1", backend
			}
			at = at.Add(10 * time.Millisecond) // Wireshark takes what comes at once for out of order
			if err := out.WriteOn(ifname, false, pkt.Captured{Time: at, Frame: frame, Length: len(frame)}, ""); err != nil {
				return err
			}
			if err := unix.Send(fd, frame, 0); err != nil {
				return err
			}
		}
		return nil
	})
	w.must(out.Flush())
}

// counted passes only datagrams that it has counted by a rule.
const counted = `
interfaces: {client0: {path: tc}}
filter:
  default: drop
  rules:
    - {name: known, match: {proto: udp, dport: 9}, action: pass}
    - {name: others, match: {proto: icmpv6}, action: drop}
flows: {max: %d}
`

// TestTotalsAreExact sends datagrams of ever new flows, far more than the table holds, while their interface goes and comes, the table
// changes its size, and the daemon is killed, also in the middle of that: after each of these, every datagram that was sent is in
// the rule's counter, in the account, and in a flow or unattributed.
func TestTotalsAreExact(t *testing.T) {
	w := newWorld(t, 1)
	w.start(fmt.Sprintf(counted, 1000))
	client := w.sender(w.client, "eth0")
	var sent uint64
	burst := func(n int) {
		t.Helper()
		w.onOneCPU(func() error {
			for range n {
				frame, err := pkt.Parse(fmt.Sprintf("udp 198.51.100.%d:%d > 10.0.1.11:9 len 10", 10+sent/50_000, 1+sent%50_000))
				if err != nil {
					return err
				}
				if err := unix.Send(client, frame, 0); err != nil {
					return err
				}
				sent++
			}
			return nil
		})
	}
	exact := func(after string) {
		t.Helper()
		w.until("the account is exact "+after, func() error {
			rules, err := w.api.Rules(t.Context())
			if err != nil {
				return err
			}
			status, err := w.api.Status(t.Context())
			if err != nil {
				return err
			}
			var inFlows uint64
			if err := w.api.Flows(t.Context(), api.FlowQuery{Filter: "dport 9"}, func(f api.Flow) error {
				inFlows += f.Packets
				return nil
			}); err != nil {
				return err
			}
			f := status.Flows
			if rules[0].Packets != sent || f.Accounted != sent || f.Attributed+f.Unattributed != sent || inFlows != f.Attributed {
				return fmt.Errorf("%d were sent; the rule says %d, flows %d, totals %+v", sent, rules[0].Packets, inFlows, f)
			}
			return nil
		})
	}

	burst(5000)
	exact("after an overflow")
	w.must(w.box.DeleteLink("client0"))
	exact("without the interface")
	w.connectClient()
	client = w.sender(w.client, "eth0")
	w.until("it is attached again", func() error {
		status, err := w.api.Status(t.Context())
		if err == nil && !status.Interfaces[0].Attached {
			err = fmt.Errorf("%+v", status.Interfaces[0])
		}
		return err
	})
	burst(2000)
	exact("with the interface again")
	w.apply(fmt.Sprintf(counted, 3000))
	burst(5000)
	exact("in a larger table")
	w.daemon.Kill()
	w.daemon = nil
	burst(2000)
	w.start(fmt.Sprintf(counted, 3000))
	exact("after kill -9")
	w.apply(fmt.Sprintf(counted, 1000))
	w.daemon.Kill() // flows are just moving
	w.daemon = nil
	burst(2000)
	w.start(fmt.Sprintf(counted, 2000))
	burst(2000)
	exact("after kill -9 while the table changed its size")
	if status, err := w.api.Status(t.Context()); err != nil || status.Flows.Unattributed == 0 {
		t.Errorf("nothing overflowed: %+v, %v", status.Flows, err)
	}
}
