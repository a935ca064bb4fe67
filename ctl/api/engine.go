package api

import (
	"context"
	"net/netip"
	"time"
)

// Engine answers the API. All methods may be called concurrently. An error that is, or wraps, a *Problem, or
// config.Errors keeps its meaning on the way to the client; any other becomes an internal error with its text.
type Engine interface {
	// Status returns the state of the whole. The server adds a warning for each of its Tables that is 80 % full.
	Status(ctx context.Context) (Status, error)

	// Ready returns an error as long as packets are not handled as configured on all interfaces; it says where and why.
	Ready(ctx context.Context) error

	// Rules returns the rules in the order in which they are tried.
	Rules(ctx context.Context) ([]Rule, error)
	Sets(ctx context.Context) ([]Set, error)
	Services(ctx context.Context) ([]Service, error)
	// Backends returns the backends of all services, a service after the other.
	Backends(ctx context.Context) ([]Backend, error)
	Blocks(ctx context.Context) ([]Block, error)

	// Block adds or renews blocks, all or none, and returns them as they now stand. The server has checked
	// that there is at least one, that prefixes are masked and not /0, and that no duration is negative. The last
	// of those that ask for the same prefix counts.
	Block(ctx context.Context, requests []BlockRequest) ([]Block, error)
	// Unblock removes blocks of exactly these prefixes. A prefix that isn't blocked is not an error.
	Unblock(ctx context.Context, prefixes []netip.Prefix) (Unblocked, error)

	// Drain, Undrain and Weigh change what a backend gets for now, outside of the snapshot. Established flows stay where they
	// are, until the time of a drain is over. A name that isn't there is a Problem, CodeNotFound.
	Drain(ctx context.Context, request DrainRequest) (Ordered, error)
	Undrain(ctx context.Context, service, backend string) (Ordered, error)
	Weigh(ctx context.Context, request WeightRequest) (Ordered, error)

	// Flows calls yield for each flow, both directions joined, in no particular order, and stops at yield's
	// first error, which it returns. Filtering, sorting and limits are the server's business.
	Flows(ctx context.Context, yield func(Flow) error) error

	// FlowChanges reads the flow table every so often. It calls yield for each flow that had packets since the reading before,
	// with how much, and then read. It stops at the first error of either, which it returns, and without one when ctx
	// ends, or the daemon. A reading that takes long is not begun as often as asked for.
	FlowChanges(ctx context.Context, every time.Duration, yield func(f Flow, did FlowChange) error, read func(Reading) error) error

	// History returns what flows did in a time, its groups in no order: sorting and limits are the server's business.
	History(ctx context.Context, wish HistoryWish) (History, error)

	// Events calls yield for the events that are wanted, the oldest first, and stops at yield's first error, which it returns. more
	// says that another one follows at once. Following ends without an error when ctx ends, or the daemon.
	Events(ctx context.Context, wish EventWish, yield func(e Event, more bool) error) error

	// Capture calls yield with CaptureItem.Began, then for the packets that are wanted, as they are handled, and stops at yield's first error,
	// which it returns. more says that another one follows at once. It ends without an error when ctx ends, and, with CaptureItem.Totals,
	// when there are as many as are wanted, EndCapture is called or the daemon ends.
	Capture(ctx context.Context, wish CaptureWish, yield func(item CaptureItem, more bool) error) error
	// EndCapture ends the capture of that name. One that isn't there is a Problem, CodeNotFound.
	EndCapture(ctx context.Context, name string) error

	// Apply replaces the snapshot, all or nothing. With Check it only says what it would say. When IfMatch doesn't match, the problem is
	// CodeStale and Current says what is in force instead, and by whom.
	Apply(ctx context.Context, request ApplyRequest) (ApplyResult, error)
	// Plan says what Apply would change. Nothing is.
	Plan(ctx context.Context, request PlanRequest) (Plan, error)
	// Confirm keeps the snapshot that waits for it. When it comes too late, or nothing waits, the problem is CodeConflict.
	Confirm(ctx context.Context, request ConfirmRequest) (ConfirmResult, error)
	// Rollback puts an older snapshot in force again, all or nothing.
	Rollback(ctx context.Context, request RollbackRequest) (ApplyResult, error)
	// Revisions lists the snapshots that are kept, the newest first, without their texts.
	Revisions(ctx context.Context) ([]Revision, error)
	// Revision returns one of them with its text; 0 is the one in force.
	Revision(ctx context.Context, number uint64) (Revision, error)

	// CreateToken makes a token. A name that is taken is a Problem, CodeConflict. The server has checked the name, the scope and the time.
	CreateToken(ctx context.Context, request TokenRequest) (NewToken, error)
	// Tokens lists them by name.
	Tokens(ctx context.Context) ([]Token, error)
	// RevokeToken ends one. A name that isn't there is a Problem, CodeNotFound.
	RevokeToken(ctx context.Context, name string) error
	// FindToken returns the token that has this secret, unless it has expired.
	FindToken(secret string) (Token, bool)

	// LogLevel returns how much is written to the log.
	LogLevel(ctx context.Context) (LogLevel, error)
	// SetLogLevel changes that, until its time is over or the daemon ends. The server has checked the level and the time.
	SetLogLevel(ctx context.Context, request LogLevelRequest) (LogLevel, error)

	// Explain judges one frame without side effects. The server has turned request.Packet into request.Frame.
	Explain(ctx context.Context, request ExplainRequest) (Explanation, error)
}
