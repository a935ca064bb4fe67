package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// What is planned for.
const (
	planBits     = 100e9
	planNewFlows = 1e6
	planUse      = 0.7 // of a core's time: the rest is for bursts
	planIdle     = 60  // seconds that a flow's record stays after its last packet, by default
)

// wire is a mix of packets: the mean length of a frame, and what Ethernet adds to each.
var wires = []struct {
	name  string
	frame float64
}{{"64 bytes, an attack", 64}, {"350 bytes, a mix", 350}, {"1,500 bytes, downloads", 1514}}

const wireExtra = 20 // preamble and gap

// planPage says what the measured costs mean for a large network.
func (r *result) planPage() string {
	values := r.values()
	var b strings.Builder
	fmt.Fprintf(&b, "# What it takes for 100 Gb/s and 1M new flows/s\n\nFrom the figures of %s, %s, measured on %s. \"m\" marks what was measured, \"x\" what is extrapolated.\n",
		r.Time.Format(time.DateOnly), r.Machine.Commit, r.Machine.CPU)
	driver := 0.0 // ns a packet
	if bare, alone := values["live "+liveBareSend], values["live generator alone"]; bare > 0 && alone > 0 {
		driver = max(0, 1000/bare-1000/alone)
	}
	b.WriteString("\n## A core\n\nns a packet of the program, net, and with the way in and out: over veth here, of which a bare XDP_REDIRECT takes ")
	fmt.Fprintf(&b, "%.0f ns. A NIC's driver takes another time, often less.\n\n", driver)
	b.WriteString("| job | program (m) | with the way | Mpps a core | Gb/s a core at 350 bytes |\n|---|--:|--:|--:|--:|\n")
	var work []job
	for _, j := range planJobs {
		net, ok := values["net "+j.value]
		if !ok {
			fmt.Fprintf(&b, "| %s | not measured |\n", j.name)
			continue
		}
		j.ns = net + driver
		work = append(work, j)
		rate := planUse * 1e9 / j.ns
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.1f | %.1f |\n", j.name, net, j.ns, rate/1e6, rate*(wires[1].frame+wireExtra)*8/1e9)
	}
	fmt.Fprintf(&b, "\nRates are for %.0f %% of a core's time.\n", 100*planUse)

	b.WriteString("\n## Cores for 100 Gb/s (x)\n\nPackets a second, and cores that take them at that use, if a NIC spreads them evenly.\n\n| packets | Mpps |")
	for _, j := range work {
		fmt.Fprintf(&b, " %s |", j.name)
	}
	b.WriteString("\n|---|--:|" + strings.Repeat("--:|", len(work)) + "\n")
	for _, w := range wires {
		rate := planBits / ((w.frame + wireExtra) * 8)
		fmt.Fprintf(&b, "| %s | %.1f |", w.name, rate/1e6)
		for _, j := range work {
			fmt.Fprintf(&b, " %.0f |", math.Ceil(rate*j.ns/1e9/planUse))
		}
		b.WriteString("\n")
	}
	planFlows(&b, values, driver)
	planLimits(&b, r, values)
	return b.String()
}

// job is what a box does.
type job struct {
	name, value string
	ns          float64
}

var planJobs = []job{
	{name: "drop by a list of 1M", value: "set 1M, half"},
	{name: "10,000 rules", value: "two fields, 10,000"},
	{name: "count flows, 500k", value: "flows, 500k flows"},
	{name: "all on, ipip, 64k flows", value: "all, 64k flows"},
	{name: "all on, ipip, 500k flows", value: "all, 500k flows"},
	{name: "nat, 500k flows", value: "nat, 500k flows"},
}

// planFlows is what 1M new flows a second take beside the rest.
func planFlows(b *strings.Builder, values map[string]float64, driver float64) {
	b.WriteString("\n## 1M new flows a second (x)\n\nA flow's first packet costs more; what it takes for these packets alone, at the same use.\n\n| table | ns (m) | cores |\n|---|--:|--:|\n")
	for _, kind := range []job{{name: "flow records, full", value: "all, new"}, {name: "and state", value: "state, new"}, {name: "translations of nat", value: "nat, new"}} {
		if net, ok := values["net "+kind.value]; ok {
			fmt.Fprintf(b, "| %s | %.0f | %.1f |\n", kind.name, net, planNewFlows*(net+driver)/1e9/planUse)
		}
	}
	if each, ok := values["control kernel memory a flow"]; ok {
		b.WriteString("\nMemory of the flow table, for flows that last so long, a minute of silence included:\n\n| lasts | flows at once | memory (x) |\n|---|--:|--:|\n")
		for _, seconds := range []float64{1, 10, 60} {
			flows := planNewFlows * (seconds + planIdle)
			fmt.Fprintf(b, "| %.0f s | %.0fM | %.1f GiB |\n", seconds, flows/1e6, flows*each/(1<<30))
		}
		fmt.Fprintf(b, "\nA table that is smaller stays exact in its totals: what has no record is counted as unattributed. %.0f bytes a flow (m).\n", each)
	}
}

// planLimits says what ends first, and how far what is said here reaches.
func planLimits(b *strings.Builder, r *result, values map[string]float64) {
	b.WriteString("\n## What limits first\n\n")
	small, large := values["net all, 1k flows"], values["net all, 500k flows"]
	if small > 0 && large > 0 {
		fmt.Fprintf(b, "- Memory, not instructions: the same work takes %.1f times as long with 500k flows as with 1k, since each packet meets lines that no cache holds. Cores with\n  large caches, and flow tables no larger than needed, help more than clock rate.\n", large/small)
	}
	if one, two := values["net flows, 1 flow"], values["net "+twoFlows]; one > 0 && two > 0 {
		fmt.Fprintf(b, "- A second core takes %.2f of a core's time for its packets (m, two CPUs, a flow each): what is said above of more cores takes them for as good.\n", two/one)
	}
	b.WriteString("- A CPU admits at most 250,000 flows a second to the LRU map behind the records; a million new ones a second, all of which stay, take 4 cores or more.\n")
	b.WriteString("- Translations: a pool address has about 31,000 ports for each backend address and port.\n")
	b.WriteString("- What the rings of a NIC, its PCIe lanes and the memory's bandwidth bear was not measured.\n")
	b.WriteString("\n## How far this reaches\n\nMeasured: up to 100,000 rules, 1M entries of a set, 1,000 services, 1,000 backends, 1M flows, on one core and two. Extrapolated: more than two cores, a NIC's driver,\n")
	b.WriteString("more flows than 1M at once. By the fits of growth, net ns:\n\n| structure | fit | at the largest measured | at ten times that (x) |\n|---|---|--:|--:|\n")
	for _, g := range r.Growth {
		if g.Shape == "" || strings.HasPrefix(g.Name, "nft") {
			continue
		}
		last := g.Points[len(g.Points)-1]
		fmt.Fprintf(b, "| %s, %s | %s | %.0f | %.0f |\n", g.Figure, g.Name, g.text(), last.Cost, g.at(10*last.Size))
	}
}
