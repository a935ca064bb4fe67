package plan

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"gardu/ctl/api"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Diff lists what is another one in next than in old, in the order of a configuration. It sees whatever a snapshot's digest
// sees, and what is in sets; not where things stand in a file, nor in which order things are of which it doesn't matter.
func Diff(old, next *model.Snapshot) []api.Change { return diff(old, next, true) }

// diff says what objects are, and counts what is added to large sets and removed, only when whole is true: for many, that takes a while.
func diff(old, next *model.Snapshot, whole bool) []api.Change {
	d := differ{whole: whole}
	each(&d, "interface", old.Interfaces, next.Interfaces, func(i *model.Interface) string { return i.Name }, interfaceRows)
	d.sets(old.Sets, next.Sets)
	one(&d, "filter", &old.Filter, &next.Filter, filterRows, next.Filter.Pos)
	d.rules(old.Filter.Rules, next.Filter.Rules)
	each(&d, "service", old.Services, next.Services, func(s *model.Service) string { return s.Name }, serviceRows)
	each(&d, "backend", backendsOf(old), backendsOf(next), func(b *backend) string { return b.service + "/" + b.Name }, backendRows)
	one(&d, "nat", &old.NAT, &next.NAT, natRows, next.NAT.Pos)
	one(&d, "flows", &old.Flows, &next.Flows, flowsRows, next.Flows.Pos)
	each(&d, "export", exportsOf(old), exportsOf(next), func(e *export) string { return e.name }, exportRows)
	one(&d, "history", &old.Flows.History, &next.Flows.History, historyRows, next.Flows.History.Pos)
	one(&d, "api", &old.API, &next.API, apiRows, next.API.Pos)
	return d.changes
}

// differ gathers changes.
type differ struct {
	whole   bool // not only what has changed, but how
	changes []api.Change
}

// text is what an object is, when that is wanted: for many rules it takes a while.
func (d *differ) text(of func() string) string {
	if !d.whole {
		return ""
	}
	return of()
}

func (d *differ) add(c api.Change, at model.Position) {
	if d.whole {
		c.At = at.String()
	}
	d.changes = append(d.changes, c)
}

// row is a key of an object, and its values as a configuration has them; none: it isn't given.
type row[T any] struct {
	key    string
	values func(*T) []string
}

// table is all that can be said of an object.
type table[T any] struct {
	rows []row[T]
	text func(*T) string // the object in short; nil: as its rows say
	at   func(*T) model.Position
}

// each compares objects that have names.
func each[T any](d *differ, kind string, old, next []T, name func(*T) string, t table[T]) {
	was := byName(old, name)
	for i := range next {
		object := &next[i]
		before, known := was[name(object)]
		if !known {
			d.add(api.Change{Change: api.ChangeAdded, Kind: kind, Name: name(object), Text: d.text(func() string { return t.short(object) })}, t.at(object))
			continue
		}
		if keys := t.keys(before, object); keys != nil {
			d.add(api.Change{Change: api.ChangeChanged, Kind: kind, Name: name(object), Keys: keys}, t.at(object))
		}
	}
	removed(d, kind, old, byName(next, name), name, t)
}

// removed adds those that are there no more.
func removed[T any](d *differ, kind string, old []T, now map[string]*T, name func(*T) string, t table[T]) {
	for i := range old {
		if object := &old[i]; now[name(object)] == nil {
			d.add(api.Change{Change: api.ChangeRemoved, Kind: kind, Name: name(object), Text: d.text(func() string { return t.short(object) })}, t.at(object))
		}
	}
}

// one compares what there is one of.
func one[T any](d *differ, kind string, old, next *T, rows []row[T], at model.Position) {
	if keys := differing(rows, old, next); keys != nil {
		d.add(api.Change{Change: api.ChangeChanged, Kind: kind, Keys: keys}, at)
	}
}

func byName[T any](list []T, name func(*T) string) map[string]*T {
	named := make(map[string]*T, len(list))
	for i := range list {
		named[name(&list[i])] = &list[i]
	}
	return named
}

// keys are those with another value. Most objects are the same: that is found out without making text of them.
func (t table[T]) keys(old, next *T) []api.ChangedKey {
	if same(reflect.ValueOf(old).Elem(), reflect.ValueOf(next).Elem()) {
		return nil
	}
	return differing(t.rows, old, next)
}

func differing[T any](rows []row[T], old, next *T) (keys []api.ChangedKey) {
	for _, r := range rows {
		before, after := r.values(old), r.values(next)
		if !slices.Equal(before, after) {
			keys = append(keys, changedKey(r.key, before, after))
		}
	}
	return keys
}

