package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gardu/ctl/api"
)

const goodInput = `interfaces:
  client0: {path: tc, egress: true}
sets:
  bad: {file: bad.netset}
filter:
  rules:
    - {name: bad, match: {src: "@bad"}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends:
      - {name: b1, address: 10.0.1.11}
`

// badInputs are what people write by mistake: old becomes new in goodInput. want is the place, the line and what is
// allowed there, {dir} being where the files are.
var badInputs = []struct {
	name, old, new string
	want           []string
}{
	{"wrong YAML", "filter:", "filter: [", []string{"{dir}/bad.yaml:6:3: not YAML", "    6 |   rules:\n      |   ^^^^^\n"}},
	{"unknown key", "filter:", "fliter:", []string{
		`{dir}/bad.yaml:5:1: unknown key "fliter"`, "    5 | fliter:\n      | ^^^^^^\n", "allowed: interfaces, sets, filter"}},
	{"overlapping services", "services:\n", "services:\n  all: {address: 192.0.2.10, port: 80, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.1.11}]}\n",
		[]string{"{dir}/bad.yaml:12:11: the services all and web overlap at 192.0.2.10 tcp; all is in line 9", "   12 |     port: 80\n      |           ^^\n", "allowed: ports that no other service has at this address"}},
	{"absent set", "@bad", "@evil", []string{
		`{dir}/bad.yaml:7:32: there is no set "evil"`, "    7 |     - {name: bad, match: {src: \"@evil\"}, action: drop}\n", "| " + strings.Repeat(" ", 31) + "^^^^^^^\n", "allowed: bad"}},
	{"prefix too long", `src: "@bad"`, "src: 1.2.3.4/33", []string{
		`{dir}/bad.yaml:7:32: an IPv4 prefix is 0 to 32 bits long, not "33"`, "| " + strings.Repeat(" ", 31) + "^^^^^^^^^^\n", "allowed: an address or prefix such as 198.51.100.0/24"}},
	{"no such port", `src: "@bad"`, "dport: 70000", []string{
		"{dir}/bad.yaml:7:34: 70000 is larger than 65535", "| " + strings.Repeat(" ", 33) + "^^^^^\n", "allowed: 0 to 65535, a range LOW-HIGH"}},
	{"backwards", `src: "@bad"`, "dport: 2000-1000", []string{
		"{dir}/bad.yaml:7:34: 2000-1000 runs backwards; write 1000-2000", "| " + strings.Repeat(" ", 33) + "^^^^^^^^^\n", "allowed: 0 to 65535, a range LOW-HIGH"}},
	{"ICMP of TCP", `src: "@bad"`, "proto: tcp, icmp-type: 8", []string{
		"{dir}/bad.yaml:7:50: the rule bad can match nothing: only packets of icmp, icmpv6 have icmp-type", "| " + strings.Repeat(" ", 49) + "^\n"}},
	{"broken line in a set file", "bad.netset", "broken.netset", []string{
		`{dir}/broken.netset:3:2: "not-an-address" is not`, "    3 |  not-an-address\n      |  ^^^^^^^^^^^^^^\n", "allowed: one address or prefix a line"}},
	{"absent interface", "client0", "nowhere0", []string{
		"{dir}/bad.yaml:2:3: interface nowhere0: no such interface", "    2 |   nowhere0: {path: tc, egress: true}\n      |   ^^^^^^^^\n", "allowed: lo, client0, b1"}},
}

// ended is what a command that ran to its end came to.
type ended struct {
	code           int
	stdout, stderr string
}

// in is the same world for a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.T = t
	return &sub
}

// try runs a command in the box, in its own way.
func (w *world) try(name string, args ...string) ended {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience) // it may be a daemon that should have refused to run
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := w.box.Do(cmd.Run)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return ended{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// second is the command line of a daemon that would leave these behind, were it not refused.
func (w *world) second(config string) []string {
	return []string{"run", "-c", config, "--socket", w.path("second.sock"), "--bpffs", w.bpffs + "-second", "--state", w.path("second")}
}

// wantNothingOf expects that the second daemon left nothing.
func (w *world) wantNothingOf() {
	w.Helper()
	for _, path := range []string{w.path("second.sock"), w.bpffs + "-second", w.path("second")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			w.Errorf("%s is there: %v", path, err)
		}
	}
}

// unchanged returns a check that the same snapshot is in force at the same places, and that its counters went on.
func (w *world) unchanged() func() {
	w.Helper()
	before, err := w.api.Status(w.Context())
	w.must(err)
	return func() {
		w.Helper()
		w.must(w.answers("192.0.2.10"))
		after, err := w.api.Status(w.Context())
		w.must(err)
		for _, interfaces := range [][]api.Interface{before.Interfaces, after.Interfaces} {
			for i := range interfaces {
				interfaces[i].Traffic = nil
			}
		}
		if after.Revision != before.Revision || after.Generation != before.Generation || !after.Applied.Equal(before.Applied) ||
			fmt.Sprint(after.Interfaces) != fmt.Sprint(before.Interfaces) {
			w.Errorf("before: %+v\nafter:  %+v", before, after)
		}
		if before, after := before.Reasons["forward"].Packets, after.Reasons["forward"].Packets; after <= before {
			w.Errorf("%d packets were forwarded before, %d after", before, after)
		}
	}
}

