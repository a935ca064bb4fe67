package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
)

func (a *app) applyCommand() *cobra.Command {
	var check bool
	var trial trial
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Replace the configuration in force, all or nothing",
		Long: `Hands the configuration to the daemon, which takes the whole of it or changes
nothing and says why. Every packet is judged by the old or by the new one, never by
a mixture. Established flows stay on their backends. FILE may be - for stdin.

With --confirm, what was in force before comes back by itself, also when the daemon
dies meanwhile, unless 'gardu confirm' is given in time. What would cut off the SSH
connection that the command is given on is refused, unless --force.

With --if-match and the tag that 'gardu plan' ends with, what was planned is what
happens: it is refused when somebody else has changed the configuration meanwhile, and
says who.

What is applied lasts until the daemon starts or reads its own file again (SIGHUP):
then that file counts, unless it holds what was not confirmed.`,
		Example: `  gardu apply gardu.yaml
  gardu apply gardu.yaml --check                  only ask the daemon whether it would
  gardu apply gardu.yaml --confirm 60s -m "close ssh to the world"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, name, dir, err := a.readConfig(args[0])
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Apply(cmd.Context(), api.ApplyRequest{
					Name: name, Dir: dir, YAML: string(text), Check: check, SSHConnection: sshConnection(),
					Comment: trial.comment, Confirm: api.Duration(trial.confirm), Force: trial.force, IfMatch: trial.ifMatch,
				})
				if wrong, ok := errors.AsType[config.Errors](err); ok {
					err = wrong.Quote() // the daemon doesn't quote set files; we may read our own
				}
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				for _, warning := range result.Warnings {
					a.warnf("%v\n", warning)
				}
				if check {
					a.printf("ok: %s; nothing was changed\n", holds(result))
					return nil
				}
				a.printApplied(result)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing: say whether the daemon would take it")
	trial.flags(cmd)
	return cmd
}

// trial is what commands that change the snapshot have in common.
type trial struct {
	comment string
	confirm time.Duration
	force   bool
	ifMatch string
}

func (t *trial) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&t.confirm, "confirm", 0, "go back by itself unless 'gardu confirm' comes within this `TIME` (60s, 10m)")
	cmd.Flags().StringVarP(&t.comment, "comment", "m", "", "`TEXT` for the history")
	cmd.Flags().StringVar(&t.ifMatch, "if-match", "", "only if nobody has changed the configuration since 'gardu plan' said this `TAG`")
	cmd.Flags().BoolVar(&t.force, "force", false, "also when it cuts off the connection that it is given on")
}

// holds counts what is in force.
func holds(result api.ApplyResult) string {
	return fmt.Sprintf("%s, %s, %s", plural(result.Rules, "rule"), plural(result.Sets, "set"), plural(result.Services, "service"))
}

// printApplied says what is in force now, and for how long.
func (a *app) printApplied(result api.ApplyResult) {
	already := " already"
	if result.Changed {
		already = ""
	}
	a.printf("revision %d is in force%s: %s\n", result.Revision, already, holds(result))
	for _, line := range result.Changes {
		a.printf("  %s\n", printable(line))
	}
	if result.Waiting != nil {
		a.printf("%s\n", waitingText(result.Waiting))
	}
}

// waitingText says what comes back when.
func waitingText(w *api.Waiting) string {
	return fmt.Sprintf("revision %d waits for `gardu confirm` until %s, %s from now; then what revision %d held comes back",
		w.Revision, w.Until.Format(time.RFC3339), time.Duration(w.Left).Round(time.Second), w.Back)
}

// readConfig reads a configuration file, or stdin for -. Set files are relative to dir.
func (a *app) readConfig(path string) (text []byte, name, dir string, err error) {
	if path == "-" {
		if dir, err = os.Getwd(); err == nil {
			text, err = io.ReadAll(a.stdin)
		}
		if err != nil {
			err = fmt.Errorf("read stdin: %w", err)
		}
		return text, "stdin", dir, err
	}
	if text, err = os.ReadFile(path); err != nil {
		return nil, "", "", fmt.Errorf("read the configuration: %w", err)
	}
	dir, err = filepath.Abs(filepath.Dir(path))
	return text, path, dir, err
}
