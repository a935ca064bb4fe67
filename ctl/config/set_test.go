package config

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

func writeSet(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set.netset")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAddresses reads a file of addresses in whatever format.
func readAddresses(path string) ([]netip.Prefix, error) {
	set, err := ReadSet(model.Set{Name: "test", File: path})
	return set.Prefixes, err
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestReadSet(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []netip.Prefix
	}{
		"addresses and prefixes": {"192.0.2.1\n198.51.100.0/24\n", prefixes("192.0.2.1/32", "198.51.100.0/24")},
		"both families":          {"192.0.2.0/25\n2001:db8::/32\n2001:db8::1\n", prefixes("192.0.2.0/25", "2001:db8::/32", "2001:db8::1/128")},
		"comments":               {"# all\n192.0.2.1 # one\n  ; two\n198.51.100.0/24 ; SBL1\n\n", prefixes("192.0.2.1/32", "198.51.100.0/24")},
		"CRLF and tabs":          {"\t192.0.2.1\t\r\n\r\n192.0.2.2\r\n", prefixes("192.0.2.1/32", "192.0.2.2/32")},
		"no end of line":         {"192.0.2.1", prefixes("192.0.2.1/32")},
		"host bits":              {"192.0.2.1/24\n2001:db8::1/32\n", prefixes("192.0.2.0/24", "2001:db8::/32")},
		"everything":             {"0.0.0.0/0\n::/0\n", prefixes("0.0.0.0/0", "::/0")},
		"repetitions stay":       {"192.0.2.1\n192.0.2.1\n", prefixes("192.0.2.1/32", "192.0.2.1/32")},
		"a BOM":                  {"\ufeff192.0.2.1\n", prefixes("192.0.2.1/32")},
		"extremes":               {"255.255.255.255\n0.0.0.0\n", prefixes("255.255.255.255/32", "0.0.0.0/32")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAddresses(writeSet(t, tc.text))
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%v, %v\nwant %v", got, err, tc.want)
			}
		})
	}
}

func TestWrongSetLines(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.256":             `"192.0.2.256" is not an IP address`,
		"192.0.2":                 `"192.0.2" is not an IP address`,
		"192.0.2.1.5":             `"192.0.2.1.5" is not an IP address`,
		"192.0.2.":                `"192.0.2." is not an IP address`,
		"192.0.02.1":              `"192.0.02.1" is not an IP address`,
		"192.0.2.0/33":            `an IPv4 prefix is 0 to 32 bits long, not "33"`,
		"192.0.2.0/024":           `an IPv4 prefix is 0 to 32 bits long, not "024"`,
		"192.0.2.0/":              `an IPv4 prefix is 0 to 32 bits long, not ""`,
		"192.0.2.0/2x":            `an IPv4 prefix is 0 to 32 bits long, not "2x"`,
		"192.0.2.1-192.0.2.9":     `"192.0.2.1-192.0.2.9" is not an IP address`,
		"192.0.2.1 192.0.2.2":     `more than one entry on a line: "192.0.2.2" is too much`,
		"192.0.2.1, 192.0.2.2":    `more than one entry on a line: "192.0.2.2" is too much`,
		"2001:db8::/129":          `an IPv6 prefix is 0 to 128 bits long, not "129"`,
		"fe80::1%eth0":            `"fe80::1%eth0" has a zone`,
		"bad.example.com":         `"bad.example.com" is not an IP address`,
		"<html>":                  `"<html>" is not an IP address`,
		"\x01\x1b[31m\xff":        `"\x01\x1b[31m\xff" is not an IP address`,
		strings.Repeat("9", 9999): `"` + strings.Repeat("9", 60) + `..." is not an IP address`,
	} {
		path := writeSet(t, "192.0.2.7\n  "+line+"\n")
		_, err := readAddresses(path)
		var wrong Errors
		if !errors.As(err, &wrong) || len(wrong) != 1 {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if wrong[0].Msg != want {
			t.Errorf("%q: %s\nwant %s", line, wrong[0].Msg, want)
		}
		if got := wrong[0].Pos.String(); got != path+":2:3" {
			t.Errorf("%q: at %s, want %s:2:3", line, got, path)
		}
		if text := err.Error(); len(text) > 1000 || strings.ContainsAny(text, "\x01\x1b") || !utf8.ValidString(text) {
			t.Errorf("%q: the message is too long or has control characters: %q", line, text)
		}
	}
}