// TestBadInput hands what is wrong to check, apply, run and, by SIGHUP, to the daemon: each tells the same, and nothing
// changes.
func TestBadInput(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	for name, text := range map[string]string{"bad.netset": "203.0.113.0/24\n", "broken.netset": "# two\n203.0.113.0/24\n not-an-address\n"} {
		w.must(os.WriteFile(w.path(name), []byte(text), 0o644))
	}
	w.start(goodInput)
	w.ready()
	for _, tc := range badInputs {
		t.Run(tc.name, func(t *testing.T) {
			w := w.in(t)
			text := strings.Replace(goodInput, tc.old, tc.new, 1)
			path := w.path("bad.yaml")
			w.must(os.WriteFile(path, []byte(text), 0o644))
			told := func(how, text string, ending string) {
				t.Helper()
				for _, want := range append(tc.want, ending) {
					if want = strings.ReplaceAll(want, "{dir}", w.dir); !strings.Contains(text, want) {
						t.Errorf("%s: no %q in\n%s", how, want, text)
					}
				}
			}
			unchanged := w.unchanged()
			for _, args := range [][]string{{"check", path}, {"apply", path, "--socket", w.path("gardu.sock")}, w.second(path)} {
				r := w.try(binary, args...)
				if tc.name == "absent interface" && args[0] == "check" { // the file may be another machine's
					if r.code != 0 || !strings.Contains(r.stderr, path+":2:3: warning: this machine has no interface nowhere0") {
						t.Errorf("check: %+v", r)
					}
					continue
				}
				if r.code != 1 || r.stdout != "" {
					t.Errorf("%s: exit %d, on stdout %q", args[0], r.code, r.stdout)
				}
				told(args[0], r.stderr, "gardu "+args[0]+": 1 error; nothing was changed\n")
			}
			w.wantNothingOf()

			configured := w.path("gardu.yaml")
			good, err := os.ReadFile(configured)
			w.must(err)
			w.must(os.WriteFile(configured, []byte(text), 0o644))
			w.must(w.daemon.Signal(syscall.SIGHUP))
			place, _, _ := strings.Cut(strings.ReplaceAll(strings.ReplaceAll(tc.want[0], "{dir}", w.dir), "bad.yaml", "gardu.yaml"), ": ")
			w.until("the refusal is in status", func() error { return w.warns(place, true) })
			unchanged()
			w.must(os.WriteFile(configured, good, 0o644))
			w.must(w.daemon.Signal(syscall.SIGHUP))
			w.until("the refusal is over", func() error { return w.warns(place, false) })
			unchanged()
		})
	}
}

// warns says whether status has a warning that tells of a place.
func (w *world) warns(place string, want bool) error {
	status, err := w.api.Status(w.Context())
	if err != nil {
		return err
	}
	if text := strings.Join(status.Warnings, "\n"); strings.Contains(text, place) != want {
		return fmt.Errorf("warnings: %s", text)
	}
	return nil
}

// TestRefusedToRun starts daemons where none can be: each ends with one clear error, and leaves the one that runs alone.
func TestRefusedToRun(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	w.must(os.WriteFile(w.path("bad.netset"), []byte("203.0.113.0/24\n"), 0o644))
	w.start(goodInput)
	w.ready()
	// One who is not root must reach the program and its configuration.
	for _, dir := range []string{w.dir, filepath.Dir(binary)} {
		w.must(os.Chmod(dir, 0o755))
	}
	run := append([]string{binary}, w.second(w.path("gardu.yaml"))...)
	as := func(prefix ...string) []string { return append(prefix, run...) }
	for _, tc := range []struct {
		name, want string
		command    []string
	}{
		{"bpffs directory in use", fmt.Sprintf("%s is in use by process %d: stop that gardu first", w.bpffs, w.daemon.Pid()),
			append(as(), "--bpffs", w.bpffs)},
		{"socket in use", "another daemon answers on this socket\n  stop the other daemon first", append(as(), "--socket", w.path("gardu.sock"))},
		{"no root", "gardu run: this needs root\n  run it with sudo\n", as("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")},
		{"no BTF", "needs BTF, the kernel's type information, at /sys/kernel/btf/vmlinux",
			as("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" "$@"`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := w.in(t)
			unchanged := w.unchanged()
			r := w.try(tc.command[0], tc.command[1:]...)
			if r.code != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, "gardu run: ") || !strings.Contains(r.stderr, tc.want) {
				t.Errorf("exit %d, want %q in\n%s%s", r.code, tc.want, r.stdout, r.stderr)
			}
			w.wantNothingOf()
			unchanged()
		})
	}
}
