package export

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export/line"
)

// FileOptions say where lines are appended and how.
type FileOptions struct {
	Path string
	CSV  bool          // else NDJSON
	Size uint64        // bytes of a file before it is put aside
	Age  time.Duration // of a file before it is put aside
	Keep int           // files put aside
}

// block is about how many bytes are written at once. When that fails, they are lost.
const block = 64 << 10

// File appends reports to a file, and puts it aside when it is large or old. A file that somebody renamed or removed is begun anew.
type File struct {
	options FileOptions
	format  line.Format
	state

	file     *os.File
	size     uint64
	born     time.Time
	unpruned error // why old files weren't deleted
}

// OpenFile opens the file, or makes it. A line that a crash cut short is removed.
func OpenFile(options FileOptions) (*File, error) {
	f := &File{options: options, format: line.NDJSON}
	if options.CSV {
		f.format = line.CSV
	}
	return f, f.open()
}

func (f *File) open() error {
	info, err := os.Stat(f.options.Path)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("open %s: it is not a regular file", f.options.Path)
	}
	file, err := os.OpenFile(f.options.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	size, err := wholeLines(file)
	if err == nil {
		err = file.Truncate(int64(size))
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("look for the last line of %s: %w", f.options.Path, err)
	}
	f.file, f.size, f.born = file, size, birth(file)
	if header := line.CSVHeader(); f.options.CSV && size > 0 {
		first := make([]byte, len(header))
		if _, err := file.ReadAt(first, 0); err != nil || !bytes.Equal(first, header) {
			f.born = time.Time{} // of another version: not for these lines
		}
	}
	return nil
}

// wholeLines is how many bytes of a file are lines with an end. The last line, if it has none, is not longer than a block.
func wholeLines(file *os.File) (uint64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(info.Size(), block))
	if _, err := file.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 && info.Size() > int64(len(tail)) { // no file of ours
		return uint64(info.Size()), nil
	}
	return uint64(info.Size()) - uint64(len(tail)-end), nil
}

// birth is when a file was made; now if the file system doesn't know.
func birth(file *os.File) time.Time {
	var s unix.Statx_t
	err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &s)
	if err != nil || s.Mask&unix.STATX_BTIME == 0 {
		return time.Now()
	}
	return time.Unix(s.Btime.Sec, int64(s.Btime.Nsec))
}

// Consume writes reports. What can't be written is lost.
func (f *File) Consume(reports []flow.Report, names flow.Names) {
	if err := f.follow(); err != nil {
		f.lose(reports, err)
		return
	}
	var text []byte
	first := 0 // of those in text
	flush := func(lines, next int) bool {
		if err := f.write(text[:lines]); err != nil {
			f.lose(reports[first:], err)
			return false
		}
		text, first = append(text[:0], text[lines:]...), next
		return true
	}
	for i := range reports {
		before := len(text)
		text = f.format(text, &reports[i], names)
		if before > 0 && uint64(len(text)) > f.room() && !flush(before, i) {
			return
		}
		if (len(text) >= block || i+1 == len(reports)) && !flush(len(text), i+1) {
			return
		}
	}
	f.set(f.unpruned)
}

// Close closes the file.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// follow opens the path again when another file is there, or none.
func (f *File) follow() error {
	if f.file != nil {
		there, err := os.Stat(f.options.Path)
		if err == nil {
			var here fs.FileInfo
			if here, err = f.file.Stat(); err == nil && os.SameFile(here, there) {
				f.size = uint64(here.Size()) // others may have emptied it
				return nil
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f.file.Close() // all of it was written
		f.file = nil
	}
	return f.open()
}

// room is how much may be written at once: to the file as it is, or to the next one if this is full.
func (f *File) room() uint64 {
	size := f.size
	if size >= f.options.Size {
		size = 0
	}
	if size == 0 && f.options.CSV {
		size = uint64(len(line.CSVHeader()))
	}
	return f.options.Size - min(size, f.options.Size)
}

// write appends whole lines, all or nothing.
func (f *File) write(text []byte) error {
	if f.size > 0 && (f.size+uint64(len(text)) > f.options.Size || time.Since(f.born) > f.options.Age) {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	if f.size == 0 && f.options.CSV {
		text = append(line.CSVHeader(), text...)
	}
	n, err := f.file.Write(text)
	if err == nil {
		f.size += uint64(n)
		return nil
	}
	if undo := f.file.Truncate(int64(f.size)); undo != nil {
		return errors.Join(err, undo)
	}
	return err
}

// aside is in the name of a file put aside: when that was.
const aside = "20060102T150405.000000000Z"

var asideRegexp = regexp.MustCompile(`^\d{8}T\d{6}\.\d{9}Z$`)

// rotate puts the file aside and begins a new one.
func (f *File) rotate() error {
	extension := filepath.Ext(f.options.Path)
	stem := strings.TrimSuffix(f.options.Path, extension)
	if err := os.Rename(f.options.Path, stem+"-"+time.Now().UTC().Format(aside)+extension); err != nil {
		return err
	}
	f.file.Close() // all of it was written
	f.file = nil
	if err := f.open(); err != nil {
		return err
	}
	f.born = time.Now() // where birth can't be read from the file
	f.unpruned = f.prune(stem, extension)
	return nil
}

// prune deletes the oldest of the files put aside, if there are more than are kept.
func (f *File) prune(stem, extension string) error {
	entries, err := os.ReadDir(filepath.Dir(stem))
	if err != nil {
		return err
	}
	var old []string
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), filepath.Base(stem)+"-")
		rest, same := strings.CutSuffix(rest, extension)
		if ours && same && asideRegexp.MatchString(rest) {
			old = append(old, filepath.Join(filepath.Dir(stem), entry.Name()))
		}
	}
	slices.Sort(old)
	for len(old) > f.options.Keep {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	return nil
}
