package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"gardu/ctl/api"
)

// session is a TCP connection from the client to the box, of which each line comes back.
func (w *world) session() (say func(line string), hear func(line string)) {
	w.Helper()
	listener, err := w.box.Listen("tcp", "198.51.100.1:2222")
	w.must(err)
	w.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	conn, err := w.client.Dial(ctx, "tcp", "198.51.100.1:2222")
	w.must(err)
	w.Cleanup(func() { conn.Close() })
	lines := bufio.NewReader(conn)
	say = func(line string) {
		w.Helper()
		_, err := fmt.Fprintln(conn, line)
		w.must(err)
	}
	hear = func(line string) {
		w.Helper()
		w.must(conn.SetReadDeadline(time.Now().Add(patience)))
		got, err := lines.ReadString('\n')
		if err != nil || got != line+"\n" {
			w.Fatalf("the session hears %q instead of %q: %v", got, line, err)
		}
	}
	return say, hear
}

// Somebody shuts themselves out, and the daemon is killed at whatever step of that or of going back: the same session goes on, and what
// was before is in force.
func TestSessionOutlivesTheDaemon(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	say, hear := w.session()
	say("hello")
	hear("hello")
	dies := func() {
		t.Helper()
		select {
		case <-w.process.Done():
		case <-time.After(patience):
			t.Fatal("the daemon doesn't die")
		}
	}
	kill := func() { w.process.Kill() }
	// What is in the file die kills the daemon at that step.
	whileApplying := func(step string) func() {
		return func() {
			w.write("die", step)
			if _, err := w.try(closed, 2*time.Second); err == nil {
				t.Fatal("apply was answered")
			}
			dies()
		}
	}
	whileReturning := func(step string) func() {
		return func() {
			w.mustTry(closed, time.Second)
			w.write("die", step)
			dies()
		}
	}
	for _, c := range []struct {
		when    string
		happens func()
	}{
		{"killed before the commit", whileApplying("promised")},
		{"killed after the commit", whileApplying("in force")},
		{"killed once it was saved", whileApplying("saved")},
		{"killed while it waits", func() { w.mustTry(closed, 2*time.Second); kill() }},
		{"killed before the commit of going back", whileReturning("promised")},
		{"killed after the commit of going back", whileReturning("in force")},
		{"killed once going back was saved", whileReturning("saved")},
		{"killed after it went back", func() {
			waits := w.mustTry(closed, time.Second).Waiting
			w.until("it goes back", func() error { return w.isBack(waits.Revision + 1) })
			kill()
		}},
		{"the client went away", func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			before := w.status().Revision
			_, err := w.api.Apply(ctx, api.ApplyRequest{Name: "try.yaml", Dir: w.dir, YAML: closed, Confirm: api.Duration(time.Second)})
			if err == nil {
				t.Log("apply was answered at once")
			}
			w.until("it was taken, and is back", func() error { return w.isBack(before + 2) })
		}},
	} {
		c.happens()
		say(c.when)
		select {
		case <-w.process.Done():
			w.start()
		default:
		}
		hear(c.when)
		w.until(c.when+": it is back", func() error { return w.isBack(w.status().Revision) })
		_, err := w.api.Confirm(t.Context(), api.ConfirmRequest{})
		w.wantProblem(err, api.CodeConflict, "too late")
	}
}

// isBack says whether a revision is in force that holds what was at the beginning, and nothing waits.
func (w *world) isBack(revision uint64) error {
	w.Helper()
	status := w.status()
	r, err := w.api.Revision(w.Context(), status.Revision)
	if err == nil && (status.Waiting != nil || status.Revision != revision || r.YAML != base) {
		err = fmt.Errorf("revision %d, waiting %+v:\n%s", status.Revision, status.Waiting, r.YAML)
	}
	return err
}
