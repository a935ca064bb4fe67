package config

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gardu/ctl/model"
)

func TestFeedFormats(t *testing.T) {
	want := prefixes("192.0.2.1/32", "198.51.100.0/24", "2001:db8::/32")
	for name, tc := range map[string]struct {
		format model.SetFormat
		text   string
	}{
		"plain":            {model.FormatPlain, "192.0.2.1 ; SBL1, of 2026\n# none, here\n198.51.100.0/24\n2001:db8::/32\n"},
		"CSV":              {model.FormatCSV, "192.0.2.1,2026-01-01,\"a, b\"\n198.51.100.0/24,\n2001:db8::/32\n"},
		"CSV of one":       {model.FormatCSV, "192.0.2.1,x\n198.51.100.0/24\n\n2001:db8::/32"},
		"CSV with header":  {model.FormatCSV, "# by us, for you\n; too\nip,first seen\n192.0.2.1,1\n198.51.100.0/24,2\n2001:db8::/32,3\n"},
		"CSV, quoted":      {model.FormatCSV, "\"network\",\"n\"\r\n\"192.0.2.1\",\"1\"\r\n\" 198.51.100.0/24 \",\"2\"\r\n\"2001:db8::/32\",3\r\n"},
		"CSV, blanks":      {model.FormatCSV, "  192.0.2.1 , 1\n\t198.51.100.0/24\t,2\n2001:db8::/32 # why,3\n"},
		"JSON strings":     {model.FormatJSONLines, "\"192.0.2.1\"\n\"198.51.100.0/24\"\r\n\n\"2001:db8::/32\""},
		"JSON objects":     {model.FormatJSONLines, `{"ip":"192.0.2.1","n":1}` + "\n" + `{"seen": true, "ip": "198.51.100.0/24"}` + "\n" + `{ "x" : [1, {"ip": 2}], "ip" : "2001:db8::\/32" }`},
		"Spamhaus":         {model.FormatJSONLines, `{"cidr":"192.0.2.1","sblid":"SBL1","rir":"apnic"}` + "\n" + `{"cidr":"198.51.100.0/24"}` + "\n" + `{"cidr":"2001:db8::/32"}` + "\n" + `{"type":"metadata","timestamp":1,"size":3}`},
		"JSON, first key":  {model.FormatJSONLines, `{"network":"AS64496","ip":"192.0.2.1"}` + "\n" + `{"ip":null,"cidr":"198.51.100.0/24"}` + "\n" + `{"prefix":"2001:db8::/32","addr":"192.0.2.9"}`},
		"JSON, commented":  {model.FormatJSONLines, "# by us\n{\"address\":\"192.0.2.1\"}\n{\"network\":\"198.51.100.0/24\"}\n{\"ip_prefix\":\"2001:db8::/32\"}\n"},
		"JSON of both":     {model.FormatJSONLines, "\"192.0.2.1\"\n{\"subnet\":\"198.51.100.0/24\"}\n{\"ipv6_prefix\":\"2001:db8::/32\"}\n"},
		"JSON with a BOM":  {model.FormatJSONLines, "\ufeff\"192.0.2.1\"\n{\"ip_address\":\"198.51.100.0/24\"}\n{\"ip\":\"2001:db8::/32\"}\n"},
		"JSON, one \\u":    {model.FormatJSONLines, "{\"ip\":\"192.0.2.\\u0031\"}\n{\"\\u0069p\":\"198.51.100.0/24\"}\n{\"ip\":\"2001:db8::/32\",\"why\":\"\\\"}\"}\n"},
		"plain with a BOM": {model.FormatPlain, "\ufeff# list\r\n192.0.2.1\r\n198.51.100.0/24\r\n2001:db8::/32\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := detect([]byte(strings.TrimPrefix(tc.text, "\ufeff"))); got != tc.format {
				t.Errorf("taken for %s", got)
			}
			for _, format := range []model.SetFormat{model.FormatAuto, tc.format} {
				set, err := ReadSet(model.Set{File: writeSet(t, tc.text), Format: format})
				if err != nil || !slices.Equal(set.Prefixes, want) {
					t.Errorf("%s: %v, %v", format, set.Prefixes, err)
				}
			}
		})
	}
}

