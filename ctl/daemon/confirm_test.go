package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
)

// What passes and what doesn't: base lets all of it through, closed nothing from the client.
const (
	closed    = base + "filter: {rules: [{name: all, match: {src: 198.51.100.0/24}, action: drop}]}\n"
	closedToo = base + "filter: {rules: [{name: too, match: {src: 198.51.100.0/24}, action: drop}]}\n"
)

func (w *world) try(yaml string, confirm time.Duration) (api.ApplyResult, error) {
	return w.api.Apply(w.Context(), api.ApplyRequest{Name: "try.yaml", Dir: w.dir, YAML: yaml, Confirm: api.Duration(confirm), Comment: "try"})
}

func (w *world) mustTry(yaml string, confirm time.Duration) api.ApplyResult {
	w.Helper()
	result, err := w.try(yaml, confirm)
	w.must(err)
	return result
}

func (w *world) wantPassing(want bool, when string) {
	w.Helper()
	if w.passes() != want {
		w.Errorf("%s: packets pass: %t", when, !want)
	}
}

func (w *world) wantProblem(err error, code api.Code, text string) {
	w.Helper()
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != code || !strings.Contains(problem.Detail, text) {
		w.Errorf("error %v, want %s: %s", err, code, text)
	}
}

// returns waits until a revision is in force and nothing waits.
func (w *world) returns(revision uint64) {
	w.Helper()
	w.until("it goes back", func() error {
		status, err := w.api.Status(w.Context())
		if err == nil && (status.Waiting != nil || status.Revision != revision) {
			err = fmt.Errorf("revision %d, waiting %+v", status.Revision, status.Waiting)
		}
		return err
	})
}

// revisionList is the history, the newest first: number, how, of, state.
func (w *world) revisionList() string {
	w.Helper()
	list, err := w.api.Revisions(w.Context())
	w.must(err)
	var words []string
	for _, r := range list {
		words = append(words, strings.ReplaceAll(fmt.Sprintf("%d:%s:%d:%s", r.Revision, r.How, r.Of, r.State), " ", "-"))
	}
	return strings.Join(words, " ")
}

func TestConfirm(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	_, err := w.api.Confirm(t.Context(), api.ConfirmRequest{})
	w.wantProblem(err, api.CodeConflict, "nothing waits for confirmation: revision 1 is in force and stays")

	result := w.mustTry(closed, time.Hour)
	if v := result.Waiting; v == nil || v.Revision != 2 || v.Back != 1 || time.Duration(v.Left) < 59*time.Minute {
		t.Errorf("waiting: %+v", v)
	}
	w.wantPassing(false, "applied")
	_, err = w.try(base, 0)
	w.wantProblem(err, api.CodeConflict, "revision 2 waits for confirmation until")
	_, err = w.api.Rollback(t.Context(), api.RollbackRequest{Revision: 7})
	w.wantProblem(err, api.CodeConflict, "revision 2 waits for confirmation")
	w.must(w.process.Signal(syscall.SIGHUP))
	w.until("SIGHUP is refused", func() error {
		if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "reload: revision 2 waits for confirmation") {
			return fmt.Errorf("warnings: %s", text)
		}
		return nil
	})
	_, err = w.api.Confirm(t.Context(), api.ConfirmRequest{Revision: 1})
	w.wantProblem(err, api.CodeConflict, "revision 2 waits for confirmation, not 1")
	confirmed, err := w.api.Confirm(t.Context(), api.ConfirmRequest{Revision: 2})
	w.must(err)
	if confirmed.Revision != 2 || w.status().Waiting != nil {
		t.Errorf("confirmed %+v, waiting %+v", confirmed, w.status().Waiting)
	}
	if _, err := os.Stat(w.path("state/" + beforeFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", beforeFile, err)
	}
	if got, want := w.revisionList(), "2:apply:0:in-force 1:start:0:past"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
	list, err := w.api.Revisions(t.Context())
	w.must(err)
	if list[0].Author != "root" || list[0].Comment != "try" || list[0].Config != "try.yaml" || list[0].Time.IsZero() {
		t.Errorf("revision %+v", list[0])
	}
	if r, err := w.api.Revision(t.Context(), 2); err != nil || r.YAML != closed || r.State != api.RevisionInForce {
		t.Errorf("revision %+v, %v", r, err)
	}
}

