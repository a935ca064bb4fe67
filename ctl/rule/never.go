package rule

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// NeverMatches says why no packet can match the rule, and which condition of it to blame; why is "" when a packet might.
func NeverMatches(r model.Rule) (blame model.Condition, why string) {
	if blame, why = Contradiction(r); why != "" {
		return blame, why
	}
	return nothingLeft(r)
}

// nothingLeft says which negated condition of a rule leaves no value that its field could have.
func nothingLeft(r model.Rule) (blame model.Condition, why string) {
	effort := maxEffort
	for i := range r.Match {
		n := &r.Match[i]
		if !n.Not {
			continue
		}
		allowed := everything(n.Field)
		from := ""
		for _, c := range r.Match {
			if c.Field == n.Field && !c.Not {
				allowed, from = c, fmt.Sprintf(" that %s in line %d allows", c.Field, c.Pos.Line)
			}
		}
		if field, _ := Lookup(n.Field); field.Kind == Thing && from == "" {
			continue // a packet may have none of those that have names
		}
		excluded := *n
		excluded.Not, excluded.Ranges = false, joined(n.Ranges)
		if implies(allowed, excluded, &effort) {
			return *n, fmt.Sprintf("not-%s excludes every value%s", n.Field, from)
		}
	}
	return model.Condition{}, ""
}

// everything is a condition on a field that all packets which have it fulfil.
func everything(name model.Field) model.Condition {
	field, _ := Lookup(name)
	c := model.Condition{Field: name}
	switch field.Kind {
	case Address:
		c.Prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	case Number:
		c.Ranges = []model.Range{{Lo: 0, Hi: field.Max}}
	case Flags, MAC:
		c.Masks = []model.Mask{{}}
	}
	return c
}

// joined sorts ranges and joins those that overlap or touch.
func joined(ranges []model.Range) []model.Range {
	var all []model.Range
	for _, r := range slices.SortedFunc(slices.Values(ranges), func(a, b model.Range) int { return cmp.Compare(a.Lo, b.Lo) }) {
		if last := len(all) - 1; last >= 0 && uint64(r.Lo) <= uint64(all[last].Hi)+1 {
			all[last].Hi = max(all[last].Hi, r.Hi)
		} else {
			all = append(all, r)
		}
	}
	return all
}