// shown is how many values of a list are told one by one.
const shown = 8

func changedKey(key string, old, next []string) api.ChangedKey {
	if len(old) <= shown && len(next) <= shown {
		return api.ChangedKey{Key: key, Old: listText(old), New: listText(next)}
	}
	sort.Strings(old)
	sort.Strings(next)
	added, gone := countDifferent(old, next, strings.Compare)
	return api.ChangedKey{Key: key, Old: fmt.Sprintf("%d values", len(old)), New: fmt.Sprintf("%d values (%s)", len(next), counts(added, gone))}
}

func counts(added, gone int) string {
	switch {
	case added+gone == 0:
		return "the same in another order"
	case gone == 0:
		return fmt.Sprintf("%d added", added)
	case added == 0:
		return fmt.Sprintf("%d removed", gone)
	}
	return fmt.Sprintf("%d added, %d removed", added, gone)
}

func listText(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	if len(values) == 0 {
		return ""
	}
	return "[" + strings.Join(values, ", ") + "]"
}

func (t table[T]) short(object *T) string {
	if t.text != nil {
		return t.text(object)
	}
	var parts []string
	for _, r := range t.rows {
		if values := r.values(object); len(values) > 0 {
			parts = append(parts, r.key+": "+listText(values[:min(len(values), shown)]))
		}
	}
	return strings.Join(parts, ", ")
}

// countDifferent counts what is only in one of two sorted lists. What is in one several times counts once.
func countDifferent[T any](old, next []T, compare func(a, b T) int) (added, gone int) {
	old, next = slices.CompactFunc(old, equalBy(compare)), slices.CompactFunc(next, equalBy(compare))
	for len(old) > 0 || len(next) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(next) == 0:
			order = -1
		default:
			order = compare(old[0], next[0])
		}
		if order >= 0 {
			next = next[1:]
		}
		if order <= 0 {
			old = old[1:]
		}
		switch {
		case order > 0:
			added++
		case order < 0:
			gone++
		}
	}
	return added, gone
}

func equalBy[T any](compare func(a, b T) int) func(a, b T) bool {
	return func(a, b T) bool { return compare(a, b) == 0 }
}

var positionType = reflect.TypeFor[model.Position]()

// same compares two values, but for where they stand.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		if a.Type() == positionType {
			return true
		}
		if !hasExported(a.Type()) { // addresses
			return a.Interface() == b.Interface()
		}
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		if a.Len() > 0 && a.UnsafePointer() == b.UnsafePointer() {
			return true
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	}
	return a.Equal(b)
}

func hasExported(t reflect.Type) bool {
	for i := range t.NumField() {
		if t.Field(i).IsExported() {
			return true
		}
	}
	return t.NumField() == 0
}

// rules compares rules, and their order: what is told to have moved are the fewest whose moving makes one order of the other.
func (d *differ) rules(old, next []model.Rule) {
	all, nextAll := old, next
	head, tail := common(len(old), len(next), func(i, j int) bool { return sameRule(&old[i], &next[j]) })
	old, next = old[head:len(old)-tail], next[head:len(next)-tail]
	name := func(r *model.Rule) string { return r.Name }
	was := byName(old, name)
	place := make(map[string]int, len(old))
	for i := range old {
		place[old[i].Name] = head + i
	}
	var both []int // indexes of next
	for i := range next {
		if was[next[i].Name] != nil {
			both = append(both, i)
		}
	}
	stays := longestRun(both, func(i int) int { return place[next[i].Name] })
	for i := range next {
		r := &next[i]
		before, known := was[r.Name]
		if !known {
			c := api.Change{Change: api.ChangeAdded, Kind: "rule", Name: r.Name, Text: d.text(func() string { return ruleText(r) })}
			if follows := head + i + 1; follows < len(nextAll) {
				c.Before = nextAll[follows].Name
			}
			d.add(c, r.Pos)
			continue
		}
		if !d.whole {
			if !stays[i] || !sameRule(before, r) {
				d.add(api.Change{Change: api.ChangeChanged, Kind: "rule", Name: r.Name}, r.Pos)
			}
			continue
		}
		keys := ruleKeys(before, r)
		if !stays[i] {
			keys = append(keys, api.ChangedKey{Key: "position", Old: position(all, place[r.Name]), New: position(nextAll, head+i)})
		}
		if keys != nil {
			d.add(api.Change{Change: api.ChangeChanged, Kind: "rule", Name: r.Name, Keys: keys}, r.Pos)
		}
	}
	removed(d, "rule", old, byName(next, name), name, ruleRows)
}

