package main

import (
	"slices"

	"github.com/spf13/cobra"

	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func (a *app) decapCommand() *cobra.Command {
	var options dataplane.DecapOptions
	var path, bpffs string
	var keep, detach bool
	cmd := &cobra.Command{
		Use:   "decap -i INTERFACE",
		Short: "On a backend: strip the outer header of balanced packets",
		Long: `Takes the ipip or gue header off packets that a balancer sent here, with a small eBPF
program: for kernels and hosts without a tunnel device. The service address must be
an address of this host (on lo, not announced). It stays until SIGTERM or Ctrl-C and
then says what it saw. With --keep-attached the kernel goes on by itself and the
command ends at once; --detach takes that off again.`,
		Example: `  sudo gardu decap -i eth0
  sudo gardu decap -i eth0 --keep-attached
  sudo gardu decap -i eth0 --detach`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths := []model.Path{model.PathTC, model.PathXDP, model.PathXDPGeneric}
			if options.Path = model.Path(path); !slices.Contains(paths, options.Path) {
				return usage("--path %s: it is one of %v", path, paths)
			}
			if keep && detach {
				return usage("--keep-attached or --detach, not both")
			}
			if err := a.needRoot(); err != nil {
				return err
			}
			links, err := netdev.Open()
			if err != nil {
				return err
			}
			defer links.Close()
			options.Netlink = links
			if detach {
				if err := dataplane.DetachDecap(bpffs, options.Name, links); err != nil {
					return err
				}
				a.printf("detached from %s\n", options.Name)
				return nil
			}
			link, err := links.Link(options.Name)
			if err != nil {
				return err
			}
			options.Ifindex = link.Index
			if keep {
				options.Pin = bpffs
			}
			decap, err := dataplane.AttachDecap(options)
			if err != nil {
				return err
			}
			defer decap.Close()
			at := decap.Attachment()
			a.printf("attached to %s by %s\n", at.Name, at.Path)
			if at.Why != "" {
				a.printf("  %s\n", at.Why)
			}
			if keep {
				return nil
			}
			<-cmd.Context().Done()
			counts, err := decap.Counts()
			if err != nil {
				return err
			}
			a.printf("unwrapped %s (%s); dropped %s for congestion, %s because the kernel refused\n",
				plural(int(counts.Done.Packets), "packet"), bytesText(counts.Done.Bytes),
				thousands(counts.Congested.Packets), thousands(counts.Failed.Packets))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.Name, "interface", "i", "", "the `INTERFACE` that receives the packets (required)")
	flags.StringVar(&path, "path", string(model.PathTC), "where to handle them: `PATH` is tc, xdp or xdp-generic")
	flags.BoolVar(&options.Replace, "replace", false, "take the XDP program of another off the interface")
	flags.BoolVar(&keep, "keep-attached", false, "leave it at work and end at once")
	flags.BoolVar(&detach, "detach", false, "take off what --keep-attached left")
	flags.StringVar(&bpffs, "bpffs", dataplane.DefaultDir, "`DIR` to pin it in with --keep-attached")
	if err := cmd.MarkFlagRequired("interface"); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
