package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/pkt"
)

// limitCase is a limit under a flood. Numbers are packets or, with size, bytes.
type limitCase struct {
	name, limit string
	rate, burst float64
	size        float64 // of the IP packets, when the limit is on bytes
	sources     []netip.Addr
	each        bool // each source has the rate for itself
}

// TestLimits floods rules with limits. What is let through over the time of the flood must be within 5 % of what the limit
// says, and nothing may be missing.
func TestLimits(t *testing.T) {
	one := []netip.Addr{netip.MustParseAddr("198.51.100.10")}
	three := append(one[:1:1], netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("198.51.100.12"))
	cases := []limitCase{
		{name: "packets", limit: "{rate: 5000/s, burst: 1000, per: rule}", rate: 5000, burst: 1000, sources: three},
		{name: "bytes", limit: "{rate: 2MB/s, burst: 400kB, per: rule}", rate: 2e6, burst: 400e3, size: 1000, sources: one},
		{name: "bits", limit: "{rate: 8Mbit/s, burst: 200kB, per: dst}", rate: 1e6, burst: 200e3, size: 500, sources: three},
		{name: "each-source", limit: "{rate: 1000/s, burst: 200, per: src}", rate: 1000, burst: 200, sources: three, each: true},
	}
	w := newWorld(t, 0)
	w.must(w.client.SetTxChecksum("eth0", false)) // XDP hands on frames whose checksum is not there yet
	w.start("interfaces: {client0: {path: xdp}}\n")
	for _, path := range []string{"xdp", "tc"} {
		for i, c := range cases {
			t.Run(path+"-"+c.name, func(t *testing.T) {
				w := *w
				w.T = t
				port := uint16(9000 + i)
				w.apply(fmt.Sprintf("interfaces: {client0: {path: %s}}\nfilter:\n  rules:\n    - {name: %s-%s, match: {proto: udp, dport: %d}, limit: %s, action: drop}\n",
					path, c.name, path, port, c.limit))
				w.limit(c, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), port))
			})
		}
	}
}

// limit floods one rule.
func (w *world) limit(c limitCase, to netip.AddrPort) {
	w.Helper()
	socket := w.socket(w.box, to)
	w.must(largeBuffer(socket))
	arrived := w.arrivalsOn(socket, false)
	droppedBefore := w.dropped()
	f := w.floodFor(3*time.Second, c, to)
	got := func() (sum int) {
		for _, source := range c.sources {
			sum += arrived.of(source)
		}
		return sum
	}
	w.until("every packet is accounted for", func() error {
		if seen := got() + int(w.dropped()-droppedBefore); seen != f.sent {
			return fmt.Errorf("%d of %d", seen, f.sent)
		}
		return nil
	})
	unit, buckets := 1.0, 1.0
	if c.size > 0 {
		unit = c.size
	}
	if c.each {
		buckets = float64(len(c.sources))
	}
	// While the flood stood still for longer than it takes to fill the bucket, tokens were lost.
	most := buckets * (c.burst + c.rate*f.took.Seconds()) / unit
	least := buckets * (c.burst + c.rate*(f.took-f.stood).Seconds()) / unit
	w.Logf("sent %d in %s (stood still %s), let through %d, want %.0f to %.0f", f.sent, f.took, f.stood, got(), least, most)
	if float64(f.sent) < 2*most {
		w.Errorf("that was no flood: %d packets for a limit of %.0f", f.sent, most)
	}
	if n := float64(got()); n < 0.95*least || n > 1.05*most {
		w.Errorf("%d packets were let through, want %.0f to %.0f within 5 %%", got(), least, most)
	}
}

// dropped is how many packets rules dropped.
func (w *world) dropped() uint64 {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status.Reasons["rule-drop"].Packets
}

// flooded is what a flood was.
type flooded struct {
	sent  int
	took  time.Duration // from before the first packet until after the last
	stood time.Duration // of it, how long a full bucket can have waited
}

// floodFor sends as fast as it can, from all sources in turn.
func (w *world) floodFor(long time.Duration, c limitCase, to netip.AddrPort) (f flooded) {
	w.Helper()
	const headers = 28 // IPv4 and UDP
	payload := make([]byte, max(1, int(c.size)-headers))
	sockets := make([]*net.UDPConn, len(c.sources))
	for i, source := range c.sources {
		sockets[i] = w.socket(w.client, netip.AddrPortFrom(source, 0))
	}
	fills := time.Duration(c.burst / c.rate * float64(time.Second))
	begin := time.Now()
	for last := begin; f.took < long; {
		for _, socket := range sockets {
			if _, err := socket.WriteToUDPAddrPort(payload, to); err != nil {
				w.Fatal(err)
			}
			f.sent++
		}
		now := time.Now()
		f.stood += max(0, now.Sub(last)-fills)
		f.took, last = now.Sub(begin), now
	}
	return f
}

// largeBuffer lets a socket wait for a reader that doesn't get the CPU.
func largeBuffer(socket *net.UDPConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	})
	if err != nil {
		return err
	}
	return failed
}

// TestLimitsGetRoom: 60,000 flows owe their one packet for an hour, nearly as many as there are buckets at first. Within seconds nearly each has one of
// its own, and none has had its packet twice.
func TestLimitsGetRoom(t *testing.T) {
	const flows = 60_000
	w := newWorld(t, 0)
	w.prepareXDP()
	w.start(`
interfaces: {client0: {path: xdp}}
filter:
  rules:
    - {name: once, match: {proto: udp, dport: 9100}, limit: {rate: 1/h, burst: 1, per: flow}, action: drop}
    - {name: sink, match: {proto: udp, dport: 9100}, action: drop}
`)
	wire := w.sender(w.client, "eth0")
	frame, err := pkt.Parse("udp 198.51.100.10:1 > 198.51.100.1:9100 len 10")
	w.must(err)
	const sport = 14 + 20 // of the frame; a wrong checksum doesn't matter to who isn't reached
	var sent, passed uint64
	wave := func() {
		w.onOneCPU(func() error {
			for port := range uint16(flows) {
				frame[sport], frame[sport+1] = byte((1000+port)>>8), byte(1000+port)
				if err := unix.Send(wire, frame, 0); err != nil {
					return err
				}
			}
			return nil
		})
		sent += flows
		w.until("all packets there", func() error {
			once := w.rule("once")
			if once.Packets < sent {
				return fmt.Errorf("%d of %d", once.Packets, sent)
			}
			passed = once.Packets - once.Decided
			return nil
		})
	}
	wave()
	first := passed
	w.until("each flow had its packet", func() error {
		if wave(); passed < flows*99/100 { // a few find no free one in their line
			return fmt.Errorf("%d of %d", passed, flows)
		}
		return nil
	})
	wave()
	status, err := w.api.Status(w.Context())
	w.must(err)
	t.Logf("%d of %d flows had their packet at first, then %d; %+v", first, flows, passed, status.Limits)
	if passed > flows || first == flows || status.Limits.Shared == 0 {
		t.Errorf("%d of %d packets passed at first, then %d; %+v", first, flows, passed, status.Limits)
	}
	for _, warning := range status.Warnings {
		if strings.Contains(warning, "bucket") {
			t.Errorf("there is room still: %s", warning)
		}
	}
}
