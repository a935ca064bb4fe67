package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
	"gardu/ctl/doctor"
	"gardu/ctl/lint"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func (a *app) doctorCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Find out whether this machine can do it, and what to do if not",
		Long: `Looks at the kernel and what it lets gardu do, and has it verify the programs that
FILE needs; at its interfaces and what auto chooses for each; at the settings of the
network stack that get in the way; and at the way to each backend, leg by leg: a probe
goes through the service's path, wrapped as packets of clients would be, and its answer
is awaited; where none comes, others tell how far one gets. If a gardu runs here it is
asked what its health checks say. It warns of translations with ports that the kernel
takes for itself, and of a filter that would cut off name servers or the SSH connection
that the command is given on. Without FILE it looks for what any configuration needs, at
all interfaces that are up.

Nothing is attached and nothing is left behind. The exit code is 1 when something
fails.`,
		Example: `  sudo gardu doctor /etc/gardu/gardu.yaml
  sudo gardu doctor -o json | jq '.[] | select(.result != "ok")'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var snapshot *model.Snapshot
			var text []byte
			if len(args) == 1 {
				var name, dir string
				var err error
				if text, name, dir, err = a.readConfig(args[0]); err != nil {
					return err
				}
				if snapshot, _, err = config.Parse(name, text, dir); err != nil {
					return err
				}
			}
			if err := a.needRoot(); err != nil {
				return err
			}
			facts, err := doctor.Gather(snapshot)
			if err != nil {
				return err
			}
			a.askHealth(cmd, facts.Backends)
			findings := doctor.Judge(facts)
			if snapshot != nil {
				findings = append(findings, atOdds(snapshot, text)...)
			}
			if a.format.human() {
				a.printFindings(findings)
			} else if err := printRows(a, "findings", findings, findingColumns()); err != nil {
				return err
			}
			if n := doctor.Failed(findings); n > 0 {
				return fmt.Errorf("%s", plural(n, "failure"))
			}
			return nil
		},
	})
}

// atOdds finds what a configuration would do to what this machine does already.
func atOdds(snapshot *model.Snapshot, text []byte) (findings []doctor.Finding) {
	add := func(warnings []config.Warning, advice string) {
		for _, w := range warnings {
			findings = append(findings, doctor.Finding{Area: "configuration", Subject: fmt.Sprintf("line %d", w.Pos.Line), Result: doctor.Warn, Found: w.Msg, Advice: advice})
		}
	}
	add(lint.SharedPorts(snapshot, lint.LocalPorts(), text), "choose other ports, or leave these out of net.ipv4.ip_local_port_range")
	if links, err := netdev.Open(); err == nil {
		defer links.Close()
		add(lint.CutOff(snapshot, lint.Around(sshConnection(), links), text), "name it in filter.allow, or in a rule with action: pass before")
	}
	return findings
}

// askHealth adds what a running gardu knows of the same backends; none need be running.
func (a *app) askHealth(cmd *cobra.Command, backends []doctor.Backend) {
	var known []api.Backend
	err := a.ask(func(c *client.Client) (err error) {
		known, err = c.Backends(cmd.Context())
		return err
	})
	if err != nil {
		return
	}
	for i := range backends {
		for _, k := range known {
			if b := &backends[i]; b.Service == k.Service && b.Name == k.Name && b.Address == k.Address {
				b.State, b.Why = k.State, k.Why
			}
		}
	}
}

var resultStyles = map[doctor.Result]style{doctor.OK: good, doctor.Warn: warn, doctor.Fail: bad}

// printFindings gives each a paragraph, and what to do one of its own below: as columns they would be wider than any screen.
func (a *app) printFindings(findings []doctor.Finding) {
	subjects := 0
	for _, f := range findings {
		subjects = max(subjects, utf8.RuneCountInString(f.Subject))
	}
	margin, width := strings.Repeat(" ", 4+2+subjects+2), a.width()
	for _, f := range findings {
		mark := resultStyles[f.Result].paint(a.color, fmt.Sprintf("%-4s", f.Result))
		a.printf("%s  %-*s  %s\n", mark, subjects, printable(f.Subject), fold(printable(f.Found), margin, width))
		if f.Advice != "" {
			a.printf("%s-> %s\n", margin, fold(printable(f.Advice), margin+"   ", width))
		}
	}
}

func findingColumns() []column[doctor.Finding] {
	return []column[doctor.Finding]{
		{"area", false, func(f *doctor.Finding) any { return f.Area }},
		{"of", false, func(f *doctor.Finding) any { return f.Subject }},
		{"result", false, func(f *doctor.Finding) any { return f.Result }},
		{"found", false, func(f *doctor.Finding) any { return f.Found }},
		{"what to do", false, func(f *doctor.Finding) any { return f.Advice }},
	}
}
