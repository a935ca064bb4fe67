package compile

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// maxRecords bounds the rule records of a snapshot: 64 MB of them.
const maxRecords = 1 << 20

// lowered is the filter as records in the order of the rules, not yet arranged for lookup.
type lowered struct {
	runs [abi.WayCount]run
	sets []setUse
}

// run is the rules that judge the packets of one way.
type run struct {
	records []abi.RuleRecord
	extras  extras
	effects []abi.Line // the first is no rule's, so that 0 can mean none
	flags   abi.RulesFlags
	verdict abi.Verdict // of what no rule decides
}

// setFlags are those of a run whose packets look up their sets.
const setFlags = abi.RulesSrcSets | abi.RulesDstSets

// flags are those of any run.
func (l *lowered) flags() (all abi.RulesFlags) {
	for _, r := range l.runs {
		all |= r.flags
	}
	return all
}

// setUse is a set that somebody asks for: of prefixes, or the difference of two others, given by their bits.
type setUse struct {
	bits     []uint16
	prefixes []netip.Prefix
	in, out  uint16 // with in != 0: in `in` and not in `out`
}

// equal tells that two uses come to the same.
func (u setUse) equal(v setUse) bool {
	same := len(u.prefixes) == len(v.prefixes) && (len(u.prefixes) == 0 || &u.prefixes[0] == &v.prefixes[0])
	return slices.Equal(u.bits, v.bits) && u.in == v.in && u.out == v.out && (same || slices.Equal(u.prefixes, v.prefixes))
}

// Bits of families.
const (
	onlyV4    = 1 << abi.FamilyV4
	onlyV6    = 1 << abi.FamilyV6
	anyFamily = onlyV4 | onlyV6
)

// addressTerm is one alternative of an address field.
type addressTerm struct {
	families uint8        // it can match these only
	prefix   netip.Prefix // of one family; not valid: any address
	not      bool         // outside of prefix
	port     uint16       // that goes with it; 0: any
	set      uint16       // 0: none
	notSet   bool
}

// lowering is the state of lowerRules.
type lowering struct {
	*lowered
	snapshot *model.Snapshot
	ids      IDs
	uses     map[string]int // index in sets, by name
	pairs    bool           // some rule asks for a set of pairs
}

// lowerRules turns the rules into records. A rule is the sum of the products of its lists.
func lowerRules(snapshot *model.Snapshot, ids IDs) (*lowered, error) {
	filter := &snapshot.Filter
	l := &lowering{
		lowered:  &lowered{},
		snapshot: snapshot, ids: ids, uses: map[string]int{},
	}
	received := &l.runs[abi.WayIn]
	received.records = make([]abi.RuleRecord, 0, len(filter.Rules))
	var err error
	if received.verdict, err = verdictOf(filter.Default); err != nil {
		return nil, fmt.Errorf("filter.default: %w", err)
	}
	for i := range filter.Rules {
		if err := l.rule(&filter.Rules[i]); err != nil {
			return nil, err
		}
	}
	if anyMatchOn(filter.Rules, "sport", "dport", "service") || l.pairs {
		l.runs[abi.WayIn].flags |= abi.RulesPorts
		l.runs[abi.WayOut].flags |= abi.RulesPorts
	}
	if filter.Allow != "" {
		set, err := findSet(snapshot, filter.Allow, model.Addresses)
		if err != nil {
			return nil, fmt.Errorf("filter.allow: %w", err)
		}
		received.flags |= abi.RulesAllow | abi.RulesSrcSets
		if i, ok := l.uses[set.Name]; ok {
			l.sets[i].bits = append(l.sets[i].bits, 0)
		} else {
			l.sets = append(l.sets, setUse{bits: []uint16{0}, prefixes: set.Prefixes})
		}
	}
	return l.lowered, nil
}

// anyMatchOn tells whether a rule has a condition on one of the fields.
func anyMatchOn(rules []model.Rule, fields ...model.Field) bool {
	for i := range rules { // neither is small enough to be copied for each of 100,000
		for j := range rules[i].Match {
			if slices.Contains(fields, rules[i].Match[j].Field) {
				return true
			}
		}
	}
	return false
}

func verdictOf(action model.Action) (abi.Verdict, error) {
	switch action {
	case model.Pass, "":
		return abi.VerdictPass, nil
	case model.Drop:
		return abi.VerdictDrop, nil
	case model.Reject:
		return abi.VerdictReject, nil
	case model.Redirect:
		return abi.VerdictRedirect, nil
	}
	return 0, fmt.Errorf("unknown action %q", action)
}

// rule appends the records of one rule.
func (l *lowering) rule(r *model.Rule) error {
	p, err := planRule(l.snapshot, l.ids, r)
	if err != nil {
		return err
	}
	id, ok := l.ids.Rules[r.Name]
	if !ok {
		return fmt.Errorf("rule %q has no id", r.Name)
	}
	var terms [2][]addressTerm // abi.FieldSrc, abi.FieldDst
	for field := range terms {
		if terms[field], err = l.address(r, abi.Field(field), &p.addresses[field]); err != nil {
			return fmt.Errorf("rule %q: %w", r.Name, err)
		}
	}
	for _, a := range p.addresses {
		l.pairs = l.pairs || a.pairs != nil || a.notPairs != nil
	}
	for _, way := range waysOf(r) {
		if err := l.runs[way].add(r, id, l.ids.Exits, p, terms); err != nil {
			return err
		}
	}
	return nil
}

