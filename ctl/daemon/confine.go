package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gardu/ctl/api"
	"gardu/ctl/config"
	"gardu/ctl/model"
	"gardu/ctl/privilege"
)

// confinement is what the daemon gave up after its start.
type confinement struct {
	writable []string // directories; nil: files aren't restricted
	reason   string   // why they aren't
}

// logDir is what the unit makes for files of flows.export, so that they can be configured later, too.
const logDir = "/var/log/gardu"

// giveUp drops what isn't needed any more, of all threads. A kernel that can't is no reason not to run: `status` tells.
func (d *Daemon) giveUp() {
	err := privilege.NoMore()
	if err == nil {
		dirs := d.written()
		switch err = privilege.Confine(dirs); {
		case err == nil:
			d.confined.writable = dirs
		case errors.Is(err, privilege.ErrNoLandlock):
			d.confined.reason, err = err.Error(), nil
		default:
			d.confined.reason = err.Error()
		}
	}
	err = errors.Join(err, privilege.Drop())
	if filtered := privilege.FilterCalls(); !errors.Is(filtered, privilege.ErrNoFilter) { // last: it refuses some of what giving up takes
		err = errors.Join(err, filtered)
	}
	d.fault("give up privileges", err)
}

// written are the directories that the daemon writes to: those of the snapshot in force, and of one that would come back.
func (d *Daemon) written() []string {
	now := d.current.Load()
	temporary := cmp.Or(os.Getenv("SQLITE_TMPDIR"), os.Getenv("TMPDIR"), "/var/tmp") // of large queries of the history
	dirs := []string{d.options.StateDir, filepath.Dir(d.socket(now.candidate)), filepath.Dir(d.options.BPFDir), logDir, temporary}
	snapshots := []*model.Snapshot{now.snapshot}
	if d.before != nil {
		snapshots = append(snapshots, d.before.Snapshot)
	}
	for _, s := range snapshots {
		for _, w := range writtenBy(s) {
			dirs = append(dirs, existing(w.dir))
		}
	}
	for i, dir := range dirs {
		if absolute, err := filepath.Abs(dir); err == nil {
			dirs[i] = absolute
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	return slices.DeleteFunc(dirs, func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

// existing is the directory itself or, until somebody makes it, the nearest one above it.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

type writtenDir struct {
	dir string
	pos model.Position // of what asks for it
}

// writtenBy are the directories that a snapshot names.
func writtenBy(s *model.Snapshot) (dirs []writtenDir) {
	for _, e := range s.Flows.Export {
		if e.File != "" {
			dirs = append(dirs, writtenDir{filepath.Dir(e.File), e.Pos})
		}
	}
	if h := s.Flows.History; h.Enabled && h.Dir != "" {
		dirs = append(dirs, writtenDir{h.Dir, h.Pos})
	}
	return dirs
}

// checkWritable refuses a snapshot that would write where this daemon can't any more.
func (d *Daemon) checkWritable(c candidate) error {
	if d.confined.writable == nil {
		return nil
	}
	var wrong config.Errors
	for _, w := range writtenBy(c.snapshot) {
		if !within(w.dir, d.confined.writable) {
			wrong = append(wrong, &config.Error{
				Pos: w.pos,
				Msg: fmt.Sprintf("%s: this daemon gave up writing there when it started (see `gardu status`): put this into its file and restart it, "+
					"with --keep-attached without a gap", w.dir),
				Allowed: "directories below " + strings.Join(d.confined.writable, ", "),
				Line:    config.LineOf(c.text, w.pos.Line),
			})
		}
	}
	if wrong == nil {
		return nil
	}
	return wrong
}

func within(dir string, above []string) bool {
	if real, err := filepath.EvalSymlinks(existing(dir)); err == nil && real != existing(dir) {
		dir = real // the kernel looks at where it leads
	}
	return slices.ContainsFunc(above, func(top string) bool {
		if real, err := filepath.EvalSymlinks(top); err == nil {
			top = real
		}
		way, err := filepath.Rel(top, dir)
		return err == nil && way != ".." && !strings.HasPrefix(way, "../")
	})
}

// privileges are what the daemon may do, as the kernel sees it.
func (d *Daemon) privileges() *api.Privileges {
	may, err := privilege.Read()
	if err != nil {
		return nil // without /proc nobody can tell
	}
	p := &api.Privileges{Capabilities: may.Capabilities, NoNewPrivileges: may.NoNewPrivs, Filtered: may.Filtered, Writable: d.confined.writable}
	if p.Writable == nil {
		p.Unrestricted = cmp.Or(d.confined.reason, "files were not restricted at the start")
	}
	return p
}
