package compile

import (
	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// effect is a rule_effect and its place in the effects of its run.
type effect struct {
	abi.RuleEffect
	line uint32 // 0: the rule only passes or drops, and has no line
}

// addEffect makes what a rule does, and a line for it if that is more than passing or dropping.
func (u *run) addEffect(r *model.Rule, id uint32) (effect, error) {
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
	if r.Shadow {
		flags |= abi.EffectShadow
	}
	e.Flags = uint16(flags)
	if flags == abi.EffectDecides && (r.Action == model.Pass || r.Action == model.Drop) {
		return e, nil
	}
	if u.effects == nil {
		u.effects = make([]abi.Line, 1)
	}
	e.line = uint32(len(u.effects))
	u.effects = append(u.effects, abi.Line{})
	return e, nil
}

// endEffect writes the line, now that the records of the rule are all there.
func (u *run) endEffect(e effect) {
	if e.line != 0 {
		e.Next = uint32(len(u.records))
		u.effects[e.line] = abi.ToLine(e.RuleEffect)
	}
}
