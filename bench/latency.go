package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/testnet"
)

// latencyRow is the time of UDP packets there and back, through a box that routes.
type latencyRow struct {
	Name   string  `json:"name"`
	About  string  `json:"about"`
	Pings  int     `json:"pings"`
	P50    float64 `json:"p50_us"`
	P99    float64 `json:"p99_us"`
	P999   float64 `json:"p999_us"`
	Load   float64 `json:"load"` // part of a CPU's time
	Lost   int     `json:"lost"`
	Failed string  `json:"failed,omitempty"`
}

// latencyCase is a program at the box's interface, with load or without.
type latencyCase struct {
	name, about string
	program     *ebpf.Program // nil: none
	load        bool
	trips       []time.Duration
	shares      []float64
	lost        int
	failed      error
}

// latencyNet is a client, a box that routes, and a server that sends back what it gets:
//
//	client c0 198.51.100.10 --- b0 box o0 --- s0 203.0.113.10 server
type latencyNet struct {
	network                *testnet.Net
	client, box, server    *testnet.Node
	ifindex                int
	load                   *generator
	world                  *world
	cases                  []*latencyCase
	echo, ping             int // sockets
	loadCPU, pingCPU, size int
}

var (
	pingClient = netip.MustParsePrefix("198.51.100.10/24")
	pingServer = netip.MustParsePrefix("203.0.113.10/24")
)

