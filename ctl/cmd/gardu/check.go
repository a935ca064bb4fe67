package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/lint"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func (a *app) checkCommand() *cobra.Command {
	var cost bool
	cmd := a.outputFlag(&cobra.Command{
		Use:   "check FILE",
		Short: "Validate a configuration without touching anything",
		Long: `Reads the configuration and the set files that it names, and compiles them. Prints
every error with its file, line and column, the line itself, and what is allowed
there. It needs neither root nor a daemon. FILE may be - for stdin. An interface that
this machine doesn't have is no error here, for the file may be another machine's.

It warns of what is hardly meant: rules that are never reached, sets that nothing asks
for, a filter that would cut off this machine's name servers or the SSH connection
that the command is given on, VLAN tags that this machine's interfaces take off
before rules could see them, and backends that this machine has no route to, or one
too narrow for the header that the service's mode adds.

With --cost it prints instead what the rules cost a packet: how they are arranged, the
most that any packet can meet, memory, and an estimate in nanoseconds.`,
		Example: `  gardu check /etc/gardu/gardu.yaml
  gardu check gardu.yaml --cost
  gardu check gardu.yaml --cost -o json | jq '.runs[].verifications'`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, name, dir, err := a.readConfig(args[0])
			if err != nil {
				return err
			}
			snapshot, warnings, err := config.Parse(name, text, dir)
			for _, warning := range warnings {
				a.warnf("%v\n", warning)
			}
			if err != nil {
				return err
			}
			ids, _, err := compile.IDs{}.Assign(snapshot)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			tables, err := compile.Compile(snapshot, ids)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for _, warning := range onThisMachine(snapshot, text) {
				a.warnf("%v\n", warning)
			}
			report := newCostReport(tables)
			a.warnOfCost(report)
			if cost {
				return a.printCost(report)
			}
			a.printf("ok: %s\n", summary(snapshot))
			a.printf("    compiled to %s; a packet meets at most %s and %s of rules\n", bytesText(tableBytes(tables.Cost)),
				plural(tables.Cost.Probes, "group"), plural(tables.Cost.Verifications, "record"))
			return nil
		},
	})
	cmd.Flags().BoolVar(&cost, "cost", false, "print what the rules cost a packet")
	return cmd
}

// onThisMachine finds interfaces that this machine doesn't have, what would be cut off, and backends that nothing gets to. A machine that doesn't tell
// has all interfaces.
func onThisMachine(snapshot *model.Snapshot, text []byte) []config.Warning {
	links, err := netdev.Open()
	if err != nil {
		return nil
	}
	defer links.Close()
	warnings := lint.CutOff(snapshot, lint.Around(sshConnection(), links), text)
	warnings = append(warnings, lint.Untagged(snapshot, links.StripsVLAN, text)...)
	warnings = append(warnings, lint.SharedPorts(snapshot, lint.LocalPorts(), text)...)
	missing := false
	for _, i := range snapshot.Interfaces {
		if _, err := links.Link(i.Name); errors.Is(err, netdev.ErrNoLink) {
			msg := fmt.Sprintf("this machine has no interface %s: run and apply would refuse", i.Name)
			warnings = append(warnings, config.Warning{Pos: i.Pos, Msg: msg, Line: config.LineOf(text, i.Pos.Line)})
			missing = true
		}
	}
	if !missing { // else the ways are another machine's, too
		warnings = append(warnings, lint.Ways(snapshot, links.Room, links.FromClients(snapshot), text)...)
	}
	return warnings
}

// summary counts what a snapshot holds.
func summary(s *model.Snapshot) string {
	entries, backends := 0, 0
	for _, set := range s.Sets {
		entries += len(set.Prefixes) + len(set.Ports) + len(set.Pairs)
	}
	for _, service := range s.Services {
		backends += len(service.Backends)
	}
	text := plural(len(s.Interfaces), "interface") + ", " + plural(len(s.Filter.Rules), "rule")
	if len(s.Sets) > 0 {
		text += fmt.Sprintf(", %s with %s", plural(len(s.Sets), "set"), plural(entries, "entry"))
	}
	if len(s.Services) > 0 {
		text += fmt.Sprintf(", %s with %s", plural(len(s.Services), "service"), plural(backends, "backend"))
	}
	return text
}

func tableBytes(cost compile.Cost) (sum uint64) {
	for _, n := range cost.Bytes {
		sum += uint64(n)
	}
	return sum
}
