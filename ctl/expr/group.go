package expr

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gardu/ctl/rule"
)

// GroupKey is a key whose values part flows into groups: `src/24`.
type GroupKey struct {
	Name string
	Bits int // of an IPv4 address that count, of an IPv6 address twice as many; 0: all of either
}

// String is the key as it is written.
func (k GroupKey) String() string {
	if k.Bits == 0 {
		return k.Name
	}
	return k.Name + "/" + strconv.Itoa(k.Bits)
}

// Value is what the flows of a group have in common under this key, as text; empty for none.
func (k GroupKey) Value(g *Group) string {
	if at := groupIndex(k.Name); at >= 0 {
		return groupVocabulary[at].value(g)
	}
	return ""
}

// Group is what all flows of a group have in common. Members of keys that were not asked for are zero, so groups are
// equal when they are the same.
type Group struct {
	Src, Dst                                           netip.Prefix
	Sport, Dport, Vlan                                 uint16
	Proto                                              uint8
	Interface, Verdict, Reason, Rule, Service, Backend string
}

// Compare orders groups, by address and number where they have one.
func (g *Group) Compare(other *Group) int {
	return cmp.Or(comparePrefix(g.Src, other.Src), comparePrefix(g.Dst, other.Dst),
		cmp.Compare(g.Sport, other.Sport), cmp.Compare(g.Dport, other.Dport), cmp.Compare(g.Proto, other.Proto), cmp.Compare(g.Vlan, other.Vlan),
		cmp.Compare(g.Interface, other.Interface), cmp.Compare(g.Verdict, other.Verdict), cmp.Compare(g.Reason, other.Reason),
		cmp.Compare(g.Rule, other.Rule), cmp.Compare(g.Service, other.Service), cmp.Compare(g.Backend, other.Backend))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// GroupKeys part flows into groups: `src/24,service`.
type GroupKeys []GroupKey

// String is the keys as they are written.
func (keys GroupKeys) String() string {
	var texts []string
	for _, key := range keys {
		texts = append(texts, key.String())
	}
	return strings.Join(texts, ",")
}

// Of returns the group of a flow.
func (keys GroupKeys) Of(f *Flow) Group {
	var g Group
	for _, key := range keys {
		if at := groupIndex(key.Name); at >= 0 {
			groupVocabulary[at].take(&g, f, key.Bits)
		}
	}
	return g
}

// ParseGroup reads keys with commas between them. The error is an *Error.
func ParseGroup(text string) (GroupKeys, error) {
	if len(text) > maxLength {
		return nil, &Error{Text: text[:40] + "...", Offset: 40, Message: fmt.Sprintf("the list of keys is longer than %d bytes", maxLength)}
	}
	var keys GroupKeys
	for offset := 0; offset <= len(text); {
		word, _, _ := strings.Cut(text[offset:], ",")
		key, err := parseGroupKey(strings.TrimSpace(word))
		if err == nil && slices.ContainsFunc(keys, func(k GroupKey) bool { return k.Name == key.Name }) {
			err = &Error{Message: key.Name + " is there twice"}
		}
		if err != nil {
			at := offset + len(word) - len(strings.TrimLeft(word, " \t"))
			return nil, &Error{Text: strings.Map(printable, text), Offset: at, Message: err.Message, Allowed: err.Allowed}
		}
		keys = append(keys, key)
		offset += len(word) + 1
	}
	return keys, nil
}

// maxGroupBits is that of an IPv4 address, and of the network of an IPv6 one.
const maxGroupBits = 32

func parseGroupKey(word string) (GroupKey, *Error) {
	name, length, prefix := strings.Cut(word, "/")
	at := groupIndex(name)
	switch {
	case word == "":
		return GroupKey{}, &Error{Message: "a key is missing", Allowed: GroupHelp()}
	case at < 0:
		return GroupKey{}, &Error{Message: fmt.Sprintf("%q is not a key to group by", name), Allowed: GroupHelp()}
	case !prefix:
		return GroupKey{Name: name}, nil
	case !groupVocabulary[at].prefix:
		return GroupKey{}, &Error{Message: name + " has no prefix", Allowed: name}
	}
	bits, err := strconv.ParseUint(length, 10, 8)
	if err != nil || bits < 1 || bits > maxGroupBits || length[0] == '0' {
		return GroupKey{}, &Error{Message: fmt.Sprintf("%q is not a number of bits", length),
			Allowed: name + "/1 to " + name + "/32: bits of an IPv4 address; of IPv6 twice as many"}
	}
	return GroupKey{name, int(bits)}, nil
}

// GroupNames returns the keys that there are to group by.
func GroupNames() []string {
	var names []string
	for _, row := range groupVocabulary {
		names = append(names, row.name)
	}
	return names
}

// GroupHelp says in words what can be grouped by.
func GroupHelp() string {
	var texts []string
	for _, row := range groupVocabulary {
		texts = append(texts, row.name)
		if row.prefix {
			texts = append(texts, row.name+"/N")
		}
	}
	return strings.Join(texts, ", ")
}

// groupRow is one key to group by.
type groupRow struct {
	name   string
	prefix bool // may have a number of bits
	take   func(g *Group, f *Flow, bits int)
	value  func(*Group) string
}

// groupVocabulary is all of them: one row a key. It never changes.
var groupVocabulary = []groupRow{
	{"src", true, func(g *Group, f *Flow, bits int) { g.Src = network(f.Src, bits) }, func(g *Group) string { return networkText(g.Src) }},
	{"dst", true, func(g *Group, f *Flow, bits int) { g.Dst = network(f.Dst, bits) }, func(g *Group) string { return networkText(g.Dst) }},
	{"sport", false, func(g *Group, f *Flow, _ int) { g.Sport = f.Sport }, func(g *Group) string { return strconv.Itoa(int(g.Sport)) }},
	{"dport", false, func(g *Group, f *Flow, _ int) { g.Dport = f.Dport }, func(g *Group) string { return strconv.Itoa(int(g.Dport)) }},
	{"proto", false, func(g *Group, f *Flow, _ int) { g.Proto = f.Proto }, func(g *Group) string { return rule.ProtocolName(g.Proto) }},
	{"vlan", false, func(g *Group, f *Flow, _ int) { g.Vlan = f.Vlan }, func(g *Group) string { return strconv.Itoa(int(g.Vlan)) }},
	{"interface", false, func(g *Group, f *Flow, _ int) { g.Interface = f.Interface }, func(g *Group) string { return g.Interface }},
	{"verdict", false, func(g *Group, f *Flow, _ int) { g.Verdict = f.Verdict }, func(g *Group) string { return g.Verdict }},
	{"reason", false, func(g *Group, f *Flow, _ int) { g.Reason = f.Reason }, func(g *Group) string { return g.Reason }},
	{"rule", false, func(g *Group, f *Flow, _ int) { g.Rule = f.Rule }, func(g *Group) string { return g.Rule }},
	{"service", false, func(g *Group, f *Flow, _ int) { g.Service = f.Service }, func(g *Group) string { return g.Service }},
	{"backend", false, func(g *Group, f *Flow, _ int) { g.Backend = f.Backend }, func(g *Group) string { return g.Backend }},
}

func groupIndex(name string) int {
	return slices.IndexFunc(groupVocabulary, func(row groupRow) bool { return row.name == name })
}

// network is the first bits of an address, of IPv6 twice as many; with 0 the whole of it.
func network(addr netip.Addr, bits int) netip.Prefix {
	addr = addr.Unmap()
	switch {
	case bits == 0:
		bits = addr.BitLen()
	case addr.Is6():
		bits *= 2
	}
	prefix, err := addr.Prefix(bits)
	if err != nil { // there is no address
		return netip.Prefix{}
	}
	return prefix
}

// networkText leaves the length of a whole address out.
func networkText(prefix netip.Prefix) string {
	switch {
	case !prefix.IsValid():
		return ""
	case prefix.IsSingleIP():
		return prefix.Addr().String()
	}
	return prefix.String()
}
