package journal

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

const (
	window  = time.Minute // from the first of lines that are the same
	burst   = 5           // so many of them are written; how many more came is told when the window ends
	seenMax = 1000        // different lines that are remembered; beyond, lines are written as they come
)

// limiter passes lines on, but of those that differ in nothing but their time only the first few.
type limiter struct {
	next   slog.Handler
	prefix string // what WithAttrs and WithGroup added, as a part of what makes lines the same
	*memory
}

// memory is what a limiter and those derived from it have seen.
type memory struct {
	seed maphash.Seed

	mu     sync.Mutex
	lines  map[uint64]*line
	closed bool
}

// line is one that came, perhaps many times.
type line struct {
	until time.Time
	times int
	held  int
	last  slog.Record // the last one held back
	to    slog.Handler
	timer *time.Timer // tells of those held; nil: none are
}

func newLimiter(next slog.Handler) *limiter {
	return &limiter{next: next, memory: &memory{seed: maphash.MakeSeed(), lines: map[uint64]*line{}}}
}

func (l *limiter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

func (l *limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	prefix := l.prefix
	for _, a := range attrs {
		prefix += a.String() + "\x00"
	}
	return &limiter{l.next.WithAttrs(attrs), prefix, l.memory}
}

func (l *limiter) WithGroup(name string) slog.Handler {
	return &limiter{l.next.WithGroup(name), l.prefix + name + "\x00", l.memory}
}

func (l *limiter) Handle(ctx context.Context, record slog.Record) error {
	if l.hold(l.key(record), record) {
		return nil
	}
	return l.next.Handle(ctx, record)
}

// key is the same for lines that say the same.
func (l *limiter) key(record slog.Record) uint64 {
	var hash maphash.Hash
	hash.SetSeed(l.seed)
	hash.WriteString(record.Level.String() + "\x00" + l.prefix + record.Message)
	record.Attrs(func(a slog.Attr) bool {
		hash.WriteString("\x00" + a.String())
		return true
	})
	return hash.Sum64()
}

// hold keeps a line back if it has been written often enough.
func (l *limiter) hold(key uint64, record slog.Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	now := time.Now()
	seen := l.lines[key]
	if seen == nil || seen.timer == nil && !now.Before(seen.until) {
		l.forget(now)
		if len(l.lines) < seenMax {
			l.lines[key] = &line{until: now.Add(window), times: 1, to: l.next}
		}
		return false
	}
	if seen.times < burst {
		seen.times++
		return false
	}
	seen.held++
	seen.last = record.Clone()
	if seen.timer == nil {
		seen.timer = time.AfterFunc(seen.until.Sub(now), func() { l.tell(key) })
	}
	return true
}

// forget makes room, when there is little, by what has been quiet.
func (m *memory) forget(now time.Time) {
	if len(m.lines) < seenMax {
		return
	}
	for key, seen := range m.lines {
		if seen.timer == nil && !now.Before(seen.until) {
			delete(m.lines, key)
		}
	}
}

// tell writes how many more of a line came.
func (m *memory) tell(key uint64) {
	m.mu.Lock()
	seen := m.lines[key]
	delete(m.lines, key)
	m.mu.Unlock()
	if seen != nil {
		seen.write()
	}
}

// write writes the last of those held back, with their number.
func (s *line) write() {
	if s.held == 0 || !s.to.Enabled(context.Background(), s.last.Level) {
		return
	}
	s.last.AddAttrs(slog.Int("repeated", s.held))
	s.to.Handle(context.Background(), s.last) // there is nobody to tell
}

func (m *memory) close() {
	m.mu.Lock()
	lines := m.lines
	m.lines, m.closed = nil, true
	m.mu.Unlock()
	for _, seen := range lines {
		if seen.timer != nil {
			seen.timer.Stop()
		}
		seen.write()
	}
}
