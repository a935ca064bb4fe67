package config

import (
	"slices"
	"strings"

	"gardu/ctl/model"
	"gardu/ctl/rule"
	"gardu/ctl/yaml"
)

// rejectCode is how a rule rejects, if not as suits the packet.
var rejectCode = choiceOf(rejectCodes())

func rejectCodes() (codes []model.RejectCode) {
	for _, row := range rule.Rejects() {
		codes = append(codes, row.Code)
	}
	return codes
}

// actionWords are those that stand alone, actionKeys those that take a value.
var (
	actionWords = []string{string(model.Pass), string(model.Drop), string(model.Reject)}
	actionKeys  = []string{string(model.Reject), string(model.Redirect), string(model.Mirror)}
)

var actionAllowed = strings.Join(actionWords, ", ") + ", {reject: CODE}, {redirect: INTERFACE} or {mirror: INTERFACE}"

// action is the key of a rule that says what it does: a word, or a mapping of one to what it takes.
var action = key[model.Rule]{
	name: "action",
	help: "what happens to the packets that it matches: " + actionAllowed +
		". mirror sends a copy and goes on; without an action the rule counts and goes on",
	schema: schema{"oneOf": []schema{
		{"enum": actionWords},
		{
			"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
			"properties": map[string]schema{
				string(model.Reject): rejectCode.schema, string(model.Redirect): interfaceName.schema, string(model.Mirror): interfaceName.schema,
			},
		},
	}},
	read: func(d *decoder, n, owner *yaml.Node, into *model.Rule) bool {
		if resolve(n).Kind != yaml.MappingNode {
			word, ok := d.word(n, owner, actionAllowed)
			switch {
			case !ok:
				return false
			case word == string(model.Redirect) || word == string(model.Mirror):
				d.fail(d.at(resolve(n)), "{"+word+": INTERFACE}", "%s needs to know where to", word)
				return false
			}
			into.Action = model.Action(word)
			if into.Action != model.Pass && into.Action != model.Drop && into.Action != model.Reject {
				d.unknown(resolve(n), "value", " for action", actionWords, nil)
				return false
			}
			return true
		}
		n, ok := d.enter(n, owner, yaml.MappingNode, actionAllowed)
		if !ok {
			return false
		}
		pairs := d.pairs(n)
		if len(pairs) != 1 {
			d.fail(d.at(n), actionAllowed, "an action is one thing, not %d", len(pairs))
			return false
		}
		p := pairs[0]
		into.Action = model.Action(p.key.Value)
		switch into.Action {
		case model.Reject:
			into.Reject, ok = rejectCode.read(d, p.value, p.key)
		case model.Redirect, model.Mirror:
			into.Interface, ok = interfaceName.read(d, p.value, p.key)
		default:
			d.unknown(p.key, "key", " in action", actionKeys, nil)
			return false
		}
		return ok
	},
}

// checkActions finds what a rule's action asks for and the rest of the configuration doesn't allow.
func (d *decoder) checkActions(s *model.Snapshot) {
	for i := range s.Filter.Rules {
		r := &s.Filter.Rules[i]
		if d.broken[r.Pos] {
			continue
		}
		switch {
		case r.Reject == model.RejectReset && !rule.OnlyTCP(*r):
			d.fail(d.valueAt(r.Pos, "action"), "proto: tcp in match", "the rule %s may match what is not TCP, and only TCP has a reset", r.Name)
		case r.Direction == model.Out && r.Action != model.Pass && r.Action != model.Drop && r.Action != "":
			d.fail(d.valueAt(r.Pos, "action"), "pass, drop", "the rule %s judges what is sent, where gardu can't %s", r.Name, r.Action)
		case r.Action == model.Mirror && !r.Shadow:
			d.checkMirror(s, r)
		}
	}
}

// checkMirror makes sure that gardu may sit at tc where packets are copied.
func (d *decoder) checkMirror(s *model.Snapshot, r *model.Rule) {
	for i := range s.Interfaces {
		where := &s.Interfaces[i]
		if !comesInBy(r, where.Name) {
			continue
		}
		if where.Path == model.PathXDP || where.Path == model.PathXDPGeneric {
			d.fail(d.valueAt(where.Pos, "path"), "auto, tc", "XDP can't copy packets, and the rule %s in line %d mirrors what comes in by %s",
				r.Name, r.Pos.Line, where.Name)
		}
		if where.Copies == "" {
			where.Copies = r.Name
		}
	}
}

// comesInBy tells whether a rule may match a packet that comes in by an interface.
func comesInBy(r *model.Rule, name string) bool {
	for _, c := range r.Match {
		if c.Field == "interface" && slices.Contains(c.Names, name) == c.Not {
			return false
		}
	}
	return true
}
