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

	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Key is something that an expression can ask a flow or an event for.
type Key struct {
	Name   string
	Help   string
	Values string // the form of its values, for people

	ordered bool // < and > make sense
	value   func(op operator, word string) (is condition, ok bool)
}

// Keys returns all keys of flows, for help texts and completion.
func Keys() []Key { return slices.Clone(keys) }

// EventKeys returns all keys of events.
func EventKeys() []Key { return slices.Clone(eventKeys) }

// PacketKeys returns all keys of packets.
func PacketKeys() []Key { return slices.Clone(packetKeys) }

// keys, eventKeys and packetKeys are the whole vocabulary: one row a key. They never change.
var (
	keys       = flowVocabulary()
	eventKeys  = eventVocabulary()
	packetKeys = packetVocabulary()
)

// eventKinds are the kinds of events, as ctl/api names them.
var eventKinds = []string{"log", "sample", "shadow", "drop", "apply", "block", "unblock", "expire", "up", "down",
	"drain", "drained", "undrain", "weight", "token", "level", "interface", "fault", "mended", "lost"}

// eventVocabulary is what flows and events have in common, and what only events have.
func eventVocabulary() []Key {
	var all []Key
	for _, key := range keys {
		switch key.Name {
		case "state", "end", "packets", "bytes", "duration", "interface_reply", "server_rtt", "client_rtt",
			"retransmits", "retransmits_reply", "ttl_min", "ttl_max", "dscp":
			continue
		case "verdict":
			key.Help = "what became of the packet"
		case "interface":
			key.Help = "where it came in, or left"
		case "rule":
			key.Help = "rule that noted the packet"
		case "age":
			key.Help = "time since then"
		}
		all = append(all, key)
	}
	return append(all,
		name("kind", "kind of event", eventKinds, func(f *Flow) string { return f.Kind }),
		name("direction", "in: received, out: sent", []string{"in", "out"}, func(f *Flow) string { return f.Direction }),
		number("length", "bytes of the frame", size, func(f *Flow) uint64 { return f.Length }),
	)
}

// packetVocabulary is what is known of packets while they are handled.
func packetVocabulary() []Key {
	var all []Key
	for _, key := range eventKeys {
		switch key.Name {
		case "kind", "age":
			continue
		case "rule":
			key.Help = "rule that decided"
		}
		all = append(all, key)
	}
	return all
}

func flowVocabulary() []Key {
	src := address("src", func(f *Flow) netip.Addr { return f.Src })
	dst := address("dst", func(f *Flow) netip.Addr { return f.Dst })
	sport := field("sport", func(f *Flow) uint64 { return uint64(f.Sport) })
	dport := field("dport", func(f *Flow) uint64 { return uint64(f.Dport) })
	verdicts := []string{"pass", "drop", "reject", "redirect", "forward"}
	states := []string{"new", "established", "closed"}
	return []Key{
		src, dst, either("host", "source or destination address", src, dst),
		sport, dport, either("port", "source or destination port", sport, dport),
		field("proto", func(f *Flow) uint64 { return uint64(f.Proto) }),
		field("vlan", func(f *Flow) uint64 { return uint64(f.Vlan) }),
		name("interface", "where it came in", nil, func(f *Flow) string { return f.Interface }),
		name("interface_reply", "where replies came in", nil, func(f *Flow) string { return f.InterfaceReply }),
		name("verdict", "what became of its last packet", verdicts, func(f *Flow) string { return f.Verdict }),
		name("reason", "why", nil, func(f *Flow) string { return f.Reason }),
		name("rule", "rule that decided", nil, func(f *Flow) string { return f.Rule }),
		name("service", "service that it is for", nil, func(f *Flow) string { return f.Service }),
		name("backend", "backend that it is on", nil, func(f *Flow) string { return f.Backend }),
		name("state", "state of the connection", states, func(f *Flow) string { return f.State }),
		name("end", "how a TCP connection ended", []string{"fin", "rst"}, func(f *Flow) string { return f.End }),
		number("packets", "packets of both directions", size, func(f *Flow) uint64 { return f.Packets }),
		number("bytes", "IP bytes of both directions", size, func(f *Flow) uint64 { return f.Bytes }),
		number("age", "time since its last packet", span, func(f *Flow) uint64 { return uint64(max(0, f.Age)) }),
		number("duration", "time from its first packet to its last", span,
			func(f *Flow) uint64 { return uint64(max(0, f.Duration)) }),
		number("server_rtt", "TCP: time from SYN to SYN+ACK", span,
			func(f *Flow) uint64 { return uint64(f.ServerRTT) }),
		number("client_rtt", "TCP: time from SYN+ACK to ACK", span,
			func(f *Flow) uint64 { return uint64(f.ClientRTT) }),
		number("retransmits", "TCP segments that the opener sent again", size,
			func(f *Flow) uint64 { return uint64(f.Retransmits) }),
		number("retransmits_reply", "TCP segments that the other side sent again", size,
			func(f *Flow) uint64 { return uint64(f.RetransmitsReply) }),
		number("ttl_min", "smallest TTL or hop limit of the opener", size, func(f *Flow) uint64 { return uint64(f.TTLMin) }),
		number("ttl_max", "largest TTL or hop limit of the opener", size, func(f *Flow) uint64 { return uint64(f.TTLMax) }),
		field("dscp", func(f *Flow) uint64 { return uint64(f.DSCP) }),
	}
}