// Nobody confirms. What was tried in between goes too, and the last one that was confirmed comes back, with its sets as they
// were although their file has gone.
func TestNotConfirmed(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "203.0.113.0/24\n")
	w.start()
	w.mustTry(closed, time.Hour)
	w.must(os.Remove(w.path("bad.set")))
	if result := w.mustTry(closedToo, time.Second); result.Waiting == nil || result.Waiting.Back != 1 || result.Revision != 3 {
		t.Errorf("%+v, waiting %+v", result, result.Waiting)
	}
	w.wantPassing(false, "applied")
	w.returns(4)
	w.wantPassing(true, "after it went back")
	sets, err := w.api.Sets(t.Context())
	w.must(err)
	if len(sets) != 1 || sets[0].Kernel != 1 {
		t.Errorf("sets %+v", sets)
	}
	_, err = w.api.Confirm(t.Context(), api.ConfirmRequest{})
	w.wantProblem(err, api.CodeConflict, "too late: revision 3 was not confirmed in time; since ")
	w.wantProblem(err, api.CodeConflict, "what revision 1 held is in force, as revision 4")
	if got, want := w.revisionList(), "4:return:1:in-force 3:apply:0:past 2:apply:0:past 1:start:0:past"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
	if r, err := w.api.Revision(t.Context(), 4); err != nil || r.YAML != dropping || r.Comment != "revision 3 was not confirmed in time" {
		t.Errorf("revision %+v, %v", r, err)
	}
	// One that is the same as what is in force needs no confirmation.
	w.write("bad.set", "203.0.113.0/24\n")
	if result := w.mustTry(dropping, time.Second); result.Waiting != nil || result.Revision != 4 {
		t.Errorf("%+v", result)
	}
}

// However the daemon ends, what was not confirmed goes.
func TestKilledWhileWaiting(t *testing.T) {
	for _, tc := range []struct {
		name   string
		die    string // at this step of apply; "": while waiting
		late   bool   // the next one comes after the deadline
		atOnce bool   // and finds what was before
	}{
		{"about to be in force", "promised", false, true},
		{"in force, and not noted", "in force", false, true},
		{"in force, and not told", "saved", false, false},
		{"while waiting", "", false, false},
		{"too late while dead", "", true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.write("gardu.yaml", base)
			w.start()
			confirm := time.Hour
			if tc.late {
				confirm = time.Second
			}
			if tc.die != "" {
				w.write("die", tc.die)
				if _, err := w.try(closed, confirm); err == nil {
					t.Fatal("apply was answered")
				}
				<-w.process.Done()
			} else {
				w.mustTry(closed, confirm)
				w.process.Kill()
			}
			if passes := w.passes(); passes != (tc.die == "promised") {
				t.Errorf("without a daemon packets pass: %t", passes)
			}
			if tc.late {
				w.deadlinePasses()
			}
			w.start()
			status := w.status()
			if (status.Waiting == nil) != tc.atOnce {
				t.Errorf("waiting %+v", status.Waiting)
			}
			w.wantPassing(tc.atOnce, "with the next daemon")
			if !tc.atOnce {
				w.process.Kill()
				w.moveDeadline(time.Second)
				w.start()
				w.returns(3)
				w.wantPassing(true, "after it went back")
			}
			_, err := w.api.Confirm(t.Context(), api.ConfirmRequest{})
			w.wantProblem(err, api.CodeConflict, "too late")
		})
	}
}

// moveDeadline has the state file say that it is so far away.
func (w *world) moveDeadline(left time.Duration) {
	w.Helper()
	saved, err := loadState(w.options.StateDir)
	w.must(err)
	saved.Waiting.deadline = readClocks().after(left)
	w.must(saved.save(w.options.StateDir))
}

