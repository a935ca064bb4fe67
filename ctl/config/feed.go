package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"gardu/ctl/model"
)

// What is said of a wrong line to those who may not read the file, by kind.
var notAnEntry = map[model.SetKind]string{
	model.Addresses: "this line is not an address or prefix",
	model.Ports:     "this line is not a port or a range of ports",
	model.Pairs:     "this line is not an address and a port",
}

var entryOf = map[model.SetKind]string{
	model.Addresses: "address or prefix",
	model.Ports:     "port or range of ports",
	model.Pairs:     "address and port, as 192.0.2.1:443 or [2001:db8::1]:53,",
}

// allowed says what a line of the file may be.
func (f *feed) allowed() string {
	switch f.format {
	case model.FormatCSV:
		return "comma-separated values with one " + entryOf[f.kind] + " in the first column"
	case model.FormatJSONLines:
		return "one JSON string a line with one " + entryOf[f.kind] + ", or an object that has it under " + strings.Join(keysOf(f.kind), ", ")
	default:
		return "one " + entryOf[f.kind] + " a line, # or ; before a comment"
	}
}

// mistaken recognizes by its beginning what is taken for a list now and then, and says what to do instead.
func mistaken(text []byte) (what, instead string) {
	const list = "a list as UTF-8 text"
	head := text[:min(len(text), 4096)]
	lower := bytes.ToLower(bytes.TrimSpace(bytes.TrimPrefix(head, []byte("\ufeff"))))
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}), bytes.HasPrefix(head, []byte("PK\x03\x04")),
		bytes.HasPrefix(head, []byte("\xfd7zXZ")), bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "compressed", list + ": unpack it first"
	case bytes.HasPrefix(head, []byte{0xff, 0xfe}), bytes.HasPrefix(head, []byte{0xfe, 0xff}):
		return "UTF-16 text", list
	case bytes.IndexByte(head, 0) >= 0:
		return "not text", list
	case bytes.HasPrefix(lower, []byte("<!doctype")), bytes.HasPrefix(lower, []byte("<html")), bytes.HasPrefix(lower, []byte("<?xml")):
		return "a web page or XML, not a list", list
	case isArray(lower):
		return "one JSON value, not one a line", "JSON lines: `jq -c '.[]'` makes them of a list"
	}
	return "", ""
}

// isArray tells a JSON list, and an object that is spread over lines, from JSON lines.
func isArray(text []byte) bool {
	first, _, more := bytes.Cut(text, []byte("\n"))
	first = bytes.TrimSpace(first)
	switch {
	case len(first) == 0:
		return false
	case first[0] == '[':
		rest := bytes.TrimSpace(first[1:])
		return len(rest) == 0 || rest[0] == '"' || rest[0] == '{' || rest[0] == '['
	default:
		return more && len(first) == 1 && first[0] == '{'
	}
}

// detect tells the format by the first line that is neither empty nor a comment.
func detect(text []byte) model.SetFormat {
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(trimEntry(line)) == 0 {
			continue
		}
		switch {
		case line[0] == '{':
			return model.FormatJSONLines
		case line[0] == '"' && bytes.IndexByte(line[1:], '"') == len(line)-2:
			return model.FormatJSONLines
		case line[0] == '"' || bytes.IndexByte(trimEntry(line), ',') >= 0:
			return model.FormatCSV
		}
		return model.FormatPlain
	}
	return model.FormatPlain
}

// block is a part of a set file: whole lines.
type block struct {
	*feed
	text  []byte
	room  []byte        // that text is in
	first bool          // of the file
	done  chan struct{} // closed when it is parsed

	bytes       int // of text
	lines       int
	content     content // until it is joined
	found       int     // entries that it has, or had
	wrong       Errors  // the first ones, with lines counted within the block
	wrongLines  int
	masked      int      // entries with bits behind the length
	firstMasked *Warning // its place
}

// hopeless tells that a block holds wrong lines and nothing else.
func (b *block) hopeless() bool { return b.found == 0 && b.wrongLines > maxSetErrors }

func (b *block) parse() {
	defer close(b.done)
	entry := b.entryOf()
	if b.bytes = len(b.text); b.content.capacity() == 0 {
		// An entry takes at least twelve bytes in most lists; room for more comes as it is needed.
		b.content = newContent(b.kind, min(bytes.Count(b.text, []byte("\n"))+1, len(b.text)/12+1))
	}
	header := b.first && b.format == model.FormatCSV // may come
	for text := b.text; len(text) > 0 && b.wrongLines <= hopelessLines; {
		var line []byte
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			line, text = text, nil
		}
		b.lines++
		found, err := entry(line)
		if err == nil && len(found) == 0 {
			continue
		}
		if header {
			header = false
			if isHeader(found) {
				continue
			}
		}
		hostBits := false
		if err == nil {
			hostBits, err = b.content.add(b.kind, found)
		}
		if err != nil {
			b.reject(line, err)
		} else if hostBits {
			b.mask(line)
		}
	}
	b.text = nil
	b.found = b.content.len()
	b.entries.Add(int64(b.found))
	b.feed.wrong.Add(int64(b.wrongLines))
}

