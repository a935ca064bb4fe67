package config

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// parseEntry4 reads what nearly all entries of nearly all lists are, a.b.c.d or a.b.c.d/n, without garbage. ok is
// false for all else, right or wrong.
func parseEntry4(entry []byte) (prefix netip.Prefix, hostBits, ok bool) {
	var address, value uint32
	var at, digits, dots int
	for at = 0; at < len(entry) && entry[at] != '/'; at++ {
		c := entry[at]
		switch {
		case c >= '0' && c <= '9':
			value = value*10 + uint32(c-'0')
			digits++
			if value > 255 || digits > 1 && value < 10 {
				return prefix, false, false
			}
		case c == '.' && digits > 0 && dots < 3:
			address = address<<8 | value
			dots++
			value, digits = 0, 0
		default:
			return prefix, false, false
		}
	}
	if dots != 3 || digits == 0 {
		return prefix, false, false
	}
	address = address<<8 | value
	bits, ok := prefixLength(entry[at:], 32)
	if !ok {
		return prefix, false, false
	}
	kept := address & (^uint32(0) << (32 - bits))
	octets := [4]byte{byte(kept >> 24), byte(kept >> 16), byte(kept >> 8), byte(kept)}
	return netip.PrefixFrom(netip.AddrFrom4(octets), int(bits)), kept != address, true
}

// parseEntry6 is parseEntry4 for IPv6, in hexadecimal throughout.
func parseEntry6(entry []byte) (prefix netip.Prefix, hostBits, ok bool) {
	var words [2]uint64
	at, groups, gap := 0, 0, -1 // gap: the group that :: stands before
	if len(entry) >= 2 && entry[0] == ':' && entry[1] == ':' {
		at, gap = 2, 0
	}
	for at < len(entry) && entry[at] != '/' {
		var value uint64
		digits := 0
		for ; at < len(entry); at++ {
			digit := hexDigits[entry[at]]
			if digit == 0 {
				break
			}
			value = value<<4 | uint64(digit-1)
			digits++
		}
		if digits == 0 || digits > 4 || groups == 8 {
			return prefix, false, false
		}
		words[groups/4] |= value << (48 - groups%4*16)
		groups++
		if at == len(entry) || entry[at] == '/' {
			break
		}
		if entry[at] != ':' {
			return prefix, false, false
		}
		at++
		switch {
		case at < len(entry) && entry[at] == ':' && gap < 0:
			gap = groups
			at++
		case at == len(entry) || hexDigits[entry[at]] == 0:
			return prefix, false, false
		}
	}
	if gap < 0 && groups != 8 || gap >= 0 && groups == 8 {
		return prefix, false, false
	}
	if gap >= 0 {
		words = spread(words, gap, groups)
	}
	bits, ok := prefixLength(entry[at:], 128)
	if !ok {
		return prefix, false, false
	}
	hi, lo := words[0]&^(^uint64(0)>>min(bits, 64)), words[1]
	if bits <= 64 {
		lo = 0
	} else {
		lo &^= ^uint64(0) >> (bits - 64)
	}
	var octets [16]byte
	binary.BigEndian.PutUint64(octets[:8], hi)
	binary.BigEndian.PutUint64(octets[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(octets), int(bits)), hi != words[0] || lo != words[1], true
}

// spread moves the groups behind a gap to the end.
func spread(words [2]uint64, gap, groups int) (wide [2]uint64) {
	for i := range groups {
		to := i
		if i >= gap {
			to = 8 - groups + i
		}
		wide[to/4] |= words[i/4] >> (48 - i%4*16) & 0xffff << (48 - to%4*16)
	}
	return wide
}

// hexDigits holds each digit's value plus one.
var hexDigits = func() (values [256]uint8) {
	for i, c := range "0123456789abcdef" {
		values[c] = uint8(i) + 1
	}
	for i, c := range "ABCDEF" {
		values[c] = uint8(i) + 11
	}
	return values
}()

// prefixLength reads /n, n at most limit; limit when there is none.
func prefixLength(text []byte, limit uint32) (bits uint32, ok bool) {
	if len(text) == 0 {
		return limit, true
	}
	digits := text[1:]
	if len(digits) == 0 || len(digits) > 3 || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		bits = bits*10 + uint32(c-'0')
	}
	return bits, bits <= limit
}

// parseEntry reads any entry and says what is wrong with it.
func parseEntry(entry string) (prefix netip.Prefix, hostBits bool, err error) {
	if prefix, err = rule.ParsePrefix(entry); err != nil {
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

var setFormats = []model.SetFormat{model.FormatAuto, model.FormatPlain, model.FormatCSV, model.FormatJSONLines}
