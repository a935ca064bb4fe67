package config

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"gardu/ctl/model"
)

var update = flag.Bool("update", false, "write what Parse says into testdata")

// TestGolden reads each testdata/*.txtar: gardu.yaml, the set files that it names, and in `errors` or `warnings` all
// that is to be said about them.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := unpack(t, archive)
			snapshot, warnings, err := Parse("gardu.yaml", files["gardu.yaml"], files.dir(t))

			said := make(map[string]string)
			if err != nil {
				if snapshot != nil || warnings != nil {
					t.Error("a snapshot or warnings come with an error")
				}
				said["errors"] = err.Error() + "\n"
			}
			for _, warning := range warnings {
				said["warnings"] += warning.String() + "\n"
			}
			for _, kind := range []string{"errors", "warnings"} {
				got := strings.NewReplacer(files.dir(t)+"/", "", files.dir(t), "DIR").Replace(said[kind])
				if *update {
					put(archive, kind, got)
				} else if want := string(files[kind]); got != want {
					t.Errorf("%s:\n%s\nwant:\n%s", kind, got, want)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// parts are the files of a case by name; "" is the directory that those for the decoder are in.
type parts map[string][]byte

func (p parts) dir(t *testing.T) string {
	t.Helper()
	return string(p[""])
}

func unpack(t *testing.T, archive *txtar.Archive) parts {
	t.Helper()
	files := parts{"": []byte(t.TempDir())}
	for _, file := range archive.Files {
		files[file.Name] = file.Data
		if filepath.Ext(file.Name) == ".netset" {
			if err := os.WriteFile(filepath.Join(files.dir(t), file.Name), file.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return files
}

// put replaces a file of the archive; an empty one is taken out.
func put(archive *txtar.Archive, name, text string) {
	files := archive.Files[:0]
	for _, file := range archive.Files {
		if file.Name != name {
			files = append(files, file)
		}
	}
	if text != "" {
		files = append(files, txtar.File{Name: name, Data: []byte(text)})
	}
	archive.Files = files
}

// mustParse parses a configuration that is right.
func mustParse(t *testing.T, text string) *model.Snapshot {
	t.Helper()
	snapshot, _, err := Parse("gardu.yaml", []byte(text), t.TempDir())
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return snapshot
}

func at(line, column int) model.Position {
	return model.Position{File: "gardu.yaml", Line: line, Column: column}
}

// TestEverything reads one of each thing, and compares the whole snapshot.
func TestEverything(t *testing.T) {
	got := mustParse(t, `
interfaces:
  eth0: {path: xdp-generic, egress: true}
  eth1:
sets:
  office: {entries: [203.0.113.0/24, "2001:db8:1::/48", 192.0.2.9]}
  web: {ports: [80, 8000-8099]}
filter:
  default: drop
  allow: "@office"
  rules:
    - name: all
      match: {src: "@office", not-dst: [198.51.100.0/24, 2001:db8::1], proto: tcp, dport: "@web"}
      action: pass
    - {name: numbers, match: {ttl: 0-5, dscp: ef, icmp-type: [8, 128]}, action: drop}
    - {name: rest, match: {}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: any
    proto: tcp
    forward: ipip
    affinity: source
    announce: {arp: false}
    backends:
      - {name: b1, address: 10.0.0.11, weight: 0}
      - {name: b2, address: "2001:db8::12"}
    health: {http: /healthz, port: 8080, every: 5s, timeout: 500ms, up: 1, down: 5}
  dns:
    address: 2001:db8::10
    port: 53
    proto: udp
    forward: dsr
    backends: [{name: b1, address: "2001:db8::11"}]
    health: {tcp: true, port: 53}
  range: {address: 192.0.2.11, port: 8000-8099, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.0.11}]}
flows:
  max: 5000
  idle: 10s
  active: 1m30s
  export:
    - {ipfix: "192.0.2.5:4739", transport: tcp, refresh: 30s, domain: 4294967295}
    - ipfix: collector.example:4739
    - {file: /var/log/gardu/./flows.csv, format: csv, rotate: {size: 1.5GB, age: 1h, keep: 0}}
    - {file: /flows.ndjson}
    - {kafka: ["k1.example:9092", "[2001:db8::9]:9092"]}
api: {socket: /tmp/gardu.sock, listen: "[::1]:9180", tls: {cert: /c.pem, key: /k.pem}, anonymous: none}
`)
	want := &model.Snapshot{
		Interfaces: []model.Interface{
			{Name: "eth0", Path: model.PathXDPGeneric, Egress: true, Pos: at(3, 3)},
			{Name: "eth1", Path: model.PathAuto, Pos: at(4, 3)},
		},
		Sets: []model.Set{
			{Name: "office", Prefixes: prefixes("203.0.113.0/24", "2001:db8:1::/48", "192.0.2.9/32"), Pos: at(6, 3)},
			{Name: "web", Ports: []model.Range{{Lo: 80, Hi: 80}, {Lo: 8000, Hi: 8099}}, Kind: model.Ports, Pos: at(7, 3)},
		},
		Filter: model.Filter{
			Default: model.Drop,
			Allow:   "office",
			Pos:     at(8, 1),
			Rules: []model.Rule{
				{Name: "all", Direction: model.In, Action: model.Pass, Pos: at(12, 7), Match: []model.Condition{
					{Field: "src", Set: "office", Pos: at(13, 20)},
					{Field: "dst", Not: true, Prefixes: prefixes("198.51.100.0/24", "2001:db8::1/128"), Pos: at(13, 40)},
					{Field: "proto", Ranges: []model.Range{{Lo: 6, Hi: 6}}, Pos: at(13, 79)},
					{Field: "dport", Set: "web", Pos: at(13, 91)},
				}},
				{Name: "numbers", Direction: model.In, Action: model.Drop, Pos: at(15, 7), Match: []model.Condition{
					{Field: "ttl", Ranges: []model.Range{{Lo: 0, Hi: 5}}, Pos: at(15, 36)},
					{Field: "dscp", Ranges: []model.Range{{Lo: 46, Hi: 46}}, Pos: at(15, 47)},
					{Field: "icmp-type", Ranges: []model.Range{{Lo: 8, Hi: 8}, {Lo: 128, Hi: 128}}, Pos: at(15, 62)},
				}},
				{Name: "rest", Direction: model.In, Action: model.Drop, Pos: at(16, 7), Match: []model.Condition{}},
			},
		},
		Services: []model.Service{
			{
				Name: "web", Address: netip.MustParseAddr("192.0.2.10"), Port: model.Range{Lo: 0, Hi: 65535},
				Proto: model.ProtoTCP, Forward: "ipip", Affinity: model.AffinitySource, Ring: 65537, OnDown: model.DownMove, Pos: at(18, 3),
				Backends: []model.Backend{
					{Name: "b1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 0, Pos: at(26, 9)},
					{Name: "b2", Address: netip.MustParseAddr("2001:db8::12"), Weight: 100, Pos: at(27, 9)},
				},
				Health: &model.Health{
					Status: model.Range{Lo: 200, Hi: 399},
					HTTP:   "/healthz", Port: 8080, Every: 5 * time.Second, Timeout: 500 * time.Millisecond,
					Up: 1, Down: 5, Pos: at(28, 5),
				},
			},
			{
				Name: "dns", Address: netip.MustParseAddr("2001:db8::10"), Port: model.Range{Lo: 53, Hi: 53},
				Proto: model.ProtoUDP, Forward: "dsr", Affinity: model.AffinityFlow, ARP: true, Ring: 65537, OnDown: model.DownMove, Pos: at(29, 3),
				Backends: []model.Backend{{Name: "b1", Address: netip.MustParseAddr("2001:db8::11"), Weight: 100, Pos: at(34, 16)}},
				Health: &model.Health{
					Status: model.Range{Lo: 200, Hi: 399},
					TCP:    true, Port: 53, Every: 2 * time.Second, Timeout: time.Second, Up: 2, Down: 3, Pos: at(35, 5),
				},
			},
			{
				Name: "range", Address: netip.MustParseAddr("192.0.2.11"), Port: model.Range{Lo: 8000, Hi: 8099},
				Proto: model.ProtoTCP, Forward: "dsr", Affinity: model.AffinityFlow, ARP: true, Ring: 65537, OnDown: model.DownMove, Pos: at(36, 3),
				Backends: []model.Backend{{Name: "b1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 100, Pos: at(36, 86)}},
			},
		},
		NAT: model.NATTable{Max: 200_000},
		Flows: model.Flows{Enabled: true, Max: 5000, Idle: 10 * time.Second, Active: 90 * time.Second, Sample: 1, Dropped: 65536, Pos: at(37, 1), Export: []model.Export{
			{IPFIX: "192.0.2.5:4739", Transport: model.TCP, Refresh: 30 * time.Second, Domain: 1<<32 - 1, Pos: at(42, 7)},
			{IPFIX: "collector.example:4739", Transport: model.UDP, Refresh: time.Minute, Domain: 1, Pos: at(43, 7)},
			{File: "/var/log/gardu/flows.csv", Format: model.CSV, Rotate: model.Rotate{Size: 1_500_000_000, Age: time.Hour}, Pos: at(44, 7)},
			{File: "/flows.ndjson", Format: model.NDJSON, Rotate: model.Rotate{Size: 100_000_000, Age: 24 * time.Hour, Keep: 10}, Pos: at(45, 7)},
			{Kafka: []string{"k1.example:9092", "[2001:db8::9]:9092"}, Topic: "gardu-flows", Pos: at(46, 7)},
		}},
		API: model.API{Socket: "/tmp/gardu.sock", Listen: netip.MustParseAddrPort("[::1]:9180"), Pos: at(47, 40), TLS: model.Certificate{Cert: "/c.pem", Key: "/k.pem", Pos: at(47, 54)}, Anonymous: model.AnonymousNone},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v\nwant\n%+v", got, want)
	}
}

func TestDefaults(t *testing.T) {
	got := mustParse(t, "interfaces: {eth0: }")
	want := &model.Snapshot{
		Interfaces: []model.Interface{{Name: "eth0", Path: model.PathAuto, Pos: at(1, 14)}},
		Filter:     model.Filter{Default: model.Pass},
		NAT:        model.NATTable{Max: 200_000},
		Flows:      model.Flows{Max: 1_000_000, Idle: time.Minute, Active: 5 * time.Minute, Sample: 1, Dropped: 65536},
		API:        model.API{Socket: "/run/gardu/gardu.sock", Anonymous: model.AnonymousRead},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v\nwant\n%+v", got, want)
	}
}

func TestFlowsAreEnabled(t *testing.T) {
	for text, want := range map[string]bool{
		"interfaces: {eth0: }":            false,
		"interfaces: {eth0: }\nflows:":    true,
		"interfaces: {eth0: }\nflows: {}": true,
		"services: {}":                    false,
		"services: {a: {address: 192.0.2.1, port: 1, proto: tcp, forward: dsr, backends: [{name: b, address: 10.0.0.1}]}}": true,
	} {
		if got := mustParse(t, text).Flows.Enabled; got != want {
			t.Errorf("%s\nenabled is %v", text, got)
		}
	}
}

func TestAllowList(t *testing.T) {
	for _, allow := range []string{"[192.0.2.0/24, 2001:db8::1]", "192.0.2.0/24"} {
		got := mustParse(t, "filter: {allow: "+allow+"}")
		if got.Filter.Allow != AllowSet || len(got.Sets) != 1 || got.Sets[0].Name != AllowSet || got.Sets[0].Prefixes == nil {
			t.Errorf("%s: %+v", allow, got)
		}
	}
	if isName(AllowSet) {
		t.Error("a user's set can have the name of the allow list's")
	}
}

func TestIsName(t *testing.T) {
	pattern := regexp.MustCompile(namePattern)
	for _, word := range []string{
		"", "a", "0", "A", "a.b_c-d", "-a", ".a", "_a", "a b", "a/b", "ä", strings.Repeat("a", 63), strings.Repeat("a", 64), "a\n", "a:b",
	} {
		if got := isName(word); got != pattern.MatchString(word) {
			t.Errorf("%q: %v, but the schema's pattern says otherwise", word, got)
		}
	}
}

// TestAnchors writes something once and uses it in many places.
func TestAnchors(t *testing.T) {
	got := mustParse(t, `
services:
  a: &a
    address: 192.0.2.1
    port: 80
    proto: tcp
    forward: dsr
    backends: &backends
      - {name: b1, address: 10.0.0.1}
  b: {<<: *a, port: 81}
  c: {address: 192.0.2.2, port: 80, proto: tcp, forward: ipip, backends: *backends}
`)
	b, c := got.Services[1], got.Services[2]
	if b.Port.Lo != 81 || b.Forward != "dsr" || len(b.Backends) != 1 {
		t.Errorf("merged: %+v", b)
	}
	if c.Port.Lo != 80 || len(c.Backends) != 1 || c.Backends[0].Weight != 100 {
		t.Errorf("aliased: %+v", c)
	}
}

func TestLoadFindsSetFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := write("lists/drop.netset", "192.0.2.0/24\n")
	path := write("gardu.yaml", "sets: {bad: {file: lists/drop.netset}, worse: {file: "+list+"}}")
	got, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range got.Sets {
		if set.File != list || len(set.Prefixes) != 1 {
			t.Errorf("%+v, want the file %s", set, list)
		}
	}
}

func TestLoadOfWhatIsNoFile(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/nonexistent/gardu.yaml"} {
		if _, _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSizesAreBounded(t *testing.T) {
	var expanded strings.Builder // 10^8 backends in half a megabyte
	expanded.WriteString("services:\n  s: {backends: &b [" + strings.Repeat("{name: b, address: 10.0.0.1}, ", 10_000) + "]}\n")
	for i := range 10_000 {
		fmt.Fprintf(&expanded, "  s%d: {backends: *b}\n", i)
	}
	for want, text := range map[string]string{
		"the configuration is larger than 64 MiB":                             strings.Repeat(" ", maxBytes+1),
		"the document has more than 4000000 values with its anchors expanded": expanded.String(),
		"500 more errors":            "filter:\n  rules:\n" + strings.Repeat("  - {name: X, match: {}, action: pass}\n", mostErrors+500),
		"exceeded max depth":         strings.Repeat("[", 20_000),
		"is nested more than 8 deep": "filter: &f {<<: *f}",
	} {
		_, _, err := Parse("gardu.yaml", []byte(text), "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %.1000s", want, fmt.Sprint(err))
		}
	}
}
