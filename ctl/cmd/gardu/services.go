package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) servicesCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "services",
		Short: "Show the balanced services and their totals",
		Long: `Shows the services: their address, how packets reach the backends, how many
backends are up, and the totals over all of them, and what these grow by a second.
gardu backends shows each.`,
		Example: `  gardu services
  gardu services -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				services, err := c.Services(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "services", services, []column[api.Service]{
					{"name", false, func(s *api.Service) any { return s.Name }},
					{"address", false, func(s *api.Service) any { return s.Address }},
					{"port", false, func(s *api.Service) any { return s.Port }},
					{"proto", false, func(s *api.Service) any { return s.Proto }},
					{"forward", false, func(s *api.Service) any { return s.Forward }},
					{"affinity", true, func(s *api.Service) any { return s.Affinity }},
					{"up", false, func(s *api.Service) any { return styled{fmt.Sprintf("%d/%d", s.BackendsUp, s.Backends), upStyle(s)} }},
					{"packets", false, func(s *api.Service) any { return s.Packets }},
					{"bytes", false, func(s *api.Service) any { return size(s.Bytes) }},
					{"flows", false, func(s *api.Service) any { return s.Flows }},
					{"active", false, func(s *api.Service) any { return s.Active }},
					{"packets/s", false, func(s *api.Service) any { return s.Rates.Packets }},
					{"rate", false, func(s *api.Service) any { return bitRate(8 * s.Rates.Bytes) }},
					{"new/s", false, func(s *api.Service) any { return s.Rates.Flows }},
				})
			})
		},
	})
}

func upStyle(s *api.Service) style {
	switch s.BackendsUp {
	case s.Backends:
		return good
	case 0:
		return bad
	}
	return warn
}