func TestWrongFeedLines(t *testing.T) {
	const good = "192.0.2.7"
	for _, tc := range []struct{ first, line, want string }{
		{good + ",", "example,1", `"example" is not an IP address`},
		{good + ",", ",1", "the first column is empty"},
		{good + ",", `"192.0.2.1,1`, "a quote is not closed"},
		{good + ",", `"",1`, "the first column is empty"},
		{good + ",", "192.0.2.1;2", ""}, // a comment
		{`"` + good + `"`, "192.0.2.1", "more than one JSON value on a line"},
		{`"` + good + `"`, `"192.0.2.1`, "not JSON: unexpected EOF"},
		{`"` + good + `"`, `"192.0.2.1" "192.0.2.2"`, "more than one JSON value on a line"},
		{`"` + good + `"`, `"192.0.2.1",`, "more than one JSON value on a line"},
		{`"` + good + `"`, `""`, "the string is empty"},
		{`"` + good + `"`, `"example"`, `"example" is not an IP address`},
		{`"` + good + `"`, `7`, "the entry is not a string"},
		{`"` + good + `"`, `["192.0.2.1"]`, "the entry is not a string"},
		{`"` + good + `"`, `{"ip":7}`, "the entry is not a string"},
		{`"` + good + `"`, `{"ip":"192.0.2.1","n":07}`, "not JSON: invalid character '7' after object key:value pair"},
		{`"` + good + `"`, `{"ip":"192.0.2.1",}`, "not JSON: invalid character '}' looking for beginning of object key string"},
		{`"` + good + `"`, `{"ip":"192.0.2.1"`, "not JSON: unexpected EOF"},
		{`"` + good + `"`, `{"ip":"192.0.2.1"}}`, "more than one JSON value on a line"},
		{`"` + good + `"`, `{"ip":["192.0.2.1"]}`, "the entry is not a string"},
		{`"` + good + `"`, `{"host":"192.0.2.1"}`, `the object has none of the keys that hold an entry, but "host"`},
		{`"` + good + `"`, `{"ip":""}`, "the string is empty"},
		{`"` + good + `"`, `{}`, "the object has none of the keys that hold an entry"},
		{`"` + good + `"`, `{"type":"metadata"}`, ""},
	} {
		path := writeSet(t, tc.first+"\n "+tc.line+"\n")
		_, err := readAddresses(path)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.line, err)
			}
			continue
		}
		wrong, _ := errors.AsType[Errors](err)
		if len(wrong) != 1 || !strings.HasPrefix(wrong[0].Msg, tc.want) || wrong[0].Pos.String() != path+":2:2" {
			t.Errorf("%s: %v, want %s", tc.line, err, tc.want)
		}
	}
}

func TestPortFiles(t *testing.T) {
	want := []model.Range{{Lo: 80, Hi: 80}, {Lo: 8000, Hi: 8099}}
	for _, text := range []string{"80\n8000-8099 # alt\n", "port,what\n80,http\n8000-8099,alt\n", "{\"port\":80}\n{\"ports\":\"8000-8099\"}\n", "\"80\"\n\"8000-8099\"\n"} {
		set, err := ReadSet(model.Set{File: writeSet(t, text), Kind: model.Ports})
		if err != nil || !slices.Equal(set.Ports, want) || set.Prefixes != nil {
			t.Errorf("%q: %v %v, %v", text, set.Ports, set.Prefixes, err)
		}
	}
	_, err := ReadSet(model.Set{File: writeSet(t, "80\n0\n"), Kind: model.Ports})
	wrong, _ := errors.AsType[Errors](err)
	if len(wrong) != 1 || wrong[0].Msg != "no packet has port 0" || !strings.Contains(wrong[0].Allowed, "one port or range of ports a line") {
		t.Errorf("%v", err)
	}
}

func TestPairFiles(t *testing.T) {
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:53")}
	for _, text := range []string{"192.0.2.1:443 # web\n[2001:db8::1]:53\n", "192.0.2.1:443,web\n[2001:db8::1]:53,dns\n",
		"\"192.0.2.1:443\"\n{\"pair\":\"[2001:db8::1]:53\"}\n"} {
		set, err := ReadSet(model.Set{File: writeSet(t, text), Kind: model.Pairs})
		if err != nil || !slices.Equal(set.Pairs, want) {
			t.Errorf("%q: %v, %v", text, set.Pairs, err)
		}
	}
	for entry, want := range map[string]string{
		"192.0.2.1":         `"192.0.2.1" is not an address and a port`,
		"192.0.2.1:0":       "no packet has port 0",
		"192.0.2.1:65536":   `"192.0.2.1:65536" is not an address and a port`,
		"2001:db8::1:53":    `"2001:db8::1:53" is not an address and a port`,
		"[fe80::1%eth0]:53": `"[fe80::1%eth0]:53" has a zone`,
	} {
		_, err := ReadSet(model.Set{File: writeSet(t, "192.0.2.9:1\n"+entry+"\n"), Kind: model.Pairs})
		wrong, _ := errors.AsType[Errors](err)
		if len(wrong) != 1 || wrong[0].Msg != want {
			t.Errorf("%s: %v, want %s", entry, err, want)
		}
	}
}

