package daemon

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/api"
)

// How a snapshot came into force.
const (
	byStart    = "start"    // of the daemon
	byReload   = "reload"   // SIGHUP
	byApply    = "apply"    // somebody asked for it
	byRollback = "rollback" // somebody asked for an older one
	byReturn   = "return"   // the one before it was not confirmed
)

// revision is a snapshot as it is kept on disk.
type revision struct {
	Number  uint64    `json:"revision"`
	Time    time.Time `json:"time"`
	Author  string    `json:"author"`
	How     string    `json:"how"`
	Comment string    `json:"comment,omitempty"`
	Of      uint64    `json:"of,omitempty"` // whose snapshot it is again
	Config  string    `json:"config"`       // name of the file
	Dir     string    `json:"dir"`          // set files are relative to it
	Digest  string    `json:"digest"`
	YAML    string    `json:"yaml"`
}

// Bounds of what is kept. The newest is kept whatever its size.
const (
	revisionsMax      = 100
	revisionsMaxBytes = 64 << 20  // compressed
	revisionMaxBytes  = 256 << 20 // of one, not compressed: a request of api.MaxRequest, escaped
)

const revisionSuffix = ".json.gz"

// revisions are the last snapshots, a file each. gzip's checksum tells of damage.
type revisions struct {
	dir      string
	max      int   // revisionsMax
	maxBytes int64 // revisionsMaxBytes
}

// errNoRevision: it was never there, or is not kept any more.
var errNoRevision = errors.New("it is not kept")

func (s revisions) path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%d%s", number, revisionSuffix))
}

// has says whether a revision is kept, damaged or not.
func (s revisions) has(number uint64) bool {
	_, err := os.Stat(s.path(number))
	return err == nil
}

// put keeps a revision, in the place of one with that number; for sure once sync is called.
func (s revisions) put(r revision) error {
	var file bytes.Buffer
	out, err := gzip.NewWriterLevel(&file, gzip.BestSpeed) // an apply waits for it
	if err == nil {
		err = json.NewEncoder(out).Encode(r)
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = writeFile(s.path(r.Number), file.Bytes())
	}
	if err != nil {
		return fmt.Errorf("keep revision %d in the history: %w", r.Number, err)
	}
	return nil
}

// sync makes what was put outlive a crash of the machine.
func (s revisions) sync() error {
	if err := syncDir(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep the history: %w", err)
	}
	return nil
}

// get reads a revision. The error wraps errNoRevision, or says what is wrong with the file.
func (s revisions) get(number uint64) (r revision, err error) {
	file, err := os.Open(s.path(number))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("revision %d: %w", number, errNoRevision)
	}
	if err != nil {
		return r, fmt.Errorf("revision %d: %w", number, err)
	}
	defer file.Close()
	if r, err = readRevision(file); err == nil && r.Number != number {
		err = fmt.Errorf("it holds revision %d", r.Number)
	}
	if err != nil {
		return revision{}, fmt.Errorf("revision %d: %s is damaged: %w", number, file.Name(), err)
	}
	return r, nil
}

func readRevision(file io.Reader) (r revision, err error) {
	in, err := gzip.NewReader(file)
	if err != nil {
		return r, err
	}
	text, err := io.ReadAll(io.LimitReader(in, revisionMaxBytes+1)) // to the end, where the checksum is
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return r, errors.New("it ends too early")
	case err != nil:
		return r, err
	case len(text) > revisionMaxBytes:
		return r, fmt.Errorf("it holds more than %d bytes", revisionMaxBytes)
	}
	return r, json.Unmarshal(text, &r)
}

// numbers are those of the revisions that are kept, the oldest first.
func (s revisions) numbers() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var numbers []uint64
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), revisionSuffix)
		if number, err := strconv.ParseUint(name, 10, 64); ok && err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// prune lets go of what is over the bounds, the oldest first, and of what claims to be newer than the newest: it never
// came into force.
func (s revisions) prune(newest uint64) error {
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	var errs []error
	kept, size := 0, int64(0)
	for _, number := range slices.Backward(numbers) {
		info, err := os.Stat(s.path(number))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if number <= newest {
			kept, size = kept+1, size+info.Size()
		}
		if number > newest || kept > s.max || size > s.maxBytes && kept > 1 {
			errs = append(errs, os.Remove(s.path(number)))
		}
	}
	return errors.Join(errs...)
}

// drop forgets a revision that didn't come into force.
func (s revisions) drop(number uint64) error {
	if err := os.Remove(s.path(number)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// wire is a revision as the API tells of it, without its text.
func (r revision) wire() api.Revision {
	return api.Revision{Revision: r.Number, Time: r.Time, Author: r.Author, How: r.How, Comment: r.Comment, Of: r.Of, Config: r.Config}
}
