package main

import (
	"fmt"
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
	batch       string // measured together, and with baselines of its own
	name, about string
	program     string                 // of bench.c or parse.c; "": gardu's XDP program
	records     int                    // of the table that the program looks into
	length      int                    // bytes of a frame; 0: the shortest
	beside      func() []tuple         // packets that another CPU sends meanwhile; nil: none
	peer        bool                   // xdp-filter in its place
	than        string                 // an earlier case, of a peer that does the same
	floor       string                 // the least that this takes; "": parse only
	world       string                 // scenarios of the same world share its data plane
	snapshot    func() *model.Snapshot // of the world
	noFlows     bool                   // the world's programs are without flow accounting
	come, leave int                    // interfaces, in the world's namespace, where packets come in and leave; 0: none that exist
	room        int                    // flows a CPU that the world's flow table is made for; 0: as many as the largest of flowCounts
	translate   int                    // translations that there is room for; 0: as many as flows
	limits      bool                   // token buckets get the room that the daemon gives them under these packets
	part        int                    // packets of a sample, which goes on where the last one ended; 0: all packets, as often as need be
	blocks      int                    // in force in the world
	arriving    int                    // blocks added each second while packets are sent
	tuples      func() []tuple         // the packets, in the order in which they are sent
	action      uint32                 // of the last packet
	reasons     []abi.Reason           // of all packets; none for programs of bench.c, which don't count
}

// The baselines, which every batch has: cases are compared with them.
const (
	emptyName  = "empty"
	emptyName6 = "empty, IPv6"
	parseName  = "parse only"
	parseName6 = "parse only, IPv6"
	floorSend  = "floor: addresses rewritten"
	floorWrap  = "floor: wrapped"
)

// listAndRules is the case that is measured with travelling packets as well.
const listAndRules = "set 1M and 1,000 rules"

// flowCounts are how many flows the packets of a case belong to.
var flowCounts = [...]struct {
	flows int
	name  string
}{{1, "1 flow"}, {1000, "1k flows"}, {64_000, "64k flows"}, {500_000, "500k flows"}}

const many = 64_000

// batches are measured one after the other, so that not all tables are in memory at once.
var batches = []string{"filter", "balancer", "flows", "growth"}

var (
	passed    = []abi.Reason{abi.ReasonDefaultPass}
	dropped   = []abi.Reason{abi.ReasonRuleDrop}
	either    = []abi.Reason{abi.ReasonDefaultPass, abi.ReasonRuleDrop}
	forwarded = []abi.Reason{abi.ReasonForward}

	unremembered = []abi.Reason{abi.ReasonDefaultDrop}
)

// scenarios are the rows of a batch, the baselines first.
func scenarios(batch string) []scenario {
	list := baselines()
	switch batch {
	case "filter":
		list = append(list, filterScenarios()...)
	case "balancer":
		list = append(list, balancerScenarios()...)
	case "flows":
		list = append(list, flowScenarios()...)
	case "growth":
		list = append(list, growthScenarios()...)
	}
	for i := range list {
		list[i].batch = batch
	}
	return list
}

func baselines() []scenario {
	return []scenario{
		{name: emptyName, about: "return XDP_DROP: the measuring loop and the generator",
			program: benchProgEmpty, tuples: clients(1), action: xdpDrop},
		{name: emptyName6, about: "the same with IPv6 packets",
			program: benchProgEmpty, tuples: clients6(1), action: xdpDrop},
		{name: parseName, about: "gardu's parser alone", program: parseProgram, tuples: clients(1), action: xdpPass},
		{name: parseName6, about: "the same with IPv6 packets", program: parseProgram, tuples: clients6(1), action: xdpPass},
		{name: floorSend, about: "constant Ethernet addresses: the least that sending a packet on costs",
			program: benchProgFloorRewrite, tuples: clients(1), action: xdpTX},
		{name: floorWrap, about: "room for an IPv4 header and constant bytes in it: the least that wrapping costs",
			program: benchProgFloorIpip, tuples: clients(1), action: xdpTX},
	}
}

