package compile

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// effect is a rule_effect and its place in the effects of its run.
type effect struct {
	abi.RuleEffect
	line uint32 // 0: the rule only passes or drops, and has no line
}

// addEffect makes what a rule does, and a line for it if that is more than passing or dropping.
func (u *run) addEffect(r *model.Rule, id uint32, exits map[string]uint16) (effect, error) {
	e := effect{RuleEffect: abi.RuleEffect{Id: id}}
	var flags abi.EffectFlags
	if r.Action != "" && r.Action != model.Mirror {
		verdict, err := verdictOf(r.Action)
		if err != nil {
			return e, err
		}
		e.Verdict = uint8(verdict)
		flags |= abi.EffectDecides
	}
	switch r.Action {
	case model.Reject:
		e.Reject = uint8(1 + slices.IndexFunc(rule.Rejects(), func(info rule.RejectInfo) bool { return info.Code == r.Reject }))
	case model.Mirror:
		flags |= abi.EffectMirror
		fallthrough
	case model.Redirect:
		exit, ok := exits[r.Interface]
		if !ok {
			return e, fmt.Errorf("interface %q has no id", r.Interface)
		}
		e.Interface = uint32(exit)
	}
	if r.Shadow {
		flags |= abi.EffectShadow
	}
	e.Log, e.Sample = r.Log, r.Sample
	if r.Limit != nil {
		flags |= e.limit(r.Limit, id)
	}
	e.Flags = uint16(flags)
	if flags == abi.EffectDecides && (r.Action == model.Pass || r.Action == model.Drop) && r.Log == 0 && r.Sample == 0 {
		return e, nil
	}
	return u.newEffect(e.RuleEffect), nil
}

// newEffect makes room for a line.
func (u *run) newEffect(e abi.RuleEffect) effect {
	if u.effects == nil {
		u.effects = make([]abi.Line, 1)
	}
	u.effects = append(u.effects, abi.Line{})
	return effect{e, uint32(len(u.effects) - 1)}
}

// endEffect writes the line, now that the records of the rule are all there.
func (u *run) endEffect(e effect) {
	if e.line != 0 {
		e.Next = uint32(len(u.records))
		u.effects[e.line] = abi.ToLine(e.RuleEffect)
	}
}

// limit writes a limit into the effect: times are rounded down, the burst from the cost of one, so that a whole burst always fits.
func (e *effect) limit(l *model.Limit, id uint32) abi.EffectFlags {
	flags := abi.EffectLimit
	if l.Bytes {
		flags |= abi.EffectBytes
	}
	e.Cost = ratio(uint64(l.Every), 1<<16, l.Rate)
	e.Burst = ratio(l.Burst, e.Cost, 1<<(16-abi.LimitTickBits))
	e.Most = uint32(min(l.Burst, 1<<32-1))
	e.Bucket = id
	switch l.Per.What {
	case model.PerAll:
		e.Bucket = sharedBucket(l)
	case model.PerSource:
		e.Per = uint8(abi.PerSrc)
	case model.PerDest:
		e.Per = uint8(abi.PerDst)
	case model.PerService:
		e.Per = uint8(abi.PerService)
	case model.PerFlow:
		e.Per = uint8(abi.PerFlow)
	}
	for family, bits := range l.Per.Bits {
		e.Prefix[family] = uint8(bits)
	}
	return flags
}

// sharedBucket names the bucket of all rules with such a limit. Ids of rules don't have the upper bit.
func sharedBucket(l *model.Limit) uint32 {
	h := fnv.New32a()
	fmt.Fprintln(h, l.Rate, l.Every, l.Bytes, l.Burst)
	return h.Sum32() | 1<<31
}

// ratio is a * b / c, rounded down, of what fits in 64 bits.
func ratio(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	quotient, _ := bits.Div64(hi%c, lo, c)
	return quotient
}
