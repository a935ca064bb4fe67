//go:build packages

package e2e

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gardu/ctl/api/client"
)

// packagesEnv is the directory with gardu_0.0.1_*.deb and gardu_0.0.2_*.deb.
const packagesEnv = "GARDU_PACKAGES"

// service stands for systemd in a root that systemd doesn't run: what the scripts of the package ask of it is noted, and what
// starts, restarts and stops gardu.service does so with the command of the unit.
const service = `#!/bin/sh
echo "$*" >>/run/calls
[ "$2" = gardu.service ] || exit 0
if [ -s /run/pid ]; then
	kill "$(cat /run/pid)"
	while kill -0 "$(cat /run/pid)" 2>/dev/null; do sleep 0.02; done
	rm /run/pid
fi
[ "$1" = stop ] && exit 0
unset NOTIFY_SOCKET
setsid $(sed -n s/^ExecStart=//p /usr/lib/systemd/system/gardu.service) >>/run/log 2>&1 </dev/null &
echo $! >/run/pid
until gardu status >/dev/null 2>&1; do
	kill -0 "$(cat /run/pid)" || exit 1
	sleep 0.02
done
`

// root is a Debian system of its own, with a bpffs of its own.
type root struct {
	*world
	dir string
}

func (w *world) newRoot() *root {
	w.Helper()
	r := &root{w, w.path("root")}
	r.unpack(debian(w.T, "init-system-helpers", "systemd"))
	for _, m := range []struct{ kind, at string }{{"proc", "proc"}, {"sysfs", "sys"}, {"bpf", "sys/fs/bpf"}, {"tmpfs", "run"}} {
		r.must(os.MkdirAll(r.path(m.at), 0o755))
		r.must(unix.Mount(m.kind, r.path(m.at), m.kind, 0, ""))
		r.Cleanup(func() { r.must(unix.Unmount(r.path(m.at), unix.MNT_DETACH)) })
	}
	r.must(unix.Mknod(r.path("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	r.must(os.MkdirAll(r.path("run/systemd/system"), 0o755))
	r.must(os.WriteFile(r.path("usr/bin/deb-systemd-invoke"), []byte(service), 0o755))
	w.Cleanup(r.kill)
	w.api.Close()
	w.api = client.New(r.path("run/gardu/gardu.sock"))
	return r
}

// debian returns the packages of this machine that make the smallest Debian system with those named.
func debian(t *testing.T, named ...string) []string {
	t.Helper()
	format := "${db:Status-Status}|${Package}|${Essential}|${Provides}|${Pre-Depends}, ${Depends}\n"
	out, err := exec.Command("dpkg-query", "--show", "--showformat", format).Output()
	if err != nil {
		t.Fatalf("dpkg-query: %v", err)
	}
	name := func(text string) string { // without version and architecture
		text, _, _ = strings.Cut(strings.TrimSpace(text), " ")
		text, _, _ = strings.Cut(text, ":")
		return text
	}
	needs, provided := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		part := strings.Split(line, "|")
		if len(part) < 5 || part[0] != "installed" {
			continue
		}
		needs[part[1]] = strings.Join(part[4:], "|") // alternatives have the same sign between them
		if part[2] == "yes" {
			named = append(named, part[1])
		}
		for other := range strings.SplitSeq(part[3], ",") {
			provided[name(other)] = part[1]
		}
	}
	found := map[string]bool{}
	for len(named) > 0 {
		this := named[0]
		named = named[1:]
		text, installed := needs[this]
		if !installed || found[this] {
			continue
		}
		found[this] = true
		for need := range strings.SplitSeq(text, ",") {
			for either := range strings.SplitSeq(need, "|") {
				if _, installed := needs[name(either)]; installed {
					named = append(named, name(either))
					break
				} else if other, ok := provided[name(either)]; ok {
					named = append(named, other)
					break
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// unpack copies the files of packages from this machine.
func (r *root) unpack(packages []string) {
	r.Helper()
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "etc", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		r.must(os.MkdirAll(r.path(dir), 0o755))
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		r.must(os.Symlink("usr/"+dir, r.path(dir)))
	}
	for name, text := range map[string]string{"var/lib/dpkg/status": "", "etc/group": "root:x:0:\n", "etc/passwd": "root:x:0:0::/root:/bin/sh\n"} {
		r.must(os.WriteFile(r.path(name), []byte(text), 0o644))
	}
	const copyAll = `dpkg-query --listfiles "$@" | grep -Ev '^/(\.|bin|sbin|lib|lib64)?$|^/usr/share/(doc|info|locale|man)/' | sort -u |
		while read -r file; do [ ! -e "$file" ] || [ -d "$file" ] || echo "$file"; done |
		tar --create --files-from - 2>/dev/null | tar --extract --directory "$root"`
	cmd := exec.Command("bash", append([]string{"-eu", "-o", "pipefail", "-c", copyAll, "bash"}, packages...)...)
	cmd.Env = append(os.Environ(), "root="+r.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("copy the files of %s: %v\n%s", strings.Join(packages, " "), err, out)
	}
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

// kill ends the daemon, if the test left one.
func (r *root) kill() {
	if text, err := os.ReadFile(r.path("run/log")); err == nil && r.Failed() {
		r.Logf("the daemon's log:\n%s", text)
	}
	if pid := r.pid(); pid > 0 {
		r.must(syscall.Kill(pid, syscall.SIGKILL))
	}
}

// pid is the daemon's; 0 when there is none.
func (r *root) pid() int {
	text, err := os.ReadFile(r.path("run/pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	r.must(err)
	return pid
}

// run runs a command in the root and in the network of the box.
func (r *root) run(args ...string) string {
	r.Helper()
	out, err := r.box.Output(context.WithoutCancel(r.Context()), "chroot", append([]string{r.dir}, args...)...)
	if err != nil {
		r.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// dpkg runs dpkg and returns what the scripts asked of systemd.
func (r *root) dpkg(args ...string) []string {
	r.Helper()
	r.must(os.WriteFile(r.path("run/calls"), nil, 0o644))
	r.run(append([]string{"dpkg", "--force-unsafe-io"}, args...)...)
	text, err := os.ReadFile(r.path("run/calls"))
	r.must(err)
	var calls []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasSuffix(line, "gardu.service") {
			calls = append(calls, line)
		}
	}
	return calls
}

// packages copies both versions into the root.
func (r *root) packages() (before, after string) {
	r.Helper()
	var paths [2]string
	for i, version := range []string{"0.0.1", "0.0.2"} {
		found, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), "gardu_"+version+"_*.deb"))
		r.must(err)
		if len(found) != 1 {
			r.Fatalf("%d packages of %s in %s=%q", len(found), version, packagesEnv, os.Getenv(packagesEnv))
		}
		text, err := os.ReadFile(found[0])
		r.must(err)
		paths[i] = "/run/" + version + ".deb"
		r.must(os.WriteFile(r.path(paths[i]), text, 0o644))
	}
	return paths[0], paths[1]
}

// TestPackage installs the package, upgrades it in the middle of a transfer, removes and purges it.
func TestPackage(t *testing.T) {
	w := newWorld(t, 2)
	w.startWeb()
	w.decap()
	r := w.newRoot()
	before, after := r.packages()

	if calls := r.dpkg("--install", before); !slices.Equal(calls, []string{"start gardu.service"}) {
		t.Errorf("installing asked systemd for %q", calls)
	}
	r.checkFiles()
	status, err := r.api.Status(t.Context())
	r.must(err)
	if status.Version != "0.0.1" || len(status.Interfaces) != 0 {
		t.Errorf("after the installation: %+v", status)
	}

	// As an administrator does: a configuration, which later versions of the package leave alone.
	config := allForwards("auto", len(w.backends))
	r.must(os.WriteFile(r.path("etc/gardu/gardu.yaml"), []byte(config), 0o644))
	r.must(syscall.Kill(r.pid(), syscall.SIGHUP))
	w.until("the configuration is in force", func() error {
		if status, err := r.api.Status(t.Context()); err != nil || len(status.Interfaces) == 0 {
			return errors.Join(err, errors.New("no interfaces"))
		}
		return nil
	})
	w.ready()
	_, sum := w.file("part", 10<<20)
	// Each transfer takes about two seconds, and the next begins at once: many are under way at any moment.
	upgraded := make(chan struct{})
	var running sync.WaitGroup
	stop := sync.OnceFunc(func() {
		close(upgraded)
		running.Wait()
	})
	defer stop()
	for i, f := range forwards {
		running.Go(func() {
			for !closed(upgraded) {
				if err := w.do(w.download(host(f.address), "part", fmt.Sprintf("got-%d", i), "5M"), sum); err != nil {
					t.Errorf("a transfer from %s broke: %v", f.name, err)
				}
			}
		})
	}
	w.until("packets are forwarded", func() error {
		if w.forwarded() < 1000 {
			return errors.New("only few")
		}
		return nil
	})
	counted := w.forwarded()
	if calls := r.dpkg("--install", after); !slices.Equal(calls, []string{"restart gardu.service"}) {
		t.Errorf("upgrading asked systemd for %q", calls)
	}
	status, err = r.api.Status(t.Context())
	r.must(err)
	if status.Version != "0.0.2" || len(status.Interfaces) != 1+len(w.backends) {
		t.Errorf("after the upgrade: %+v", status)
	}
	if now := w.forwarded(); now < counted {
		t.Errorf("%d packets were forwarded before the upgrade, %d after it", counted, now)
	}
	stop()
	if text, err := os.ReadFile(r.path("etc/gardu/gardu.yaml")); err != nil || string(text) != config {
		t.Errorf("the configuration was changed: %v", err)
	}

	if calls := r.dpkg("--remove", "gardu"); !slices.Equal(calls, []string{"stop gardu.service"}) {
		t.Errorf("removing asked systemd for %q", calls)
	}
	r.checkGone("usr/bin/gardu", "sys/fs/bpf/gardu", "usr/lib/systemd/system/gardu.service")
	if _, err := os.Stat(r.path("etc/gardu/gardu.yaml")); err != nil {
		t.Errorf("the configuration doesn't outlive the program: %v", err)
	}
	// Nothing of gardu is on the interfaces: what it forwarded isn't any more, and the rest passes.
	if err := w.answers("192.0.2.10"); err == nil {
		t.Error("packets for a service are still forwarded")
	}
	if _, err := w.client.Output(t.Context(), "curl", "-sS", "--fail", "--max-time", "5", "http://10.0.1.11/name"); err != nil {
		t.Error(err)
	}

	r.dpkg("--purge", "gardu")
	r.checkGone("etc/gardu", "var/lib/gardu", "var/log/gardu", "run/gardu", "etc/systemd/system/multi-user.target.wants/gardu.service")
	if pins, err := filepath.Glob(r.path("sys/fs/bpf/*gardu*")); err != nil || len(pins) > 0 { // the kernel has pins of its own
		t.Errorf("left in bpffs: %v, %v", pins, err)
	}
}

// manager stands for systemctl, as service does for what Debian's scripts call.
const manager = `#!/bin/sh
echo "$*" >>/run/calls
case "$*" in
"try-restart gardu.service") [ ! -s /run/pid ] || deb-systemd-invoke restart gardu.service ;;
*"disable --now gardu.service") deb-systemd-invoke stop gardu.service ;;
esac
`

// rpm runs rpm on the root, from outside, and returns what the scripts asked of systemd.
func (r *root) rpm(args ...string) []string {
	r.Helper()
	r.must(os.WriteFile(r.path("run/calls"), nil, 0o644))
	args = append([]string{"--root", r.dir, "--nodeps"}, args...)
	if out, err := r.box.Output(context.WithoutCancel(r.Context()), "rpm", args...); err != nil || strings.Contains(string(out), "fail") {
		r.Fatalf("rpm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	text, err := os.ReadFile(r.path("run/calls"))
	r.must(err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// TestRPM installs the .rpm, upgrades it while packets are forwarded, and erases it.
func TestRPM(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	w.decap()
	r := w.newRoot()
	r.must(os.Remove(r.path("usr/bin/systemctl")))
	r.must(os.WriteFile(r.path("usr/bin/systemctl"), []byte(manager), 0o755))
	var packages [2]string
	for i, version := range []string{"0.0.1", "0.0.2"} {
		found, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), "gardu-"+version+"-*.rpm"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%d packages of %s, %v", len(found), version, err)
		}
		packages[i] = found[0]
	}

	if calls := r.rpm("--install", packages[0]); !slices.Contains(calls, "preset gardu.service") {
		t.Errorf("installing asked systemd for %q", calls)
	}
	if group := r.run("getent", "group", "gardu"); !strings.HasPrefix(group, "gardu:") {
		t.Errorf("group: %q", group)
	}
	r.run("gardu", "check", "/etc/gardu/gardu.yaml")
	config := allForwards("auto", len(w.backends))
	r.must(os.WriteFile(r.path("etc/gardu/gardu.yaml"), []byte(config), 0o644))
	r.run("deb-systemd-invoke", "start", "gardu.service")
	w.ready()
	w.must(w.answers("192.0.2.10"))
	counted := w.forwarded()

	if calls := r.rpm("--upgrade", packages[1]); !slices.Contains(calls, "try-restart gardu.service") || slices.Contains(calls, "preset gardu.service") {
		t.Errorf("upgrading asked systemd for %q", calls)
	}
	status, err := r.api.Status(t.Context())
	r.must(err)
	if status.Version != "0.0.2" || len(status.Interfaces) != 1+len(w.backends) {
		t.Errorf("after the upgrade: %+v", status)
	}
	if now := w.forwarded(); now < counted || counted == 0 {
		t.Errorf("%d packets were forwarded before the upgrade, %d after it", counted, now)
	}
	if text, err := os.ReadFile(r.path("etc/gardu/gardu.yaml")); err != nil || string(text) != config {
		t.Errorf("the configuration was changed: %v", err)
	}

	r.rpm("--erase", "gardu")
	r.checkGone("usr/bin/gardu", "usr/lib/systemd/system/gardu.service", "sys/fs/bpf/gardu", "var/lib/gardu", "var/log/gardu", "run/gardu")
	if err := w.answers("192.0.2.10"); err == nil {
		t.Error("packets for a service are still forwarded")
	}
}

// Both kinds of packages bring the same files, but for where the distributions look for zsh's completions.
func TestPackageKinds(t *testing.T) {
	dir := os.Getenv(packagesEnv)
	read := func(pattern, name string, args ...string) []string {
		t.Helper()
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(paths) != 1 {
			t.Fatalf("%d packages %s in %q, %v", len(paths), pattern, dir, err)
		}
		out, err := exec.Command(name, append(args, paths[0])...).Output()
		if err != nil {
			t.Fatalf("%s %s: %v", name, paths[0], err)
		}
		var files []string
		for line := range strings.Lines(string(out)) {
			if words := strings.Fields(line); words[0][0] != 'd' {
				file := strings.TrimPrefix(words[len(words)-1], ".")
				files = append(files, words[0]+" "+strings.Replace(file, "site-functions", "vendor-completions", 1))
			}
		}
		slices.Sort(files)
		return files
	}
	deb := read("gardu_0.0.1_*.deb", "dpkg-deb", "--contents")
	rpm := read("gardu-0.0.1-*.rpm", "rpm", "--query", "--package", "--queryformat", `[%{FILEMODES:perms} %{FILENAMES}\n]`)
	if len(deb) < 30 || !slices.Equal(deb, rpm) {
		t.Errorf(".deb: %q\n.rpm: %q", deb, rpm)
	}
}

// The package for arm64 has a program for it.
func TestPackageForArm64(t *testing.T) {
	program, err := elf.Open(filepath.Join(os.Getenv(packagesEnv), "arm64/stage-arm64/gardu"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if libraries, err := program.ImportedLibraries(); program.Machine != elf.EM_AARCH64 || len(libraries) > 0 || err != nil {
		t.Errorf("a program for %v with %q, %v", program.Machine, libraries, err)
	}
	deb := filepath.Join(os.Getenv(packagesEnv), "arm64/gardu_0.0.2_arm64.deb")
	if out, err := exec.Command("dpkg-deb", "--field", deb, "Architecture").CombinedOutput(); err != nil || string(out) != "arm64\n" {
		t.Errorf("a package for %s, %v", out, err)
	}
}

// The image has what its recipe copies and nothing else, and its command runs there.
func TestImage(t *testing.T) {
	text, err := os.ReadFile("../../configs/package/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	var command []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "COPY":
			from := filepath.Join(os.Getenv(packagesEnv), strings.ReplaceAll(words[1], "${ARCH}", runtime.GOARCH))
			to := filepath.Join(root, words[2])
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		case len(words) > 1 && (words[0] == "ENTRYPOINT" || words[0] == "CMD"):
			var part []string
			if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(line), words[0])), &part); err != nil {
				t.Fatal(err)
			}
			command = append(command, part...)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/gardu"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/gardu/gardu.yaml"), []byte("interfaces: nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("chroot", append([]string{root}, command...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/etc/gardu/gardu.yaml:1:13: ") { // it got as far as its configuration
		t.Errorf("%q: %v: %s", command, err, out)
	}
}

// checkFiles looks at what the package brings.
func (r *root) checkFiles() {
	r.Helper()
	if group := r.run("getent", "group", "gardu"); !strings.HasPrefix(group, "gardu:") {
		r.Errorf("group: %q", group)
	}
	if info, err := os.Stat(r.path("run/gardu/gardu.sock")); err != nil || info.Mode().Perm() != 0o660 {
		r.Errorf("socket: %v, %v", info, err)
	}
	if state := r.run("dpkg-query", "--showformat", "${Conffiles}", "--show", "gardu"); !strings.Contains(state, "/etc/gardu/gardu.yaml") {
		r.Errorf("conffiles: %q", state)
	}
	if enabled, err := os.Readlink(r.path("etc/systemd/system/multi-user.target.wants/gardu.service")); err != nil {
		r.Errorf("not enabled: %v, %s", err, enabled)
	}
	for _, example := range []string{"protect-host.yaml", "reference.yaml", "lists/drop.netset"} {
		if _, err := os.Stat(r.path("usr/share/doc/gardu/examples/" + example)); err != nil {
			r.Error(err)
		}
	}
	r.run("gardu", "check", "/usr/share/doc/gardu/examples/protect-host.yaml")
	r.run("bash", "-ec", ". /usr/share/bash-completion/completions/gardu; complete -p gardu")
	for _, path := range []string{"usr/share/zsh/vendor-completions/_gardu", "usr/share/fish/vendor_completions.d/gardu.fish"} {
		if text, err := os.ReadFile(r.path(path)); err != nil || !strings.Contains(string(text), "gardu") {
			r.Errorf("%s: %v", path, err)
		}
	}
	r.run("mkdir", "/run/man")
	r.run("gardu", "man", "/run/man")
	pages, err := os.ReadDir(r.path("run/man"))
	r.must(err)
	for _, page := range pages {
		if _, err := os.Stat(r.path("usr/share/man/man" + page.Name()[len(page.Name())-1:] + "/" + page.Name() + ".gz")); err != nil {
			r.Error(err)
		}
	}
}

func (r *root) checkGone(names ...string) {
	r.Helper()
	for _, name := range names {
		if _, err := os.Lstat(r.path(name)); !errors.Is(err, fs.ErrNotExist) {
			r.Errorf("/%s is still there: %v", name, err)
		}
	}
}