// benchLatency measures what a program adds to the time of a packet, with a CPU idle and half loaded.
func benchLatency(s settings, r *result, cpu int) (err error) {
	l := &latencyNet{loadCPU: cpu, pingCPU: (cpu + 1) % runtime.NumCPU(), size: 5000, echo: -1, ping: -1}
	rounds := 5
	if s.quick {
		rounds, l.size = 2, 2000
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.build(); err != nil {
		return err
	}
	for round := range rounds {
		say("round trips, round %d of %d", round+1, rounds)
		for _, c := range l.cases {
			if c.failed == nil {
				c.failed = l.sample(c)
			}
		}
	}
	for _, c := range l.cases {
		r.Latency = append(r.Latency, c.row())
	}
	return nil
}

func (l *latencyNet) build() (err error) {
	if l.network, err = testnet.New("gardu-bench-*"); err != nil {
		return err
	}
	for name, node := range map[string]**testnet.Node{"client": &l.client, "box": &l.box, "server": &l.server} {
		if *node, err = l.network.Node(name); err != nil {
			return err
		}
	}
	if err := l.box.SetSysctl("net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	gateways := []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("203.0.113.1/24")}
	for _, ends := range [][2]testnet.End{
		{{Node: l.client, Name: "c0", Addresses: []netip.Prefix{pingClient}}, {Node: l.box, Name: "b0", Addresses: gateways[:1]}},
		{{Node: l.server, Name: "s0", Addresses: []netip.Prefix{pingServer}}, {Node: l.box, Name: "o0", Addresses: gateways[1:]}},
	} {
		if err := l.network.Connect(ends[0], ends[1], 0); err != nil {
			return err
		}
	}
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	if err := errors.Join(l.client.AddRoute(everywhere, gateways[0].Addr()), l.server.AddRoute(everywhere, gateways[1].Addr()),
		l.client.SetTxChecksum("c0", false), l.box.SetGRO("b0", true)); err != nil {
		return err
	}
	if l.ifindex, err = interfaceIndex(l.box, "b0"); err != nil {
		return err
	}
	sender, err := interfaceIndex(l.client, "c0")
	if err != nil {
		return err
	}
	if l.load, err = newGenerator(clients(many)(), options{programs: []string{benchProgSend, benchProgDropLoad}, sendTo: sender}); err != nil {
		return err
	}
	if err := l.load.put(l.load.own[benchProgSend]); err != nil {
		return err
	}
	if l.world, err = newWorld(scenario{snapshot: meterAndFilter, come: l.ifindex, leave: l.ifindex + 1}); err != nil {
		return err
	}
	gardu, err := l.world.Program(dataplane.HookXDP)
	if err != nil {
		return err
	}
	bare := l.load.own[benchProgDropLoad]
	l.cases = []*latencyCase{
		{name: "idle, a bare program", about: "which passes pings", program: bare},
		{name: "idle, gardu", about: "1,000 rules and flow accounting", program: gardu},
		{name: "half loaded, a bare program", about: "which drops the load and passes pings", program: bare, load: true},
		{name: "half loaded, gardu", about: "which drops the load by a rule in front of the 1,000", program: gardu, load: true},
	}
	return l.sockets()
}

// meterAndFilter drops the load, has 1,000 rules for the rest, and counts flows.
func meterAndFilter() *model.Snapshot {
	s := flowsOnly()
	drop := ruleset{{src: netip.MustParsePrefix("198.18.0.0/15")}}
	s.Filter.Rules = append(drop, twoFields(1000)...).snapshot().Filter.Rules
	return s
}

// sockets opens those of client and server, which block for a while at most, and has the server send back what it gets.
func (l *latencyNet) sockets() error {
	open := func(node *testnet.Node, fd *int, bind netip.AddrPort) error {
		return node.Do(func() (err error) {
			if *fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return fmt.Errorf("open a socket: %w", err)
			}
			wait := unix.Timeval{Usec: 200_000}
			return errors.Join(unix.SetsockoptTimeval(*fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
				unix.Bind(*fd, &unix.SockaddrInet4{Port: int(bind.Port()), Addr: bind.Addr().As4()}))
		})
	}
	if err := open(l.server, &l.echo, netip.AddrPortFrom(pingServer.Addr(), 7)); err != nil {
		return err
	}
	return open(l.client, &l.ping, netip.AddrPortFrom(pingClient.Addr(), 40000))
}

func (l *latencyNet) close() error {
	var errs []error
	for _, fd := range []int{l.echo, l.ping} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if l.load != nil {
		errs = append(errs, l.load.close())
	}
	if l.world != nil {
		errs = append(errs, l.world.Close())
	}
	if l.network != nil {
		errs = append(errs, l.network.Close())
	}
	return errors.Join(errs...)
}

// sample attaches a case's program and sends pings, one after the other.
func (l *latencyNet) sample(c *latencyCase) (err error) {
	var attached link.Link
	err = l.box.Do(func() (err error) {
		attached, err = link.AttachXDP(link.XDPOptions{Program: c.program, Interface: l.ifindex, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return fmt.Errorf("attach to a veth: %w", err)
	}
	defer func() { err = errors.Join(err, attached.Close()) }()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- l.sendBack(ctx) }()
	running := 1
	if c.load {
		running++
		began := make(chan struct{})
		go func() { ended <- l.loaded(ctx, c, began) }()
		select {
		case <-began:
		case err := <-ended:
			stop()
			return err
		}
	}
	trips, lost, err := l.pings()
	stop()
	for range running {
		err = errors.Join(err, <-ended)
	}
	c.trips, c.lost = append(c.trips, trips...), c.lost+lost
	return err
}

// sendBack is the server.
func (l *latencyNet) sendBack(ctx context.Context) error {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := stay(l.pingCPU); err != nil {
		return err
	}
	buffer := make([]byte, 64)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(l.echo, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err == nil {
			err = unix.Sendto(l.echo, buffer[:n], 0, from)
		}
		if err != nil {
			return fmt.Errorf("send a ping back: %w", err)
		}
	}
	return nil
}

// pings sends one packet after the other.
func (l *latencyNet) pings() (trips []time.Duration, lost int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = stay(l.pingCPU); err != nil {
			return
		}
		buffer := make([]byte, 64)
		for i := range l.size + l.size/10 {
			begin := time.Now()
			to := &unix.SockaddrInet4{Port: 7, Addr: pingServer.Addr().As4()}
			buffer[0], buffer[1] = byte(i), byte(i>>8)
			if err = unix.Sendto(l.ping, buffer[:32], 0, to); err != nil {
				return
			}
			for {
				_, _, receive := unix.Recvfrom(l.ping, buffer[32:], 0)
				if errors.Is(receive, unix.EAGAIN) {
					lost++
					break
				}
				if err = receive; err != nil {
					return
				}
				if buffer[32] == byte(i) && buffer[33] == byte(i>>8) { // not that of one that was given up
					if i >= l.size/10 { // neighbours are known by now
						trips = append(trips, time.Since(begin))
					}
					break
				}
			}
		}
	}()
	<-done
	if err != nil {
		return trips, lost, fmt.Errorf("ping: %w", err)
	}
	return trips, lost, nil
}

// loaded keeps a CPU busy with packets for half of the time, and notes for how much it really was since began. Before that it finds out how
// many packets that takes: a run lasts a while even when there is little to send.
func (l *latencyNet) loaded(ctx context.Context, c *latencyCase, began chan struct{}) error {
	return l.client.Do(func() error {
		if err := stay(l.loadCPU); err != nil {
			return err
		}
		var since time.Time
		var start, now time.Duration // of the thread's time
		enough := false
		for n := 10_000; ctx.Err() == nil; {
			begin := time.Now()
			before, err := threadTime()
			if err != nil {
				return err
			}
			options := &ebpf.RunOptions{Data: l.load.frame, Repeat: uint32(n), Flags: liveFrames, BatchSize: liveBatch}
			if _, err := l.load.entry.Run(options); err != nil {
				return fmt.Errorf("send a load: %w", err)
			}
			if now, err = threadTime(); err != nil {
				return err
			}
			if !enough {
				if enough = 2*(now-before) >= time.Since(begin) || n > 1_000_000; !enough {
					n += n / 2
					continue
				}
				close(began)
				since, start = begin, before
			}
			time.Sleep(2*(now-start) - time.Since(since))
		}
		if enough {
			c.shares = append(c.shares, float64(now-start)/float64(time.Since(since)))
		}
		return nil
	})
}

func (c *latencyCase) row() latencyRow {
	row := latencyRow{Name: c.name, About: c.about, Pings: len(c.trips), Lost: c.lost, Failed: firstLine(c.failed)}
	if len(c.trips) == 0 {
		return row
	}
	slices.Sort(c.trips)
	at := func(share float64) float64 {
		return float64(c.trips[int(share*float64(len(c.trips)-1))]) / float64(time.Microsecond)
	}
	row.P50, row.P99, row.P999 = at(0.5), at(0.99), at(0.999)
	for _, s := range c.shares {
		row.Load += s / float64(len(c.shares))
	}
	return row
}

func latencyPart(b *strings.Builder, rows []latencyRow) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n## Round trips\n\nUDP there and back through a box that routes, us, one ping after the other. load: the part of its time that another CPU sends and drops packets.\n\n")
	b.WriteString("| case | pings | p50 | p99 | p99.9 | load | lost | |\n|---|--:|--:|--:|--:|--:|--:|---|\n")
	for _, c := range rows {
		if c.Failed != "" {
			fmt.Fprintf(b, "| %s | not measured: %s |\n", c.Name, c.Failed)
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s | %.0f %% | %d | %s |\n", c.Name, c.Pings, short(c.P50), short(c.P99), short(c.P999), 100*c.Load, c.Lost, c.About)
	}
}
