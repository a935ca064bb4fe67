package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/model"
)

// TestFindLine: of each format the line is found that a reader of the file would point at.
func TestFindLine(t *testing.T) {
	bad := Entry{Prefix: netip.MustParsePrefix("203.0.113.0/24")}
	long := strings.Repeat("198.51.100.7 # again and again\n", 2*setBlock/30)
	for _, c := range []struct {
		name, text string
		kind       model.SetKind
		entry      Entry
		line       int
	}{
		{"plain", "# feed\n\n198.51.100.7\n203.0.113.0/24 ; why\n", model.Addresses, bad, 4},
		{"bits behind the length", "198.51.100.7\n203.0.113.9/24\n", model.Addresses, bad, 2},
		{"twice", "203.0.113.0/24\n203.0.113.0/24\n", model.Addresses, bad, 1},
		{"the first line, behind a mark", "\ufeff203.0.113.0/24\n", model.Addresses, bad, 1},
		{"CSV", "prefix,why\n198.51.100.7,a\n\"203.0.113.0/24\",b\n", model.Addresses, bad, 3},
		{"JSON lines", "{\"cidr\":\"198.51.100.0/24\"}\n{\"cidr\":\"203.0.113.0/24\"}\n", model.Addresses, bad, 2},
		{"ports", "80\n8000-8099\n", model.Ports, Entry{Ports: model.Range{Lo: 8000, Hi: 8099}}, 2},
		{"pairs", "192.0.2.1:80\n[2001:db8::1]:53\n", model.Pairs, Entry{Pair: netip.MustParseAddrPort("[2001:db8::1]:53")}, 2},
		{"far behind", long + "203.0.113.0/24", model.Addresses, bad, strings.Count(long, "\n") + 1},
		{"not there", "198.51.100.7\n", model.Addresses, bad, 0},
	} {
		path := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		set, err := ReadSet(model.Set{Name: "list", File: path, Kind: c.kind})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if line, err := FindLine(set, c.entry); line != c.line || err != nil {
			t.Errorf("%s: line %d, %v instead of %d", c.name, line, err, c.line)
		}
		if err := os.WriteFile(path, []byte("# new\n"+c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if line, err := FindLine(set, c.entry); !errors.Is(err, ErrChanged) {
			t.Errorf("%s, changed: line %d, %v", c.name, line, err)
		}
	}
}
