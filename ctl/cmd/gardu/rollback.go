package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) rollbackCommand() *cobra.Command {
	var trial trial
	cmd := &cobra.Command{
		Use:   "rollback [REV]",
		Short: "Put an older configuration in force again",
		Long: `Puts the configuration of an older revision in force, as a new revision: REV, or the
one before what is in force. While a configuration waits for confirmation, it goes
back to what was before that.

The text is that of the history, but set files are read anew: when one is gone,
nothing is changed. The daemon's own file stays as it is, and counts again when the
daemon starts.`,
		Example: `  gardu rollback
  gardu rollback 12 --confirm 60s -m "the new rules broke mail"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := optionalRevision(args)
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Rollback(cmd.Context(), api.RollbackRequest{Revision: revision, Comment: trial.comment,
					Confirm: api.Duration(trial.confirm), Force: trial.force, SSHConnection: sshConnection(), IfMatch: trial.ifMatch})
				if err != nil {
					return fmt.Errorf("nothing was changed: %w", err)
				}
				for _, warning := range result.Warnings {
					a.warnf("%v\n", warning)
				}
				a.printApplied(result)
				return nil
			})
		},
	}
	trial.flags(cmd)
	return cmd
}
