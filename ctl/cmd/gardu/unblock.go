package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"gardu/ctl/api/client"
)

func (a *app) unblockCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "unblock PREFIX... | -",
		Short: "Take blocks back",
		Long: `Removes the blocks of exactly these prefixes. An address doesn't remove the block
of a network around it, nor the other way round: gardu blocks shows what there is.
A file, or stdin with -, has a prefix a line.`,
		Example:           `  gardu unblock 203.0.113.7`,
		ValidArgsFunction: a.completeBlocks,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefixes, err := a.prefixes(args, file)
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				result, err := c.Unblock(cmd.Context(), prefixes)
				if err != nil {
					return err
				}
				if n := len(result.Removed); n > printedBlocks {
					a.printf("unblocked %s\n", plural(n, "prefix"))
				} else {
					for _, prefix := range result.Removed {
						a.printf("unblocked %s\n", prefix)
					}
				}
				if n := len(result.Missing); n > 0 {
					return advise(fmt.Errorf("%s not blocked: %v", plural(n, "prefix"), result.Missing[:min(n, printedBlocks)]), "gardu blocks shows what is")
				}
				return nil
			})
		},
	}
	fileFlag(cmd, &file)
	return cmd
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
