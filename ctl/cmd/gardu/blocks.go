package main

import (
	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) blocksCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "blocks",
		Short: "Show what is blocked, why, until when, and the hits",
		Long: `Shows the blocks: what each dropped, when it expires, who added it and why. Sets
and rules that drop are not blocks; they are in gardu sets and gardu rules.`,
		Example: `  gardu blocks
  gardu blocks -o csv > blocks.csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				return printEach(a, "blocks", blockColumns(), func(yield func(api.Block) error) error {
					return c.EachBlock(cmd.Context(), yield)
				})
			})
		},
	})
}

func blockColumns() []column[api.Block] {
	return []column[api.Block]{
		{"prefix", false, func(b *api.Block) any { return b.Prefix }},
		{"packets", false, func(b *api.Block) any { return b.Packets }},
		{"bytes", false, func(b *api.Block) any { return size(b.Bytes) }},
		{"created", true, func(b *api.Block) any { return b.Created }},
		{"expires", false, func(b *api.Block) any { return b.Expires }},
		{"origin", false, func(b *api.Block) any { return b.Origin }},
		{"why", false, func(b *api.Block) any { return b.Why }},
	}
}
