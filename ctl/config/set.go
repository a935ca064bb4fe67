package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Bounds of a set file, and how many of its wrong lines are reported one by one.
const (
	maxSetBytes  = 256 << 20
	maxSetErrors = 20
)

// notAnEntry is what Discreet says of a line.
const notAnEntry = "this line is not an address or prefix"

const setLine = "one address or prefix a line, # or ; before a comment"

// ReadSet reads a set file: an address or prefix of either family a line, # and ; start comments. Bits behind the
// length of a prefix are masked off. The prefixes come in the order of the file, repetitions included.
//
// The error is Errors, one for each wrong line, if the file could be read but not understood. A file without any
// entry is an error too, for it is rather a failed download than a wish.
func ReadSet(path string) ([]netip.Prefix, error) {
	prefixes, _, err := readSet(path)
	return prefixes, err
}

// readSet is ReadSet and warns of masked bits.
func readSet(path string) ([]netip.Prefix, []Warning, error) {
	data, err := readRegular(path, maxSetBytes)
	if err != nil {
		return nil, nil, err
	}
	return parseSet(path, data)
}

// readRegular reads a whole file. It never waits: a FIFO or device is refused, not read.
func readRegular(path string, most int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("set file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("set file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("set file %s is not a regular file", path)
	}
	data := bytes.NewBuffer(make([]byte, 0, min(info.Size(), most)+bytes.MinRead))
	n, err := data.ReadFrom(io.LimitReader(file, most+1))
	if err != nil {
		return nil, fmt.Errorf("set file: %w", err)
	}
	if n > most {
		return nil, fmt.Errorf("set file %s is larger than %d MiB", path, most>>20)
	}
	return data.Bytes(), nil
}

func parseSet(path string, data []byte) ([]netip.Prefix, []Warning, error) {
	prefixes := make([]netip.Prefix, 0, bytes.Count(data, []byte("\n"))+1)
	var wrong Errors
	var masked, wrongLines int
	var firstMasked model.Position
	var firstMaskedLine string

	for number := 1; len(data) > 0; number++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		entry := trimEntry(line)
		if len(entry) == 0 {
			continue
		}
		prefix, hostBits, ok := parseEntry4(entry)
		if !ok {
			var err error
			if prefix, hostBits, err = parseEntry(string(entry)); err != nil {
				if wrongLines++; wrongLines <= maxSetErrors {
					wrong = append(wrong, &Error{setPosition(path, number, line), err.Error(), setLine, text(line), true})
				}
				continue
			}
		}
		if hostBits {
			if masked++; masked == 1 {
				firstMasked, firstMaskedLine = setPosition(path, number, line), text(line)
			}
		}
		prefixes = append(prefixes, prefix)
	}

	if more := wrongLines - maxSetErrors; more > 0 {
		wrong = append(wrong, &Error{Pos: model.Position{File: path}, Msg: fmt.Sprintf("%d more lines are wrong", more)})
	}
	if wrong != nil {
		return nil, nil, wrong
	}
	if len(prefixes) == 0 {
		return nil, nil, Errors{{Pos: model.Position{File: path, Line: 1, Column: 1}, Msg: "the file holds no entry", Allowed: setLine}}
	}
	var warnings []Warning
	if masked > 0 {
		msg := fmt.Sprintf("%d entries have bits set behind the length of the prefix; they count as the whole prefix", masked)
		warnings = []Warning{{firstMasked, msg, firstMaskedLine}}
	}
	return prefixes, warnings, nil
}

// trimEntry cuts the comment and the space around an entry.
func trimEntry(line []byte) []byte {
	if i := bytes.IndexAny(line, "#;"); i >= 0 {
		line = line[:i]
	}
	return bytes.TrimSpace(line)
}

func setPosition(path string, number int, line []byte) model.Position {
	indent := len(line) - len(bytes.TrimLeft(line, " \t"))
	return model.Position{File: path, Line: number, Column: indent + 1}
}

func text(line []byte) string {
	return shownLine(strings.TrimSuffix(string(line), "\r"))
}

// parseEntry4 reads what nearly all entries of nearly all lists are, a.b.c.d or a.b.c.d/n, without garbage. ok is
// false for all else, right or wrong.
func parseEntry4(entry []byte) (prefix netip.Prefix, hostBits, ok bool) {
	var octets [4]byte
	var at, digits, dots int
	var value uint32
	for at = 0; at < len(entry) && entry[at] != '/'; at++ {
		c := entry[at]
		switch {
		case c == '.':
			if digits == 0 || dots == 3 {
				return prefix, false, false
			}
			octets[dots] = byte(value)
			dots++
			value, digits = 0, 0
		case c >= '0' && c <= '9':
			value = value*10 + uint32(c-'0')
			digits++
			if value > 255 || digits > 1 && value < 10 {
				return prefix, false, false
			}
		default:
			return prefix, false, false
		}
	}
	if dots != 3 || digits == 0 {
		return prefix, false, false
	}
	octets[3] = byte(value)

	bits := uint32(32)
	if at < len(entry) {
		length := entry[at+1:]
		if len(length) == 0 || len(length) > 2 || len(length) == 2 && length[0] == '0' {
			return prefix, false, false
		}
		bits = 0
		for _, c := range length {
			if c < '0' || c > '9' {
				return prefix, false, false
			}
			bits = bits*10 + uint32(c-'0')
		}
		if bits > 32 {
			return prefix, false, false
		}
	}
	address := uint32(octets[0])<<24 | uint32(octets[1])<<16 | uint32(octets[2])<<8 | uint32(octets[3])
	mask := ^uint32(0) << (32 - bits)
	kept := address & mask
	octets = [4]byte{byte(kept >> 24), byte(kept >> 16), byte(kept >> 8), byte(kept)}
	return netip.PrefixFrom(netip.AddrFrom4(octets), int(bits)), kept != address, true
}

// parseEntry reads any entry and says what is wrong with it.
func parseEntry(entry string) (prefix netip.Prefix, hostBits bool, err error) {
	prefix, err = rule.ParsePrefix(entry)
	if err != nil {
		if fields := strings.Fields(entry); len(fields) > 1 {
			err = errors.New("more than one entry on a line: " + strconv.Quote(fields[1]) + " is too much")
		}
		return prefix, false, err
	}
	return prefix, hasHostBits(entry, prefix), nil
}

// hasHostBits tells whether masking changed the address that text, which parsed as prefix, begins with.
func hasHostBits(text string, prefix netip.Prefix) bool {
	address, _, _ := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	return err == nil && addr != prefix.Addr()
}
