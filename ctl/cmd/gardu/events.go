package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
)

func (a *app) eventsCommand() *cobra.Command {
	var query api.EventQuery
	cmd := a.outputFlag(&cobra.Command{
		Use:   "events [-f] [EXPR]",
		Short: "Show what happens: packets dropped, logged or sampled, blocks, backends, applies",
		Long: `Shows the last events that the daemon remembers and, with -f, those to come: packets
that rules log or sample, with their verdict; backends that go up and down; blocks;
configurations put in force; interfaces that come and go; what fails, and works
again. Events that could not be told are counted, and told of.

With -f there are also packets that are dropped or rejected, whatever the reason: as
long as somebody follows, of those that no rule notes up to 1000 a second become events
of kind drop. They aren't remembered, and cost packets nothing when nobody follows.

EXPR picks events by what they are; gardu help expr explains it.`,
		Example: `  gardu events -f                                   as they happen
  gardu events 'rule ssh and src in 198.51.100.0/24'  of one rule
  gardu events -f 'verdict drop and src 198.51.100.7' why does nothing come through?
  gardu events -f 'not kind drop'                     without those that no rule notes
  gardu events -f 'kind up, down'                     backends
  gardu events 'kind fault, mended'                   what failed by itself
  gardu events -f -o ndjson | jq .packet`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			query.Filter = strings.Join(args, " ")
			if _, err := expr.ParseEvent(query.Filter); err != nil {
				return &usageError{err.Error(), "expr"}
			}
			last := cmd.Flags().Lookup("number").Changed
			switch {
			case query.Last < 0:
				return usage("-n %d: it is a number of events", query.Last)
			case last && query.Last == 0, query.Follow && !last:
				query.Last = -1
			}
			if query.Follow && (a.format == formatJSON || a.format == formatYAML) {
				return usage("-f has no end, and so goes with table, wide, ndjson and csv, not %s", a.format)
			}
			return a.ask(func(c *client.Client) error {
				if query.Follow {
					return a.followEvents(cmd, c, query)
				}
				return a.printEvents(cmd, c, query)
			})
		},
	})
	cmd.Flags().BoolVarP(&query.Follow, "follow", "f", false, "go on with those to come, until interrupted")
	cmd.Flags().IntVarP(&query.Last, "number", "n", 0, "only the last `N` of those that are remembered (default all; with -f none)")
	return cmd
}

// printEvents prints the events that are remembered.
func (a *app) printEvents(cmd *cobra.Command, c *client.Client, query api.EventQuery) error {
	return printEach(a, "events", a.eventColumns(), func(yield func(api.Event) error) error {
		return c.Events(cmd.Context(), query, yield)
	})
}

// followEvents prints an event a line as it comes.
func (a *app) followEvents(cmd *cobra.Command, c *client.Client, query api.EventQuery) error {
	out := bufio.NewWriter(a.stdout)
	write := lineWriter(a, out, a.eventColumns())
	err := c.Events(cmd.Context(), query, func(e api.Event) error {
		return errors.Join(write(&e), out.Flush())
	})
	if cmd.Context().Err() != nil { // interrupted: that is how it ends
		return nil
	}
	return err
}

func (a *app) eventColumns() []column[api.Event] {
	columns := []column[api.Event]{
		{"time", false, func(e *api.Event) any { return e.Time }},
		{"kind", false, func(e *api.Event) any { return e.Kind }},
		{"verdict", false, func(e *api.Event) any { return styled{e.Verdict, verdictStyle(e.Verdict)} }},
		{"reason", false, func(e *api.Event) any { return e.Reason }},
		{"rule", false, func(e *api.Event) any { return e.Rule }},
		{"would", false, func(e *api.Event) any { return styled{e.Would, verdictStyle(e.Would)} }},
		{"decided", true, func(e *api.Event) any { return e.Decided }},
		{"service", true, func(e *api.Event) any { return e.Service }},
		{"backend", true, func(e *api.Event) any { return e.Backend }},
		{"interface", false, func(e *api.Event) any { return e.Interface }},
		{"direction", true, func(e *api.Event) any { return e.Direction }},
	}
	if a.format == formatCSV {
		address := func(get func(*api.Event) fmt.Stringer, e *api.Event) any {
			if e.Proto == "" {
				return ""
			}
			return get(e)
		}
		columns = append(columns, []column[api.Event]{
			{"src", false, func(e *api.Event) any { return address(func(e *api.Event) fmt.Stringer { return e.Src }, e) }},
			{"dst", false, func(e *api.Event) any { return address(func(e *api.Event) fmt.Stringer { return e.Dst }, e) }},
			{"sport", false, func(e *api.Event) any { return e.Sport }},
			{"dport", false, func(e *api.Event) any { return e.Dport }},
			{"proto", false, func(e *api.Event) any { return e.Proto }},
			{"length", false, func(e *api.Event) any { return e.Length }},
			{"packets", false, func(e *api.Event) any { return e.Packets }},
			{"packet", false, func(e *api.Event) any { return e.Packet }},
			{"count", false, func(e *api.Event) any { return e.Count }},
			{"text", false, func(e *api.Event) any { return e.Text }},
		}...)
		return columns
	}
	return append(columns, column[api.Event]{"what", false, func(e *api.Event) any {
		name := ""
		if e.Service != "" && e.Packet == "" {
			name = e.Service + "/" + e.Backend + " "
		}
		return name + e.Packet + e.Text
	}})
}
