package main

import (
	"slices"

	"github.com/spf13/cobra"

	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// Of segments that hosts are asked for: RFC 9293 expects 536 of everybody, and IPv6 20 less than IPv4 has.
const (
	leastMSS = 536
	mostMSS  = 65475
)

func (a *app) decapCommand() *cobra.Command {
	var options dataplane.DecapOptions
	var path, bpffs string
	var mss uint
	var keep, detach bool
	cmd := &cobra.Command{
		Use:   "decap -i INTERFACE",
		Short: "On a backend: strip the outer header of balanced packets",
		Long: `Takes the ipip or gue header off packets that a balancer sent here, with a small eBPF
program: for kernels and hosts without a tunnel device. The service address must be
an address of this host (on lo, not announced). It stays until SIGTERM or Ctrl-C and
then says what it saw. With --keep-attached the kernel goes on by itself and the
command ends at once; --detach takes that off again.

What clients send must fit the way with the outer header on it. With --mss this host
asks for TCP segments of at most so many bytes by IPv4, and 20 less by IPv6, on all
connections that others open to it by the interface: the MTU of the way, less 40, less
the outer header (20 of ipip by IPv4, 40 by IPv6, 8 more of gue).`,
		Example: `  sudo gardu decap -i eth0
  sudo gardu decap -i eth0 --mss 1420
  sudo gardu decap -i eth0 --keep-attached
  sudo gardu decap -i eth0 --detach`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths := []model.Path{model.PathTC, model.PathXDP, model.PathXDPGeneric}
			if options.Path = model.Path(path); !slices.Contains(paths, options.Path) {
				return usage("--path %s: it is one of %v", path, paths)
			}
			if mss != 0 && (mss < leastMSS || mss > mostMSS) {
				return usage("--mss %d: it is %d to %d bytes", mss, leastMSS, mostMSS)
			}
			options.MSS = uint16(mss)
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
			if options.MSS != 0 {
				a.printf("asked for segments of at most %d bytes %s\n", options.MSS, plural(int(counts.Clamped.Packets), "time"))
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
	flags.UintVar(&mss, "mss", 0, "have clients send TCP segments of at most `BYTES` by IPv4, and 20 less by IPv6")
	flags.BoolVar(&options.Replace, "replace", false, "take the XDP program of another off the interface")
	flags.BoolVar(&keep, "keep-attached", false, "leave it at work and end at once")
	flags.BoolVar(&detach, "detach", false, "take off what --keep-attached left")
	flags.StringVar(&bpffs, "bpffs", dataplane.DefaultDir, "`DIR` to pin it in with --keep-attached")
	if err := cmd.MarkFlagRequired("interface"); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