func (p *parser) lookup(name string) (Key, bool) {
	at := slices.IndexFunc(p.keys, func(k Key) bool { return k.Name == name })
	if at < 0 {
		return Key{}, false
	}
	return p.keys[at], true
}

func (p *parser) keyNames() string {
	names := make([]string, len(p.keys))
	for i, key := range p.keys {
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

// bounds are the numbers that an ordering operator accepts, from lo to hi; none: lo is 1 and hi 0.
func (op operator) bounds(n uint64) (lo, hi uint64) {
	switch {
	case op == "<" && n == 0, op == ">" && n == math.MaxUint64:
		return 1, 0
	case op == "<":
		return 0, n - 1
	case op == "<=":
		return 0, n
	case op == ">":
		return n + 1, math.MaxUint64
	default:
		return n, math.MaxUint64
	}
}

// address is a key that rules know too: its help is that of rule.Fields.
func address(key model.Field, get func(*Flow) netip.Addr) Key {
	info, _ := rule.Lookup(key)
	return Key{Name: string(key), Help: info.Help, Values: "an address or a prefix, like 192.0.2.1 or 2001:db8::/32",
		value: func(_ operator, word string) (condition, bool) {
			prefix, err := rule.ParsePrefix(word)
			return condition{func(f *Flow) bool { return prefix.Contains(get(f)) }, &Node{Kind: NodePrefix, Key: string(key), Prefix: prefix}}, err == nil
		}}
}

// field is a number that rules know too: its help, bounds and names are those of rule.Fields.
func field(key model.Field, get func(*Flow) uint64) Key {
	info, _ := rule.Lookup(key)
	values := fmt.Sprintf("0 to %d, or a range lo-hi", info.Max)
	if info.Names != nil {
		words := info.WordList()
		values = "a name like " + strings.Join(words[:min(3, len(words))], ", ") + "; " + values
	}
	return number(string(key), info.Help, form{values, func(word string) (lo, hi uint64, ok bool) {
		var c model.Condition
		if err := info.Add(&c, word); err != nil || c.Set != "" {
			return 0, 0, false
		}
		return uint64(c.Ranges[0].Lo), uint64(c.Ranges[0].Hi), true
	}}, get)
}

// form is how the numbers of a key are written: a word is one number or a range.
type form struct {
	values string
	parse  func(word string) (lo, hi uint64, ok bool)
}

var (
	size = form{"a number like 1500, 10k, 2.5M or 1G, or a range lo-hi", ranges(parseSize)}
	span = form{"a time like 90s, 5m or 1h, or a range lo-hi", ranges(func(word string) (uint64, bool) {
		d, err := time.ParseDuration(word)
		return uint64(d), err == nil && d >= 0
	})}
)

// ranges makes a parser of ranges from one of numbers.
func ranges(parse func(word string) (uint64, bool)) func(word string) (lo, hi uint64, ok bool) {
	return func(word string) (uint64, uint64, bool) {
		from, to, isRange := strings.Cut(word, "-")
		if !isRange {
			to = from
		}
		lo, okLo := parse(from)
		hi, okHi := parse(to)
		return lo, hi, okLo && okHi && lo <= hi
	}
}

// parseSize reads a number with an optional power of 1000.
func parseSize(word string) (uint64, bool) {
	if n, err := strconv.ParseUint(word, 10, 64); err == nil {
		return n, true
	}
	for suffix, factor := range map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if mantissa, found := strings.CutSuffix(word, suffix); found {
			f, err := strconv.ParseFloat(mantissa, 64)
			f *= factor
			return uint64(f), err == nil && f >= 0 && f < math.MaxUint64
		}
	}
	return 0, false
}

func number(key, help string, form form, get func(*Flow) uint64) Key {
	return Key{Name: key, Help: help, Values: form.values, ordered: true,
		value: func(op operator, word string) (condition, bool) {
			lo, hi, ok := form.parse(word)
			if op.orders() {
				from, to := op.bounds(lo)
				return condition{func(f *Flow) bool { return op.compare(get(f), lo) }, &Node{Kind: NodeRange, Key: key, Lo: from, Hi: to}}, ok && lo == hi
			}
			return condition{func(f *Flow) bool { n := get(f); return lo <= n && n <= hi }, &Node{Kind: NodeRange, Key: key, Lo: lo, Hi: hi}}, ok
		}}
}

// name is a key whose values stand for themselves; allowed is the closed list of them, nil when open.
func name(key, help string, allowed []string, get func(*Flow) string) Key {
	values := `a name; "" for none`
	if allowed != nil {
		values = strings.Join(allowed, ", ")
	}
	return Key{Name: key, Help: help, Values: values,
		value: func(_ operator, word string) (condition, bool) {
			return condition{func(f *Flow) bool { return get(f) == word }, &Node{Kind: NodeName, Key: key, Name: word}}, allowed == nil || slices.Contains(allowed, word)
		}}
}

// either holds when one of two keys of the same kind does.
func either(key, help string, a, b Key) Key {
	return Key{Name: key, Help: help, Values: a.Values, ordered: a.ordered,
		value: func(op operator, word string) (condition, bool) {
			left, okLeft := a.value(op, word)
			right, okRight := b.value(op, word)
			return condition{func(f *Flow) bool { return left.match(f) || right.match(f) },
				&Node{Kind: NodeOr, Of: []*Node{left.node, right.node}}}, okLeft && okRight
		}}
}
