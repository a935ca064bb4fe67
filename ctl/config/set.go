package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

// Bounds of a set file.
const (
	maxSetBytes   = 256 << 20
	maxSetEntries = 5_000_000
	maxSetLine    = 64 << 10 // bytes of a line
	maxSetErrors  = 20       // wrong lines that are reported one by one
	hopelessLines = 10_000   // wrong lines after which nobody reads on
	setBlock      = 1 << 20  // bytes that are read at once, and parsed while the next are read
)

// ReadSet reads the file of a set anew and returns the set with what it holds: entries in the order of the file,
// repetitions included, bits behind the length of a prefix masked off. It never waits: what isn't a regular file is
// refused.
//
// The error is Errors if the file could be read but not understood. A file without any entry is an error too, for it is
// rather a failed download than a wish. So is one that changes while it is read: an *UnsteadyError.
func ReadSet(set model.Set) (model.Set, error) {
	set, _, err := readSet(set)
	return set, err
}

// UnsteadyError tells that a set file was written to while it was read: what was read may be a part.
type UnsteadyError struct{ Path string }

func (e *UnsteadyError) Error() string {
	return fmt.Sprintf("set file %s changed while it was read: write a new file beside it and rename it into its place", e.Path)
}

// readSet is ReadSet and warns of masked bits.
func readSet(set model.Set) (model.Set, []Warning, error) {
	file, err := openRegular(set.File)
	if err != nil {
		return set, nil, fmt.Errorf("set file: %w", err)
	}
	defer file.Close()
	before, err := stampOf(file)
	if err != nil {
		return set, nil, fmt.Errorf("set file: %w", err)
	}
	if before.Size > maxSetBytes {
		return set, nil, tooLarge(set.File)
	}
	f := &feed{path: set.File, kind: set.Kind, format: set.Format, size: int(before.Size), most: maxSetEntries}
	err = f.read(file)
	after, statErr := stampOf(file)
	switch {
	case statErr != nil:
		return set, nil, fmt.Errorf("set file: %w", statErr)
	case after != before: // before what is wrong with it, for that may be why
		return set, nil, &UnsteadyError{set.File}
	case err != nil:
		return set, nil, err
	}
	set.Read = before
	warnings, err := f.result(&set)
	return set, warnings, err
}

func tooLarge(path string) error {
	return fmt.Errorf("set file %s is larger than %d MiB", path, maxSetBytes>>20)
}

