package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
)

// period is --since and --until.
type period struct{ since, until string }

// flags gives a command --since and --until.
func (p *period) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.since, "since", "", "of the past: from `TIME` on; so long ago (90m, 24h, 7d), or at a time (14:05, \"2026-01-02 14:05\")")
	cmd.Flags().StringVar(&p.until, "until", "", "with --since: before `TIME`; now when not given")
}

// asked says whether it is the past that is asked for.
func (p *period) asked() bool { return p.since != "" || p.until != "" }

// query makes a question to the history of one to the flow table. The daemon checks the rest of it.
func (p *period) query(flows api.FlowQuery, now time.Time) (query api.HistoryQuery, err error) {
	query = api.HistoryQuery{Filter: flows.Filter, Group: flows.Group, Sort: flows.Sort, Limit: flows.Limit}
	if p.since == "" {
		return query, usage("--until %s: it takes --since too", p.until)
	}
	if query.Since, err = parseTime(p.since, now); err != nil {
		return query, usage("--since: %v", err)
	}
	if query.Until = now; p.until != "" {
		if query.Until, err = parseTime(p.until, now); err != nil {
			return query, usage("--until: %v", err)
		}
	}
	if !query.Since.Before(query.Until) {
		return query, usage("nothing lies between --since %s and --until %s", query.Since.Format(time.RFC3339), query.Until.Format(time.RFC3339))
	}
	if query.Sort != "" && !slices.Contains(api.HistorySorts(), query.Sort) {
		return query, usage("--sort %s: flows of the past are sorted by %s", query.Sort, strings.Join(api.HistorySorts(), ", "))
	}
	return query, nil
}

// flowsOfThePast is `gardu flows --since`.
func (a *app) flowsOfThePast(cmd *cobra.Command, flows api.FlowQuery, past period, file string) error {
	query, err := past.query(flows, time.Now())
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("group") {
		if _, err := expr.ParseGroup(query.Group); err != nil {
			return usage("--group: %v", err)
		}
	}
	if query.Limit < 0 {
		return usage("-n %d: it is a number of lines", query.Limit)
	}
	return a.ask(func(c *client.Client) error { return a.printHistory(cmd, c, query, file) })
}

// printHistory prints what flows did in a time, or writes it to a file, and to stderr what the lines alone can't tell.
func (a *app) printHistory(cmd *cobra.Command, c *client.Client, query api.HistoryQuery, file string) error {
	history, err := c.History(cmd.Context(), query)
	if err != nil {
		return err
	}
	columns := a.groupColumns(groupNames(cmp.Or(query.Group, api.HistoryGroup)))
	switch {
	case file != "":
		err = writeParquet(a, file, columns, func(yield func(api.FlowGroup) error) error {
			for i := range history.Groups {
				if err := yield(history.Groups[i]); err != nil {
					return err
				}
			}
			return nil
		})
	case a.format.human() || a.format == formatCSV || a.format == formatNDJSON:
		a.tellSample(history.Sample)
		err = printRows(a, "flows in that time", history.Groups, columns)
	default:
		return printValue(a, history, nil) // which says all of it
	}
	if since, until := history.Since, history.Until; since.After(query.Since) || until.Before(query.Until) ||
		query.Since.Sub(since) >= time.Minute || until.Sub(query.Until) >= time.Minute {
		a.warnf("this is from %s to %s: what is kept of that time\n", since.Local().Format(time.RFC3339), until.Local().Format(time.RFC3339))
	}
	if u := history.Undecided; u != (api.HistoryCounts{}) {
		a.warnf("%s more packets, %s, may belong here: they are kept without what the expression asks for\n",
			thousands(u.Packets+u.PacketsReply), bytesText(u.Bytes+u.BytesReply))
	}
	return err
}

// parseTime reads a time as people say it: a while ago (90m, 24h, 7d), a time of today or, if that isn't over yet, of yesterday (14:05),
// a day, or a day and a time.
func parseTime(text string, now time.Time) (time.Time, error) {
	if ago, ok := parseAgo(text); ok {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		today := time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), at.Second(), 0, now.Location())
		if today.After(now) {
			today = today.AddDate(0, 0, -1)
		}
		return today, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", time.RFC3339} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: say how long ago (90m, 24h, 7d), when today (14:05), or a date (2026-01-02 or \"2026-01-02 14:05\")", text)
}

func parseAgo(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if ago, err := time.ParseDuration(days + "h"); err == nil && ago >= 0 && ago < 1<<50 {
			return 24 * ago, true
		}
		return 0, false
	}
	ago, err := time.ParseDuration(text)
	return ago, err == nil && ago >= 0
}
