package main

import (
	"cmp"
	"fmt"
)

// aim is a number that is to be reached.
type aim struct {
	area  string
	says  string
	value string  // among result.values
	of    string  // another one, by which it is divided; "": none
	limit float64 // at most, or
	least bool    // at least
	unit  string
	why   func(*facts) string // what stands in its way when it is missed, by figures of the run; nil: nothing is known to
}

// aims are all numbers that gardu is to reach. "net" is less the empty program, "raw" with the measuring loop.
var aims = []aim{
	{area: "filter", says: "10 rules of two fields", value: "net two fields, 10", limit: 150, unit: "ns"},
	{area: "filter", says: "1,000 rules of two fields", value: "net two fields, 1,000", limit: 250, unit: "ns"},
	{area: "filter", says: "10,000 rules of two fields", value: "net two fields, 10,000", limit: 350, unit: "ns"},
	{area: "filter", says: "100,000 rules of two fields", value: "net two fields, 100,000", limit: 600, unit: "ns"},
	{area: "filter", says: "10,000 rules in a hard set of 64 groups", value: "net two fields, hard", limit: 1000, unit: "ns"},
	{area: "filter", says: "10,000 rules to 10", value: "net rules 10,000", of: "net rules 10", limit: 2.5},
	{area: "filter", says: "1,000 rules like ClassBench's acl", value: "net acl 1,000", limit: 250, unit: "ns"},
	{area: "filter", says: "1,000 rules like ClassBench's fw", value: "net fw 1,000", limit: 250, unit: "ns"},
	{area: "filter", says: "1,000 rules like ClassBench's ipc", value: "net ipc 1,000", limit: 250, unit: "ns"},
	{area: "filter", says: "10,000 rules like ClassBench's acl", value: "net acl 10,000", limit: 350, unit: "ns"},
	{area: "filter", says: "10,000 rules like ClassBench's fw", value: "net fw 10,000", limit: 350, unit: "ns"},
	{area: "filter", says: "10,000 rules like ClassBench's ipc", value: "net ipc 10,000", limit: 350, unit: "ns"},
	{area: "filter", says: "list of 1M prefixes, 5 % hits", value: "net set 1M, 5 %", limit: 150, unit: "ns"},
	{area: "filter", says: "list of 1M prefixes, half hits", value: "net set 1M, half", limit: 350, unit: "ns"},
	{area: "filter", says: "list of 1M IPv6 prefixes, 5 % hits", value: "net set6 1M, 5 %", limit: 150, unit: "ns"},
	{area: "filter", says: "list of 1M IPv6 prefixes, half hits", value: "net set6 1M, half", limit: 400, unit: "ns"},
	{area: "filter", says: "limit per source, 65k sources within it", value: "net limit, within", limit: 200, unit: "ns"},
	{area: "filter", says: "limit per source, 65k sources over it", value: "net limit, over", limit: 200, unit: "ns"},
	{area: "filter", says: "100k blocks and 1,000/s more, 64k known flows, to no blocks", value: "net 100k blocks + 1,000/s, 64k flows", of: "net no blocks, 64k flows", limit: 1.3},
	{area: "filter", says: "100k blocks and 1,000/s more, 500k known flows, to no blocks", value: "net 100k blocks + 1,000/s, 500k flows", of: "net no blocks, 500k flows", limit: 1.3},
	{area: "filter", says: "xdp-filter's cost to gardu's, 10,000 addresses", value: "net xdp-filter, 10,000 addresses", of: "net 10,000 addresses", limit: 1.5, least: true},
	{area: "filter", says: "nft's cost of 1,000 rules to gardu's", value: "nft net of nft, 1,000 rules", of: "net two fields, 1,000", limit: 20, least: true},
	{area: "filter", says: "live drop rate with a 1M list and 1,000 rules, to a bare XDP_DROP's", value: "live " + liveFiltered, of: "live " + liveBare, limit: 0.5, least: true, why: whyLiveDrops},
	{area: "filter", says: "live drop rate to what the program's cost predicts", value: "live of predicted", limit: 0.85, least: true},

	{area: "balancer", says: "all on, ipip, 1 flow (raw)", value: "raw all, 1 flow", limit: 125, unit: "ns"},
	{area: "balancer", says: "all on, ipip, 64k flows (raw)", value: "raw all, 64k flows", limit: 390, unit: "ns"},
	{area: "balancer", says: "all on, ipip, 500k flows (raw)", value: "raw all, 500k flows", limit: 400, unit: "ns", why: whyRecord("raw all, 500k flows", "raw all, 1 flow")},
	{area: "balancer", says: "all on, IPv6, 1 flow (raw)", value: "raw all, IPv6, 1 flow", limit: 150, unit: "ns"},
	{area: "balancer", says: "all on, IPv6, 64k flows (raw)", value: "raw all, IPv6, 64k flows", limit: 420, unit: "ns"},
	{area: "balancer", says: "all on, IPv6, 500k flows (raw)", value: "raw all, IPv6, 500k flows", limit: 450, unit: "ns", why: whyRecord("raw all, IPv6, 500k flows", "raw all, IPv6, 1 flow")},
	{area: "balancer", says: "dsr to ipip, 1 flow (raw)", value: "raw dsr, 1 flow", of: "raw ipip, 1 flow", limit: 1},
	{area: "balancer", says: "dsr to ipip, 64k flows (raw)", value: "raw dsr, 64k flows", of: "raw ipip, 64k flows", limit: 1},
	{area: "balancer", says: "gue to ipip, 1 flow (raw)", value: "raw gue, 1 flow", of: "raw ipip, 1 flow", limit: 1.3},
	{area: "balancer", says: "gue to ipip, 64k flows (raw)", value: "raw gue, 64k flows", of: "raw ipip, 64k flows", limit: 1.3},
	{area: "balancer", says: "nat to ipip, 1 flow (raw)", value: "raw nat, 1 flow", of: "raw ipip, 1 flow", limit: 1.6},
	{area: "balancer", says: "nat to ipip, 64k flows (raw)", value: "raw nat, 64k flows", of: "raw ipip, 64k flows", limit: 1.6},
	{area: "balancer", says: "new flow remembered, full table (raw)", value: "raw all, new", limit: 480, unit: "ns", why: whyNewFlow},
	{area: "balancer", says: "new flow with nat (raw)", value: "raw nat, new", limit: 1100, unit: "ns", why: whyNewTranslation},
	{area: "balancer", says: "new flow with state (raw)", value: "raw state, new", limit: 1100, unit: "ns"},
	{area: "balancer", says: "balancer alone, not for a service (raw)", value: "raw no service", limit: 55, unit: "ns", why: whyNoService},
	{area: "balancer", says: "ring of 1,000 backends built", value: "control ring of 1,000 backends", limit: 20, unit: "ms"},
	{area: "balancer", says: "1,000 backends checked each second by the way of packets, on one core", value: "control checks made, via service", limit: 99, unit: "%", least: true},
	{area: "balancer", says: "a backend that is found dead gets no more", value: "control backend found dead to last misrouted", limit: 10, unit: "ms"},
	{area: "balancer", says: "a backend added to a service of 1,000 is live", value: "control backend added to 1,000", limit: 50, unit: "ms"},

	{area: "flows", says: "accounting alone, 1 flow", value: "net flows, 1 flow", limit: 60, unit: "ns"},
	{area: "flows", says: "accounting alone, 100k flows", value: "net flows, 100k flows", limit: 240, unit: "ns", why: whyRecord("net flows, 100k flows", "net flows, 1 flow")},
	{area: "flows", says: "accounting alone, 1M flows", value: "net flows, 1M flows", limit: 320, unit: "ns", why: whyRecord("net flows, 1M flows", "net flows, 1 flow")},
	{area: "flows", says: "ever-new flows on a full table", value: "net flows, all new", limit: 420, unit: "ns"},
	{area: "flows", says: "one flow on both CPUs, to a flow each", value: "net " + elephant, of: "net " + twoFlows, limit: 1.1},
	{area: "flows", says: "1M flows swept", value: "control sweep of 1M flows", limit: 50, unit: "ms"},
	{area: "flows", says: "kernel memory a flow expected", value: "control kernel memory a flow", limit: 450, unit: "bytes"},
	{area: "flows", says: "memory while 1M flows a minute are exported", value: "control memory, 1M flows a minute", limit: 190, unit: "MiB"},
	{area: "flows", says: "a day of a month of history, by network and service", value: "control flows --since 24h", limit: 1000, unit: "ms"},
	{area: "flows", says: "a month of history, by pair", value: "control flows --since 30d", limit: 1000, unit: "ms"},
	{area: "flows", says: "a minute of a month of history", value: "control top --at", limit: 1000, unit: "ms"},
	{area: "flows", says: "what is reported of 1M flows a minute arrives", value: "control arrived, 1M flows a minute", limit: 100, unit: "%", least: true},

	{area: "control", says: "list of 1M entries in force", value: "control apply of a list of 1M", limit: 1500, unit: "ms"},
	{area: "control", says: "10,000 rules in force", value: "control apply of 10,000 rules", limit: 150, unit: "ms", why: whyApply},
	{area: "control", says: "one of 10,000 rules changed", value: "control change of one rule of 10,000", limit: 150, unit: "ms"},
	{area: "control", says: "100,000 rules in force", value: "control apply of 100,000 rules", limit: 2000, unit: "ms"},
	{area: "control", says: "plan over 50,000 live flows", value: "control plan over 50,000 flows", limit: 5000, unit: "ms"},
	{area: "control", says: "250,000 packets of a capture replayed", value: "control replay of 250k packets", limit: 3500, unit: "ms"},
	{area: "control", says: "start with an ordinary configuration", value: "control start, ordinary", limit: 1000, unit: "ms"},
	{area: "control", says: "start with a list of 1M and 10,000 rules", value: "control start, heavy", limit: 5000, unit: "ms"},
	{area: "control", says: "memory with these, idle", value: "control memory, heavy", limit: 95, unit: "MiB"},
	{area: "control", says: "memory with these, at the start", value: "control memory at the start, heavy", limit: 381, unit: "MiB"},
	{area: "control", says: "memory with these, while loading", value: "control memory while loading, heavy", limit: 381, unit: "MiB"},
	{area: "control", says: "CPU of a core, idle, ordinary", value: "control idle CPU, ordinary", limit: 1, unit: "%"},
	{area: "control", says: "CPU of a core, idle, with these", value: "control idle CPU, heavy", limit: 1, unit: "%"},
}

