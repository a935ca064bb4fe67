package main

import (
	"strings"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
)

// printGroups prints flows added up by keys, or writes them to a file.
func (a *app) printGroups(cmd *cobra.Command, c *client.Client, query api.FlowQuery, file string) error {
	if file != "" {
		return writeParquet(a, file, a.groupColumns(groupNames(query.Group)), func(yield func(api.FlowGroup) error) error {
			return c.FlowGroups(cmd.Context(), query, yield)
		})
	}
	told := false
	err := printEach(a, "flows", a.groupColumns(groupNames(query.Group)), func(yield func(api.FlowGroup) error) error {
		return c.FlowGroups(cmd.Context(), query, func(g api.FlowGroup) error {
			if !told {
				a.tellSample(g.Sample)
				told = true
			}
			return yield(g)
		})
	})
	if err != nil || told {
		return err
	}
	return a.tellNoFlows(cmd.Context(), c)
}

// groupColumns begins with a column a key.
func (a *app) groupColumns(keys []string) []column[api.FlowGroup] {
	var columns []column[api.FlowGroup]
	for i, key := range keys {
		columns = append(columns, column[api.FlowGroup]{key, false, func(g *api.FlowGroup) any {
			value, known := g.Group[key]
			if g.Other && !known && (i == 0 || len(g.Group) > 0) && a.format.human() {
				return styled{"(other)", dim}
			}
			return value
		}})
	}
	columns = append(columns, []column[api.FlowGroup]{
		{"flows", false, func(g *api.FlowGroup) any { return g.Flows }},
		{"packets", false, func(g *api.FlowGroup) any { return g.Packets }},
		{"bytes", false, func(g *api.FlowGroup) any { return size(g.Bytes) }},
		{"packets reply", true, func(g *api.FlowGroup) any { return g.PacketsReply }},
		{"bytes reply", false, func(g *api.FlowGroup) any { return size(g.BytesReply) }},
		{"rate", false, func(g *api.FlowGroup) any { return bitRate(g.Rate()) }},
		{"first", true, func(g *api.FlowGroup) any { return g.First }},
		{"last", true, func(g *api.FlowGroup) any { return g.Last }},
	}...)
	if a.format == formatCSV {
		columns = append(columns, column[api.FlowGroup]{"other", false, func(g *api.FlowGroup) any { return g.Other }},
			column[api.FlowGroup]{"sample", false, func(g *api.FlowGroup) any { return max(1, g.Sample) }})
	}
	return columns
}

// groupNames are the keys of --group, one by one.
func groupNames(group string) []string {
	keys := strings.Split(group, ",")
	for i, key := range keys {
		keys[i] = strings.TrimSpace(key)
	}
	return keys
}

// groupHelp is what --group takes.
const groupHelp = "add up flows by `KEYS` with commas between them: src/24,service"

// groupFlag gives a command --group.
func groupFlag(cmd *cobra.Command, group *string) {
	cmd.Flags().StringVar(group, "group", "", groupHelp)
	complete := func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := typed[:strings.LastIndex(typed, ",")+1]
		var words []string
		for _, name := range expr.GroupNames() {
			words = append(words, before+name)
		}
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	if err := cmd.RegisterFlagCompletionFunc("group", complete); err != nil {
		panic(err) // the flag was added above
	}
}
