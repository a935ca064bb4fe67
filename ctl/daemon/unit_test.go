package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unit = "../../configs/systemd/gardu.service"

// systemd takes the unit without a complaint, and rates what it leaves open as OK or better.
func TestUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("needs systemd-analyze, of the package systemd")
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(t.TempDir(), "gardu.service") // with a program that exists
	if err := os.WriteFile(here, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/gardu", "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", here).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	const most = "40" // tenths: up to 4.9 is "OK"
	out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold="+most, here).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if rating := lines[len(lines)-1]; err != nil || !strings.Contains(rating, " OK ") {
		t.Errorf("systemd-analyze security: %v, %s", err, rating)
	}
	for _, line := range []string{"Type=notify", "WatchdogSec=", "ExecReload=", "RuntimeDirectory=gardu", "StateDirectory=gardu",
		"Before=network-pre.target", "NoNewPrivileges=yes", "--keep-attached"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("the unit lacks %s", line)
		}
	}
}