// openRegular opens a regular file. It looks before it opens, for opening a device may already do something.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if what := irregular(info.Mode()); what != "" {
		return nil, fmt.Errorf("%s is %s, not a regular file", path, what)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	// What can be waited for is none whatever it says, as /proc/kmsg does, and may have no end.
	if info, err = file.Stat(); err == nil && (!info.Mode().IsRegular() || file.SetDeadline(time.Time{}) == nil) {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// irregular says what is no regular file.
func irregular(mode os.FileMode) string {
	switch {
	case mode.IsRegular():
		return ""
	case mode.IsDir():
		return "a directory"
	case mode&os.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&os.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

func stampOf(file *os.File) (model.Stamp, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return model.Stamp{}, &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	return newStamp(&stat), nil
}

func newStamp(stat *unix.Stat_t) model.Stamp {
	return model.Stamp{Inode: stat.Ino, Size: uint64(stat.Size), Modified: stat.Mtim.Nano()}
}

// StampOf looks at a set file without opening it.
func StampOf(path string) (model.Stamp, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return model.Stamp{}, fmt.Errorf("set file: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return newStamp(&stat), nil
}

// feed is a set file being read: in blocks of whole lines, which are parsed side by side. Blocks are joined in the order of the
// file and their memory is used again, because what takes longest is to touch memory for the first time.
type feed struct {
	path   string
	kind   model.SetKind
	format model.SetFormat
	size   int   // of the file, in bytes
	most   int64 // entries

	blocks  []*block
	joined  int // blocks whose content is in all
	all     content
	spare   []*block     // whose memory is free
	wrong   atomic.Int64 // lines
	entries atomic.Int64
}

func (f *feed) read(from io.Reader) error {
	var running sync.WaitGroup
	defer running.Wait()

	var rest []byte // the beginning of a line whose end isn't read yet
	for size, last := 0, false; !last; {
		b := f.newBlock()
		text := append(b.room, rest...)
		if n := len(rest) + setBlock; cap(text) < n {
			text = append(make([]byte, 0, n), rest...)
		}
		b.room, text = text[:0], text[:len(rest)+setBlock]
		n, err := io.ReadFull(from, text[len(rest):])
		text = text[:len(rest)+n]
		switch last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); {
		case err != nil && !last:
			return fmt.Errorf("set file: %w", err)
		case size+n > maxSetBytes:
			return tooLarge(f.path)
		}
		if size == 0 {
			if err := f.begin(&text); err != nil {
				return err
			}
		}
		size += n
		rest = nil
		if !last {
			end := bytes.LastIndexByte(text, '\n') + 1
			text, rest = text[:end], text[end:]
		}
		if len(rest) > maxSetLine {
			f.joinUntil(len(f.blocks))
			if f.wrong.Load() > hopelessLines { // what was wrong before it comes first
				return nil
			}
			return fmt.Errorf("set file %s is no list: it has a line of more than %d bytes", f.path, maxSetLine)
		}
		b.text = text
		f.blocks = append(f.blocks, b)
		if b.first {
			b.parse() // what can't be a list shows here
			f.joinUntil(1)
		} else {
			f.joinUntil(len(f.blocks) - 1 - runtime.GOMAXPROCS(0))
			running.Go(b.parse)
		}
		if last {
			f.joinUntil(len(f.blocks))
		}
		if f.entries.Load() > f.most {
			return fmt.Errorf("set file %s has more than %d entries", f.path, f.most)
		}
		if f.wrong.Load() > hopelessLines || b.first && b.hopeless() {
			return nil
		}
	}
	return nil
}

// newBlock returns a block to fill, in memory that another has no use for any more.
func (f *feed) newBlock() *block {
	b := &block{feed: f, first: len(f.blocks) == 0, done: make(chan struct{})}
	if n := len(f.spare) - 1; n >= 0 {
		b.room, b.content = f.spare[n].room, f.spare[n].content
		f.spare[n].room, f.spare[n].content = nil, content{}
		f.spare = f.spare[:n]
	}
	return b
}

// joinUntil waits for the first n blocks and puts what they hold behind that of those before.
func (f *feed) joinUntil(n int) {
	for ; f.joined < n; f.joined++ {
		b := f.blocks[f.joined]
		<-b.done
		if b.first {
			f.all = newContent(f.kind, expected(b.found, b.bytes, f.size))
		}
		f.all.append(&b.content)
		b.content.reset()
		f.spare = append(f.spare, b)
	}
}

// expected is how many entries to make room for, going by a part of the file: a little more, but at most a million, since what follows may
// be anything.
func expected(found, bytes, size int) int {
	n := found * size / max(bytes, 1)
	return max(found, min(n+n/32, 1<<20))
}

// begin looks at the beginning of the file: whether it can be a list at all, and in which format.
func (f *feed) begin(text *[]byte) error {
	if what, instead := mistaken(*text); what != "" {
		return Errors{{Pos: model.Position{File: f.path, Line: 1, Column: 1}, Msg: "the file is " + what, Allowed: instead}}
	}
	*text = bytes.TrimPrefix(*text, []byte("\ufeff"))
	if f.format == "" || f.format == model.FormatAuto {
		f.format = detect(*text)
	}
	return nil
}

// result puts together what the blocks hold.
func (f *feed) result(set *model.Set) ([]Warning, error) {
	var (
		wrong         Errors
		found, masked int
		firstMasked   *Warning
		line          = 0 // that blocks before this one hold
	)
	for _, b := range f.blocks {
		for _, e := range b.wrong {
			if e.Pos.Line += line; len(wrong) < maxSetErrors {
				wrong = append(wrong, e)
			}
		}
		if b.firstMasked != nil && firstMasked == nil {
			b.firstMasked.Pos.Line += line
			firstMasked = b.firstMasked
		}
		masked += b.masked
		found += b.found
		line += b.lines
	}
	if wrong != nil {
		return nil, f.explain(wrong, found, line)
	}
	if found == 0 {
		return nil, Errors{{Pos: model.Position{File: f.path, Line: 1, Column: 1}, Msg: "the file holds no entry", Allowed: f.allowed()}}
	}
	set.Prefixes, set.Ports, set.Pairs = f.all.prefixes, f.all.ports, f.all.pairs
	if firstMasked != nil {
		firstMasked.Msg = fmt.Sprintf("%d entries have bits set behind the length of the prefix; they count as the whole prefix", masked)
		return []Warning{*firstMasked}, nil
	}
	return nil, nil
}

// explain says how much else is wrong. A file without anything right is one error.
func (f *feed) explain(wrong Errors, found, lines int) Errors {
	all := int(f.wrong.Load())
	if found == 0 && all > maxSetErrors {
		first := wrong[0]
		also := fmt.Sprintf("; nothing in the first %d lines of the file is an entry", lines)
		first.Msg, first.discreet = first.Msg+also, first.discreet+also
		return wrong[:1]
	}
	more := ""
	switch {
	case all > hopelessLines:
		more = "and so on: more than 10000 lines are wrong"
	case all > len(wrong):
		more = fmt.Sprintf("%d more lines are wrong", all-len(wrong))
	default:
		return wrong
	}
	return append(wrong, &Error{Pos: model.Position{File: f.path}, Msg: more})
}