// verdict is how an aim stands.
type verdict struct {
	Area     string  `json:"area"`
	Says     string  `json:"says"`
	Aim      string  `json:"aim"`
	Measured float64 `json:"measured,omitempty"`
	Unit     string  `json:"unit,omitempty"`
	Known    bool    `json:"known"`
	Reached  bool    `json:"reached"`
	Factor   float64 `json:"factor,omitempty"` // above 1: missed by it
	Why      string  `json:"why,omitempty"`    // it was missed, where that is known
}

// judge holds every aim against the values.
func judge(aims []aim, values map[string]float64) []verdict {
	var list []verdict
	for _, a := range aims {
		v := verdict{Area: a.area, Says: a.says, Unit: cmp.Or(a.unit, "x"), Aim: fmt.Sprintf("<= %g %s", a.limit, cmp.Or(a.unit, "x"))}
		if a.least {
			v.Aim = fmt.Sprintf(">= %g %s", a.limit, cmp.Or(a.unit, "x"))
		}
		measured, ok := values[a.value]
		if a.of != "" && ok {
			var base float64
			if base, ok = values[a.of]; ok {
				measured /= base
			}
		}
		none := (a.unit == "%" || a.unit == "ms") && !a.least // of something is a result, too
		if v.Known = ok && (measured > 0 || none); v.Known {
			v.Measured, v.Factor = measured, measured/a.limit
			if a.least {
				v.Factor = a.limit / measured
			}
			v.Reached = v.Factor <= 1
		}
		if v.Known && !v.Reached && a.why != nil {
			f := &facts{values: values}
			if why := a.why(f); !f.missing {
				v.Why = why
			}
		}
		list = append(list, v)
	}
	return list
}

// text is what a reader is told.
func (v verdict) text() string {
	switch {
	case !v.Known:
		return "not measured"
	case v.Reached:
		return "reached"
	}
	return fmt.Sprintf("**missed by %.2fx**", v.Factor)
}
