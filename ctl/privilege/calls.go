package privilege

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are system calls that a daemon which runs never makes, and that would be of use to who took it over: other programs and
// processes, namespaces and mounts, the kernel's modules and the next kernel, clocks and names of the machine, keys, and interfaces of the kernel that
// were a way in before. What Go's runtime may call some day isn't among them: it is a list of what is refused, not of what is allowed.
var denied = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT,
	unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_PERSONALITY,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_MKNODAT,
	unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
}

// architectures by GOARCH: what the kernel calls them, with the numbers of system calls that are its own.
var architectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// ErrNoFilter is returned where system calls can't be filtered.
var ErrNoFilter = errors.New("system calls can't be filtered on this machine")

// Offsets in struct seccomp_data.
const (
	offsetCall = 0
	offsetArch = 4
	offsetFlag = 16 // the low half of the first argument; both architectures are little-endian
)

// x32 is the bit of calls by another set of numbers, on x86.
const x32 = 0x40000000

// newNamespaces are the flags of clone that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filter is the program that the kernel runs at each system call.
func filter(architecture uint32) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(test uint16, value uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: value}
	}
	end := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	refuse := end(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	program := []unix.SockFilter{
		load(offsetArch), jump(unix.BPF_JEQ, architecture, 1, 0), refuse,
		load(offsetCall), jump(unix.BPF_JGE, x32, 0, 1), refuse,
		// Its flags are in memory, where a filter doesn't see them; who gets ENOSYS takes clone.
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), end(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
	}
	for _, call := range denied {
		program = append(program, jump(unix.BPF_JEQ, call, 0, 1), refuse)
	}
	return append(program,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 3), load(offsetFlag), jump(unix.BPF_JSET, newNamespaces, 0, 1), refuse,
		end(unix.SECCOMP_RET_ALLOW))
}

// FilterCalls refuses the process, all of its threads, system calls that it never makes; NoMore comes first.
func FilterCalls() error {
	architecture, known := architectures[runtime.GOARCH]
	if !known {
		return ErrNoFilter
	}
	program := filter(architecture)
	loaded := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&loaded)))
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return ErrNoFilter
	case errno != 0:
		return fmt.Errorf("filter system calls: %w", errno)
	case thread != 0:
		return fmt.Errorf("filter system calls: thread %d has a filter of its own", thread)
	}
	return nil
}
