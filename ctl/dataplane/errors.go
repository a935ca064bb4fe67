package dataplane

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrLocked: another process holds the bpffs directory. The error is a *LockedError.
	ErrLocked = errors.New("in use by another gardu")
	// ErrBusy: another XDP program sits on the interface. The error is a *BusyError.
	ErrBusy = errors.New("another XDP program is attached")
	// ErrNotAttached: gardu is not on that interface.
	ErrNotAttached = errors.New("not attached")
	// ErrBlocksFull: the map of blocks has no room for all that were to be added; none was.
	ErrBlocksFull = errors.New("the map of blocks is full")
	// ErrFrame: the kernel doesn't run programs on such a frame outside of an interface; see Run.
	ErrFrame = errors.New("the kernel doesn't run programs on such a frame")
)

// LockedError tells who holds the directory. errors.Is(err, ErrLocked) is true.
type LockedError struct {
	Dir string
	PID int // 0 when it can't be found out
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is in use by %s: stop that gardu first, or choose another directory", e.Dir, who)
}

func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// BusyError tells what is in the way. errors.Is(err, ErrBusy) is true.
type BusyError struct {
	Interface string
	Program   uint32 // id of the foreign XDP program; 0 when it can't be found out
}

func (e *BusyError) Error() string {
	program := "another XDP program"
	if e.Program != 0 {
		program = fmt.Sprintf("XDP program %d", e.Program)
	}
	return fmt.Sprintf("%s is attached to %s: take it off, or tell gardu to replace it", program, e.Interface)
}

func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// VersionError: what is pinned was made by another version of gardu and doesn't fit this one. Nothing was changed.
type VersionError struct {
	Dir         string
	Newer       []string // what was made by a newer gardu; there is no way back
	Lost        []string // what this gardu can't convert, as Options.Fresh names it
	Differences []string
}

func (e *VersionError) Error() string {
	if len(e.Newer) > 0 {
		return fmt.Sprintf("what is pinned under %s was made by a newer gardu (%s), and this one can't take it over: run the newer one, or remove it with `gardu detach`",
			e.Dir, strings.Join(e.Newer, ", "))
	}
	return fmt.Sprintf("what is pinned under %s belongs to another version of gardu, and these would be lost: %s (%s). Nothing was changed: run the version that made it, or let them begin anew with `gardu run --fresh=%s`",
		e.Dir, strings.Join(e.Lost, ", "), strings.Join(e.Differences, "; "), strings.Join(e.Lost, ","))
}

// KernelError: this machine can't do, or won't let us do, what was tried.
type KernelError struct {
	Tried  string // "create map blocks"
	Lacks  string // "CAP_BPF and CAP_NET_ADMIN", "BTF"
	Advice string // what to do
	Err    error  // what the kernel said; may be nil
}

func (e *KernelError) Error() string {
	text := fmt.Sprintf("%s: needs %s", e.Tried, e.Lacks)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text + ": " + e.Advice
}

func (e *KernelError) Unwrap() error { return e.Err }

// permission explains EPERM, which the kernel gives for many things, and passes every other error on with what was
// tried before it. (EACCES is what the verifier says to a program, and root is refused as well.)
func permission(tried string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return &KernelError{Tried: tried, Lacks: "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", Advice: "run as root", Err: err}
	}
	return fmt.Errorf("%s: %w", tried, err)
}
