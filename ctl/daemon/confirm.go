package daemon

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/model"
)

// waiting is a snapshot that goes unless it is confirmed in time. It is in the state file, so that it also goes when the
// daemon is killed and another one comes.
type waiting struct {
	Revision uint64 `json:"revision"`
	Back     uint64 `json:"back"` // whose snapshot comes back
	Digest   string `json:"digest"`
	Author   string `json:"author"`
	InForce  bool   `json:"in_force"` // false: it was about to come into force; nobody was told that it had
	deadline
}

// deadline is a moment that neither a clock that is set nor a restart moves: the clock since boot tells it as long as the
// machine runs, the time of day after it booted again.
type deadline struct {
	Wall time.Time     `json:"wall"`
	Boot time.Duration `json:"boot"` // since the boot of that id
	ID   string        `json:"boot_id"`
	For  time.Duration `json:"for"` // how long it was to be
}

// clocks are what a deadline is measured by.
type clocks struct {
	wall time.Time
	boot time.Duration
	id   string
}

func readClocks() clocks {
	c := clocks{wall: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		c.boot = time.Duration(ts.Nano())
	}
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it, the time of day has to do
	c.id = strings.TrimSpace(string(id))
	return c
}

func (c clocks) after(d time.Duration) deadline {
	return deadline{Wall: c.wall.Add(d), Boot: c.boot + d, ID: c.id, For: d}
}

// left is how much time there is, 0 or less when it is over.
func (d deadline) left(now clocks) time.Duration {
	if d.ID == now.id && d.ID != "" {
		return d.Boot - now.boot
	}
	return min(d.Wall.Sub(now.wall), d.For)
}

// undone is the last snapshot that was taken back while it waited.
type undone struct {
	Revision uint64    `json:"revision"` // 0: it never was in force
	Back     uint64    `json:"back"`
	As       uint64    `json:"as"` // the revision that came of it
	Digest   string    `json:"digest"`
	Time     time.Time `json:"time"`
	Late     bool      `json:"late"` // nobody confirmed it; else somebody took it back
}

// beforeFile is what comes back: whole, with what was in its set files, so that nothing outside the state directory is needed.
const beforeFile = "before.gob"

// before is a snapshot to go back to.
type before struct {
	Revision uint64
	Name     string
	Dir      string
	Text     []byte
	Digest   string
	Read     time.Time
	Snapshot *model.Snapshot
}

func (b *before) candidate() candidate {
	return candidate{snapshot: b.Snapshot, digest: b.Digest, name: b.Name, dir: b.Dir, text: b.Text, read: b.Read}
}

// beforeOf is what is in force. Its text is in the history; without it, it comes back all the same.
func (d *Daemon) beforeOf(now *applied) *before {
	b := &before{Revision: now.revision, Name: now.name, Dir: now.dir, Digest: now.digest, Read: now.read, Snapshot: now.snapshot}
	if r, err := d.revisions.get(now.revision); err == nil && r.Digest == now.digest {
		b.Text = []byte(r.YAML)
	}
	return b
}

func (b *before) save(dir string) error {
	var file bytes.Buffer
	err := gob.NewEncoder(&file).Encode(b)
	if err == nil {
		err = replaceFile(filepath.Join(dir, beforeFile), file.Bytes())
	}
	if err != nil {
		return fmt.Errorf("keep what is in force, to go back to it: %w", err)
	}
	return nil
}

