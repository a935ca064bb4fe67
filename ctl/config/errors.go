package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gardu/ctl/model"
)

// Error is one mistake in a configuration or in a set file.
type Error struct {
	Pos     model.Position
	Msg     string
	Allowed string // what would be right here; "" when Msg says it
	Line    string // the line of Pos without its end; "" if it is longer than 4 KiB

	discreet string // what to say instead, where Msg and Line quote a set file
}

// Discreet returns the error without what it quotes of a set file. The daemon reads any file that a configuration
// names, as root; who may only hand it a configuration must not read the file in its errors.
func (e *Error) Discreet() *Error {
	if e.discreet == "" {
		return e
	}
	return &Error{Pos: e.Pos, Msg: e.discreet, Allowed: e.Allowed}
}

// Quote is the inverse, as far as the caller may read the files itself.
func (e Errors) Quote() Errors {
	read := map[string]Errors{}
	quoted := make(Errors, len(e))
	for i, one := range e {
		quoted[i] = one
		kind, ok := discreetKind(one.Msg)
		if !ok {
			continue
		}
		again, ok := read[one.Pos.File]
		if !ok {
			again = readAgain(one.Pos.File, kind)
			read[one.Pos.File] = again
		}
		if at := slices.IndexFunc(again, func(a *Error) bool { return a.Pos == one.Pos && a.discreet == one.Msg }); at >= 0 {
			quoted[i] = again[at]
		}
	}
	return quoted
}

// discreetKind recognizes what Discreet says, and of which kind of set.
func discreetKind(msg string) (model.SetKind, bool) {
	for kind, text := range notAnEntry {
		if strings.HasPrefix(msg, text) {
			return kind, true
		}
	}
	return 0, false
}

// readAgain returns what is wrong with a set file, in whatever format.
func readAgain(path string, kind model.SetKind) (all Errors) {
	for _, format := range setFormats {
		_, err := ReadSet(model.Set{File: path, Kind: kind, Format: format})
		wrong, _ := errors.AsType[Errors](err)
		all = append(all, wrong...)
	}
	return all
}

// Error prints the place and the message; below them the line, a caret under the value, and what is allowed.
func (e *Error) Error() string {
	text := e.Pos.String() + ": " + e.Msg + excerpt(e.Pos, e.Line)
	if e.Allowed != "" {
		text += "\n  allowed: " + e.Allowed
	}
	return text
}

// Warning is something that is allowed, and yet hardly what was meant.
type Warning struct {
	Pos  model.Position
	Msg  string
	Line string // as in Error
}

// String prints a warning in the form of an Error.
func (w Warning) String() string {
	return w.Pos.String() + ": warning: " + w.Msg + excerpt(w.Pos, w.Line)
}

// Errors is everything that is wrong with a configuration, by place.
type Errors []*Error

// mostErrors bounds what is kept of a file that is wrong all over.
const mostErrors = 1000

func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.As find a single *Error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// maxShown is the longest line that an error keeps.
const maxShown = 4096

// LineOf returns a line of a text, counted from 1, as a Warning holds it.
func LineOf(text []byte, number int) string {
	for line := range bytes.Lines(text) {
		if number--; number == 0 {
			return shownLine(string(bytes.TrimRight(line, "\r\n")))
		}
	}
	return ""
}

// shownLine returns a line for an error to keep, unless it is too long for a person. A thousand errors in one huge line
// must not take a thousand times its size.
func shownLine(line string) string {
	if len(line) > maxShown {
		return ""
	}
	return line
}

// sortErrors orders by place, the configuration itself before the files that it names.
func sortErrors(errors Errors, file string) {
	slices.SortStableFunc(errors, func(a, b *Error) int { return comparePositions(a.Pos, b.Pos, file) })
}

func comparePositions(a, b model.Position, first string) int {
	if a.File != b.File && (a.File == first || b.File == first) {
		if a.File == first {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// excerpt shows the line with a caret under the value at pos. Long lines are cut around it, and control characters
// are shown as ?, for the file may hold anything.
func excerpt(pos model.Position, line string) string {
	if pos.Line == 0 || strings.TrimSpace(line) == "" {
		return ""
	}
	const before, after = 60, 60 // bytes shown around the start of the value
	start := min(max(pos.Column-1, 0), len(line))
	width := tokenWidth(line[start:])

	head, tail := line[:start], line[start:]
	if len(head) > before {
		head = "..." + strings.ToValidUTF8(head[len(head)-before:], "")
	}
	if len(tail) > after {
		tail = strings.ToValidUTF8(tail[:after], "") + "..."
		width = min(width, utf8.RuneCountInString(tail))
	}
	number := fmt.Sprintf("%5d", pos.Line)
	return fmt.Sprintf("\n%s | %s%s\n%s | %s%s", number, printable(head), printable(tail),
		strings.Repeat(" ", len(number)), blank(head), strings.Repeat("^", width))
}

// tokenWidth counts the characters of the YAML value, key or set entry that text starts with; at least 1.
func tokenWidth(text string) int {
	end := len(text)
	if quoteEnd := strings.IndexByte(text[min(1, len(text)):], '"'); strings.HasPrefix(text, `"`) && quoteEnd >= 0 {
		end = quoteEnd + 2
	} else {
		for _, stop := range []string{",", "]", "}", " #", ";", ": "} {
			if i := strings.Index(text[:end], stop); i > 0 {
				end = i
			}
		}
		end = len(strings.TrimRightFunc(strings.TrimSuffix(text[:end], ":"), unicode.IsSpace))
	}
	return max(1, utf8.RuneCountInString(text[:end]))
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// blank is as wide as the text, tabs included.
func blank(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, text)
}
