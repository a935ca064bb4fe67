package main

import "fmt"

// facts are the figures of a run by name, and whether one that was asked for isn't among them.
type facts struct {
	values  map[string]float64
	missing bool
}

func (f *facts) of(name string) float64 {
	v, ok := f.values[name]
	f.missing = f.missing || !ok
	return v
}

// live is the ns that a packet takes which travels.
func (f *facts) live(name string) float64 { return 1000 / f.of("live "+name) }

// whyLiveDrops adds up what can hardly be done without, against the time that a bare drop takes.
func whyLiveDrops(f *facts) string {
	const thought = 250 // ns, of a bare XDP_DROP
	bare, mine := f.live(liveBare), f.live(liveFiltered)
	one, memory := f.live(liveOneRule)-bare, f.of("net "+floorWaits64k)/2
	others := (f.of("net set 1M, miss") + f.of("net two fields, 1,000") - 2*f.of("net pass")) / 2
	return fmt.Sprintf("A bare drop takes %.0f ns here, so half of its rate leaves %.0f for the program. Parsing, counting and dropping take %.0f (%q). Half of the "+
		"packets are on the list, which only memory knows: by the least there can be, one access for each (%q), that is %.0f a packet. The two leave %.2f of the rate. "+
		"The other half has to be found not to be on the list, and then a rule out of 1,000: as gardu does it (\"set 1M, miss\" and \"two fields, 1,000\", less \"pass\") "+
		"%.0f a packet, and all three leave %.2f. The program takes %.0f live, and %.0f by test runs (%q). Where a bare drop takes %d ns, for which the half was thought, "+
		"that leaves %.2f of the rate.",
		bare, bare, one, liveOneRule, floorWaits64k, memory, bare/(bare+one+memory),
		others, bare/(bare+one+memory+others), mine-bare, f.of("net "+listAndRules), listAndRules, thought, thought/(thought+mine-bare))
}

// whyNoService says what a packet takes where there is nothing to look at.
func whyNoService(f *facts) string {
	empty, parse, pass := f.of("raw "+emptyName), f.of("raw "+parseName), f.of("raw pass")
	return fmt.Sprintf("Where nothing is configured a packet takes %.0f ns (\"pass\"): %.0f the measuring loop, %.0f parsing, %.0f telling interfaces apart and counting packets and "+
		"bytes by reason and interface, exactly. To know that an address is no service's takes the other %.0f.",
		pass, empty, parse-empty, pass-parse, f.of("raw no service")-pass)
}

// whyNewFlow says what of it is waiting for memory.
func whyNewFlow(f *facts) string {
	known, remember := f.of("raw all, 1 flow"), f.of("net flows, all new")-f.of("net flows, 1 flow")
	return fmt.Sprintf("A packet of one known flow takes %.0f ns raw. To remember an ever-new one in a full table takes %.0f more (\"flows, all new\" less \"flows, 1 flow\"), of "+
		"which the least there can be, one record written that no cache holds, takes %.0f (%q). The other %.0f are what is not asked for a known flow: its service, the choice of a "+
		"backend, and the rules, which take %.0f where packets are about them (\"two fields, 10,000\" less \"pass\") and less where none is.",
		known, remember, f.of("net "+floorWaits1M), floorWaits1M, f.of("raw all, new")-known-remember, f.of("net two fields, 10,000")-f.of("net pass"))
}

// whyNewTranslation says how many lines of memory are waited for.
func whyNewTranslation(f *facts) string {
	line, more := f.of("net "+floorWaits1M), f.of("raw nat, new")-f.of("raw all, new")
	return fmt.Sprintf("That is %.0f ns more than a new flow takes without a translation. One line of memory that no cache holds takes %.0f to change here (%q), and a translation needs "+
		"the two buckets where it may be, its entry there, and the line of slots of its port; for each port that is taken already, another line of slots and the words of who has it. "+
		"%.0f ns are %.1f lines, of those that don't overlap.", more, line, floorWaits1M, more, more/line)
}

// whyApply says what of it doesn't depend on the rules.
func whyApply(f *facts) string {
	few, all := f.of("control apply of 10 rules"), f.of("control apply of 10,000 rules")
	return fmt.Sprintf("An apply of 10 rules to a daemon without any takes %.0f ms: it reads, verifies and swaps the programs of three hooks, which had nothing to look for rules "+
		"with, and waits for the disk. 10,000 rules take %.0f more: to read, check, compile and write them. nft loads as many in %.0f. Where programs stay, one of 10,000 rules is "+
		"changed in %.0f.", few, all-few, f.of("control nft -f, 10,000 rules"), f.of("control change of one rule of 10,000"))
}

// whyRecord says how much of a row of many flows is waiting for memory; one: the row of one flow.
func whyRecord(many, one string) func(*facts) string {
	return func(f *facts) string {
		known, line := f.of(one), f.of("net "+floorWaits1M)
		return fmt.Sprintf("A packet of one flow takes %.0f ns of it; the other %.0f wait for the flow's record. The least that one record takes which no cache holds is %.0f in this run (%q), "+
			"before anything is looked for or counted. How much that differs from run to run on a machine that is shared, the pages beside this one tell.",
			known, f.of(many)-known, line, floorWaits1M)
	}
}
