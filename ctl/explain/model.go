package explain

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/lb"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Verdicts, as users read them.
const (
	Pass     = "pass"
	Drop     = "drop"
	Reject   = "reject"
	Redirect = "redirect"
	Forward  = "forward"
)

// Deciders besides the rules: who said the filter's word on a packet.
const (
	DeciderDefault = "default"
	DeciderAllow   = "allow"
	DeciderBlock   = "block"
	DeciderHealth  = "health"
)

// Outcome is what becomes of a packet. Names are empty where they don't apply.
type Outcome struct {
	Verdict string
	Reason  string
	Rule    string // that decided
	Service string
	Backend string
	Frame   []byte   // as gardu sends it; nil when it doesn't
	Ifindex int      // of the interface that it is sent by
	Notes   []string // of rules that log or sample: "log rule=ssh", "shadow rule=idea would=drop"

	key BackendKey  // that it was forwarded to
	by  *model.Rule // that rejects or redirects it
}

// BackendKey tells backends apart: one whose address or mode changes is another one.
type BackendKey struct {
	Service, Name string
	Address       netip.Addr
	Mode          model.Mode
}

// String is how people name it.
func (k BackendKey) String() string { return k.Service + "/" + k.Name }

// BackendState is what is known of a backend while running.
type BackendState struct {
	Down            bool
	Hop             bool   // the next hop is known
	MTU             int    // of the way there, bytes of IP; 0 = not known
	Ifindex         int    // that it is reached by
	VLAN            uint16 // id of the tag that frames have there; 0: none
	NextMAC, OwnMAC [6]byte
	Source          netip.Addr // of the outer header
}

// Exit is what is known of an interface that rules redirect or mirror to.
type Exit struct {
	Ifindex int // 0: it is away or down
	MTU     int // bytes of IP; 0: any
}

// flow is what tells flows apart, each direction for itself.
type flow struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
	vlan         uint16
	later        bool // later fragments
}

// record is what is remembered of a flow.
type record struct {
	backend BackendKey
	closed  bool // TCP: ended
}

// Model is the packet path of one box: a snapshot and what changes while running. The zero value passes everything.
// It is for one goroutine.
type Model struct {
	Ifindex int     // of the interface that packets come in on
	MAC     [6]byte // of that interface
	Now     time.Time
	Clock   time.Duration // what limits go by
	// Interface is the name of the interface that packets come in on.
	Interface string
	// WatchDrops: packets that are dropped or rejected, and that no rule notes, are noted as that.
	WatchDrops bool

	snapshot  *model.Snapshot
	blocks    map[netip.Prefix]bool
	checks    []check
	backends  map[BackendKey]BackendState
	onDown    map[BackendKey]model.OnDown
	flows     map[flow]record
	passed    map[course]passing
	trusted   map[way]time.Time
	fragments map[fragmentKey]fragmentPorts
	rings     map[string][]uint16
	ownPorts  map[BackendKey]uint16 // of backends, as the last snapshot that had them says
	byClient  map[course]*translation
	byBackend map[course]*translation // by the course of answers
	exits     map[string]Exit
	copies    []string // where copies of the packet in hand go
	answers   *int     // to rejected packets, that may still be given; nil: any number
	counters  Counters
	buckets   map[bucket]uint64 // when each is full again, ticks
	notes     []string          // of the packet in hand
}

// Apply makes the snapshot the one in force. Blocks, flows and what is known of backends stay.
func (m *Model) Apply(snapshot *model.Snapshot) {
	m.snapshot = snapshot
	m.rings = nil
	if m.onDown == nil {
		m.onDown, m.ownPorts = map[BackendKey]model.OnDown{}, map[BackendKey]uint16{}
	}
	for i := range snapshot.Services {
		for _, b := range snapshot.Services[i].Backends {
			key := keyOf(&snapshot.Services[i], b)
			m.onDown[key], m.ownPorts[key] = snapshot.Services[i].OnDown, b.Port
		}
	}
}

// Block drops what comes from the prefix until it is unblocked.
func (m *Model) Block(prefix netip.Prefix) {
	if m.blocks == nil {
		m.blocks = map[netip.Prefix]bool{}
	}
	m.blocks[prefix.Masked()] = true
}

