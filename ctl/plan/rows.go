package plan

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// text, number, yes and the like make rows of a key and what of an object is its value. What is empty, 0 or false isn't given.
func text[T any, S ~string](key string, value func(*T) S) row[T] {
	return row[T]{key, func(o *T) []string { return given(string(value(o))) }}
}

func number[T any, N ~int | ~uint16 | ~uint32](key string, value func(*T) N) row[T] {
	return text(key, func(o *T) string {
		if n := value(o); n != 0 {
			return strconv.FormatInt(int64(n), 10)
		}
		return ""
	})
}

// count is a number of which 0 is one.
func count[T any](key string, value func(*T) int) row[T] {
	return text(key, func(o *T) string { return strconv.Itoa(value(o)) })
}

func yes[T any](key string, value func(*T) bool) row[T] {
	return text(key, func(o *T) string {
		if value(o) {
			return "true"
		}
		return ""
	})
}

func period[T any](key string, value func(*T) time.Duration) row[T] {
	return text(key, func(o *T) string {
		if value(o) == 0 {
			return ""
		}
		short := value(o).String()
		if strings.HasSuffix(short, "m0s") {
			short = strings.TrimSuffix(short, "0s")
		}
		if strings.HasSuffix(short, "h0m") {
			short = strings.TrimSuffix(short, "0m")
		}
		return short
	})
}

func size[T any](key string, value func(*T) uint64) row[T] {
	return text(key, func(o *T) string {
		n, units := value(o), []string{"B", "kB", "MB", "GB"}
		if n == 0 {
			return ""
		}
		for len(units) > 1 && n%1000 == 0 {
			n, units = n/1000, units[1:]
		}
		return fmt.Sprintf("%d%s", n, units[0])
	})
}

func oneOf[T any](key string, value func(*T) uint32) row[T] {
	return text(key, func(o *T) string {
		if n := value(o); n != 0 {
			return fmt.Sprintf("1/%d", n)
		}
		return ""
	})
}

