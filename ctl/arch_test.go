// Package ctl_test holds the house rules that a compiler doesn't check: who may import whom, every package says what
// it is, and no field, mode or reason is without a packet test.
package ctl_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "gardu"

// everything marks packages that wire the others together.
const everything = "*"

// allowed names every package under ctl/ and the packages of ours that its code (not its tests) may import. A new
// package is a new row: say here what it depends on before it does.
var allowed = map[string]string{
	// Values. They import nothing of ours.
	"abi":        "",
	"abi/gen":    "",
	"model":      "",
	"pkt":        "",
	"pkt/verify": "",
	"yaml":       "",
	"parquet":    "",
	// Pure functions between values: they never touch the kernel.
	"rule":    "model",
	"expr":    "model rule",
	"lb":      "abi model",
	"config":  "abi lb model rule yaml",
	"compile": "abi lb model rule",
	"fold":    "",
	// The kernel.
	"dataplane":    "abi compile fold model",
	"netdev":       "model",
	"flow":         "abi",
	"flow/history": "expr flow",
	"event":        "abi flow ring",
	"capture":      "abi expr ring",
	"ring":         "",
	"inspect":      "abi",
	"privilege":    "",
	"journal":      "",
	"lb/health":    "lb model",
	// What is wanted becomes what is.
	"reconcile": "abi compile lb model",
	"daemon":    everything,
	// Flows go out.
	"flow/export":            "flow flow/export/ipfix flow/export/line",
	"flow/export/ipfix":      "abi flow",
	"flow/export/line":       "flow rule",
	"flow/export/kafka":      "flow flow/export flow/export/line model",
	"flow/export/exporttest": "",
	// People and programs.
	"lint":       "config explain lb model pkt",
	"api":        "config expr model page pkt rule",
	"api/client": "api",
	"metric":     "abi api flow",
	"top":        "api expr",
	"page":       "",
	"plan":       "api compile lb model rule",
	"explain":    "abi api compile config dataplane event lb model pkt rule",
	"doctor":     "compile dataplane lb model netdev pkt",
	"cmd/gardu":  everything,
	// Tests, and what is seen of them.
	"api/apitest": "api model pkt",
	"testnet":     "netdev",
	"demo":        "api api/client testnet",
	"e2e":         "",
	"vmtest":      "",
}

// confined says which packages may use a library, tests included.
var confined = map[string]string{
	"github.com/cilium/ebpf":           "abi abi/gen capture dataplane flow fold event inspect ring",
	"github.com/vishvananda/netlink":   "netdev testnet",
	"github.com/vishvananda/netns":     "testnet",
	"github.com/google/gopacket":       "pkt pkt/verify", // only to test
	"github.com/ncruces/go-sqlite3":    "flow/history",
	"github.com/spf13/cobra":           "cmd/gardu",
	"github.com/spf13/pflag":           "cmd/gardu",
	"github.com/aymanbagabas/go-udiff": "cmd/gardu",
	"github.com/prometheus":            "metric",
	"charm.land/bubbletea":             "top",
	"github.com/charmbracelet/x":       "top e2e",
	"go.yaml.in/yaml":                  "cmd/gardu config yaml",
	"github.com/quic-go/quic-go":       "e2e",             // only to test
	"github.com/getkin/kin-openapi":    "api api/apitest", // only to test
	"github.com/netsampler/goflow2":    "flow/export/exporttest",
	"github.com/twmb/franz-go":         "daemon flow/export/kafka", // the daemon only to test it
	"github.com/parquet-go":            "parquet",
	"github.com/apache/arrow-go":       "cmd/gardu parquet", // only to test
	"C":                                "",
	"unsafe":                           "abi capture dataplane event flow netdev privilege",
}

// source is one parsed Go file.
type source struct {
	path, pkg string // pkg is relative to ctl/
	file      *ast.File
	test      bool
}

func (s source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// sources parses the heads of all Go files under ctl/.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	walk(t, ".", func(path string) {
		if filepath.Ext(path) != ".go" || filepath.Dir(path) == "." {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{path, filepath.ToSlash(filepath.Dir(path)), file, strings.HasSuffix(path, "_test.go")})
	})
	return all
}

// walk calls visit for every file under root, except in testdata.
func walk(t *testing.T, root string, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		visit(path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		row, known := allowed[s.pkg]
		if !known {
			t.Errorf("%s: package %s has no row in the table of allowed imports", s.path, s.pkg)
			continue
		}
		for _, path := range s.imports() {
			if ours, ok := strings.CutPrefix(path, module+"/ctl/"); ok {
				if !s.test && row != everything && !slices.Contains(strings.Fields(row), ours) {
					t.Errorf("%s imports %s; %s may import %q only", s.path, ours, s.pkg, row)
				}
				continue
			}
			for library, users := range confined {
				if (path == library || strings.HasPrefix(path, library+"/")) && !slices.Contains(strings.Fields(users), s.pkg) {
					t.Errorf("%s imports %s, which only %q may", s.path, path, users)
				}
			}
		}
	}
}

// byThemselves are files of commands that load programs or read the kernel instead of asking the daemon: what is done without a daemon, and
// what only root may.
var byThemselves = strings.Fields("bpf.go check.go cost.go decap.go demo.go detach.go doctor.go errors.go init.go offline.go plan.go replay.go run.go")

