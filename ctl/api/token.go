package api

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Token lets somebody ask by TCP. The secret itself is kept nowhere.
type Token struct {
	Name    string    `json:"name"`
	Scope   Scope     `json:"scope"`
	Created time.Time `json:"created"`
	Author  string    `json:"author"`             // who made it
	Expires time.Time `json:"expires,omitzero"`   // absent: never
	Used    time.Time `json:"last_used,omitzero"` // since the daemon began
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Name  string   `json:"name"`
	Scope Scope    `json:"scope"`
	For   Duration `json:"for,omitempty"` // 0: until it is revoked
}

// NewToken is a token with its secret, which is told this once.
type NewToken struct {
	Token
	Secret string `json:"secret"`
}

// Revoked says which token is none any more.
type Revoked struct {
	Name string `json:"name"`
}

var tokenName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (h *handler) createToken(ctx context.Context, request TokenRequest) (NewToken, error) {
	switch {
	case !tokenName.MatchString(request.Name):
		return NewToken{}, NewProblem(CodeInvalid, "%q is no name of a token: 1 to 63 of a-z 0-9 . _ -, the first a letter or digit", request.Name)
	case !slices.Contains(Scopes(), request.Scope):
		return NewToken{}, NewProblem(CodeInvalid, "a token's scope is read, operate or configure, not %q", request.Scope)
	case request.For < 0:
		return NewToken{}, NewProblem(CodeInvalid, "the time is negative")
	}
	return h.engine.CreateToken(ctx, request)
}

func (h *handler) revokeToken(ctx context.Context, query url.Values) (Revoked, error) {
	name := query.Get("name")
	return Revoked{name}, h.engine.RevokeToken(ctx, name)
}
