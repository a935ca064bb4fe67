package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test drops in a process of its own: this binary, told so by the environment.
const childEnv = "GARDU_TEST_PRIVILEGE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child gives up everything and then tries what it shouldn't be able to.
func child(dir string) error {
	hold := make(chan struct{})
	for range 4 { // threads that exist before
		go func() { <-hold }()
	}
	if err := NoMore(); err != nil {
		return err
	}
	if err := Confine([]string{filepath.Join(dir, "mine"), filepath.Join(dir, "none")}); err != nil && !errors.Is(err, ErrNoLandlock) {
		return err
	} else if err == nil {
		if err := tryFiles(dir); err != nil {
			return err
		}
	} else {
		fmt.Println(err)
	}
	if err := Drop(); err != nil {
		return err
	}
	status, err := Read()
	if err != nil {
		return err
	}
	want := "bpf dac_read_search net_admin net_bind_service net_raw perfmon"
	if got := strings.Join(status.Capabilities, " "); got != want || !status.NoNewPrivs || status.Bounding != 6 {
		return fmt.Errorf("left: %+v, want %s", status, want)
	}
	if err := syscall.Sethostname([]byte("gardu")); !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("set the host's name: %w", err)
	}
	return tryCalls()
}

// tryCalls filters system calls and makes some, on other threads too.
func tryCalls() error {
	if status, err := Read(); err != nil || status.Filtered {
		return fmt.Errorf("filtered before: %w", err)
	}
	if err := FilterCalls(); err != nil {
		return err
	}
	if status, err := Read(); err != nil || !status.Filtered {
		return fmt.Errorf("not filtered: %w", err)
	}
	tried := make(chan error)
	for range 4 {
		go func() {
			runtime.LockOSThread()
			tried <- refused()
		}()
	}
	for range 4 {
		if err := <-tried; err != nil {
			return err
		}
	}
	if _, err := os.Stat("/"); err != nil {
		return err
	}
	return nil
}

// refused makes calls that anybody may make, with arguments that are wrong in another way.
func refused() error {
	for _, call := range []uintptr{unix.SYS_EXECVE, unix.SYS_PERSONALITY, unix.SYS_KEYCTL, unix.SYS_IO_URING_SETUP, unix.SYS_PROCESS_VM_READV} {
		if _, _, errno := unix.RawSyscall6(call, ^uintptr(0), 0, 0, 0, 0, ^uintptr(0)); errno != unix.EPERM {
			return fmt.Errorf("system call %d: %w", call, errno)
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0); errno != unix.EPERM {
		return fmt.Errorf("a new namespace: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		return fmt.Errorf("clone3: %w", errno)
	}
	return nil
}

func tryFiles(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "mine", "x"), []byte("x"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "mine", "x"), filepath.Join(dir, "mine", "y")); err != nil {
		return err
	}
	if _, err := os.ReadFile(filepath.Join(dir, "other")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "mine", "y"), filepath.Join(dir, "y")); err == nil {
		return errors.New("a file was moved out of where it may be written")
	}
	if err := exec.Command("/bin/true").Run(); !errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("run a program: %w, want a refusal", err)
	}
	for _, path := range []string{"other", "new"} {
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); !errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("write %s: %w, want a refusal", path, err)
		}
	}
	return nil
}

func TestGivesUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: there is nothing to give up without")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || string(text) != "other" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestNames(t *testing.T) {
	if len(names) != 41 || names[12] != "net_admin" || names[39] != "bpf" || !slices.Contains(names, "sys_admin") {
		t.Errorf("%d names: %q", len(names), names)
	}
}

// A kernel is never asked for what its Landlock doesn't know.
func TestRights(t *testing.T) {
	if r := rightsOf(1); r != 0x1ff2 {
		t.Errorf("version 1: %#x", r)
	}
	if r := rightsOf(2) ^ rightsOf(1); r != 1<<13 {
		t.Errorf("version 2: %#x more", r)
	}
	if r := rightsOf(7) ^ rightsOf(2); r != 1<<14 {
		t.Errorf("version 7: %#x more", r)
	}
}

// One thread that kept something counts.
func TestThreads(t *testing.T) {
	all := threads{noNewPrivs: true}
	for _, text := range []string{"CapEff:\t0000000000001000\nCapBnd:\t0000000000001000\nNoNewPrivs:\t1\n", "CapEff:\t0000000000200000\nNoNewPrivs:\t0\n"} {
		if err := all.add(text); err != nil {
			t.Fatal(err)
		}
	}
	if s := all.status(); strings.Join(s.Capabilities, " ") != "net_admin sys_admin" || s.NoNewPrivs || s.Bounding != 1 {
		t.Errorf("%+v", s)
	}
	if err := all.add("CapEff:\tx\n"); err == nil {
		t.Error("no error")
	}
}
