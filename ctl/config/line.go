package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// ErrChanged tells that a set file isn't any more what it was when the set was read.
var ErrChanged = errors.New("the file has changed since it was read")

// An Entry is one of a set: the one of these that the set's kind has.
type Entry struct {
	Prefix netip.Prefix
	Ports  model.Range
	Pair   netip.AddrPort
}

// FindLine reads the file of a set again, as ReadSet does, and returns the line of an entry: the first that has it. 0: none has.
func FindLine(set model.Set, entry Entry) (int, error) {
	file, err := openRegular(set.File)
	if err != nil {
		return 0, fmt.Errorf("set file: %w", err)
	}
	defer file.Close()
	if now, err := stampOf(file); err != nil || now != set.Read {
		return 0, errors.Join(err, ErrChanged)
	}
	from := bufio.NewReaderSize(file, setBlock)
	head, _ := from.Peek(setBlock) // shorter files end before
	f := &feed{path: set.File, kind: set.Kind, format: set.Format}
	if err := f.begin(&head); err != nil {
		return 0, err
	}
	b := &block{feed: f}
	find, header := b.entryOf(), f.format == model.FormatCSV
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxSetLine+setBlock)
	for n := 1; lines.Scan(); n++ {
		line := lines.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		found, err := find(line)
		if err != nil || len(found) == 0 {
			continue
		}
		if header {
			if header = false; isHeader(found) {
				continue
			}
		}
		b.content.reset()
		if _, err := b.content.add(set.Kind, found); err == nil && b.content.has(entry) {
			return n, nil
		}
	}
	return 0, lines.Err()
}

func (c *content) has(e Entry) bool {
	return slices.Contains(c.prefixes, e.Prefix) || slices.Contains(c.ports, e.Ports) || slices.Contains(c.pairs, e.Pair)
}
