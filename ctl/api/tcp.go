package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxConns is how many connections are served by TCP at once; further ones wait.
const maxConns = 128

// ListenTCP listens where this machine alone can connect.
func ListenTCP(address netip.AddrPort) (net.Listener, error) {
	if !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %s: it can be reached from other machines", address)
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		err = failed.Err // its own text says the address again
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return newFewConns(listener, maxConns), nil
}

// ServeTCP is Serve for everybody on this machine: see ReadOnly.
func ServeTCP(ctx context.Context, listener net.Listener, engine Engine, metrics http.Handler, log *slog.Logger) error {
	return serve(ctx, listener, ReadOnly(engine, metrics, log), log)
}

// ReadOnly returns the readers of the API, and beside them /metrics, /healthz (the daemon lives) and /readyz (packets
// are handled as configured, on all interfaces). It takes no request that changes anything, and none that a web page of
// somebody else has a browser send: neither one with a name of theirs for this machine, nor one from their origin.
func ReadOnly(engine Engine, metrics http.Handler, log *slog.Logger) http.Handler {
	h := &handler{engine, log}
	mux := http.NewServeMux()
	mux.Handle("/", Handler(engine, log))
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stallTimeout))
		metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("/healthz", h.guard(func(w http.ResponseWriter, r *http.Request) error { return sayOK(w) }))
	mux.HandleFunc("/readyz", h.guard(func(w http.ResponseWriter, r *http.Request) error {
		if err := engine.Ready(r.Context()); err != nil {
			return NewProblem(CodeNotReady, "%v", err)
		}
		return sayOK(w)
	}))
	mux.HandleFunc("/v1/revision", h.guard(func(http.ResponseWriter, *http.Request) error {
		return NewProblem(CodeForbidden, "the text of a configuration is told by the Unix socket alone")
	}))
	return h.guard(func(w http.ResponseWriter, r *http.Request) error {
		if err := checkLocal(r); err != nil {
			return err
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			return NewProblem(CodeMethod, "nothing is changed or explained by TCP, which takes GET alone; use the Unix socket")
		}
		mux.ServeHTTP(w, r)
		return nil
	})
}

func sayOK(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("ok\n")) // a client that has gone is no failure of ours
	return nil
}

// checkLocal makes sure that the request was meant for this machine, and that no web page but one of ours asks.
func checkLocal(r *http.Request) error {
	if !isLocal(r.Host) {
		return NewProblem(CodeForbidden, "the request is for %q, which is not this machine: ask for 127.0.0.1, [::1] or localhost", r.Host)
	}
	for _, origin := range r.Header.Values("Origin") {
		from, err := url.Parse(origin)
		if err != nil || from.Scheme != "http" || from.Host != r.Host {
			return NewProblem(CodeForbidden, "the request comes from a page of %q", origin)
		}
	}
	return nil
}

// isLocal tells whether a Host header names this machine, as only this machine calls itself. The port may be another one: that of
// a tunnel to here.
func isLocal(host string) bool {
	name := host
	if bare, _, err := net.SplitHostPort(host); err == nil {
		name = bare
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && addr.IsLoopback() || strings.EqualFold(name, "localhost")
}

// fewConns bounds how many of its connections are open.
type fewConns struct {
	net.Listener
	open   chan struct{}
	closed chan struct{}
	close  func()
}

func newFewConns(listener net.Listener, most int) *fewConns {
	closed := make(chan struct{})
	return &fewConns{listener, make(chan struct{}, most), closed, sync.OnceFunc(func() { close(closed) })}
}

// Accept waits for room and for a connection.
func (l *fewConns) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		return nil, err
	}
	return &oneConn{conn, sync.OnceFunc(func() { <-l.open })}, nil
}

func (l *fewConns) Close() error {
	l.close()
	return l.Listener.Close()
}

type oneConn struct {
	net.Conn
	leave func()
}

func (c *oneConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
