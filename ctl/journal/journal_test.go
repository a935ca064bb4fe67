package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// page is written by timers, too.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

// take returns the lines that were written since the last call.
func (p *page) take(t *testing.T) (lines []map[string]any) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for text := range strings.Lines(p.text.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, line)
	}
	p.text.Reset()
	return lines
}

func TestRepeatedLinesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out page
		j := New(&out, false)
		log := j.Logger()
		refused := errors.New("connection refused")
		for range 100 {
			log.Warn("not sent", "to", "192.0.2.5", "error", refused)
			time.Sleep(100 * time.Millisecond)
		}
		if lines := out.take(t); len(lines) != burst || lines[0]["error"] != "connection refused" {
			t.Errorf("of 100 lines these were written: %v", lines)
		}
		log.Warn("not sent", "to", "192.0.2.6", "error", refused) // says something else
		log.Error("not sent", "to", "192.0.2.5", "error", refused)
		if lines := out.take(t); len(lines) != 2 {
			t.Errorf("other lines: %v", lines)
		}
		before := time.Now()
		time.Sleep(window)
		synctest.Wait()
		lines := out.take(t)
		if len(lines) != 1 || lines[0]["repeated"] != 95.0 || lines[0]["msg"] != "not sent" || lines[0]["to"] != "192.0.2.5" {
			t.Fatalf("at the end of the minute: %v", lines)
		}
		if at, err := time.Parse(time.RFC3339Nano, lines[0]["time"].(string)); err != nil || at.After(before) {
			t.Errorf("it isn't of the time of the last: %v, %v", at, err)
		}
		log.Warn("not sent", "to", "192.0.2.5", "error", refused) // a window of its own
		if lines := out.take(t); len(lines) != 1 || lines[0]["repeated"] != nil {
			t.Errorf("afterwards: %v", lines)
		}
	})
}

// What is held back when the daemon ends is told, and timers don't outlive it.
func TestCloseTellsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out page
		j := New(&out, false)
		log := j.Logger().With("part", "exports").WithGroup("flow")
		for range burst + 2 {
			log.Info("lost", "n", 1)
		}
		j.Logger().Info("lost", "n", 1) // of no part
		out.take(t)
		j.Close()
		lines := out.take(t)
		if len(lines) != 1 || lines[0]["part"] != "exports" || fmt.Sprint(lines[0]["flow"]) != "map[n:1 repeated:2]" {
			t.Errorf("%v", lines)
		}
		for range 2 * burst {
			log.Info("lost", "n", 1)
		}
		if lines := out.take(t); len(lines) != 2*burst {
			t.Errorf("after the end %d lines were written", len(lines))
		}
		time.Sleep(2 * window)
		synctest.Wait()
		if lines := out.take(t); len(lines) != 0 {
			t.Errorf("told later: %v", lines)
		}
	})
}

// Many different lines are all written, and don't fill memory.
func TestManyDifferentLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out page
		j := New(&out, false)
		for i := range 3 * seenMax {
			j.Logger().Info("next hop changed", "backend", i)
		}
		if lines := out.take(t); len(lines) != 3*seenMax || len(j.limiter.lines) != seenMax {
			t.Errorf("%d lines were written, %d are remembered", len(lines), len(j.limiter.lines))
		}
		time.Sleep(window)
		j.Logger().Info("attached")
		if n := len(j.limiter.lines); n != 1 {
			t.Errorf("%d lines are remembered after they were quiet", n)
		}
	})
}

func TestLevelChanges(t *testing.T) {
	var out page
	j := New(&out, false)
	log := j.Logger()
	log.Debug("looked")
	j.Level.Set(slog.LevelDebug)
	log.Debug("looked", "took", 90*time.Second)
	j.Level.Set(slog.LevelError)
	log.Warn("late")
	if lines := out.take(t); len(lines) != 1 || lines[0]["level"] != "DEBUG" || lines[0]["took"] != "1m30s" {
		t.Errorf("%v", lines)
	}
}

func TestTerminal(t *testing.T) {
	var out page
	New(&out, true).Logger().Info("serving", "revision", 1)
	if text := out.text.String(); !strings.Contains(text, "level=INFO msg=serving revision=1\n") {
		t.Errorf("%q", text)
	}
}
