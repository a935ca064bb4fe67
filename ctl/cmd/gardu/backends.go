package main

import (
	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) backendsCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "backends",
		Short: "Show each service's backends, their health and counters",
		Long: `Shows the backends of all services: state by health check, or draining and drained
by gardu drain; weight in force; what was sent to each; how many flows were ever
assigned to it, and how many are on it and haven't ended; packets, bits and new flows
a second, on average over the last five to ten seconds. -o wide adds why and since
when a backend is in its state, and the next hop towards it.`,
		Example: `  gardu backends
  gardu backends -o wide
  gardu backends -o json | jq '.[] | select(.state == "down")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				backends, err := c.Backends(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "backends", backends, []column[api.Backend]{
					{"service", false, func(b *api.Backend) any { return b.Service }},
					{"name", false, func(b *api.Backend) any { return b.Name }},
					{"address", false, func(b *api.Backend) any { return b.Address }},
					{"weight", false, func(b *api.Backend) any { return b.Weight }},
					{"state", false, func(b *api.Backend) any { return styled{b.State, stateStyle(b.State)} }},
					{"packets", false, func(b *api.Backend) any { return b.Packets }},
					{"bytes", false, func(b *api.Backend) any { return size(b.Bytes) }},
					{"flows", false, func(b *api.Backend) any { return b.Flows }},
					{"active", false, func(b *api.Backend) any { return b.Active }},
					{"packets/s", false, func(b *api.Backend) any { return b.Rates.Packets }},
					{"rate", false, func(b *api.Backend) any { return bitRate(8 * b.Rates.Bytes) }},
					{"new/s", false, func(b *api.Backend) any { return b.Rates.Flows }},
					{"since", true, func(b *api.Backend) any { return b.Since }},
					{"next hop", true, func(b *api.Backend) any { return b.NextHop }},
					{"why", true, func(b *api.Backend) any { return b.Why }},
				})
			})
		},
	})
}

func stateStyle(state string) style {
	switch state {
	case "up":
		return good
	case "down":
		return bad
	}
	return warn
}
