//go:build ignore

// Command gotest runs `go test -json` on the given packages and prints each package's closing line, the output of
// what failed, every skip with its reason, and the totals. As root a skip that is not on the allow list fails.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gotest: ")
	allow := flag.String("allow", "", "`file` of tests that may skip")
	flag.Parse()
	allowed, err := readAllowed(*allow)
	if err != nil {
		log.Fatal(err)
	}
	args := append([]string{"test", "-json", "-count=1", "-timeout=40m"}, flag.Args()...)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	run := newRun(os.Stdout)
	readErr := run.read(events)
	waitErr := cmd.Wait()
	run.report(time.Since(start))
	refused := run.refused(allowed)
	if os.Geteuid() == 0 {
		for _, name := range refused {
			fmt.Printf("FAIL: skipped as root and not on the list of allowed skips: %s\n", name)
		}
	} else {
		refused = nil
	}
	if err := errors.Join(readErr, waitErr); err != nil {
		log.Fatal(err)
	}
	if len(refused) > 0 {
		os.Exit(1)
	}
}

// readAllowed reads "package Test/name" lines.
func readAllowed(path string) (map[string]bool, error) {
	allowed := map[string]bool{}
	if path == "" {
		return allowed, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the list of allowed skips: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			allowed[line] = true
		}
	}
	return allowed, nil
}

// event is one line of test2json.
type event struct {
	Action, Package, Test, Output string
}

// test is one test's name; the zero Name is the package itself.
type test struct{ pkg, name string }

func (t test) String() string { return t.pkg + " " + t.name }

// run collects what the tests did.
type run struct {
	out      io.Writer
	output   map[test][]string // until the test's result is known
	skipped  map[test]string   // to the reason
	results  map[string]int    // tests by result
	packages map[string]bool
}

func newRun(out io.Writer) *run {
	return &run{out: out, output: map[test][]string{}, skipped: map[test]string{}, results: map[string]int{}, packages: map[string]bool{}}
}

func (r *run) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				r.out.Write(line) // not an event: go's own complaint
			} else {
				r.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}

func (r *run) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.output[t] = append(r.output[t], e.Output)
	case "pass", "fail", "skip":
		if t.name == "" {
			r.closePackage(t, e.Action)
			return
		}
		r.results[e.Action]++
		switch e.Action {
		case "fail":
			fmt.Fprint(r.out, strings.Join(r.output[t], ""))
		case "skip":
			r.skipped[t] = reason(r.output[t])
		}
		delete(r.output, t)
	}
}

// closePackage prints go's closing line of a package ("ok  gardu/ctl/lb 0.4s"), or all that it said when it failed.
func (r *run) closePackage(t test, action string) {
	r.packages[t.pkg] = true
	said := r.output[t]
	if action == "fail" {
		for other, lines := range r.output { // a panic or time-out leaves tests without a result
			if other.pkg == t.pkg && other.name != "" {
				said = append(slices.Clone(lines), said...)
			}
		}
		fmt.Fprint(r.out, strings.Join(said, ""))
		return
	}
	for _, line := range said {
		if strings.HasPrefix(line, "ok") || strings.HasPrefix(line, "?") {
			fmt.Fprint(r.out, line)
		}
	}
}

// reason is what a skipped test said last before its "--- SKIP" line.
func reason(output []string) string {
	var said string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") && line != "" {
			said = line
		}
	}
	return said
}

func (r *run) refused(allowed map[string]bool) []string {
	var names []string
	for t := range r.skipped {
		if !allowed[t.String()] {
			names = append(names, t.String())
		}
	}
	slices.Sort(names)
	return names
}

func (r *run) report(took time.Duration) {
	names := slices.SortedFunc(maps.Keys(r.skipped), func(a, b test) int { return strings.Compare(a.String(), b.String()) })
	for _, t := range names {
		fmt.Fprintf(r.out, "skipped: %s: %s\n", t, r.skipped[t])
	}
	fmt.Fprintf(r.out, "%d tests passed, %d failed, %d skipped, in %d packages and %s\n",
		r.results["pass"], r.results["fail"], r.results["skip"], len(r.packages), took.Round(time.Second))
}
