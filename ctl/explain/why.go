package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/config"
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
	remembered, known := steps[abi.StepRemembered]
	if steps[abi.StepAllow].Result != 0 || known && remembered.Arg == uint32(abi.DeciderAllow) {
		if entry, ok := m.entry(model.Condition{Field: "src", Set: snapshot.Filter.Allow}, f); ok {
			e.Allow = &entry
		}
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
			for _, c := range t.Match {
				if entry, ok := m.entry(c, f); ok {
					told.Entries = append(told.Entries, entry)
				}
			}
			told.Why = whyGoesOn(t.Rule, told.Entries, t.Name == e.Rule)
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
func whyGoesOn(r *model.Rule, entries []api.SetEntry, decided bool) string {
	var parts []string
	for _, e := range entries {
		parts = append(parts, entryText(e))
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

// entry is the one of the condition's set that the packet is found by: the longest prefix, the first range.
func (m *Model) entry(c model.Condition, f facts) (e api.SetEntry, ok bool) {
	set, ok := m.snapshot.Set(c.Set)
	if !ok || c.Not {
		return e, false
	}
	v := m.valueOf(c.Field, f)
	var entry config.Entry
	switch set.Kind {
	case model.Addresses:
		for _, p := range set.Prefixes {
			if p.Contains(v.addr) && (!entry.Prefix.IsValid() || p.Bits() > entry.Prefix.Bits()) {
				entry.Prefix = p
			}
		}
		e.Entry, ok = rule.FormatPrefix(entry.Prefix), entry.Prefix.IsValid()
	case model.Ports:
		i := slices.IndexFunc(set.Ports, func(r model.Range) bool { return r.Lo <= uint32(v.number) && uint32(v.number) <= r.Hi })
		if ok = i >= 0; ok {
			entry.Ports = set.Ports[i]
			e.Entry = rule.FormatPortRange(entry.Ports)
		}
	case model.Pairs:
		entry.Pair = netip.AddrPortFrom(v.addr, v.port)
		e.Entry = entry.Pair.String()
	}
	if !ok {
		return e, false
	}
	e.Field, e.Set, e.File = string(c.Field), set.Name, set.File
	if set.File != "" {
		line, err := config.FindLine(*set, entry)
		if e.Line = line; err != nil {
			e.NoLine = err.Error()
		}
	}
	return e, true
}

// entryText is where an entry is, in words.
func entryText(e api.SetEntry) string {
	is := "is in" // a prefix or a range
	if !strings.ContainsAny(e.Entry, "/-") {
		is = "is"
	}
	text := fmt.Sprintf("%s %s %s of @%s", e.Field, is, e.Entry, e.Set)
	switch {
	case e.Line > 0:
		text += fmt.Sprintf(", %s:%d", e.File, e.Line)
	case e.NoLine != "":
		text += fmt.Sprintf(", %s (which line can't be told: %s)", e.File, e.NoLine)
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
