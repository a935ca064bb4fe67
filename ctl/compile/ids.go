package compile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// IDs are the numbers by which the data plane knows what the user names. They are stable: a name keeps its number
// over snapshots, also while it is away, until the room is needed. The zero value is the start. Values of IDs
// share nothing with each other and are safe for JSON.
type IDs struct {
	Rules      map[string]uint32 `json:"rules"`      // by name: index of rule_counters
	Services   map[string]uint16 `json:"services"`   // by name
	Backends   map[string]uint16 `json:"backends"`   // by backendKey: another address or mode is another backend
	Rings      map[string]uint32 `json:"rings"`      // by ringKey: another list of backends is another ring
	Sets       map[string]uint16 `json:"sets"`       // bits of a class; by name, or by role for lists that a rule holds
	Interfaces map[string]uint16 `json:"interfaces"` // by name
	Exits      map[string]uint16 `json:"exits"`      // interfaces that rules redirect or mirror to, by name

	// The names that are away, longest gone first: whose number is taken when there is no other.
	Away Away `json:"away"`
}

// Equal tells that two values give the same numbers to the same names.
func (ids IDs) Equal(other IDs) bool {
	return maps.Equal(ids.Rules, other.Rules) && maps.Equal(ids.Services, other.Services) && maps.Equal(ids.Backends, other.Backends) &&
		maps.Equal(ids.Rings, other.Rings) && maps.Equal(ids.Sets, other.Sets) && maps.Equal(ids.Interfaces, other.Interfaces) &&
		maps.Equal(ids.Exits, other.Exits) && ids.Away.equal(&other.Away)
}

func (a *Away) equal(other *Away) bool {
	return slices.Equal(a.Rules, other.Rules) && slices.Equal(a.Services, other.Services) && slices.Equal(a.Backends, other.Backends) &&
		slices.Equal(a.Rings, other.Rings) && slices.Equal(a.Sets, other.Sets) && slices.Equal(a.Interfaces, other.Interfaces) &&
		slices.Equal(a.Exits, other.Exits)
}

// MarshalJSON writes what encoding/json would, the rules in order of their numbers: to sort a hundred thousand names takes longer than to
// write them. All else is written before them and put behind: of what it is given as JSON, encoding/json looks at each byte again.
func (ids IDs) MarshalJSON() ([]byte, error) {
	type plain IDs
	others := plain(ids)
	others.Rules = nil
	rest, err := json.Marshal(others)
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(rest, []byte(`{"rules":null`))
	if !ok {
		return nil, errors.New("cannot happen: rules aren't the first of IDs")
	}
	size, end := len(rest), uint32(0)
	for name, id := range ids.Rules {
		if id < uint32(abi.RuleIds) {
			size, end = size+len(name)+len(`"":1234567,`), max(end, id+1)
		}
	}
	names := make([]string, end)
	for name, id := range ids.Rules {
		if id < end {
			names[id] = name
		}
	}
	const begin = `{"rules":{`
	text := append(make([]byte, 0, len(begin)+size), begin...)
	for id, name := range names {
		if name == "" {
			continue
		}
		if len(text) > len(begin) {
			text = append(text, ',')
		}
		if text, err = quote(text, name); err != nil {
			return nil, err
		}
		text = strconv.AppendInt(append(text, ':'), int64(id), 10)
	}
	return append(append(text, '}'), rest...), nil
}

// quote appends a name as a JSON string.
func quote(to []byte, name string) ([]byte, error) {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(name)
			return append(to, quoted...), err
		}
	}
	to = append(append(to, '"'), name...)
	return append(to, '"'), nil
}

