package main

import (
	"context"
	"encoding/csv"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
	"gardu/ctl/top"
)

func (a *app) topCommand() *cobra.Command {
	var (
		query api.TopQuery
		count int
		at    string
	)
	cmd := a.outputFlag(&cobra.Command{
		Use:   "top [EXPR]",
		Short: "Watch live what flows do: top talkers, services, rules, drops",
		Long: `Shows who sends how much at this moment: flows or groups of flows, services, rules,
and the reasons of drops, in bits and packets a second between two readings. The
keys are at the bottom of the screen; ? explains them.

When the output is no terminal, or with -o, it prints the busiest again and again
as text, until interrupted or for --count times.

--at shows a minute of the past instead, if flows.history is configured; the keys
← and → go to the minutes before and after.

EXPR picks flows by what they are; gardu help expr explains it.`,
		Example: `  gardu top                                    everything
  gardu top service web                        one service
  gardu top --group src/24,dport               who talks to which port
  gardu top -n 5 --every 10s -o table          the five busiest flows, as text
  gardu top --at 14:05                         what was then
  gardu top -o ndjson --group service | jq .   for programs`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			query.Filter = strings.Join(args, " ")
			if err := checkTop(cmd, query, count); err != nil {
				return err
			}
			var then time.Time
			if at != "" {
				var err error
				if then, err = parseTime(at, time.Now()); err != nil {
					return usage("--at: %v", err)
				}
				then = then.Truncate(time.Minute)
			}
			screen := isTerminal(a.stdout) && isTerminal(a.stdin) && !cmd.Flags().Changed("output")
			if screen && count == 0 {
				return a.ask(func(c *client.Client) error { return a.topScreen(cmd.Context(), c, query, then) })
			}
			if a.format == formatJSON || a.format == formatYAML {
				return usage("top has no end, and so goes with table, wide, ndjson and csv, not %s", a.format)
			}
			if query.Group == "" {
				query.Group = top.FlowKeys
				if at != "" {
					query.Group = api.HistoryGroup
				}
			}
			query.Group = strings.Join(groupNames(query.Group), ",")
			if at != "" {
				return a.ask(func(c *client.Client) error { return a.printPast(cmd.Context(), c, query, then) })
			}
			return a.ask(func(c *client.Client) error { return a.printTop(cmd.Context(), c, query, count) })
		},
	})
	groupFlag(cmd, &query.Group)
	cmd.Flags().StringVar(&at, "at", "", "what was at `TIME`: so long ago (90m, 24h, 7d), or at a time (14:05, \"2026-01-02 14:05\")")
	cmd.Flags().StringVar(&query.Sort, "sort", "", "by `KEY`: "+strings.Join(api.TopSorts(), ", "))
	cmd.Flags().DurationVar(&query.Every, "every", api.DefaultTopEvery, "`TIME` between two readings")
	cmd.Flags().IntVarP(&query.Limit, "number", "n", 20, "as text, the first `N`")
	cmd.Flags().IntVar(&count, "count", 0, "as text, end after `N` times (0: never)")
	complete := cobra.FixedCompletions(api.TopSorts(), cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("sort", complete); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

// checkTop finds wrong usage before anything is asked.
func checkTop(cmd *cobra.Command, query api.TopQuery, count int) error {
	if _, err := expr.Parse(query.Filter); err != nil {
		return &usageError{err.Error(), "expr"}
	}
	if cmd.Flags().Changed("group") {
		if _, err := expr.ParseGroup(query.Group); err != nil {
			return usage("--group: %v", err)
		}
	}
	switch {
	case query.Sort != "" && !slices.Contains(api.TopSorts(), query.Sort):
		return usage("--sort %s: top is sorted by %s", query.Sort, strings.Join(api.TopSorts(), ", "))
	case query.Every < api.MinTopEvery || query.Every > api.MaxTopEvery:
		return usage("--every %s: it is %s to %s", query.Every, api.MinTopEvery, span(api.MaxTopEvery))
	case query.Limit < 1 || query.Limit > api.MaxTopLimit:
		return usage("-n %d: it is 1 to %d", query.Limit, api.MaxTopLimit)
	case count < 0:
		return usage("--count %d: it is a number of times", count)
	}
	return nil
}

// topScreen runs until somebody leaves it. What a person should know before the screen is there fails here.
func (a *app) topScreen(ctx context.Context, c *client.Client, query api.TopQuery, at time.Time) error {
	if _, err := c.Status(ctx); err != nil {
		return err
	}
	return top.Run(ctx, c, top.Options{
		Filter: query.Filter, Group: query.Group, Sort: query.Sort, Every: query.Every, Color: a.color, At: at,
		Unreachable: func(err error) string {
			if errors.Is(err, client.ErrUnreachable) {
				return "the daemon doesn't answer"
			}
			return err.Error()
		},
	}, a.stdin, a.stdout)
}

// errTimes ends what was asked for so many times.
var errTimes = errors.New("as often as asked for")

// printTop prints sample after sample.
func (a *app) printTop(ctx context.Context, c *client.Client, query api.TopQuery, count int) error {
	printed := 0
	counted := func(err error) error {
		if printed++; err == nil && printed == count {
			return errTimes
		}
		return err
	}
	var err error
	if a.format.human() {
		width := a.textWidth()
		options := top.Options{Filter: query.Filter, Group: query.Group}
		err = top.Follow(ctx, c, query, func(f top.Frame) error { return counted(top.Print(a.stdout, f, options, width)) })
	} else {
		write := a.sampleWriter(strings.Split(query.Group, ","))
		err = c.Top(ctx, query, func(sample api.TopSample) error { return counted(write(&sample)) })
	}
	if errors.Is(err, errTimes) || ctx.Err() != nil { // interrupted: that is how it ends
		return nil
	}
	return err
}

// printPast prints a minute of the past.
func (a *app) printPast(ctx context.Context, c *client.Client, query api.TopQuery, at time.Time) error {
	if a.format.human() {
		f, err := top.Past(ctx, c, query, at)
		if err != nil {
			return err
		}
		return top.Print(a.stdout, f, top.Options{Filter: query.Filter, Group: query.Group, At: at}, a.textWidth())
	}
	history, err := c.History(ctx, api.HistoryQuery{Since: at, Until: at.Add(time.Minute), Filter: query.Filter, Group: query.Group, Sort: query.Sort, Limit: query.Limit})
	if err != nil {
		return err
	}
	sample := api.TopSample{Reading: api.Reading{Since: history.Since, Until: history.Until}, Groups: history.Groups}
	return a.sampleWriter(strings.Split(query.Group, ","))(&sample)
}

// Widths of text where no terminal says how wide it is.
const (
	tableWidth = 120
	wideWidth  = 240
)

func (a *app) textWidth() int {
	if a.format == formatWide {
		return wideWidth
	}
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && columns >= 40 && columns <= 1000 {
		return columns
	}
	return tableWidth
}

// sampleWriter prints a sample a line, or in CSV a line a group, with a header before the first.
func (a *app) sampleWriter(keys []string) func(*api.TopSample) error {
	if a.format == formatNDJSON {
		encoder := lineEncoder(a.stdout)
		return func(sample *api.TopSample) error { return encoder.Encode(sample) }
	}
	out := csv.NewWriter(a.stdout)
	out.Write(slices.Concat([]string{"since", "until"}, keys, []string{"flows", "packets", "bytes", "packets_reply", "bytes_reply", "other"}))
	return func(sample *api.TopSample) error {
		for _, g := range sample.Groups {
			record := []string{sample.Since.Format(time.RFC3339Nano), sample.Until.Format(time.RFC3339Nano)}
			for _, key := range keys {
				record = append(record, g.Group[key])
			}
			for _, n := range []uint64{g.Flows, g.Packets, g.Bytes, g.PacketsReply, g.BytesReply} {
				record = append(record, strconv.FormatUint(n, 10))
			}
			out.Write(append(record, strconv.FormatBool(g.Other)))
		}
		out.Flush()
		return out.Error()
	}
}
