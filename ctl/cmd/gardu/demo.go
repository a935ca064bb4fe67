package main

import (
	"github.com/spf13/cobra"

	"gardu/ctl/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See all of it on this machine alone, in network namespaces of its own",
		Long: `Builds a small network of namespaces: a client, a hostile client, gardu, and three
backends with a real HTTP server; sends real traffic through it, breaks things,
and reports what was observed. Nothing outside of these namespaces is touched, and
everything is removed in the end.`,
		Example: `  sudo gardu demo
  sudo gardu demo --keep        leave it running, to look around`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{Out: a.stdout, Keep: keep})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave it running after the report, until Ctrl-C")
	return cmd
}
