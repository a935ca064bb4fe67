package yaml

import (
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"
)

// quick reads the common part of YAML. Where it meets anything else it gives up, and the library reads the document
// from the start: so it need not tell what is wrong, and giving up costs time only.
type quick struct {
	text      string
	at        int   // the next character
	line      int32 // it is in, from 1
	lineStart int   // where that line starts
	indent    int   // of the present line in block context
	opened    bool  // what could stand before the document is behind
	gaveUp    bool
	start     int // of a part of a list
	part      int // bytes that are worth a reader of their own; 0: none are

	nodes []Node  // room for more
	lists []*Node // room for more
	stack []*Node // contents under construction
}

const (
	maxDepth = 64
	maxKey   = 1000 // bytes; the library takes keys of up to 1024 characters
	minPart  = 1 << 17
)

// readQuick returns the top node, or nil when the document needs the library.
func readQuick(text string) *Node { return readParts(text, minPart) }

// readParts is readQuick, where parts of lists of at least so many bytes are read side by side.
func readParts(text string, part int) *Node {
	q := &quick{text: text, line: 1, part: part}
	if len(text) > 1<<30 || !q.nextLine() {
		return nil
	}
	if q.isMarker() {
		if rest, ok := strings.CutPrefix(q.text[q.at:], "---"); !ok || rest != "" && rest[0] != '\n' {
			return nil
		}
		q.at += len("---")
		if !q.endLine() {
			return nil
		}
	}
	q.opened = true
	var top *Node
	if c := q.peek(); c == '{' || c == '[' {
		top = q.inline(-1, maxDepth)
	} else {
		top = q.block(maxDepth)
	}
	if q.gaveUp || q.at < len(q.text) {
		return nil
	}
	return top
}

// giveUp leaves the document to the library.
func (q *quick) giveUp() *Node {
	q.gaveUp = true
	return nil
}

// peek returns the next character; 0 at the end.
func (q *quick) peek() byte {
	if q.at < len(q.text) {
		return q.text[q.at]
	}
	return 0
}

// follows returns the character after the next one; 0 at the end.
func (q *quick) follows() byte {
	if q.at+1 < len(q.text) {
		return q.text[q.at+1]
	}
	return 0
}

func (q *quick) column() int { return q.at - q.lineStart }

func (q *quick) blanks() {
	for q.peek() == ' ' {
		q.at++
	}
}

// rest skips blanks and a comment and tells whether the line, or the text, ends there.
func (q *quick) rest() bool {
	before := q.at
	q.blanks()
	if q.peek() == '#' && q.at > before {
		q.comment()
	}
	return q.at == len(q.text) || q.text[q.at] == '\n'
}

// comment skips a comment. It may hold any character that the library takes and that ends no line.
func (q *quick) comment() {
	for q.at < len(q.text) && q.text[q.at] != '\n' {
		c, size := rune(q.text[q.at]), 1
		if c >= utf8.RuneSelf {
			c, size = utf8.DecodeRuneInString(q.text[q.at:])
		}
		switch {
		case c == '\t', c >= ' ' && c <= '~':
		case c < 0xa0, c == 0x2028, c == 0x2029, c == 0xfeff, c == 0xfffe, c == 0xffff, c == utf8.RuneError:
			q.giveUp()
			return
		}
		q.at += size
	}
}

// newLine steps over the end of a line.
func (q *quick) newLine() {
	q.at++
	q.line++
	q.lineStart = q.at
}

// endLine goes from the end of a value to the next line that holds something. It returns false at the end of the text,
// and when it gave up.
func (q *quick) endLine() bool {
	if !q.rest() {
		q.giveUp()
	}
	if q.gaveUp || q.at == len(q.text) {
		return false
	}
	q.newLine()
	return q.nextLine()
}

// nextLine goes from the start of a line to the first character of the first line that holds something.
func (q *quick) nextLine() bool {
	for {
		q.blanks()
		q.indent = q.column()
		switch q.peek() {
		case '#':
			q.comment()
			if q.gaveUp || q.at == len(q.text) {
				return false
			}
			q.newLine()
		case '\n':
			q.newLine()
		case 0:
			if q.at < len(q.text) {
				q.giveUp()
			}
			return false
		default:
			if q.opened && q.isMarker() {
				q.giveUp()
				return false
			}
			return true
		}
	}
}

// isMarker tells that what may be the start or the end of a document stands here.
func (q *quick) isMarker() bool {
	rest := q.text[q.at:]
	return q.column() == 0 && (strings.HasPrefix(rest, "---") || strings.HasPrefix(rest, "...") || rest[0] == '%')
}

// node returns a new node that stands at an offset in the present line.
func (q *quick) node(kind Kind, at int) *Node {
	if len(q.nodes) == 0 {
		q.nodes = make([]Node, min(1024, 16+len(q.text)/16))
	}
	n := &q.nodes[0]
	q.nodes = q.nodes[1:]
	n.Kind, n.Line, n.Column = kind, q.line, int32(at-q.lineStart+1)
	return n
}

