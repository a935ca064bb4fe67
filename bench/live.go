package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/dataplane"
	"gardu/ctl/testnet"
)

const (
	liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	liveBatch  = 64     // frames that the kernel sends at once
)

// generatorAddress is where the generator's frames go to, by Ethernet.
const generatorAddress = "02:00:00:00:00:01"

// liveCase is packets that really travel: the generator's frames go out on one end of a veth pair, or into the network
// stack of an interface.
type liveCase struct {
	name, about string
	of          string // an earlier case that it is compared with
	slow        int    // which part of a sample's packets it gets: it takes that much longer
	tuples      func() []tuple
	setup       func(*live, *liveCase, pair) error // after it generator and received are there

	*generator
	node     *testnet.Node          // where it sends
	ifindex  int                    // interface that frames come in by; 0: they are sent to a veth pair
	received func() (uint64, error) // how many arrived, by another's count; nil: nobody counts
	samples  []float64
	sent     int
	lost     int64
	failed   error
}

// pair is the veth pair of one case, and what leads on from the box.
//
//	sender a --- b box o --- s sink
type pair struct {
	a, b, o, s                     string
	aIndex, bIndex, oIndex, sIndex int
}

// live is the network in which packets travel.
type live struct {
	network           *testnet.Net
	sender, box, sink *testnet.Node
	dir               string
	links             []link.Link
	worlds            []*world
	drop              *generator // whose program drops at the sink, and at the sender
	cases             []*liveCase
}

// newLive makes the network and what is in it. A case that can't be made says why.
func newLive(cases []*liveCase) (l *live, err error) {
	l = &live{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = os.MkdirTemp("", "gardu-bench-*"); err != nil {
		return l, err
	}
	if l.network, err = testnet.New("gardu-bench-*"); err != nil {
		return l, err
	}
	for name, node := range map[string]**testnet.Node{"sender": &l.sender, "box": &l.box, "sink": &l.sink} {
		if *node, err = l.node(name); err != nil {
			return l, err
		}
	}
	if err := l.box.SetSysctl("net.ipv4.ip_forward", "1"); err != nil {
		return l, err
	}
	if l.drop, err = newGenerator(clients(1)(), options{programs: []string{benchProgEmpty}}); err != nil {
		return l, err
	}
	for i, c := range cases {
		say("preparing %s", c.name)
		p, err := l.pair(i)
		if err != nil {
			return l, err
		}
		l.cases = append(l.cases, c)
		c.failed = c.setup(l, c, p)
	}
	return l, nil
}

// node adds a node in which nobody but us sends anything.
func (l *live) node(name string) (*testnet.Node, error) {
	node, err := l.network.Node(name)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"all", "default"} {
		if err := node.SetSysctl("net.ipv6.conf."+key+".disable_ipv6", "1"); err != nil {
			return nil, err
		}
	}
	return node, nil
}

