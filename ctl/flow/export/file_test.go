package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/flow"
)

var epoch = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// names knows nothing.
type names struct{}

func (names) Rule(uint32) string               { return "" }
func (names) Service(uint16) string            { return "" }
func (names) Backend(uint16) string            { return "" }
func (names) Interface(uint32) string          { return "eth0" }
func (names) BackendAddress(uint16) netip.Addr { return netip.Addr{} }

// batch makes reports numbered from first on: the number is their packets, a tenth of their bytes, and the source port.
func batch(first, count int) []flow.Report {
	reports := make([]flow.Report, count)
	for i := range reports {
		n := uint64(first + i)
		reports[i] = flow.Report{
			Flow: flow.Flow{Record: flow.Record{
				Key:   flow.Key{Src: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(n)), Dst: netip.MustParseAddrPort("192.0.2.10:443"), Proto: 6},
				First: epoch, Last: epoch,
			}},
			Since: epoch, Until: epoch, Delta: flow.Count{Packets: n, Bytes: 10 * n},
		}
	}
	return reports
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, options FileOptions) *File {
	t.Helper()
	f, err := OpenFile(options)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// numbers reads the numbers of the reports in NDJSON files.
func numbers(t *testing.T, paths ...string) (all []uint64) {
	t.Helper()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(t, err)
		for decoder := json.NewDecoder(bytes.NewReader(text)); decoder.More(); {
			var object struct{ Packets uint64 }
			must(t, decoder.Decode(&object))
			all = append(all, object.Packets)
		}
	}
	return all
}

// wantNumbers wants every number from first to last, once and in order.
func wantNumbers(t *testing.T, got []uint64, first, last uint64) {
	t.Helper()
	if uint64(len(got)) != last-first+1 {
		t.Errorf("%d reports, want %d to %d", len(got), first, last)
		return
	}
	for i := range got {
		if got[i] != first+uint64(i) {
			t.Errorf("report %d is number %d, want %d", i, got[i], first+uint64(i))
			return
		}
	}
}

func wantState(t *testing.T, s interface{ State() (Losses, error) }, reports uint64, problem string) {
	t.Helper()
	lost, err := s.State()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if lost.Reports != reports || (text == "") != (problem == "") || !strings.Contains(text, problem) {
		t.Errorf("%+v are lost, %q is wrong, want %d and %q", lost, text, reports, problem)
	}
}

func others(t *testing.T, path string) []string {
	t.Helper()
	extension := filepath.Ext(path)
	found, err := filepath.Glob(strings.TrimSuffix(path, extension) + "-*" + extension)
	must(t, err)
	return found // sorted, and so by age
}

func ndjson(path string) FileOptions {
	return FileOptions{Path: path, Size: 1 << 30, Age: time.Hour, Keep: 3}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.ndjson")
	f := open(t, ndjson(path))
	f.Consume(batch(1, 2000), names{}) // several blocks
	must(t, f.Close())
	f = open(t, ndjson(path))
	f.Consume(batch(2001, 1), names{})
	wantNumbers(t, numbers(t, path), 1, 2001)
	wantState(t, f, 0, "")
}

func TestCSVFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.csv")
	options := ndjson(path)
	options.CSV = true
	f := open(t, options)
	f.Consume(batch(1, 1), names{})
	must(t, f.Close())
	f = open(t, options)
	f.Consume(batch(2, 1), names{})
	text, err := os.ReadFile(path)
	must(t, err)
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	must(t, err)
	if len(rows) != 3 || rows[0][0] != "since" || rows[2][7] != "2" {
		t.Errorf("rows %q", rows)
	}

	// One with other columns is put aside.
	must(t, f.Close())
	must(t, os.WriteFile(path, []byte("a,b\n1,2\n"), 0o644))
	f = open(t, options)
	f.Consume(batch(3, 1), names{})
	text, err = os.ReadFile(path)
	must(t, err)
	if !strings.HasPrefix(string(text), "since,") || len(others(t, path)) != 1 {
		t.Errorf("%q, and %q", text, others(t, path))
	}
}

// A line that a crash cut short goes; what was whole stays.
func TestTornLine(t *testing.T) {
	for name, torn := range map[string]string{"torn": `{"packets":3`, "whole": "", "long": `{"x":"` + strings.Repeat("x", 60_000)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flows.ndjson")
			must(t, os.WriteFile(path, []byte(`{"packets":1}`+"\n"+`{"packets":2}`+"\n"+torn), 0o644))
			f := open(t, ndjson(path))
			f.Consume(batch(3, 1), names{})
			wantNumbers(t, numbers(t, path), 1, 3)
		})
	}
}

func TestRotationBySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.ndjson")
	options := ndjson(path)
	options.Size = 200_000
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), "flows-notes.ndjson"), nil, 0o644)) // somebody's
	f := open(t, options)
	for i := range 100 {
		f.Consume(batch(1+100*i, 100), names{})
	}
	old := others(t, path)
	if len(old) != options.Keep+1 || old[options.Keep] != filepath.Join(filepath.Dir(path), "flows-notes.ndjson") {
		t.Fatalf("files put aside: %q", old)
	}
	for _, name := range append(old, path) {
		if info, err := os.Stat(name); err != nil || uint64(info.Size()) > options.Size {
			t.Errorf("%s: %v bytes, %v", name, info.Size(), err)
		}
	}
	got := numbers(t, append(old, path)...)
	wantNumbers(t, got, got[0], 10_000)
	wantState(t, f, 0, "")
}

// No file is larger than it may be, also when that is less than what is written at once; a line that doesn't fit any has one of its own.
func TestRotationBySmallSizes(t *testing.T) {
	for _, format := range []string{"ndjson", "csv"} {
		for _, size := range []uint64{10_000, 1_000, 100} {
			path := filepath.Join(t.TempDir(), "flows."+format)
			f := open(t, FileOptions{Path: path, CSV: format == "csv", Size: size, Age: time.Hour, Keep: 10_000})
			f.Consume(batch(1, 300), names{})
			f.Consume(batch(301, 1), names{})
			f.Consume(batch(302, 100), names{})
			var lines uint64
			for _, name := range append(others(t, path), path) {
				text, err := os.ReadFile(name)
				must(t, err)
				here := uint64(bytes.Count(text, []byte("\n")))
				if format == "csv" {
					here--
				}
				if lines += here; here == 0 || uint64(len(text)) > size && here > 1 {
					t.Errorf("%s, at most %d bytes: %d bytes, %d lines", format, size, len(text), here)
				}
			}
			if lines != 401 {
				t.Errorf("%s, at most %d bytes: %d lines", format, size, lines)
			}
			wantState(t, f, 0, "")
		}
	}
}

func TestRotationByAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.ndjson")
	f := open(t, ndjson(path))
	f.Consume(batch(1, 1), names{})
	f.born = f.born.Add(-2 * time.Hour)
	f.Consume(batch(2, 1), names{})
	f.Consume(batch(3, 1), names{})
	wantNumbers(t, numbers(t, others(t, path)...), 1, 1)
	wantNumbers(t, numbers(t, path), 2, 3)
}

// logrotate renames a file, or copies and empties it.
func TestFileMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.ndjson")
	f := open(t, ndjson(path))
	f.Consume(batch(1, 2), names{})
	must(t, os.Rename(path, path+".1"))
	f.Consume(batch(3, 1), names{})
	must(t, os.Remove(path))
	f.Consume(batch(4, 2), names{})
	wantNumbers(t, numbers(t, path+".1"), 1, 2)
	wantNumbers(t, numbers(t, path), 4, 5)
	must(t, os.Truncate(path, 0))
	f.Consume(batch(6, 1), names{})
	wantNumbers(t, numbers(t, path), 6, 6)
	wantState(t, f, 0, "")
}

// A full disk costs what has no room, counted, and no line is torn. Then it goes on.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	path := filepath.Join(dir, "flows.ndjson")
	f := open(t, ndjson(path))
	ballast := filepath.Join(dir, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 100<<10), 0o644))
	const all = 2000
	f.Consume(batch(1, all), names{})
	written := uint64(len(numbers(t, path)))
	wantNumbers(t, numbers(t, path), 1, written)
	if written == 0 || written == all {
		t.Errorf("%d reports were written", written)
	}
	wantState(t, f, all-written, "no space left")
	lost, _ := f.State()
	if sum := uint64(all * (all + 1) / 2); lost.Packets != sum-written*(written+1)/2 || lost.Bytes != 10*lost.Packets {
		t.Errorf("%+v are lost, of %d packets", lost, sum)
	}
	must(t, os.Remove(ballast))
	f.Consume(batch(int(written)+1, 10), names{})
	wantNumbers(t, numbers(t, path), 1, written+10)
	wantState(t, f, all-written, "")
	must(t, f.Close())
}

func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "nope", "flows.ndjson"), os.DevNull} {
		if f, err := OpenFile(ndjson(path)); err == nil {
			f.Close()
			t.Errorf("%s was opened", path)
		}
	}
	// One that vanishes later, with its directory.
	away := filepath.Join(dir, "away")
	must(t, os.Mkdir(away, 0o755))
	f := open(t, ndjson(filepath.Join(away, "flows.ndjson")))
	must(t, os.RemoveAll(away))
	f.Consume(batch(1, 3), names{})
	wantState(t, f, 3, "no such file")
	must(t, os.Mkdir(away, 0o755))
	f.Consume(batch(4, 1), names{})
	wantState(t, f, 3, "")
}
