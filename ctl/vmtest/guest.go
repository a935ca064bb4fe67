package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// job is one command in the guest.
type job struct {
	name string
	args []string
	dir  string
}

// jobs are run in this order: the tests, or the benchmark if that is what the image has. The emulated machine is some twenty times slower
// than the host: tests that send many packets are samples here, or left out.
func jobs() []job {
	if _, err := os.Stat("/bin/bench"); err == nil {
		return []job{{"bench", benchArgs, "/tmp"}}
	}
	var all []job
	for _, s := range tested {
		args := []string{"/" + testBinary(s.pkg), "-test.v", "-test.short", "-test.timeout=40m", "-test.run=" + s.run}
		all = append(all, job{s.pkg, args, "/" + testDir(s.pkg)})
	}
	return append(all, job{"demo", []string{"/bin/gardu", "demo"}, "/src"})
}

// environment of every job.
var environment = []string{"PATH=/bin", "HOME=/tmp", "TERM=dumb", "GARDU=/bin/gardu"}

// guest is process 1. It never returns: a kernel whose init ends panics.
func guest() {
	last := someFailed
	if err := prepare(); err != nil {
		say("prepare: %v", err)
	} else if runJobs() {
		last = allPassed
	}
	say("%s", last)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil { // qemu -no-reboot ends here
		say("reboot: %v", err)
	}
	select {}
}

func say(format string, args ...any) {
	fmt.Printf("\n"+mark+format+"\n", args...)
}

// prepare mounts what the jobs expect and loads the modules.
func prepare() error {
	mounts := []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
		{"bpf", "/sys/fs/bpf"}, {"cgroup2", "/sys/fs/cgroup"}, {"tracefs", "/sys/kernel/tracing"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.Symlink("/run", "/var/run"); err != nil { // where ip looks for namespaces
		return err
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, path := range modules {
		if err := insmod(path); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

func insmod(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parameters := ""
	if strings.HasSuffix(path, "-ip_vs.ko") {
		parameters = "conn_tab_bits=16" // as many buckets as the benchmark has flows, not 4,096
	}
	return unix.FinitModule(int(file.Fd()), parameters, 0)
}

// runJobs reports each job and tells whether all passed.
func runJobs() bool {
	passed := true
	for _, j := range jobs() {
		var output bytes.Buffer
		cmd := exec.Command(j.args[0], j.args[1:]...)
		cmd.Dir, cmd.Env = j.dir, environment
		cmd.Stdout, cmd.Stderr = &output, &output
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start).Round(100 * time.Millisecond)
		os.Stdout.Write(output.Bytes())
		if err != nil {
			say("%s: FAIL: %v, %s", j.name, err, took)
			passed = false
			continue
		}
		say("%s: ok%s, %s", j.name, counts(output.String()), took)
		sayMeasured()
	}
	return passed
}

// counts says how many tests passed and were skipped, if the output is that of tests.
func counts(output string) string {
	passes, skips := strings.Count(output, "--- PASS"), strings.Count(output, "--- SKIP")
	if passes+skips == 0 {
		return ""
	}
	return fmt.Sprintf(", %d passed, %d skipped", passes, skips)
}