// common is how much two lists have in common at their beginnings and at their ends.
func common(old, next int, same func(i, j int) bool) (head, tail int) {
	for head < min(old, next) && same(head, head) {
		head++
	}
	for tail < min(old, next)-head && same(old-1-tail, next-1-tail) {
		tail++
	}
	return head, tail
}

// position is where a rule stands among the others.
func position(rules []model.Rule, i int) string {
	if i == 0 {
		return "1"
	}
	return fmt.Sprintf("%d, after %s", i+1, rules[i-1].Name)
}

// longestRun returns those of the indexes whose values rise, as many as there can be.
func longestRun(indexes []int, value func(int) int) map[int]bool {
	var tails []int // the index of indexes that ends the best run of each length
	before := make([]int, len(indexes))
	for i := range indexes {
		v := value(indexes[i])
		n := sort.Search(len(tails), func(n int) bool { return value(indexes[tails[n]]) >= v })
		before[i] = -1
		if n > 0 {
			before[i] = tails[n-1]
		}
		if n == len(tails) {
			tails = append(tails, i)
		} else {
			tails[n] = i
		}
	}
	run := make(map[int]bool, len(tails))
	if len(tails) > 0 {
		for i := tails[len(tails)-1]; i >= 0; i = before[i] {
			run[indexes[i]] = true
		}
	}
	return run
}

// sameRule is same for rules, of which there may be a hundred thousand: a tenth of the time.
func sameRule(a, b *model.Rule) bool {
	return a.Name == b.Name && a.Direction == b.Direction && a.Action == b.Action && a.Reject == b.Reject && a.Interface == b.Interface &&
		a.Shadow == b.Shadow && a.Log == b.Log && a.Sample == b.Sample && sameLimit(a.Limit, b.Limit) && slices.EqualFunc(a.Match, b.Match, sameCondition)
}

func sameLimit(a, b *model.Limit) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Pos, y.Pos = model.Position{}, model.Position{}
	return x == y
}

func sameCondition(a, b model.Condition) bool {
	return a.Field == b.Field && a.Not == b.Not && a.Set == b.Set && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Ranges, b.Ranges) &&
		slices.Equal(a.Masks, b.Masks) && slices.Equal(a.Names, b.Names)
}

// ruleKeys also tells conditions apart by their fields.
func ruleKeys(old, next *model.Rule) []api.ChangedKey {
	if sameRule(old, next) {
		return nil
	}
	keys := differing(ruleRows.rows, old, next)
	was, is := conditions(old), conditions(next)
	for _, c := range append(slices.Clone(old.Match), next.Match...) {
		key := conditionKey(c)
		if before, after := was[key], is[key]; !slices.Equal(before, after) {
			keys = append(keys, changedKey("match."+key, before, after))
		}
		delete(was, key)
		delete(is, key)
	}
	return keys
}

// conditions are the values of each key of match. A key comes once in a rule.
func conditions(r *model.Rule) map[string][]string {
	all := make(map[string][]string, len(r.Match))
	for _, c := range r.Match {
		all[conditionKey(c)] = append(all[conditionKey(c)], rule.FormatValues(c)...)
	}
	return all
}

func conditionKey(c model.Condition) string {
	if c.Not {
		return "not-" + string(c.Field)
	}
	return string(c.Field)
}

// sets compares sets and what they hold.
func (d *differ) sets(old, next []model.Set) {
	name := func(s *model.Set) string { return s.Name }
	was := byName(old, name)
	for i := range next {
		set := &next[i]
		before, known := was[set.Name]
		if !known {
			d.add(api.Change{Change: api.ChangeAdded, Kind: "set", Name: set.Name, Text: setText(set)}, set.Pos)
			continue
		}
		keys := setRows.keys(bare(before), bare(set))
		if key, changed := entriesKey(before, set, d.whole); changed {
			keys = append(keys, key)
		}
		if keys != nil {
			d.add(api.Change{Change: api.ChangeChanged, Kind: "set", Name: set.Name, Keys: keys}, set.Pos)
		}
	}
	removed(d, "set", old, byName(next, name), name, setRows)
}

// bare is a set without what it holds.
func bare(s *model.Set) *model.Set {
	b := *s
	b.Prefixes, b.Ports, b.Pairs, b.Read = nil, nil, nil, model.Stamp{}
	return &b
}
