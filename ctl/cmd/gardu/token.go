package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token create|list|revoke",
		Short: "Let programs and people use the API by TCP",
		Long: `Makes, lists and revokes the tokens that requests by TCP (api.listen) show. The scope of
a token says what it allows, each including the one before:

  read       look, also at the text of configurations and at what would become of a packet
  operate    block, drain, weigh, capture packets
  configure  change the configuration

Tokens themselves are made by the Unix socket alone.`,
		Example: `  (umask 077; gardu token create ci --scope operate --for 90d > ci.token)
  curl -H @<(sed 's/^/Authorization: Bearer /' ci.token) http://127.0.0.1:9180/v1/status
  gardu token list
  gardu token revoke ci`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usage("create, list or revoke?") },
	}
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	for _, sub := range cmd.Commands() {
		failing(sub)
	}
	return cmd
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var scope string
	var lasts lifetime
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token, and print its secret",
		Long: `Makes a token and prints its secret on stdout, this once: it is kept nowhere, only a hash
of it. Write it where only its user can read it.`,
		Example: `  (umask 077; gardu token create ci --scope operate --for 90d > ci.token)`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *client.Client) error {
				token, err := c.CreateToken(cmd.Context(), api.TokenRequest{Name: args[0], Scope: api.Scope(scope), For: api.Duration(lasts)})
				if err != nil {
					return err
				}
				until := "until it is revoked"
				if !token.Expires.IsZero() {
					until = "until " + token.Expires.Format(time.RFC3339)
				}
				a.warnf("token %s with the scope %s is good %s; what follows is told this once\n", token.Name, token.Scope, until)
				a.printf("%s\n", token.Secret)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&scope, "scope", string(api.ScopeRead), "what it allows: `SCOPE` is read, operate or configure")
	cmd.Flags().Var(&lasts, "for", "how long it is good, like 12h or 90d (default: until it is revoked)")
	return cmd
}

func (a *app) tokenListCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "list",
		Short: "Show the tokens, and when they were used last",
		Long:  `Shows the tokens: what each allows, who made it, until when it is good, and when it was used last since the daemon began.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				tokens, err := c.Tokens(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(a, "tokens", tokens, tokenColumns())
			})
		},
	})
}

func tokenColumns() []column[api.Token] {
	return []column[api.Token]{
		{"name", false, func(t *api.Token) any { return t.Name }},
		{"scope", false, func(t *api.Token) any { return t.Scope }},
		{"created", true, func(t *api.Token) any { return t.Created }},
		{"author", false, func(t *api.Token) any { return t.Author }},
		{"expires", false, func(t *api.Token) any { return t.Expires }},
		{"last used", false, func(t *api.Token) any { return t.Used }},
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME...",
		Short:   "Make tokens worthless, at once",
		Long:    `Takes tokens away: requests that show them are refused from now on, and streams end.`,
		Example: `  gardu token revoke ci`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *client.Client) error {
				for _, name := range args {
					if err := c.RevokeToken(cmd.Context(), name); err != nil {
						return fmt.Errorf("revoke %s: %w", name, err)
					}
					a.printf("revoked %s\n", name)
				}
				return nil
			})
		},
	}
}
