package api

import (
	"context"
	"net/url"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// Revision is a snapshot that was in force, or is.
type Revision struct {
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time,omitzero"` // when it came into force
	Author   string    `json:"author"`        // the user at the other end of the socket
	How      string    `json:"how"`           // start, reload, apply, rollback; return: the one before it was not confirmed
	Comment  string    `json:"comment,omitempty"`
	Of       uint64    `json:"of,omitempty"`  // the revision whose snapshot it is again
	Config   string    `json:"config"`        // name of the file
	Dir      string    `json:"dir,omitempty"` // set files are relative to it; not in a list
	State    string    `json:"state"`         // in force, waiting (for confirmation), past; damaged: see Error
	Error    string    `json:"error,omitempty"`
	YAML     string    `json:"yaml,omitempty"` // its text; not in a list
	Tag      string    `json:"tag,omitempty"`  // for ApplyRequest.IfMatch, of the one in force; not in a list
}

// The values of Revision.State.
const (
	RevisionInForce = "in force"
	RevisionWaiting = "waiting"
	RevisionPast    = "past"
	RevisionDamaged = "damaged"
)

// Waiting is a snapshot in force that goes unless it is confirmed in time.
type Waiting struct {
	Revision uint64    `json:"revision"`
	Back     uint64    `json:"back"`   // the revision whose snapshot comes back
	Author   string    `json:"author"` // of the one that waits
	Until    time.Time `json:"until"`
	Left     Duration  `json:"left"`
}

// Bounds of ApplyRequest.Confirm and of comments.
const (
	MinConfirm = time.Second
	MaxConfirm = 24 * time.Hour
	MaxComment = 500 // bytes
)

// ConfirmRequest keeps a snapshot that waits.
type ConfirmRequest struct {
	Revision uint64 `json:"revision,omitempty"` // only if it is this one; 0: whichever waits
}

// ConfirmResult says which one is kept.
type ConfirmResult struct {
	Revision uint64 `json:"revision"`
}

// RollbackRequest puts an older snapshot in force again, as a new revision. Its set files are read anew.
type RollbackRequest struct {
	Revision      uint64   `json:"revision,omitempty"` // 0: the one before what is in force, or what would come back
	Comment       string   `json:"comment,omitempty"`
	Confirm       Duration `json:"confirm,omitempty"`
	Force         bool     `json:"force,omitempty"`
	SSHConnection string   `json:"ssh_connection,omitempty"`
	IfMatch       string   `json:"-"` // as that of an ApplyRequest
}

// checkChange checks what requests for a change have in common.
func checkChange(confirm Duration, comment string) error {
	if d := time.Duration(confirm); d != 0 && (d < MinConfirm || d > MaxConfirm) {
		return NewProblem(CodeInvalid, "%s is no time to confirm in: %s to %s", d, MinConfirm, MaxConfirm)
	}
	if len(comment) > MaxComment || !utf8.ValidString(comment) {
		return NewProblem(CodeInvalid, "a comment is at most %d bytes of UTF-8", MaxComment)
	}
	for _, r := range comment {
		if !unicode.IsPrint(r) {
			return NewProblem(CodeInvalid, "a comment is one line of text, without %q", r)
		}
	}
	return nil
}

func (h *handler) apply(ctx context.Context, request ApplyRequest) (ApplyResult, error) {
	if err := checkChange(request.Confirm, request.Comment); err != nil {
		return ApplyResult{}, err
	}
	return h.engine.Apply(ctx, request)
}

func (h *handler) rollback(ctx context.Context, request RollbackRequest) (ApplyResult, error) {
	if err := checkChange(request.Confirm, request.Comment); err != nil {
		return ApplyResult{}, err
	}
	return h.engine.Rollback(ctx, request)
}

// revision answers with one revision and its text.
func (h *handler) revision(ctx context.Context, query url.Values) (Revision, error) {
	number, err := strconv.ParseUint(query.Get("number"), 10, 64)
	if err != nil || number == 0 {
		return Revision{}, NewProblem(CodeInvalid, "number=%s is not the number of a revision", query.Get("number"))
	}
	return h.engine.Revision(ctx, number)
}

// snapshot answers with what is in force.
func (h *handler) snapshot(ctx context.Context) (Revision, error) { return h.engine.Revision(ctx, 0) }
