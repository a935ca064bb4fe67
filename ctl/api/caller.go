package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/user"

	"golang.org/x/sys/unix"
)

// Scope is what a client must be allowed to do. Each includes the ones before it.
type Scope string

const (
	ScopePublic    Scope = "public"    // what anybody may who can connect, unless the configuration says otherwise: look at what is counted
	ScopeRead      Scope = "read"      // and at the text of configurations, and at what would become of a packet
	ScopeOperate   Scope = "operate"   // and block, drain, weigh, capture packets
	ScopeConfigure Scope = "configure" // and change the configuration
	ScopeSocket    Scope = "socket"    // and make tokens: what no token allows, but the Unix socket
)

// Scopes are those that a token can have.
func Scopes() []Scope { return []Scope{ScopeRead, ScopeOperate, ScopeConfigure} }

var rank = map[Scope]int{ScopePublic: 1, ScopeRead: 2, ScopeOperate: 3, ScopeConfigure: 4, ScopeSocket: 5}

// Allows tells whether who may do s may do what takes want.
func (s Scope) Allows(want Scope) bool { return rank[s] >= rank[want] }

// caller is who makes a request.
type caller struct {
	scope   Scope // "": nothing may be asked
	peer    *unix.Ucred
	address netip.Addr // of TCP
	token   string     // its name; "" none was shown
	secret  string     // of it, to see whether it still is one
}

type callerKey struct{}

// withPeer notes who connected to the Unix socket, as the kernel knows it, in the context of a connection's requests.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	who := caller{scope: ScopeSocket}
	if raw, err := unixConn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // else it isn't known
			if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				who.peer = peer
			}
		})
	}
	return context.WithValue(ctx, callerKey{}, who)
}

func callerOf(ctx context.Context) caller {
	who, _ := ctx.Value(callerKey{}).(caller)
	return who
}

// Author is who made the request: the name of the user at the other end of the socket, or of a token; "" when it is not known.
func Author(ctx context.Context) string { return callerOf(ctx).name() }

func (c caller) name() string {
	switch {
	case c.token != "":
		return fmt.Sprintf("token %s from %s", c.token, c.address)
	case c.peer == nil:
		return ""
	}
	if u, err := user.LookupId(fmt.Sprint(c.peer.Uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", c.peer.Uid)
}

// attributes are for a log.
func (c caller) attributes() []any {
	attributes := []any{slog.String("by", c.name())}
	if c.address.IsValid() && c.token == "" {
		attributes = append(attributes, slog.String("from", c.address.String()))
	}
	if c.peer != nil {
		attributes = append(attributes, slog.Uint64("uid", uint64(c.peer.Uid)), slog.Uint64("gid", uint64(c.peer.Gid)), slog.Int("pid", int(c.peer.Pid)))
	}
	return attributes
}

// may refuses what takes another scope.
func (c caller) may(w http.ResponseWriter, want Scope) error {
	if c.scope.Allows(want) {
		return nil
	}
	needed := want
	if want == ScopePublic { // where the configuration says so
		needed = ScopeRead
	}
	switch {
	case want == ScopeSocket:
		return NewProblem(CodeForbidden, "this is for the Unix socket alone, whatever the token")
	case c.token == "":
		w.Header().Set("WWW-Authenticate", `Bearer realm="gardu"`)
		return NewProblem(CodeNoToken, "by TCP this takes a token with the scope %s: `gardu token create NAME --scope %s` makes one, the header "+
			"\"Authorization: Bearer SECRET\" shows it", needed, needed)
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=\"gardu\", error=\"insufficient_scope\", scope=%q", want))
	return NewProblem(CodeForbidden, "this takes a token with the scope %s; that of the token %s is %s", want, c.token, c.scope)
}