// Unblock takes a block back.
func (m *Model) Unblock(prefix netip.Prefix) { delete(m.blocks, prefix.Masked()) }

// check is one of gardu's own health checks: a TCP connection, a pair of UDP ports, or a ping with its identifier for both ports.
type check struct {
	proto         uint8
	local, remote netip.AddrPort
}

// Check lets the answers to one of gardu's own health checks pass.
func (m *Model) Check(proto uint8, local, remote netip.AddrPort) {
	m.checks = append(m.checks, check{proto, local, remote})
}

// SetBackend says what is known of a backend from now on.
func (m *Model) SetBackend(key BackendKey, state BackendState) {
	if m.backends == nil {
		m.backends = map[BackendKey]BackendState{}
	}
	m.backends[key] = state
	m.rings = nil
}

// SetExit says what is known of an interface that rules redirect or mirror to.
func (m *Model) SetExit(name string, exit Exit) {
	if m.exits == nil {
		m.exits = map[string]Exit{}
	}
	m.exits[name] = exit
}

// LimitRejects lets so many more rejected packets be answered.
func (m *Model) LimitRejects(answers int) { m.answers = &answers }

// Counters are the totals since the start.
func (m *Model) Counters() Counters { return maps.Clone(m.counters) }

// Judge puts a frame through the packet path and counts it.
func (m *Model) Judge(frame []byte) Outcome {
	m.notes = nil
	out := m.judge(frame)
	m.noteDrop(out)
	out.Notes = m.notes
	if out.Frame != nil && out.Ifindex == 0 {
		out.Ifindex = m.Ifindex // answers go back to where the question came from
	}
	m.counters.packet("reason "+out.Reason, frame)
	return out
}

func (m *Model) judge(frame []byte) Outcome {
	f, how := parse(frame)
	switch {
	case how == malformed:
		return Outcome{Verdict: Drop, Reason: "malformed"}
	case how == notIP:
		return m.judgeLink(f, frame)
	}
	answer := m.answered(f, frame)
	known := f // as its flow and its connection are known
	if answer != nil && !f.hasICMP {
		known = f.seenBy(answer.client.back())
	}
	m.ask(&known, frame)
	if answer != nil && f.hasICMP {
		known.state = stateEstablished
	}
	f.state, f.trusted = known.state, known.trusted
	out, decider := m.filter(f, frame)
	if decider != DeciderBlock && decider != DeciderAllow {
		m.noteFragment(f)
	}
	if out.Verdict != Pass && m.isHealthReply(f) {
		out, decider = Outcome{Verdict: Pass, Reason: "health-reply"}, DeciderHealth
	}
	m.counters.packet(decider, frame)
	m.divert(f, frame, &out)
	switch {
	case out.Verdict != Pass || decider == DeciderHealth:
	case answer != nil:
		m.sendBack(answer, f, frame, &out)
	default:
		m.serve(f, frame, &out)
	}
	m.account(known, out)
	if out.Verdict == Pass || out.Verdict == Forward || out.Reason == "rule-redirect" {
		m.remember(known, out.Reason == "forward")
	}
	return out
}

// JudgeSent does so with a frame that the kernel sends. Without rules for such, nobody counts it.
func (m *Model) JudgeSent(frame []byte) Outcome {
	out := Outcome{Verdict: Pass, Reason: "none"}
	f, how := parse(frame)
	if how != parsed {
		return out
	}
	f.sent = true
	m.ask(&f, frame)
	if slices.ContainsFunc(m.snapshot.Filter.Rules, func(r model.Rule) bool { return r.Direction == model.Out }) {
		m.notes = nil
		judged, decider := m.filter(f, frame)
		m.noteFragment(f)
		m.noteDrop(judged)
		out = Outcome{Verdict: judged.Verdict, Reason: "out-" + judged.Verdict, Rule: judged.Rule, Notes: m.notes}
		if judged.Rule != "" {
			m.counters.packet(decider, frame)
			m.counters.Add(sentDecided, Counter{Packets: 1})
		}
		m.counters.packet("reason "+out.Reason, frame)
	}
	if out.Verdict == Pass {
		m.learn(f)
		m.remember(f, false)
	}
	return out
}

