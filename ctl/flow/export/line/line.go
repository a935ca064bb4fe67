package line

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/flow"
	"gardu/ctl/rule"
)

// Format appends the line of a report.
type Format func(b []byte, r *flow.Report, names flow.Names) []byte

// column is one value of a line.
type column struct {
	name string
	kind kind
	put  func(b []byte, r *flow.Report, names flow.Names) []byte
}

// kind says how a value stands in JSON, and that it is left out there when it is nothing.
type kind uint8

const (
	number   kind = iota
	word          // needs quotes, and holds nothing to be escaped
	text          // may hold anything
	optional      // number, left out when it is 0
	optionalWord
	optionalText
)

func (k kind) quoted() bool   { return k == word || k == text || k == optionalWord || k == optionalText }
func (k kind) optional() bool { return k >= optional }
func (k kind) free() bool     { return k == text || k == optionalText }

var columns = []column{
	stamp("since", func(r *flow.Report) time.Time { return r.Since }),
	stamp("until", func(r *flow.Report) time.Time { return r.Until }),
	{"src", word, func(b []byte, r *flow.Report, _ flow.Names) []byte { return r.Src.Addr().AppendTo(b) }},
	{"dst", word, func(b []byte, r *flow.Report, _ flow.Names) []byte { return r.Dst.Addr().AppendTo(b) }},
	count("sport", number, func(r *flow.Report) uint64 { return uint64(r.Src.Port()) }),
	count("dport", number, func(r *flow.Report) uint64 { return uint64(r.Dst.Port()) }),
	named("proto", word, func(r *flow.Report, _ flow.Names) string { return rule.ProtocolName(r.Proto) }),
	count("packets", number, func(r *flow.Report) uint64 { return r.Delta.Packets }),
	count("bytes", number, func(r *flow.Report) uint64 { return r.Delta.Bytes }),
	count("packets_reply", number, func(r *flow.Report) uint64 { return r.DeltaReply.Packets }),
	count("bytes_reply", number, func(r *flow.Report) uint64 { return r.DeltaReply.Bytes }),
	stamp("first", func(r *flow.Report) time.Time { return r.First }),
	stamp("last", func(r *flow.Report) time.Time { return r.Last }),
	named("verdict", word, func(r *flow.Report, _ flow.Names) string { return r.Verdict.String() }),
	named("reason", word, func(r *flow.Report, _ flow.Names) string { return r.Reason.String() }),
	named("rule", text, func(r *flow.Report, n flow.Names) string { return n.Rule(r.Rule) }),
	named("service", text, func(r *flow.Report, n flow.Names) string { return n.Service(r.Service) }),
	named("backend", text, func(r *flow.Report, n flow.Names) string { return n.Backend(r.Backend) }),
	named("state", word, func(r *flow.Report, _ flow.Names) string { return flow.StateWord(r.State) }),
	named("end", optionalWord, func(r *flow.Report, _ flow.Names) string { return r.End.String() }),
	named("flags", word, func(r *flow.Report, _ flow.Names) string { return flow.FlagLetters(r.TCPFlags) }),
	named("flags_reply", optionalWord, func(r *flow.Report, _ flow.Names) string { return flow.FlagLetters(r.TCPFlagsReply) }),
	named("interface", text, func(r *flow.Report, n flow.Names) string { return n.Interface(r.Ifindex) }),
	named("interface_reply", optionalText, func(r *flow.Report, n flow.Names) string {
		if r.PacketsReply == 0 {
			return ""
		}
		return n.Interface(r.IfindexReply)
	}),
	count("vlan", optional, func(r *flow.Report) uint64 { return uint64(r.VLAN) }),
	seconds("server_rtt", func(r *flow.Report) time.Duration { return r.ServerRTT }),
	seconds("client_rtt", func(r *flow.Report) time.Duration { return r.ClientRTT }),
	count("retransmits", optional, func(r *flow.Report) uint64 { return uint64(r.Retransmits) }),
	count("retransmits_reply", optional, func(r *flow.Report) uint64 { return uint64(r.RetransmitsReply) }),
	count("ttl_min", number, func(r *flow.Report) uint64 { return uint64(r.TTLMin) }),
	count("ttl_max", number, func(r *flow.Report) uint64 { return uint64(r.TTLMax) }),
	count("ttl_min_reply", optional, func(r *flow.Report) uint64 { return uint64(r.TTLMinReply) }),
	count("ttl_max_reply", optional, func(r *flow.Report) uint64 { return uint64(r.TTLMaxReply) }),
	count("dscp", optional, func(r *flow.Report) uint64 { return uint64(r.DSCP) }),
	count("dscp_reply", optional, func(r *flow.Report) uint64 { return uint64(r.DSCPReply) }),
	count("sample", number, func(r *flow.Report) uint64 { return uint64(max(1, r.Sample)) }), // one packet of so many was counted,
}

func stamp(name string, value func(*flow.Report) time.Time) column {
	return column{name, word, func(b []byte, r *flow.Report, _ flow.Names) []byte {
		return value(r).UTC().AppendFormat(b, time.RFC3339Nano)
	}}
}

func count(name string, k kind, value func(*flow.Report) uint64) column {
	return column{name, k, func(b []byte, r *flow.Report, _ flow.Names) []byte { return strconv.AppendUint(b, value(r), 10) }}
}

func seconds(name string, value func(*flow.Report) time.Duration) column {
	return column{name, optional, func(b []byte, r *flow.Report, _ flow.Names) []byte {
		return strconv.AppendFloat(b, value(r).Seconds(), 'f', -1, 64)
	}}
}

func named(name string, k kind, value func(*flow.Report, flow.Names) string) column {
	return column{name, k, func(b []byte, r *flow.Report, n flow.Names) []byte { return append(b, value(r, n)...) }}
}

// NDJSON is a JSON object a line.
func NDJSON(b []byte, r *flow.Report, names flow.Names) []byte {
	b = append(b, '{')
	first := true
	for i := range columns {
		c := &columns[i]
		before := len(b)
		if !first {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), c.name...), `":`...)
		if c.kind.quoted() {
			b = append(b, '"')
		}
		value := len(b)
		b = c.put(b, r, names)
		if c.kind.optional() && nothing(b[value:]) {
			b = b[:before]
			continue
		}
		first = false
		if c.kind.free() {
			b = escape(b, value)
		}
		if c.kind.quoted() {
			b = append(b, '"')
		}
	}
	return append(b, "}\n"...)
}

func nothing(value []byte) bool { return len(value) == 0 || len(value) == 1 && value[0] == '0' }

// escape makes what b has from start on the inside of a JSON string.
func escape(b []byte, start int) []byte {
	for _, c := range b[start:] {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(string(b[start:])) // a string
			return append(b[:start], quoted[1:len(quoted)-1]...)
		}
	}
	return b
}

// CSV is comma-separated values (RFC 4180), in the order of CSVHeader.
func CSV(b []byte, r *flow.Report, names flow.Names) []byte {
	for i := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		start := len(b)
		b = columns[i].put(b, r, names)
		if columns[i].kind.free() && strings.ContainsAny(string(b[start:]), "\",\r\n") {
			value := strings.ReplaceAll(string(b[start:]), `"`, `""`)
			b = append(append(append(b[:start], '"'), value...), '"')
		}
	}
	return append(b, '\n')
}

// CSVHeader is the first line of a file.
func CSVHeader() []byte {
	var names []string
	for i := range columns {
		names = append(names, columns[i].name)
	}
	return []byte(strings.Join(names, ",") + "\n")
}
