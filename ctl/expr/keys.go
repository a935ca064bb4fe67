package expr

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key is something that an expression can ask a flow for.
type Key struct {
	Name   string
	Help   string
	Values string // the form of its values, for people

	ordered bool // < and > make sense
	value   func(op operator, word string) (match predicate, ok bool)
}

// Keys returns all keys, for help texts and completion.
func Keys() []Key { return slices.Clone(keys) }

// keys is the whole vocabulary: one row a key. It never changes.
var keys = vocabulary()

func vocabulary() []Key {
	src := address("src", "source of the flow's opener", func(f *Flow) netip.Addr { return f.Src })
	dst := address("dst", "destination of the flow's opener", func(f *Flow) netip.Addr { return f.Dst })
	sport := number("sport", "source port", port, func(f *Flow) uint64 { return uint64(f.Sport) })
	dport := number("dport", "destination port", port, func(f *Flow) uint64 { return uint64(f.Dport) })
	return []Key{
		src, dst, either("host", "source or destination", src, dst),
		sport, dport, either("port", "source or destination port", sport, dport),
		protocol("proto", "IP protocol", func(f *Flow) string { return f.Proto }),
		number("vlan", "VLAN id, 0 when untagged", vlan, func(f *Flow) uint64 { return uint64(f.Vlan) }),
		name("interface", "where it came in", nil, func(f *Flow) string { return f.Interface }),
		name("verdict", "what became of its last packet", verdicts, func(f *Flow) string { return f.Verdict }),
		name("reason", "why", nil, func(f *Flow) string { return f.Reason }),
		name("rule", "rule that decided", nil, func(f *Flow) string { return f.Rule }),
		name("service", "service that it is for", nil, func(f *Flow) string { return f.Service }),
		name("backend", "backend that it is on", nil, func(f *Flow) string { return f.Backend }),
		name("state", "state of the connection", states, func(f *Flow) string { return f.State }),
		number("packets", "packets of both directions", size, func(f *Flow) uint64 { return f.Packets }),
		number("bytes", "IP bytes of both directions", size, func(f *Flow) uint64 { return f.Bytes }),
		number("age", "time since its last packet", span, func(f *Flow) uint64 { return uint64(max(0, f.Age)) }),
		number("duration", "time from its first packet to its last", span, func(f *Flow) uint64 { return uint64(max(0, f.Duration)) }),
	}
}

func lookup(name string) (Key, bool) {
	at := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if at < 0 {
		return Key{}, false
	}
	return keys[at], true
}

func keyNames() string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.Name
	}
	return strings.Join(names, ", ")
}

// operator is in, =, !=, <, <=, > or >=. The first two are the same; != negates them.
type operator string

func (op operator) orders() bool { return op[0] == '<' || op[0] == '>' }

// compare applies an ordering operator to a and b.
func (op operator) compare(a, b uint64) bool {
	switch c := cmp.Compare(a, b); op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	default:
		return c >= 0
	}
}

func address(key, help string, get func(*Flow) netip.Addr) Key {
	return Key{Name: key, Help: help, Values: "an address or a prefix, like 192.0.2.1 or 2001:db8::/32",
		value: func(_ operator, word string) (predicate, bool) {
			prefix, ok := parsePrefix(word)
			return func(f *Flow) bool { return prefix.Contains(get(f)) }, ok
		}}
}

// parsePrefix takes an address for the prefix that holds just it.
func parsePrefix(word string) (netip.Prefix, bool) {
	if prefix, err := netip.ParsePrefix(word); err == nil {
		return prefix, true
	}
	addr, err := netip.ParseAddr(word)
	return netip.PrefixFrom(addr, addr.BitLen()), err == nil && addr.Zone() == ""
}

// form is how the numbers of a key are written.
type form struct {
	values string
	parse  func(word string) (uint64, bool)
}

func plain(limit uint64, what string) form {
	return form{fmt.Sprintf("%s from 0 to %d, or a range lo-hi", what, limit), func(word string) (uint64, bool) {
		n, err := strconv.ParseUint(word, 10, 64)
		return n, err == nil && n <= limit
	}}
}

var (
	verdicts = []string{"pass", "drop", "reject", "redirect", "forward"}
	states   = []string{"new", "established", "closed"}

	port = plain(65535, "a port")
	vlan = plain(4095, "a VLAN id")
	size = form{"a number, like 1500, 10k, 2.5M or 1G, or a range lo-hi", parseSize}
	span = form{"a time, like 90s, 5m or 1h, or a range lo-hi", func(word string) (uint64, bool) {
		d, err := time.ParseDuration(word)
		return uint64(d), err == nil && d >= 0
	}}
)

// parseSize reads a number with an optional power of 1000.
func parseSize(word string) (uint64, bool) {
	factor := 1.0
	if n := len(word); n > 0 {
		switch word[n-1] {
		case 'k', 'K':
			factor = 1e3
		case 'M':
			factor = 1e6
		case 'G':
			factor = 1e9
		}
	}
	if factor == 1 {
		n, err := strconv.ParseUint(word, 10, 64)
		return n, err == nil
	}
	f, err := strconv.ParseFloat(word[:len(word)-1], 64)
	product := f * factor
	return uint64(product), err == nil && product >= 0 && product < math.MaxUint64
}

func number(key, help string, form form, get func(*Flow) uint64) Key {
	return Key{Name: key, Help: help, Values: form.values, ordered: true,
		value: func(op operator, word string) (predicate, bool) {
			if op.orders() {
				n, ok := form.parse(word)
				return func(f *Flow) bool { return op.compare(get(f), n) }, ok
			}
			from, to, isRange := strings.Cut(word, "-")
			if !isRange {
				to = from
			}
			lo, okLo := form.parse(from)
			hi, okHi := form.parse(to)
			return func(f *Flow) bool { n := get(f); return lo <= n && n <= hi }, okLo && okHi && lo <= hi
		}}
}

// name is a key whose values stand for themselves; allowed is the closed list of them, nil when open.
func name(key, help string, allowed []string, get func(*Flow) string) Key {
	values := `a name; "" for none`
	if allowed != nil {
		values = strings.Join(allowed, ", ")
	}
	return Key{Name: key, Help: help, Values: values,
		value: func(_ operator, word string) (predicate, bool) {
			return func(f *Flow) bool { return get(f) == word }, allowed == nil || slices.Contains(allowed, word)
		}}
}

// protocol takes names and numbers for the same thing.
func protocol(key, help string, get func(*Flow) string) Key {
	return Key{Name: key, Help: help, Values: "tcp, udp, icmp, icmpv6, or a number from 0 to 255",
		value: func(_ operator, word string) (predicate, bool) {
			want, ok := protocolName(word)
			return func(f *Flow) bool { return get(f) == want }, ok
		}}
}

func protocolName(word string) (string, bool) {
	switch word {
	case "icmp", "1":
		return "icmp", true
	case "tcp", "6":
		return "tcp", true
	case "udp", "17":
		return "udp", true
	case "icmpv6", "58":
		return "icmpv6", true
	}
	n, err := strconv.ParseUint(word, 10, 8)
	return strconv.FormatUint(n, 10), err == nil
}

// either holds when one of two keys of the same kind does.
func either(key, help string, a, b Key) Key {
	return Key{Name: key, Help: help, Values: a.Values, ordered: a.ordered,
		value: func(op operator, word string) (predicate, bool) {
			left, okLeft := a.value(op, word)
			right, okRight := b.value(op, word)
			return func(f *Flow) bool { return left(f) || right(f) }, okLeft && okRight
		}}
}
