package api

import (
	"errors"
	"fmt"
	"net/http"

	"gardu/ctl/config"
)

// Problem is an error as it travels (RFC 9457, application/problem+json). Code is for programs, Detail for
// people. Errors is there for an invalid configuration, which it describes completely.
type Problem struct {
	Type   string        `json:"type"` // always about:blank: Code tells problems apart
	Title  string        `json:"title"`
	Status int           `json:"status"` // HTTP status
	Code   Code          `json:"code"`
	Detail string        `json:"detail"`
	Errors []ConfigError `json:"errors,omitempty"`

	// Entries are the ones of a list that are wrong, the first 100.
	Entries []EntryError `json:"entries,omitempty"`

	// Current is what is in force instead of what was asked to be changed, and by whom: with CodeStale.
	Current *Revision `json:"current,omitempty"`
}

// Code names a kind of problem. Programs may rely on these values.
type Code string

const (
	CodeInvalid   Code = "invalid"   // the request itself makes no sense
	CodeConfig    Code = "config"    // the configuration is invalid: see Errors
	CodeNotFound  Code = "not-found" // no such path, interface, ...
	CodeMethod    Code = "method"    // not with this HTTP method
	CodeNoToken   Code = "no-token"  // it takes a token, and a valid one
	CodeForbidden Code = "forbidden" // not with this token; not for a page or a name of somebody else
	CodeTooMany   Code = "too-many"  // requests of this client: Retry-After says when the next may come
	CodeGone      Code = "gone"      // where the last page ended, nothing is any more
	CodeTooLarge  Code = "too-large" // the request is over the size limit
	CodeFull      Code = "full"      // a table has no room
	CodeConflict  Code = "conflict"  // not in this state: nothing applied yet, another apply is running
	CodeStale     Code = "stale"     // the configuration is not the one that was to be changed: see Current
	CodeCutOff    Code = "cut-off"   // the connection it is asked from would be cut off
	CodeInternal  Code = "internal"
	CodeNotReady  Code = "not-ready" // the daemon is starting or ending
)

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// Unwrap returns the config.Errors of an invalid configuration, which print the lines and carets; else nil.
func (p *Problem) Unwrap() error {
	if len(p.Errors) == 0 {
		return nil
	}
	return configErrors(p.Errors)
}

// problemOf finds the problem that an error is.
func problemOf(err error) *Problem {
	if problem, ok := errors.AsType[*Problem](err); ok {
		return problem
	}
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		problem := NewProblem(CodeConfig, "the configuration is invalid, %d errors", len(wrong))
		problem.Errors = wireErrors(wrong)
		return problem
	}
	return NewProblem(CodeInternal, "%v", err)
}

// NewProblem makes a complete problem; the detail is formatted in the manner of fmt.Sprintf.
func NewProblem(code Code, format string, args ...any) *Problem {
	status := code.Status()
	return &Problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Code:   code,
		Detail: fmt.Sprintf(format, args...),
	}
}

// Status returns the HTTP status that goes with a code.
func (c Code) Status() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeConfig:
		return http.StatusUnprocessableEntity
	case CodeNotFound:
		return http.StatusNotFound
	case CodeMethod:
		return http.StatusMethodNotAllowed
	case CodeNoToken:
		return http.StatusUnauthorized
	case CodeTooMany:
		return http.StatusTooManyRequests
	case CodeForbidden:
		return http.StatusForbidden
	case CodeGone:
		return http.StatusGone
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeFull:
		return http.StatusInsufficientStorage
	case CodeConflict, CodeCutOff:
		return http.StatusConflict
	case CodeStale:
		return http.StatusPreconditionFailed
	case CodeNotReady:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
