package main

import (
	"context"
	"fmt"
	"strings"

	udiff "github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) historyCommand() *cobra.Command {
	var diff bool
	cmd := a.outputFlag(&cobra.Command{
		Use:   "history [REV | --diff A [B]]",
		Short: "Show the configurations that were in force, and what changed between them",
		Long: `Lists the last 100 configurations, the newest first: when each came into force, by
whom and how. With REV it prints that configuration; with --diff what B has that A
has not, B being the one in force when it isn't given. 'gardu rollback' puts one in
force again.`,
		Example: `  gardu history
  gardu history 12 > gardu.yaml
  gardu history --diff 11 12`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var numbers []uint64
			for _, arg := range args {
				number, err := parseRevision(arg)
				if err != nil {
					return err
				}
				numbers = append(numbers, number)
			}
			switch {
			case diff && len(numbers) == 0:
				return usage("--diff takes one or two revisions")
			case !diff && len(numbers) > 1:
				return usage("two revisions without --diff")
			}
			return a.ask(func(c *client.Client) error {
				switch {
				case diff:
					return a.printDiff(cmd.Context(), c, numbers)
				case len(numbers) == 1:
					return a.printRevision(cmd.Context(), c, numbers[0])
				}
				revisions, err := c.Revisions(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "revisions", revisions, revisionColumns())
			})
		},
	})
	cmd.Flags().BoolVar(&diff, "diff", false, "print what changed from one revision to another")
	return cmd
}

func (a *app) printRevision(ctx context.Context, c *client.Client, number uint64) error {
	revision, err := c.Revision(ctx, number)
	if err != nil {
		return err
	}
	return printValue(a, revision, func() error {
		a.printf("%s", revision.YAML)
		return nil
	})
}

// printDiff prints a unified diff of two revisions.
func (a *app) printDiff(ctx context.Context, c *client.Client, numbers []uint64) error {
	if len(numbers) == 1 {
		status, err := c.Status(ctx)
		if err != nil {
			return err
		}
		numbers = append(numbers, status.Revision)
	}
	var texts, names [2]string
	for i, number := range numbers {
		revision, err := c.Revision(ctx, number)
		if err != nil {
			return err
		}
		texts[i], names[i] = revision.YAML, fmt.Sprintf("revision %d", number)
	}
	for line := range strings.Lines(udiff.Unified(names[0], names[1], texts[0], texts[1])) {
		text := printableLine(strings.TrimSuffix(line, "\n"))
		switch {
		case strings.HasPrefix(line, "-"):
			text = bad.paint(a.color, text)
		case strings.HasPrefix(line, "+"):
			text = good.paint(a.color, text)
		case strings.HasPrefix(line, "@@"):
			text = dim.paint(a.color, text)
		}
		a.printf("%s\n", text)
	}
	return nil
}

// printableLine is printable, but leaves tabs alone.
func printableLine(text string) string {
	parts := strings.Split(text, "\t")
	for i := range parts {
		parts[i] = printable(parts[i])
	}
	return strings.Join(parts, "\t")
}

func revisionColumns() []column[api.Revision] {
	return []column[api.Revision]{
		{"revision", false, func(r *api.Revision) any { return r.Revision }},
		{"time", false, func(r *api.Revision) any { return r.Time }},
		{"state", false, func(r *api.Revision) any {
			look := map[string]style{api.RevisionInForce: good, api.RevisionWaiting: warn, api.RevisionDamaged: bad}[r.State]
			return styled{r.State, look}
		}},
		{"author", false, func(r *api.Revision) any { return r.Author }},
		{"how", false, func(r *api.Revision) any {
			if r.Of != 0 {
				return fmt.Sprintf("%s of %d", r.How, r.Of)
			}
			return r.How
		}},
		{"file", true, func(r *api.Revision) any { return r.Config }},
		{"comment", false, func(r *api.Revision) any {
			if r.Error != "" {
				return styled{r.Error, bad}
			}
			return r.Comment
		}},
	}
}