// judgeLink is judge for a frame that is neither IPv4 nor IPv6: only rules that name the link layer see it.
func (m *Model) judgeLink(f facts, frame []byte) Outcome {
	out, decider := m.filter(f, frame)
	if decider != "" {
		m.counters.packet(decider, frame)
	}
	m.divert(f, frame, &out)
	if reply := m.answerARP(f, frame); reply != nil && out.Verdict == Pass {
		out.Verdict, out.Reason, out.Frame = Redirect, "arp-reply", reply
	}
	return out
}

// namesLink tells a rule that sees frames that are neither IPv4 nor IPv6.
func namesLink(r model.Rule) bool {
	return slices.ContainsFunc(r.Match, func(c model.Condition) bool {
		return c.Field == "ethertype" || c.Field == "src-mac" || c.Field == "dst-mac"
	})
}

// filter says what allow, blocks, rules and the default make of a packet, and which of them decided.
func (m *Model) filter(f facts, frame []byte) (out Outcome, decider string) {
	filter := m.snapshot.Filter
	if !f.sent && filter.Allow != "" && m.inSet(filter.Allow, f.src) {
		return Outcome{Verdict: Pass, Reason: "allowed"}, DeciderAllow
	}
	for prefix := range m.blocks {
		if f.isIP() && !f.sent && prefix.Contains(f.src) {
			return Outcome{Verdict: Drop, Reason: "blocked"}, DeciderBlock
		}
	}
	for _, rule := range filter.Rules {
		if (rule.Direction == model.Out) != f.sent || !m.matches(rule, f) || !f.isIP() && !namesLink(rule) {
			continue
		}
		concerned := rule.Limit == nil || m.overLimit(rule, f, frame)
		if concerned {
			m.note(rule)
		}
		if concerned && (rule.Shadow || rule.Limit != nil && !decides(rule)) {
			m.counters.Add("rule "+rule.Name+" shadow", Counter{Packets: 1})
		}
		mirrors := concerned && rule.Action == model.Mirror && !rule.Shadow
		if mirrors && !slices.Contains(m.copies, rule.Interface) {
			m.copies = append(m.copies, rule.Interface)
		}
		if !concerned || rule.Shadow || !decides(rule) {
			m.counters.packet("rule "+rule.Name, frame)
			m.counters.Add("rule "+rule.Name+" undecided", Counter{Packets: 1})
			continue
		}
		switch rule.Action {
		case model.Drop:
			return Outcome{Verdict: Drop, Reason: "rule-drop", Rule: rule.Name}, "rule " + rule.Name
		case model.Reject, model.Redirect:
			return Outcome{Verdict: string(rule.Action), Reason: "rule-" + string(rule.Action), Rule: rule.Name, by: &rule}, "rule " + rule.Name
		}
		return Outcome{Verdict: Pass, Reason: "rule-pass", Rule: rule.Name}, "rule " + rule.Name
	}
	_, _, known := m.ports(f)
	unknown := f.later && hasPorts(f.proto) && !known && m.asksPorts()
	switch {
	case !f.isIP():
		return Outcome{Verdict: Pass, Reason: "not-ip"}, ""
	case !f.sent && filter.Default != model.Drop && unknown:
		return Outcome{Verdict: Pass, Reason: "fragment-pass"}, DeciderDefault
	case f.sent || filter.Default != model.Drop:
		return Outcome{Verdict: Pass, Reason: "default-pass"}, DeciderDefault
	case unknown:
		return Outcome{Verdict: Drop, Reason: "fragment-drop"}, DeciderDefault
	case isControl(f):
		return Outcome{Verdict: Pass, Reason: "control"}, DeciderDefault
	default:
		return Outcome{Verdict: Drop, Reason: "default-drop"}, DeciderDefault
	}
}

func (m *Model) isHealthReply(f facts) bool {
	local, remote := f.dport, f.sport
	if f.hasICMP && (f.src.Is4() && f.icmpType == echoReply || f.src.Is6() && f.icmpType == echoReply6) {
		local, remote = f.echoID, f.echoID
	} else if !f.hasPorts {
		return false
	}
	return slices.Contains(m.checks, check{f.proto, netip.AddrPortFrom(f.dst, local), netip.AddrPortFrom(f.src, remote)})
}