// add appends the records of a rule to a run.
func (u *run) add(r *model.Rule, id uint32, exits map[string]uint16, p *plan, terms [2][]addressTerm) error {
	skip := u.addSkips(p, id)
	effect, err := u.addEffect(r, id, exits)
	if err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, err)
	}
	for _, src := range terms[abi.FieldSrc] {
		for _, dst := range terms[abi.FieldDst] {
			families := src.families & dst.families
			if families == 0 {
				continue
			}
			record := abi.RuleRecord{Id: id, Verdict: effect.Verdict, Effect: effect.line}
			switch families {
			case onlyV4:
				record.Conditions = uint16(abi.RuleV4)
			case onlyV6:
				record.Conditions = uint16(abi.RuleV6)
			}
			u.flags |= src.apply(&record, abi.FieldSrc) | dst.apply(&record, abi.FieldDst)
			p.requirePorts(&record)
			u.product(record, p.numbers, nil)
			if len(u.records) > maxRecords {
				return &LimitError{What: "rule records", Name: r.Name, Limit: maxRecords}
			}
		}
	}
	u.endEffect(effect)
	u.endEffect(skip)
	return nil
}

// waysOf says whose packets a rule judges.
func waysOf(r *model.Rule) []abi.Way {
	if r.Direction == model.Out {
		return []abi.Way{abi.WayOut}
	}
	if rule.JudgesLink(*r) {
		return []abi.Way{abi.WayIn, abi.WayLink}
	}
	return []abi.Way{abi.WayIn}
}

// apply writes the term into a record and returns which sets that makes every packet look up.
func (t *addressTerm) apply(record *abi.RuleRecord, field abi.Field) abi.RulesFlags {
	value, plen, set := &record.Src, &record.SrcPlen, &record.SrcSet
	prefixFlag, setFlag, lookup := abi.RuleSrc, abi.RuleSrcSet, abi.RulesSrcSets
	if field == abi.FieldDst {
		value, plen, set = &record.Dst, &record.DstPlen, &record.DstSet
		prefixFlag, setFlag, lookup = abi.RuleDst, abi.RuleDstSet, abi.RulesDstSets
	}
	if t.prefix.IsValid() {
		record.Conditions |= uint16(prefixFlag)
		*value, *plen = hostOrder(t.prefix.Addr()), uint8(t.prefix.Bits())
		if t.not {
			record.Negated |= uint16(prefixFlag)
		}
	}
	if t.port != 0 {
		withPort(record, field, t.port, t.port)
	}
	if t.set == 0 {
		return 0
	}
	record.Conditions |= uint16(setFlag)
	*set = t.set
	if t.notSet {
		record.Negated |= uint16(setFlag)
	}
	return lookup
}

