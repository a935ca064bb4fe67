package explain_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// conversation is a flow as its packets name it, in both directions.
type conversation struct {
	proto    string // tcp, udp, sctp, icmp, icmpv6
	from, to netip.AddrPort
	id       int // of an echo
}

// flowScript makes a round of many packets of few flows. What a packet is judged by besides its flow's key changes from one to
// the next, and blocks, backends and configurations, much like each other, come and go in between: what is remembered of
// a flow and shouldn't be shows as a wrong verdict, backend or counter.
func (g generator) flowScript(hook string) script {
	s := script{checks: g.oneIn(2)}
	for range 4 {
		g.near = append(g.near, g.address(false), g.address(true))
	}
	for _, address := range serviceAddresses {
		g.near = append(g.near, netip.MustParseAddr(address))
	}
	s.configs = []configText{g.flowConfig()}
	for range 1 + g.IntN(3) {
		next := g.variant(pick(g, s.configs...))
		if g.oneIn(4) {
			next = g.flowConfig()
		}
		s.configs = append(s.configs, next)
	}
	var flows []conversation
	for range 2 + g.IntN(10) {
		flows = append(flows, g.conversation())
	}
	backends := s.backends()
	var blocked []string
	var recent [][]byte
	seen := rehearse(s)
	for len(s.steps) < roundPackets {
		var next step
		switch what := g.IntN(1000); {
		case what < 8:
			next.line = "apply " + configName(g.IntN(len(s.configs)))
		case what < 14 && len(backends) > 0:
			next.line = fmt.Sprintf("backend %s %s", pick(g, backends...), pick(g, "down", "up", "up", "no-hop", "mtu 1400", "mtu 0"))
		case what < 22 && seen.backend != "": // flows lose the backend that they are on, see on-down
			next.line = fmt.Sprintf("backend %s %s", seen.backend, pick(g, "down", "down", "up"))
		case what < 30:
			prefix := g.blockable()
			blocked = append(blocked, prefix)
			next.line = "block " + prefix + pick(g, "", "", " expired", " briefly")
		case what < 60 && len(blocked) > 0:
			at := g.IntN(len(blocked))
			next.line = "unblock " + blocked[at]
			blocked = slices.Delete(blocked, at, at+1)
		case what == 60 && s.checks && g.oneIn(4):
			c := pick(g, flows...)
			next.line = fmt.Sprintf("check tcp %s > %s", c.to, c.from)
		case what == 61:
			next.line = fmt.Sprintf("exit %s %s", pick(g, exitNames...), pick(g, "down", "up", "up", "mtu 1400", "mtu 0"))
		case what < 64:
			next.line = "wait " + pick(g, "2s", "2s", "12s", "101s", "200s", "8000s")
		case what < 84 && len(recent) > 0:
			next.frame = g.icmpError(seen.sent(g, pick(g, recent...)))
		case what < 400 && len(seen.answers) > 0:
			next.frame, next.clean = pick(g, seen.answers[max(0, len(seen.answers)-20):]...), false
		default:
			var text string
			text, next.sent = g.packetOf(pick(g, flows...))
			next.frame, next.clean = mustParse(text), !strings.Contains(text, "ext ")
			recent = append(recent[max(0, len(recent)-20):], next.frame)
		}
		if next.frame == nil || hook != "tc" && !next.sent || !refusedAtTC(next.frame) {
			s.steps = append(s.steps, next)
			seen.play(next)
		}
	}
	return s
}

// flowConfig is a configuration whose rules meet the flows.
func (g generator) flowConfig() configText {
	c := g.config()
	c.defaultAction, c.rules = pick(g, "pass", "pass", "pass", "drop"), nil
	for i := range g.IntN(pick(g, 4, 8, 16)) {
		next := c
		next.rules = append(slices.Clip(c.rules), g.flowRule(i))
		if next.valid() {
			c = next
		}
	}
	return c
}