func filterScenarios() []scenario {
	lists := sync.OnceValues(func() (list, list) { return feed4(), feed6() })
	v4 := func() list { l, _ := lists(); return l }
	v6 := func() list { _, l := lists(); return l }
	set := func() *model.Snapshot { return v4().blocked() }
	set6 := func() *model.Snapshot { return v6().blocked() }
	all := []scenario{
		{name: "pass", about: "nothing configured: parse, count, pass",
			world: "nothing", snapshot: nothing, tuples: clients(1), action: xdpPass, reasons: passed},
		{name: "pass, 1500 bytes", about: "the same with long packets", length: longFrame,
			world: "nothing", snapshot: nothing, tuples: clients(1), action: xdpPass, reasons: passed},
		{name: "pass, IPv6", about: "the same with IPv6 packets",
			world: "nothing", snapshot: nothing, tuples: clients6(1), action: xdpPass, reasons: passed},
		{name: "set 1M, miss", about: "a block list of 1M prefixes; no source is on it",
			world: "set", snapshot: set, tuples: func() []tuple { return v4().sources(0) }, action: xdpPass, reasons: passed},
		{name: "set 1M, 5 %", about: "one source in 20 is on it",
			world: "set", snapshot: set, tuples: func() []tuple { return v4().sources(5) }, action: xdpPass, reasons: either},
		{name: "set 1M, half", about: "half of the sources are on it",
			world: "set", snapshot: set, tuples: func() []tuple { return v4().sources(50) }, action: xdpPass, reasons: either},
		{name: "set 1M, hit", about: "all sources are on it",
			world: "set", snapshot: set, tuples: func() []tuple { return v4().sources(100) }, action: xdpDrop, reasons: dropped},
		{name: "set6 1M, 5 %", about: "a block list of 1M IPv6 prefixes; one source in 20 is on it",
			world: "set6", snapshot: set6, tuples: func() []tuple { return v6().sources(5) }, action: xdpPass, reasons: either},
		{name: "set6 1M, half", about: "half of the sources are on it",
			world: "set6", snapshot: set6, tuples: func() []tuple { return v6().sources(50) }, action: xdpPass, reasons: either},
		{name: "xdp-filter, 10,000 addresses", about: "the peer: xdpfilt_alw_all of xdp-tools, 10,000 source addresses, half of the packets from them",
			peer: true, tuples: func() []tuple { return addresses().sources(50) }, action: xdpPass},
		{name: "10,000 addresses", about: "gardu with the same addresses and packets", than: "xdp-filter, 10,000 addresses",
			world: "addresses", snapshot: func() *model.Snapshot { return addresses().blocked() },
			tuples: func() []tuple { return addresses().sources(50) }, action: xdpPass, reasons: either},
		{name: "1M addresses", about: "a list of 1M single addresses, half of the sources are on it",
			world: "1M addresses", snapshot: func() *model.Snapshot { return millionAddresses().blocked() },
			tuples: func() []tuple { return millionAddresses().sources(50) }, action: xdpPass, reasons: either},
		{name: "interval set 10,000", about: "10,000 prefixes of a public list's lengths, half of the sources are on it",
			world: "intervals", snapshot: func() *model.Snapshot { return intervals().blocked() },
			tuples: func() []tuple { return intervals().sources(50) }, action: xdpPass, reasons: either},
		{name: "rules 10", about: "10 rules of eight shapes, each packet hits one",
			world: "few", snapshot: func() *model.Snapshot { return rules(10) }, tuples: hits(10), action: xdpDrop, reasons: dropped},
		{name: "rules 10,000", about: "10,000 rules of the same shapes",
			world: "many", snapshot: func() *model.Snapshot { return rules(manyRules) }, tuples: hits(manyRules), action: xdpDrop, reasons: dropped},
		{name: "limit, within", about: "a limit per source, 65k sources, none over it",
			world: "limit", snapshot: func() *model.Snapshot { return limited(1_000_000, time.Second, 1_000_000) }, tuples: clients(65_536),
			action: xdpPass, reasons: passed},
		{name: "limit, over", about: "the same, all of them over it",
			world: "limit over", snapshot: func() *model.Snapshot { return limited(1, time.Hour, 1) }, tuples: clients(65_536), action: xdpDrop, reasons: either, limits: true},
	}
	all = append(all, ruleScenarios()...)
	return append(all, scenario{name: listAndRules, about: "the list and 1,000 rules; half of the packets are on the list, half match a rule",
		world: listAndRules, snapshot: func() *model.Snapshot { return twoFields(1000).behind(v4()) },
		tuples: func() []tuple { return twoFields(1000).packetsBehind(v4()) }, action: xdpDrop, reasons: dropped})
}