// deadlinePasses waits until what the state file says to be the deadline is over.
func (w *world) deadlinePasses() {
	w.Helper()
	saved, err := loadState(w.options.StateDir)
	w.must(err)
	if saved.Waiting == nil {
		w.Fatal("nothing waits in the state file")
	}
	time.Sleep(saved.Waiting.left(readClocks()) + time.Millisecond)
}

// A new daemon takes the confirmation too.
func TestConfirmedAfterKill(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	w.mustTry(closed, time.Hour)
	w.process.Kill()
	w.start()
	if v := w.status().Waiting; v == nil || v.Revision != 2 || v.Author != "root" || time.Duration(v.Left) > time.Hour {
		t.Errorf("waiting %+v", v)
	}
	_, err := w.api.Confirm(t.Context(), api.ConfirmRequest{})
	w.must(err)
	w.wantPassing(false, "confirmed")
	// What is applied lasts until the next start: then the file counts.
	w.process.Kill()
	w.start()
	w.wantPassing(true, "by the daemon's own file")
	if got, want := w.revisionList(), "3:start:0:in-force 2:apply:0:past 1:start:0:past"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
}

// The file of the daemon itself was edited and tried out. It isn't taken by the next start just because it is still there.
func TestFileThatWasNotConfirmed(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	w.write("gardu.yaml", closed)
	w.mustTry(closed, time.Second)
	w.returns(3)
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	w.start()
	w.wantPassing(true, "after a start")
	status := w.status()
	if text := strings.Join(status.Warnings, "\n"); status.Revision != 3 || !strings.Contains(text, "still holds revision 2, which was not confirmed: revision 3 is in force instead") {
		t.Errorf("revision %d, warnings: %s", status.Revision, text)
	}
	w.must(w.process.Signal(syscall.SIGHUP)) // somebody wants it
	w.until("the file is in force", func() error {
		if status := w.status(); status.Revision != 4 || len(status.Warnings) > 0 {
			return fmt.Errorf("revision %d, %v", status.Revision, status.Warnings)
		}
		return nil
	})
	w.process.Kill()
	w.start()
	w.wantPassing(false, "by the file")
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "203.0.113.0/24\n")
	w.start()
	_, err := w.api.Rollback(t.Context(), api.RollbackRequest{})
	w.wantProblem(err, api.CodeNotFound, "no revision before 1 is kept")
	w.mustTry(closed, 0)
	_, err = w.api.Rollback(t.Context(), api.RollbackRequest{Revision: 9})
	w.wantProblem(err, api.CodeNotFound, "there is no revision 9; 1 to 2 are kept")

	// Set files are read anew: without one, nothing changes.
	w.must(os.Rename(w.path("bad.set"), w.path("away.set")))
	_, err = w.api.Rollback(t.Context(), api.RollbackRequest{Revision: 1})
	if err == nil || !strings.Contains(fmt.Sprint(errors.Unwrap(err)), w.path("bad.set")) {
		t.Errorf("rollback without the set's file: %v, %v", err, errors.Unwrap(err))
	}
	w.wantPassing(false, "not rolled back")
	w.write("bad.set", "203.0.113.0/24\n198.51.100.0/30\n")
	result, err := w.api.Rollback(t.Context(), api.RollbackRequest{Comment: "no good"})
	w.must(err)
	if result.Revision != 3 || !result.Changed || result.Sets != 1 {
		t.Errorf("%+v", result)
	}
	w.wantPassing(true, "rolled back")
	sets, err := w.api.Sets(t.Context())
	w.must(err)
	if len(sets) != 1 || sets[0].Kernel != 2 {
		t.Errorf("sets %+v", sets)
	}
	// Twice is back again; and while something waits, to what was before it.
	result, err = w.api.Rollback(t.Context(), api.RollbackRequest{Confirm: api.Duration(time.Hour)})
	w.must(err)
	if result.Revision != 4 || result.Waiting == nil || result.Waiting.Back != 3 {
		t.Errorf("%+v, waiting %+v", result, result.Waiting)
	}
	w.wantPassing(false, "rolled back twice")
	result, err = w.api.Rollback(t.Context(), api.RollbackRequest{})
	w.must(err)
	if result.Revision != 5 {
		t.Errorf("%+v", result)
	}
	w.wantPassing(true, "taken back")
	_, err = w.api.Confirm(t.Context(), api.ConfirmRequest{})
	w.wantProblem(err, api.CodeConflict, "revision 4 was taken back at ")
	if got, want := w.revisionList(), "5:rollback:3:in-force 4:rollback:2:past 3:rollback:1:past 2:apply:0:past 1:start:0:past"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
	// A damaged one is told of, and is nothing to go back to.
	w.must(os.Truncate(w.path("state/revisions/2.json.gz"), 40))
	if got := w.revisionList(); !strings.Contains(got, "2::0:damaged") {
		t.Errorf("history %s", got)
	}
	_, err = w.api.Rollback(t.Context(), api.RollbackRequest{Revision: 2})
	w.wantProblem(err, api.CodeConflict, "revisions/2.json.gz is damaged: it ends too early")
	w.wantPassing(true, "not rolled back to a damaged one")
}

