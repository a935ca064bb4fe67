package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gardu/ctl/dataplane"
	"gardu/ctl/model"
)

// Names of the cases that others are compared with.
const (
	liveBare     = "XDP_DROP"
	liveBareTX   = "XDP_TX"
	liveBareSend = "XDP_REDIRECT"
	liveBarePass = "XDP_PASS"
	liveRouter   = "Linux router"
	liveOneRule  = "gardu drops: one rule"
	liveFiltered = "gardu drops: 1M list, 1,000 rules"
	stackNft     = "nft, 1 rule"
	stackTC      = "tc bpf, drop"
	stackU32     = "tc u32, 1 rule"
)

// nftSizes are how many rules nft walks, one by one.
var nftSizes = []size{{10, "10"}, {100, "100"}, {1000, "1,000"}}

// liveCases are what travels: first over veth through XDP programs, then through the box's stack.
func liveCases() []*liveCase {
	bare := func(name, about, program string, send bool) *liveCase {
		return &liveCase{name: name, about: about, tuples: clients(many), setup: func(l *live, c *liveCase, p pair) error {
			to, at := l.box, p.b
			switch {
			case name == liveBareTX:
				to, at = l.sender, p.a
				if err := l.attach(l.sender, p.aIndex, l.drop.own[benchProgEmpty]); err != nil {
					return err
				}
			case send:
				to, at = l.sink, p.s
				if err := l.catch(p); err != nil {
					return err
				}
			}
			if err := l.across(c, p, to, at, program); err != nil {
				return err
			}
			from := c.generator
			if send { // an instance whose program sends by o
				other, err := newGenerator(clients(1)(), options{programs: []string{program}, sendTo: p.oIndex})
				if err != nil {
					return err
				}
				defer other.close()
				from = other
			}
			return l.attach(l.box, p.bIndex, from.own[program])
		}}
	}
	gardu := func(name, about, of string, s scenario, forwards bool) *liveCase {
		return &liveCase{name: name, about: about, of: of, tuples: s.tuples, setup: func(l *live, c *liveCase, p pair) error {
			if _, err := l.gardu(p, s); err != nil {
				return err
			}
			if !forwards {
				return l.across(c, p, l.box, p.b)
			}
			if err := l.catch(p); err != nil {
				return err
			}
			return l.across(c, p, l.sink, p.s)
		}}
	}
	farmed := func(mode model.Mode, flows bool) scenario {
		return scenario{snapshot: func() *model.Snapshot { return balanced(mode, usualFarm) }, noFlows: !flows, tuples: clients(many)}
	}
	list := []*liveCase{
		{name: "generator alone", about: "frames that are made and dropped, and never travel", tuples: clients(many), setup: func(l *live, c *liveCase, p pair) (err error) {
			c.node = l.sender
			if c.generator, err = newGenerator(c.tuples(), options{programs: []string{benchProgEmpty}}); err != nil {
				return err
			}
			return c.put(c.own[benchProgEmpty])
		}},
		bare(liveBare, "over veth to a program that drops: what this machine can do", benchProgEmpty, false),
		bare(liveBareTX, "sent back", benchProgFloorRewrite, false),
		bare(liveBareSend, "sent on by another veth", benchProgSend, true),
		bare(liveBarePass, "passed to the stack, which isn't whom they are for", benchProgInject, false),
		gardu(liveOneRule, "", liveBare, scenario{snapshot: func() *model.Snapshot { return droppedAll(0) }, noFlows: true, tuples: clients(many)}, false),
		{name: liveFiltered, about: "half of the packets are on the list, half match a rule", of: liveBare,
			tuples: func() []tuple { return twoFields(1000).packetsBehind(feed4()) }, setup: func(l *live, c *liveCase, p pair) error {
				w, err := l.gardu(p, scenario{snapshot: func() *model.Snapshot { return twoFields(1000).behind(feed4()) }})
				if err != nil {
					return err
				}
				if err := l.across(c, p, l.box, p.b); err != nil {
					return err
				}
				c.received = func() (uint64, error) {
					t, err := w.counted(nil)
					return t.dropped, err
				}
				return nil
			}},
		gardu("gardu passes", "without flow accounting", liveBarePass, scenario{snapshot: nothing, tuples: clients(many)}, false),
		gardu("gardu passes and counts flows", "64k flows", liveBarePass, scenario{snapshot: flowsOnly, tuples: clients(many)}, false),
		gardu("gardu dsr, no flows", "64 services, the backend by hash alone", liveBareSend, farmed("dsr", false), true),
		gardu("gardu dsr", "64 services, 64k flows", liveBareSend, farmed("dsr", true), true),
		gardu("gardu ipip", "64 services, 64k flows", liveBareSend, farmed("ipip", true), true),
		gardu("gardu gue", "64 services, 64k flows", liveBareSend, farmed("gue", true), true),
		gardu("gardu nat", "64 services, 64k flows and translations", liveBareSend, farmed("nat", true), true),
	}
	list = append(list, forwardingPeers()...)
	list = append(list, ipvsPeers()...)
	return append(list, filterPeers()...)
}

