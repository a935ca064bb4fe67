package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"gardu/ctl/model"
	"gardu/ctl/yaml"
)

// maxBytes bounds a configuration. 100,000 rules take about 10 MiB.
const maxBytes = 64 << 20

// Load reads a configuration and the set files that it names, which are relative to its own directory. The snapshot is
// complete: every default is filled in. Warnings come without an error only.
//
// The error is Errors, all that is wrong, if the file could be read.
func Load(path string) (*model.Snapshot, []Warning, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data, filepath.Dir(path))
}

// Parse is Load for a configuration that is already in memory: name stands for its path in positions, and the paths
// of set files are relative to dir. It is safe for any data.
func Parse(name string, data []byte, dir string) (*model.Snapshot, []Warning, error) {
	d := &decoder{
		file:    name,
		dir:     dir,
		broken:  make(map[model.Position]bool),
		offsets: make(map[int32][]int32),
	}
	if len(data) > maxBytes {
		return nil, nil, Errors{{Pos: model.Position{File: name}, Msg: fmt.Sprintf("the configuration is larger than %d MiB", maxBytes>>20)}}
	}
	d.text = string(data)
	d.ascii = isASCII(d.text)

	var snapshot *model.Snapshot
	if top := d.parseYAML(); top != nil {
		doc, _ := root.read(d, top, top)
		snapshot = d.check(doc)
	}
	if d.errors != nil {
		sortErrors(d.errors, name)
		if d.unkept > 0 {
			d.errors = append(d.errors, &Error{Pos: model.Position{File: name}, Msg: fmt.Sprintf("%d more errors", d.unkept)})
		}
		return nil, nil, d.errors
	}
	slices.SortStableFunc(d.warnings, func(a, b Warning) int { return comparePositions(a.Pos, b.Pos, name) })
	return snapshot, d.warnings, nil
}

// allLines returns the lines of the document, split where YAML counts a line as ended.
func (d *decoder) allLines() []string {
	if d.lines != nil {
		return d.lines
	}
	rest := d.text
	for {
		end := strings.IndexAny(rest, "\r\n\u0085\u2028\u2029")
		if end < 0 {
			d.lines = append(d.lines, rest)
			return d.lines
		}
		d.lines = append(d.lines, rest[:end])
		_, width := utf8.DecodeRuneInString(rest[end:])
		if strings.HasPrefix(rest[end:], "\r\n") {
			width = 2
		}
		rest = rest[end+width:]
	}
}

// parseYAML returns the top node of the only document, or nil after an error.
func (d *decoder) parseYAML() *yaml.Node {
	if !utf8.ValidString(d.text) {
		line := slices.IndexFunc(d.allLines(), func(l string) bool { return !utf8.ValidString(l) })
		d.failLine(max(line, 0)+1, "UTF-8 text", "the file is not UTF-8 text")
		return nil
	}
	top, err := yaml.Read(d.text)
	switch {
	case errors.Is(err, io.EOF), err == nil && isNull(top):
		d.failLine(1, "", "the configuration is empty")
	case errors.Is(err, yaml.ErrSecondDocument):
		d.fail(d.at(top), "", "a second document starts here; a configuration is one")
	case err != nil:
		d.failSyntax(err)
	default:
		return top
	}
	return nil
}

// libraryPrefix is what the YAML library puts before its messages. Its line is often a line or more off.
var libraryPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// edgeColons finds an IPv6 address whose outer colons YAML takes for its own.
var edgeColons = regexp.MustCompile(`(^|[\s\[,])::|::($|[\s\],}])`)

// failSyntax reports what isn't YAML. The line is the first one with which the document fails as it does, found by
// bisection.
func (d *decoder) failSyntax(failure error) {
	lines := d.allLines()
	last := len(lines)
	if len(d.text) <= 1<<20 {
		last = 1 + sort.Search(len(lines)-1, func(i int) bool {
			_, err := yaml.Read(strings.Join(lines[:i+1], "\n") + "\n")
			return err != nil && err.Error() == failure.Error()
		})
	}
	line := lines[last-1]
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	allowed := ""
	switch {
	case strings.Contains(indent, "\t"):
		allowed = "spaces to indent, not tabs"
	case edgeColons.MatchString(line):
		allowed = `quotes around an IPv6 address that starts or ends with a colon: "2001:db8::"`
	}
	d.failLine(last, allowed, "not YAML: %s", libraryPrefix.ReplaceAllString(failure.Error(), ""))
}

// failLine reports an error at the first character of a line.
func (d *decoder) failLine(number int, allowed, format string, args ...any) {
	line := d.allLines()[number-1]
	column := 1 + len(line) - len(strings.TrimLeft(line, " \t"))
	d.fail(model.Position{File: d.file, Line: number, Column: column}, allowed, format, args...)
}
