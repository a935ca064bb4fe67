package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

	// nftShare is which part of a sample's packets nft gets: it takes that much longer.
	nftShare = 25
)

// liveCase is packets that really travel: the generator's frames go out on one end of a veth pair, or into the network
// stack of an interface.
type liveCase struct {
	name, about string
	*generator
	node     *testnet.Node          // where it sends
	ifindex  int                    // interface that frames come in by; 0: they are sent to a veth pair
	received func() (uint64, error) // how many arrived, by another's count
	packets  int                    // a sample
	samples  []float64
}

// live is the network in which packets travel:
//
//	sender a0 --- b0 box   return XDP_DROP
//	       a1 --- b1       gardu
//	       a2 --- b2       nft, one rule that drops
//	       a3 --- b3       nft, 1,000 rules
type live struct {
	network     *testnet.Net
	sender, box *testnet.Node
	dir         string
	links       []link.Link
	cases       []*liveCase
}

// names of the cases that others are compared with.
const (
	liveBare  = "veth, return XDP_DROP"
	liveGardu = "veth, gardu"
	liveStack = "stack, nft drops"
	liveNft   = "stack, nft 1,000 rules"
)

// newLive makes the network. filter is the subject whose program and packets the veth cases share, rules the one that
// has nft's rules and packets.
func newLive(filter *world, filtered, ruled []tuple, rules ruleset, packets int) (l *live, err error) {
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
	if l.sender, err = l.node("sender"); err != nil {
		return l, err
	}
	if l.box, err = l.node("box"); err != nil {
		return l, err
	}
	indexes := map[string]int{}
	for i := range 4 {
		a, b := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		if err := l.network.Connect(testnet.End{Node: l.sender, Name: a}, testnet.End{Node: l.box, Name: b}, 0); err != nil {
			return l, err
		}
		if err := l.box.SetGRO(b, true); err != nil { // the stack takes live frames only of interfaces that poll
			return l, err
		}
		for name, node := range map[string]*testnet.Node{a: l.sender, b: l.box} {
			if indexes[name], err = interfaceIndex(node, name); err != nil {
				return l, err
			}
		}
	}
	add := func(c *liveCase, tuples []tuple, o options, last string) (err error) {
		if c.generator, err = newGenerator(tuples, o); err != nil {
			return err
		}
		l.cases = append(l.cases, c)
		return c.put(c.own[last])
	}
	bare := &liveCase{name: liveBare, about: "nothing but the drop", node: l.sender, packets: packets, received: l.arrived("b0")}
	if err := add(bare, filtered, options{sendTo: indexes["a0"]}, benchProgSend); err != nil {
		return l, err
	}
	gardu := &liveCase{name: liveGardu, about: "a list of 1M prefixes and 1,000 rules: half of the packets are on the list, half match a rule",
		node: l.sender, packets: packets, received: func() (uint64, error) {
			t, err := filter.counted(nil)
			return t.dropped, err
		}}
	if err := add(gardu, filtered, options{sendTo: indexes["a1"]}, benchProgSend); err != nil {
		return l, err
	}
	program, err := filter.Program(dataplane.HookXDP)
	if err != nil {
		return l, err
	}
	for name, program := range map[string]*ebpf.Program{"b0": bare.own[benchProgEmpty], "b1": program} {
		if err := l.attach(indexes[name], program); err != nil {
			return l, err
		}
	}
	if err := l.loadNft(rules); err != nil {
		return l, err
	}
	stack := &liveCase{name: liveStack, about: "into the network stack, where the first rule on nft's ingress hook drops",
		node: l.box, ifindex: indexes["b2"], packets: packets, received: l.nftCount("one")}
	if err := add(stack, ruled, options{}, benchProgInject); err != nil {
		return l, err
	}
	nft := &liveCase{name: liveNft, about: "the rules and packets of \"two fields, 1,000\", then a drop",
		node: l.box, ifindex: indexes["b3"], packets: packets / nftShare, received: l.nftCount("many")}
	return l, add(nft, ruled, options{}, benchProgInject)
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

func (l *live) close() error {
	var errs []error
	for _, c := range l.cases {
		errs = append(errs, c.generator.close())
	}
	for _, attached := range l.links {
		errs = append(errs, attached.Close())
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

func (l *live) attach(ifindex int, program *ebpf.Program) error {
	return l.box.Do(func() error {
		attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("attach to a veth: %w", err)
		}
		l.links = append(l.links, attached)
		return nil
	})
}

// loadNft puts the rules on b3, and one that drops on b2 and behind them. Every packet is counted by the first rule.
func (l *live) loadNft(rules ruleset) error {
	var b strings.Builder
	head := "  chain %s { type filter hook ingress device %q priority 0; policy drop;\n    counter\n"
	fmt.Fprintf(&b, "table netdev bench {\n"+head+"  }\n"+head, "one", "b2", "many", "b3")
	for _, e := range rules {
		b.WriteString("    " + e.nft() + " drop\n")
	}
	b.WriteString("  }\n}\n")
	path := filepath.Join(l.dir, "rules.nft")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return err
	}
	_, err := l.box.Output(context.Background(), "nft", "-f", path)
	return err
}

// nft writes the conditions in as few steps as nft can do with.
func (e entry) nft() string {
	var parts []string
	if e.src.Bits() > 0 {
		parts = append(parts, "ip saddr "+e.src.String())
	}
	if e.dst.Bits() > 0 {
		parts = append(parts, "ip daddr "+e.dst.String())
	}
	if e.dport.Hi > 0 {
		parts = append(parts, fmt.Sprintf("th dport %d-%d", e.dport.Lo, e.dport.Hi))
		if e.dport.Lo == e.dport.Hi {
			parts[len(parts)-1] = fmt.Sprintf("th dport %d", e.dport.Lo)
		}
	}
	return strings.Join(parts, " ")
}

// nftCount reads the counter of a chain's first rule.
func (l *live) nftCount(chain string) func() (uint64, error) {
	return func() (uint64, error) {
		out, err := l.box.Output(context.Background(), "nft", "-j", "list", "chain", "netdev", "bench", chain)
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

// arrived reads how many packets an interface of the box has received.
func (l *live) arrived(name string) func() (uint64, error) {
	return func() (count uint64, err error) {
		err = l.box.Do(func() error {
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

// measure runs every case once a round.
func (l *live) measure(rounds, cpu int) error {
	for round := range rounds + 1 {
		for _, c := range l.cases {
			ns, err := c.sample(cpu)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 { // the first one warms up
				c.samples = append(c.samples, ns)
			}
		}
	}
	return nil
}

// sample sends packets from one CPU and returns the ns that each took it. The receiving side runs there as well, in
// softirqs on the sending thread or, when these become too many, in ksoftirqd.
func (c *liveCase) sample(cpu int) (ns float64, err error) {
	before, err := c.received()
	if err != nil {
		return 0, err
	}
	err = c.node.Do(func() error {
		ns, err = c.send(cpu)
		return err
	})
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		after, err := c.received()
		if err != nil {
			return 0, err
		}
		if after-before == uint64(c.packets) {
			return ns, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("of %d packets %d arrived", c.packets, after-before)
		}
	}
}

// send needs a thread of its own.
func (c *liveCase) send(cpu int) (float64, error) {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return 0, fmt.Errorf("block signals: %w", err)
	}
	options := &ebpf.RunOptions{Data: c.frame, Repeat: uint32(c.packets), Flags: liveFrames, BatchSize: liveBatch}
	if c.ifindex != 0 {
		options.Context = &xdpContext{DataEnd: uint32(len(c.frame)), IngressIfindex: uint32(c.ifindex)}
	}
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
	return float64(end-start+softirqTime(cpu)-softirqs) / float64(c.packets), nil
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

func (c *liveCase) figure() figure {
	sorted := slices.Sorted(slices.Values(c.samples))
	return figure{Median: sorted[len(sorted)/2], Min: sorted[0], Max: sorted[len(sorted)-1]}
}

// liveResult is what travelling packets gave. Times are ns a packet.
type liveResult struct {
	Cases []liveRow `json:"cases"`
	// Drop rate of gardu's to that of a bare drop, and to what the program's cost by test runs lets expect.
	OfBare     float64 `json:"of_bare"`
	OfExpected float64 `json:"of_expected"`
	// nft's cost of the rules to that of gardu's program for the same.
	NftNet    float64 `json:"nft_net"`
	GarduNet  float64 `json:"gardu_net"`
	NftFactor float64 `json:"nft_factor"`
}

type liveRow struct {
	Name  string  `json:"name"`
	About string  `json:"about"`
	Time  figure  `json:"time"`
	Mpps  float64 `json:"mpps"`
}

// result compares, with the net costs by test runs of the same filter and of the same rules.
func (l *live) result(filterNet, rulesNet float64) *liveResult {
	r := &liveResult{GarduNet: rulesNet}
	median := map[string]float64{}
	for _, c := range l.cases {
		f := c.figure()
		median[c.name] = f.Median
		r.Cases = append(r.Cases, liveRow{Name: c.name, About: c.about, Time: f, Mpps: 1000 / f.Median})
	}
	r.OfBare = median[liveBare] / median[liveGardu]
	r.OfExpected = (median[liveBare] + filterNet) / median[liveGardu]
	r.NftNet = median[liveNft] - median[liveStack]
	r.NftFactor = r.NftNet / rulesNet
	return r
}

// markdown writes the part for people.
func (r *liveResult) markdown() string {
	var b strings.Builder
	b.WriteString("## Packets that travel\n\n")
	b.WriteString("Sent by the kernel as live frames, all on one CPU; times are ns a packet and hold the sending and, over veth, the way.\n\n")
	b.WriteString("| case | ns | min | max | Mpps |\n|---|--:|--:|--:|--:|\n")
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.0f | %.2f |\n", c.Name, c.Time.Median, c.Time.Min, c.Time.Max, c.Mpps)
	}
	b.WriteString("\n")
	met := func(ok bool) string {
		if ok {
			return "met"
		}
		return "**missed**"
	}
	fmt.Fprintf(&b, "- gardu drops %.0f %% of what a bare drop does (aim 50 %%, %s), and %.0f %% of what its cost by test runs lets expect (aim within 15 %%, %s).\n",
		100*r.OfBare, met(r.OfBare >= 0.5), 100*r.OfExpected, met(r.OfExpected > 0.85 && r.OfExpected < 1.15))
	fmt.Fprintf(&b, "- nft needs %.0f ns more for the 1,000 rules than for one; gardu's program needs %.0f ns for the same rules and packets: %.0f times less (aim 20, %s).\n",
		r.NftNet, r.GarduNet, r.NftFactor, met(r.NftFactor >= 20))
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "- **%s**: %s\n", c.Name, c.About)
	}
	return b.String()
}
