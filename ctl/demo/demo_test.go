package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gardu/configs"
	"gardu/ctl/config"
)

func TestConfiguration(t *testing.T) {
	snapshot, warnings, err := config.Parse("examples/demo.yaml", configs.Demo, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	if snapshot.API.Socket != socketPath {
		t.Errorf("the socket is %s, the demo asks %s", snapshot.API.Socket, socketPath)
	}
	for i, s := range services {
		if got := snapshot.Services[i]; got.Name != s.name || got.Address.String() != s.address || string(got.Forward) != s.forward {
			t.Errorf("service %s at %s by %s, the demo asks %+v", got.Name, got.Address, got.Forward, s)
		}
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_500_000: "1.5 MB", 2e15: "2000.0 TB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: got %s, want %s", bytes, got, want)
		}
	}
}

// build makes the gardu program.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads BPF programs")
	}
	binary := filepath.Join(t.TempDir(), "gardu")
	command := exec.Command("go", "build", "-o", binary, "gardu/ctl/cmd/gardu")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// left are what a demo leaves on the machine; there must be nothing.
func left(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{directory, bpffs + "*", "/run/netns/" + name + "-*"} {
		list, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

func TestDemo(t *testing.T) {
	binary := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := Run(ctx, Options{Out: &out, Binary: binary})
	t.Logf("\n%s", out.String())
	if err != nil {
		t.Error(err)
	}
	if list := left(t); len(list) > 0 {
		t.Errorf("left behind: %s", list)
	}
}

// stopAt ends a demo when it prints something.
type stopAt struct {
	text []byte
	stop func()
	seen []byte
}

func (s *stopAt) Write(p []byte) (int, error) {
	s.seen = append(s.seen, p...)
	if bytes.Contains(s.seen, s.text) {
		s.stop()
	}
	return len(p), nil
}

func TestInterrupt(t *testing.T) {
	binary := build(t)
	for _, at := range []string{"starting the daemon", "connections opened"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		out := &stopAt{text: []byte(at), stop: cancel}
		err := Run(ctx, Options{Out: out, Binary: binary})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted at %q: got %v, want context.Canceled\n%s", at, err, out.seen)
		}
		if list := left(t); len(list) > 0 {
			t.Errorf("interrupted at %q, left behind: %s", at, list)
		}
	}
}

func TestSharesAreThoseOfTheConfiguration(t *testing.T) {
	snapshot, _, err := config.Parse("examples/demo.yaml", configs.Demo, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range snapshot.Services {
		total := 0
		for _, b := range service.Backends {
			total += b.Weight
		}
		var names []string
		for _, b := range service.Backends {
			names = append(names, b.Name)
			if got := float64(b.Weight) / float64(total); got != shares[b.Name] {
				t.Errorf("%s/%s has %.2f of the weight, the demo expects %.2f", service.Name, b.Name, got, shares[b.Name])
			}
		}
		if !slices.Equal(names, []string{"b1", "b2", "b3"}) {
			t.Errorf("backends of %s: %s", service.Name, names)
		}
	}
}
