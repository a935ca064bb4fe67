package compile

import (
	"net/netip"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// naive judges a packet as PRODUCT.md says it: rule by rule, condition by condition.
func naive(s *model.Snapshot, ids IDs, p *packet) (uint32, abi.Verdict) {
	verdict := map[model.Action]abi.Verdict{"": abi.VerdictPass, model.Pass: abi.VerdictPass, model.Drop: abi.VerdictDrop}
	if s.Filter.Allow != "" {
		if set, _ := s.Set(s.Filter.Allow); holds(set.Prefixes, p.src) {
			return uint32(abi.DeciderAllow), abi.VerdictPass
		}
	}
	for i := range s.Filter.Rules {
		r := &s.Filter.Rules[i]
		if r.Action != "" && !r.Shadow && naiveMatch(s, ids, r, p) {
			return ids.Rules[r.Name], verdict[r.Action]
		}
	}
	return uint32(abi.DeciderDefault), verdict[s.Filter.Default]
}

func naiveMatch(s *model.Snapshot, ids IDs, r *model.Rule, p *packet) bool {
	for i := range r.Match {
		c := &r.Match[i]
		prefixes, ranges := c.Prefixes, c.Ranges
		if c.Set != "" {
			set, _ := s.Set(c.Set)
			prefixes, ranges = set.Prefixes, set.Ports
		}
		field, _ := lookupField(c.Field)
		if set, ok := s.Set(c.Set); ok && set.Kind == model.Pairs {
			pair := netip.AddrPortFrom(p.src, p.sport)
			if field == abi.FieldDst {
				pair = netip.AddrPortFrom(p.dst, p.dport)
			}
			if !p.ports || slices.Contains(set.Pairs, pair) == c.Not {
				return false
			}
			continue
		}
		var hit bool
		switch field {
		case abi.FieldSrc:
			hit = holds(prefixes, p.src)
		case abi.FieldDst:
			hit = holds(prefixes, p.dst)
		case abi.FieldSrcMac, abi.FieldDstMac:
			for _, mask := range c.Masks {
				hit = hit || p.macOf(field)&mask.Bits == mask.Value
			}
		default:
			value, has := p.fact(field)
			if !has {
				return false
			}
			for _, r := range ranges {
				hit = hit || r.Lo <= value && value <= r.Hi
			}
			for _, mask := range c.Masks {
				hit = hit || uint64(value)&mask.Bits == mask.Value
			}
			for _, name := range c.Names {
				number, _ := ids.numberOf(c.Field, name)
				hit = hit || number == value
			}
		}
		if hit == c.Not {
			return false
		}
	}
	return true
}

func holds(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
