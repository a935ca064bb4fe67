package journal

import (
	"io"
	"log/slog"
)

// Journal is a log.
type Journal struct {
	Level slog.LevelVar // from which on lines are written

	limiter *limiter
}

// New writes to w: text for a terminal, else JSON, a line each.
func New(w io.Writer, terminal bool) *Journal {
	j := &Journal{}
	options := &slog.HandlerOptions{Level: &j.Level, ReplaceAttr: readable}
	var lines slog.Handler = slog.NewJSONHandler(w, options)
	if terminal {
		lines = slog.NewTextHandler(w, options)
	}
	j.limiter = newLimiter(lines)
	return j
}

// readable has durations written as 1m30s, not as nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Logger writes to the journal.
func (j *Journal) Logger() *slog.Logger { return slog.New(j.limiter) }

// Close tells what is still held back. What comes later is written as it comes.
func (j *Journal) Close() { j.limiter.close() }
