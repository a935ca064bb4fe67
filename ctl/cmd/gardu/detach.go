package main

import (
	"github.com/spf13/cobra"

	"gardu/ctl/abi"
	"gardu/ctl/dataplane"
	"gardu/ctl/netdev"
)

func (a *app) detachCommand() *cobra.Command {
	var bpffs string
	cmd := &cobra.Command{
		Use:   "detach",
		Short: "Take everything off the interfaces and out of bpffs",
		Long: `Removes every trace of gardu from the kernel: programs from the interfaces, pinned
maps with their counters and flows, blocks, and what gardu decap left here. Packets
then take their way as if gardu had never been there. It is refused while a daemon runs.`,
		Example: `  sudo gardu detach`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			links, err := netdev.Open()
			if err != nil {
				return err
			}
			defer links.Close()
			if err := dataplane.Remove(bpffs, links); err != nil {
				return err
			}
			if err := links.ReleaseAll(); err != nil {
				return err
			}
			if err := links.UnrouteMarked(uint32(abi.CheckMark)); err != nil {
				return err
			}
			a.printf("nothing of gardu is left in %s or on the interfaces\n", bpffs)
			return nil
		},
	}
	cmd.Flags().StringVar(&bpffs, "bpffs", dataplane.DefaultDir, "`DIR` that programs and maps are pinned in")
	return cmd
}