// content moves what was put on the stack since it had this size to a list of its own.
func (q *quick) content(since int) []*Node {
	items := q.stack[since:]
	if len(q.lists) < len(items) {
		q.lists = make([]*Node, max(len(items), min(1024, 16+len(q.text)/16)))
	}
	list := q.lists[:len(items):len(items)]
	q.lists = q.lists[len(items):]
	copy(list, items)
	q.stack = q.stack[:since]
	return list
}

// isItem tells that a list item starts here.
func (q *quick) isItem() bool {
	if q.peek() != '-' {
		return false
	}
	c := q.follows()
	return c == ' ' || c == '\n' || c == 0 && q.at+1 == len(q.text)
}

// block reads the indented mapping or list that starts here, and goes to the line behind it.
func (q *quick) block(depth int) *Node {
	switch {
	case q.gaveUp || depth == 0:
		return q.giveUp()
	case q.isItem():
		return q.blockList(depth)
	}
	return q.blockMapping(depth)
}

// blockList reads `- ITEM` lines of one column. A long list is read in parts, side by side.
func (q *quick) blockList(depth int) *Node {
	column, since := q.column(), len(q.stack)
	list := q.node(SequenceNode, q.at)
	parts := q.parts()
	var running sync.WaitGroup
	for i, part := range parts {
		running.Go(func() { part.items(column, depth, startOf(parts, i+1)) })
	}
	q.items(column, depth, startOf(parts, 0))
	running.Wait()
	for _, part := range parts {
		if q.gaveUp || q.at != part.start { // the list was over before, or the part starts within an item
			break
		}
		q.stack = append(q.stack, part.stack...)
		q.at, q.line, q.lineStart, q.indent, q.gaveUp = part.at, part.line, part.lineStart, part.indent, part.gaveUp
	}
	if q.gaveUp {
		return nil
	}
	list.Content = q.content(since)
	return list
}

// items puts the items of a list on the stack, until the list is over or an item starts at end.
func (q *quick) items(column, depth, end int) {
	for {
		q.at++
		q.stack = append(q.stack, q.item(column, depth))
		if q.gaveUp || q.at == len(q.text) || q.at == end || q.indent != column || !q.isItem() {
			return
		}
	}
}

// parts returns readers for the parts of the list that starts here, but for the first. Each starts where a line looks like one of the
// list's items: whether it is one shows when the part before it ends there.
func (q *quick) parts() (parts []*quick) {
	n := min(runtime.GOMAXPROCS(0), (len(q.text)-q.at)/max(q.part, 1))
	if q.part == 0 || n < 2 {
		return nil
	}
	dash := "\n" + q.text[q.lineStart:q.at+1]
	line, counted := q.line, q.at
	for i := 1; i < n; i++ {
		from := max(counted, q.at+(len(q.text)-q.at)/n*i)
		next := strings.Index(q.text[from:], dash)
		if next < 0 {
			break
		}
		start := from + next + len(dash) - 1
		line, counted = line+int32(strings.Count(q.text[counted:start], "\n")), start
		part := &quick{text: q.text, at: start, start: start, line: line, lineStart: start - q.column(), indent: q.column(), opened: true}
		if part.isItem() {
			parts = append(parts, part)
		}
	}
	return parts
}

// startOf is where a part starts; nowhere if there are fewer.
func startOf(parts []*quick, i int) int {
	if i < len(parts) {
		return parts[i].start
	}
	return -1
}

// item reads what follows the dash of a list in this column, and goes to the line behind it.
func (q *quick) item(column, depth int) *Node {
	dash := q.at
	if q.rest() {
		return q.nested(column, column+1, dash, depth)
	}
	if q.gaveUp || q.isItem() {
		return q.giveUp()
	}
	if c := q.peek(); c != '{' && c != '[' && q.isKey() {
		return q.blockMapping(depth - 1)
	}
	return q.inline(column, depth)
}

// nested reads what belongs to the key or dash whose line ends here: a block that is indented to column least at least, or
// nothing. parent is the column of that key or dash.
func (q *quick) nested(parent, least, end, depth int) *Node {
	line, lineStart := q.line, q.lineStart
	if q.endLine() && q.indent >= least && (q.indent > parent || q.isItem()) {
		return q.block(depth - 1)
	}
	if q.gaveUp {
		return nil
	}
	n := q.node(ScalarNode, end)
	n.Tag, n.Line, n.Column = NullTag, line, int32(end-lineStart+1)
	return n
}

// inline reads a value that ends in the line where it starts, and goes to the line behind it, which must not be indented
// to continue the value.
func (q *quick) inline(parent, depth int) *Node {
	n := q.value(false, depth)
	if n == nil {
		return nil
	}
	if q.endLine() && q.indent > parent {
		return q.giveUp()
	}
	return n
}

