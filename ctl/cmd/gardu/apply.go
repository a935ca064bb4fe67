package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
)

func (a *app) applyCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Replace the configuration in force, all or nothing",
		Long: `Hands the configuration to the daemon, which takes the whole of it or changes
nothing and says why. Every packet is judged by the old or by the new one, never by
a mixture. Established flows stay on their backends. FILE may be - for stdin.`,
		Example: `  gardu apply gardu.yaml
  gardu apply gardu.yaml --check       only ask the daemon whether it would`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, name, dir, err := a.readConfig(args[0])
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Apply(cmd.Context(), api.ApplyRequest{
					Name: name, Dir: dir, YAML: string(text), Check: check, SSHConnection: sshConnection(),
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
				holds := fmt.Sprintf("%s, %s, %s", plural(result.Rules, "rule"), plural(result.Sets, "set"), plural(result.Services, "service"))
				switch {
				case check:
					a.printf("ok: %s; nothing was changed\n", holds)
				case result.Changed:
					a.printf("revision %d is in force: %s\n", result.Revision, holds)
				default:
					a.printf("revision %d is in force already: %s\n", result.Revision, holds)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing: say whether the daemon would take it")
	return cmd
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