func balancerScenarios() []scenario {
	of := func(mode model.Mode, clients farm) func() *model.Snapshot {
		return func() *model.Snapshot { return balanced(mode, clients) }
	}
	var list []scenario
	for _, mode := range []struct {
		name  model.Mode
		floor string
		about string
	}{{"dsr", floorSend, ""}, {"ipip", floorWrap, ""}, {"gue", floorWrap, ""}, {"nat", floorSend, ", a translation each"}} {
		for _, n := range flowCounts {
			row := scenario{name: fmt.Sprintf("%s, %s", mode.name, n.name), about: fmt.Sprintf("64 services by %s and flow accounting%s", mode.name, mode.about),
				floor: mode.floor, world: string(mode.name), snapshot: of(mode.name, usualFarm), tuples: clients(n.flows), action: xdpRedirect, reasons: forwarded}
			list = append(list, row)
			if n.flows == many {
				row.name, row.length, row.about = row.name+", 1500 bytes", longFrame, "the same with long packets"
				list = append(list, row)
			}
		}
		list = append(list, scenario{name: fmt.Sprintf("%s, IPv6, 64k flows", mode.name), about: "the same with IPv6 services, packets and backends", floor: mode.floor,
			world: string(mode.name) + "6", snapshot: of(mode.name, usualFarm6), tuples: clients6(many), action: xdpRedirect, reasons: forwarded})
	}
	for _, n := range flowCounts {
		list = append(list, scenario{name: "all, " + n.name, about: "10,000 rules, 64 services by ipip, flow accounting", floor: floorWrap,
			world: "all", snapshot: func() *model.Snapshot { return all(usualFarm) }, tuples: clients(n.flows), action: xdpRedirect, reasons: forwarded})
	}
	for _, n := range flowCounts {
		list = append(list, scenario{name: "all, IPv6, " + n.name, about: "the same with IPv6 services, packets and backends", floor: floorWrap,
			world: "all6", snapshot: func() *model.Snapshot { return all(usualFarm6) }, tuples: clients6(n.flows), action: xdpRedirect, reasons: forwarded})
	}
	for _, n := range flowCounts {
		row := scenario{name: "udp, " + n.name, about: "64 services by ipip, UDP, and flow accounting", floor: floorWrap, length: datagramBytes,
			world: "udp", snapshot: func() *model.Snapshot { return datagrams(usualFarm, false) }, tuples: datagramsOf(n.flows), action: xdpRedirect, reasons: forwarded}
		list = append(list, row)
		row.name, row.about = "quic, "+n.name, "the same, by connection IDs, all of which name one server of the service"
		row.world, row.snapshot = "quic", func() *model.Snapshot { return datagrams(usualFarm, true) }
		list = append(list, row)
	}
	return append(list,
		scenario{name: "all, new", about: "10,000 rules, 64 services by ipip, flow accounting: every packet is of a flow that isn't in the table, which is full", floor: floorWrap,
			world: "all, new", room: 250_000, snapshot: func() *model.Snapshot { return all(usualFarm) }, tuples: everNew(1_500_000), action: xdpRedirect, reasons: forwarded},
		scenario{name: "nat, new", about: "64 services by nat: every packet is of a new flow and gets a translation of its own", floor: floorSend,
			world: "nat, new", room: 50_000, translate: 1_500_000, part: 100_000, snapshot: of("nat", usualFarm), tuples: everNew(1_300_000), action: xdpRedirect, reasons: forwarded},
		scenario{name: "state, new", about: "64 services by ipip, a rule about state: every packet is of a new flow", floor: floorWrap,
			world: "state, new", room: 250_000, snapshot: func() *model.Snapshot {
				s := balanced("ipip", usualFarm)
				s.Filter.Rules = stateful().Filter.Rules
				return s
			}, tuples: everNew(1_500_000), action: xdpRedirect, reasons: []abi.Reason{abi.ReasonForward}},
		scenario{name: "no service", about: "64 services, packets for another address, without flow accounting",
			world: "stateless", snapshot: of("ipip", usualFarm), noFlows: true, tuples: strangers(many), action: xdpPass, reasons: passed},
		scenario{name: "stateless", about: "64 services by ipip, the backend by hash alone, without flow accounting, 64k flows", floor: floorWrap,
			world: "stateless", snapshot: of("ipip", usualFarm), noFlows: true, tuples: clients(many), action: xdpRedirect, reasons: forwarded})
}

