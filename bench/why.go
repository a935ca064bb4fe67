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
