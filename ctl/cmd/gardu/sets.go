package main

import (
	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) setsCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "sets",
		Short: "Show the sets, their size, and when their files were read",
		Long: `Shows the sets with their number of entries. A set with a file is re-read when
the file changes; if that fails, the entries before it stay in force and the
error is shown here.`,
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
					{"packets", false, func(s *api.Set) any { return s.Packets }},
					{"bytes", true, func(s *api.Set) any { return size(s.Bytes) }},
					{"file", false, func(s *api.Set) any { return s.File }},
					{"loaded", true, func(s *api.Set) any { return s.Loaded }},
					{"error", false, func(s *api.Set) any { return styled{s.Error, bad} }},
				})
			})
		},
	})
}