func flowScenarios() []scenario {
	var list []scenario
	for _, n := range flowCounts {
		list = append(list, scenario{name: "flows, " + n.name, about: "flow accounting alone",
			world: "flows", snapshot: flowsOnly, tuples: clients(n.flows), action: xdpPass, reasons: passed})
	}
	list = append(list, scenario{name: "flows, 100k flows", about: "flow accounting alone",
		world: "flows", snapshot: flowsOnly, tuples: clients(100_000), action: xdpPass, reasons: passed},
		scenario{name: "flows, 64k flows, 1500 bytes", about: "the same with long packets", length: longFrame,
			world: "flows", snapshot: flowsOnly, tuples: clients(many), action: xdpPass, reasons: passed})
	for _, n := range flowCounts {
		list = append(list, scenario{name: "flows, IPv6, " + n.name, about: "flow accounting alone",
			world: "flows", snapshot: flowsOnly, tuples: clients6(n.flows), action: xdpPass, reasons: passed})
	}
	list = append(list,
		scenario{name: twoFlows, about: "flow accounting alone, while another CPU receives another flow: what the machine's cores share",
			world: "flows", snapshot: flowsOnly, tuples: clients(1), beside: everNew(1), action: xdpPass},
		scenario{name: elephant, about: "while another CPU receives the same flow",
			world: "flows", snapshot: flowsOnly, tuples: clients(1), beside: clients(1), action: xdpPass},
		scenario{name: "floor: 64k records", about: "no gardu: one record of a table, picked by the packet's ends; 64k flows, a table for 500k",
			program: benchProgFloorRecord, records: 1 << 20, tuples: clients(many), action: xdpPass},
		scenario{name: "floor: 1M records", about: "likewise; 1M flows, a table for as many: what this machine's memory takes",
			program: benchProgFloorRecord, records: 1 << 21, tuples: everNew(1_000_000), action: xdpPass},
		scenario{name: floorWaits64k, about: "likewise, and each packet waits for the record of the one before it; 64k flows",
			program: benchProgFloorWaits, records: 1 << 20, tuples: clients(many), action: xdpPass},
		scenario{name: floorWaits1M, about: "likewise; 1M flows",
			program: benchProgFloorWaits, records: 1 << 21, tuples: everNew(1_000_000), action: xdpPass},
		scenario{name: "flows, 1M flows", about: "flow accounting alone", room: 1_000_000, floor: floorWaits1M,
			world: "flows, 1M", snapshot: flowsOnly, tuples: everNew(1_000_000), action: xdpPass, reasons: passed},
		scenario{name: "flows, all new", about: "every packet is of a flow that isn't in the table, which is full", room: 250_000,
			world: "flows, new", snapshot: flowsOnly, tuples: everNew(1_500_000), action: xdpPass, reasons: passed},
		scenario{name: "dropped, 64k flows", about: "by default, without being remembered",
			world: "dropped", snapshot: func() *model.Snapshot { return droppedAll(0) }, tuples: clients(many), action: xdpDrop, reasons: unremembered},
		scenario{name: "dropped and remembered, 1 flow", about: "and remembered in a table of 65,536",
			world: "dropped and remembered", snapshot: func() *model.Snapshot { return droppedAll(65_536) }, tuples: clients(1), action: xdpDrop, reasons: unremembered},
		scenario{name: "dropped and remembered, 64k flows", about: "likewise: more than the table holds for a CPU",
			world: "dropped and remembered", snapshot: func() *model.Snapshot { return droppedAll(65_536) }, tuples: clients(many), action: xdpDrop, reasons: unremembered})
	for _, n := range flowCounts {
		list = append(list, scenario{name: "state, " + n.name, about: "a rule that passes what is established, packets of both directions",
			world: "state", snapshot: stateful, tuples: bothWays(n.flows), action: xdpPass,
			reasons: []abi.Reason{abi.ReasonDefaultPass, abi.ReasonRulePass}})
	}
	return append(list, blockScenarios()...)
}

// Records one after the other, without which the aims of large tables can't be told from this machine's memory.
const floorWaits64k, floorWaits1M = "floor: 64k records, one by one", "floor: 1M records, one by one"

// twoFlows and elephant are received on two CPUs at once.
const twoFlows, elephant = "two CPUs, a flow each", "two CPUs, one flow"

// growthScenarios are sizes that the other batches don't have.
func growthScenarios() []scenario {
	var all []scenario
	for _, size := range setSizes {
		once := sync.OnceValue(func() list { return feedOf(size.n) })
		all = append(all, scenario{name: "set of " + size.name, about: "half of the sources are on it", world: "set of " + size.name,
			snapshot: func() *model.Snapshot { return once().blocked() }, tuples: func() []tuple { return once().sources(50) }, action: xdpPass, reasons: either})
	}
	for _, size := range farmSizes {
		all = append(all, scenario{name: size.name, about: "by ipip and flow accounting, 64k flows, to all of the services", floor: floorWrap, world: size.name,
			snapshot: func() *model.Snapshot { return balanced("ipip", size.farm) }, tuples: clientsOf(size.farm, many), action: xdpRedirect, reasons: forwarded})
	}
	return all
}

