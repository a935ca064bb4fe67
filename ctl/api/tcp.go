package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"gardu/ctl/page"
)

// How many connections are served by TCP at once. Further ones wait; those of one client of another machine are closed.
const (
	maxConns       = 128
	maxConnsRemote = 16
)

// Access says how the API may be asked by TCP.
type Access struct {
	Certificate *Certificate // nil: without TLS, by this machine alone
	TokensOnly  bool         // without a token nothing is told, but whether the daemon lives and is ready
}

// ListenTCP listens for who wants to ask by TCP.
func ListenTCP(address netip.AddrPort) (net.Listener, error) {
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		err = failed.Err // its own text says the address again
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return newFewConns(listener, maxConns), nil
}

// ServeTCP is Serve for TCP: see OverTCP. access may change its mind.
func ServeTCP(ctx context.Context, listener net.Listener, access func() Access, engine Engine, metrics http.Handler, log *slog.Logger) error {
	return serve(ctx, &secured{listener, access}, OverTCP(access, engine, metrics, log), log)
}

// OverTCP returns the API for those who don't come by the Unix socket, and beside it the page at /, /metrics, /healthz (the daemon lives) and /readyz
// (packets are handled as configured, on all interfaces). Without a token nothing is changed. It takes no request that a web page of
// somebody else has a browser send: neither one with a name of theirs for this machine, nor one from their origin.
func OverTCP(access func() Access, engine Engine, metrics http.Handler, log *slog.Logger) http.Handler {
	h := newHandler(engine, log)
	mux := http.NewServeMux()
	mux.Handle("/", h.mux())
	page.Register(mux)
	mux.HandleFunc("/metrics", h.guard(func(w http.ResponseWriter, r *http.Request) error {
		if err := onlyGet(w, r); err != nil {
			return err
		}
		if err := callerOf(r.Context()).may(w, ScopePublic); err != nil {
			return err
		}
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stallTimeout))
		metrics.ServeHTTP(w, r)
		return nil
	}))
	mux.HandleFunc("/healthz", h.guard(func(w http.ResponseWriter, r *http.Request) error {
		if err := onlyGet(w, r); err != nil {
			return err
		}
		return sayOK(w)
	}))
	mux.HandleFunc("/readyz", h.guard(func(w http.ResponseWriter, r *http.Request) error {
		if err := onlyGet(w, r); err != nil {
			return err
		}
		if err := engine.Ready(r.Context()); err != nil {
			return NewProblem(CodeNotReady, "%v", err)
		}
		return sayOK(w)
	}))
	clients := newLimiter(tcpPace)
	return h.guard(func(w http.ResponseWriter, r *http.Request) error {
		who, err := h.callerByTCP(w, r, access(), clients)
		if err != nil {
			return err
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
		return nil
	})
}

// callerByTCP finds out who asks, and refuses those who ask too much or show a token that is none.
func (h *handler) callerByTCP(w http.ResponseWriter, r *http.Request, access Access, clients *limiter) (caller, error) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // by the server
	who := caller{scope: ScopePublic, address: remote.Addr().Unmap()}
	client := clientOf(who.address)
	if wait := clients.take(client, 1, time.Now()); wait > 0 {
		return who, tooMany(w, wait)
	}
	if err := checkMeant(r, access.Certificate); err != nil {
		return who, err
	}
	shown := r.Header.Get("Authorization")
	if shown == "" {
		if access.TokensOnly {
			who.scope = ""
		}
		return who, nil
	}
	kind, secret, _ := strings.Cut(shown, " ")
	token, ok := h.engine.FindToken(strings.TrimSpace(secret))
	if !ok || !strings.EqualFold(kind, "Bearer") {
		clients.take(client, wrongToken-1, time.Now())
		h.wrongToken(who.address)
		w.Header().Set("WWW-Authenticate", `Bearer realm="gardu", error="invalid_token"`)
		return who, NewProblem(CodeNoToken, "there is no such token: it was revoked, has expired, or never was one")
	}
	who.token, who.scope, who.secret = token.Name, token.Scope, strings.TrimSpace(secret)
	return who, nil
}

