package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of a request.
const (
	MaxRequest = 32 << 20 // bytes of a body: some 300,000 rules or blocks

	headerTimeout = 5 * time.Second
	bodyTimeout   = time.Minute
	idleTimeout   = 2 * time.Minute
	stallTimeout  = 30 * time.Second // a client that takes no more bytes of an answer
	endTimeout    = 5 * time.Second  // requests under way when the server ends
)

// Serve answers requests on the listener until ctx ends, then lets those under way finish, a few seconds at most. It
// closes the listener. The error is nil after an orderly end.
func Serve(ctx context.Context, listener net.Listener, engine Engine, log *slog.Logger) error {
	return serve(ctx, listener, Handler(engine, log), log)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the API on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := server.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("API requests were cut off", "after", endTimeout)
		err = server.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
