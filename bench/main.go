package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"regexp"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	quick := flag.Bool("quick", false, "three short rounds: a look, not a claim")
	only := flag.String("run", "", "measure only the cases that match this `regexp` (and the empty program)")
	dir := flag.String("o", "bench/results", "`directory` of the results; empty: print only")
	flag.Parse()
	rounds, packets := 11, 500_000
	if *quick {
		rounds, packets = 3, 100_000
	}
	filter, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	if os.Geteuid() != 0 {
		log.Fatal("needs root: loads BPF programs")
	}
	if err := bench(filter, rounds, packets, *dir); err != nil {
		log.Fatal(err)
	}
}

func bench(filter *regexp.Regexp, rounds, packets int, dir string) (err error) {
	var subjects []*subject
	worlds := lab{}
	defer func() { err = errors.Join(err, closeAll(subjects), worlds.close()) }()
	for _, scenario := range scenarios() {
		if scenario.name != emptyName && scenario.name != emptyName6 && !filter.MatchString(scenario.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "preparing %s\n", scenario.name)
		s, err := worlds.subject(scenario)
		if err != nil {
			return fmt.Errorf("prepare %s: %w", scenario.name, err)
		}
		subjects = append(subjects, s)
	}
	cpu, realtime, err := pin()
	if err != nil {
		return err
	}
	progress := func(round int) { fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds) }
	if err := measure(subjects, rounds, packets, progress); err != nil {
		return err
	}
	r := newResult(describeMachine(cpu, realtime), rounds, packets, subjects)
	if r.Live, err = benchLive(worlds, r, rounds, packets, cpu); err != nil {
		return fmt.Errorf("packets that travel: %w", err)
	}
	if err := r.markdown(os.Stdout); err != nil || dir == "" {
		return err
	}
	stem, err := r.save(dir)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten to %s.json and .md\n", stem)
	return nil
}

// benchLive measures travelling packets, if the cases that they are compared with were measured.
func benchLive(worlds lab, r result, rounds, packets, cpu int) (_ *liveResult, err error) {
	filter, ok := r.find(listAndRules)
	rules, ok2 := r.find(rulesForNft)
	if !ok || !ok2 {
		return nil, nil
	}
	fmt.Fprintln(os.Stderr, "packets that travel")
	set := twoFields(1000)
	l, err := newLive(worlds[listAndRules], set.packetsBehind(feed4()), set.packets(), set, packets)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.measure(rounds, cpu); err != nil {
		return nil, err
	}
	return l.result(filter.Net, rules.Net), nil
}
