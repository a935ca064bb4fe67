package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// What makes a check fail: a case that costs more than checkEffect times as much, if chance alone would show such an order of
// runs with less than checkChance in any of the cases. The effect is the least that can be told from how programs happen to
// lie in memory, which differs from load to load: two loads of the same program differ by up to 3 %.
const (
	checkRuns   = 8 // of each side; every run loads all anew
	checkEffect = 1.05
	checkChance = 0.01
)

// checkCases are quick to prepare, and go through each part of the programs.
const checkCases = `^(pass|pass, IPv6|10,000 addresses|two fields, (10|1,000)|acl 1,000|limit, within|no service|state, 64k flows|(flows|dsr|ipip|gue|nat), (1 flow|64k flows))$`

// side is one of the two commits.
type side struct {
	name, tree, binary string
	costs              map[string][]float64 // median of each run, by case
}

// check compares a commit with the tree that it is run in, run by run in turns, and says whether the tree is slower.
func check(base string) (slower bool, err error) {
	dir, err := os.MkdirTemp("", "gardu-bench-*")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	here, err := output(".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return false, err
	}
	old := &side{name: base, tree: filepath.Join(dir, "base"), costs: map[string][]float64{}}
	now := &side{name: "this tree", tree: here, costs: map[string][]float64{}}
	if _, err := output(here, "git", "worktree", "add", "--quiet", "--detach", old.tree, base); err != nil {
		return false, err
	}
	defer func() {
		_, removed := output(here, "git", "worktree", "remove", "--force", old.tree)
		err = errors.Join(err, removed)
	}()
	for i, s := range []*side{old, now} {
		s.binary = filepath.Join(dir, fmt.Sprintf("bench%d", i))
		if _, err := output(s.tree, "go", "build", "-o", s.binary, "./bench"); err != nil {
			return false, err
		}
	}
	for run := range checkRuns {
		say("run %d of %d of each", run+1, checkRuns)
		order := []*side{old, now}
		rand.Shuffle(2, func(i, j int) { order[i], order[j] = order[j], order[i] })
		for i, s := range order {
			if err := s.run(filepath.Join(dir, fmt.Sprintf("%d-%d", run, i))); err != nil {
				return false, err
			}
		}
	}
	if lost := notMeasured(old.costs, now.costs); len(lost) > 0 {
		return false, fmt.Errorf("%s measures what this tree doesn't: %s", base, strings.Join(lost, "; "))
	}
	list := compare(old.costs, now.costs)
	if len(list) == 0 {
		return false, fmt.Errorf("%s and this tree have no case in common", base)
	}
	fmt.Printf("%-24s %9s %9s %7s %8s\n", "case", base, "now, ns", "ratio", "p")
	for _, c := range list {
		verdict := ""
		if c.slower {
			verdict, slower = "  SLOWER", true
		}
		fmt.Printf("%-24s %9.1f %9.1f %7.3f %8.5f%s\n", c.name, c.old, c.now, c.now/c.old, c.p, verdict)
	}
	return slower, nil
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// run measures the cases once, by the side's own benchmark, and keeps their medians.
func (s *side) run(dir string) error {
	if _, err := output(s.tree, s.binary, "-quick", "-run", checkCases, "-o", dir); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%s wrote %d results: %w", s.name, len(found), err)
	}
	var r result
	if err := json.Unmarshal([]byte(text(found[0])), &r); err != nil {
		return fmt.Errorf("read the result of %s: %w", s.name, err)
	}
	seen := map[string]bool{}
	for _, c := range r.Cases {
		if c.Failed == "" && !seen[c.Name] && !baseline(c.Name) {
			seen[c.Name] = true
			s.costs[c.Name] = append(s.costs[c.Name], c.Raw.Median)
		}
	}
	return nil
}

// comparison is one case of both sides.
type comparison struct {
	name     string
	old, now float64 // medians of the runs, ns
	p        float64 // how likely so many of the slow runs are of the new side, were there no difference
	slower   bool
}

// notMeasured are the cases that the old side measured in every run and the new one didn't: a program that gives wrong verdicts has no cost.
func notMeasured(old, now map[string][]float64) (names []string) {
	for name, before := range old {
		if len(before) == checkRuns && len(now[name]) < checkRuns {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// compare judges the cases that both have measured in every run.
func compare(old, now map[string][]float64) []comparison {
	var list []comparison
	for name, before := range old {
		if after := now[name]; len(after) == len(before) {
			list = append(list, comparison{name: name, old: figureOf(before).Median, now: figureOf(after).Median, p: slowerByChance(before, after)})
		}
	}
	slices.SortFunc(list, func(a, b comparison) int { return strings.Compare(a.name, b.name) })
	for i := range list {
		c := &list[i]
		c.slower = c.now/c.old > checkEffect && c.p < checkChance/float64(len(list)) // Bonferroni
	}
	return list
}

// slowerByChance is the one-sided p of Mann and Whitney's test, exact: the share of all ways to deal the ranks out that rank the
// new side at least as high. Ties are broken against a difference.
func slowerByChance(old, now []float64) float64 {
	u := 0 // pairs in which the new one is slower
	for _, n := range now {
		for _, o := range old {
			if n > o {
				u++
			}
		}
	}
	// ways[i][k]: to take i of the ranks so far with k pairs, rank by rank.
	ways := make([][]float64, len(now)+1)
	for i := range ways {
		ways[i] = make([]float64, len(now)*len(old)+1)
	}
	ways[0][0] = 1
	for rank := range len(now) + len(old) {
		for i := len(now) - 1; i >= 0; i-- {
			below := rank - i // of the old ones, if this rank is the new side's number i
			if below < 0 || below > len(old) {
				continue
			}
			for k := len(ways[i]) - 1 - below; k >= 0; k-- {
				ways[i+1][k+below] += ways[i][k]
			}
		}
	}
	var all, high float64
	for k, n := range ways[len(now)] {
		all += n
		if k >= u {
			high += n
		}
	}
	return high / all
}