// flowRule matches flows, and often only some of their packets; it passes more than it drops, because what is dropped is not
// remembered.
func (g generator) flowRule(i int) string {
	var match []string
	if !g.oneIn(3) {
		key := pick(g, "", "", "", "not-")
		addr := pick(g, g.near...)
		match = append(match, key+pick(g,
			fmt.Sprintf("src: %s", netip.PrefixFrom(addr, addr.BitLen())),
			fmt.Sprintf("dst: %s", netip.PrefixFrom(addr, addr.BitLen()/2).Masked()),
			"proto: "+pick(g, "tcp", "udp", "icmp", "icmpv6"),
			"dport: ["+g.ports()+"]",
		))
	}
	if len(match) == 0 || g.oneIn(2) {
		match = append(match, pick(g, "", "", "", "not-")+pick(g, "ttl: [0-5, 255]", "ttl: 64", "dscp: [8, 46]", "dscp: 0", "length: 0-59",
			"length: [28, 100-65535]", "icmp-type: [0, 8, 128]", "icmp-code: 0",
			"tcp-flags: syn", "tcp-flags: ack/ack+syn", "fragment: none", "fragment: first", "fragment: later", "vlan: 10",
			"state: new", "state: new", "state: established", "state: established", "state: invalid", "state: [new, invalid]"))
	}
	for j := range match { // IPv6 addresses
		name, value, _ := strings.Cut(match[j], ": ")
		if strings.Contains(value, ":") {
			match[j] = fmt.Sprintf("%s: \"%s\"", name, value)
		}
	}
	return fmt.Sprintf("    - {name: r%d, match: {%s}%s}", i, strings.Join(match, ", "), pick(g, ", action: pass", ", action: pass", ", action: drop",
		", action: drop", ", action: {redirect: eth1}", ", action: {redirect: eth2}", "", ", shadow: true, action: drop", ", count: true", ", log: 1/1, action: pass"))
}

// variant is a configuration that differs in one thing.
func (g generator) variant(c configText) configText {
	next := c
	next.rules = slices.Clone(c.rules)
	at := g.IntN(max(1, len(c.rules)))
	switch what := g.IntN(5); {
	case what == 0 || len(c.rules) == 0:
		next.defaultAction = pick(g, "pass", "drop")
	case what == 1:
		next.rules = slices.Delete(next.rules, at, at+1)
	case what == 2 && strings.Contains(next.rules[at], "action: pass"):
		next.rules[at] = strings.Replace(next.rules[at], "action: pass", "action: drop", 1)
	case what == 2:
		next.rules[at] = strings.Replace(next.rules[at], "action: drop", "action: pass", 1)
	default:
		next.rules = slices.Insert(next.rules, at, g.flowRule(1000+len(c.rules)))
	}
	if !next.valid() {
		return c
	}
	return next
}

func (g generator) conversation() conversation {
	v6 := g.oneIn(2)
	from, to := g.endpoints(v6)
	if !g.oneIn(3) {
		to = netip.AddrPortFrom(netip.MustParseAddr(pick(g, serviceAddresses[:2]...)), uint16(pick(g, 80, 443, 53, 8003)))
		if v6 {
			to = netip.AddrPortFrom(netip.MustParseAddr(pick(g, serviceAddresses[2:]...)), to.Port())
		}
	}
	c := conversation{pick(g, "tcp", "tcp", "tcp", "tcp", "udp", "udp", "udp", "sctp", "icmp"), from, to, g.IntN(3)}
	if c.proto == "icmp" && v6 {
		c.proto = "icmpv6"
	}
	return c
}

// packetOf is one of a flow's packets, often a plain one. Some are answers, most of which are sent and not received.
func (g generator) packetOf(c conversation) (text string, sent bool) {
	from, to, v6 := c.from, c.to, c.from.Addr().Is6()
	if g.oneIn(6) {
		from, to, sent = to, from, !g.oneIn(4)
	}
	switch c.proto {
	case "tcp":
		text = fmt.Sprintf("tcp %s > %s %s", from, to, pick(g, "ack", "ack", "ack", "ack", "syn", "syn ack", "fin ack", "rst", "psh ack"))
	case "icmp", "icmpv6":
		text = fmt.Sprintf("%s %s > %s %s id %d", c.proto, from.Addr(), to.Addr(), pick(g, "echo-request", "echo-request", "echo-reply", "3"), c.id)
	default:
		text = fmt.Sprintf("%s %s > %s", c.proto, from, to)
	}
	if g.oneIn(3) {
		return text, sent
	}
	return text + g.options(text, v6), sent
}
