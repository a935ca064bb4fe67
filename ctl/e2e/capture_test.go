package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

const captureConfig = `
interfaces:
  client0: {path: %s, egress: true}
filter:
  rules:
    - {name: sink, match: {proto: udp, dport: 5301}, action: drop}
    - {name: late, match: {proto: udp, dport: 5304}, action: drop}
services:
  web: {address: 192.0.2.10, port: 5303, proto: udp, forward: ipip, backends: [{name: b1, address: 10.0.1.11}]}
`

// capturing is a `gardu capture` at work.
type capturing struct {
	*world
	process   *testnet.Process
	out, said string // files
}

// capture begins one and waits until it is on.
func (w *world) capture(name string, args ...string) *capturing {
	w.Helper()
	c := &capturing{world: w, out: w.path(name + ".out"), said: w.path(name + ".err")}
	out, err := os.Create(c.out)
	w.must(err)
	defer out.Close()
	said, err := os.Create(c.said)
	w.must(err)
	defer said.Close()
	cmd := exec.Command(binary, append([]string{"--socket", w.path("gardu.sock"), "capture"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, said
	c.process, err = w.box.Start(cmd)
	w.must(err)
	w.Cleanup(c.process.Kill)
	w.until("the capture is on", func() error {
		if text := c.text(c.said); !strings.HasPrefix(text, "capturing\n") {
			return errors.New(text)
		}
		return nil
	})
	return c
}

func (c *capturing) text(path string) string {
	c.Helper()
	text, err := os.ReadFile(path)
	c.must(err)
	return string(text)
}

// packets are those told so far.
func (c *capturing) packets() (all []api.Captured) {
	c.Helper()
	for line := range strings.Lines(c.text(c.out)) {
		var p api.Captured
		if strings.HasSuffix(line, "\n") {
			c.must(json.Unmarshal([]byte(line), &p))
			all = append(all, p)
		}
	}
	return all
}

// stop interrupts it and returns what it says in the end.
func (c *capturing) stop() string {
	c.Helper()
	c.must(c.process.Signal(os.Interrupt))
	return c.wait()
}

func (c *capturing) wait() string {
	c.Helper()
	if err := c.process.Wait(); err != nil {
		c.Errorf("gardu capture: %v", err)
	}
	return strings.TrimPrefix(c.text(c.said), "capturing\n")
}

// programs are those on the interfaces, by their size.
func (w *world) programs() string {
	w.Helper()
	out, err := w.gardu("bpf", "--time", "0", "--bpffs", w.bpffs, "-o", "json")
	w.must(err)
	var found struct {
		Programs []struct {
			Name         string `json:"name"`
			Instructions int    `json:"instructions"`
		} `json:"programs"`
	}
	w.must(json.Unmarshal([]byte(out), &found))
	var all []string
	for _, p := range found.Programs {
		all = append(all, fmt.Sprintf("%s %d", p.Name, p.Instructions))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// TestCapture: what is dropped, passed, sent and forwarded is captured on every path, written to a file that tshark reads, and when nobody
// captures any more the programs are those of before.
func TestCapture(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			w.prepareXDP()
			w.start(fmt.Sprintf(captureConfig, path))
			w.ready()
			before := w.programs()
			lines := w.capture("lines", "-o", "ndjson", "--snap", "60", "proto udp and port 5301-5304 and not rule late")
			file := w.path("file.pcapng")
			written := w.capture("file", "-w", file, "-n", "3", "verdict drop and rule sink or service web or dport 5302")
			if during := w.programs(); during == before {
				t.Errorf("the programs that capture are those that don't: %s", during)
			}
			var listener net.PacketConn
			w.must(w.box.Do(func() (err error) {
				listener, err = net.ListenPacket("udp", "198.51.100.1:5302")
				return err
			}))
			defer listener.Close()
			w.send(w.dial("198.51.100.1:5304"), 1)
			w.send(w.dial("198.51.100.1:5301"), 1)
			passed := w.dial("198.51.100.1:5302")
			w.send(passed, 1)
			w.must(writeBack(listener))
			w.send(w.dial("192.0.2.10:5303"), 1)
			var packets []api.Captured
			w.until("four packets", func() error {
				if packets = lines.packets(); len(packets) < 4 {
					return fmt.Errorf("%+v", packets)
				}
				return nil
			})
			check := func(i int, want api.Captured, about string) {
				t.Helper()
				p := packets[i]
				got := api.Captured{Verdict: p.Verdict, Reason: p.Reason, Rule: p.Rule, Service: p.Service, Backend: p.Backend, Direction: p.Direction, Interface: p.Interface}
				if fmt.Sprint(got) != fmt.Sprint(want) || !strings.Contains(p.Packet, about) || len(p.Frame) != min(p.Length, 60) {
					t.Errorf("%+v: %s\nwant %+v: %s", p, p.Packet, want, about)
				}
			}
			slices.SortStableFunc(packets, func(a, b api.Captured) int { return strings.Compare(a.Direction+a.Verdict, b.Direction+b.Verdict) })
			check(0, api.Captured{Verdict: "drop", Reason: "rule-drop", Rule: "sink", Direction: "in", Interface: "client0"}, "> 198.51.100.1:5301 ")
			check(1, api.Captured{Verdict: "forward", Reason: "forward", Service: "web", Backend: "b1", Direction: "in", Interface: "client0"}, "> 192.0.2.10:5303 ")
			check(2, api.Captured{Verdict: "pass", Reason: "default-pass", Direction: "in", Interface: "client0"}, "> 198.51.100.1:5302 ")
			check(3, api.Captured{Verdict: "pass", Reason: "none", Direction: "out", Interface: "client0"}, "udp 198.51.100.1:5302 > ")
			if out := packets[1].Out; out == nil || out.Interface != "b1" || out.Length != packets[1].Length+20 || !strings.HasPrefix(out.Packet, "ipip 10.0.1.1 > 10.0.1.11 ") {
				t.Errorf("forwarded: %+v", out)
			}
			if said := written.wait(); said != "3 packets captured, none lost\n" {
				t.Errorf("it says %q", said)
			}
			if said := lines.stop(); said != "4 packets captured, none lost\n" {
				t.Errorf("it says %q", said)
			}
			text, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.comment", "-e", "udp.dstport").Output()
			w.must(err)
			var got []string
			for line := range strings.Lines(string(text)) {
				got = append(got, strings.ReplaceAll(strings.TrimSpace(line), "\t", " | "))
			}
			want := []string{
				"client0 | 0x00000001 | drop (rule-drop), rule sink | 5301",
				"client0 | 0x00000001 | pass (default-pass) | 5302",
				"client0 | 0x00000001 | forward, service web, backend b1 | 5303",
				"b1 | 0x00000002 | sent by gardu: forward, service web, backend b1 | 5303",
			}
			if !slices.Equal(got, want) {
				t.Errorf("tshark reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			w.until("the programs of before", func() error {
				if now := w.programs(); now != before {
					return fmt.Errorf("%s, before it was %s", now, before)
				}
				return nil
			})
		})
	}
}

func writeBack(conn net.PacketConn) error {
	buffer := make([]byte, 100)
	n, from, err := conn.ReadFrom(buffer)
	if err == nil {
		_, err = conn.WriteTo(buffer[:n], from)
	}
	return err
}

const checkedConfig = `
interfaces:
  client0: {path: tc}
filter:
  rules:
    - {name: copy, match: {proto: udp, dport: 5306}, action: {mirror: b1}}
    - {name: sink, match: {proto: udp, dport: 5306}, action: drop}
services:
  wrapped: {address: 192.0.2.10, port: 80, proto: tcp, forward: ipip, health: {tcp: true, every: 200ms, timeout: 150ms}, backends: [{name: b1, address: 10.0.1.11}]}
  plain: {address: "2001:db8:10::10", port: 80, proto: tcp, forward: dsr, health: {tcp: true, every: 200ms, timeout: 150ms}, backends: [{name: b1, address: "2001:db8:1::11"}]}
`

// TestCaptureSendsOfItsOwn: health checks are captured where they start and as they leave, and of copies that rules mirror it is said where
// they went; a file has these as packets of their own.
func TestCaptureSendsOfItsOwn(t *testing.T) {
	w := newWorld(t, 1)
	w.start(checkedConfig)
	before := w.programs()
	one := func(filter string) *api.Captured {
		t.Helper()
		c := w.capture("check", "-n", "1", "-o", "ndjson", filter)
		if said := c.wait(); said != "1 packet captured, none lost\n" {
			t.Fatalf("it says %q", said)
		}
		return &c.packets()[0]
	}
	for _, want := range []struct{ filter, before, after string }{
		{"service wrapped and interface lo and verdict forward", "tcp 10.0.1.1:", "ipip 10.0.1.1 > 10.0.1.11 "},
		{"direction out and backend b1 and verdict forward and dst 2001:db8:10::10", "tcp [2001:db8:1::1]:", "tcp [2001:db8:1::1]:"},
	} {
		p := one(want.filter)
		if p.Interface != "lo" || p.Direction != "out" || p.Verdict != "forward" || p.Backend != "b1" || p.Service == "" || !strings.HasPrefix(p.Packet, want.before) {
			t.Errorf("a check of %s: %+v: %s", want.filter, p, p.Packet)
		}
		if p.Out == nil || p.Out.Interface != "b1" || !strings.HasPrefix(p.Out.Packet, want.after) {
			t.Errorf("a check of %s leaves as %+v", want.filter, p.Out)
		}
	}

	lines := w.capture("lines", "-n", "1", "-o", "ndjson", "proto udp and dport 5306")
	file := w.path("copy.pcapng")
	written := w.capture("file", "-n", "1", "-w", file, "rule sink")
	w.send(w.dial("198.51.100.1:5306"), 1)
	for _, c := range []*capturing{lines, written} {
		if said := c.wait(); said != "1 packet captured, none lost\n" {
			t.Errorf("it says %q", said)
		}
	}
	if p := lines.packets()[0]; p.Rule != "sink" || p.Verdict != "drop" || !slices.Equal(p.Copies, []string{"b1"}) || p.Out != nil {
		t.Errorf("a packet of which a copy was sent: %+v", p)
	}
	text, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.comment", "-e", "udp.dstport").Output()
	w.must(err)
	const want = "client0\t0x00000001\tdrop (rule-drop), rule sink\t5306\nb1\t0x00000002\tcopy sent by gardu: drop (rule-drop), rule sink\t5306\n"
	if string(text) != want {
		t.Errorf("tshark reads\n%swant\n%s", text, want)
	}
	w.until("the programs of before", func() error {
		if now := w.programs(); now != before {
			return fmt.Errorf("%s, before it was %s", now, before)
		}
		return nil
	})
}

// TestCaptureEndsByItself when its client is killed, and when the daemon is; and what a stopped daemon loses is counted.
func TestCaptureEndsByItself(t *testing.T) {
	w := newWorld(t, 1)
	w.start(fmt.Sprintf(captureConfig, "tc"))
	w.ready()
	before := w.programs()
	w.capture("killed").process.Kill()
	gone := func() error {
		if now := w.programs(); now != before {
			return fmt.Errorf("%s, before it was %s", now, before)
		}
		return nil
	}
	w.until("the client is gone", gone)

	// A rule that comes with an apply is found by the capture that asked for it before.
	early := w.capture("early", "-n", "1", "-o", "ndjson", "rule fresh")
	w.apply(strings.Replace(fmt.Sprintf(captureConfig, "tc"), "  rules:", "  rules:\n    - {name: fresh, match: {proto: udp, dport: 5305}, action: drop}", 1))
	fresh := w.dial("198.51.100.1:5305")
	w.until("a packet of the new rule", func() error {
		w.send(fresh, 1)
		if len(early.packets()) == 0 {
			return errors.New(early.text(early.said))
		}
		return nil
	})
	if said, p := early.wait(), early.packets(); said != "1 packet captured, none lost\n" || len(p) != 1 || p[0].Rule != "fresh" {
		t.Errorf("it says %q, %+v", said, p)
	}

	w.until("no capture is on", gone)
	earlier, err := w.api.Status(w.Context())
	w.must(err)

	c := w.capture("lossy", "-w", w.path("lossy.pcapng"), "--snap", "16384", "rule sink")
	conn := w.dial("198.51.100.1:5301")
	w.must(w.daemon.Signal(syscall.SIGSTOP))
	large := make([]byte, 1400)
	for range 12_000 { // 16 MB
		conn.Write(large) // an error is about the one before
	}
	w.must(w.daemon.Signal(syscall.SIGCONT))
	var status api.CaptureStatus
	w.until("the loss in status", func() error {
		s, err := w.api.Status(w.Context())
		if status = s.Captures; err == nil && status.Lost == 0 {
			err = errors.New("nothing is lost")
		}
		return err
	})
	said := c.stop()
	status.Captured -= earlier.Captures.Captured
	if want := "lost because the buffer was full"; !strings.Contains(said, want) || status.Captured+status.Lost != w.rule("sink").Packets {
		t.Errorf("it says %s, status %+v of %d packets", said, status, w.rule("sink").Packets)
	}

	w.capture("orphan")
	w.daemon.Kill()
	w.daemon = nil
	w.start(fmt.Sprintf(captureConfig, "tc"))
	w.until("the daemon before this one is gone", gone)
}