func TestSetErrorsAreBounded(t *testing.T) {
	_, err := readAddresses(writeSet(t, "192.0.2.1\n"+strings.Repeat("junk\n", 5000)))
	var wrong Errors
	if !errors.As(err, &wrong) || len(wrong) != maxSetErrors+1 {
		t.Fatalf("%d errors, want %d", len(wrong), maxSetErrors+1)
	}
	if got, want := wrong[maxSetErrors].Msg, "4980 more lines are wrong"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSetFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	fifo, socket := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for path, want := range map[string]string{
		dir:                            "is a directory, not a regular file",
		fifo:                           "is a FIFO, not a regular file",
		socket:                         "is a socket, not a regular file",
		"/dev/zero":                    "/dev/zero is a device, not a regular file",
		"/proc/self/mounts":            "/proc/self/mounts is not a regular file",
		filepath.Join(dir, "absent"):   "no such file or directory",
		writeSet(t, ""):                "the file holds no entry",
		writeSet(t, "\ufeff"):          "the file holds no entry",
		writeSet(t, "# nothing\n \n"):  "the file holds no entry",
		writeSet(t, "ip,seen\n"):       "the file holds no entry",
		writeSet(t, "\x1f\x8b\x08"):    "the file is compressed",
		writeSet(t, "\xff\xfe1\x00"):   "the file is UTF-16 text",
		writeSet(t, "192.0.2.1\n\x00"): "the file is not text",
		writeSet(t, "\n<!DOCTYPE html>\n<html>\n"):              "the file is a web page or XML",
		writeSet(t, "[\"192.0.2.1\", \"192.0.2.2\"]\n"):         "the file is one JSON value, not one a line",
		writeSet(t, "{\n \"ips\": []\n}\n"):                     "the file is one JSON value, not one a line",
		writeSet(t, strings.Repeat("1", maxSetLine+setBlock+1)): "is no list: it has a line of more than 65536 bytes",
		sparse(t, maxSetBytes+1):                                "is larger than 256 MiB",
		sparse(t, maxSetBytes):                                  "the file is not text",
		writeSet(t, strings.Repeat("junk\n", 5000)):             "nothing in the first 5000 lines of the file is an entry",
	} {
		_, err := readAddresses(path)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		if wrong, ok := errors.AsType[Errors](err); ok && len(wrong) != 1 {
			t.Errorf("%s: %d errors", path, len(wrong))
		}
	}
	if _, err := readAddresses(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file is %v, want os.ErrNotExist", err)
	}
}

// sparse makes a file of zeros that takes no room.
func sparse(t *testing.T, size int64) string {
	path := writeSet(t, "")
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// A file that one may not read is an error of the system's. Root may read all, so this is somebody else.
func TestSetPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: becomes somebody else")
	}
	path := writeSet(t, "192.0.2.1\n")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		_, err := readAddresses(path)
		done <- err
	}()
	if err := <-done; !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v, want %v", err, os.ErrPermission)
	}
}

// 100 MB of garbage are one error, soon, and without room for them.
func TestGarbageIsCheap(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	binary, letters, lines := make([]byte, 3<<20), make([]byte, 3<<20), make([]byte, 3<<20)
	for i := range binary {
		b := byte(random.Uint32())
		binary[i], letters[i], lines[i] = b, 'a'+b%26, 'a'+b%26
		if b < 8 {
			lines[i] = '\n'
		}
	}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"binary":              {binary, "the file is not text"},
		"one line":            {letters, "is no list: it has a line of more than"},
		"lines":               {lines, "is an entry"},
		"a list, then others": {slices.Concat(bytes.Repeat([]byte("192.0.2.1\n"), 100_000), lines), "and so on: more than 10000 lines are wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeSet(t, string(tc.data))
			if err := os.Truncate(path, 100<<20); err != nil { // zeros follow that take no room
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := readAddresses(path)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 20_000 {
				t.Errorf("%.300v, want %s", err, tc.want)
			}
			if took > 20*time.Second { // it is a tenth of a second where nothing else runs
				t.Errorf("took %s", took)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 100<<20 {
				t.Errorf("allocated %d MiB", used>>20)
			}
			t.Logf("%s, %d MiB allocated in all", took, (after.TotalAlloc-before.TotalAlloc)>>20)
		})
	}
}

// The entries that a file may have are bounded as well as its bytes.
func TestSetEntriesAreBounded(t *testing.T) {
	f := &feed{path: "list", most: 1000}
	if err := f.read(strings.NewReader(strings.Repeat("::\n", 1000))); err != nil || f.entries.Load() != 1000 {
		t.Errorf("%d entries, %v", f.entries.Load(), err)
	}
	f = &feed{path: "list", most: 1000}
	if err := f.read(strings.NewReader(strings.Repeat("::\n", 1001))); err == nil || !strings.Contains(err.Error(), "has more than 1000 entries") {
		t.Errorf("%v", err)
	}
}

