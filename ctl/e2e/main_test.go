package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the gardu program under test; TestMain sets it, to GARDU where nothing can be built.
var binary = os.Getenv("GARDU")

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 || binary != "" {
		return m.Run() // without root each test says why it is skipped
	}
	dir, err := os.MkdirTemp("", "gardu-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gardu")
	build := exec.Command("go", "build", "-o", binary, "gardu/ctl/cmd/gardu")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build gardu: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
