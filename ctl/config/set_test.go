package config

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func writeSet(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set.netset")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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
		"extremes":               {"255.255.255.255\n0.0.0.0\n", prefixes("255.255.255.255/32", "0.0.0.0/32")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadSet(writeSet(t, tc.text))
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
		"\x00\x1b[31m\xff":        `"\x00\x1b[31m\xff" is not an IP address`,
		strings.Repeat("9", 9999): `"` + strings.Repeat("9", 60) + `..." is not an IP address`,
	} {
		path := writeSet(t, "192.0.2.7\n  "+line+"\n")
		_, err := ReadSet(path)
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
		if text := err.Error(); len(text) > 1000 || strings.ContainsAny(text, "\x00\x1b") || !utf8.ValidString(text) {
			t.Errorf("%q: the message is too long or has control characters: %q", line, text)
		}
	}
}

func TestSetErrorsAreBounded(t *testing.T) {
	_, err := ReadSet(writeSet(t, strings.Repeat("junk\n", 5000)))
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
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                           "is not a regular file",
		fifo:                          "is not a regular file",
		"/dev/zero":                   "is not a regular file",
		filepath.Join(dir, "absent"):  "no such file or directory",
		writeSet(t, ""):               "the file holds no entry",
		writeSet(t, "# nothing\n \n"): "the file holds no entry",
	} {
		if _, err := ReadSet(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if _, err := ReadSet(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file is %v, want os.ErrNotExist", err)
	}
}

func TestSetSizeIsBounded(t *testing.T) {
	path := writeSet(t, "")
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := readRegular(path, 1<<20-1); err == nil {
		t.Error("a file above the limit is read")
	}
	if data, err := readRegular(path, 1<<20); err != nil || len(data) != 1<<20 {
		t.Errorf("a file at the limit: %d bytes, %v", len(data), err)
	}
}

// TestFastParserAgrees compares the parser for the common case with the general one, on right and wrong entries.
func TestFastParserAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	alphabet := []byte("0123456789./0125a:")
	right := 0
	for range 300_000 {
		a := random.Uint32()
		entry := fmt.Appendf(nil, "%d.%d.%d.%d", a>>24, a>>16&255, a>>8&255, a&255)
		if random.IntN(3) > 0 {
			entry = fmt.Appendf(entry, "/%d", random.IntN(34))
		}
		if random.IntN(2) == 0 {
			entry[random.IntN(len(entry))] = alphabet[random.IntN(len(alphabet))]
		}
		fast, fastBits, ok := parseEntry4(entry)
		general, bits, err := parseEntry(string(entry))
		if ok != (err == nil) || ok && (fast != general || fastBits != bits) {
			t.Fatalf("%s: %v %v %v, the general parser says %v %v %v", entry, fast, fastBits, ok, general, bits, err)
		}
		if ok {
			right++
		}
	}
	if right < 100_000 {
		t.Errorf("only %d entries were right", right)
	}
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
	got, err := ReadSet(writeSet(t, string(million())))
	if err != nil || len(got) != 1_000_000 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
}

func BenchmarkReadSet(b *testing.B) {
	data := million()
	path := writeSet(b, string(data))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := ReadSet(path); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDiscreetErrorsDontQuote(t *testing.T) {
	path := writeSet(t, "192.0.2.1\nroot:$6$salt$hash\n")
	_, err := ReadSet(path)
	wrong, ok := errors.AsType[Errors](err)
	if !ok || len(wrong) != 1 || !strings.Contains(wrong.Error(), "root:$6") {
		t.Fatalf("read it: %v", err)
	}
	discreet := Errors{wrong[0].Discreet()}
	if text := discreet.Error(); strings.Contains(text, "root") || !strings.Contains(text, path+":2:1") || !strings.Contains(text, setLine) {
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