// Whatever can't be written, nothing is half applied.
func TestStateDirectoryIsFull(t *testing.T) {
	w := newWorld(t)
	fill, room := w.smallState()
	w.write("gardu.yaml", base)
	w.start()
	refused := func(when string) {
		t.Helper()
		for _, confirm := range []time.Duration{0, time.Hour} {
			if _, err := w.try(closed, confirm); err == nil || strings.Contains(err.Error(), "conf") && confirm == 0 {
				t.Errorf("%s, confirm %s: %v", when, confirm, err)
			}
			if status := w.status(); status.Revision != 1 || status.Waiting != nil || len(status.Warnings) != 0 {
				t.Errorf("%s: %+v", when, status)
			}
			w.wantPassing(true, when)
		}
		if got, want := w.revisionList(), "1:start:0:in-force"; got != want {
			t.Errorf("%s: history %s, want %s", when, got, want)
		}
	}
	fill()
	refused("full")
	room()
	if err := syscall.Mount("", w.options.StateDir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refused("read-only")
	w.must(syscall.Mount("", w.options.StateDir, "", syscall.MS_REMOUNT, "size=256k"))

	// A confirmation that can't be kept is none.
	w.mustTry(closed, time.Hour)
	fill()
	if _, err := w.api.Confirm(t.Context(), api.ConfirmRequest{}); err == nil || !strings.Contains(err.Error(), "revision 2 is not confirmed, and still goes at") {
		t.Errorf("confirm: %v", err)
	}
	if w.status().Waiting == nil {
		t.Error("it doesn't wait any more")
	}
	if _, err := w.api.Rollback(t.Context(), api.RollbackRequest{}); err == nil || w.status().Waiting == nil {
		t.Errorf("rolled back without room: %v", err)
	}
	w.wantPassing(false, "not rolled back")

	// Nor can it go back while there is no room; it is tried until it can.
	room()
	w.mustTry(closedToo, 2*time.Second)
	fill()
	w.until("going back is tried and told", func() error {
		status := w.status()
		if text := strings.Join(status.Warnings, "\n"); status.Waiting != nil && !strings.Contains(text, "go back from revision 3, which was not confirmed: ") {
			return fmt.Errorf("warnings: %s", text)
		}
		return nil
	})
	room()
	w.returns(4)
	w.wantPassing(true, "with room again")
}

// The author is who connected, not who they say they are.
func TestAuthor(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	w.must(os.Chmod(w.dir, 0o755))
	w.must(os.Chmod(w.options.Socket, 0o666))
	body, err := json.Marshal(api.ApplyRequest{Name: "try.yaml", YAML: closed})
	w.must(err)
	cmd := exec.Command("curl", "-sS", "--fail", "--unix-socket", w.options.Socket, "-X", "PUT", "--data-binary", "@-", "http://gardu/v1/snapshot")
	cmd.Stdin = strings.NewReader(string(body))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r, err := w.api.Revision(t.Context(), 2)
	w.must(err)
	if r.Author != "nobody" {
		t.Errorf("author %q", r.Author)
	}
}
