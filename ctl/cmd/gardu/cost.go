package main

import (
	"fmt"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// costReport is what check --cost says.
type costReport struct {
	Runs    []runReport       `json:"runs"`    // one for each kind of packets that there are rules for
	Classes int               `json:"classes"` // combinations of sets that an address can be in
	Bytes   map[string]uint64 `json:"bytes"`   // of each table, as compiled; in the kernel all of a kind are equally long
	Basis   string            `json:"basis"`   // what the estimates are made of
}

// runReport is a RunCost with the estimates.
type runReport struct {
	compile.RunCost
	TypicalNs int `json:"typical_ns"` // estimate: a packet that a rule is about
	WorstNs   int `json:"worst_ns"`   // estimate: a packet that meets the worst of everything
}

const costBasis = "estimates from a model fitted to bench/results/2026-11-23-0b2abdb (AMD EPYC guest with retpolines), not a measurement"

// tooSlow is from when on the worst case of the rules is worth a warning, in ns.
const tooSlow = 5000

func newCostReport(tables *compile.Tables) costReport {
	report := costReport{Runs: []runReport{}, Classes: tables.Cost.Classes, Basis: costBasis, Bytes: map[string]uint64{}}
	for table, name := range [abi.TableCount]string{abi.TableSets: "sets", abi.TableRules: "rules", abi.TableServices: "services"} {
		report.Bytes[name] = uint64(tables.Cost.Bytes[table])
	}
	for _, run := range tables.Runs {
		typical, worst := run.Estimate(tables.Cost.Bytes[abi.TableSets])
		report.Runs = append(report.Runs, runReport{run, int(typical), int(worst)})
	}
	return report
}

// warnOfCost tells of rules that can take a packet very long.
func (a *app) warnOfCost(report costReport) {
	for _, run := range report.Runs {
		if run.WorstNs > tooSlow {
			a.warnf("warning: a packet can take about %s ns in the rules for packets %s: %s\n", thousands(uint64(run.WorstNs)), run.Packets, run.why())
		}
	}
}

func (a *app) printCost(report costReport) error {
	return printValue(a, report, func() error {
		err := writeTable(a.stdout, a.color, report.Runs, []column[runReport]{
			{"packets", false, func(r *runReport) any { return r.Packets }},
			{"structure", false, func(r *runReport) any { return r.structure() }},
			{"records", false, func(r *runReport) any { return uint64(r.Records) }},
			{"groups", false, func(r *runReport) any { return uint64(r.Groups) }},
			{"probes", false, func(r *runReport) any { return fmt.Sprintf("%.1f, at most %d", r.Typical, r.Probes) }},
			{"longest chain", false, func(r *runReport) any { return uint64(r.LongestChain) }},
			{"verifications", false, func(r *runReport) any { return fmt.Sprintf("at most %d", r.Verifications) }},
			{"estimate", false, func(r *runReport) any {
				return fmt.Sprintf("%d ns, at most %s ns", r.TypicalNs, thousands(uint64(r.WorstNs)))
			}},
		})
		if err != nil {
			return err
		}
		a.printf("\nmemory: rules %s, sets %s (%s), services %s\n", bytesText(report.Bytes["rules"]),
			bytesText(report.Bytes["sets"]), plural(report.Classes, "class"), bytesText(report.Bytes["services"]))
		a.printf("%s\n", report.Basis)
		return nil
	})
}

func (r *runReport) structure() string {
	switch {
	case r.Structure == "scan":
		return "one after the other"
	case len(r.Masks) == 0:
		return "groups"
	}
	return "groups by " + strings.Join(r.Masks, " ")
}

// why names what makes the worst case bad.
func (r *runReport) why() string {
	const shown = 5
	if len(r.Crowd) > 0 {
		names := strings.Join(r.Crowd[:min(shown, len(r.Crowd))], ", ")
		if more := r.LongestChain - shown; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		return fmt.Sprintf("nothing that can be hashed tells the rules %s apart; an exact port, protocol or address in them would", names)
	}
	if r.GoOn > 0 {
		return fmt.Sprintf("%s go on to the next rule, and each that matches is another search", plural(r.GoOn, "rule"))
	}
	return fmt.Sprintf("it can be left with %s", plural(r.Probes, "group"))
}