// isControl tells neighbour discovery (RFC 4861) and MLD (RFC 2710, 3810), without which IPv6 doesn't work.
func isControl(f facts) bool {
	return f.hasICMP && f.src.Is6() && (f.icmpType >= 130 && f.icmpType <= 137 || f.icmpType == 143)
}

// matches: every condition holds.
func (m *Model) matches(rule model.Rule, f facts) bool {
	for _, condition := range rule.Match {
		if !m.holds(condition, f) {
			return false
		}
	}
	return true
}

// value is what a packet has in a field; which part it is in, the field's kind says.
type value struct {
	kind   rule.Kind
	addr   netip.Addr
	port   uint16 // beside the address
	ported bool   // the port is known
	number uint64
	name   string
	has    bool // the packet has the field
}

// valueOf is what a packet has in a field.
func (m *Model) valueOf(field model.Field, f facts) value {
	number := func(n int, has bool) value { return value{kind: rule.Number, number: uint64(n), has: has} }
	sport, dport, ported := m.ports(f)
	switch field {
	case "src":
		return value{kind: rule.Address, addr: f.src, port: sport, ported: ported, has: f.isIP()}
	case "dst":
		return value{kind: rule.Address, addr: f.dst, port: dport, ported: ported, has: f.isIP()}
	case "proto":
		return number(int(f.proto), f.isIP())
	case "sport":
		return number(int(sport), ported)
	case "dport":
		return number(int(dport), ported)
	case "icmp-type":
		return number(int(f.icmpType), f.hasICMP)
	case "icmp-code":
		return number(int(f.icmpCode), f.hasICMP)
	case "ttl":
		return number(int(f.ttl), f.isIP())
	case "dscp":
		return number(int(f.tos>>2), f.isIP())
	case "length":
		return number(f.length, f.isIP())
	case "state":
		return number(int(f.state), f.state != stateNone)
	case "tcp-flags":
		return value{kind: rule.Flags, number: uint64(f.tcpFlags), has: f.proto == protoTCP && f.hasPorts}
	case "fragment":
		return number(f.fragmentKind(), f.isIP())
	case "src-mac":
		return value{kind: rule.MAC, number: macNumber(f.srcMAC), has: true}
	case "dst-mac":
		return value{kind: rule.MAC, number: macNumber(f.dstMAC), has: true}
	case "ethertype":
		return number(int(f.etherType), true)
	case "vlan":
		return number(int(f.vlan), true)
	case "interface":
		return value{kind: rule.Thing, name: m.Interface, has: true}
	case "service":
		service, known := m.serviceFor(f)
		v := value{kind: rule.Thing, has: known}
		if service != nil {
			v.name = service.Name
		}
		return v
	}
	panic(fmt.Sprintf("the reference model doesn't know field %q", field))
}

// holds: the packet has the field, and its value is among those of the condition, or with Not it isn't.
func (m *Model) holds(c model.Condition, f facts) bool {
	v := m.valueOf(c.Field, f)
	var among bool
	switch v.kind {
	case rule.Address:
		v.has = v.has && (v.ported || !m.isPairs(c))
		among = m.amongAddresses(c, v.addr, v.port)
	case rule.Number:
		among = m.amongNumbers(c, int(v.number))
	case rule.Flags, rule.MAC:
		among = amongMasks(c, v.number)
	case rule.Thing:
		among = slices.Contains(c.Names, v.name)
	}
	return v.has && among != c.Not
}

func (m *Model) isPairs(c model.Condition) bool {
	set, ok := m.snapshot.Set(c.Set)
	return ok && set.Kind == model.Pairs
}

