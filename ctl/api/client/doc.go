// Package client asks a running gardu daemon: over its Unix socket, or by TCP with a token. It is what the commands of gardu use.
//
//	gardu := client.New(api.DefaultSocket)
//	status, err := gardu.Status(ctx)
//
// An error is ErrUnreachable when no daemon answers, an *api.Problem when the daemon says no (its Code is for programs), and wraps
// config.Errors when a configuration is invalid. What comes bit by bit (flows, events, captures, Top) is handed to a function, whose
// first error ends it.
package client