// through makes a case of a box that sends on by o what comes by b.
func through(name, about, of string, slow int, prepare func(*live, pair) error) *liveCase {
	return &liveCase{name: name, about: about, of: of, slow: slow, tuples: clients(many), setup: func(l *live, c *liveCase, p pair) error {
		if err := prepare(l, p); err != nil {
			return err
		}
		if err := l.catch(p); err != nil {
			return err
		}
		return l.across(c, p, l.sink, p.s)
	}}
}

// forwardingPeers do by the kernel's own means what gardu does with services.
func forwardingPeers() []*liveCase {
	return []*liveCase{
		through("nft fwd", "nft's ingress hook writes an Ethernet address and forwards: what dsr does", "gardu dsr", 3, func(l *live, p pair) error {
			return l.nft(fmt.Sprintf("table netdev forward {\n chain in { type filter hook ingress device %q priority 0;\n  ip daddr 192.0.2.10 tcp dport 443 ether daddr set 02:00:00:00:01:01 fwd to %q\n }\n}\n", p.b, p.o))
		}),
		through("Linux bridge", "two ports of a bridge, nothing else", "gardu dsr", 3, func(l *live, p pair) error {
			for _, step := range [][]string{{"link", "add", "br-" + p.b, "type", "bridge"}, {"link", "set", p.b, "master", "br-" + p.b},
				{"link", "set", p.o, "master", "br-" + p.b}, {"link", "set", "br-" + p.b, "up"}} {
				if _, err := l.box.Output(context.Background(), "ip", step...); err != nil {
					return err
				}
			}
			return nil
		}),
		through(liveRouter, "a route and a neighbour", "gardu dsr", 5, func(l *live, p pair) error {
			return l.apart(p, func() error { return nil })
		}),
		through("Linux router, nft dnat", "and conntrack, with a translation", "gardu nat", 10, func(l *live, p pair) error {
			return l.apart(p, func() error {
				return l.nft("table ip balance {\n chain in { type nat hook prerouting priority -100;\n  ip daddr 192.0.2.10 tcp dport 443 dnat to 10.0.0.2\n }\n}\n")
			})
		}),
	}
}