func (m *Model) amongAddresses(c model.Condition, addr netip.Addr, port uint16) bool {
	if m.isPairs(c) {
		set, _ := m.snapshot.Set(c.Set)
		return slices.Contains(set.Pairs, netip.AddrPortFrom(addr, port))
	}
	if c.Set != "" {
		return m.inSet(c.Set, addr)
	}
	return slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (m *Model) amongNumbers(c model.Condition, n int) bool {
	ranges := c.Ranges
	if set, ok := m.snapshot.Set(c.Set); ok {
		ranges = set.Ports
	}
	return slices.ContainsFunc(ranges, func(r model.Range) bool { return int(r.Lo) <= n && n <= int(r.Hi) })
}

func amongMasks(c model.Condition, n uint64) bool {
	return slices.ContainsFunc(c.Masks, func(mask model.Mask) bool { return n&mask.Bits == mask.Value })
}

func macNumber(mac [6]byte) uint64 { return binary.BigEndian.Uint64(append([]byte{0, 0}, mac[:]...)) }

// serviceFor returns the service that a packet is for, if any. Of a later fragment whose ports aren't known nobody can say.
func (m *Model) serviceFor(f facts) (service *model.Service, known bool) {
	_, dport, known := m.ports(f)
	if !f.isIP() || f.later && hasPorts(f.proto) && !known {
		return nil, false
	}
	f.dport, f.hasPorts = dport, known
	return m.serviceOf(f), true
}

// fragmentTimeout is for how long the ports of a first fragment are those of the later ones.
const fragmentTimeout = 30 * time.Second

// fragmentKey is what the fragments of a packet have in common.
type fragmentKey struct {
	src, dst netip.Addr
	proto    uint8
	vlan     uint16
	id       uint32
}

type fragmentPorts struct {
	sport, dport uint16
	seen         time.Time
	backend      BackendKey // that the first one went to
}

func fragmentOf(f facts) fragmentKey { return fragmentKey{f.src, f.dst, f.proto, f.vlan, f.id} }

// first is what the first one of a later fragment's packet left, if it was seen and not too long ago.
func (m *Model) first(f facts) (first fragmentPorts, ok bool) {
	first, ok = m.fragments[fragmentOf(f)]
	return first, ok && m.Now.Sub(first.seen) < fragmentTimeout
}

// ports returns the ports that rules see: the packet's own, or of a later fragment those of the first one.
func (m *Model) ports(f facts) (sport, dport uint16, known bool) {
	if !f.later {
		return f.sport, f.dport, f.hasPorts
	}
	first, ok := m.first(f)
	if !ok || !m.asksPorts() || !hasPorts(f.proto) {
		return 0, 0, false
	}
	return first.sport, first.dport, true
}

// asksPorts tells whether some rule depends on ports.
func (m *Model) asksPorts() bool {
	return slices.ContainsFunc(m.snapshot.Filter.Rules, func(r model.Rule) bool {
		return slices.ContainsFunc(r.Match, func(c model.Condition) bool {
			return c.Field == "sport" || c.Field == "dport" || c.Field == "service" || m.isPairs(c)
		})
	})
}

// noteFragment keeps the ports of a first fragment for those that follow.
func (m *Model) noteFragment(f facts) {
	if f.fragment && !f.later && f.hasPorts && m.asksPorts() {
		m.noteFirst(f, BackendKey{})
	}
}

func (m *Model) noteFirst(f facts, backend BackendKey) {
	if m.fragments == nil {
		m.fragments = map[fragmentKey]fragmentPorts{}
	}
	m.fragments[fragmentOf(f)] = fragmentPorts{f.sport, f.dport, m.Now, backend}
}

func (m *Model) inSet(name string, addr netip.Addr) bool {
	set, ok := m.snapshot.Set(name)
	return ok && slices.ContainsFunc(set.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ring is the present ring of a service: members that are up, by weight. Slots hold the index of a backend plus one.
func (m *Model) ring(service *model.Service) []uint16 {
	if ring, ok := m.rings[service.Name]; ok {
		return ring
	}
	takes := func(b model.Backend) bool { return b.Weight > 0 && !m.backends[keyOf(service, b)].Down }
	primary := slices.ContainsFunc(service.Backends, func(b model.Backend) bool { return !b.Backup && takes(b) })
	var members []lb.Member
	for i, b := range service.Backends {
		if takes(b) && b.Backup == !primary {
			members = append(members, lb.Member{Name: b.Name, ID: uint16(i + 1), Weight: b.Weight})
		}
	}
	if m.rings == nil {
		m.rings = map[string][]uint16{}
	}
	m.rings[service.Name] = lb.Ring(members, ringSlots(service))
	return m.rings[service.Name]
}

func keyOf(service *model.Service, b model.Backend) BackendKey {
	return BackendKey{service.Name, b.Name, b.Address, service.Forward}
}
