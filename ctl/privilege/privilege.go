package privilege

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kept are the capabilities of a daemon that runs: programs and maps; interfaces and filters; pings of backends, announcements and
// ports below 1024, which the next configuration may ask for; set files of other users.
var kept = []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_DAC_READ_SEARCH}

// names of capabilities, by number, as capabilities(7) has them.
var names = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
	net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct
	sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap
	mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`)

// NoMore sees to it that no thread of the process gets privileges by running a program.
func NoMore() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}

// Drop leaves the process, all of its threads, no capabilities but those that are kept and that it has, and no way to others.
func Drop() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range uintptr(len(names)) {
			if slices.Contains(kept, c) {
				continue
			}
			_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0)
			if errno != 0 && errno != unix.EINVAL { // EINVAL: an older kernel doesn't know it
				return fmt.Errorf("drop CAP_%s from the bounding set: %w", strings.ToUpper(names[c]), errno)
			}
		}
	}
	var mask [2]uint32
	for _, c := range kept {
		mask[c/32] |= 1 << (c % 32)
	}
	for i := range data {
		data[i].Permitted &= mask[i]
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

// Status is what a process may do.
type Status struct {
	Capabilities []string // effective ones, without CAP_, sorted
	Bounding     int      // how many capabilities it could ever get
	NoNewPrivs   bool
	Filtered     bool // system calls are
}

// Read reads the status of this process. A thread that may more than the others counts for all.
func Read() (Status, error) {
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return Status{}, err
	}
	all := threads{noNewPrivs: true, filtered: true}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		if err := all.add(string(text)); err != nil {
			return Status{}, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return all.status(), nil
}

// threads adds up what threads may.
type threads struct {
	effective, bounding uint64
	noNewPrivs          bool
	filtered            bool
}

// add adds a thread by its /proc/PID/status.
func (t *threads) add(text string) error {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		var into *uint64
		switch name {
		case "NoNewPrivs":
			t.noNewPrivs = t.noNewPrivs && value == "1"
			continue
		case "Seccomp":
			t.filtered = t.filtered && value == "2"
			continue
		case "CapEff":
			into = &t.effective
		case "CapBnd":
			into = &t.bounding
		default:
			continue
		}
		set, err := strconv.ParseUint(value, 16, 64)
		if err != nil {
			return fmt.Errorf("%s is %q", name, value)
		}
		*into |= set
	}
	return nil
}

func (t *threads) status() Status {
	s := Status{NoNewPrivs: t.noNewPrivs, Filtered: t.filtered, Capabilities: []string{}}
	for c := range 64 {
		if t.bounding&(1<<c) != 0 {
			s.Bounding++
		}
		if t.effective&(1<<c) == 0 {
			continue
		}
		name := strconv.Itoa(c)
		if c < len(names) {
			name = names[c]
		}
		s.Capabilities = append(s.Capabilities, name)
	}
	slices.Sort(s.Capabilities)
	return s
}
