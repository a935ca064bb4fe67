package yaml

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var documents = flag.Int("documents", 20_000, "how many random documents to compare")

// dump prints a tree with all that tells nodes apart.
func dump(n *Node) string {
	if n == nil {
		return "nothing\n"
	}
	var b strings.Builder
	var walk func(n *Node, depth int)
	walk = func(n *Node, depth int) {
		fmt.Fprintf(&b, "%*s%d:%d kind %d %q %s %v\n", 2*depth, "", n.Line, n.Column, n.Kind, n.Value, n.Tag, n.Tagged)
		if n.Kind != AliasNode {
			for _, content := range n.Content {
				walk(content, depth+1)
			}
		}
	}
	walk(n, 0)
	return b.String()
}

// agree makes sure that what the quick reader takes is what the library makes of it. It tells whether it took it.
func agree(t *testing.T, text string) bool {
	t.Helper()
	quick := readQuick(text)
	for part := 1; part < 50; part += 1 + part/4 {
		if parts := readParts(text, part); (parts == nil) != (quick == nil) || quick != nil && dump(parts) != dump(quick) {
			t.Fatalf("%q is read in parts of %d bytes as\n%sand at once as\n%s", text, part, dump(parts), dump(quick))
		}
	}
	if quick == nil {
		return false
	}
	any, err := readAny([]byte(text))
	if err != nil {
		t.Fatalf("%q\nis read quickly as\n%sand not by the library: %v", text, dump(quick), err)
	}
	if got, want := dump(quick), dump(any); got != want {
		t.Fatalf("%q\nis read quickly as\n%sand by the library as\n%s", text, got, want)
	}
	return true
}

// quickly are documents that the quick reader must take: what people and programs write.
var quickly = []string{
	"a: 1\nb: two words # why\nc:\n  d: \"x y\"\n  e: 'z'\n",
	"---\na: 1",
	"a:\nb: ~\nc: null\nd: ''\n",
	"a:\n- b\n- c: 1\n  d: 2\n-\n- - e\n"[:len("a:\n- b\n- c: 1\n  d: 2\n-\n")],
	"# Ärger – mit Umlaut\nrules:\n  - {name: a, match: {src: 10.0.0.0/8, dport: [22, 80-90]}, action: drop}\n\n  # next\n  - name: b\n    match:\n      src: \"@office\"\n    action: pass\n",
	"{\n  \"a\": {\"b\": [1, 2]},\n  \"c\": \"d\" # x\n}\n",
	"a: {}\nb: []\nc: [ x , y ]\nd: {e : f}\n",
	"a: http://example.com:80/x#y\nb: 2001:db8::1\nc: 1/100\n",
	"- a\n- {b: c}\n",
	"a:\n  b:\n    c:\n  d:\n",
	"a:   \n    b: 1   \n\n\n",
	"\n# only\n\na: 1\n",
	"a: {b: c,\n  d: e}\nf: 1\n",
	"x:\n  - a: {b: c}\n    d:\n      - 1\n      - 2\n  - e:\n",
}

func TestQuickTakes(t *testing.T) {
	for _, text := range quickly {
		if !agree(t, text) {
			t.Errorf("%q is left to the library", text)
		}
	}
}

// leftAlone are documents that only look easy.
var leftAlone = []string{
	"", "\n", "# nothing\n", "word", "a: b\n  c", "a: b\n\n   c: d", "a: |\n  - {b: c}\n", "a: \"b\n  c\"", "a: &x 1\nb: *x\n", "a: !!str 1\n", "<<: {a: b}\n",
	"a: 1\n---\nb: 2\n", "a: 1\n...\n", "%YAML 1.1\n---\na: 1\n", "? a\n: b\n", "a:\tb\n", "\ta: b\n", "a: b: c\n", "a: [b\n", "a: {b}\n", "a: [b: c]\n",
	"a: 'it''s'\n", "a: \"\\x41\"\n", "a: {b: c}: d\n", "a: [x] y\n", "- a\nb: c\n", "a: 1\n b: 2\n", "a:\n    b: 1\n  c: 2\n", "a: @b\n", "a: `b\n", "a: - b\n", "a: é\n",
	"a: 1\r\nb: 2\r\n", "a: {b: ::1}\n", "a: {b: c:}\n", "a: {b: c d\n  e}\n", "a: \"b\"c\n", "a: {\"b\"{c: d}}\n", "a: b #\x01\n", "a: 1 #\u2028b: 2\n", "\ufeffa: 1\n",
}

func TestQuickLeavesAlone(t *testing.T) {
	for _, text := range leftAlone {
		if agree(t, text) {
			t.Errorf("%q is read quickly; if that is right, it belongs to the other list", text)
		}
	}
}

// TestReferenceIsQuick makes sure that the quick reader takes the configurations that users begin with.
func TestReferenceIsQuick(t *testing.T) {
	paths, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	examples, err := filepath.Glob("../../configs/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, examples...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !agree(t, string(text)) && !strings.Contains(string(text), "<<: *") {
			t.Errorf("%s is left to the library", path)
		}
	}
}

// TestQuickAtRandom compares the readers on what is made of the signs that YAML is about, which a fuzzer seldom puts in order.
func TestQuickAtRandom(t *testing.T) {
	signs := []string{
		"a", "b: ", "c:", ": ", ":", "\n", "\n", "\n  ", "\n  ", "\n    ", "\n- ", "\n  - ", "- ", "-", " ", "{", "}", "[", "]", ", ", ",",
		"\"x\"", "'y'", "\"", "'", " #c", "#", "~", "null", "a: b", "a: b\n", "\n  c: d", "{e: f}", "[g, h]", "\n- i: j\n  k: l", "&", "*", "!", "|", "?", "<<",
		"---", "...", "%", "@", "\t", "\r", "é", ".", "/", "1",
	}
	random := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range *documents {
		var b strings.Builder
		for range 1 + random.IntN(14) {
			n := len(signs)
			if random.IntN(3) > 0 {
				n -= 16 // the common ones
			}
			b.WriteString(signs[random.IntN(n)])
		}
		if agree(t, b.String()) {
			taken++
		}
	}
	if taken < *documents/50 {
		t.Errorf("of %d documents, only %d were read quickly", *documents, taken)
	}
}

// FuzzQuick compares the readers on any text.
func FuzzQuick(f *testing.F) {
	for _, text := range append(quickly, leftAlone...) {
		f.Add(text)
	}
	paths, err := filepath.Glob("../config/testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(string(file.Data))
		}
	}
	f.Fuzz(func(t *testing.T, text string) { agree(t, text) })
}
