package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) rulesCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "rules",
		Short: "Show the rules and what they matched and decided",
		Long: `Shows the rules in the order in which they are tried, with what each matched
(packets, bytes) and how many packets it decided. A rule with a limit decides only what
is over it; of log and sample 1/N, one of N packets becomes an event.`,
		Example: `  gardu rules
  gardu rules -o wide           with the place of each in its file
  gardu rules -o json | jq '.[] | select(.decided == 0).name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				rules, err := c.Rules(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "rules", rules, []column[api.Rule]{
					{"name", false, func(r *api.Rule) any { return r.Name }},
					{"action", false, func(r *api.Rule) any {
						action := strings.TrimSpace(string(r.Action) + " " + r.To)
						if r.ShadowRule {
							return styled{strings.TrimSpace("shadow " + action), dim}
						}
						return styled{action, verdictStyle(string(r.Action))}
					}},
					{"direction", false, func(r *api.Rule) any { return r.Direction }},
					{"limit", false, func(r *api.Rule) any { return limitText(r.Limit) }},
					{"log", false, func(r *api.Rule) any { return oneOf(r.Log) }},
					{"sample", false, func(r *api.Rule) any { return oneOf(r.Sample) }},
					{"packets", false, func(r *api.Rule) any { return r.Packets }},
					{"bytes", false, func(r *api.Rule) any { return size(r.Bytes) }},
					{"decided", false, func(r *api.Rule) any { return r.Decided }},
					{"shadow", true, func(r *api.Rule) any { return r.Shadow }},
					{"at", true, func(r *api.Rule) any { return r.Pos }},
					{"match", false, func(r *api.Rule) any { return orElse(r.Match, "everything") }},
				})
			})
		},
	})
}

// limitText leaves out `per rule`.
func limitText(l *api.Limit) string {
	switch {
	case l == nil:
		return ""
	case l.Per == "rule":
		return fmt.Sprintf("%s burst %s", l.Rate, l.Burst)
	}
	return fmt.Sprintf("%s burst %s per %s", l.Rate, l.Burst, l.Per)
}

func oneOf(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("1/%d", n)
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
