package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/journal"
)

// A level holds for the time that was asked for, then the one before comes back; each change is a line and an event.
func TestLogLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		j := journal.New(&out, true)
		d := newDaemon(Options{StateDir: t.TempDir(), Log: j.Logger(), LogLevel: &j.Level})
		is := func(want api.LogLevel) {
			t.Helper()
			d.syncLogLevel()
			if got, err := d.LogLevel(t.Context()); err != nil || got.Level != want.Level || got.Then != want.Then || got.Until.IsZero() != want.Until.IsZero() {
				t.Errorf("%+v, %v, not %+v", got, err, want)
			}
		}
		set := func(level string, lasts time.Duration) {
			t.Helper()
			if _, err := d.SetLogLevel(t.Context(), api.LogLevelRequest{Level: level, For: api.Duration(lasts)}); err != nil {
				t.Error(err)
			}
		}
		is(api.LogLevel{Level: "info"})
		set("debug", time.Hour)
		is(api.LogLevel{Level: "debug", Until: time.Now(), Then: "info"})
		set("error", time.Minute)
		is(api.LogLevel{Level: "error", Until: time.Now(), Then: "info"})
		d.log.Warn("unseen")
		time.Sleep(2 * time.Minute)
		is(api.LogLevel{Level: "info"})
		set("warn", 0)
		time.Sleep(24 * time.Hour)
		is(api.LogLevel{Level: "warn"})
		set("debug", 0)
		if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 4 || strings.Contains(out.String(), "unseen") {
			t.Errorf("written: %s", out.String()) // going back from error to info is not
		}
		events := 0
		for _, h := range d.happenings.Last(-1) {
			if h.Kind == api.EventLevel {
				events++
			}
		}
		if events != 5 {
			t.Errorf("%d events", events)
		}
	})
}

// A log that isn't ours is left alone.
func TestLogLevelOfOthers(t *testing.T) {
	d := newDaemon(Options{StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if _, err := d.SetLogLevel(t.Context(), api.LogLevelRequest{Level: "debug"}); err == nil {
		t.Error("changed")
	}
	d.syncLogLevel()
}
