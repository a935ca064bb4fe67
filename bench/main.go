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
}

// parts are what a run consists of, in this order.
var parts = []string{"cost", "live", "latency", "transfers", "control"}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	quick := flag.Bool("quick", false, "three short rounds: a look, not a claim")
	only := flag.String("run", "", "measure only the cases of cost and live that match this `regexp` (and baselines), and only their parts")
	which := flag.String("parts", "", "`comma-separated` parts to measure: "+strings.Join(parts, ", ")+"; empty: all, or those that -run asks for")
	dir := flag.String("o", "bench/results", "`directory` of the results; empty: print only")
	binary := flag.String("gardu", "bin/gardu", "gardu's `binary`, for the parts that run a daemon")
	base := flag.String("check", "", "compare this `commit` with the tree, in turns, and fail when the tree is slower")
	flag.Parse()
	s := settings{quick: *quick, rounds: 11, packets: 500_000, liveRounds: 7, livePackets: 500_000, binary: *binary, parts: parts}
	if *quick {
		s.rounds, s.packets, s.liveRounds, s.livePackets = 3, 100_000, 2, 100_000
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

// bench measures everything that is asked for. A part that can't be measured is told of in the result.
func bench(s settings) (*result, error) {
	start := time.Now()
	load := line("/proc/loadavg")
	r := &result{Time: start.UTC().Truncate(time.Second), Quick: s.quick, Rounds: s.rounds, Packets: s.packets}
	// Before this thread is pinned: what it starts would be as well.
	for _, part := range []struct {
		name string
		run  func(settings, *result) error
	}{{"transfers", benchTransfers}, {"control", benchControl}} {
		if slices.Contains(s.parts, part.name) {
			fmt.Fprintf(os.Stderr, "== %s\n", part.name)
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
			fmt.Fprintf(os.Stderr, "== %s\n", batch)
			r.fail(batch, benchBatch(s, r, batch))
		}
	}
	for _, part := range []struct {
		name string
		run  func(settings, *result, int) error
	}{{"live", benchLive}, {"latency", benchLatency}} {
		if slices.Contains(s.parts, part.name) {
			fmt.Fprintf(os.Stderr, "== %s\n", part.name)
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
		if !baseline(scenario.name) && !s.filter.MatchString(scenario.name) {
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
		fmt.Fprintf(os.Stderr, "preparing %s\n", idle.name)
		loaded, err := worlds.subject(idle.scenario)
		if err != nil {
			idle.failed = err
			continue
		}
		subjects[i] = loaded
	}
	measure(subjects, s.rounds, s.packets, func(round int) { fmt.Fprintf(os.Stderr, "%s, round %d of %d\n", batch, round+1, s.rounds) })
	r.add(subjects)
	return nil
}

// benchLive measures travelling packets.
func benchLive(s settings, r *result, cpu int) (err error) {
	cases := slices.DeleteFunc(liveCases(), func(c *liveCase) bool {
		return !s.filter.MatchString(c.name) && c.name != liveBare && c.name != stackNft
	})
	l, err := newLive(cases)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	l.measure(s.liveRounds, s.livePackets, cpu)
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