// All that concerns a daemon, commands ask by the client of its API.
func TestCommandsAskTheAPI(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg != "cmd/gardu" || s.test || slices.Contains(byThemselves, filepath.Base(s.path)) {
			continue
		}
		for _, path := range s.imports() {
			ours, _ := strings.CutPrefix(path, module+"/ctl/")
			if _, known := allowed[ours]; known && !slices.Contains(strings.Fields("abi api api/client config expr model parquet pkt plan rule top"), ours) {
				t.Errorf("%s imports %s, which is for those who don't ask the daemon", s.path, ours)
			}
		}
	}
}

func TestTableHasNoStalePackages(t *testing.T) {
	present := map[string]bool{}
	for _, s := range sources(t) {
		present[s.pkg] = true
	}
	for pkg := range allowed {
		if !present[pkg] {
			t.Errorf("the table of allowed imports names %s, which does not exist", pkg)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	docs := map[string]int{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		docs[s.pkg] += 0
		if s.file.Doc == nil {
			continue
		}
		docs[s.pkg]++
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command " + filepath.Base(s.pkg) + " "
		}
		if !strings.HasPrefix(s.file.Doc.Text(), want) {
			t.Errorf("%s: the package comment does not begin with %q", s.path, want)
		}
	}
	for pkg, n := range docs {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want one", pkg, n)
		}
	}
}

// A Go file in a directory with C files breaks CGO_ENABLED=0 builds.
func TestGoAndCStayApart(t *testing.T) {
	for _, dir := range []string{"../bpf", "../xdp", "../tc", "../bench/bpf"} {
		walk(t, dir, func(path string) {
			if filepath.Ext(path) == ".go" {
				t.Errorf("%s: Go files live under ctl/ and bench/", path)
			}
		})
	}
	walk(t, ".", func(path string) {
		if ext := filepath.Ext(path); ext == ".c" || ext == ".h" {
			t.Errorf("%s: C files live in bpf/, xdp/ and tc/", path)
		}
	})
}

var leftover = regexp.MustCompile(`\b(bpf_printk|bpf_trace_printk|TODO|FIXME|XXX)\b`)

func TestC(t *testing.T) {
	const license = "/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */\n"
	for _, dir := range []string{"../bpf", "../xdp", "../tc", "../bench/bpf"} {
		walk(t, dir, func(path string) {
			text := read(t, path)
			if !strings.HasPrefix(text, license) {
				t.Errorf("%s does not begin with its SPDX line", path)
			}
			if found := leftover.FindString(text); found != "" {
				t.Errorf("%s: %s was left in", path, found)
			}
		})
	}
}

// packetTests is the text of all packet tests.
func packetTests(t *testing.T) string {
	t.Helper()
	paths, err := filepath.Glob("explain/testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no packet tests in explain/testdata (%v)", err)
	}
	var all strings.Builder
	for _, path := range paths {
		all.WriteString(read(t, path))
	}
	return all.String()
}

// untestable are the reasons that no packet on the wire can bring about.
var untestable = map[string]string{
	"none":          "never counted",
	"no-tables":     "cannot happen",
	"reject-failed": "likewise, or a bundle that the kernel can't make one packet of",
	"nat-full":      "the table of translations is large: see ctl/dataplane/nats_test.go",
	"encap-failed":  "drivers that reserve too little headroom for XDP",
}

func TestEveryReasonHasAPacketTest(t *testing.T) {
	tests := packetTests(t)
	for _, reason := range rows(t, "../bpf/reasons.h", `\w+, \w+, "([a-z-]+)"`) {
		if untestable[reason] == "" && !mentions(tests, reason) {
			t.Errorf("no packet test in explain/testdata expects the reason %s", reason)
		}
	}
}

func TestEveryFieldHasAPacketTest(t *testing.T) {
	tests := packetTests(t)
	for _, field := range rows(t, "../bpf/fields.h", `\w+, "([a-z-]+)"`) {
		for _, key := range []string{field, "not-" + field} {
			if !mentions(tests, key+":") {
				t.Errorf("no packet test in explain/testdata matches on %s", key)
			}
		}
	}
}

func TestEveryModeHasAPacketTest(t *testing.T) {
	tests := packetTests(t)
	for _, mode := range rows(t, "../bpf/modes.h", `\w+, (\w+), "`) {
		if !mentions(tests, "forward: "+mode) {
			t.Errorf("no packet test in explain/testdata forwards by %s", mode)
		}
	}
}

// rows reads one column of an X-macro table: what the group in pattern matches, a row X(...).
func rows(t *testing.T, header, pattern string) []string {
	t.Helper()
	var column []string
	for _, match := range regexp.MustCompile(`(?m)^\tX\(`+pattern).FindAllStringSubmatch(read(t, header), -1) {
		column = append(column, match[1])
	}
	if len(column) == 0 {
		t.Fatalf("%s has no rows", header)
	}
	return column
}

// mentions tells whether word is in text and not a part of a longer word.
func mentions(text, word string) bool {
	return regexp.MustCompile(`(?m)(^|[^\w-])` + regexp.QuoteMeta(word) + `($|[^\w-])`).MatchString(text)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