// Wrong tokens that are logged: a few at once, and then one a minute.
const (
	wrongTokensLogged = 10
	wrongTokensAfter  = time.Minute
)

// wrongToken logs that somebody shows one; whoever can connect may not fill the log.
func (h *handler) wrongToken(from netip.Addr) {
	h.wrong.Lock()
	defer h.wrong.Unlock()
	h.wrong.since++
	if h.wrong.logged >= wrongTokensLogged && time.Since(h.wrong.last) < wrongTokensAfter {
		return
	}
	h.log.Warn("wrong token", "from", from, "wrong ones since the last such line", h.wrong.since)
	h.wrong.logged, h.wrong.since, h.wrong.last = h.wrong.logged+1, 0, time.Now()
}

func tooMany(w http.ResponseWriter, wait time.Duration) error {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	w.Header().Set("Connection", "close")
	return NewProblem(CodeTooMany, "too many requests: ask again in %v", wait.Round(time.Millisecond))
}

func onlyGet(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	w.Header().Set("Allow", "GET, HEAD")
	return NewProblem(CodeMethod, "%s takes GET, not %s", r.URL.Path, r.Method)
}

func sayOK(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("ok\n")) // a client that has gone is no failure of ours
	return nil
}

// checkMeant makes sure that the request was meant for this machine, and that no web page but one of ours asks.
func checkMeant(r *http.Request, certificate *Certificate) error {
	if !isLocal(r.Host) && (certificate == nil || !certificate.isFor(bare(r.Host))) {
		allowed := "ask for 127.0.0.1, [::1] or localhost"
		if certificate != nil {
			allowed += ", or for what the certificate is for"
		}
		return NewProblem(CodeForbidden, "the request is for %q, which is not this machine: %s", r.Host, allowed)
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	for _, origin := range r.Header.Values("Origin") {
		from, err := url.Parse(origin)
		if err != nil || from.Scheme != scheme || from.Host != r.Host {
			return NewProblem(CodeForbidden, "the request comes from a page of %q", origin)
		}
	}
	return nil
}

// bare is the name or address of a Host header.
func bare(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.Trim(host, "[]")
}

// isLocal tells whether a Host header names this machine, as only this machine calls itself. The port may be another one: that of
// a tunnel to here.
func isLocal(host string) bool {
	name := bare(host)
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback() || strings.EqualFold(name, "localhost")
}

// secured speaks TLS where there is a certificate. Without one, nobody but this machine is served.
type secured struct {
	net.Listener
	access func() Access
}

func (l *secured) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if certificate := l.access().Certificate; certificate != nil {
			return tls.Server(conn, certificate.config()), nil
		}
		if addr, ok := conn.LocalAddr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
			return conn, nil
		}
		conn.Close()
	}
}

// fewConns bounds how many of its connections are open.
type fewConns struct {
	net.Listener
	open   chan struct{}
	closed chan struct{}
	close  func()

	mu      sync.Mutex
	clients map[any]int // connections of each client of another machine
}

func newFewConns(listener net.Listener, most int) *fewConns {
	closed := make(chan struct{})
	return &fewConns{Listener: listener, open: make(chan struct{}, most), closed: closed, close: sync.OnceFunc(func() { close(closed) }),
		clients: map[any]int{}}
}

// Accept waits for room and for a connection.
func (l *fewConns) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.open
			return nil, err
		}
		remote, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		if remote.Addr().Unmap().IsLoopback() {
			return &oneConn{conn, sync.OnceFunc(func() { <-l.open })}, nil
		}
		client := clientOf(remote.Addr())
		if l.count(client, 1) <= maxConnsRemote {
			return &oneConn{conn, sync.OnceFunc(func() { l.count(client, -1); <-l.open })}, nil
		}
		l.count(client, -1)
		conn.Close()
	}
}

// count returns how many connections a client has, with some more or less.
func (l *fewConns) count(client any, more int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.clients[client] + more
	if l.clients[client] = n; n == 0 {
		delete(l.clients, client)
	}
	return n
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
