package compile

import (
	"fmt"
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
