package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// settings are how much is measured.
type settings struct {
	filter      *regexp.Regexp
	parts       []string
	quick       bool
	rounds      int // of test runs
	packets     int // a sample, at least
	liveRounds  int
	livePackets int
	binary      string // gardu
	deadline    time.Time
}

// budget is how long measuring may go on before rounds are left out, so that all parts together end within 20 minutes.
const budget = 16 * time.Minute

// tooLong are cases that a short look leaves out.
var tooLong = regexp.MustCompile(`1500 bytes|IPv6, (1k|500k)|^(dsr|ipip|gue|nat), IPv6|^(dsr|gue|state|flows|nat), (1k|500k)|all, 1k|set6|(acl|fw|ipc) 10,000|` +
	`two fields, 100,000|1M flows|1M records|^100k blocks, |remembered|set of 1|1M addresses|list of 1M|^(routed|HAProxy|gardu .*), IPv6| at tc$|services$|backends$|1,000 rules$|u32, 100`)

// wants says whether a case is to be measured. A short look measures all that is asked for by name.
func (s settings) wants(name string) bool {
	return s.filter.MatchString(name) && !(s.quick && s.filter.String() == "" && tooLong.MatchString(name))
}

// parts are what a run consists of, in this order.
var parts = []string{"cost", "live", "latency", "transfers", "control"}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	quick := flag.Bool("quick", false, "three short rounds: a look, not a claim")
	only := flag.String("run", "", "measure only the cases of cost (and baselines), live and control that match this `regexp`; without -parts those of cost and live")
	which := flag.String("parts", "", "`comma-separated` parts to measure: "+strings.Join(parts, ", ")+"; empty: all, or those that -run asks for")
	dir := flag.String("o", "bench/results", "`directory` of the results; empty: print only")
	binary := flag.String("gardu", "bin/gardu", "gardu's `binary`, for the parts that run a daemon")
	rounds := flag.Int("rounds", 0, "rounds of travelling packets, instead of the usual `number`")
	packets := flag.Int("packets", 0, "`number` of travelling packets a sample, instead of the usual one")
	from := flag.String("from", "", "measure nothing: make the page of what was measured elsewhere and is in this `file`")
	base := flag.String("check", "", "compare this `commit` with the tree, in turns, and fail when the tree is slower")
	flag.Parse()
	s := settings{quick: *quick, rounds: 11, packets: 500_000, liveRounds: 7, livePackets: 500_000, binary: *binary, parts: parts}
	if *quick {
		s.rounds, s.packets, s.liveRounds, s.livePackets = 3, 50_000, 2, 50_000
	}
	if *rounds > 0 {
		s.liveRounds = *rounds
	}
	if *packets > 0 {
		s.livePackets = *packets
	}
	if *only != "" {
		s.parts = []string{"cost"}
	}
	if *which != "" {
		s.parts = strings.Split(*which, ",")
	}
	var err error
	if s.filter, err = regexp.Compile(*only); err != nil {
		log.Fatal(err)
	}
	for _, part := range s.parts {
		if !slices.Contains(parts, part) {
			log.Fatalf("no part is called %q: there are %s", part, strings.Join(parts, ", "))
		}
	}
	if *from != "" {
		if err := again(*from, *dir); err != nil {
			log.Fatal(err)
		}
		return
	}
	if os.Geteuid() != 0 {
		log.Fatal("needs root: loads BPF programs")
	}
	if *base != "" {
		slower, err := check(*base)
		if err != nil {
			log.Fatal(err)
		}
		if slower {
			log.Fatalf("slower than %s by more than %.0f %%, and not by chance", *base, 100*(checkEffect-1))
		}
		return
	}
	r, err := bench(s)
	if err != nil {
		log.Fatal(err)
	}
	if err := publish(r, *dir); err != nil {
		log.Fatal(err)
	}
}

// say tells who waits what goes on, and since when.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// bench measures everything that is asked for. A part that can't be measured is told of in the result.
func bench(s settings) (*result, error) {
	start := time.Now()
	s.deadline = start.Add(budget)
	load := line("/proc/loadavg")
	if !slices.Contains(s.parts, "cost") { // the page speaks of packets that travel
		s.rounds, s.packets = s.liveRounds, s.livePackets
	}
	r := &result{Time: start.UTC().Truncate(time.Second), Quick: s.quick, Rounds: s.rounds, Packets: s.packets}
	// Before this thread is pinned: what it starts would be as well.
	for _, part := range []struct {
		name string
		run  func(settings, *result) error
	}{{"transfers", benchTransfers}, {"control", benchControl}} {
		if slices.Contains(s.parts, part.name) {
			say("== %s", part.name)
			r.fail(part.name, part.run(s, r))
		}
	}
	cpu, realtime, err := pin()
	if err != nil {
		return nil, err
	}
	r.Machine = describeMachine(cpu, realtime)
	r.Machine.Load = load
	if slices.Contains(s.parts, "cost") {
		for _, batch := range batches {
			say("== %s", batch)
			r.fail(batch, benchBatch(s, r, batch))
		}
	}
	for _, part := range []struct {
		name string
		run  func(settings, *result, int) error
	}{{"live", benchLive}, {"latency", benchLatency}} {
		if slices.Contains(s.parts, part.name) {
			say("== %s", part.name)
			r.fail(part.name, part.run(s, r, cpu))
		}
	}
	r.Took = time.Since(start)
	r.conclude()
	return r, nil
}

// benchBatch measures one batch of test runs.
func benchBatch(s settings, r *result, batch string) (err error) {
	var subjects []*subject
	worlds := lab{}
	defer func() { err = errors.Join(err, closeAll(subjects), worlds.close()) }()
	wanted := false
	for _, scenario := range scenarios(batch) {
		if !baseline(scenario.name) && !s.wants(scenario.name) {
			continue
		}
		wanted = wanted || !baseline(scenario.name)
		subjects = append(subjects, &subject{scenario: scenario})
	}
	if !wanted {
		subjects = nil
		return nil
	}
	for i, idle := range subjects {
		say("preparing %s", idle.name)
		loaded, err := worlds.subject(idle.scenario)
		if err != nil {
			idle.failed = err
			continue
		}
		subjects[i] = loaded
	}
	rounds := measure(subjects, s.rounds, s.packets, s.deadline, func(round int) { say("%s, round %d of %d", batch, round+1, s.rounds) })
	if rounds < s.rounds {
		r.fail(batch, fmt.Errorf("only %d rounds: time was up", rounds))
	}
	r.add(subjects)
	return nil
}

// benchLive measures travelling packets.
func benchLive(s settings, r *result, cpu int) (err error) {
	all := liveCases()
	cases := slices.DeleteFunc(slices.Clone(all), func(c *liveCase) bool {
		base := slices.ContainsFunc(all, func(other *liveCase) bool { return other.of == c.name && s.wants(other.name) })
		return !s.wants(c.name) && !base && c.name != liveBare
	})
	l, err := newLive(cases)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if rounds := l.measure(s.liveRounds, s.livePackets, cpu, s.deadline); rounds < s.liveRounds {
		r.fail("live", fmt.Errorf("only %d rounds: time was up", rounds))
	}
	r.Live = l.rows()
	return nil
}

// publish prints the page, or writes it into a directory.
func publish(r *result, dir string) error {
	if dir == "" {
		_, err := fmt.Print(r.markdown("plot"))
		return err
	}
	stem, err := r.save(dir)
	if err != nil {
		return err
	}
	fmt.Printf("written to %s.md, with plots, a plan and data beside it\n", stem)
	return nil
}
