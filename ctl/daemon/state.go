package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gardu/ctl/compile"
	"gardu/ctl/flow"
)

// DefaultStateDir is where state is kept when nobody says otherwise.
const DefaultStateDir = "/var/lib/gardu"

const (
	stateFile    = "state.json"
	stateVersion = 1
)

// state is what the next daemon must know: what the numbers in the kernel mean, and what was applied last.
type state struct {
	Version  int               `json:"version"`
	Revision uint64            `json:"revision"`
	Digest   string            `json:"digest"` // of the snapshot of that revision
	Config   string            `json:"config"` // where it came from
	Applied  time.Time         `json:"applied"`
	IDs      compile.IDs       `json:"ids"`
	Rings    []compile.Ring    `json:"rings"`    // that may be in the kernel
	Backends []compile.Backend `json:"backends"` // likewise
	Dropped  flow.Count        `json:"dropped"`  // packets of flow tables that others replaced, since the counters began

	DroppedLost flow.Count `json:"dropped_lost"` // likewise of tables of dropped flows

	Waiting *waiting `json:"waiting,omitempty"` // for confirmation
	Undone  *undone  `json:"undone,omitempty"`  // nil: nothing, or it was applied again
}

// loadState reads the state that the daemon before left; the zero state when there is none.
func loadState(dir string) (state, error) {
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read state: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, fmt.Errorf("read state from %s: %w; without it, counters and backends lose their names: remove it to start anew", path, err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("read state from %s: it has version %d, this gardu reads %d: run the version that wrote it, or `gardu detach` and remove it",
			path, s.Version, stateVersion)
	}
	return s, nil
}

// save replaces the state file: after a crash there is the old one or the new one, whole, and after this the new one.
func (s state) save(dir string) error {
	if err := s.write(dir); err != nil {
		return err
	}
	return syncDir(dir)
}

// write does so, but a crash of the machine may bring back the old one, until somebody calls syncDir.
func (s state) write(dir string) error {
	s.Version = stateVersion
	data, err := json.Marshal(s)
	if err == nil {
		err = writeFile(filepath.Join(dir, stateFile), data)
	}
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// names tells that two states give the same names to the same numbers in the kernel.
func (s state) names(other state) bool {
	return s.IDs.Equal(other.IDs) && slices.EqualFunc(s.Rings, other.Rings, compile.Ring.Equal) && slices.Equal(s.Backends, other.Backends)
}

func replaceFile(path string, data []byte) error {
	if err := writeFile(path, data); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeFile replaces a file as a whole. Which one there is after a crash of the machine is sure once its directory is synced.
func writeFile(path string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
