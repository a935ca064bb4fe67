package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
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
	h := newHandler(engine, log)
	mux, clients := h.mux(), newLimiter(socketPace)
	profiles(mux)
	return serve(ctx, listener, h.guard(func(w http.ResponseWriter, r *http.Request) error {
		who := callerOf(r.Context())
		uid := any("unknown")
		if who.peer != nil {
			uid = who.peer.Uid
		}
		if wait := clients.take(uid, 1, time.Now()); wait > 0 {
			return tooMany(w, wait)
		}
		mux.ServeHTTP(w, r)
		return nil
	}), log)
}

// profiles serves what Go's tools ask of a running program, by the socket alone: they tell what is in memory.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
}

// quietly logs what anybody who connects can bring about for who looks for it only.
type quietly struct{ slog.Handler }

func (q quietly) Handle(ctx context.Context, record slog.Record) error {
	if strings.HasPrefix(record.Message, "http: TLS handshake error") {
		if record.Level = slog.LevelDebug; !q.Enabled(ctx, record.Level) {
			return nil
		}
	}
	return q.Handler.Handle(ctx, record)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(quietly{log.Handler()}, slog.LevelWarn),
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
