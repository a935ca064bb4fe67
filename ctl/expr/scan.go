package expr

import "strings"

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenQuoted   // text is what is between the quotes; an unclosed one ends with the expression
	tokenOperator // = != < <= > >=
	tokenOther    // ( ) , and a lone !
)

type token struct {
	kind       tokenKind
	text       string
	start, end int // in the expression
}

// is says whether the token is that keyword or symbol. A quoted word never is.
func (t token) is(text string) bool {
	return t.kind != tokenQuoted && t.kind != tokenEnd && t.text == text
}

const symbols = `(),<>=!"`

// scan returns the token at or after offset.
func scan(text string, offset int) token {
	for offset < len(text) && (text[offset] == ' ' || text[offset] == '\t') {
		offset++
	}
	rest := text[offset:]
	found := func(kind tokenKind, length int) token {
		return token{kind: kind, text: rest[:length], start: offset, end: offset + length}
	}
	switch {
	case rest == "":
		return found(tokenEnd, 0)
	case rest[0] == '"':
		inner, _, closed := strings.Cut(rest[1:], `"`)
		end := offset + 1 + len(inner)
		if closed {
			end++
		}
		return token{kind: tokenQuoted, text: inner, start: offset, end: end}
	case strings.HasPrefix(rest, "!="), strings.HasPrefix(rest, "<="), strings.HasPrefix(rest, ">="):
		return found(tokenOperator, 2)
	case strings.ContainsRune("<>=", rune(rest[0])):
		return found(tokenOperator, 1)
	case strings.ContainsRune("(),!", rune(rest[0])):
		return found(tokenOther, 1)
	}
	length := strings.IndexAny(rest, symbols+" \t")
	if length < 0 {
		length = len(rest)
	}
	return found(tokenWord, length)
}
