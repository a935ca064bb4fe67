package dataplane

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lock is held on the bpffs directory itself, so that it needs no file of its own, goes with the process, and tells
// apart two bpffs instances that are mounted at one path in different mount namespaces.
type lock struct {
	dir *os.File
}

// lockDir takes the lock of dir, which must exist.
func lockDir(dir string) (*lock, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = &LockedError{Dir: dir, PID: holder(file)}
	case err != nil:
		err = fmt.Errorf("lock %s: %w", dir, err)
	default:
		return &lock{dir: file}, nil
	}
	file.Close()
	return nil, err
}

func (l *lock) release() { l.dir.Close() }

// holder looks up in /proc/locks who has locked the file; 0 when it can't be found out.
func holder(file *os.File) int {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return 0
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	return holderIn(locks, stat.Dev, stat.Ino)
}

// holderIn reads lines like "1: FLOCK  ADVISORY  WRITE 4711 00:1a:12345 0 EOF".
func holderIn(locks io.Reader, device, inode uint64) int {
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(device), unix.Minor(device), inode)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != want {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(fields[4], &pid); err == nil {
			return pid
		}
	}
	return 0
}
