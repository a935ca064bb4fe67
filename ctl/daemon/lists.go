package daemon

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"gardu/ctl/compile"
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
	tried  model.Stamp // of what was read last, whether it is in force or not
	seen   model.Stamp // at the last look
	loaded time.Time   // what is in force
	err    error       // of the last attempt to read it; what was there before stays in force
}

func (l *lists) get(name string) (listFile, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.byName[name]
	return file, ok
}

// follow watches the files of these sets, which were read at that time.
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
		next[set.Name] = listFile{path: set.File, loaded: read, tried: set.Read, seen: set.Read}
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

// ShrinkError tells that a set file lost more of its entries than it may at once.
type ShrinkError struct {
	Set           string
	Before, After int // entries, merged
	MaxShrink     int // percent
}

func (e *ShrinkError) Error() string {
	return fmt.Sprintf("set %s would shrink from %d to %d entries, and max-shrink is %d%%: set it to 100%% to take that",
		e.Set, e.Before, e.After, e.MaxShrink)
}

// checkShrink compares a set that was read with the one in force. Entries are counted when they are merged, so that it is
// no matter how a list writes them; a list that is about as long as before is taken without counting.
func checkShrink(now, next *model.Set) error {
	if next.File == "" || next.File != now.File || next.Kind != now.Kind || next.Read == now.Read {
		return nil
	}
	tooFew := func(before, after int) bool { return (before-after)*100 > before*next.MaxShrink }
	if !tooFew(entries(now), entries(next)) {
		return nil
	}
	if before, after := compile.Entries(now), compile.Entries(next); tooFew(before, after) {
		return &ShrinkError{next.Name, before, after, next.MaxShrink}
	}
	return nil
}

// checkShrinks finds the sets of a configuration whose files lost more than they may.
func checkShrinks(now *applied, next candidate) error {
	var wrong config.Errors
	for i := range next.snapshot.Sets {
		set := &next.snapshot.Sets[i]
		before, ok := now.snapshot.Set(set.Name)
		if !ok {
			continue
		}
		if err := checkShrink(before, set); err != nil {
			wrong = append(wrong, &config.Error{Pos: set.Pos, Msg: err.Error(), Line: config.LineOf(next.text, set.Pos.Line)})
		}
	}
	if wrong == nil {
		return nil
	}
	return wrong
}

// all is a copy to walk over.
func (l *lists) all() map[string]listFile {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.byName)
}

// reread is a set file that was read again.
type reread struct {
	file listFile
	set  model.Set
}

// rereadLists reads the set files that changed and puts them in force as a generation of the same revision.
func (d *Daemon) rereadLists() {
	changed := map[string]reread{}
	snapshot := d.current.Load().snapshot
	for name, file := range d.lists.all() {
		stamp, err := config.StampOf(file.path)
		set, ok := snapshot.Set(name)
		switch {
		case !ok || set.File != file.path: // another configuration has come just now
		case err != nil:
			d.keepList(name, file, err)
		case stamp == file.tried:
			if file.err != nil && errors.Is(file.err, os.ErrNotExist) { // it is back as it was
				file.err = nil
				d.lists.update(name, file)
			}
		case stamp != file.seen: // perhaps still being written
			file.seen = stamp
			d.lists.update(name, file)
		default:
			if next, ok := d.rereadList(name, file, set); ok {
				changed[name] = next
			}
		}
	}
	if len(changed) == 0 {
		return
	}
	err := d.commitLists(changed)
	d.fault("re-read set files", err)
	for name, next := range changed {
		if err != nil {
			d.keepList(name, next.file, err)
		} else {
			next.file.loaded, next.file.err = time.Now(), nil
			d.lists.update(name, next.file)
		}
	}
}

// rereadList says whether what the file of a set holds now is to be in force.
func (d *Daemon) rereadList(name string, file listFile, set *model.Set) (reread, bool) {
	next, err := config.ReadSet(*set)
	switch _, unsteady := errors.AsType[*config.UnsteadyError](err); {
	case unsteady:
		file.seen = model.Stamp{} // look at it twice again
	case err != nil:
		file.tried = file.seen
	default:
		file.tried = next.Read
		err = checkShrink(set, &next)
	}
	if err != nil {
		d.keepList(name, file, err)
	}
	return reread{file, next}, err == nil
}

// keepList notes why a set file is not in force, and says so once. What is noted is shown to everybody who may use the
// socket, so it doesn't quote the file; the log does.
func (d *Daemon) keepList(name string, file listFile, err error) {
	shown := err
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		shown = config.Errors{wrong[0].Discreet()}
	}
	if file.err == nil || summary(file.err) != summary(shown) {
		d.log.Error("set file not taken; what was in it before stays in force", "set", name, "error", err)
	}
	file.err = shown
	d.lists.update(name, file)
}

func (d *Daemon) commitLists(changed map[string]reread) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	now := d.current.Load()
	next := now.candidate
	next.snapshot = withLists(now.snapshot, changed)
	if sameLists(next.snapshot, now.snapshot) {
		return nil
	}
	begin := time.Now()
	tables, err := d.compile(next)
	if err != nil {
		return err
	}
	compiled := time.Now()
	if err := d.commit(next, tables, change{}); err != nil {
		return err
	}
	d.log.Info("set files read again", "sets", len(changed), "generation", d.reconciler.Generation(),
		"compiled in", compiled.Sub(begin).Round(time.Millisecond), "loaded in", time.Since(compiled).Round(time.Millisecond))
	return nil
}