// Filter.allow is about sources alone.
func TestAllowTakesNoPairs(t *testing.T) {
	_, _, err := Parse("gardu.yaml", []byte("sets: {web: {pairs: [\"192.0.2.1:443\"]}}\nfilter: {allow: \"@web\"}\n"), ".")
	if err == nil || !strings.Contains(err.Error(), "filter.allow takes a set of addresses, and web is a set of pairs") {
		t.Errorf("%v", err)
	}
}

// Blocks are parsed side by side; nothing of that may show.
func TestBlocksAreJoined(t *testing.T) {
	var text strings.Builder
	var want []netip.Prefix
	random := rand.New(rand.NewPCG(5, 6))
	wrongAt := []int{150_000, 150_001, 299_999}
	masked := 0
	for range 300_000 {
		a := random.Uint32()
		addr := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		bits := 8 + random.IntN(25)
		prefix := netip.PrefixFrom(addr, bits).Masked()
		if prefix.Addr() != addr {
			masked++
		}
		want = append(want, prefix)
		fmt.Fprintf(&text, "%s/%d ; %s\n", addr, bits, strings.Repeat("x", random.IntN(20)))
	}
	set, warnings, err := readSet(model.Set{File: writeSet(t, text.String())})
	if err != nil || !slices.Equal(set.Prefixes, want) {
		t.Fatalf("%d prefixes, %v", len(set.Prefixes), err)
	}
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0].Msg, fmt.Sprintf("%d entries have bits", masked)) {
		t.Errorf("warnings %v, want %d", warnings, masked)
	}
	lines := strings.Split(text.String(), "\n")
	for _, at := range wrongAt {
		lines[at] = "wrong"
	}
	_, err = readAddresses(writeSet(t, strings.Join(lines, "\n")))
	wrong, _ := errors.AsType[Errors](err)
	if len(wrong) != len(wrongAt) {
		t.Fatalf("%v", err)
	}
	for i, at := range wrongAt {
		if wrong[i].Pos.Line != at+1 || wrong[i].Line != "wrong" {
			t.Errorf("%v, want line %d", wrong[i], at+1)
		}
	}
}

func FuzzFeed(f *testing.F) {
	for _, seed := range []string{"192.0.2.1\n", "a,b\n192.0.2.1,\n", "{\"ip\":\"::1\"}\n", "\"::\"\n", "::/0#\n", "{\"ip\":{}}", "\ufeff,\n", "{\"ip\":\"1.2.3.4\",\"a\":\"\\\"\"}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range setFormats {
			set, err := ReadSet(model.Set{File: writeSet(t, text), Format: format})
			if (err == nil) != (len(set.Prefixes) > 0) {
				t.Errorf("%d prefixes, %v", len(set.Prefixes), err)
			}
			for _, p := range set.Prefixes {
				if !p.IsValid() || p != p.Masked() {
					t.Errorf("%v", p)
				}
			}
			// What the short way takes, the general one takes for the same.
			for line := range strings.Lines(text) {
				line := []byte(strings.TrimSpace(line))
				if len(line) == 0 || line[0] != '{' {
					continue
				}
				if flat, ok := (jsonKeys{}).flat(line); ok {
					if general, err := (jsonKeys{}).general(line); err != nil || string(general) != string(flat) {
						t.Errorf("%s: %q, in general %q, %v", line, flat, general, err)
					}
				}
			}
		}
	})
}

// BenchmarkFeeds reads a million entries in each format and family.
func BenchmarkFeeds(b *testing.B) {
	for _, family := range []int{4, 6} {
		for format, layout := range map[model.SetFormat]string{
			model.FormatPlain: "%s\n", model.FormatCSV: "%s,2026-11-26T12:00:00Z,scanner,7\n",
			model.FormatJSONLines: "{\"seen\":\"2026-11-26T12:00:00Z\",\"cidr\":\"%s\",\"n\":7}\n",
		} {
			b.Run(fmt.Sprintf("%s/IPv%d", format, family), func(b *testing.B) {
				random := rand.New(rand.NewPCG(1, 2))
				var text strings.Builder
				for range 1_000_000 {
					entry := randomEntry(random, family)
					for _, _, err := parseEntry(string(entry)); err != nil; _, _, err = parseEntry(string(entry)) {
						entry = randomEntry(random, family)
					}
					fmt.Fprintf(&text, layout, entry)
				}
				set := model.Set{File: writeSet(b, text.String())}
				b.SetBytes(int64(text.Len()))
				for b.Loop() {
					if _, err := ReadSet(set); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
