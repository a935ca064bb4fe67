package compile

import (
	"cmp"
	"fmt"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// maxExpand is how many records the lists of one rule are multiplied out to. Longer lists become sets and bitmaps:
// they cost a packet a lookup instead of the table room, and the groups stay few.
const maxExpand = 16

// plan is how a rule's conditions are expressed.
type plan struct {
	addresses [2]addressPlan // abi.FieldSrc, abi.FieldDst
	numbers   []numberPlan   // those on fields that the flow's key determines come first
}

// addressPlan holds the conditions on one address field, at most one of each sign.
type addressPlan struct {
	is, not *model.Condition
	wide    bool // the prefixes of `is` become a set, if there is a bit left for it

	pairs, notPairs *model.Set // in place of `is` or `not`: sets of pairs
}

// numberPlan holds what the conditions on one number field come to, or one condition on a field with masks.
type numberPlan struct {
	field  abi.Field
	ranges []model.Range // ascending, apart from each other
	masks  []model.Mask  // instead of ranges
	not    bool          // the value must be outside of them
	wide   bool          // the ranges become a bitmap, the masks one or buckets
}

// alternatives is how many records the plan takes when it isn't wide.
func (n *numberPlan) alternatives() int {
	if n.not {
		return 1
	}
	return len(n.ranges) + len(n.masks)
}

func planRule(snapshot *model.Snapshot, ids IDs, r *model.Rule) (*plan, error) {
	p := &plan{}
	type pair struct{ is, not *model.Condition }
	var pairs [abi.FieldCount]pair
	for i := range r.Match {
		condition := &r.Match[i]
		field, ok := lookupField(condition.Field)
		if !ok {
			return nil, fmt.Errorf("rule %q: unknown field %q", r.Name, condition.Field)
		}
		slot := &pairs[field].is
		if condition.Not {
			slot = &pairs[field].not
		}
		if *slot != nil {
			return nil, fmt.Errorf("rule %q: two conditions on %q", r.Name, condition.Field)
		}
		*slot = condition
	}
	for field, pair := range pairs {
		field := abi.Field(field)
		switch {
		case field == abi.FieldSrc || field == abi.FieldDst:
			p.addresses[field] = planAddress(snapshot, pair.is, pair.not)
		case rule.Fields[field].Kind == rule.Flags || rule.Fields[field].Kind == rule.MAC:
			for _, condition := range []*model.Condition{pair.is, pair.not} {
				if condition != nil {
					p.numbers = append(p.numbers, numberPlan{field: field, masks: condition.Masks, not: condition.Not})
				}
			}
		case pair.is != nil || pair.not != nil:
			number, err := planNumber(snapshot, ids, field, pair.is, pair.not)
			if err != nil {
				return nil, fmt.Errorf("rule %q: %w", r.Name, err)
			}
			p.numbers = append(p.numbers, number)
		}
	}
	slices.SortStableFunc(p.numbers, func(a, b numberPlan) int { return cmp.Compare(a.flags()&abi.ExtVolatile, b.flags()&abi.ExtVolatile) })
	p.narrow()
	return p, nil
}

// planAddress tells sets of pairs from the others.
func planAddress(snapshot *model.Snapshot, is, not *model.Condition) addressPlan {
	pairsOf := func(c *model.Condition) *model.Set {
		if c == nil || c.Set == "" {
			return nil
		}
		if set, ok := snapshot.Set(c.Set); ok && set.Kind == model.Pairs {
			return set
		}
		return nil
	}
	a := addressPlan{is: is, not: not, pairs: pairsOf(is), notPairs: pairsOf(not)}
	if a.pairs != nil {
		a.is = nil
	}
	if a.notPairs != nil {
		a.not = nil
	}
	return a
}

// narrow makes the longest lists sets and bitmaps until the rest multiplies out to few records.
func (p *plan) narrow() {
	type list struct {
		length int
		wide   *bool
	}
	var lists []list
	product := 1
	for i := range p.addresses {
		if is := p.addresses[i].is; is != nil && len(is.Prefixes) > 1 {
			lists = append(lists, list{len(is.Prefixes), &p.addresses[i].wide})
		}
	}
	for i := range p.numbers {
		if n := &p.numbers[i]; n.alternatives() > 1 {
			lists = append(lists, list{n.alternatives(), &n.wide})
		}
	}
	for _, l := range lists {
		product *= l.length
	}
	slices.SortStableFunc(lists, func(a, b list) int { return cmp.Compare(b.length, a.length) })
	for _, l := range lists {
		if product <= maxExpand {
			return
		}
		*l.wide = true
		product /= l.length
	}
}

// lookupField returns the number of a field on the border.
func lookupField(name model.Field) (abi.Field, bool) {
	for i, info := range rule.Fields {
		if info.Name == name {
			return abi.Field(i), true
		}
	}
	return 0, false
}

func findSet(snapshot *model.Snapshot, name string, kind model.SetKind) (*model.Set, error) {
	set, ok := snapshot.Set(name)
	switch {
	case !ok:
		return nil, fmt.Errorf("set %q doesn't exist", name)
	case set.Kind != kind:
		return nil, fmt.Errorf("set %q is of the wrong kind", name)
	}
	return set, nil
}

// The sets that a rule's lists become have names of their own: they need a bit as the named ones do. No set of
// the user is called like this, for the blanks.
func listSet(r *model.Rule, field abi.Field) string {
	return fmt.Sprintf("rule %s %s", r.Name, rule.Fields[field].Name)
}
func notListSet(r *model.Rule, field abi.Field) string {
	return fmt.Sprintf("rule %s not-%s", r.Name, rule.Fields[field].Name)
}
func differenceSet(r *model.Rule, field abi.Field) string {
	return fmt.Sprintf("rule %s %[2]s not-%[2]s", r.Name, rule.Fields[field].Name)
}

// notAsSet tells that the negated prefixes can't be part of the records themselves: those have room for one prefix.
func (a *addressPlan) notAsSet() bool {
	if a.not == nil || a.not.Set != "" {
		return false
	}
	v4 := 0
	for _, prefix := range a.not.Prefixes {
		if prefix.Addr().Is4() {
			v4++
		}
	}
	return a.pairs != nil || a.is != nil && a.is.Set == "" || v4 > 1 || len(a.not.Prefixes)-v4 > 1
}

// needsDifference tells that both signs ask for a set, while a record has room for one.
func (a *addressPlan) needsDifference() bool {
	isSet := a.is != nil && (a.is.Set != "" || a.wide)
	return isSet && a.not != nil && (a.not.Set != "" || a.notAsSet())
}

// setNames returns the names of all that needs a bit in the class lines: the address sets and what rules make of
// their lists; without the optional ones, rules are multiplied out further.
func setNames(snapshot *model.Snapshot, ids IDs) (required, optional []string) {
	for i := range snapshot.Sets {
		if set := &snapshot.Sets[i]; set.Kind == model.Addresses {
			required = append(required, set.Name)
		}
	}
	for i := range snapshot.Filter.Rules {
		r := &snapshot.Filter.Rules[i]
		if !hasLists(r) {
			continue
		}
		p, err := planRule(snapshot, ids, r)
		if err != nil {
			continue // Compile reports it
		}
		for field := range p.addresses {
			field, a := abi.Field(field), &p.addresses[field]
			if a.notAsSet() {
				required = append(required, notListSet(r, field))
			}
			// A list that can't be subtracted from isn't made a set either: the difference comes first.
			if a.needsDifference() && a.wide {
				optional = append(optional, differenceSet(r, field))
			} else if a.needsDifference() {
				required = append(required, differenceSet(r, field))
			}
			if a.wide {
				optional = append(optional, listSet(r, field))
			}
		}
	}
	return required, optional
}

// hasLists tells whether a rule could need a set of its own: most rules of a large ruleset can't.
func hasLists(r *model.Rule) bool {
	addresses := 0
	for i := range r.Match {
		condition := &r.Match[i]
		if len(condition.Prefixes) > 1 || condition.Not && (condition.Set != "" || len(condition.Prefixes) > 0) {
			addresses++
		}
	}
	return addresses > 0
}
