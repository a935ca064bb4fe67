package compile

import (
	"reflect"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Features are the load-time constants of bpf/config.h that a snapshot needs. A field is a constant: Rules is cfg_rules. A new
// one needs no other list; a test holds the two together.
type Features struct {
	Rules, Sets, Blocks, Services, Flows, Sample, Dropped, Health, Effects, Actions, Down, State, Out, Limits, Events, Fragments, Link, Interfaces, Asked, Nat, Quic, Capture, Trace bool
}

// AllFeatures is everything that a snapshot can ask for: tracing, which live programs never have, and capturing aren't.
func AllFeatures() Features {
	var f Features
	f.each(func(_ string, on reflect.Value) { on.SetBool(true) })
	f.Trace, f.Capture = false, false
	return f
}

func (f *Features) each(visit func(name string, on reflect.Value)) {
	value := reflect.ValueOf(f).Elem()
	for i := range value.NumField() {
		visit(strings.ToLower(value.Type().Field(i).Name), value.Field(i))
	}
}

// Constants returns whether each constant is on, by its name in bpf/config.h.
func (f Features) Constants() map[string]bool {
	constants := map[string]bool{}
	f.each(func(name string, on reflect.Value) { constants["cfg_"+name] = on.Bool() })
	return constants
}

// Or returns the features that serve two generations.
func (f Features) Or(other Features) Features {
	both := f
	more := reflect.ValueOf(other)
	i := 0
	both.each(func(_ string, on reflect.Value) {
		on.SetBool(on.Bool() || more.Field(i).Bool())
		i++
	})
	return both
}

// Bits packs the features into a word, for the daemon that takes over. Their order is that of this version.
func (f Features) Bits() (bits uint64) {
	i := 0
	f.each(func(_ string, on reflect.Value) {
		if on.Bool() {
			bits |= 1 << i
		}
		i++
	})
	return bits
}

// FeaturesOf is the inverse of Bits.
func FeaturesOf(bits uint64) (f Features) {
	i := 0
	f.each(func(_ string, on reflect.Value) {
		on.SetBool(bits>>i&1 != 0)
		i++
	})
	return f
}

// Lacks names what need has and f lacks, "" when it lacks nothing.
func (f Features) Lacks(need Features) string {
	var names []string
	more := reflect.ValueOf(need)
	i := 0
	f.each(func(name string, on reflect.Value) {
		if more.Field(i).Bool() && !on.Bool() {
			names = append(names, name)
		}
		i++
	})
	return strings.Join(names, " ")
}

// String lists what is on, in the words of bpf/config.h.
func (f Features) String() string { return Features{}.Lacks(f) }

// features returns what the programs must have for a snapshot.
func features(snapshot *model.Snapshot, rules *lowered) Features {
	filter := &snapshot.Filter
	f := Features{
		Rules:    len(filter.Rules) > 0 || filter.Default == model.Drop || filter.Allow != "",
		Sets:     rules.flags()&setFlags != 0,
		Blocks:   true, // they come while running
		Services: len(snapshot.Services) > 0,
		State:    anyMatchOn(filter.Rules, "state"),
		Out:      len(rules.runs[abi.WayOut].records) > 0,
	}
	// An established flow's record spares it the look at the connections.
	f.Flows = snapshot.Flows.Enabled || len(snapshot.Services) > 0 || f.State
	f.Sample = f.Flows && snapshot.Flows.Sample > 1
	f.Dropped = f.Flows && snapshot.Flows.Dropped > 0
	for _, run := range rules.runs {
		f.Effects = f.Effects || run.effects != nil
	}
	f.Fragments = rules.flags()&abi.RulesPorts != 0
	f.Link = len(rules.runs[abi.WayLink].records) > 0 || anyMatchOn(filter.Rules, "src-mac", "dst-mac")
	f.Interfaces = anyMatchOn(filter.Rules, "interface")
	f.Asked = anyMatchOn(filter.Rules, "service")
	for i := range filter.Rules {
		r := &filter.Rules[i]
		f.Actions = f.Actions || r.Action == model.Reject || r.Action == model.Redirect || r.Action == model.Mirror
		f.Limits = f.Limits || r.Limit != nil
		f.Asked = f.Asked || r.Limit != nil && r.Limit.Per.What == model.PerService
		f.Events = f.Events || r.Log|r.Sample != 0
	}
	for i := range snapshot.Services {
		s := &snapshot.Services[i]
		f.Health = f.Health || s.Health != nil
		f.Down = f.Down || s.OnDown == model.DownDrop || s.OnDown == model.DownReset
		f.Nat = f.Nat || s.Forward == lb.ModeNAT
		f.Quic = f.Quic || s.QUIC != nil
	}
	return f
}
