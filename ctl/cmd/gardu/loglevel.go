package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) logLevelCommand() *cobra.Command {
	var lasts lifetime
	cmd := &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "Show or change how much the daemon writes to its log",
		Long: `Without LEVEL, shows from which level on the daemon writes lines to its log. With one of
debug, info, warn and error, changes it: for a while, or until the daemon ends.`,
		Example: `  gardu log-level                    what it is
  gardu log-level debug --for 10m    more, then as before`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: api.LogLevels(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && lasts != 0 {
				return usage("--for goes with a level")
			}
			if len(args) > 0 && !slices.Contains(api.LogLevels(), args[0]) {
				return usage("the level is %s, not %q", strings.Join(api.LogLevels(), ", "), args[0])
			}
			return a.ask(func(c *client.Client) (err error) {
				var now api.LogLevel
				if len(args) == 0 {
					now, err = c.LogLevel(cmd.Context())
				} else {
					now, err = c.SetLogLevel(cmd.Context(), api.LogLevelRequest{Level: args[0], For: api.Duration(lasts)})
				}
				if err != nil {
					return err
				}
				a.printf("%s", now.Level)
				if !now.Until.IsZero() {
					a.printf(" until %s, then %s", now.Until.Format(time.RFC3339), now.Then)
				}
				a.printf("\n")
				return nil
			})
		},
	}
	cmd.Flags().Var(&lasts, "for", "how long, like 10m or 2h (default: until the daemon ends)")
	return cmd
}
