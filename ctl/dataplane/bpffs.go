package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultDir is where everything is pinned when Options says nothing.
const DefaultDir = "/sys/fs/bpf/gardu"

// bpffsRoot is where every distribution mounts bpffs.
const bpffsRoot = "/sys/fs/bpf"

// Below the directory of Options.
const (
	tablesDir = "generations"
	flowsDir  = "flows"
	linksDir  = "links"
	decapDir  = "decap"
	checkDir  = "check" // likewise a hook: on the loopback, which may be one of the interfaces as well
)

// subdirectories are those of a data plane.
var subdirectories = []string{tablesDir, flowsDir, linksDir, checkDir}

// makeDir makes dir with subdirectories on a bpffs, which it mounts at the usual place if it isn't there. mounted says
// that it did.
func makeDir(dir string, subdirectories ...string) (mounted bool, err error) {
	on, err := onBPFFS(dir)
	if err != nil {
		return false, err
	}
	if !on {
		if !strings.HasPrefix(dir, bpffsRoot+"/") {
			return false, &KernelError{Tried: "use " + dir, Lacks: "a bpffs there", Advice: "choose a directory under " + bpffsRoot + ", or mount one with `mount -t bpf bpf DIR`"}
		}
		if err := unix.Mount("bpf", bpffsRoot, "bpf", 0, "mode=0700"); err != nil {
			return false, &KernelError{Tried: "mount bpffs at " + bpffsRoot, Lacks: "CAP_SYS_ADMIN and a kernel with BPF", Advice: "run as root, or mount it first with `mount -t bpf bpf " + bpffsRoot + "`", Err: err}
		}
	}
	for _, sub := range subdirectories {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return !on, permission("make directory "+filepath.Join(dir, sub), err)
		}
	}
	return !on, nil
}

// onBPFFS looks at dir, or at the nearest directory above it that exists.
func onBPFFS(dir string) (bool, error) {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if err == nil {
			return stat.Type == unix.BPF_FS_MAGIC, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			return false, permission("look at "+dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// checkBTF: without the kernel's type information programs can't be loaded as they are built.
func checkBTF(path string) error {
	if _, err := os.Stat(path); err != nil {
		return &KernelError{Tried: "load the programs", Lacks: "BTF, the kernel's type information, at " + path, Advice: "use a kernel built with CONFIG_DEBUG_INFO_BTF (every Debian kernel since 11)", Err: err}
	}
	return nil
}

const kernelBTF = "/sys/kernel/btf/vmlinux"

// Remove takes everything that is pinned under dir off the interfaces and out of bpffs, also what a crash left, and
// whatever version of gardu made it. It fails with a *LockedError while a daemon runs there; it is no error when there is
// nothing. netlink is needed only where filters were attached by clsact.
func Remove(dir string, netlink Netlink) error {
	return remove(dir, netlink, linksDir, checkDir, decapDir)
}

// RemovePlane does so, but leaves what AttachDecap pinned there, which belongs to no daemon.
func RemovePlane(dir string, netlink Netlink) error {
	return remove(dir, netlink, linksDir, checkDir)
}

// remove detaches the hooks in those directories, and removes all but the other directories of hooks.
func remove(dir string, netlink Netlink, hooksIn ...string) error {
	if dir == "" {
		dir = DefaultDir
	}
	held, err := lockDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.release()
	if on, err := onBPFFS(dir); err != nil || !on {
		return errors.Join(err, fmt.Errorf("remove %s: not a directory on a bpffs", dir))
	}
	var errs []error
	for _, sub := range hooksIn {
		hooks, err := openHooks(filepath.Join(dir, sub), netlink)
		errs = append(errs, err)
		for _, h := range hooks {
			errs = append(errs, h.detach())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // what is still attached keeps its maps
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return permission("look into "+dir, err)
	}
	for _, entry := range entries {
		if entry.Name() == decapDir && !slices.Contains(hooksIn, decapDir) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return permission("remove "+filepath.Join(dir, entry.Name()), err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return permission("remove "+dir, err)
	}
	return nil
}
