package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPrivileges looks at what every thread of the daemon may do, and that it is enough for what may be asked of it later.
func TestPrivileges(t *testing.T) {
	w := newWorld(t, 1)
	t.Setenv("SQLITE_TMPDIR", w.dir)
	elsewhere := t.TempDir() // of somebody else, and unknown at the start
	list := filepath.Join(elsewhere, "list.netset")
	w.must(os.WriteFile(list, []byte("203.0.113.0/24\n"), 0o600))
	for _, path := range []string{list, elsewhere} {
		w.must(os.Chown(path, 65534, 65534))
	}
	w.must(os.Chmod(elsewhere, 0o700))
	const start = "interfaces:\n  client0: {path: tc}\n"
	w.start(start)
	w.checkThreads()

	w.apply(start + fmt.Sprintf("sets:\n  list: {file: %q}\nfilter:\n  rules:\n    - {name: list, match: {src: \"@list\"}, action: drop}\n", list))
	if sets, err := w.api.Sets(t.Context()); err != nil || len(sets) != 1 || sets[0].Kernel == 0 {
		t.Errorf("sets: %+v, %v", sets, err)
	}

	w.must(os.Chown(elsewhere, 0, 0))
	flows := filepath.Join(elsewhere, "flows.ndjson")
	exports := start + fmt.Sprintf("flows: {export: [{file: %q}]}\n", flows)
	if w.status().Privileges.Unrestricted == "" {
		w.must(os.WriteFile(w.path("exports.yaml"), []byte(exports), 0o644))
		for _, command := range []string{"plan", "apply"} {
			if _, err := w.gardu(command, w.path("exports.yaml")); err == nil ||
				!strings.Contains(err.Error(), "exports.yaml:3:18: "+elsewhere+": this daemon gave up writing there") {
				t.Errorf("%s of an export to where the daemon can't write: %v", command, err)
			}
		}
		w.gone(flows)
	}
	w.stop(unix.SIGTERM)
	w.start(exports)
	w.checkThreads()
	sinks := w.status().Sinks
	if len(sinks) != 1 || sinks[0].Error != "" {
		t.Errorf("sinks: %+v", sinks)
	}
	if _, err := os.Stat(flows); err != nil {
		t.Error(err)
	}
}

func (w *world) gone(path string) {
	w.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		w.Errorf("%s is there: %v", path, err)
	}
}

// checkThreads compares what the kernel says of each thread with what is promised, and with what `status` says.
func (w *world) checkThreads() {
	w.Helper()
	const set = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_DAC_READ_SEARCH
	some, none := fmt.Sprintf("%016x", uint64(set)), strings.Repeat("0", 16)
	want := map[string]string{"CapInh": none, "CapPrm": some, "CapEff": some, "CapBnd": some, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"}
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", w.daemon.Pid()))
	w.must(err)
	looked := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			if value = strings.TrimSpace(value); want[name] != "" {
				looked++
				if value != want[name] {
					w.Errorf("%s: %s %s, want %s", path, name, value, want[name])
				}
			}
		}
	}
	if looked < 3*len(want) {
		w.Errorf("only %d threads: %q", looked/len(want), paths)
	}
	said := w.status().Privileges
	if !said.NoNewPrivileges || !said.Filtered || strings.Join(said.Capabilities, " ") != "bpf dac_read_search net_admin net_bind_service net_raw perfmon" {
		w.Errorf("status says %+v", said)
	}
	if said.Unrestricted == "" && (!slices.Contains(said.Writable, w.dir) || slices.Contains(said.Writable, "/")) {
		w.Errorf("status says that it writes below %q", said.Writable)
	}
}
