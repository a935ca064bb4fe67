package config

import (
	"cmp"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// AllowSet names the set of a filter.allow that is written as a list. No set of a user can have this name.
const AllowSet = "filter:allow"

// How much of each the data plane has room for.
const (
	maxRules = int(abi.RuleIds) - int(abi.FirstRuleId)
	maxSets  = int(abi.SetBits) - 1 // bit 0 is filter.allow
)

// check makes the snapshot of a document: it reads the set files, and finds what a key alone can't know.
func (d *decoder) check(doc document) *model.Snapshot {
	s := &model.Snapshot{
		Interfaces: doc.interfaces,
		Sets:       doc.sets,
		Filter:     doc.filter.Filter,
		Services:   doc.services,
		NAT:        doc.nat,
		Flows:      doc.flows,
		API:        doc.api,
	}
	if len(s.Interfaces) == 0 {
		d.warn(model.Position{File: d.file, Line: 1, Column: 1}, "no interfaces: nothing is attached, no packet is seen")
	}
	if len(s.Services) > 0 {
		s.Flows.Enabled = true
	}
	d.checkHistory(&s.Flows.History)
	for i := range s.Sets {
		d.checkSet(&s.Sets[i])
	}
	if len(s.Sets) > maxSets {
		d.fail(s.Sets[maxSets].Pos, "", "there are %d sets; at most %d fit", len(s.Sets), maxSets)
	}

	used := make(map[string]bool)
	if doc.filter.allow.Set != "" {
		d.checkReference(s, doc.filter.allow, used)
		s.Filter.Allow = doc.filter.allow.Set
		if set, ok := s.Set(s.Filter.Allow); ok && set.Kind == model.Pairs {
			d.fail(doc.filter.allow.Pos, rule.AddressSet.String(), "filter.allow takes %s, and %s is %s", rule.AddressSet, set.Name, rule.PairSet)
		}
	} else if doc.filter.allow.Prefixes != nil {
		s.Filter.Allow = AllowSet
	}
	d.checkRules(s, used)
	for _, set := range s.Sets {
		if !used[set.Name] {
			d.warn(set.Pos, "no rule asks for the set %s", set.Name)
		}
	}
	if s.Filter.Allow == AllowSet {
		s.Sets = append(s.Sets, model.Set{Name: AllowSet, Prefixes: doc.filter.allow.Prefixes, Pos: doc.filter.allow.Pos})
	}
	d.checkServices(s)
	for i := range s.Services {
		if s.Services[i].Forward != lb.ModeNAT {
			s.Services[i].NAT = model.NAT{}
		}
	}
	d.checkAPI(&s.API)
	d.checkExports(s.Flows.Export)
	return s
}

// checkAPI makes sure that what is served to other machines is encrypted.
func (d *decoder) checkAPI(a *model.API) {
	whole := a.Pos
	a.Pos = d.valueAt(whole, "listen")
	if a.TLS.Cert != "" {
		a.TLS.Cert, a.TLS.Key = absolute(d.dir, a.TLS.Cert), absolute(d.dir, a.TLS.Key)
	}
	addr := a.Listen.Addr()
	switch {
	case !a.Listen.IsValid() && a.TLS.Cert != "":
		d.fail(a.TLS.Pos, "listen: ADDRESS:PORT beside it", "tls is for what is served by TCP, and nothing is")
	case !a.Listen.IsValid() || addr.IsLoopback() || d.broken[a.TLS.Pos]:
	case a.TLS.Cert == "":
		d.fail(a.Pos, "a loopback address such as 127.0.0.1:9180, or tls: {cert: FILE, key: FILE} beside it",
			"%s can be reached from other machines, and what they send and get must be encrypted", a.Listen)
	case a.Anonymous == model.AnonymousRead:
		d.warn(a.Pos, "whoever can connect to %s may read flows, rules and events without a token: anonymous: none keeps them out", a.Listen)
	}
}

// checkSet makes sure that a set holds one thing, and reads its file.
func (d *decoder) checkSet(set *model.Set) {
	switch {
	case set.Ports != nil:
		set.Kind = model.Ports
	case set.Pairs != nil:
		set.Kind = model.Pairs
	}
	if d.broken[set.Pos] {
		return
	}
	given := 0
	for _, is := range []bool{set.File != "", set.Prefixes != nil, set.Ports != nil, set.Pairs != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		problem := "has no content"
		if given > 1 {
			problem = "has more than one kind of content"
		}
		d.fail(set.Pos, "exactly one of "+"file, entries, ports, pairs", "the set %s %s", set.Name, problem)
		return
	}
	if set.File == "" {
		for _, name := range []string{"format", "kind", "max-shrink"} {
			if at := d.valueAt(set.Pos, name); at != set.Pos {
				d.fail(at, "", "%s belongs to a set with a file", name)
			}
		}
		set.Format, set.MaxShrink = "", 0
		return
	}
	at := d.valueAt(set.Pos, "file")
	if !filepath.IsAbs(set.File) {
		set.File = filepath.Join(d.dir, set.File)
	}
	read, warnings, err := readSet(*set)
	var wrong Errors
	switch {
	case errors.As(err, &wrong):
		d.errors = append(d.errors, wrong...)
	case err != nil:
		d.fail(at, "", "%s", err)
	}
	d.warnings = append(d.warnings, warnings...)
	*set = read
}

// checkReference makes sure that the set of a condition exists and is of the right kind.
func (d *decoder) checkReference(s *model.Snapshot, c model.Condition, used map[string]bool) {
	used[c.Set] = true
	field, _ := rule.Lookup(c.Field)
	set, ok := s.Set(c.Set)
	if !ok {
		var names []string
		for _, set := range s.Sets {
			if field.Sets.Takes(kindOf(set)) {
				names = append(names, set.Name)
			}
		}
		allowed := field.Sets.String() + " under sets"
		if len(names) > 0 {
			allowed = someOf(names, "sets")
		}
		d.fail(c.Pos, allowed, "there is no set %s%s", quoted(c.Set), didYouMean(c.Set, names))
		return
	}
	if !d.broken[set.Pos] && !field.Sets.Takes(kindOf(*set)) {
		d.fail(c.Pos, field.Sets.String(), "%s takes %s, and %s is %s", c.Field, field.Sets, c.Set, kindOf(*set))
	}
}

// checkNames makes sure that the interfaces or services that a condition names exist.
func (d *decoder) checkNames(s *model.Snapshot, c model.Condition) {
	field, _ := rule.Lookup(c.Field)
	var names []string
	switch field.Name {
	case "interface":
		for _, i := range s.Interfaces {
			names = append(names, i.Name)
		}
	case "service":
		for _, service := range s.Services {
			names = append(names, service.Name)
		}
	}
	for _, name := range c.Names {
		if !slices.Contains(names, name) {
			d.fail(c.Pos, someOf(names, field.Refer), "there is no %s %s%s", field.Name, quoted(name), didYouMean(name, names))
		}
	}
}

// someOf lists names for an error: not all of very many. Without any it is where they would be.
func someOf(names []string, where string) string {
	slices.Sort(names)
	if len(names) > 20 {
		return strings.Join(names[:20], ", ") + ", ..."
	}
	return cmp.Or(strings.Join(names, ", "), "a name under "+where)
}

func kindOf(set model.Set) rule.SetKind {
	switch set.Kind {
	case model.Ports:
		return rule.PortSet
	case model.Pairs:
		return rule.PairSet
	}
	return rule.AddressSet
}

func (d *decoder) checkRules(s *model.Snapshot, used map[string]bool) {
	all := s.Filter.Rules
	if len(all) > maxRules {
		d.fail(all[maxRules].Pos, "", "there are %d rules; at most %d fit", len(all), maxRules)
	}
	d.unique(len(all), "rule", func(i int) (string, model.Position) { return all[i].Name, all[i].Pos })
	for _, r := range all {
		for _, c := range r.Match {
			if c.Set != "" {
				d.checkReference(s, c, used)
			}
			if c.Names != nil {
				d.checkNames(s, c)
			}
		}
		if d.broken[r.Pos] {
			continue
		}
		if blame, why := rule.NeverMatches(r); why != "" {
			d.fail(blame.Pos, "", "the rule %s can match nothing: %s", r.Name, why)
		}
		d.warnFamily(r)
	}
	d.checkActions(s)
	noteTags(s)
	if d.errors != nil {
		return
	}
	for _, shadow := range rule.Shadowed(all, s.Sets...) {
		r, by := all[shadow.Rule], all[shadow.By]
		d.warn(r.Pos, "the rule %s is never reached: %s in line %d matches all that it matches", r.Name, by.Name, by.Pos.Line)
	}
	passes := slices.ContainsFunc(all, func(r model.Rule) bool { return r.Action == model.Pass && !r.Shadow && r.Direction != model.Out })
	if s.Filter.Default == model.Drop && !passes && s.Filter.Allow == "" {
		d.warn(d.valueAt(s.Filter.Pos, "default"), "every IPv4 and IPv6 packet is dropped: no rule passes any, and filter.allow is absent")
	}
}

// noteTags tells the interfaces that a rule must see VLAN tags.
func noteTags(s *model.Snapshot) {
	for _, r := range s.Filter.Rules {
		for _, c := range r.Match {
			if c.Field != "vlan" || r.Direction == model.Out {
				continue
			}
			for i := range s.Interfaces {
				if where := &s.Interfaces[i]; where.Tags == "" && comesInBy(&r, where.Name) {
					where.Tags = r.Name
				}
			}
		}
	}
}

// warnFamily warns of the commonest slip with ICMP, whose protocol number differs by family.
func (d *decoder) warnFamily(r model.Rule) {
	for _, c := range r.Match {
		if c.Field != "proto" || c.Not || len(c.Ranges) != 1 || c.Ranges[0].Lo != c.Ranges[0].Hi {
			continue
		}
		for _, a := range r.Match {
			if a.Prefixes == nil || a.Not {
				continue
			}
			v4 := a.Prefixes[0].Addr().Is4()
			mixed := slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() != v4 })
			switch {
			case mixed:
			case v4 && c.Ranges[0].Lo == rule.ProtoICMPv6:
				d.warn(c.Pos, "%s is IPv4 and icmpv6 the ICMP of IPv6; of IPv4 it is icmp", a.Field)
			case !v4 && c.Ranges[0].Lo == rule.ProtoICMP:
				d.warn(c.Pos, "%s is IPv6 and icmp the ICMP of IPv4; of IPv6 it is icmpv6", a.Field)
			}
		}
	}
}

// unique reports names that occur twice among n objects.
func (d *decoder) unique(n int, what string, at func(i int) (name string, object model.Position)) {
	first := make(map[string]int32, n)
	for i := range n {
		name, object := at(i)
		switch before, ok := first[name]; {
		case name == "":
		case ok:
			_, first := at(int(before))
			d.fail(d.valueAt(object, "name"), "a name that no other "+what+" here has", "the %s %s occurs twice; the first is in line %d", what, name, d.valueAt(first, "name").Line)
		default:
			first[name] = int32(i)
		}
	}
}
