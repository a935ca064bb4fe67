package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Source is the address that a packet comes from; not valid: of a frame that says none.
func Source(frame []byte) netip.Addr {
	f, _ := parse(frame)
	return f.src
}

// maxTried is how many of the rules that a packet met are told of.
const maxTried = 10

// maxWanted is how much is told of the values that a condition wants, in bytes.
const maxWanted = 60

// Why adds to an explanation how the rules that were asked fared with the packet, which entries of sets it was found by, and how its
// backend was chosen, by the reference model. Where the model doesn't agree with what the programs did, that is said. The snapshot is
// the one in force, on the name of the interface.
func Why(e *api.Explanation, snapshot *model.Snapshot, frame []byte, result dataplane.Result, sent bool) {
	f, how := parse(frame)
	if how != parsed {
		return
	}
	m := &Model{Interface: e.Interface}
	m.Apply(snapshot)
	f.sent = sent
	steps := map[abi.Step]abi.TraceStep{}
	for _, step := range result.Trace.Step[:min(result.Trace.Steps, uint32(len(result.Trace.Step)))] {
		steps[abi.Step(step.Step)] = step
	}
	f.state = uint32(steps[abi.StepState].Result)
	_, byDefault := steps[abi.StepDefault]
	if e.Rule != "" || byDefault {
		m.tellRules(e, f)
	}
	flow, asked := steps[abi.StepFlow]
	if begins := asked && flow.Result == 0; begins && e.Backend != "" && !f.later && !f.hasICMP {
		if service := m.serviceOf(f); service != nil {
			e.Ring = &api.RingSlot{Slot: slotOf(service, f), Slots: ringSlots(service)}
		}
	}
}

// tried is a rule that was asked.
type tried struct {
	*model.Rule
	failed int             // conditions that don't hold
	first  model.Condition // of these
}

// tellRules tells of the rules up to the one that decided, and of those the ones that came nearest to matching.
func (m *Model) tellRules(e *api.Explanation, f facts) {
	all, surely := m.try(e.Rule, f)
	last := len(all) - 1
	wrong := e.Rule == "" && surely != "" || e.Rule != "" && (surely != "" && surely != e.Rule || last < 0 || all[last].failed > 0)
	if wrong && !f.later { // whose ports are those of the first fragment, which only the programs have seen
		e.Disagreement = fmt.Sprintf("by the reference model %s decides, by the programs %s: that is a fault of gardu, please report it",
			orDefault(surely), orDefault(e.Rule))
	}
	nearest := make([]int, len(all))
	for i := range nearest {
		nearest[i] = i
	}
	distance := func(i int) int {
		if all[i].Name == e.Rule {
			return -1 // it is told of in any case
		}
		return all[i].failed
	}
	slices.SortStableFunc(nearest, func(a, b int) int { return distance(a) - distance(b) })
	nearest = nearest[:min(len(nearest), maxTried)]
	slices.Sort(nearest)
	e.OtherRules = len(all) - len(nearest)
	for _, i := range nearest {
		t := all[i]
		told := api.TriedRule{Rule: t.Name, Pos: t.Pos, Matched: t.failed == 0}
		if told.Matched {
			told.Why = m.whyGoesOn(t.Rule, f, t.Name == e.Rule)
		} else {
			told.Why = m.whyNot(t.first, f)
		}
		e.Rules = append(e.Rules, told)
	}
}

// try asks the rules up to the one that decided. surely is the first that decides by what is known here, which limits aren't; "": none.
func (m *Model) try(decided string, f facts) (all []tried, surely string) {
	for i := range m.snapshot.Filter.Rules {
		r := &m.snapshot.Filter.Rules[i]
		if (r.Direction == model.Out) != f.sent {
			continue
		}
		t := tried{Rule: r}
		for _, c := range r.Match {
			if m.holds(c, f) {
				continue
			}
			if t.failed++; t.failed == 1 {
				t.first = c
			}
		}
		all = append(all, t)
		if t.failed == 0 && surely == "" && !r.Shadow && r.Limit == nil && decides(*r) {
			surely = r.Name
		}
		if r.Name == decided || surely != "" && decided == "" {
			break
		}
	}
	return all, surely
}

func orDefault(name string) string {
	if name == "" {
		return "no rule"
	}
	return "rule " + name
}

// whyNot says what keeps a condition from holding.
func (m *Model) whyNot(c model.Condition, f facts) string {
	v := m.valueOf(c.Field, f)
	switch {
	case f.later && hasPorts(f.proto) && (!v.has || m.isPairs(c)):
		return fmt.Sprintf("a later fragment's %s is not known here", c.Field)
	case !v.has || m.isPairs(c) && !v.ported:
		return fmt.Sprintf("the packet has no %s", c.Field)
	}
	wanted := strings.Join(rule.FormatValues(c), ", ")
	if len(wanted) > maxWanted {
		wanted = wanted[:maxWanted] + "..."
	}
	if c.Not {
		return fmt.Sprintf("%s is %s; wanted is anything but %s", c.Field, v.text(c.Field), wanted)
	}
	return fmt.Sprintf("%s is %s; wanted is %s", c.Field, v.text(c.Field), wanted)
}

// whyGoesOn says what a rule that matches does, and by which entries of sets.
func (m *Model) whyGoesOn(r *model.Rule, f facts, decided bool) string {
	var parts []string
	for _, c := range r.Match {
		if entry := m.entry(c, f); entry != "" {
			parts = append(parts, entry)
		}
	}
	switch {
	case decided:
	case r.Shadow:
		parts = append(parts, "in shadow, so it decides nothing")
	case !decides(*r):
		parts = append(parts, "decides nothing")
	case r.Limit != nil:
		parts = append(parts, "decides only what is over its limit")
	}
	return strings.Join(parts, "; ")
}

// entry says which entry of the condition's set of addresses the packet is found by: the longest prefix.
func (m *Model) entry(c model.Condition, f facts) string {
	set, ok := m.snapshot.Set(c.Set)
	if !ok || c.Not || set.Kind != model.Addresses {
		return ""
	}
	addr := m.valueOf(c.Field, f).addr
	best := netip.Prefix{}
	for _, p := range set.Prefixes {
		if p.Contains(addr) && (!best.IsValid() || p.Bits() > best.Bits()) {
			best = p
		}
	}
	if !best.IsValid() {
		return ""
	}
	text := fmt.Sprintf("%s is in %s of @%s", c.Field, rule.FormatPrefix(best), set.Name)
	if set.File != "" {
		text += ", " + set.File
	}
	return text
}

// text is the value as a configuration has it.
func (v value) text(field model.Field) string {
	c := model.Condition{Field: field}
	switch v.kind {
	case rule.Address:
		c.Prefixes = []netip.Prefix{netip.PrefixFrom(v.addr, v.addr.BitLen())}
	case rule.Number:
		c.Ranges = []model.Range{{Lo: uint32(v.number), Hi: uint32(v.number)}}
	case rule.Flags:
		return rule.FormatFlags(field, v.number)
	case rule.MAC:
		c.Masks = []model.Mask{{Value: v.number, Bits: 1<<48 - 1}}
	case rule.Thing:
		if v.name == "" {
			return "none"
		}
		return v.name
	}
	return strings.Join(rule.FormatValues(c), "")
}