func (b *block) reject(line []byte, err error) {
	if b.wrongLines++; b.wrongLines <= maxSetErrors {
		b.wrong = append(b.wrong, &Error{Pos: b.position(line), Msg: err.Error(), Allowed: b.allowed(), Line: text(line),
			discreet: notAnEntry[b.kind]})
	}
}

func (b *block) mask(line []byte) {
	if b.masked++; b.masked == 1 {
		b.firstMasked = &Warning{Pos: b.position(line), Line: text(line)}
	}
}

// position is that of the present line, counted within the block.
func (b *block) position(line []byte) model.Position {
	indent := len(line) - len(bytes.TrimLeft(line, " \t"))
	return model.Position{File: b.path, Line: b.lines, Column: indent + 1}
}

func text(line []byte) string {
	return shownLine(strings.TrimSuffix(string(line[:min(len(line), maxShown+1)]), "\r"))
}

// entryOf returns what finds the entry of a line; an empty one where the line has none.
func (b *block) entryOf() func(line []byte) ([]byte, error) {
	switch b.format {
	case model.FormatCSV:
		return firstColumn
	case model.FormatJSONLines:
		keys := jsonKeys{kind: b.kind}
		return keys.entry
	default:
		return func(line []byte) ([]byte, error) { return trimEntry(line), nil }
	}
}

// trimEntry cuts the comment and the space around an entry.
func trimEntry(line []byte) []byte {
	for i, c := range line {
		if c == '#' || c == ';' {
			line = line[:i]
			break
		}
	}
	return bytes.TrimSpace(line)
}

// firstColumn is the first of comma-separated values (RFC 4180). Whole lines may be comments.
func firstColumn(line []byte) ([]byte, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '"' {
		column, _, more := bytes.Cut(line, []byte(","))
		if more && len(column) == 0 {
			return nil, errors.New("the first column is empty")
		}
		line = column
		return trimEntry(line), nil
	}
	end := bytes.IndexByte(line[1:], '"')
	if end < 0 {
		return nil, errors.New("a quote is not closed")
	}
	if line = bytes.TrimSpace(line[1 : 1+end]); len(line) == 0 {
		return nil, errors.New("the first column is empty")
	}
	return line, nil
}

// isHeader tells the name of a column from an entry.
func isHeader(column []byte) bool {
	if len(column) == 0 {
		return false
	}
	for _, c := range column {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-' || c == ' ' || c >= '0' && c <= '9') {
			return false
		}
	}
	return column[0] > '9'
}

// content is what a set, or a part of its file, holds.
type content struct {
	prefixes []netip.Prefix
	ports    []model.Range
	pairs    []netip.AddrPort
}

func newContent(kind model.SetKind, n int) (c content) {
	switch kind {
	case model.Ports:
		c.ports = make([]model.Range, 0, n)
	case model.Pairs:
		c.pairs = make([]netip.AddrPort, 0, n)
	default:
		c.prefixes = make([]netip.Prefix, 0, n)
	}
	return c
}

func (c *content) len() int { return len(c.prefixes) + len(c.ports) + len(c.pairs) }

func (c *content) capacity() int { return cap(c.prefixes) + cap(c.ports) + cap(c.pairs) }

// reset empties the content and keeps its memory.
func (c *content) reset() { c.prefixes, c.ports, c.pairs = c.prefixes[:0], c.ports[:0], c.pairs[:0] }

func (c *content) append(other *content) {
	c.prefixes = append(c.prefixes, other.prefixes...)
	c.ports = append(c.ports, other.ports...)
	c.pairs = append(c.pairs, other.pairs...)
}

// add adds an entry. hostBits tells that a prefix had bits behind its length.
func (c *content) add(kind model.SetKind, entry []byte) (hostBits bool, err error) {
	switch kind {
	case model.Ports:
		ports, err := parsePorts(string(entry))
		if err != nil {
			return false, severalOr(entry, err)
		}
		c.ports = append(c.ports, ports)
		return false, nil
	case model.Pairs:
		pair, err := parsePair(string(entry))
		if err != nil {
			return false, severalOr(entry, err)
		}
		c.pairs = append(c.pairs, pair)
		return false, nil
	default:
		prefix, hostBits, ok := parseEntry4(entry)
		if !ok {
			prefix, hostBits, ok = parseEntry6(entry)
		}
		if !ok {
			if prefix, hostBits, err = parseEntry(string(entry)); err != nil {
				return false, severalOr(entry, err)
			}
		}
		c.prefixes = append(c.prefixes, prefix)
		return hostBits, nil
	}
}

// severalOr says that a line has several entries if it has, else err.
func severalOr(entry []byte, err error) error {
	if fields := strings.Fields(string(entry[:min(len(entry), maxShown)])); len(fields) > 1 {
		return fmt.Errorf("more than one entry on a line: %s is too much", quoted(fields[1]))
	}
	return err
}
