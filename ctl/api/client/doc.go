// Package client asks a running gardu daemon over its Unix socket.
//
//	gardu := client.New(api.DefaultSocket)
//	status, err := gardu.Status(ctx)
//
// An error is ErrUnreachable when no daemon answers, an *api.Problem when the daemon says no, and wraps
// config.Errors when a configuration is invalid.
package client
