package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"gardu/ctl/api"
)

// logLevel is what was ordered about the level of the log.
type logLevel struct {
	mu    sync.Mutex
	until time.Time  // zero: it stays
	then  slog.Level // after that
}

// LogLevel returns how much is written to the log.
func (d *Daemon) LogLevel(context.Context) (api.LogLevel, error) {
	if d.options.LogLevel == nil {
		return api.LogLevel{}, errFixedLevel
	}
	d.logLevel.mu.Lock()
	defer d.logLevel.mu.Unlock()
	return d.levelNow(), nil
}

var errFixedLevel = api.NewProblem(api.CodeConflict, "whoever started this daemon decides about its log")

// levelNow is for who holds the lock.
func (d *Daemon) levelNow() api.LogLevel {
	now := api.LogLevel{Level: levelText(d.options.LogLevel.Level()), Until: d.logLevel.until}
	if !now.Until.IsZero() {
		now.Then = levelText(d.logLevel.then)
	}
	return now
}

func levelText(level slog.Level) string { return strings.ToLower(level.String()) }

// SetLogLevel changes it, perhaps for a while. The level that comes back is the one before the first such order that still lasts.
func (d *Daemon) SetLogLevel(ctx context.Context, request api.LogLevelRequest) (api.LogLevel, error) {
	if d.options.LogLevel == nil {
		return api.LogLevel{}, errFixedLevel
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(request.Level)); err != nil {
		return api.LogLevel{}, api.NewProblem(api.CodeInvalid, "%v", err)
	}
	d.logLevel.mu.Lock()
	defer d.logLevel.mu.Unlock()
	before := d.options.LogLevel.Level()
	if d.logLevel.until.IsZero() {
		d.logLevel.then = before
	}
	d.logLevel.until = time.Time{}
	if request.For > 0 {
		d.logLevel.until = time.Now().Add(time.Duration(request.For)) // with its monotonic reading
	}
	d.options.LogLevel.Set(min(level, before)) // so that the line is written if it was before, or will be
	d.log.Info("log level changed", "level", request.Level, "for", time.Duration(request.For), "by", api.Author(ctx))
	d.options.LogLevel.Set(level)
	d.happened(api.Event{Kind: api.EventLevel, Text: fmt.Sprintf("%s was ordered by %s", request.Level, api.Author(ctx))})
	now := d.levelNow()
	now.Until = now.Until.Round(0)
	return now, nil
}

// syncLogLevel goes back to the level before when the time is over.
func (d *Daemon) syncLogLevel() {
	d.logLevel.mu.Lock()
	defer d.logLevel.mu.Unlock()
	if d.logLevel.until.IsZero() || time.Now().Before(d.logLevel.until) {
		return
	}
	d.logLevel.until = time.Time{}
	d.log.Info("log level changed", "level", levelText(d.logLevel.then), "why", "the time that it was ordered for is over")
	d.options.LogLevel.Set(d.logLevel.then)
	d.happened(api.Event{Kind: api.EventLevel, Text: levelText(d.logLevel.then) + ", the time of another one is over"})
}