func given(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func ports(r model.Range) string {
	switch {
	case r == model.Range{}:
		return ""
	case r.Lo == 0 && r.Hi == 65535:
		return "any"
	}
	return rule.FormatPortRange(r)
}

var interfaceRows = table[model.Interface]{
	rows: []row[model.Interface]{
		text("path", func(i *model.Interface) model.Path { return i.Path }),
		yes("egress", func(i *model.Interface) bool { return i.Egress }),
	},
	at: func(i *model.Interface) model.Position { return i.Pos },
}

var setRows = table[model.Set]{
	rows: []row[model.Set]{
		text("kind", func(s *model.Set) string { return setKinds[s.Kind] }),
		text("file", func(s *model.Set) string { return s.File }),
		text("format", func(s *model.Set) model.SetFormat { return s.Format }),
		text("max-shrink", func(s *model.Set) string {
			if s.File == "" && s.MaxShrink == 0 {
				return ""
			}
			return fmt.Sprintf("%d%%", s.MaxShrink)
		}),
	},
	text: setText,
	at:   func(s *model.Set) model.Position { return s.Pos },
}

var setKinds = [...]string{model.Addresses: "addresses", model.Ports: "ports", model.Pairs: "pairs"}

func setText(s *model.Set) string {
	short := fmt.Sprintf("%s, %s", setKinds[s.Kind], entriesText(entries(s)))
	if s.File != "" {
		short += " of " + s.File
	}
	return short
}

func entriesText(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

func entries(s *model.Set) int { return len(s.Prefixes) + len(s.Ports) + len(s.Pairs) }

var filterRows = []row[model.Filter]{
	text("default", func(f *model.Filter) model.Action { return cmp.Or(f.Default, model.Pass) }),
	text("allow", func(f *model.Filter) string {
		if f.Allow == "" {
			return ""
		}
		return "@" + f.Allow
	}),
}

// The conditions of rules are compared by ruleKeys.
var ruleRows = table[model.Rule]{
	rows: []row[model.Rule]{
		text("direction", func(r *model.Rule) model.Direction { return cmp.Or(r.Direction, model.In) }),
		text("action", func(r *model.Rule) string { return rule.FormatAction(*r) }),
		yes("shadow", func(r *model.Rule) bool { return r.Shadow }),
		oneOf("log", func(r *model.Rule) uint32 { return r.Log }),
		oneOf("sample", func(r *model.Rule) uint32 { return r.Sample }),
		text("limit.rate", limited(rule.FormatRate)),
		text("limit.burst", limited(rule.FormatBurst)),
		text("limit.per", limited(func(l model.Limit) string { return rule.FormatPer(l.Per) })),
	},
	text: ruleText,
	at:   func(r *model.Rule) model.Position { return r.Pos },
}

func limited(format func(model.Limit) string) func(*model.Rule) string {
	return func(r *model.Rule) string {
		if r.Limit == nil {
			return ""
		}
		return format(*r.Limit)
	}
}

// ruleText is a rule without its name. Of a long condition the first values are told.
func ruleText(r *model.Rule) string {
	var match []string
	for _, c := range r.Match {
		values := rule.FormatValues(c)
		if more := len(values) - shown; more > 0 {
			values = append(values[:shown:shown], fmt.Sprintf("and %d more", more))
		}
		match = append(match, conditionKey(c)+": "+listText(values))
	}
	short := fmt.Sprintf("%s {%s}", rule.FormatAction(*r), strings.Join(match, ", "))
	if r.Direction == model.Out {
		short = "out " + short
	}
	if r.Shadow {
		short = "shadow " + short
	}
	if r.Log != 0 {
		short += fmt.Sprintf(", log 1/%d", r.Log)
	}
	if r.Sample != 0 {
		short += fmt.Sprintf(", sample 1/%d", r.Sample)
	}
	if r.Limit != nil {
		short += fmt.Sprintf(", over %s burst %s per %s", rule.FormatRate(*r.Limit), rule.FormatBurst(*r.Limit), rule.FormatPer(r.Limit.Per))
	}
	return short
}

var serviceRows = table[model.Service]{
	rows: []row[model.Service]{
		text("address", (*model.Service).AddressText),
		text("port", func(s *model.Service) string { return ports(s.Port) }),
		text("proto", func(s *model.Service) string { return rule.ProtocolName(s.Proto) }),
		text("forward", func(s *model.Service) model.Mode { return s.Forward }),
		text("affinity", func(s *model.Service) model.Affinity { return cmp.Or(s.Affinity, model.AffinityFlow) }),
		text("announce.arp", func(s *model.Service) string { return strconv.FormatBool(s.ARP) }),
		{"nat.pool", func(s *model.Service) (pool []string) {
			for _, address := range s.NAT.Pool {
				pool = append(pool, address.String())
			}
			return pool
		}},
		text("nat.ports", func(s *model.Service) string { return ports(s.NAT.Ports) }),
		text("quic.format", quic(func(q *model.QUIC) model.QUICFormat { return q.Format })),
		text("quic.config-id", quic(func(q *model.QUIC) string { return strconv.Itoa(q.Config) })),
		number("quic.server-id-length", quic(func(q *model.QUIC) int { return q.Length })),
		number("ring", func(s *model.Service) int { return s.Ring }),
		text("on-down", func(s *model.Service) model.OnDown { return s.OnDown }),
		period("slow-start", func(s *model.Service) time.Duration { return s.SlowStart }),
		yes("health.tcp", checked(func(h *model.Health) bool { return h.TCP })),
		text("health.http", checked(func(h *model.Health) string { return h.HTTP })),
		text("health.https", checked(func(h *model.Health) string { return h.HTTPS })),
		text("health.udp", checked(func(h *model.Health) string { return h.UDP })),
		text("health.dns", checked(func(h *model.Health) string { return h.DNS })),
		yes("health.icmp", checked(func(h *model.Health) bool { return h.ICMP })),
		text("health.status", checked(func(h *model.Health) string { return ports(h.Status) })),
		text("health.body", checked(func(h *model.Health) string { return h.Body })),
		text("health.host", checked(func(h *model.Health) string { return h.Host })),
		text("health.tls-name", checked(func(h *model.Health) string { return h.TLSName })),
		text("health.via", checked(func(h *model.Health) model.Via { return h.Via })),
		number("health.port", checked(func(h *model.Health) uint16 { return h.Port })),
		period("health.every", checked(func(h *model.Health) time.Duration { return h.Every })),
		period("health.timeout", checked(func(h *model.Health) time.Duration { return h.Timeout })),
		number("health.up", checked(func(h *model.Health) int { return h.Up })),
		number("health.down", checked(func(h *model.Health) int { return h.Down })),
	},
	text: func(s *model.Service) string {
		backends := "1 backend"
		if len(s.Backends) != 1 {
			backends = fmt.Sprintf("%d backends", len(s.Backends))
		}
		return fmt.Sprintf("%s %s port %s by %s, %s", rule.ProtocolName(s.Proto), s.AddressText(), ports(s.Port), s.Forward, backends)
	},
	at: func(s *model.Service) model.Position { return s.Pos },
}

// checked is a value of a service's health check; the zero value without one.
func checked[V any](value func(*model.Health) V) func(*model.Service) V {
	return func(s *model.Service) (none V) {
		if s.Health == nil {
			return none
		}
		return value(s.Health)
	}
}

// quic is a value of what a service says of connection IDs; the zero value without it.
func quic[V any](value func(*model.QUIC) V) func(*model.Service) V {
	return func(s *model.Service) (none V) {
		if s.QUIC == nil {
			return none
		}
		return value(s.QUIC)
	}
}

// backend is one of a service.
type backend struct {
	service string
	model.Backend
}

// backendsOf lists those of all services.
func backendsOf(s *model.Snapshot) (all []backend) {
	for i := range s.Services {
		for _, b := range s.Services[i].Backends {
			all = append(all, backend{s.Services[i].Name, b})
		}
	}
	return all
}

var backendRows = table[backend]{
	rows: []row[backend]{
		text("address", func(b *backend) string { return b.Address.String() }),
		number("port", func(b *backend) uint16 { return b.Port }),
		count("weight", func(b *backend) int { return b.Weight }),
		yes("backup", func(b *backend) bool { return b.Backup }),
		text("server-id", func(b *backend) string { return hex.EncodeToString([]byte(b.ServerID)) }),
	},
	at: func(b *backend) model.Position { return b.Pos },
}

var natRows = []row[model.NATTable]{
	number("max", func(n *model.NATTable) int { return n.Max }),
}

// Exports and the history are compared as objects of their own.
var flowsRows = []row[model.Flows]{
	text("enabled", func(f *model.Flows) string { return strconv.FormatBool(f.Enabled) }),
	number("max", func(f *model.Flows) int { return f.Max }),
	period("idle", func(f *model.Flows) time.Duration { return f.Idle }),
	period("active", func(f *model.Flows) time.Duration { return f.Active }),
	number("sample", func(f *model.Flows) int { return f.Sample }),
	count("dropped", func(f *model.Flows) int { return f.Dropped }),
}

// export is one with its name: where it goes.
type export struct {
	name string
	model.Export
}

func exportsOf(s *model.Snapshot) (all []export) {
	for _, e := range s.Flows.Export {
		name := ""
		switch {
		case e.IPFIX != "":
			name = "ipfix " + e.IPFIX
		case e.File != "":
			name = "file " + e.File
		default:
			name = "kafka " + listText(e.Kafka) + " " + e.Topic
		}
		all = append(all, export{name, e})
	}
	return all
}

// What belongs to another kind of export isn't told, though it has its default.
var exportRows = table[export]{
	rows: []row[export]{
		text("transport", ofKind(isIPFIX, func(e *export) model.Transport { return e.Transport })),
		period("refresh", ofKind(isIPFIX, func(e *export) time.Duration { return e.Refresh })),
		number("domain", ofKind(isIPFIX, func(e *export) uint32 { return e.Domain })),
		text("format", ofKind(isFile, func(e *export) model.LineFormat { return e.Format })),
		size("rotate.size", ofKind(isFile, func(e *export) uint64 { return e.Rotate.Size })),
		period("rotate.age", ofKind(isFile, func(e *export) time.Duration { return e.Rotate.Age })),
		number("rotate.keep", ofKind(isFile, func(e *export) int { return e.Rotate.Keep })),
		yes("tls", func(e *export) bool { return e.TLS.On }),
		text("tls.ca", func(e *export) string { return e.TLS.CA }),
		text("tls.cert", func(e *export) string { return e.TLS.Cert }),
		text("tls.key", func(e *export) string { return e.TLS.Key }),
		text("tls.name", func(e *export) string { return e.TLS.Name }),
		text("login.mechanism", func(e *export) model.Mechanism { return e.Login.Mechanism }),
		text("login.user", func(e *export) string { return e.Login.User }),
		text("login.password-file", func(e *export) string { return e.Login.PasswordFile }),
	},
	at: func(e *export) model.Position { return e.Pos },
}

func isIPFIX(e *export) bool { return e.IPFIX != "" }

func isFile(e *export) bool { return e.File != "" }

func ofKind[V any](kind func(*export) bool, value func(*export) V) func(*export) V {
	return func(e *export) (none V) {
		if !kind(e) {
			return none
		}
		return value(e)
	}
}

var historyRows = []row[model.History]{
	text("enabled", func(h *model.History) string { return strconv.FormatBool(h.Enabled) }),
	text("dir", func(h *model.History) string { return h.Dir }),
	period("keep.1m", func(h *model.History) time.Duration { return h.Keep.Minutes }),
	period("keep.5m", func(h *model.History) time.Duration { return h.Keep.Fives }),
	period("keep.1h", func(h *model.History) time.Duration { return h.Keep.Hours }),
	size("max-size", func(h *model.History) uint64 { return h.MaxSize }),
	number("top", func(h *model.History) int { return h.Top }),
}

var apiRows = []row[model.API]{
	text("socket", func(a *model.API) string { return a.Socket }),
	text("listen", func(a *model.API) string {
		if !a.Listen.IsValid() {
			return ""
		}
		return a.Listen.String()
	}),
	text("tls.cert", func(a *model.API) string { return a.TLS.Cert }),
	text("tls.key", func(a *model.API) string { return a.TLS.Key }),
	text("anonymous", func(a *model.API) string { return string(a.Anonymous) }),
}

// many entries take a while to count.
const many = 20_000

// entriesKey says how many entries of a set come and go.
func entriesKey(old, next *model.Set, exact bool) (key api.ChangedKey, changed bool) {
	key = api.ChangedKey{Key: "entries", Old: strconv.Itoa(entries(old)), New: strconv.Itoa(entries(next))}
	added, gone := 0, 0
	switch {
	case sameEntries(old, next):
		return key, false
	case !exact && entries(old)+entries(next) > many:
		return key, true
	case old.Kind == next.Kind:
		added, gone = differentEntries(old, next)
	default:
		added, gone = entries(next), entries(old)
	}
	if added+gone == 0 {
		return key, false // in another order, or told twice
	}
	key.New += " (" + counts(added, gone) + ")"
	return key, true
}
