package main

import (
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
(packets, bytes) and how many packets it decided.`,
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
						return styled{strings.TrimSpace(string(r.Action) + " " + r.To), verdictStyle(string(r.Action))}
					}},
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

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
