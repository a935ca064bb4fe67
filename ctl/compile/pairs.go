package compile

import (
	"net/netip"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// Sets of pairs are records as well: one an address and port, which the index finds as it finds rules of two fields. What is
// not in such a set is said by records that lead past the rule.

// pairTerms are the pairs of a set as alternatives of an address field.
func pairTerms(set *model.Set) []addressTerm {
	pairs := uniquePairs(set)
	terms := make([]addressTerm, len(pairs))
	for i, pair := range pairs {
		prefix := netip.PrefixFrom(pair.Addr(), pair.Addr().BitLen())
		terms[i] = addressTerm{families: familyOf(prefix), prefix: prefix, port: pair.Port()}
	}
	return terms
}

func uniquePairs(set *model.Set) []netip.AddrPort {
	pairs := slices.SortedFunc(slices.Values(set.Pairs), netip.AddrPort.Compare)
	return slices.Compact(pairs)
}

// addSkips appends, before the records of a rule, those of the pairs that it must not match.
func (u *run) addSkips(p *plan, id uint32) effect {
	var skip effect
	for field := range p.addresses {
		if p.addresses[field].notPairs == nil {
			continue
		}
		if skip.line == 0 {
			skip = u.newEffect(abi.RuleEffect{Id: id, Flags: uint16(abi.EffectSkip)})
		}
		for _, term := range pairTerms(p.addresses[field].notPairs) {
			record := abi.RuleRecord{Id: id, Effect: skip.line, Conditions: uint16(abi.RuleV4)}
			if term.families == onlyV6 {
				record.Conditions = uint16(abi.RuleV6)
			}
			term.apply(&record, abi.Field(field))
			u.records = append(u.records, record)
		}
	}
	return skip
}

// requirePorts lets packets without ports match no record of a rule that is about pairs: they don't have any.
func (p *plan) requirePorts(record *abi.RuleRecord) {
	for field := range p.addresses {
		port := map[abi.Field]abi.Field{abi.FieldSrc: abi.FieldSport, abi.FieldDst: abi.FieldDport}[abi.Field(field)]
		asked := slices.ContainsFunc(p.numbers, func(n numberPlan) bool { return n.field == port })
		if p.addresses[field].notPairs != nil && !asked {
			withPort(record, abi.Field(field), 0, 65535)
		}
	}
}

// withPort adds the port that goes with an address field, unless there is one.
func withPort(record *abi.RuleRecord, field abi.Field, lo, hi uint16) {
	flag, from, to := abi.RuleSport, &record.SportLo, &record.SportHi
	if field == abi.FieldDst {
		flag, from, to = abi.RuleDport, &record.DportLo, &record.DportHi
	}
	if !hasCondition(*record, flag) {
		record.Conditions |= uint16(flag)
		*from, *to = lo, hi
	}
}

func hasCondition(record abi.RuleRecord, flag abi.RuleConditions) bool {
	return record.Conditions&uint16(flag) != 0
}
