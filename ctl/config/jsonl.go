package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gardu/ctl/model"
)

// The keys under which objects have their entry, the one that counts most first.
var (
	addressKeys = []string{"ip", "cidr", "prefix", "network", "address", "addr", "subnet", "ip_address", "ip_prefix", "ipv6_prefix"}
	portKeys    = []string{"port", "ports"}
	pairKeys    = []string{"pair", "endpoint", "address"}
)

func keysOf(kind model.SetKind) []string {
	switch kind {
	case model.Ports:
		return portKeys
	case model.Pairs:
		return pairKeys
	}
	return addressKeys
}

// jsonKeys finds the entry of a line of JSON.
type jsonKeys struct{ kind model.SetKind }

// entry returns the text of a JSON string or, for ports, of a number, or what an object has under the first of the keys
// that isn't null. Lines without an entry are empty ones, comments, and objects with a "type" of "metadata", as
// Spamhaus puts it.
func (k jsonKeys) entry(line []byte) ([]byte, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' || line[0] == ';' {
		return nil, nil
	}
	if n := plainString(line); n == len(line) && n > 2 {
		return line[1 : len(line)-1], nil
	}
	if entry, ok := k.flat(line); ok {
		return entry, nil
	}
	return k.general(line)
}

// plainString returns the length of the string that text begins with, quotes included; 0 if it isn't one, or not plain.
func plainString(text []byte) int {
	if len(text) == 0 || text[0] != '"' {
		return 0
	}
	for i, c := range text[1:] {
		switch {
		case c == '"':
			return i + 2
		case c == '\\' || c < ' ':
			return 0
		}
	}
	return 0
}

// flat reads what nearly all objects are: strings without escapes, numbers and words by key. ok is false for all else,
// right or wrong, and for objects without an entry.
func (k jsonKeys) flat(line []byte) (entry []byte, ok bool) {
	keys := keysOf(k.kind)
	rank := len(keys)
	if line[0] != '{' {
		return nil, false
	}
	for rest := line[1:]; ; {
		rest = skipBlanks(rest)
		n := plainString(rest)
		if n == 0 {
			return nil, false
		}
		key := rest[1 : n-1]
		rest = skipBlanks(rest[n:])
		if len(rest) == 0 || rest[0] != ':' {
			return nil, false
		}
		rest = skipBlanks(rest[1:])
		value, isString := rest, true
		if n = plainString(rest); n == 0 {
			n, isString = literal(rest), false
		}
		if n == 0 {
			return nil, false
		}
		value, rest = value[:n], skipBlanks(rest[n:])
		if at := rankOf(keys, key); at <= rank && at < len(keys) {
			if !isString {
				return nil, false
			}
			entry, rank = value[1:n-1], at
		}
		switch {
		case len(rest) == 1 && rest[0] == '}':
			return entry, len(entry) > 0
		case len(rest) > 0 && rest[0] == ',':
			rest = rest[1:]
		default:
			return nil, false
		}
	}
}

func rankOf(keys []string, key []byte) int {
	for i, known := range keys {
		if string(key) == known {
			return i
		}
	}
	return len(keys)
}

func skipBlanks(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t') {
		text = text[1:]
	}
	return text
}

// literal returns the length of the number or word that text begins with; 0 if it isn't one.
func literal(text []byte) int {
	n := 0
	for n < len(text) && text[n] != ',' && text[n] != '}' && text[n] != ' ' && text[n] != '\t' {
		n++
	}
	if !json.Valid(text[:n]) {
		return 0
	}
	return n
}

// general reads any line and says what is wrong with it.
func (k jsonKeys) general(line []byte) ([]byte, error) {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if decoder.More() || decoder.InputOffset() < int64(len(line)) {
		return nil, errors.New("more than one JSON value on a line")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return k.text(value)
	}
	for _, key := range keysOf(k.kind) {
		if value := object[key]; value != nil {
			return k.text(value)
		}
	}
	if object["type"] == "metadata" {
		return nil, nil
	}
	var have []string
	for key := range object {
		have = append(have, quoted(key))
	}
	slices.Sort(have)
	return nil, fmt.Errorf("the object has none of the keys that hold an entry, but %s", strings.Join(have[:min(len(have), 10)], ", "))
}

// text is a value as an entry.
func (k jsonKeys) text(value any) ([]byte, error) {
	switch value := value.(type) {
	case string:
		if value == "" {
			return nil, errors.New("the string is empty")
		}
		return []byte(value), nil
	case json.Number:
		if k.kind == model.Ports {
			return []byte(value), nil
		}
	}
	return nil, errors.New("the entry is not a string")
}