// Away lists names that have a number but are not in the snapshot, in the order in which they left.
type Away struct {
	Rules      []string `json:"rules,omitempty"`
	Services   []string `json:"services,omitempty"`
	Backends   []string `json:"backends,omitempty"`
	Rings      []string `json:"rings,omitempty"`
	Sets       []string `json:"sets,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	Exits      []string `json:"exits,omitempty"`
}

// Reused are the numbers that Assign took from names that were away: their counters belong to somebody else
// and must be zeroed.
type Reused struct {
	Rules      []uint32
	Services   []uint16
	Backends   []uint16
	Sets       []uint16
	Exits      []uint16
	Interfaces []uint16
}

// Assign returns ids for everything in the snapshot, in place of ids, which it leaves alone. It fails with a
// *LimitError when there are more names than numbers.
//
// Backends, rings and interfaces of the snapshot before keep their numbers in any case, because packets that still meet the
// old generation go by them.
func (ids IDs) Assign(snapshot *model.Snapshot) (IDs, Reused, error) {
	var rules, services, backends, rings, exits, interfaces []string
	for i := range snapshot.Interfaces {
		interfaces = append(interfaces, snapshot.Interfaces[i].Name)
	}
	for i := range snapshot.Filter.Rules {
		rules = append(rules, snapshot.Filter.Rules[i].Name)
		if exit := snapshot.Filter.Rules[i].Interface; exit != "" {
			exits = append(exits, exit)
		}
	}
	for i := range snapshot.Services {
		service := &snapshot.Services[i]
		services = append(services, service.Name)
		rings = append(rings, ringKey(service))
		for j := range service.Backends {
			backends = append(backends, backendKey(service, &service.Backends[j]))
		}
	}
	var next IDs
	var reused Reused
	var err error
	if next.Rules, next.Away.Rules, reused.Rules, err = (numbers[uint32]{
		what: "rules", first: uint32(abi.FirstRuleId), end: uint32(abi.RuleIds), have: ids.Rules, away: ids.Away.Rules,
	}).assign(rules); err != nil {
		return IDs{}, Reused{}, err
	}
	if next.Services, next.Away.Services, reused.Services, err = (numbers[uint16]{
		what: "services", first: 1, end: uint16(abi.ServiceIds), have: ids.Services, away: ids.Away.Services,
	}).assign(services); err != nil {
		return IDs{}, Reused{}, err
	}
	if next.Backends, next.Away.Backends, reused.Backends, err = (numbers[uint16]{
		what: "backends", first: 1, end: uint16(abi.BackendIds), have: ids.Backends, away: ids.Away.Backends, inUse: true,
	}).assign(backends); err != nil {
		return IDs{}, Reused{}, err
	}
	if next.Rings, next.Away.Rings, _, err = (numbers[uint32]{
		what: "rings", first: 1, end: uint32(abi.Rings), have: ids.Rings, away: ids.Away.Rings, inUse: true,
	}).assign(rings); err != nil {
		return IDs{}, Reused{}, err
	}
	if next.Interfaces, next.Away.Interfaces, reused.Interfaces, err = (numbers[uint16]{
		what: "interfaces", first: 1, end: uint16(abi.InterfaceIds), have: ids.Interfaces, away: ids.Away.Interfaces, inUse: true,
	}).assign(interfaces); err != nil {
		return IDs{}, Reused{}, err
	}
	sets, optional := setNames(snapshot, next)
	sets = append(sets, optional[:min(len(optional), max(0, int(abi.SetBits)-1-len(sets)))]...)
	if next.Sets, next.Away.Sets, reused.Sets, err = (numbers[uint16]{
		what: "sets", first: 1, end: uint16(abi.SetBits), have: ids.Sets, away: ids.Away.Sets,
	}).assign(sets); err != nil {
		return IDs{}, Reused{}, err
	}
	if next.Exits, next.Away.Exits, reused.Exits, err = (numbers[uint16]{
		what: "interfaces that rules redirect or mirror to", first: 1, end: uint16(abi.Exits), have: ids.Exits, away: ids.Away.Exits, inUse: true,
	}).assign(exits); err != nil {
		return IDs{}, Reused{}, err
	}
	return next, reused, nil
}

// numberOf returns the number of what a condition on that field names.
func (ids IDs) numberOf(field model.Field, name string) (uint32, bool) {
	numbers := ids.Interfaces
	if field == "service" {
		numbers = ids.Services
	}
	number, ok := numbers[name]
	return uint32(number), ok
}

// backendKey names a backend together with what the data plane keeps of it under its number.
func backendKey(service *model.Service, backend *model.Backend) string {
	return fmt.Sprintf("%s/%s@%s/%s", service.Name, backend.Name, backend.Address, service.Forward)
}

// ringKey names a service's ring together with what it is made of.
func ringKey(service *model.Service) string {
	var parts []string
	for i := range service.Backends {
		backend := &service.Backends[i]
		backup := ""
		if backend.Backup {
			backup = " backup"
		}
		parts = append(parts, fmt.Sprintf("%s %d%s\n", backendKey(service, backend), backend.Weight, backup))
	}
	slices.Sort(parts)
	digest := sha256.New()
	if size := ringSlots(service); size != lb.RingSize {
		fmt.Fprintf(digest, "%d slots\n", size)
	}
	for _, part := range parts {
		digest.Write([]byte(part))
	}
	return service.Name + "@" + hex.EncodeToString(digest.Sum(nil)[:8])
}

// numbers hands out first to end-1.
type numbers[T uint16 | uint32] struct {
	what       string
	first, end T
	have       map[string]T
	away       []string // names of have, longest gone first
	inUse      bool     // the numbers of names that leave now are still in use
}

// assign gives every name a number: the one it has, else one that nobody ever had, else that of the name that is
// away for longest.
func (n numbers[T]) assign(names []string) (next map[string]T, away []string, reused []T, err error) {
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	wasAway := make(map[string]bool, len(n.away))
	for _, name := range n.away {
		wasAway[name] = true
		if _, ok := n.number(name); ok && !wanted[name] {
			away = append(away, name)
		}
	}
	next = make(map[string]T, len(names))
	used := make([]bool, n.end)
	var leaving []string
	for name := range n.have {
		number, ok := n.number(name)
		switch {
		case !ok:
			continue
		case wanted[name]:
			next[name] = number
		case !wasAway[name]:
			leaving = append(leaving, name)
		}
		used[number] = true
	}
	slices.Sort(leaving)
	takeable := len(away)
	away = append(away, leaving...)
	if !n.inUse {
		takeable = len(away)
	}

	free := n.first
	for _, name := range names {
		if _, ok := next[name]; ok {
			continue
		}
		for free < n.end && used[free] {
			free++
		}
		switch {
		case free < n.end:
			next[name] = free
			used[free] = true
		case len(reused) < takeable:
			number := n.have[away[len(reused)]]
			next[name] = number
			reused = append(reused, number)
		default:
			return nil, nil, nil, &LimitError{What: n.what, Name: name, Limit: int(n.end - n.first)}
		}
	}
	away = away[len(reused):]
	for _, name := range away {
		next[name] = n.have[name]
	}
	return next, away, reused, nil
}

// number returns the number that a name has, if it is one of ours: ids come from a file.
func (n numbers[T]) number(name string) (T, bool) {
	number, ok := n.have[name]
	return number, ok && number >= n.first && number < n.end
}
