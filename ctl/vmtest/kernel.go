package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// series are the kernels to test, by the pattern of Debian's package names: what a fresh Debian 12 runs, and the
// newest that it offers.
var series = []string{`6\.1\.0-\d+`, `6\.12\.\d+\+deb12`}

// wantedModules and what they depend on are loaded in the guest.
var wantedModules = []string{"veth", "sch_ingress", "cls_bpf", "act_gact", "bridge", "8021q"}

// kernel is one unpacked Debian kernel.
type kernel struct {
	release string
	image   string   // path of vmlinuz
	modules []string // paths of .ko files, in the order in which they load
}

// fetchKernel returns the newest kernel of a series that apt offers, unpacked under cache.
func fetchKernel(ctx context.Context, series, cache string, wanted []string) (kernel, error) {
	name, err := newestPackage(ctx, series)
	if err != nil {
		return kernel{}, err
	}
	root := filepath.Join(cache, name)
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		if err := unpackPackage(ctx, name, cache, root); err != nil {
			return kernel{}, fmt.Errorf("fetch %s: %w", name, err)
		}
	}
	images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("%s holds %d kernels, want one", root, len(images))
	}
	k := kernel{image: images[0], release: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")}
	k.modules, err = loadOrder(ctx, root, wanted)
	return k, err
}

// newestPackage asks apt for the cloud kernels of a series; their numbers move with every security update.
func newestPackage(ctx context.Context, series string) (string, error) {
	pattern := "^linux-image-" + strings.ReplaceAll(series, `\d`, "[0-9]") + "-cloud-amd64$"
	search := func() ([]string, error) {
		out, err := run(ctx, "apt-cache", "search", "--names-only", pattern)
		var names []string
		for line := range strings.Lines(out) {
			names = append(names, strings.Fields(line)[0])
		}
		return names, err
	}
	names, err := search()
	if err == nil && len(names) == 0 {
		if _, err = run(ctx, "apt-get", "update", "-qq"); err == nil {
			names, err = search()
		}
	}
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("apt offers no package that matches %s", pattern)
	}
	return newest(names), nil
}

// newest is the name with the highest version; there is at least one.
func newest(names []string) string {
	return slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

var digits = regexp.MustCompile(`\d+`)

// numbers are the numbers in a package name, to compare versions by.
func numbers(name string) []int {
	var all []int
	for _, d := range digits.FindAllString(name, -1) {
		n, _ := strconv.Atoi(d) // digits, and few
		all = append(all, n)
	}
	return all
}

// unpackPackage downloads a package and unpacks it as root; half an unpacked package never gets that name.
func unpackPackage(ctx context.Context, name, cache, root string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	download := exec.CommandContext(ctx, "apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name)
	download.Dir = work
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages, want one", len(debs))
	}
	tree := filepath.Join(work, "tree")
	if _, err := run(ctx, "dpkg-deb", "--extract", debs[0], tree); err != nil {
		return err
	}
	return os.Rename(tree, root)
}

// loadOrder finds the wanted modules under root with what they depend on, dependencies first. A module that this kernel
// has built in has no file and is left out. Debian's package has no modules.dep; each module names its own.
func loadOrder(ctx context.Context, root string, wanted []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "lib/modules"), func(path string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, found := files[name]
		if !found || seen[name] {
			return nil
		}
		seen[name] = true
		path, err := plain(ctx, path)
		if err != nil {
			return err
		}
		needs, err := dependencies(path)
		if err != nil {
			return fmt.Errorf("read what %s depends on: %w", path, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// plain uncompresses NAME.ko.xz in place, once, and returns the path of NAME.ko.
func plain(ctx context.Context, path string) (string, error) {
	if !strings.HasSuffix(path, ".xz") {
		return path, nil
	}
	_, err := run(ctx, "xz", "--decompress", path)
	return strings.TrimSuffix(path, ".xz"), err
}

// dependencies reads "depends=a,b" from a module's .modinfo.
func dependencies(path string) ([]string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// run returns what a command prints; its complaints are in the error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
