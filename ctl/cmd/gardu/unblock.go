package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"gardu/ctl/api/client"
)

func (a *app) unblockCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unblock PREFIX...",
		Short: "Take blocks back",
		Long: `Removes the blocks of exactly these prefixes. An address doesn't remove the block
of a network around it, nor the other way round: gardu blocks shows what there is.`,
		Example:           `  gardu unblock 203.0.113.7`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeBlocks,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefixes, err := parsePrefixes(args)
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Unblock(cmd.Context(), prefixes)
				if err != nil {
					return err
				}
				for _, prefix := range result.Removed {
					a.printf("unblocked %s\n", prefix)
				}
				if n := len(result.Missing); n > 0 {
					return advise(fmt.Errorf("%s not blocked: %v", plural(n, "prefix"), result.Missing), "gardu blocks shows what is")
				}
				return nil
			})
		},
	}
}

// completeBlocks offers what is blocked to the shell.
func (a *app) completeBlocks(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var offers []cobra.Completion
	err := a.ask(func(c *client.Client) error {
		blocks, err := c.Blocks(cmd.Context())
		for _, block := range blocks {
			if text := block.Prefix.String(); !slices.Contains(args, text) {
				offers = append(offers, cobra.CompletionWithDesc(text, block.Why))
			}
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}