// apart moves the pair into a box of its own, which is prepared and routes: routes and tables would meet the other cases.
func (l *live) apart(p pair, prepare func() error) error {
	box := l.box
	own, err := l.node("router-" + p.b)
	if err != nil {
		return err
	}
	for _, name := range []string{p.b, p.o} {
		if _, err := box.Output(context.Background(), "ip", "link", "set", name, "netns", own.Namespace()); err != nil {
			return err
		}
		if _, err := own.Output(context.Background(), "ip", "link", "set", name, "up"); err != nil {
			return err
		}
	}
	if err := own.SetSysctl("net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	l.box = own // for this case alone
	defer func() { l.box = box }()
	if err := prepare(); err != nil {
		return err
	}
	return l.route(p)
}

// filterPeers filter by the kernel's other means, all at the ingress hook of an interface, with packets put into its stack.
func filterPeers() []*liveCase {
	nft := func(name, about, of string, slow int, tuples func() []tuple, body func(device string) string) *liveCase {
		return &liveCase{name: name, about: about, of: of, slow: slow, tuples: tuples, setup: func(l *live, c *liveCase, p pair) error {
			// Counted in a table of its own: nft reads all of a table, sets too, to show a chain of it.
			counter := fmt.Sprintf("table netdev count-%s {\n  chain in { type filter hook ingress device %[1]q priority -1; policy accept;\n    counter\n  }\n}\n", p.b)
			if err := l.nft(counter + "table netdev " + p.b + " {\n" + body(p.b) + "}\n"); err != nil {
				return err
			}
			return l.inject(c, p, l.nftCount("count-"+p.b, "in"))
		}}
	}
	chain := func(device, rules string) string {
		return fmt.Sprintf("  chain in { type filter hook ingress device %q priority 0; policy drop;\n%s  }\n", device, rules)
	}
	all := []*liveCase{nft(stackNft, "into the stack of the box, where nft's ingress hook counts in one chain and drops all in another", "", 1, twoFields(1000).packets,
		func(device string) string { return chain(device, "") })}
	for _, n := range nftSizes {
		rules := twoFields(n.n)
		all = append(all, nft("nft, "+n.name+" rules", "of two fields, one by one: the rules and packets of \"two fields, "+n.name+"\"", stackNft, max(1, n.n/40), rules.packets,
			func(device string) string {
				var b strings.Builder
				for _, e := range rules {
					b.WriteString("    " + e.nft() + " drop\n")
				}
				return chain(device, b.String())
			}))
	}
	set := func(flags, typ string, elements []string, rule string) func(string) string {
		return func(device string) string {
			return fmt.Sprintf("  set listed { type %s; %s\n    elements = { %s }\n  }\n", typ, flags, strings.Join(elements, ", ")) + chain(device, "    "+rule+" drop\n")
		}
	}
	text := func(from list) (elements []string) {
		for _, p := range from.prefixes {
			if p.IsSingleIP() {
				elements = append(elements, p.Addr().String())
				continue
			}
			elements = append(elements, p.String())
		}
		return elements
	}
	var ranges []string
	for _, e := range concatenated() {
		ranges = append(ranges, fmt.Sprintf("%s . %d-%d", e.src, e.dport.Lo, e.dport.Hi))
	}
	sources := func(name, about, flags string, slow int, from func() list) *liveCase {
		return nft(name, about, stackNft, slow, func() []tuple { return from().sources(50) }, func(device string) string {
			return set(flags, "ipv4_addr", text(from()), "ip saddr @listed")(device)
		})
	}
	const intervalSet = "flags interval; auto-merge;"
	return append(all,
		sources("nft, hash set", "10,000 addresses: those of \"10,000 addresses\"", "", 1, addresses),
		sources("nft, interval set", "10,000 prefixes: those of \"interval set 10,000\"", intervalSet, 2, intervals),
		nft("nft, concatenated ranges", "1,000 of a prefix and a range of ports: those of \"concatenated ranges\"", stackNft, 4, concatenated().packets,
			set("flags interval;", "ipv4_addr . inet_service", ranges, "meta l4proto tcp ip saddr . tcp dport @listed")),
		// Last, and the set whose elements nft merges first: for that it reads those of all sets that there are.
		sources("nft, interval set of 1M", "those of \"set 1M, half\"", intervalSet, 4, feed4),
		sources("nft, hash set of 1M", "those of \"1M addresses\"", "", 1, millionAddresses),
		tcProgram(stackTC, "at tc, a program that drops all", "", benchProgTcDrop),
		tcProgram("tc bpf, hash of 10,000 addresses", "at tc, a program that looks into a hash map of those of \"10,000 addresses\"", stackTC, benchProgTcSet),
		tcList("gardu at tc, 10,000 addresses", "the same with gardu's program", addresses),
		tcList("gardu at tc, 1M addresses", "those of \"nft, hash set of 1M\"", millionAddresses),
		tcList("gardu at tc, list of 1M", "those of \"nft, interval set of 1M\"", feed4),
		u32(stackU32, "at tc, one rule that classifies all; the stack, which isn't whom packets are for, drops them", "", 1, nil),
		u32("tc u32, 100 rules", "of two fields, in front of it: those of \"two fields, 100\"", stackU32, 10, twoFields(100)))
}

// tcList drops all packets, half of them by a list of sources, where the others do.
func tcList(name, about string, from func() list) *liveCase {
	return &liveCase{name: name, about: about, of: stackTC, tuples: func() []tuple { return from().sources(50) }, setup: func(l *live, c *liveCase, p pair) error {
		snapshot := func() *model.Snapshot {
			s := from().blocked()
			s.Filter.Default = model.Drop
			return s
		}
		w, err := l.world(scenario{snapshot: snapshot, come: p.bIndex, leave: p.oIndex})
		if err != nil {
			return err
		}
		program, err := w.Program(dataplane.HookIngress)
		if err != nil {
			return err
		}
		if err := l.attachTC(p.bIndex, program); err != nil {
			return err
		}
		return l.inject(c, p, func() (uint64, error) {
			t, err := w.counted(unremembered)
			return t.dropped + t.packets, err
		})
	}}
}

func tcProgram(name, about, of, program string) *liveCase {
	return &liveCase{name: name, about: about, of: of, tuples: func() []tuple { return addresses().sources(50) }, setup: func(l *live, c *liveCase, p pair) error {
		if err := l.inject(c, p, nil, program); err != nil {
			return err
		}
		c.received = func() (count uint64, err error) { return count, c.came.Get(&count) }
		for _, prefix := range addresses().prefixes {
			if err := c.sources.Put(prefix.Addr().As4(), uint8(1)); err != nil {
				return fmt.Errorf("list an address: %w", err)
			}
		}
		return l.attachTC(p.bIndex, c.own[program])
	}}
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

// u32 is rules at tc as u32 has them, and one behind them that all match. They classify and don't drop, which would take another module.
func u32(name, about, of string, slow int, rules ruleset) *liveCase {
	return &liveCase{name: name, about: about, of: of, slow: slow, tuples: twoFields(100).packets, setup: func(l *live, c *liveCase, p pair) error {
		if err := l.u32(p, append(slices.Clone(rules), entry{})); err != nil {
			return err
		}
		return l.inject(c, p, l.tcCount(p.b))
	}}
}

func (l *live) u32(p pair, rules ruleset) error {
	var b strings.Builder
	fmt.Fprintf(&b, "qdisc add dev %s clsact\n", p.b)
	for i, e := range rules {
		fmt.Fprintf(&b, "filter add dev %s ingress protocol ip prio %d u32 match u32 0 0", p.b, i+1)
		for field, prefix := range map[string]netip.Prefix{"src": e.src, "dst": e.dst} {
			if prefix.Bits() > 0 {
				fmt.Fprintf(&b, " match ip %s %s", field, prefix)
			}
		}
		if e.dport.Hi > 0 {
			fmt.Fprintf(&b, " match ip dport %d 0xffff", e.dport.Lo)
		}
		b.WriteString(" flowid 1:1\n")
	}
	path := filepath.Join(l.dir, "rules.tc")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return err
	}
	_, err := l.box.Output(context.Background(), "tc", "-batch", path)
	return err
}

// tcCount is how many packets a device's ingress hook has seen.
func (l *live) tcCount(device string) func() (uint64, error) {
	return func() (uint64, error) {
		out, err := l.box.Output(context.Background(), "tc", "-s", "-j", "qdisc", "show", "dev", device)
		if err != nil {
			return 0, err
		}
		var list []struct {
			Kind    string
			Packets uint64
		}
		if err := json.Unmarshal(out, &list); err != nil {
			return 0, fmt.Errorf("read tc's counters: %w", err)
		}
		for _, q := range list {
			if q.Kind == "clsact" {
				return q.Packets, nil
			}
		}
		return 0, fmt.Errorf("%s has no clsact", device)
	}
}
