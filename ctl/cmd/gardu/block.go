package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/rule"
)

func (a *app) blockCommand() *cobra.Command {
	var lifetime lifetime
	var why string
	cmd := &cobra.Command{
		Use:   "block PREFIX...",
		Short: "Drop everything from a source, now",
		Long: `Drops everything from the prefixes, at once and on established flows too, until
the time is over or gardu unblock. Blocking again renews: the new time and reason
count. Blocks need no daemon to act and expire: the data plane does it. They come
after filter.allow, so that what is allowed there can't be blocked.`,
		Example: `  gardu block 203.0.113.7
  gardu block 203.0.113.0/24 2001:db8:bad::/48 --for 12h --why "scans ssh"`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefixes, err := parsePrefixes(args)
			if err != nil {
				return err
			}
			var requests []api.BlockRequest
			for _, prefix := range prefixes {
				requests = append(requests, api.BlockRequest{Prefix: prefix, For: api.Duration(lifetime), Why: why, Origin: "cli"})
			}
			return a.ask(func(c *client.Client) error {
				blocks, err := c.Block(cmd.Context(), requests)
				for _, block := range blocks {
					until := "until it is unblocked"
					if !block.Expires.IsZero() {
						until = "until " + block.Expires.Format(time.RFC3339)
					}
					a.printf("blocked %s %s\n", block.Prefix, until)
				}
				return err
			})
		},
	}
	cmd.Flags().Var(&lifetime, "for", "how long, like 30s, 10m, 12h or 7d (default: until it is unblocked)")
	cmd.Flags().StringVar(&why, "why", "", "a `TEXT` for people, shown by gardu blocks")
	return cmd
}

// parsePrefixes reads addresses and prefixes; what isn't one is wrong usage.
func parsePrefixes(args []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, arg := range args {
		prefix, err := rule.ParsePrefix(arg)
		if err != nil {
			return nil, usage("%s: %v", arg, err)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// lifetime is a flag: a positive time.Duration that knows days.
type lifetime time.Duration

// String and Set and Type make it a flag.
func (l *lifetime) String() string {
	if *l == 0 {
		return ""
	}
	return span(time.Duration(*l))
}

func (l *lifetime) Set(text string) error {
	const day, longest = 24 * time.Hour, 10 * 365
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > longest {
			return fmt.Errorf("more than %d days: leave --for out to block without an end", longest)
		}
		d = time.Duration(n) * day
	} else {
		d, err = time.ParseDuration(text)
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("it is a time like 30s, 10m, 12h or 7d")
	}
	*l = lifetime(d)
	return nil
}

func (l *lifetime) Type() string { return "TIME" }
