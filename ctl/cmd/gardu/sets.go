package main

import (
	"cmp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) setsCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "sets",
		Short: "Show the sets, their size and hits, and when their files were read",
		Long: `Shows the sets. Entries are as written; wanted are those left when duplicates, nested
and adjacent ones are merged; kernel is the same number, counted from the table that
the kernel holds. The two are equal, or the last column says why not.

A set with a file is read again when the file changes. If the file is broken, empty, or
would lose more entries than max-shrink allows, the entries before stay in force: the
state is kept, and the last column says why.

Packets are hits: packets that a rule matched for being in the set, and those that
filter.allow passed. They are derived from the counters of the rules and cost nothing.`,
		Example: `  gardu sets
  gardu sets -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				sets, err := c.Sets(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "sets", sets, []column[api.Set]{
					{"name", false, func(s *api.Set) any { return s.Name }},
					{"kind", false, func(s *api.Set) any { return s.Kind }},
					{"entries", false, func(s *api.Set) any { return s.Entries }},
					{"wanted", false, func(s *api.Set) any { return s.Wanted }},
					{"kernel", false, func(s *api.Set) any { return s.Kernel }},
					{"state", false, func(s *api.Set) any { return styled{s.State, setStateStyle(s.State)} }},
					{"packets", false, func(s *api.Set) any { return s.Packets }},
					{"bytes", true, func(s *api.Set) any { return size(s.Bytes) }},
					{"source", false, func(s *api.Set) any { return cmp.Or(s.File, "inline") }},
					{"age", false, func(s *api.Set) any { return time.Duration(s.Age).String() }},
					{"loaded", true, func(s *api.Set) any { return s.Loaded }},
					{"remark", false, func(s *api.Set) any { return strings.Trim(s.Error+"; "+s.Difference, "; ") }},
				})
			})
		},
	})
}

func setStateStyle(state string) style {
	switch state {
	case "kept":
		return bad
	case "unused":
		return dim
	}
	return plainStyle
}
