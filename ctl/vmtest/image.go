package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// suite is a package, relative to ctl/, whose tests run in the guest.
type suite struct {
	pkg  string
	tags string // to build it with
	run  string // which of its tests, as a pattern; "": all
}

// tested are the packages whose tests face the kernel, and of the others what a host's kernel may lack.
var tested = []suite{{pkg: "dataplane"}, {pkg: "explain"}, {pkg: "e2e", tags: "vm", run: "^TestBackendsInVLAN$"}}

// payload maps paths in the initramfs to files and directories of the host.
type payload map[string]string

// buildPayload builds the binaries that run in the guest. It is called in the module's root directory.
func buildPayload(ctx context.Context, dir string) (payload, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	files := payload{"init": self, "bin/gardu": "bin/gardu", "src/configs": "configs"}
	for _, s := range tested {
		binary := filepath.Join(dir, path.Base(s.pkg)+".test")
		if _, err := run(ctx, "go", "test", "-c", "-tags", s.tags, "-o", binary, "./ctl/"+s.pkg); err != nil {
			return nil, err
		}
		files[testBinary(s.pkg)] = binary
		data := filepath.Join("ctl", s.pkg, "testdata")
		if _, err := os.Stat(data); err == nil {
			files[path.Join(testDir(s.pkg), "testdata")] = data
		}
	}
	return files, nil
}

// testBinary and testDir are where a package's tests and their working directory are in the guest.
func testBinary(pkg string) string { return "tests/" + path.Base(pkg) }
func testDir(pkg string) string    { return "src/ctl/" + pkg }

// writeInitrd writes a compressed cpio archive of the payload and the kernel's modules.
func writeInitrd(name string, k kernel, files payload) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	zip, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(zip)
	archive := &cpio{w: buffered, made: map[string]bool{}}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "var/lib", "etc"} {
		archive.dir(dir)
	}
	for _, s := range tested {
		archive.dir(testDir(s.pkg))
	}
	for target, source := range files {
		archive.tree(target, source)
	}
	for i, module := range k.modules {
		archive.tree(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(module)), module)
	}
	archive.end()
	if archive.err != nil {
		return archive.err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return zip.Close()
}

// cpio writes the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst). The first error sticks.
type cpio struct {
	w     io.Writer
	made  map[string]bool
	inode int
	err   error
}

// tree adds a file, or a directory with all below it.
func (c *cpio) tree(target, source string) {
	err := filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := path.Join(target, filepath.ToSlash(strings.TrimPrefix(name, source)))
		if entry.IsDir() {
			c.dir(at)
			return c.err
		}
		return c.file(at, name)
	})
	if c.err == nil {
		c.err = err
	}
}

// dir adds a directory and those above it.
func (c *cpio) dir(name string) {
	if name == "." || c.made[name] {
		return
	}
	c.dir(path.Dir(name))
	c.made[name] = true
	c.header(name, 0o40755, 0)
}

func (c *cpio) file(name, source string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	c.dir(path.Dir(name))
	c.header(name, 0o100000|int64(info.Mode().Perm()), info.Size())
	if c.err == nil {
		_, c.err = io.CopyN(c.w, in, info.Size())
	}
	c.pad(info.Size())
	return c.err
}

func (c *cpio) header(name string, mode, size int64) {
	c.inode++
	const links = 1
	c.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad(int64(110 + len(name) + 1))
}

func (c *cpio) end() { c.header("TRAILER!!!", 0, 0) }

// pad fills up to four bytes after n.
func (c *cpio) pad(n int64) { c.printf("%s", "\x00\x00\x00"[:(4-n%4)%4]) }

func (c *cpio) printf(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.w, format, args...)
	}
}