// pair connects the nodes once more. Frames of live programs are taken of interfaces alone that poll: that is what GRO is for.
func (l *live) pair(i int) (p pair, err error) {
	p = pair{a: fmt.Sprintf("a%d", i), b: fmt.Sprintf("b%d", i), o: fmt.Sprintf("o%d", i), s: fmt.Sprintf("s%d", i)}
	for _, ends := range [][2]testnet.End{{{Node: l.sender, Name: p.a}, {Node: l.box, Name: p.b}}, {{Node: l.box, Name: p.o}, {Node: l.sink, Name: p.s}}} {
		if err := l.network.Connect(ends[0], ends[1], 1700); err != nil {
			return p, err
		}
	}
	for _, end := range []struct {
		node  *testnet.Node
		name  string
		index *int
	}{{l.sender, p.a, &p.aIndex}, {l.box, p.b, &p.bIndex}, {l.box, p.o, &p.oIndex}, {l.sink, p.s, &p.sIndex}} {
		if *end.index, err = interfaceIndex(end.node, end.name); err != nil {
			return p, err
		}
		if err := end.node.SetGRO(end.name, true); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (l *live) close() error {
	var errs []error
	for _, c := range l.cases {
		if c.generator != nil {
			errs = append(errs, c.generator.close())
		}
	}
	for _, attached := range l.links {
		errs = append(errs, attached.Close())
	}
	for _, w := range l.worlds {
		errs = append(errs, w.Close())
	}
	if l.drop != nil {
		errs = append(errs, l.drop.close())
	}
	if l.network != nil {
		errs = append(errs, l.network.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

func interfaceIndex(node *testnet.Node, name string) (index int, err error) {
	err = node.Do(func() error {
		iface, err := net.InterfaceByName(name)
		if err == nil {
			index = iface.Index
		}
		return err
	})
	return index, err
}

// attach puts a program on an interface, at XDP in the driver.
func (l *live) attach(node *testnet.Node, ifindex int, program *ebpf.Program) error {
	return node.Do(func() error {
		attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("attach to a veth: %w", err)
		}
		l.links = append(l.links, attached)
		return nil
	})
}

// attachTC puts a program on the box's ingress hook.
func (l *live) attachTC(ifindex int, program *ebpf.Program) error {
	return l.box.Do(func() error {
		attached, err := link.AttachTCX(link.TCXOptions{Program: program, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attach to tc: %w", err)
		}
		l.links = append(l.links, attached)
		return nil
	})
}

// across makes a case whose frames go over the veth pair and are counted where the given interface receives them.
func (l *live) across(c *liveCase, p pair, to *testnet.Node, name string, programs ...string) (err error) {
	c.node, c.received = l.sender, l.arrived(to, name)
	if c.generator, err = newGenerator(c.tuples(), options{programs: append(programs, benchProgSend), sendTo: p.aIndex}); err != nil {
		return err
	}
	return c.put(c.own[benchProgSend])
}

// inject makes a case whose frames are put into the stack of the box, as if they had come in by b.
func (l *live) inject(c *liveCase, p pair, received func() (uint64, error), programs ...string) (err error) {
	c.node, c.ifindex, c.received = l.box, p.bIndex, received
	if c.generator, err = newGenerator(c.tuples(), options{programs: append(programs, benchProgInject)}); err != nil {
		return err
	}
	return c.put(c.own[benchProgInject])
}

// catch drops at the sink what comes there.
func (l *live) catch(p pair) error {
	return l.attach(l.sink, p.sIndex, l.drop.own[benchProgEmpty])
}

// world loads gardu's programs for a case.
func (l *live) world(s scenario) (*world, error) {
	w, err := newWorld(s)
	if err == nil {
		l.worlds = append(l.worlds, w)
	}
	return w, err
}

// gardu attaches gardu's program to b.
func (l *live) gardu(p pair, s scenario) (*world, error) {
	s.come, s.leave = p.bIndex, p.oIndex
	w, err := l.world(s)
	if err != nil {
		return nil, err
	}
	program, err := w.Program(dataplane.HookXDP)
	if err != nil {
		return nil, err
	}
	return w, l.attach(l.box, p.bIndex, program)
}

// route has the box route to the service by o, and take the generator's frames for its own.
func (l *live) route(p pair) error {
	next := netip.AddrFrom4([4]byte{10, 255, 0, 2})
	for _, step := range [][]string{
		{"link", "set", p.b, "address", generatorAddress},
		{"address", "add", "198.19.255.254/15", "dev", p.b},
		{"address", "add", "10.255.0.1/30", "dev", p.o},
		{"neigh", "add", next.String(), "lladdr", "02:00:00:00:00:09", "dev", p.o},
		{"route", "add", "192.0.2.0/24", "via", next.String()},
		{"route", "add", "10.0.0.0/16", "via", next.String()},
	} {
		if _, err := l.box.Output(context.Background(), "ip", step...); err != nil {
			return err
		}
	}
	return nil
}

// nft loads a ruleset.
func (l *live) nft(text string) error {
	path := filepath.Join(l.dir, "rules.nft")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := l.box.Output(context.Background(), "nft", "-f", path)
	return err
}

// nftCount reads the counter of a chain's first rule.
func (l *live) nftCount(table, chain string) func() (uint64, error) {
	return func() (uint64, error) {
		out, err := l.box.Output(context.Background(), "nft", "-j", "list", "chain", "netdev", table, chain)
		if err != nil {
			return 0, err
		}
		var list struct {
			Nftables []struct {
				Rule struct {
					Expr []struct{ Counter *struct{ Packets uint64 } }
				}
			}
		}
		if err := json.Unmarshal(out, &list); err != nil {
			return 0, fmt.Errorf("read nft's counter: %w", err)
		}
		for _, object := range list.Nftables {
			for _, part := range object.Rule.Expr {
				if part.Counter != nil {
					return part.Counter.Packets, nil
				}
			}
		}
		return 0, errors.New("nft shows no counter")
	}
}

// arrived reads how many packets an interface has received.
func (l *live) arrived(node *testnet.Node, name string) func() (uint64, error) {
	return func() (count uint64, err error) {
		err = node.Do(func() error {
			const table = "/proc/thread-self/net/dev"
			for l := range strings.Lines(text(table)) {
				before, after, _ := strings.Cut(l, ":")
				if fields := strings.Fields(after); strings.TrimSpace(before) == name && len(fields) > 1 {
					count, err = strconv.ParseUint(fields[1], 10, 64)
					return err
				}
			}
			return fmt.Errorf("%s has no line in %s", name, table)
		})
		return count, err
	}
}

// measure runs every case once a round. A case that fails is left out from then on. After the deadline no further round begins,
// but for the first three. It returns how many there were.
func (l *live) measure(rounds, packets, cpu int, deadline time.Time) int {
	for round := range rounds + 1 {
		if round > 3 && time.Now().After(deadline) {
			return round - 1
		}
		say("travelling, round %d of %d", round, rounds)
		for _, c := range l.cases {
			if c.failed != nil {
				continue
			}
			n := packets / max(1, c.slow)
			if round == 0 { // which warms up: who keeps connections has them all from then on
				n = max(n, c.generator.packets)
			}
			ns, err := c.sample(n, cpu)
			if c.failed = err; err == nil && round > 0 {
				c.samples = append(c.samples, ns)
			}
		}
	}
	return rounds
}

// sample sends packets from one CPU and returns the ns that each took it. The receiving side runs there as well, in
// softirqs on the sending thread or, when these become too many, in ksoftirqd.
func (c *liveCase) sample(packets, cpu int) (ns float64, err error) {
	var before uint64
	if c.received != nil {
		if before, err = c.received(); err != nil {
			return 0, err
		}
	}
	err = c.node.Do(func() error {
		ns, err = c.send(packets, cpu)
		return err
	})
	if err != nil || c.received == nil {
		return ns, err
	}
	// What is under way arrives within this, or never.
	for last, deadline := uint64(0), time.Now().Add(quiet); ; time.Sleep(time.Millisecond) {
		after, err := c.received()
		if err != nil {
			return 0, err
		}
		if after != last {
			last, deadline = after, time.Now().Add(quiet)
		}
		if came := int64(after - before); came >= int64(packets) || time.Now().After(deadline) {
			c.sent, c.lost = c.sent+packets, c.lost+int64(packets)-came
			if came == 0 {
				return 0, errors.New("nothing arrived")
			}
			return ns, nil
		}
	}
}

// quiet is how long nothing arrives before the rest is lost.
const quiet = 200 * time.Millisecond

// send needs a thread of its own.
func (c *liveCase) send(packets, cpu int) (float64, error) {
	if err := stay(cpu); err != nil {
		return 0, err
	}
	options := c.run(packets)
	runtime.GC() // not in the middle of it
	softirqs := softirqTime(cpu)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, err := c.entry.Run(options); err != nil {
		return 0, fmt.Errorf("send live frames: %w", err)
	}
	end, err := threadTime()
	if err != nil {
		return 0, err
	}
	return float64(end-start+softirqTime(cpu)-softirqs) / float64(packets), nil
}

// run says what to send.
func (c *liveCase) run(packets int) *ebpf.RunOptions {
	options := &ebpf.RunOptions{Data: c.frame, Repeat: uint32(packets), Flags: liveFrames, BatchSize: liveBatch}
	if c.ifindex != 0 {
		options.Context = &xdpContext{DataEnd: uint32(len(c.frame)), IngressIfindex: uint32(c.ifindex)}
	}
	return options
}

// stay keeps the calling thread on a CPU and away from signals.
func stay(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	return nil
}

// xdpContext is the kernel's struct xdp_md.
type xdpContext struct {
	Data, DataEnd, DataMeta                     uint32
	IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// softirqTime is the CPU time of a CPU's ksoftirqd; 0 when it can't be seen.
func softirqTime(cpu int) time.Duration {
	name := fmt.Sprintf("ksoftirqd/%d\n", cpu)
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range all {
		if text(path) != name {
			continue
		}
		if fields := strings.Fields(text(filepath.Join(filepath.Dir(path), "schedstat"))); len(fields) > 0 {
			ns, _ := strconv.ParseInt(fields[0], 10, 64)
			return time.Duration(ns)
		}
	}
	return 0
}

// liveRow is one case of travelling packets.
type liveRow struct {
	Name   string  `json:"name"`
	About  string  `json:"about"`
	Time   figure  `json:"time"` // ns a packet: sending, the way, and what is done with it
	Mpps   float64 `json:"mpps"`
	Of     string  `json:"of,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"` // of the rate to that of `of`
	More   float64 `json:"more"`            // ns more than `of`
	Lost   float64 `json:"lost"`            // part of the packets
	Failed string  `json:"failed,omitempty"`
}

func (l *live) rows() []liveRow {
	var rows []liveRow
	median := map[string]float64{}
	for _, c := range l.cases {
		row := liveRow{Name: c.name, About: c.about, Of: c.of}
		if len(c.samples) == 0 {
			row.Failed = cmp.Or(firstLine(c.failed), "nothing was measured")
			rows = append(rows, row)
			continue
		}
		row.Time = figureOf(c.samples)
		row.Mpps = 1000 / row.Time.Median
		row.Lost = float64(c.lost) / float64(max(1, c.sent))
		median[c.name] = row.Time.Median
		if base, ok := median[c.of]; ok {
			row.Ratio, row.More = base/row.Time.Median, row.Time.Median-base
		}
		rows = append(rows, row)
	}
	return rows
}

func firstLine(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
