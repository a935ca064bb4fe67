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
	if f.Kind == Address {
		prefix, err := ParsePrefix(text)
		if err != nil {
			return err
		}
		c.Prefixes = append(c.Prefixes, prefix)
		return nil
	}
	if _, ok := number(f.Names, text); !ok && f.Words {
		return fmt.Errorf("%s is not a kind of %s", quote(text), f.Name)
	}
	r, err := parseRange(f.Names, f.Max, text)
	if err != nil {
		return err
	}
	c.Ranges = append(c.Ranges, r)
	return nil
}

// Allowed says in words which values the field takes.
func (f FieldInfo) Allowed() string {
	var b strings.Builder
	if f.Kind == Address {
		b.WriteString("an address or prefix such as 198.51.100.0/24 or 2001:db8::/32")
	} else if f.Words {
		b.WriteString("one of")
		for _, name := range f.Names {
			b.WriteString(" " + name.Text)
		}
	} else {
		fmt.Fprintf(&b, "0 to %d, a range LOW-HIGH", f.Max)
		if f.Names != nil {
			b.WriteString(", or one of")
			for _, name := range f.Names {
				b.WriteString(" " + name.Text)
			}
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
	return parseRange(nil, 65535, text)
}

func parseRange(names []Name, limit uint32, text string) (model.Range, error) {
	if value, ok := number(names, text); ok {
		return model.Range{Lo: value, Hi: value}, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	if !decimal(first) || !decimal(last) {
		return model.Range{}, fmt.Errorf("%s is not a number or range", quote(text))
	}
	lo, err := parseDecimal(first, limit)
	if err != nil {
		return model.Range{}, err
	}
	hi, err := parseDecimal(last, limit)
	if err != nil {
		return model.Range{}, err
	}
	if lo > hi {
		return model.Range{}, fmt.Errorf("%s runs backwards; write %d-%d", text, hi, lo)
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
