package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/api"
)

// What an idle daemon doesn't keep, it takes from the kernel again for the next change, which shares the table instead of loading it.
func TestShed(t *testing.T) {
	dir := t.TempDir()
	var list strings.Builder
	for i := range 80_000 { // far from each other, which takes room
		n := i * 201
		fmt.Fprintf(&list, "10.%d.%d.%d\n", n>>16, n>>8&255, n&255)
	}
	config := "sets: {listed: {file: list}}\nfilter: {rules: [{name: one, match: {src: \"@listed\"}, action: drop}]}\n"
	for name, text := range map[string]string{"list": list.String(), "gardu.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := began(t, dir)
	made := d.current.Load().tables.Sets
	_, before := d.plane.Current()
	d.shed()
	if d.current.Load().tables.Sets == nil {
		t.Fatal("shed while something changed")
	}
	d.tidyAt.Store(0)
	d.shed()
	if d.current.Load().tables.Sets != nil || d.reconciler.Have().Tables.Sets != nil {
		t.Fatal("kept")
	}
	for _, c := range []struct {
		name, config string
		shared       bool
	}{{"another rule", strings.Replace(config, "one", "another", 1), true}, {"another set", strings.Replace(config, "{file: list}", "{entries: [192.0.2.0/24]}", 1), false}} {
		if _, err := d.apply(api.ApplyRequest{YAML: c.config, Dir: dir}, change{how: byApply}); err != nil {
			t.Fatal(err)
		}
		lines, err := d.plane.Lines(abi.TableSets)
		if err != nil {
			t.Fatal(err)
		}
		_, after := d.plane.Current()
		if shared := after[abi.TableSets] == before[abi.TableSets]; shared != c.shared || slices.Equal(lines, made) != c.shared ||
			!slices.Equal(lines, d.current.Load().tables.Sets) {
			t.Errorf("%s: shared %v, %d lines where %d were", c.name, shared, len(lines), len(made))
		}
	}
}

// Who forgot the interfaces learns why nothing is counted.
func TestNoInterfaceIsTold(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gardu.yaml"), []byte("interfaces: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, err := began(t, dir).Status(t.Context())
	if err != nil || len(status.Warnings) != 1 || !strings.HasPrefix(status.Warnings[0], "no interface is configured") {
		t.Errorf("warnings %q, error %v", status.Warnings, err)
	}
}

// began is a daemon in this process that started with gardu.yaml in dir and serves nobody.
func began(t *testing.T, dir string) *Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	d := newDaemon(Options{Config: filepath.Join(dir, "gardu.yaml"), BPFDir: "/sys/fs/bpf/" + filepath.Base(filepath.Dir(dir)), StateDir: filepath.Join(dir, "state"),
		Socket: filepath.Join(dir, "sock"), Log: slog.New(slog.DiscardHandler)})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	return d
}