// loadBefore reads what the daemon before would have gone back to.
func loadBefore(dir string) (*before, error) {
	file, err := os.Open(filepath.Join(dir, beforeFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b := &before{}
	if err := gob.NewDecoder(file).Decode(b); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", file.Name(), err)
	}
	if b.Snapshot == nil || digest(b.Snapshot) != b.Digest {
		return nil, fmt.Errorf("%s is damaged: it isn't what was written", file.Name())
	}
	return b, nil
}

// forgetBefore removes the file when it is of no more use.
func (d *Daemon) forgetBefore() {
	d.before = nil
	err := os.Remove(filepath.Join(d.options.StateDir, beforeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("file not removed", "error", err)
	}
}

// prepareReturn makes sure that there is a way back before a snapshot is tried out. When one is tried out already, the way
// back stays.
func (d *Daemon) prepareReturn() error {
	if d.saved.Waiting != nil {
		return nil
	}
	b := d.beforeOf(d.current.Load())
	if err := b.save(d.options.StateDir); err != nil {
		return err
	}
	d.before = b
	return nil
}

// setWaiting notes what waits, or with nil that nothing does, for who looks without the lock, and for the clock.
func (d *Daemon) setWaiting(w *waiting) {
	d.waiting.Store(w)
	select {
	case d.waits <- struct{}{}:
	default:
	}
}

// waitingStatus tells of what waits, nil when nothing does.
func (d *Daemon) waitingStatus() *api.Waiting {
	w := d.waiting.Load()
	if w == nil {
		return nil
	}
	left := max(0, w.left(readClocks()))
	return &api.Waiting{Revision: w.Revision, Back: w.Back, Author: w.Author, Until: w.Wall.Truncate(time.Second),
		Left: api.Duration(left.Round(time.Millisecond))}
}

// returnLook is how often the deadline is looked at anew, and how long to wait after going back failed.
const returnLook = time.Second

// watchWaiting goes back when what waits was not confirmed in time.
func (d *Daemon) watchWaiting(ctx context.Context) error {
	for {
		var due <-chan time.Time // never while nothing waits
		if w := d.waiting.Load(); w != nil {
			left := w.left(readClocks())
			if left <= 0 {
				if d.returnLate() {
					continue
				}
				left = returnLook
			}
			due = time.After(min(left, returnLook))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.waits:
		case <-due:
		}
	}
}

// returnLate goes back unless somebody else was faster, and says whether nothing is left to do.
func (d *Daemon) returnLate() bool {
	d.changing.Lock()
	defer d.changing.Unlock()
	w := d.saved.Waiting
	if w == nil || w.left(readClocks()) > 0 {
		return true
	}
	err := d.goBack(change{how: byReturn, comment: fmt.Sprintf("revision %d was not confirmed in time", w.Revision)})
	d.fault(fmt.Sprintf("go back from revision %d, which was not confirmed", w.Revision), err)
	return err == nil
}

// goBack puts in force what was before the snapshot that waits. changing is held.
func (d *Daemon) goBack(how change) error {
	w := d.saved.Waiting
	if d.before == nil {
		return fmt.Errorf("what revision %d held is lost", w.Back)
	}
	next := d.before.candidate()
	tables, err := d.compile(next)
	if err != nil {
		return err
	}
	how.of, how.ends = w.Back, true
	if err := d.commit(next, tables, how); err != nil {
		return err
	}
	d.log.Warn("went back", "why", how.comment, "from", w.Revision, "to the snapshot of", w.Back, "revision", d.saved.Revision)
	return nil
}

// Confirm keeps the snapshot that waits for it.
func (d *Daemon) Confirm(ctx context.Context, request api.ConfirmRequest) (api.ConfirmResult, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	w := d.saved.Waiting
	switch {
	case w == nil:
		return api.ConfirmResult{}, d.nothingWaits(request.Revision)
	case request.Revision != 0 && request.Revision != w.Revision:
		return api.ConfirmResult{}, api.NewProblem(api.CodeConflict, "revision %d waits for confirmation, not %d", w.Revision, request.Revision)
	case w.left(readClocks()) <= 0:
		return api.ConfirmResult{}, api.NewProblem(api.CodeConflict,
			"too late: the time to confirm revision %d was over at %s; what revision %d held comes back", w.Revision, timeText(w.Wall), w.Back)
	}
	saved := d.saved
	saved.Waiting = nil
	if saved.Undone != nil && saved.Undone.Digest == w.Digest {
		saved.Undone = nil
	}
	if err := saved.save(d.options.StateDir); err != nil {
		return api.ConfirmResult{}, fmt.Errorf("revision %d is not confirmed, and still goes at %s: %w", w.Revision, timeText(w.Wall), err)
	}
	d.saved = saved
	d.setWaiting(nil)
	d.forgetBefore()
	d.log.Info("confirmed", "revision", w.Revision, "by", api.Author(ctx))
	d.happened(api.Event{Kind: api.EventApply, Text: fmt.Sprintf("revision %d was confirmed", w.Revision)})
	return api.ConfirmResult{Revision: w.Revision}, nil
}

// nothingWaits says why there is nothing to confirm.
func (d *Daemon) nothingWaits(asked uint64) error {
	u := d.saved.Undone
	if u == nil || asked != 0 && asked != u.Revision || asked == 0 && u.As != d.saved.Revision {
		return api.NewProblem(api.CodeConflict, "nothing waits for confirmation: revision %d is in force and stays", d.saved.Revision)
	}
	if !u.Late {
		return api.NewProblem(api.CodeConflict, "revision %d was taken back at %s: what revision %d held is in force, as revision %d",
			u.Revision, timeText(u.Time), u.Back, u.As)
	}
	return api.NewProblem(api.CodeConflict, "too late: revision %d was not confirmed in time; since %s what revision %d held is in force, as revision %d",
		u.Revision, timeText(u.Time), u.Back, u.As)
}

func timeText(at time.Time) string { return at.Format(time.RFC3339) }

// atStart chooses what a new daemon puts in force: the configuration file, unless a snapshot waits for confirmation. That
// one stays while there is time, and else what was before it comes back. A file that holds what was taken back isn't taken
// again by itself.
func (d *Daemon) atStart() (candidate, change, error) {
	if w := d.saved.Waiting; w != nil {
		if next, how, ok := d.goOnWaiting(*w); ok {
			return next, how, nil
		}
	}
	text, err := os.ReadFile(d.options.Config)
	if err != nil {
		return candidate{}, change{}, fmt.Errorf("read configuration: %w", err)
	}
	file, err := d.parse(d.options.Config, text, d.dir)
	if err != nil {
		return candidate{}, change{}, err
	}
	how := change{how: byStart, ends: true}
	u := d.saved.Undone
	if u == nil || u.Digest != file.digest || d.saved.Digest == file.digest {
		return file, how, nil
	}
	kept, err := d.fromHistory(d.saved.Revision)
	if err != nil {
		d.log.Error("the configuration file holds what was taken back, but nothing else is left", "revision", u.Revision, "error", err)
		return file, how, nil
	}
	d.fault(startFault, fmt.Errorf("%s still holds revision %d, which was not confirmed: revision %d is in force instead until `gardu apply` or SIGHUP",
		d.options.Config, u.Revision, d.saved.Revision))
	return kept, how, nil
}

// startFault is what was tried when the configuration file was not taken at the start.
const startFault = "take the configuration file"

// goOnWaiting goes on where a daemon ended while a snapshot waited.
func (d *Daemon) goOnWaiting(w waiting) (candidate, change, bool) {
	left := w.left(readClocks())
	var errs []error
	back, err := loadBefore(d.options.StateDir)
	if err == nil {
		d.before = back
	} else {
		errs = append(errs, err)
	}
	if w.InForce && left > 0 && d.before != nil {
		next, err := d.fromHistory(w.Revision)
		if err == nil && next.digest == w.Digest {
			d.log.Warn("a snapshot waits for confirmation", "revision", w.Revision, "until", w.Wall)
			return next, change{how: byStart}, true
		}
		if err == nil {
			err = fmt.Errorf("revision %d in the history is another one", w.Revision)
		}
		d.log.Error("what waits for confirmation can't be put in force again; going back", "revision", w.Revision, "error", err)
	}
	how := change{how: byReturn, of: w.Back, ends: true, comment: fmt.Sprintf("revision %d was not confirmed in time", w.Revision)}
	if left > 0 {
		how.comment = fmt.Sprintf("gardu was ended before revision %d was wholly in force", w.Revision)
	}
	if d.before != nil {
		d.log.Warn("going back", "why", how.comment, "to the snapshot of", w.Back)
		return d.before.candidate(), how, true
	}
	next, err := d.fromHistory(w.Back)
	if err == nil {
		d.log.Warn("going back", "why", how.comment, "to the snapshot of", w.Back)
		return next, how, true
	}
	err = fmt.Errorf("what was before is lost, and the configuration file is taken: %w", errors.Join(append(errs, err)...))
	d.fault(fmt.Sprintf("go back from revision %d, which was not confirmed", w.Revision), err)
	return candidate{}, change{}, false
}

// fromHistory reads a snapshot of the history, and its set files anew.
func (d *Daemon) fromHistory(number uint64) (candidate, error) {
	r, err := d.revisions.get(number)
	if err != nil {
		return candidate{}, err
	}
	return d.parse(r.Config, []byte(r.YAML), r.Dir)
}
