package rule

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"gardu/ctl/model"
)

// not before a key of `match` negates it.
const not = "not-"

// ParseKey splits a key of `match` into its field and whether it is negated. ok is false when no such field exists.
func ParseKey(key string) (field FieldInfo, negated, ok bool) {
	name, negated := strings.CutPrefix(key, not)
	field, ok = Lookup(model.Field(name))
	return field, negated, ok
}

// Add parses one value, as it stands in a configuration, into the condition: a prefix or address, a number, name or
// range, or @SET. A set stands alone, because a condition holds either a set or values.
func (f FieldInfo) Add(c *model.Condition, text string) error {
	if c.Set != "" {
		return fmt.Errorf("%s after the set @%s: a set stands alone; put all values into one set", text, c.Set)
	}
	if name, ok := strings.CutPrefix(text, "@"); ok {
		switch {
		case f.Sets == NoSet:
			return fmt.Errorf("%s takes no set", f.Name)
		case len(c.Prefixes)+len(c.Ranges) > 0:
			return fmt.Errorf("%s after other values: a set stands alone; put all values into one set", text)
		case name == "":
			return errors.New("@ without the name of a set")
		}
		c.Set = name
		return nil
	}
	switch f.Kind {
	case Address:
		prefix, err := ParsePrefix(text)
		if err != nil {
			return err
		}
		c.Prefixes = append(c.Prefixes, prefix)
	case Flags, MAC:
		mask, err := f.parseMask(text)
		if err != nil {
			return err
		}
		c.Masks = append(c.Masks, mask)
	case Thing:
		if text == "" {
			return fmt.Errorf("the name is empty")
		}
		c.Names = append(c.Names, text)
	default:
		r, err := f.parseNumber(text)
		if err != nil {
			return err
		}
		c.Ranges = append(c.Ranges, r)
	}
	return nil
}

// WordList returns the words that the field's values can be, or be made of.
func (f FieldInfo) WordList() []string {
	var words []string
	for _, name := range f.Names {
		words = append(words, name.Text)
	}
	for _, span := range f.Spans {
		words = append(words, span.Text)
	}
	return words
}

// Allowed says in words which values the field takes.
func (f FieldInfo) Allowed() string {
	var b strings.Builder
	words := strings.Join(f.WordList(), " ")
	switch f.Kind {
	case Address:
		b.WriteString("an address or prefix such as 198.51.100.0/24 or 2001:db8::/32")
	case Flags:
		fmt.Fprintf(&b, "flags joined by + such as syn+ack, or none, of which fin, syn, rst, ack count; or FLAGS/MASK with the flags that count; the flags are %s", words)
	case MAC:
		b.WriteString("a MAC address such as 02:00:00:00:00:01, or its first bits such as 02:00:00:00:00:00/24")
	case Thing:
		fmt.Fprintf(&b, "the name of one of %s", f.Refer)
	case Number:
		switch {
		case f.Words:
			b.WriteString("one of " + words)
		case f.Hex:
			fmt.Fprintf(&b, "0 to %d or 0x0 to %#x, a range LOW-HIGH, or one of %s", f.Max, f.Max, words)
		case words != "":
			fmt.Fprintf(&b, "0 to %d, a range LOW-HIGH, or one of %s", f.Max, words)
		default:
			fmt.Fprintf(&b, "0 to %d, a range LOW-HIGH", f.Max)
		}
	}
	switch f.Sets {
	case AddressSet:
		b.WriteString(", @NAME for a set of addresses or pairs")
	case PortSet:
		b.WriteString(", @NAME for a set of ports")
	}
	b.WriteString("; or a list of such values")
	return b.String()
}

// ParsePrefix reads a prefix, or an address as the prefix of full length. Bits behind the length are masked off. Host
// names, zones and leading zeros are errors.
func ParsePrefix(text string) (netip.Prefix, error) {
	address, length, isPrefix := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is not an IP address", quote(address))
	case addr.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("%s has a zone", quote(text))
	case !isPrefix:
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	bits, err := parseDecimal(length, uint32(addr.BitLen()))
	if err != nil {
		family := "IPv4"
		if addr.Is6() {
			family = "IPv6"
		}
		return netip.Prefix{}, fmt.Errorf("an %s prefix is 0 to %d bits long, not %s", family, addr.BitLen(), quote(length))
	}
	return netip.PrefixFrom(addr, int(bits)).Masked(), nil
}

// ParsePortRange reads a port ("443") or a range of ports ("8000-8099").
func ParsePortRange(text string) (model.Range, error) {
	return parseRange(text, 65535, false)
}

// parseNumber reads a word, a number or a range of numbers.
func (f FieldInfo) parseNumber(text string) (model.Range, error) {
	if value, ok := number(f.Names, text); ok {
		return model.Range{Lo: value, Hi: value}, nil
	}
	for _, span := range f.Spans {
		if span.Text == text {
			return span.Values, nil
		}
	}
	if f.Words {
		return model.Range{}, fmt.Errorf("%s is not a kind of %s", quote(text), f.Name)
	}
	return parseRange(text, f.Max, f.Hex)
}

func parseRange(text string, limit uint32, hex bool) (model.Range, error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	read := parseDecimal
	switch {
	case hex && hexadecimal(first) && hexadecimal(last):
		read = parseHex
	case !decimal(first) || !decimal(last):
		return model.Range{}, fmt.Errorf("%s is not a number or range", quote(text))
	}
	lo, err := read(first, limit)
	if err != nil {
		return model.Range{}, err
	}
	hi, err := read(last, limit)
	if err != nil {
		return model.Range{}, err
	}
	if lo > hi {
		return model.Range{}, fmt.Errorf("%s runs backwards; write %s-%s", text, last, first)
	}
	return model.Range{Lo: lo, Hi: hi}, nil
}

// parseDecimal reads plain decimal digits: no sign, no space, no other base, and no leading zero that would look octal.
func parseDecimal(text string, limit uint32) (uint32, error) {
	if !decimal(text) {
		return 0, fmt.Errorf("%s is not a number", quote(text))
	}
	if len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("%s has a leading zero", text)
	}
	value, err := strconv.ParseUint(text, 10, 32)
	if err != nil || value > uint64(limit) {
		return 0, fmt.Errorf("%s is larger than %d", shorten(text), limit)
	}
	return uint32(value), nil
}

// parseHex reads a hexadecimal number with 0x before it.
func parseHex(text string, limit uint32) (uint32, error) {
	value, err := strconv.ParseUint(text[2:], 16, 32)
	if err != nil || value > uint64(limit) {
		return 0, fmt.Errorf("%s is larger than %#x", shorten(text), limit)
	}
	return uint32(value), nil
}

func hexadecimal(text string) bool {
	digits, ok := strings.CutPrefix(text, "0x")
	return ok && digits != "" && strings.Trim(digits, "0123456789abcdefABCDEF") == ""
}

func decimal(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

// quote makes any bytes of a user safe to print, and short.
func quote(text string) string {
	return strconv.Quote(shorten(text))
}

func shorten(text string) string {
	const most = 60
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
