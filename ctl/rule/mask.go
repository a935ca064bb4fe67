package rule

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"gardu/ctl/model"
)

// macBits is the length of a MAC address.
const macBits = 48

// noFlags is the word for a value in which no flag is set.
const noFlags = "none"

func (f FieldInfo) parseMask(text string) (model.Mask, error) {
	if f.Kind == MAC {
		return parseMAC(text)
	}
	return f.parseFlags(text)
}

func (f FieldInfo) formatMask(m model.Mask) string {
	if f.Kind == MAC {
		return formatMAC(m)
	}
	return f.formatFlags(m)
}

// parseFlags reads the flags that are set, and behind a slash the ones that count: without it, the usual ones and those named.
func (f FieldInfo) parseFlags(text string) (model.Mask, error) {
	first, second, masked := strings.Cut(text, "/")
	value, err := f.parseBits(first)
	if err != nil || !masked {
		return model.Mask{Value: value, Bits: value | usualFlags}, err
	}
	counted, err := f.parseBits(second)
	switch {
	case err != nil:
		return model.Mask{}, err
	case counted == 0:
		return model.Mask{}, fmt.Errorf("%s: the mask is empty", shorten(text))
	case value&^counted != 0:
		return model.Mask{}, fmt.Errorf("%s: the mask lacks %s, so nothing can match", shorten(text), f.formatBits(value&^counted))
	}
	return model.Mask{Value: value, Bits: counted}, nil
}

func (f FieldInfo) parseBits(text string) (uint64, error) {
	if text == noFlags {
		return 0, nil
	}
	var value uint64
	for word := range strings.SplitSeq(text, "+") {
		bit, ok := number(f.Names, word)
		if !ok {
			return 0, fmt.Errorf("%s is not a flag", quote(word))
		}
		value |= uint64(bit)
	}
	return value, nil
}

func (f FieldInfo) formatFlags(m model.Mask) string {
	if m.Bits == m.Value|usualFlags {
		return f.formatBits(m.Value)
	}
	return f.formatBits(m.Value) + "/" + f.formatBits(m.Bits)
}

// FormatFlags prints which bits of a field of flags are set: "syn+ack", or "none".
func FormatFlags(field model.Field, value uint64) string {
	info, _ := Lookup(field)
	return info.formatBits(value)
}

func (f FieldInfo) formatBits(value uint64) string {
	var words []string
	for _, name := range f.Names {
		if value&uint64(name.Value) != 0 {
			words = append(words, name.Text)
		}
	}
	if words == nil {
		return noFlags
	}
	return strings.Join(words, "+")
}

// parseMAC reads a MAC address, or its first bits.
func parseMAC(text string) (model.Mask, error) {
	address, length, isPrefix := strings.Cut(text, "/")
	var value uint64
	parts := strings.Split(address, ":")
	for _, part := range parts {
		octet, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) != 2 || len(parts) != macBits/8 {
			return model.Mask{}, fmt.Errorf("%s is not a MAC address", quote(address))
		}
		value = value<<8 | octet
	}
	plen := uint32(macBits)
	if isPrefix {
		var err error
		if plen, err = parseDecimal(length, macBits); err != nil || plen == 0 {
			return model.Mask{}, fmt.Errorf("a prefix of a MAC address is 1 to %d bits long, not %s", macBits, quote(length))
		}
	}
	m := model.Mask{Value: value, Bits: (1<<plen - 1) << (macBits - plen)}
	if value&^m.Bits != 0 {
		m.Value &= m.Bits
		return model.Mask{}, fmt.Errorf("%s has bits set behind its length; write %s", text, formatMAC(m))
	}
	return m, nil
}

func formatMAC(m model.Mask) string {
	octets := make([]string, 0, macBits/8)
	for shift := macBits - 8; shift >= 0; shift -= 8 {
		octets = append(octets, fmt.Sprintf("%02x", byte(m.Value>>shift)))
	}
	text := strings.Join(octets, ":")
	if plen := bits.OnesCount64(m.Bits); plen != macBits {
		text += "/" + strconv.Itoa(plen)
	}
	return text
}
