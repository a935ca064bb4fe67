package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/config"
	"gardu/ctl/model"
)

// listPoll is how often set files are looked at. A file that changes is read when it was the same at two looks.
const listPoll = time.Second

// lists are the set files in use, by the name of the set.
type lists struct {
	mu     sync.Mutex
	byName map[string]listFile
}

// listFile is one set file.
type listFile struct {
	path   string
	read   stamp // of what is in force
	seen   stamp // at the last look
	loaded time.Time
	err    error // of the last attempt to read it; what was there before stays in force
}

// stamp tells whether a file may have changed.
type stamp struct {
	inode, size uint64
	modified    unix.Timespec
}

func stampOf(path string) (stamp, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return stamp{}, fmt.Errorf("look at set file: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return stamp{stat.Ino, uint64(stat.Size), stat.Mtim}, nil
}

func (l *lists) get(name string) (listFile, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.byName[name]
	return file, ok
}

// follow watches the files of these sets, which were read at that time. One that was changed since is read once more.
func (l *lists) follow(sets []model.Set, read time.Time) {
	next := map[string]listFile{}
	for _, set := range sets {
		if set.File == "" {
			continue
		}
		if file, ok := l.get(set.Name); ok && file.path == set.File && !file.loaded.Before(read) {
			next[set.Name] = file
			continue
		}
		file := listFile{path: set.File, loaded: read}
		now, err := stampOf(set.File)
		if err == nil && time.Unix(now.modified.Unix()).Before(read.Add(-listPoll)) {
			file.read, file.seen = now, now
		}
		next[set.Name] = file
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byName = next
}

// update stores what became of a file, unless another one took its place.
func (l *lists) update(name string, file listFile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byName[name].path == file.path {
		l.byName[name] = file
	}
}

// all is a copy to walk over.
func (l *lists) all() map[string]listFile {
	l.mu.Lock()
	defer l.mu.Unlock()
	files := make(map[string]listFile, len(l.byName))
	for name, file := range l.byName {
		files[name] = file
	}
	return files
}

// rereadLists reads the set files that changed and puts them in force as a generation of the same revision.
func (d *Daemon) rereadLists() {
	changed := map[string][]netip.Prefix{}
	for name, file := range d.lists.all() {
		now, err := stampOf(file.path)
		switch {
		case err != nil:
			d.keepList(name, file, err)
		case now == file.read:
			if file.err != nil && errors.Is(file.err, os.ErrNotExist) { // it is back as it was
				file.err = nil
				d.lists.update(name, file)
			}
		case now != file.seen: // perhaps still being written
			file.seen = now
			d.lists.update(name, file)
		default:
			file.read = now
			prefixes, err := config.ReadSet(file.path)
			if err != nil {
				d.keepList(name, file, err)
				continue
			}
			file.loaded, file.err = time.Now(), nil
			d.lists.update(name, file)
			changed[name] = prefixes
		}
	}
	if len(changed) > 0 {
		err := d.commitLists(changed)
		d.faults.set("re-read set files", err)
		if err != nil {
			d.log.Error("set files were read but are not in force", "error", err)
		}
	}
}

// keepList notes why a set file can't be read, and says so once. What is noted is shown to everybody who may use the socket,
// so it doesn't quote the file; the log does.
func (d *Daemon) keepList(name string, file listFile, err error) {
	shown := err
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		shown = config.Errors{wrong[0].Discreet()}
	}
	if file.err == nil || summary(file.err) != summary(shown) {
		d.log.Error("set file not read; what was in it before stays in force", "set", name, "error", err)
	}
	file.err = shown
	d.lists.update(name, file)
}

func (d *Daemon) commitLists(changed map[string][]netip.Prefix) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	now := d.current.Load()
	next := now.candidate
	next.snapshot = withLists(now.snapshot, changed)
	if sameLists(next.snapshot, now.snapshot) {
		return nil
	}
	tables, err := d.compile(next)
	if err != nil {
		return err
	}
	if err := d.commit(next, tables); err != nil {
		return err
	}
	d.log.Info("set files read again", "sets", len(changed), "generation", d.reconciler.Generation())
	return nil
}