// blockMapping reads `KEY: VALUE` lines of one column.
func (q *quick) blockMapping(depth int) *Node {
	column, since := q.column(), len(q.stack)
	mapping := q.node(MappingNode, q.at)
	if depth == 0 {
		return q.giveUp()
	}
	for {
		key := q.key(false)
		if key == nil {
			return nil
		}
		colon := q.at
		var value *Node
		if q.rest() {
			value = q.nested(column, column, colon, depth)
		} else if q.at > colon && !q.isItem() && !q.gaveUp {
			value = q.inline(column, depth)
		}
		if q.gaveUp || value == nil {
			return q.giveUp()
		}
		q.stack = append(q.stack, key, value)
		if q.at == len(q.text) || q.indent != column || q.isItem() {
			break
		}
	}
	mapping.Content = q.content(since)
	return mapping
}

// isKey tells whether what stands here is a key of a block mapping, and not a value.
func (q *quick) isKey() bool {
	at := q.at
	key := q.scalar(false)
	found := key != nil && q.peek() == ':'
	q.at = at
	return found
}

// key reads a key and the colon behind it.
func (q *quick) key(flow bool) *Node {
	start := q.at
	key := q.scalar(flow)
	if key == nil || q.peek() != ':' || q.at-start > maxKey || key.Value == "<<" {
		return q.giveUp()
	}
	q.at++
	return key
}

// value reads a scalar, {} or [].
func (q *quick) value(flow bool, depth int) *Node {
	switch {
	case depth == 0:
		return q.giveUp()
	case q.peek() == '{':
		return q.flowMapping(depth - 1)
	case q.peek() == '[':
		return q.flowList(depth - 1)
	}
	return q.scalar(flow)
}

// flowBlanks skips blanks, comments and line ends between { and }.
func (q *quick) flowBlanks() {
	for q.rest() && q.at < len(q.text) && !q.gaveUp {
		q.newLine()
		q.nextLine()
	}
}

// flowMapping reads {KEY: VALUE, ...}.
func (q *quick) flowMapping(depth int) *Node {
	since := len(q.stack)
	mapping := q.node(MappingNode, q.at)
	q.at++
	for first := true; q.flowItem('}', first); first = false {
		key := q.key(true)
		if key == nil {
			return nil
		}
		q.flowBlanks()
		value := q.value(true, depth)
		if value == nil {
			return q.giveUp()
		}
		q.stack = append(q.stack, key, value)
	}
	if q.gaveUp {
		return nil
	}
	mapping.Content = q.content(since)
	return mapping
}

// flowList reads [ITEM, ...].
func (q *quick) flowList(depth int) *Node {
	since := len(q.stack)
	list := q.node(SequenceNode, q.at)
	q.at++
	for first := true; q.flowItem(']', first); first = false {
		item := q.value(true, depth)
		if item == nil {
			return q.giveUp()
		}
		q.stack = append(q.stack, item)
	}
	if q.gaveUp {
		return nil
	}
	list.Content = q.content(since)
	return list
}

// flowItem goes from the opening bracket, or from the end of an item, to the next item. It steps over the closing bracket
// and returns false there.
func (q *quick) flowItem(closing byte, first bool) bool {
	q.flowBlanks()
	switch c := q.peek(); {
	case q.gaveUp:
		return false
	case c == closing:
		q.at++
		return false
	case first:
		return true
	case c != ',':
		q.giveUp()
		return false
	}
	q.at++
	q.flowBlanks()
	return !q.gaveUp
}

// scalar reads a word, plain or quoted, that ends in the line where it starts.
func (q *quick) scalar(flow bool) *Node {
	start := q.at
	switch c := q.peek(); {
	case c == '"' || c == '\'':
		return q.quoted(c)
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '/', c == '_', c == '~', c == '+', c == '<', c == '(', c == '$', c == '^', c == '=':
	default:
		return q.giveUp()
	}
	end := start // behind the last character that isn't blank
scan:
	for q.at < len(q.text) {
		switch c := q.text[q.at]; {
		case c == '\n':
			break scan
		case c == ' ':
			q.at++
			if q.peek() == '#' {
				q.at--
				break scan
			}
			continue
		case c < ' ' || c > '~':
			return q.giveUp()
		case c == ':':
			next := q.follows()
			if next == ' ' || next == '\n' || next == 0 {
				break scan
			}
			if flow && strings.IndexByte(",[]{}", next) >= 0 {
				return q.giveUp()
			}
		case flow && strings.IndexByte(",]}", c) >= 0:
			break scan
		case flow && strings.IndexByte("[{?", c) >= 0:
			return q.giveUp()
		}
		q.at++
		end = q.at
	}
	n := q.node(ScalarNode, start)
	n.Value = q.text[start:end]
	switch n.Value {
	case "~", "null", "Null", "NULL":
		n.Tag = NullTag
	case "<<":
		return q.giveUp()
	}
	return n
}

// quoted reads a quoted word without escapes.
func (q *quick) quoted(quote byte) *Node {
	start := q.at
	for q.at++; q.at < len(q.text); q.at++ {
		switch c := q.text[q.at]; {
		case c < ' ' || c > '~' || c == '\\' && quote == '"':
			return q.giveUp()
		case c == quote:
			q.at++
			if q.peek() == quote { // '' stands for '
				return q.giveUp()
			}
			n := q.node(ScalarNode, start)
			n.Value = q.text[start+1 : q.at-1]
			return n
		}
	}
	return q.giveUp()
}