// A file that is written to while it is read is refused, whatever was read of it.
func TestSetFileThatChanges(t *testing.T) {
	path := writeSet(t, string(million()))
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := file.WriteAt([]byte("192.0.2.255\n"), 0); err != nil {
				t.Error(err)
			}
		}
	})
	_, err := readAddresses(path)
	close(stop)
	writer.Wait()
	if _, ok := errors.AsType[*UnsteadyError](err); !ok {
		t.Errorf("%v, want an UnsteadyError", err)
	}
	grown := writeSet(t, string(million()))
	set := model.Set{Name: "test", File: grown}
	before, err := ReadSet(set)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := StampOf(grown); err != nil || now != before.Read {
		t.Errorf("stamp %+v, %v; read %+v", now, err, before.Read)
	}
}

// TestFastParsersAgree compares the parsers for common cases with the general one, on right and wrong entries.
func TestFastParsersAgree(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for family, fast := range map[int]func([]byte) (netip.Prefix, bool, bool){4: parseEntry4, 6: parseEntry6} {
		alphabet := []byte("0123456789./0125a:")
		right, elsewhere := 0, 0
		for range 100_000 {
			entry := randomEntry(random, family)
			if random.IntN(2) == 0 {
				entry[random.IntN(len(entry))] = alphabet[random.IntN(len(alphabet))]
			}
			got, gotBits, ok := fast(entry)
			general, bits, err := parseEntry(string(entry))
			switch {
			case ok && (err != nil || got != general || gotBits != bits):
				t.Fatalf("%s: %v %v %v, the general parser says %v %v %v", entry, got, gotBits, ok, general, bits, err)
			case ok:
				right++
			case err == nil && general.Addr().Is4() == (family == 4) && !bytes.ContainsRune(entry, '.'):
				t.Fatalf("%s is refused", entry)
			case err == nil && family == 4:
				t.Fatalf("%s is refused", entry)
			case err == nil:
				elsewhere++
			}
		}
		if right < 30_000 {
			t.Errorf("IPv%d: only %d entries were right", family, right)
		}
		t.Logf("IPv%d: %d right, %d left to the general parser", family, right, elsewhere)
	}
}

func randomEntry(random *rand.Rand, family int) []byte {
	var entry []byte
	if family == 4 {
		a := random.Uint32()
		entry = fmt.Appendf(nil, "%d.%d.%d.%d", a>>24, a>>16&255, a>>8&255, a&255)
	} else {
		var octets [16]byte
		for i := range octets {
			octets[i] = byte(random.Uint32())
		}
		for range random.IntN(4) { // zeros, so that :: comes about
			at := random.IntN(8) * 2
			clear(octets[at:min(16, at+random.IntN(9)&^1)])
		}
		if random.IntN(8) == 0 {
			copy(octets[:], append(make([]byte, 10), 0xff, 0xff))
		}
		addr := netip.AddrFrom16(octets)
		entry = []byte(addr.String())
		if random.IntN(4) == 0 {
			entry = []byte(strings.ToUpper(addr.StringExpanded()))
		}
	}
	if random.IntN(3) > 0 {
		entry = fmt.Appendf(entry, "/%d", random.IntN(map[int]int{4: 34, 6: 130}[family]))
	}
	return entry
}

// million is a set file as lists in use are: addresses and prefixes, a comment now and then, some IPv6.
func million() []byte {
	var b bytes.Buffer
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 1_000_000 {
		a := random.Uint32()
		switch i % 16 {
		case 0:
			fmt.Fprintf(&b, "2001:db8:%x:%x::/64\n", a>>16, a&0xffff)
		case 1, 2, 3:
			fmt.Fprintf(&b, "%d.%d.%d.0/24 ; list %d\n", a>>24, a>>16&255, a>>8&255, i)
		default:
			fmt.Fprintf(&b, "%d.%d.%d.%d\n", a>>24, a>>16&255, a>>8&255, a&255)
		}
	}
	return b.Bytes()
}

func TestMillionEntries(t *testing.T) {
	got, err := readAddresses(writeSet(t, string(million())))
	if err != nil || len(got) != 1_000_000 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
}

func BenchmarkReadSet(b *testing.B) {
	data := million()
	path := writeSet(b, string(data))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := readAddresses(path); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDiscreetErrorsDontQuote(t *testing.T) {
	path := writeSet(t, "192.0.2.1\nroot:$6$salt$hash\n")
	_, err := readAddresses(path)
	wrong, ok := errors.AsType[Errors](err)
	if !ok || len(wrong) != 1 || !strings.Contains(wrong.Error(), "root:$6") {
		t.Fatalf("read it: %v", err)
	}
	discreet := Errors{wrong[0].Discreet()}
	if text := discreet.Error(); strings.Contains(text, "root") || !strings.Contains(text, path+":2:1") || !strings.Contains(text, "one address or prefix a line, # or ; before a comment") {
		t.Errorf("discreet: %s", text)
	}
	if text := discreet.Quote().Error(); text != wrong.Error() {
		t.Errorf("quoted again: %s", text)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if text := discreet.Quote().Error(); text != discreet.Error() {
		t.Errorf("of a file that is gone: %s", text)
	}
}
