package dataplane

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

func TestSecondDaemonIsRefused(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	defer closeIt(t, d)
	_, err := Open(Options{Dir: dir})
	var locked *LockedError
	if !errors.Is(err, ErrLocked) || !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Errorf("second Open: %v", err)
	}
	if err := Remove(dir, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("Remove under a running daemon: %v", err)
	}
}

func TestLockHolderIsFound(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  READ  620 00:1a:1234 0 EOF
2: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 815 00:1a:1234 0 EOF
`
	if pid := holderIn(strings.NewReader(locks), 0x1a, 1234); pid != 4711 {
		t.Errorf("pid %d", pid)
	}
	if pid := holderIn(strings.NewReader(locks), 0x1a, 1235); pid != 0 {
		t.Errorf("another file's pid %d", pid)
	}
}

func TestWhatAFailedBeginningLeftIsNotTakenOver(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	closeIt(t, d)
	if err := os.Remove(filepath.Join(dir, abi.AbiMapControl)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, abi.AbiMapRings)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	closeIt(t, d)
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := w.open(t, dir)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	commit(t, d, 1, 1, 2, 3)
	closeIt(t, d)
	w.do(t, func() error {
		pinned, err := AttachDecap(DecapOptions{Name: "lo", Ifindex: 1, Pin: dir, Netlink: w.netlink})
		if err != nil {
			return err
		}
		return pinned.Close()
	})
	unwraps := files(t, filepath.Join(dir, decapDir))
	if !strings.Contains(unwraps, "ingress") {
		t.Errorf("decap has pinned %q", unwraps)
	}
	w.do(t, func() error { return RemovePlane(dir, w.netlink) })
	if left := files(t, dir); left != dir+"\n"+unwraps {
		t.Errorf("the daemon's end leaves %q, decap alone has %q", left, unwraps)
	}
	w.do(t, func() error { return Remove(dir, w.netlink) })
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if id, err := w.netlink.XDPProgram(w.ifindex); err != nil || id != 0 {
		t.Errorf("XDP program %d is still attached (%v)", id, err)
	}
	if err := Remove(dir, nil); err != nil {
		t.Errorf("Remove where nothing is: %v", err)
	}
}

func TestRemoveOnlyOnBPFFS(t *testing.T) {
	dir := t.TempDir()
	if err := Remove(dir, nil); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	var kernel *KernelError
	if _, err := makeDir(filepath.Join(dir, "gardu")); !errors.As(err, &kernel) {
		t.Errorf("makeDir: %v", err)
	}
}

func TestOpenWithoutRoot(t *testing.T) {
	asNobody(t, func() {
		var kernel *KernelError
		if _, err := Open(Options{Dir: "/sys/fs/bpf/gardu-test-nobody"}); !errors.As(err, &kernel) || !strings.Contains(err.Error(), "run as root") {
			t.Errorf("Open: %v", err)
		}
		if _, err := OpenPrivate(allOn(), 0); !errors.As(err, &kernel) {
			t.Errorf("OpenPrivate: %v", err)
		}
		t.Log(kernel)
	})
}

func TestKernelErrorsSayWhatToDo(t *testing.T) {
	var kernel *KernelError
	if err := checkBTF("/nowhere/btf"); !errors.As(err, &kernel) || !strings.Contains(err.Error(), "CONFIG_DEBUG_INFO_BTF") {
		t.Errorf("no BTF: %v", err)
	}
	if err := permission("create map blocks", unix.EPERM); !errors.As(err, &kernel) || !strings.Contains(err.Error(), "run as root") {
		t.Errorf("not root: %v", err)
	}
	if err := permission("load the programs", unix.EACCES); errors.As(err, &kernel) || !errors.Is(err, unix.EACCES) {
		t.Errorf("another error: %v", err)
	}
}

func TestClock(t *testing.T) {
	d := mapsOnly(t)
	first, hz, err := d.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if hz < 24 || hz > 10000 {
		t.Errorf("%d jiffies a second", hz)
	}
	eventually(t, "the clocks go on", func() bool {
		next, _, err := d.Clock()
		return err == nil && next.Jiffies > first.Jiffies && next.Monotonic > first.Monotonic
	})
}

func files(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}
