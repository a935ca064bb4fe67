package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) confirmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm [REV]",
		Short: "Keep what was applied with --confirm",
		Long: `Says that the configuration that was applied with --confirm shall stay. Without it,
what was in force before comes back when the time is over. With REV, only if it is
that revision which waits.`,
		Example: `  gardu apply gardu.yaml --confirm 60s
  gardu confirm`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := optionalRevision(args)
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Confirm(cmd.Context(), api.ConfirmRequest{Revision: revision})
				if err == nil {
					a.printf("revision %d stays\n", result.Revision)
				}
				return err
			})
		},
	}
}

// optionalRevision is the first argument, 0 when there is none.
func optionalRevision(args []string) (uint64, error) {
	if len(args) == 0 {
		return 0, nil
	}
	return parseRevision(args[0])
}

func parseRevision(text string) (uint64, error) {
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil || number == 0 {
		return 0, usage("%q is not the number of a revision; gardu history lists them", text)
	}
	return number, nil
}
