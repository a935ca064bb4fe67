package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"gardu/ctl/daemon"
	"gardu/ctl/dataplane"
	"gardu/ctl/journal"
)

func (a *app) runCommand() *cobra.Command {
	var options daemon.Options
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "The daemon: load, attach, serve, until SIGTERM",
		Long: `Reads the configuration, puts it in force on its interfaces and answers the other
commands. SIGHUP reads the file again, all or nothing. SIGTERM and Ctrl-C take
everything off the interfaces, unless --keep-attached.

What a daemon that was killed, or ended with --keep-attached, left at work in the
kernel is taken over: nothing is detached, no counter restarts, no connection
breaks. What another version of gardu left is converted; what can't be is named, and
nothing is touched: then --fresh lets that begin anew, or with =NAMES only some of it.

The log goes to stderr, as text on a terminal and as JSON elsewhere. Of lines that say
the same, five a minute are written and the others counted ("repeated"). gardu log-level
changes what is written while the daemon runs.`,
		Example: `  sudo gardu run -c /etc/gardu/gardu.yaml
  sudo gardu run -c /etc/gardu/gardu.yaml --keep-attached     for restarts without a gap`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			if cmd.Flags().Changed("socket") || os.Getenv("GARDU_SOCKET") != "" {
				options.Socket = a.socket
			}
			if err := dataplane.CheckFresh(options.Fresh); err != nil {
				return usage("--fresh: %v", err)
			}
			options.Version = thisBuild().Version
			log := journal.New(a.stderr, isTerminal(a.stderr))
			defer log.Close()
			if verbose {
				log.Level.Set(slog.LevelDebug)
			}
			options.Log, options.LogLevel = log.Logger(), &log.Level
			return daemon.Run(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.Config, "config", "c", "", "the configuration `FILE` (required)")
	flags.StringVar(&options.BPFDir, "bpffs", dataplane.DefaultDir, "`DIR` to pin programs and maps in")
	flags.StringVar(&options.StateDir, "state", daemon.DefaultStateDir, "`DIR` to keep ids and revisions in")
	flags.BoolVar(&options.KeepAttached, "keep-attached", false, "at the end, leave the packet path at work for the next run")
	flags.BoolVar(&options.Replace, "replace", false, "take XDP programs of others off the interfaces")
	flags.StringSliceVar(&options.Fresh, "fresh", nil, "begin anew with what another version left and can't be taken over, or `NAMES` of it")
	flags.Lookup("fresh").NoOptDefVal = dataplane.FreshAll
	flags.BoolVarP(&verbose, "verbose", "v", false, "log more")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
