package history

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"golang.org/x/sys/unix"

	"gardu/ctl/flow"
)

func openHistory(t *testing.T, o Options) *History {
	t.Helper()
	h := New(o, time.Now, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Close() })
	return h
}

// exact checks that nothing that was reported is missing in the account.
func exact(t *testing.T, h *History, reported Counts) Status {
	t.Helper()
	s := h.Status()
	if s.Reported != reported || s.Written.Plus(s.Pending).Plus(s.Lost) != reported {
		t.Errorf("%+v, reported was %+v", s, reported)
	}
	return s
}

func TestHistory(t *testing.T) {
	o := options(t)
	h := openHistory(t, o)
	site := newSite(20)
	var reported Counts
	consume := func() {
		reports := site.reports(500, time.Now(), 2*time.Minute)
		h.Consume(reports, names{})
		reported = reported.Plus(sumOf(reports))
	}
	consume()
	if s := exact(t, h, reported); s.Pending != reported {
		t.Errorf("%+v", s)
	}
	if err := h.Write(); err != nil {
		t.Fatal(err)
	}
	if s := exact(t, h, reported); s.Written != reported || s.Path == "" || s.Size == 0 || s.MaxSize != o.MaxSize || s.Err != nil {
		t.Errorf("%+v", s)
	}
	consume()
	answer, err := h.Query(context.Background(), Query{time.Now().Add(-time.Hour), time.Now().Add(time.Minute), nil, nil})
	if err != nil || len(answer.Rows) != 1 || answer.Rows[0].Counts != reported {
		t.Errorf("%+v, %v; reported was %+v", answer, err, reported)
	}
	old := ended(time.Now().AddDate(-1, 0, 0), time.Now().AddDate(-1, 0, 0), 9)
	h.Consume([]flow.Report{old}, names{})
	reported = reported.Plus(countsOf(&old))
	h.Write()
	if s := exact(t, h, reported); s.Lost.Packets != 9 {
		t.Errorf("%+v", s)
	}
	consume()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, o, time.Now())
	reported.Flows, reported.Packets, reported.Bytes = reported.Flows-1, reported.Packets-9, reported.Bytes-900
	holds(t, s, reported)
}

// While the disk is full nothing is lost but what memory has no room for, and it is told; then it is written.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	o := options(t)
	if err := unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(o.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h := openHistory(t, o)
	site := newSite(21)
	var reported Counts
	consume := func() {
		reports := site.reports(2000, time.Now(), 5*time.Minute)
		h.Consume(reports, names{})
		reported = reported.Plus(sumOf(reports))
	}
	consume()
	if err := h.Write(); err != nil {
		t.Fatal(err)
	}
	written := reported
	filler := filepath.Join(o.Dir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, pageSize))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	file.Close()
	for range 3 {
		consume()
		if err := h.Write(); !errors.Is(err, sqlite3.FULL) && !errors.Is(err, sqlite3.IOERR) {
			t.Fatalf("written: %v", err)
		}
	}
	s := exact(t, h, reported)
	if s.Err == nil || s.Problem != nil || s.Written.Packets < written.Packets || s.Lost != (Counts{}) || s.Pending == (Counts{}) {
		t.Errorf("%+v", s)
	}
	if answer, err := h.Query(context.Background(), Query{time.Now().Add(-time.Hour), time.Now(), nil, nil}); err != nil || len(answer.Rows) != 1 {
		t.Errorf("%+v, %v", answer, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(); err != nil {
		t.Fatal(err)
	}
	if s := exact(t, h, reported); s.Err != nil || s.Written != reported {
		t.Errorf("%+v", s)
	}
	h.Close()
	holds(t, openStore(t, o, time.Now()), reported)
}

// A file that is damaged under our feet is set aside, whoever finds it.
func TestDamagedWhileOpen(t *testing.T) {
	o := options(t)
	h := openHistory(t, o)
	reports := newSite(22).reports(3000, time.Now(), 10*time.Minute)
	h.Consume(reports, names{})
	if err := h.Write(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fileName, fileName + walSuffix} {
		path = filepath.Join(o.Dir, path)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, info.Size()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the first finds it
		h.Query(context.Background(), Query{time.Now().Add(-time.Hour), time.Now(), nil, by(t, "src,dst")})
	}
	s := h.Status()
	if s.Err != nil || s.Problem == nil || !strings.Contains(s.Problem.Error(), setAside) {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, setAside)); err != nil {
		t.Error(err)
	}
	h.Consume(reports, names{})
	if err := h.Write(); err != nil {
		t.Error(err)
	}
}

// A directory that can't be made is told, and tried again.
func TestUnavailable(t *testing.T) {
	o := options(t)
	place := filepath.Join(o.Dir, "place")
	if err := os.WriteFile(place, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.Dir = filepath.Join(place, "history")
	h := openHistory(t, o)
	report := ended(time.Now(), time.Now(), 3)
	h.Consume([]flow.Report{report}, names{})
	if _, err := h.Query(context.Background(), Query{Since: noon, Until: noon}); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if s := exact(t, h, countsOf(&report)); s.Err == nil || s.Pending.Packets != 3 {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(); err != nil {
		t.Fatal(err)
	}
	if s := exact(t, h, countsOf(&report)); s.Err != nil || s.Written.Packets != 3 {
		t.Errorf("%+v", s)
	}
}

// Everything may happen at once.
func TestAtOnce(t *testing.T) {
	h := openHistory(t, options(t))
	reports := newSite(23).reports(200, time.Now(), time.Minute)
	var all sync.WaitGroup
	const rounds = 10
	for range 2 {
		all.Go(func() {
			for range rounds {
				h.Consume(reports, names{})
			}
		})
		all.Go(func() {
			for range rounds {
				if _, err := h.Query(context.Background(), Query{time.Now().Add(-time.Hour), time.Now(), nil, by(t, "src")}); err != nil {
					t.Error(err)
				}
				h.Status()
			}
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	all.Wait()
	stop()
	running.Wait()
	var want Counts
	for range 2 * rounds {
		want = want.Plus(sumOf(reports))
	}
	if s := exact(t, h, want); s.Written != want {
		t.Errorf("%+v", s)
	}
}
