package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
	var why, file string
	cmd := &cobra.Command{
		Use:   "block PREFIX... | -",
		Short: "Drop everything from a source, now",
		Long: `Drops everything from the prefixes, at once and on established flows too, until
the time is over or gardu unblock. Blocking again renews: the new time and reason
count. Blocks need no daemon to act and expire: the data plane does it. They come
after filter.allow, so that what is allowed there can't be blocked.

Thousands at once come from a file or, with -, from stdin: an address or prefix a
line, # begins a comment. Either all are blocked or, if one is wrong or there is no
room, none; every one that is wrong is named.`,
		Example: `  gardu block 203.0.113.7
  gardu block 203.0.113.0/24 2001:db8:bad::/48 --for 12h --why "scans ssh"
  gardu block --file bad.netset --for 1d`,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefixes, err := a.prefixes(args, file)
			if err != nil {
				return err
			}
			var requests []api.BlockRequest
			for _, prefix := range prefixes {
				requests = append(requests, api.BlockRequest{Prefix: prefix, For: api.Duration(lifetime), Why: why, Origin: "cli"})
			}
			return a.ask(func(c *client.Client) error {
				blocks, err := c.Block(cmd.Context(), requests)
				if len(blocks) > printedBlocks {
					a.printf("blocked %s %s\n", plural(len(blocks), "prefix"), until(blocks[0]))
					return err
				}
				for _, block := range blocks {
					a.printf("blocked %s %s\n", block.Prefix, until(block))
				}
				return err
			})
		},
	}
	cmd.Flags().Var(&lifetime, "for", "how long, like 30s, 10m, 12h or 7d (default: until it is unblocked)")
	cmd.Flags().StringVar(&why, "why", "", "a `TEXT` for people, shown by gardu blocks")
	fileFlag(cmd, &file)
	return cmd
}

// printedBlocks is how many blocks get a line each.
const printedBlocks = 50

func until(block api.Block) string {
	if block.Expires.IsZero() {
		return "until it is unblocked"
	}
	return "until " + block.Expires.Format(time.RFC3339)
}

func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "file", "", "read prefixes from `FILE`, one a line (- for stdin)")
}

// prefixes are those of the arguments and of the file. What isn't one is wrong usage; all of them are told, up to a point.
func (a *app) prefixes(args []string, file string) ([]netip.Prefix, error) {
	var (
		prefixes []netip.Prefix
		wrong    []string
		more     int // that are wrong, not told
	)
	if slices.Contains(args, "-") {
		if file != "" || len(args) > 1 {
			return nil, usage("- stands alone: prefixes come from stdin")
		}
		args, file = nil, "-"
	}
	if len(args) == 0 && file == "" {
		return nil, usage("requires at least 1 arg(s): a prefix, or --file FILE")
	}
	read := func(where, text string) {
		prefix, err := rule.ParsePrefix(text)
		if err == nil && prefix.Bits() == 0 {
			err = errors.New("a block covers a part of the addresses, not all; use filter.default")
		}
		switch {
		case err == nil:
			prefixes = append(prefixes, prefix)
		case len(wrong) < printedWrong:
			wrong = append(wrong, fmt.Sprintf("%s: %v", where, err))
		default:
			more++
		}
	}
	for _, arg := range args {
		read(arg, arg)
	}
	if file != "" {
		if err := a.eachLine(file, read); err != nil {
			return nil, err
		}
	}
	if more > 0 {
		wrong = append(wrong, fmt.Sprintf("and %s more", thousands(uint64(more))))
	}
	if len(wrong) > 0 {
		return nil, usage("%s", strings.Join(wrong, "\n  "))
	}
	if len(prefixes) == 0 {
		return nil, fmt.Errorf("%s names no prefix", file)
	}
	return prefixes, nil
}

// printedWrong is how many mistakes are told.
const printedWrong = 20

// eachLine calls yield with each line of a file that says something, and its place.
func (a *app) eachLine(file string, yield func(where, text string)) error {
	in, name := a.stdin, "stdin"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in, name = f, file
	}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text != "" {
			yield(fmt.Sprintf("%s:%d", name, n), text)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
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
