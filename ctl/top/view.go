package top

import (
	"fmt"
	"slices"
	"strings"

	"gardu/ctl/expr"
)

// view is one of the tables that a person can turn to.
type view struct {
	name  string
	group string // of flows; empty: the table is of counters
	what  counted
}

// counted is what a table of counters is about.
type counted int

const (
	noCounters counted = iota
	services
	rules
	drops
)

// FlowKeys are what tells one flow from another, and what became of it.
const FlowKeys = "src,sport,dst,dport,proto,verdict,service,rule,backend"

// views are all of them, by the keys 1, 2, 3, ...
var views = []view{
	{name: "flows", group: FlowKeys},
	{name: "sources", group: "src"},
	{name: "destinations", group: "dst"},
	{name: "ports", group: "proto,dport"},
	{name: "services", what: services},
	{name: "rules", what: rules},
	{name: "drops", what: drops},
}

// choice is what a person chose to see. It can be gone back from.
type choice struct {
	view   int
	group  string // keys that were typed; empty: those of the view
	filter string
}

func (c choice) keys() []string {
	group := c.group
	if group == "" {
		group = views[c.view].group
	}
	if group == "" {
		return nil
	}
	keys := strings.Split(group, ",")
	for i, key := range keys {
		keys[i] = strings.TrimSpace(key)
	}
	return keys
}

// keys are those of the choice. The history doesn't keep source ports.
func (s *screen) keys() []string {
	keys := s.choice.keys()
	if s.past() {
		keys = slices.DeleteFunc(keys, func(key string) bool { return key == "sport" })
	}
	return keys
}

// into is the choice that shows only what a group has in common, flow by flow.
func (c choice) into(keys map[string]string) choice {
	var tests []string
	if c.filter != "" {
		tests = append(tests, wrap(c.filter))
	}
	for _, name := range expr.GroupNames() {
		for key, value := range keys {
			if base, _, _ := strings.Cut(key, "/"); base == name {
				tests = append(tests, name+" "+quote(name, value))
			}
		}
	}
	return choice{filter: strings.Join(tests, " and ")}
}

// wrap puts parentheses around what holds an "or".
func wrap(filter string) string {
	if strings.Contains(" "+filter+" ", " or ") {
		return "(" + filter + ")"
	}
	return filter
}

// quote writes a value so that it is read back as one. Numbers and addresses are words.
func quote(name, value string) string {
	switch name {
	case "src", "dst", "sport", "dport", "proto", "vlan":
		return value
	}
	return `"` + value + `"`
}

// sorts are what groups can be sorted by, in the order in which the key s goes through them.
var sorts = []string{"bytes", "packets", "flows"}

// table draws the main table of a screen.
func (s *screen) table(width int) (header line, lines []line) {
	switch views[s.view].what {
	case services:
		return drawTable(serviceColumns(), s.frame.Services, width)
	case rules:
		return drawTable(ruleColumns(), s.frame.Rules, width)
	case drops:
		return drawTable(dropColumns(s.dropped()), s.frame.Drops, width)
	}
	return drawTable(groupColumns(s.keys(), s.frame.Total.Bytes), s.groups(), width)
}

// rowKeys says by which filter the row at an index can be looked into; nil for none.
func (s *screen) rowKeys(at int) map[string]string {
	name := func(key string, list []Counted) map[string]string {
		if at >= len(list) {
			return nil
		}
		return map[string]string{key: list[at].Name}
	}
	switch views[s.view].what {
	case services:
		return name("service", s.frame.Services)
	case rules:
		return name("rule", s.frame.Rules)
	case drops:
		return name("reason", s.frame.Drops)
	}
	if groups := s.groups(); at < len(groups) {
		return groups[at].Keys
	}
	return nil
}

// dropped is how many packets a second are dropped or rejected.
func (s *screen) dropped() float64 {
	total := 0.0
	for _, reason := range s.frame.Drops {
		total += reason.Packets
	}
	return total
}

// groups are those of the frame; while their order is frozen, in the order of then and with those that are new behind.
func (s *screen) groups() []Group {
	if s.order == nil {
		return s.frame.Groups
	}
	now := map[string]Group{}
	for _, g := range s.frame.Groups {
		now[groupName(&g, s.keys())] = g
	}
	var groups []Group
	for _, frozen := range s.order {
		name := groupName(&frozen, s.keys())
		g, there := now[name]
		if !there {
			g = Group{Keys: frozen.Keys}
		}
		groups = append(groups, g)
		delete(now, name)
	}
	for _, g := range s.frame.Groups {
		if _, left := now[groupName(&g, s.keys())]; left {
			groups = append(groups, g)
		}
	}
	return groups
}

func groupName(g *Group, keys []string) string {
	if g.Keys == nil {
		return ""
	}
	var values []string
	for _, key := range keys {
		values = append(values, fmt.Sprintf("%q", g.Keys[key]))
	}
	return strings.Join(values, ",")
}
