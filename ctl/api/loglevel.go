package api

import (
	"context"
	"slices"
	"strings"
	"time"
)

// LogLevels are what a log can begin with, from the most to the least that is told.
func LogLevels() []string { return []string{"debug", "info", "warn", "error"} }

// LogLevel is how much the daemon writes to its log.
type LogLevel struct {
	Level string    `json:"level"`          // debug, info, warn or error
	Until time.Time `json:"until,omitzero"` // absent: as long as the daemon runs
	Then  string    `json:"then,omitempty"` // the level after that
}

// LogLevelRequest asks for another level. The next daemon begins with its own.
type LogLevelRequest struct {
	Level string   `json:"level"`         // debug, info, warn or error
	For   Duration `json:"for,omitempty"` // 0: as long as the daemon runs
}

func (h *handler) setLogLevel(ctx context.Context, request LogLevelRequest) (LogLevel, error) {
	switch {
	case !slices.Contains(LogLevels(), request.Level):
		return LogLevel{}, NewProblem(CodeInvalid, "the level is %s, not %q", strings.Join(LogLevels(), ", "), request.Level)
	case request.For < 0:
		return LogLevel{}, NewProblem(CodeInvalid, "the time is negative")
	}
	return h.engine.SetLogLevel(ctx, request)
}
