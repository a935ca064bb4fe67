package main

import (
	"net/netip"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// What XDP programs return, the same in every kernel (enum xdp_action).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// scenario is a case of the table before it is loaded: a program, or a snapshot for gardu's own, and packets.
type scenario struct {
	name, about string
	program     string                 // of bench.c; "": gardu's XDP program
	records     int                    // of the table that the program looks into
	beside      func() []tuple         // packets that another CPU sends meanwhile; nil: none
	peer        bool                   // xdp-filter in its place
	base        string                 // what net is net of; "": emptyName
	world       string                 // scenarios of the same world share its data plane
	snapshot    func() *model.Snapshot // of the world
	noFlows     bool                   // the world's programs are without flow accounting
	room        int                    // flows a CPU that the world's flow table is made for; 0: as many as the largest of flowCounts
	blocks      int                    // in force in the world
	arriving    int                    // blocks added each second while packets are sent
	tuples      func() []tuple         // the packets, in the order in which they are sent
	action      uint32                 // of the last packet
	reasons     []abi.Reason           // of all packets; none for programs of bench.c, which don't count
	aim         float64                // ns net of the empty program, or times the net of `of`; 0: none
	of          string                 // an earlier scenario
}

// emptyName is the case that all others are compared with.
const emptyName = "empty"

// emptyName6 is what cases of IPv6 packets are compared with.
const emptyName6 = "empty, IPv6"

// listAndRules is the case that is measured with travelling packets as well, and rulesForNft the one that nft has the rules of.
const (
	listAndRules = "set 1M and 1,000 rules"
	rulesForNft  = "two fields, 1,000"
)

// flowCounts are how many flows the packets of a case belong to, with the aim for everything together.
var flowCounts = [...]struct {
	flows int
	name  string
	aim   float64
	alone float64 // the aim for flow accounting alone; 0: none
}{{1, "1 flow", 90, 60}, {64_000, "64k flows", 350, 240}, {500_000, "500k flows", 370, 0}}

// scenarios are the rows of the table, the empty program first.
func scenarios() []scenario {
	const many = 64_000
	lists := sync.OnceValues(func() (list, list) { return feed4(), feed6() })
	v4 := func() list { l, _ := lists(); return l }
	v6 := func() list { _, l := lists(); return l }
	dropped := []abi.Reason{abi.ReasonDefaultDrop}
	pass, drop := []abi.Reason{abi.ReasonDefaultPass}, []abi.Reason{abi.ReasonRuleDrop}
	either, forward := []abi.Reason{abi.ReasonDefaultPass, abi.ReasonRuleDrop}, []abi.Reason{abi.ReasonForward}
	ipip := func() *model.Snapshot { return balanced("ipip") }
	dsr := func() *model.Snapshot { return balanced("dsr") }
	gue := func() *model.Snapshot { return balanced("gue") }
	list := []scenario{
		{name: emptyName, about: "return XDP_DROP: the measuring loop and the generator",
			program: benchProgEmpty, tuples: clients(1), action: xdpDrop},
		{name: "floor ipip", about: "room for an IPv4 header and constant bytes in it: the least that wrapping costs",
			program: benchProgFloorIpip, tuples: clients(1), action: xdpTX},
		{name: "pass", about: "nothing configured: parse, count, pass",
			world: "nothing", snapshot: nothing, tuples: clients(1), action: xdpPass, reasons: pass},
		{name: emptyName6, about: "the same with IPv6 packets",
			program: benchProgEmpty, tuples: func() []tuple { return v6().sources(100)[:1] }, action: xdpDrop},
		{name: "set 1M, miss", about: "a block list of 1M prefixes; no source is on it",
			world: "set", snapshot: func() *model.Snapshot { return v4().blocked() },
			tuples: func() []tuple { return v4().sources(0) }, action: xdpPass, reasons: pass},
		{name: "set 1M, 5 %", about: "one source in 20 is on it", aim: 150,
			world: "set", snapshot: func() *model.Snapshot { return v4().blocked() },
			tuples: func() []tuple { return v4().sources(5) }, action: xdpPass, reasons: either},
		{name: "set 1M, half", about: "half of the sources are on it", aim: 350,
			world: "set", snapshot: func() *model.Snapshot { return v4().blocked() },
			tuples: func() []tuple { return v4().sources(50) }, action: xdpPass, reasons: either},
		{name: "set 1M, hit", about: "all sources are on it",
			world: "set", snapshot: func() *model.Snapshot { return v4().blocked() },
			tuples: func() []tuple { return v4().sources(100) }, action: xdpDrop, reasons: drop},
		{name: "set6 1M, 5 %", about: "a block list of 1M IPv6 prefixes; one source in 20 is on it", aim: 150, base: emptyName6,
			world: "set6", snapshot: func() *model.Snapshot { return v6().blocked() },
			tuples: func() []tuple { return v6().sources(5) }, action: xdpPass, reasons: either},
		{name: "set6 1M, half", about: "half of the sources are on it", aim: 400, base: emptyName6,
			world: "set6", snapshot: func() *model.Snapshot { return v6().blocked() },
			tuples: func() []tuple { return v6().sources(50) }, action: xdpPass, reasons: either},
		{name: "xdp-filter, 10,000 addresses", about: "the peer: xdpfilt_alw_all of xdp-tools, 10,000 source addresses, half of the packets from them",
			peer: true, tuples: func() []tuple { return addresses().sources(50) }, action: xdpPass},
		{name: "10,000 addresses", about: "gardu with the same addresses and packets", aim: 1 / 1.5, of: "xdp-filter, 10,000 addresses",
			world: "addresses", snapshot: func() *model.Snapshot { return addresses().blocked() },
			tuples: func() []tuple { return addresses().sources(50) }, action: xdpPass, reasons: either},
		{name: "rules 10", about: "10 rules of eight shapes, each packet hits one",
			world: "few", snapshot: func() *model.Snapshot { return rules(10) }, tuples: hits(10), action: xdpDrop, reasons: drop},
		{name: "rules 10,000", about: "10,000 rules of the same shapes", aim: 2.5, of: "rules 10",
			world: "many", snapshot: func() *model.Snapshot { return rules(manyRules) }, tuples: hits(manyRules), action: xdpDrop, reasons: drop},
		{name: "limit, within", about: "a limit per source, 65k sources, none over it", aim: 200,
			world: "limit", snapshot: func() *model.Snapshot { return limited(1_000_000, time.Second, 1_000_000) }, tuples: clients(65_536),
			action: xdpPass, reasons: pass},
		{name: "limit, over", about: "the same, all of them over it", aim: 200,
			world: "limit over", snapshot: func() *model.Snapshot { return limited(1, time.Hour, 1) }, tuples: clients(65_536), action: xdpDrop, reasons: either},
		{name: "no service", about: "64 services, packets for another address, without flow accounting",
			world: "stateless", snapshot: ipip, noFlows: true, tuples: strangers(many), action: xdpPass, reasons: pass},
		{name: "service, stateless", about: "64 services by ipip, the backend by hash alone, without flow accounting, 64k flows",
			world: "stateless", snapshot: ipip, noFlows: true, tuples: clients(many), action: xdpRedirect, reasons: forward},
		{name: "service dsr, 64k flows", about: "64 services by dsr and flow accounting",
			world: "dsr", snapshot: dsr, tuples: clients(many), action: xdpRedirect, reasons: forward},
	}
	list = append(list, ruleScenarios(either)...)
	list = append(list, scenario{name: listAndRules, about: "the list and 1,000 rules; half of the packets are on the list, half match a rule",
		world: listAndRules, snapshot: func() *model.Snapshot { return twoFields(1000).behind(v4()) },
		tuples: func() []tuple { return twoFields(1000).packetsBehind(v4()) }, action: xdpDrop, reasons: drop})
	for _, n := range flowCounts {
		list = append(list, scenario{name: "flows, " + n.name, about: "flow accounting alone",
			world: "flows", snapshot: flowsOnly, tuples: clients(n.flows), action: xdpPass, reasons: pass, aim: n.alone})
	}
	const alone, elephant = "two CPUs, a flow each", "two CPUs, one flow"
	list = append(list,
		scenario{name: alone, about: "flow accounting alone, while another CPU receives another flow: what the machine's cores share",
			world: "flows", snapshot: flowsOnly, tuples: clients(1), beside: everNew(1), action: xdpPass},
		scenario{name: elephant, about: "while another CPU receives the same flow", aim: 1.1, of: alone,
			world: "flows", snapshot: flowsOnly, tuples: clients(1), beside: clients(1), action: xdpPass},
		scenario{name: "floor 64k records", about: "no gardu: one record of a table, picked by the packet's ends; 64k flows, a table for 500k",
			program: benchProgFloorRecord, records: 1 << 20, tuples: clients(many), action: xdpPass},
		scenario{name: "floor 1M records", about: "likewise; 1M flows, a table for as many: what this machine's memory takes",
			program: benchProgFloorRecord, records: 1 << 21, tuples: everNew(1_000_000), action: xdpPass},
		scenario{name: "flows, 1M flows", about: "flow accounting alone", aim: 320, room: 1_000_000,
			world: "flows, 1M", snapshot: flowsOnly, tuples: everNew(1_000_000), action: xdpPass, reasons: pass},
		scenario{name: "flows, all new", about: "every packet is of a flow that isn't in the table, which is full", aim: 420, room: 250_000,
			world: "flows, new", snapshot: flowsOnly, tuples: everNew(3_000_000), action: xdpPass, reasons: pass},
		scenario{name: "dropped, 64k flows", about: "by default, without being remembered",
			world: "dropped", snapshot: func() *model.Snapshot { return droppedAll(0) }, tuples: clients(many), action: xdpDrop, reasons: dropped},
		scenario{name: "dropped and remembered, 1 flow", about: "and remembered in a table of 65,536",
			world: "dropped and remembered", snapshot: func() *model.Snapshot { return droppedAll(65_536) }, tuples: clients(1), action: xdpDrop, reasons: dropped},
		scenario{name: "dropped and remembered, 64k flows", about: "likewise: more than the table holds for a CPU",
			world: "dropped and remembered", snapshot: func() *model.Snapshot { return droppedAll(65_536) }, tuples: clients(many), action: xdpDrop, reasons: dropped})
	for _, n := range flowCounts {
		list = append(list, scenario{name: "state, " + n.name, about: "a rule that passes what is established, packets of both directions",
			world: "state", snapshot: stateful, tuples: bothWays(n.flows), action: xdpPass,
			reasons: []abi.Reason{abi.ReasonDefaultPass, abi.ReasonRulePass}})
	}
	for _, n := range flowCounts {
		list = append(list, scenario{name: "service, " + n.name, about: "64 services by ipip and flow accounting",
			world: "service", snapshot: ipip, tuples: clients(n.flows), action: xdpRedirect, reasons: forward})
	}
	for _, n := range flowCounts {
		list = append(list, scenario{name: "service gue, " + n.name, about: "64 services by gue and flow accounting", aim: 1.3, of: "service, " + n.name,
			world: "gue", snapshot: gue, tuples: clients(n.flows), action: xdpRedirect, reasons: forward})
	}
	for _, n := range flowCounts {
		list = append(list, scenario{name: "all, " + n.name, about: "10,000 rules, 64 services by ipip, flow accounting", aim: n.aim,
			world: "all", snapshot: all, tuples: clients(n.flows), action: xdpRedirect, reasons: forward})
	}
	return append(list, blockScenarios()...)
}

// ruleScenarios are the rulesets of two fields a rule, easy and hard, and those of ClassBench.
func ruleScenarios(either []abi.Reason) []scenario {
	add := func(list []scenario, name, about string, aim float64, packets func(ruleset) []tuple, rules func() ruleset) []scenario {
		once := sync.OnceValue(rules)
		return append(list, scenario{name: name, about: about, aim: aim, world: name,
			snapshot: func() *model.Snapshot { return once().snapshot() },
			tuples:   func() []tuple { return packets(once()) }, action: xdpDrop, reasons: either})
	}
	var list []scenario
	for _, size := range []struct {
		rules int
		name  string
		aim   float64
	}{{10, "10", 150}, {1000, "1,000", 250}, {10_000, "10,000", 350}, {100_000, "100,000", 600}} {
		list = add(list, "two fields, "+size.name, size.name+" rules of two fields in up to 16 shapes", size.aim, ruleset.packets,
			func() ruleset { return twoFields(size.rules) })
	}
	list = add(list, "two fields, hard", "10,000 rules of two prefixes in 64 shapes, close together", 1000, ruleset.hardPackets,
		func() ruleset { return hard(10_000) })
	for _, size := range []struct {
		rules int
		name  string
		aim   float64
	}{{1000, "1,000", 250}, {10_000, "10,000", 350}} {
		for _, kind := range []struct {
			name string
			style
		}{{"acl", accessLists}, {"fw", firewalls}, {"ipc", chains}} {
			list = add(list, kind.name+" "+size.name, size.name+" rules like ClassBench's "+kind.name+"1", size.aim, ruleset.packets,
				func() ruleset { return kind.rules(size.rules) })
		}
	}
	return list
}

// clients returns n flows to the service.
func clients(n int) func() []tuple { return flowsTo(serviceAddress, n) }

// everNew returns n flows that differ, in no order that a hash would keep. Millions of them are not drawn, since that takes a memory of them.
func everNew(n int) func() []tuple {
	return func() []tuple {
		tuples := make([]tuple, n)
		for i := range tuples {
			tuples[i] = tuple{src: addr4(198<<24 | 18<<16 | uint32(i)%(1<<17)), dst: serviceAddress, sport: uint16(1024 + i>>17), dport: 443}
		}
		return tuples
	}
}

// bothWays returns n flows, every second one the other direction of the one before.
func bothWays(n int) func() []tuple {
	return func() []tuple {
		var tuples []tuple
		for _, t := range clients((n + 1) / 2)() {
			tuples = append(tuples, t, tuple{src: t.dst, dst: t.src, sport: t.dport, dport: t.sport})
		}
		return tuples
	}
}

// strangers returns n flows to an address that is no service's.
func strangers(n int) func() []tuple { return flowsTo(otherAddress, n) }

// flowsTo draws n different flows from 198.18.0.0/15 (RFC 2544).
func flowsTo(dst netip.Addr, n int) func() []tuple {
	return func() []tuple {
		r := random()
		drawn := make(map[tuple]bool, n)
		tuples := make([]tuple, 0, n)
		for len(tuples) < n {
			t := tuple{src: addr4(198<<24 | 18<<16 | r.Uint32N(1<<17)), dst: dst, sport: uint16(1024 + r.Uint32N(60000)), dport: 443}
			if !drawn[t] {
				drawn[t] = true
				tuples = append(tuples, t)
			}
		}
		return tuples
	}
}

// hits returns packets for each of n rules, in random order.
func hits(n int) func() []tuple {
	return func() []tuple {
		tuples := make([]tuple, n)
		for i := range tuples {
			tuples[i] = hit(i)
		}
		random().Shuffle(n, func(i, j int) { tuples[i], tuples[j] = tuples[j], tuples[i] })
		return tuples
	}
}
