package rule

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gardu/ctl/model"
)

// Format prints a rule on one line as it could stand in a configuration, without its name:
//
//	drop {src: @known-bad, proto: tcp, dport: [22, 8000-8099]}
func Format(r model.Rule) string {
	var b strings.Builder
	if r.Shadow {
		b.WriteString("shadow ")
	}
	b.WriteString(FormatAction(r))
	b.WriteString(" {")
	for i, c := range r.Match {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(FormatCondition(c))
	}
	b.WriteByte('}')
	return b.String()
}

// FormatAction prints what a rule does: "drop", "reject", "reject: tcp-reset", "redirect: eth1", "count".
func FormatAction(r model.Rule) string {
	switch argument := cmp.Or(string(r.Reject), r.Interface); {
	case r.Action == "":
		return "count"
	case argument == "":
		return string(r.Action)
	default:
		return string(r.Action) + ": " + argument
	}
}

// FormatCondition prints a condition as the key and value of `match`. ParseKey and Add read it back.
func FormatCondition(c model.Condition) string {
	key := string(c.Field)
	if c.Not {
		key = not + key
	}
	values := FormatValues(c)
	if len(values) == 1 {
		return key + ": " + values[0]
	}
	return key + ": [" + strings.Join(values, ", ") + "]"
}

// FormatValues prints each value of a condition; Add reads each back.
func FormatValues(c model.Condition) []string {
	if c.Set != "" {
		return []string{"@" + c.Set}
	}
	field, _ := Lookup(c.Field)
	var values []string
	for _, p := range c.Prefixes {
		values = append(values, FormatPrefix(p))
	}
	for _, r := range c.Ranges {
		values = append(values, field.formatRange(r))
	}
	for _, m := range c.Masks {
		values = append(values, field.formatMask(m))
	}
	return append(values, c.Names...)
}

// FormatPrefix prints a prefix, and one of full length as an address.
func FormatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// FormatPortRange prints a port or a range of ports.
func FormatPortRange(r model.Range) string {
	return FieldInfo{}.formatRange(r)
}

func (f FieldInfo) formatRange(r model.Range) string {
	for _, span := range f.Spans {
		if span.Values == r {
			return span.Text
		}
	}
	format := "%d"
	if f.Hex {
		format = "%#x"
	}
	switch {
	case r.Lo != r.Hi:
		return fmt.Sprintf(format+"-"+format, r.Lo, r.Hi)
	case f.Hex && !slices.ContainsFunc(f.Names, func(n Name) bool { return n.Value == r.Lo }):
		return fmt.Sprintf("%#04x", r.Lo)
	}
	return formatNumber(f.Names, r.Lo)
}

func formatNumber(names []Name, value uint32) string {
	for _, name := range names {
		if name.Value == value {
			return name.Text
		}
	}
	return strconv.FormatUint(uint64(value), 10)
}