// setSizes and farmSizes are what growth is looked at with.
var (
	setSizes  = []size{{1000, "1,000"}, {10_000, "10,000"}, {100_000, "100,000"}, {1_000_000, "1,000,000"}}
	ruleSizes = []size{{10, "10"}, {100, "100"}, {1000, "1,000"}, {10_000, "10,000"}, {100_000, "100,000"}}
	farmSizes = []struct {
		name string
		farm
	}{
		{"1 service", farm{services: 1, backends: 16}}, {"64 services", farm{services: 64, backends: 16}},
		{"250 services", farm{services: 250, backends: 16}}, {"1,000 services", farm{services: 1000, backends: 16}},
		{"1 backend", farm{services: 1, backends: 1}}, {"100 backends", farm{services: 1, backends: 100}}, {"1,000 backends", farm{services: 1, backends: 1000}},
	}
)

type size struct {
	n    int
	name string
}

// ruleScenarios are the rulesets of two fields a rule, easy and hard, and those of ClassBench.
func ruleScenarios() []scenario {
	var list []scenario
	add := func(name, about string, packets func(ruleset) []tuple, rules func() ruleset) {
		once := sync.OnceValue(rules)
		list = append(list, scenario{name: name, about: about, world: name,
			snapshot: func() *model.Snapshot { return once().snapshot() },
			tuples:   func() []tuple { return packets(once()) }, action: xdpDrop, reasons: either})
	}
	for _, size := range ruleSizes {
		add("two fields, "+size.name, size.name+" rules of two fields in up to 16 shapes", ruleset.packets, func() ruleset { return twoFields(size.n) })
	}
	add("two fields, hard", "10,000 rules of two prefixes in 64 shapes, close together", ruleset.hardPackets, func() ruleset { return hard(10_000) })
	add("concatenated ranges", "1,000 rules of a source prefix and a range of ports", ruleset.packets, concatenated)
	for _, size := range []size{{1000, "1,000"}, {10_000, "10,000"}} {
		for _, kind := range []struct {
			name string
			style
		}{{"acl", accessLists}, {"fw", firewalls}, {"ipc", chains}} {
			add(kind.name+" "+size.name, size.name+" rules like ClassBench's "+kind.name+"1", ruleset.packets, func() ruleset { return kind.rules(size.n) })
		}
	}
	return list
}

// clients returns n flows to the service, clients6 to that of IPv6.
func clients(n int) func() []tuple { return flowsTo([]netip.Addr{serviceAddress}, n) }

func clients6(n int) func() []tuple { return flowsTo([]netip.Addr{serviceAddress6}, n) }

// datagramsOf returns n flows of UDP to the service.
func datagramsOf(n int) func() []tuple {
	return func() []tuple {
		tuples := clients(n)()
		for i := range tuples {
			tuples[i].proto = uint8(model.ProtoUDP)
		}
		return tuples
	}
}

// datagramBytes is a frame long enough for a connection ID with what must follow it.
const datagramBytes = 96

// clientsOf returns n flows to all services of a farm.
func clientsOf(f farm, n int) func() []tuple {
	var to []netip.Addr
	for i := range f.services {
		to = append(to, f.address(i))
	}
	return flowsTo(to, n)
}

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
func strangers(n int) func() []tuple { return flowsTo([]netip.Addr{otherAddress}, n) }

// flowsTo draws n different flows from 198.18.0.0/15 (RFC 2544), or from 2001:2::/48 (RFC 5180).
func flowsTo(to []netip.Addr, n int) func() []tuple {
	return func() []tuple {
		tuples := make([]tuple, n)
		for i := range tuples {
			drawn := scatter(uint32(i)) // 17 bits of address, 15 of port
			t := tuple{src: addr4(198<<24 | 18<<16 | drawn>>15), dst: to[i%len(to)], sport: uint16(1024 + drawn&0x7fff), dport: 443}
			if t.dst.Is6() {
				t.src = addr6(0x20010002<<32, uint64(scatter(drawn))<<32|uint64(drawn))
			}
			tuples[i] = t
		}
		return tuples
	}
}

// scatter gives every number another one, all over the place (the last steps of MurmurHash3).
func scatter(n uint32) uint32 {
	n = (n ^ n>>16 ^ 0x9e3779b9) * 0x85ebca6b
	n = (n ^ n>>13) * 0xc2b2ae35
	return n ^ n>>16
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