// hostOrder returns an address as records and masks hold it: IPv4 in the low 32 bits.
func hostOrder(addr netip.Addr) [2]uint64 {
	if addr.Is4() {
		b := addr.As4()
		return [2]uint64{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	return mapped(addr)
}

// mapped returns an address as services have it: in host order, IPv4 as ::ffff:a.b.c.d.
func mapped(addr netip.Addr) [2]uint64 {
	b := addr.As16()
	return [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// product appends a record for each combination of the numbers' alternatives.
func (u *run) product(record abi.RuleRecord, numbers []numberPlan, conditions []condition) {
	if len(numbers) == 0 {
		if len(conditions) > 0 {
			record.Conditions |= uint16(abi.RuleExt)
			record.Ext = u.extras.list(conditions)
		}
		u.records = append(u.records, record)
		return
	}
	n, rest := &numbers[0], numbers[1:]
	conditions = slices.Clip(conditions)
	switch {
	case n.masks != nil:
		u.maskProduct(record, numbers, conditions)
	case n.not && len(n.ranges) == 1 || !n.not && !n.wide:
		for _, r := range n.ranges {
			if with, ok := n.inline(record, r); ok {
				u.product(with, rest, conditions)
			} else {
				u.product(record, rest, append(conditions, n.within(r)))
			}
		}
	case n.not && len(n.ranges) <= conditionsPerLine:
		for _, r := range n.ranges {
			conditions = append(conditions, n.within(r))
		}
		u.product(record, rest, conditions)
	default:
		u.product(record, rest, append(conditions, n.bitmap(u, n.ranges)))
	}
}

// within is the condition that the value is in a range, or with not outside of it.
func (n *numberPlan) within(r model.Range) condition {
	return condition{field: n.field, flags: n.flags(), lo: r.Lo, hi: r.Hi}
}

// bitmap is the same for many ranges.
func (n *numberPlan) bitmap(u *run, ranges []model.Range) condition {
	return condition{field: n.field, flags: abi.ExtBitmap | n.flags(), lo: u.extras.bitmap(ranges)}
}

func (n *numberPlan) flags() (flags abi.ExtFlags) {
	if n.not {
		flags |= abi.ExtNegated
	}
	if !rule.Fields[n.field].Key {
		flags |= abi.ExtVolatile
	}
	return flags
}

// inline returns the record with one range of a field that records have room for.
func (n *numberPlan) inline(record abi.RuleRecord, r model.Range) (abi.RuleRecord, bool) {
	var flag abi.RuleConditions
	switch {
	case n.field == abi.FieldProto && r.Lo == r.Hi:
		flag, record.Proto = abi.RuleProto, uint8(r.Lo)
	case n.field == abi.FieldSport && !hasCondition(record, abi.RuleSport):
		flag, record.SportLo, record.SportHi = abi.RuleSport, uint16(r.Lo), uint16(r.Hi)
	case n.field == abi.FieldDport && !hasCondition(record, abi.RuleDport):
		flag, record.DportLo, record.DportHi = abi.RuleDport, uint16(r.Lo), uint16(r.Hi)
	default:
		return record, false
	}
	record.Conditions |= uint16(flag)
	if n.not {
		record.Negated |= uint16(flag)
	}
	return record, true
}

// address returns the alternatives of an address field.
func (l *lowering) address(r *model.Rule, field abi.Field, a *addressPlan) ([]addressTerm, error) {
	terms := []addressTerm{{families: anyFamily}}
	if a.pairs != nil {
		terms = pairTerms(a.pairs)
	}
	if a.is != nil {
		var err error
		if terms, err = l.positive(r, field, a); err != nil {
			return nil, err
		}
	}
	if a.not == nil {
		return terms, nil
	}
	if a.not.Set == "" && !a.notAsSet() {
		return outside(terms, a.not.Prefixes), nil
	}
	name := a.not.Set
	prefixes := a.not.Prefixes
	if name != "" {
		set, err := findSet(l.snapshot, name, model.Addresses)
		if err != nil {
			return nil, err
		}
		prefixes = set.Prefixes
	} else {
		name = notListSet(r, field)
	}
	out, err := l.use(name, setUse{prefixes: prefixes})
	if err != nil {
		return nil, err
	}
	for i := range terms {
		term := &terms[i]
		if term.set == 0 {
			term.set, term.notSet = out, true
		} else if term.set, err = l.use(differenceSet(r, field), setUse{in: term.set, out: out}); err != nil {
			return nil, err
		}
	}
	return terms, nil
}

// positive returns the alternatives of a condition that isn't negated.
func (l *lowering) positive(r *model.Rule, field abi.Field, a *addressPlan) ([]addressTerm, error) {
	if a.is.Set != "" {
		set, err := findSet(l.snapshot, a.is.Set, model.Addresses)
		if err != nil {
			return nil, err
		}
		bit, err := l.use(set.Name, setUse{prefixes: set.Prefixes})
		return []addressTerm{{families: anyFamily, set: bit}}, err
	}
	if a.wide && l.hasBits(r, field, a) {
		bit, err := l.use(listSet(r, field), setUse{prefixes: a.is.Prefixes})
		return []addressTerm{{families: anyFamily, set: bit}}, err
	}
	terms := make([]addressTerm, 0, len(a.is.Prefixes))
	for _, prefix := range a.is.Prefixes {
		term := addressTerm{families: familyOf(prefix)}
		if prefix.Bits() > 0 {
			term.prefix = prefix.Masked()
		}
		terms = append(terms, term)
	}
	return terms, nil
}

// hasBits tells whether the sets that a long list asks for got bits.
func (l *lowering) hasBits(r *model.Rule, field abi.Field, a *addressPlan) bool {
	_, list := l.ids.Sets[listSet(r, field)]
	_, difference := l.ids.Sets[differenceSet(r, field)]
	return list && (difference || !a.needsDifference())
}

// outside adds to each term, none of which has a prefix, that the address isn't in prefixes, at most one a family.
func outside(terms []addressTerm, prefixes []netip.Prefix) []addressTerm {
	var both []addressTerm
	for _, term := range terms {
		for _, family := range []uint8{onlyV4, onlyV6} {
			term := term
			term.families &= family
			for _, prefix := range prefixes {
				if familyOf(prefix) != family {
					continue
				}
				if prefix.Bits() == 0 {
					term.families = 0
				}
				term.prefix, term.not = prefix.Masked(), true
			}
			if term.families != 0 {
				both = append(both, term)
			}
		}
	}
	return both
}

func familyOf(prefix netip.Prefix) uint8 {
	if prefix.Addr().Is4() {
		return onlyV4
	}
	return onlyV6
}

// use makes sure that a set is in the table and returns its bit.
func (l *lowering) use(name string, use setUse) (uint16, error) {
	if i, ok := l.uses[name]; ok {
		return l.sets[i].bits[0], nil
	}
	bit, ok := l.ids.Sets[name]
	if !ok {
		return 0, fmt.Errorf("set %q has no bit", name)
	}
	use.bits = []uint16{bit}
	l.uses[name] = len(l.sets)
	l.sets = append(l.sets, use)
	return bit, nil
}
