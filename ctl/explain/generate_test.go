package explain_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"gardu/ctl/config"
	"gardu/ctl/pkt"
)

// generator makes random configurations and packets from few values, so that they meet.
type generator struct {
	*rand.Rand
	near []netip.Addr // in a round of whole flows: addresses that are met more often than others
}

// configText is a configuration in parts that can be left out one by one.
type configText struct {
	defaultAction, allow  string
	sets, rules, services []string
}

func (c configText) yaml() string {
	var b strings.Builder
	b.WriteString("interfaces:\n  eth0: {path: auto}\n  eth1: {path: tc}\n")
	section := func(head string, parts []string) {
		if len(parts) > 0 {
			b.WriteString(head + "\n" + strings.Join(parts, "\n") + "\n")
		}
	}
	section("sets:", c.sets)
	b.WriteString("filter:\n  default: " + c.defaultAction + "\n")
	if c.allow != "" {
		b.WriteString("  allow: \"@" + c.allow + "\"\n")
	}
	section("  rules:", c.rules)
	section("services:", c.services)
	return b.String()
}

// valid tells whether package config takes it.
func (c configText) valid() bool {
	_, _, err := config.Parse("config.yaml", []byte(c.yaml()), ".")
	return err == nil
}

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

// oneIn is true once in n times.
func (g generator) oneIn(n int) bool { return g.IntN(n) == 0 }

// config makes a valid configuration; what doesn't go with the rest is left out.
func (g generator) config() configText {
	c := configText{defaultAction: pick(g, "pass", "pass", "pass", "drop")}
	keep := func(parts *[]string, part string) {
		before := *parts
		*parts = append(before[:len(before):len(before)], part)
		if !c.valid() {
			*parts = before
		}
	}
	addressSets, portSets := g.IntN(4), g.IntN(3)
	for i := range addressSets {
		var entries []string
		for range 1 + g.IntN(pick(g, 3, 12)) {
			entries = append(entries, g.prefix())
		}
		c.sets = append(c.sets, fmt.Sprintf("  a%d: {entries: [%s]}", i, strings.Join(entries, ", ")))
	}
	for i := range portSets {
		c.sets = append(c.sets, fmt.Sprintf("  p%d: {ports: [%s]}", i, g.list(3, func() string {
			for { // a set doesn't have port 0
				if ports := g.ports(); ports[0] != '0' {
					return ports
				}
			}
		})))
	}
	for i := range 2 {
		c.sets = append(c.sets, fmt.Sprintf("  q%d: {pairs: [%s]}", i, g.list(6, g.pair)))
	}
	if addressSets > 0 && g.oneIn(3) {
		c.allow = "a0"
	}
	for i := range g.IntN(9) {
		keep(&c.services, g.service(i))
	}
	rules := g.IntN(pick(g, 1, 1, 5, 10, 40))
	if g.oneIn(20) {
		rules = 300
	}
	for i := range rules {
		c.rules = append(c.rules, g.rule(i, addressSets, portSets, c.serviceNames()))
	}
	if c.valid() {
		return c
	}
	rest := c.rules
	c.rules = nil
	for _, rule := range rest[:min(40, len(rest))] {
		keep(&c.rules, rule)
	}
	return c
}

// serviceNames are those of the services.
func (c configText) serviceNames() []string {
	var names []string
	for _, service := range c.services {
		name, _, _ := strings.Cut(strings.TrimSpace(service), ":")
		names = append(names, name)
	}
	return names
}

func (g generator) rule(i, addressSets, portSets int, services []string) string {
	match := map[string]string{}
	if g.oneIn(12) { // frames that are neither IPv4 nor IPv6 have no other fields
		for range 1 + g.IntN(3) {
			g.linkCondition(match)
		}
	}
	for range g.IntN(4) {
		field := pick(g, "src", "src", "dst", "dst", "proto", "proto", "sport", "dport", "dport", "icmp-type", "icmp-code", "ttl", "dscp", "length", "state", "state",
			"tcp-flags", "tcp-flags", "fragment", "fragment", "service", "link", "link")
		if i%3 == 0 { // most rulesets are of the flow's key alone, and remember
			field = pick(g, "src", "dst", "proto", "dport", "state", "fragment", "service")
		}
		key := field
		if g.oneIn(4) {
			key = "not-" + field
		}
		switch field {
		case "src", "dst":
			match[key] = "[" + g.list(3, g.prefix) + "]"
			if addressSets > 0 && g.oneIn(2) {
				match[key] = fmt.Sprintf("\"@a%d\"", g.IntN(addressSets))
			}
			if g.oneIn(4) {
				match[key] = fmt.Sprintf("\"@q%d\"", g.IntN(2))
			}
		case "proto":
			match[key] = pick(g, "tcp", "udp", "[tcp, udp]", "icmp", "icmpv6", "sctp", "50", "[0, 17, 58]")
		case "sport", "dport":
			match[key] = "[" + g.list(3, g.ports) + "]"
			if portSets > 0 && g.oneIn(2) {
				match[key] = fmt.Sprintf("\"@p%d\"", g.IntN(portSets))
			}
		case "state":
			match[key] = pick(g, "new", "established", "established", "invalid", "[new, established]", "[established, invalid]")
		case "icmp-type":
			match[key] = pick(g, "8", "128", "[0-8, 128-137]", "3")
		case "icmp-code":
			match[key] = pick(g, "0", "1-4")
		case "ttl":
			match[key] = pick(g, "0-5", "64", "[1, 255]")
		case "dscp":
			match[key] = pick(g, "0", "46", "[8-16, 63]")
		case "length":
			match[key] = pick(g, "0-59", "60-80", "[28, 40, 100-65535]")
		case "tcp-flags":
			match[key] = "[" + g.list(pick(g, 1, 1, 3, 20), func() string {
				return pick(g, "syn", "ack", "syn+ack", "none", "fin+ack", "rst/rst", "syn/syn", "ack/syn+ack", "psh/psh", "none/fin+rst+urg")
			}) + "]"
		case "fragment":
			match[key] = pick(g, "none", "first", "later", "any", "[none, first]", "[none, later]")
		case "service":
			if len(services) > 0 {
				match[key] = "[" + g.list(2, func() string { return pick(g, services...) }) + "]"
			}
		case "link":
			g.linkCondition(match)
		}
	}
	var parts []string
	for key, value := range match {
		parts = append(parts, key+": "+value)
	}
	does := ", action: " + g.action(match["proto"] == "tcp")
	if g.oneIn(8) {
		does = ""
	}
	if g.oneIn(5) {
		does += ", direction: out"
	}
	if g.oneIn(8) {
		does += ", shadow: true"
	}
	if g.oneIn(6) {
		does += fmt.Sprintf(", limit: {rate: %s, per: %s}", pick(g, "10/s, burst: 3", "3/s", "7/m, burst: 2", "1000/s, burst: 10", "5kB/s, burst: 300B", "12345bit/s, burst: 2kB"),
			pick(g, "all", "rule", "src", "src/24", "src/9", "dst", "dst/30", "service", "flow"))
	}
	if g.oneIn(10) {
		does += pick(g, ", log: 1/1", ", log: 1/3", ", sample: 1/2", ", sample: 1/7", ", log: 1/2, sample: 1/5")
	}
	return fmt.Sprintf("    - {name: r%d, match: {%s}%s}", i, strings.Join(parts, ", "), does)
}

func (g generator) action(tcp bool) string {
	switch {
	case g.oneIn(4):
		return fmt.Sprintf("{%s: %s}", pick(g, "redirect", "mirror"), pick(g, exitNames...))
	case g.oneIn(5):
		return "{reject: " + pick(g, "port-unreachable", "host-unreachable", "net-unreachable", "admin-prohibited") + "}"
	case tcp && g.oneIn(4):
		return "{reject: tcp-reset}"
	}
	return pick(g, "pass", "drop", "pass", "drop", "reject")
}

var exitNames = []string{"eth1", "eth2"}

// linkCondition adds a condition on what every frame has.
func (g generator) linkCondition(match map[string]string) {
	field := pick(g, "src-mac", "dst-mac", "ethertype", "ethertype", "vlan", "interface")
	key := field
	if g.oneIn(3) {
		key = "not-" + field
	}
	switch field {
	case "src-mac", "dst-mac":
		match[key] = "[" + g.list(pick(g, 1, 2, 30), func() string { return pick(g, g.mac(), g.mac(), "02:00:5e:00:00:00/24", "00:00:00:00:00:00/7") }) + "]"
	case "ethertype":
		match[key] = pick(g, "arp", "ipv4", "ipv6", "[ipv4, arp]", "0-1535", "[lldp, 0x9100]", "0x0-0xffff")
	case "vlan":
		match[key] = pick(g, "none", "10", "[10, 20]", "1-15", "[none, 30]")
	case "interface":
		match[key] = pick(g, "eth0", "eth1", "[eth0, eth1]")
	}
}

// mac is one of few.
func (g generator) mac() string { return fmt.Sprintf("02:00:5e:00:53:%02x", g.IntN(40)) }

var (
	serviceAddresses = []string{"192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"}
	servicePrefixes  = []string{"192.0.2.10/31", "192.0.2.0/28", "192.0.0.0/16", "198.51.100.0/24", "2001:db8::10/124", "2001:db8::/64", "2001:db8::/33"}
	servicePorts     = []string{"80", "443", "53", "8000-8007", "1-1023", "any"}
)

func (g generator) service(i int) string {
	address, port, proto := pick(g, serviceAddresses...), pick(g, servicePorts...), pick(g, "tcp", "tcp", "udp", "udp", "sctp")
	if g.oneIn(4) {
		address = pick(g, servicePrefixes...)
	}
	if g.oneIn(5) {
		port, proto = "any", "any"
	}
	mode := pick(g, "dsr", "ipip", "gue", "nat", "nat")
	v6 := strings.Contains(address, ":")
	var b strings.Builder
	fmt.Fprintf(&b, "  s%d:\n    address: \"%s\"\n    port: %s\n    proto: %s\n    forward: %s\n    affinity: %s\n    announce: {arp: %t}\n    ring: %d\n    on-down: %s\n    backends:",
		i, address, port, proto, mode, pick(g, "flow", "flow", "source"), g.oneIn(2),
		pick(g, 251, 65537, 131071), pick(g, "move", "drop", "reset"))
	quic, idLength := g.quic()
	if proto != "udp" {
		quic = ""
	}
	for j := range 1 + g.IntN(4) {
		backend := fmt.Sprintf("10.0.0.%d", 11+j)
		same := mode == "dsr" || mode == "nat"
		if same && v6 || !same && g.oneIn(2) {
			backend = fmt.Sprintf("2001:db8:ffff::%x", 0x11+j)
		}
		listens := ""
		if mode == "nat" && g.oneIn(3) {
			listens = ", port: " + pick(g, "80", "443", "8080")
		}
		if quic != "" && g.oneIn(3) {
			listens += fmt.Sprintf(", server-id: \"%0*x\"", 2*idLength, 0x31+j)
		}
		fmt.Fprintf(&b, "\n      - {name: b%d, address: \"%s\", weight: %d, backup: %t%s}", j, backend, pick(g, 100, 50, 1, 0), j > 0 && g.oneIn(3), listens)
	}
	if mode == "nat" && !g.oneIn(4) {
		b.WriteString("\n    nat: " + g.pool(v6))
	}
	return b.String() + quic
}

// quic is what a service says of connection IDs, and how long the server IDs in them are.
func (g generator) quic() (text string, idLength int) {
	if idLength = pick(g, 1, 1, 4, 4, 8, 9, 15); g.oneIn(4) {
		version := pick(g, 2, 3)
		return fmt.Sprintf("\n    quic: {format: katran-v%d}", version), version + 1
	}
	if g.oneIn(3) {
		return "", idLength
	}
	return fmt.Sprintf("\n    quic: {config-id: %d, server-id-length: %d}", pick(g, 0, 0, 2, 6), idLength), idLength
}

// quicPayload is like that of a QUIC packet, with a connection ID that may name a server of quic().
func (g generator) quicPayload() string {
	idLength := pick(g, 1, 1, 3, 4, 4, 8, 9, 15)
	server := fmt.Sprintf("%0*x", 2*idLength, pick(g, 0x31, 0x31, 0x11, 0x0b)+g.IntN(5))
	if idLength >= 4 && g.oneIn(3) {
		server = server[:2*idLength-8] + fmt.Sprintf("0a0000%02x", 11+g.IntN(4))
	}
	id := fmt.Sprintf("%02x%s%08x", pick(g, 0, 0, 2, 4, 5, 6, 6, 7)<<5|g.IntN(32), server, g.Uint32())
	payload := fmt.Sprintf("%02x%s", g.IntN(128), id)
	if g.oneIn(3) {
		payload = fmt.Sprintf("%02x%08x%02x%s", 0x80|g.IntN(128), pick(g, 1, 1, 0x6b3343cf, 0xff00001d, 0), pick(g, len(id)/2, len(id)/2, 8, 20, g.IntN(256)), id)
	}
	if !g.oneIn(6) {
		payload += fmt.Sprintf("%0*x", 2*pick(g, 20, 20, 1000), g.Uint64())
	}
	return payload
}

// pool is what translated packets come from: sometimes more than there will ever be, sometimes less.
func (g generator) pool(v6 bool) string {
	ports := pick(g, "1024-32767", "2000-2099", "2000-2001", "2000", "2000", "2000", "2000")
	if !g.oneIn(3) {
		return fmt.Sprintf("{ports: %s}", ports)
	}
	var pool []string
	for i := range 1 + g.IntN(6) {
		if v6 {
			pool = append(pool, fmt.Sprintf("\"2001:db8:ffff::%x\"", 0x100+i))
		} else {
			pool = append(pool, fmt.Sprintf("10.0.0.%d", 100+i))
		}
	}
	return fmt.Sprintf("{pool: [%s], ports: %s}", strings.Join(pool, ", "), ports)
}

func (g generator) list(most int, item func() string) string {
	var items []string
	for range 1 + g.IntN(most) {
		items = append(items, item())
	}
	return strings.Join(items, ", ")
}

// prefix is around the addresses that packets have.
func (g generator) prefix() string {
	addr := g.address(g.oneIn(2))
	bits := pick(g, addr.BitLen(), addr.BitLen(), addr.BitLen()-1, addr.BitLen()-3, addr.BitLen()-8, addr.BitLen()/2, g.IntN(addr.BitLen()+1))
	return fmt.Sprintf("\"%s\"", netip.PrefixFrom(addr, bits).Masked())
}

// pair is an address and port that packets may have.
func (g generator) pair() string {
	return fmt.Sprintf("%q", netip.AddrPortFrom(g.address(g.oneIn(2)), uint16(max(1, g.port()))))
}

func (g generator) address(v6 bool) netip.Addr {
	if len(g.near) > 0 && !g.oneIn(4) {
		if addr := pick(g, g.near...); addr.Is6() == v6 {
			return addr
		}
	}
	text := fmt.Sprintf("%s.%d", pick(g, "198.51.100", "198.51.101", "203.0.113", "192.0.2", "0.0.0", "255.255.255"), pick(g, g.IntN(4), g.IntN(4), 10, 11, 254, 255))
	if v6 {
		text = fmt.Sprintf("%s%x", pick(g, "2001:db8::", "2001:db8:0:0:1::", "2001:db8:1::", "2001:db8:0:8000::", "fe80::", "::ffff:c633:"), pick(g, g.IntN(4), 0x10, 0x11, 0xffff))
	}
	return netip.MustParseAddr(text)
}

func (g generator) port() int {
	if len(g.near) > 0 && !g.oneIn(4) {
		return pick(g, 80, 443, 40000)
	}
	return pick(g, 0, 1, 22, 53, 80, 443, 8000+g.IntN(9), 1023, 1024, 40000, 65535)
}

func (g generator) ports() string {
	lo, hi := g.port(), g.port()
	if g.oneIn(2) || lo > hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d-%d", lo, hi)
}

// packet is a frame as the network brings it: mostly right, some odd, some broken. clean: nothing was broken on
// purpose, and gopacket can check it.
func (g generator) packet() (frame []byte, clean bool) {
	text := g.packetText()
	frame, clean = mustParse(text), !strings.Contains(text, "ext ") // gopacket misreads chains of extension headers
	if g.oneIn(12) {                                                // bits fall over
		for range 1 + g.IntN(3) {
			frame[12+g.IntN(min(len(frame)-12, 70))] ^= 1 << g.IntN(8)
		}
		clean = false
	}
	if g.oneIn(16) {
		frame = frame[:15+g.IntN(len(frame)-14)]
		clean = false
	}
	return frame, clean
}

// ipAt finds the IP header of a frame, 0 when there is none or it isn't whole.
func ipAt(frame []byte) (at int, v6 bool) {
	at = 14
	for range 2 {
		if len(frame) < at+4 {
			return 0, false
		}
		kind := binary.BigEndian.Uint16(frame[at-2:])
		if kind != 0x8100 && kind != 0x88a8 {
			break
		}
		at += 4
	}
	switch kind := binary.BigEndian.Uint16(frame[at-2:]); {
	case kind == 0x0800 && len(frame) >= at+20:
		return at, false
	case kind == 0x86dd && len(frame) >= at+40:
		return at, true
	}
	return 0, false
}

// turned is a packet of the other direction: addresses, and ports where they are at their usual place, change places, which
// changes no checksum.
func turned(frame []byte) []byte {
	frame = bytes.Clone(frame)
	at, v6 := ipAt(frame)
	if at == 0 {
		return frame
	}
	address, size, upper, proto := at+12, 4, at+20, frame[at+9]
	if v6 {
		address, size, upper, proto = at+8, 16, at+40, frame[at+6]
	}
	swap := func(at, size int) {
		first := bytes.Clone(frame[at : at+size])
		copy(frame[at:], frame[at+size:at+2*size])
		copy(frame[at+size:], first)
	}
	swap(address, size)
	if (proto == 6 || proto == 17 || proto == 132) && len(frame) >= upper+4 {
		swap(upper, 2)
	}
	return frame
}

// icmpError is about a packet, or nearly.
func (g generator) icmpError(about []byte) []byte {
	at, v6 := ipAt(about)
	if at == 0 {
		return mustParse("icmp 203.0.113.1 > 198.51.100.1 3")
	}
	quote := about[at:min(len(about), at+pick(g, 28, 28, 48, 48, 56, 60, g.IntN(64)))]
	to := netip.AddrFrom4([4]byte(about[at+12:]))
	head := "icmp 203.0.113.1"
	kind := pick(g, 3, 3, 4, 5, 11, 12)
	if v6 {
		to = netip.AddrFrom16([16]byte(about[at+8:]))
		head, kind = "icmpv6 2001:db8:1::1", pick(g, 1, 2, 3, 4, 5)
	}
	if g.oneIn(8) {
		to = g.address(v6)
	}
	return mustParse(strings.TrimSuffix(fmt.Sprintf("%s > %s %d data %x", head, to, kind, quote), " data "))
}

func mustParse(text string) []byte {
	frame, err := pkt.Parse(text)
	if err != nil {
		panic(err)
	}
	return frame
}

func (g generator) endpoints(v6 bool) (from, to netip.AddrPort) {
	return netip.AddrPortFrom(g.address(v6), uint16(g.port())), netip.AddrPortFrom(g.address(v6), uint16(g.port()))
}

func (g generator) packetText() string {
	v6 := g.oneIn(2)
	src, dst := g.address(v6), g.address(v6)
	if !g.oneIn(3) {
		for {
			dst = netip.MustParseAddr(pick(g, append(serviceAddresses, "192.0.2.9", "2001:db8::1f")...))
			if dst.Is6() == v6 {
				break
			}
		}
	}
	port := g.port()
	if g.oneIn(2) {
		port = pick(g, 80, 443, 53, 8000+g.IntN(8))
	}
	icmp, echo := "icmp", "echo-request"
	if v6 {
		icmp = "icmpv6"
	}
	from, to := netip.AddrPortFrom(src, uint16(g.port())), netip.AddrPortFrom(dst, uint16(port))
	var text string
	switch kind := g.IntN(100); {
	case kind < 45:
		text = fmt.Sprintf("tcp %s > %s %s", from, to, pick(g, "syn", "ack", "ack", "ack", "fin ack", "rst", "syn ack", "syn fin", "ack tcpopt 01010101", "ack doff 4"))
	case kind < 59:
		text = fmt.Sprintf("udp %s > %s", from, to)
	case kind < 68:
		text = fmt.Sprintf("udp %s > %s data %s", from, to, g.quicPayload())
	case kind < 72:
		text = fmt.Sprintf("sctp %s > %s", from, to)
	case kind < 76:
		text = fmt.Sprintf("%s %s > %s %s id %d code %d", icmp, src, dst, pick(g, echo, echo, "echo-reply", "3", "128", "8", "135", "143"), g.IntN(3), pick(g, 0, 0, 1))
	case kind < 82:
		text = fmt.Sprintf("ip %s > %s proto %d", src, dst, pick(g, 0, 1, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 136, g.IntN(256)))
	case kind < 89 && v6:
		text = fmt.Sprintf("nd who-has %s tell %s", dst, pick(g, src, netip.IPv6Unspecified()))
		if g.oneIn(3) {
			text += fmt.Sprintf(" to %s", dst)
		}
	case kind < 92:
		text = fmt.Sprintf("arp who-has 192.0.2.1%d tell %s", g.IntN(3), pick(g, "192.0.2.1", "192.0.2.10", "0.0.0.0"))
	case kind < 93:
		text = fmt.Sprintf("ether %d len %d", pick(g, 0, 0x26, 0x88cc, 0x9100, g.IntN(65536)), 1+g.IntN(60))
	default:
		text = fmt.Sprintf("udp %s > %s data %016x", from, to, g.Uint64()|1)
	}
	return text + g.options(text, v6)
}

// options are such as go with the packet.
func (g generator) options(text string, v6 bool) string {
	var b strings.Builder
	add := func(n int, format string, args ...any) {
		if g.oneIn(n) {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	head, _, _ := strings.Cut(text, " ")
	if head != "arp" && head != "ether" {
		add(4, "ttl %d", pick(g, 0, 1, 3, 64, 255))
		add(5, "dscp %d ecn %d", pick(g, 8, 12, 46, 63), g.IntN(4))
		if v6 {
			add(8, "label %d", g.IntN(1<<20))
			for range pick(g, 0, 0, 0, 0, 0, 0, 1, 1, 2, 9) {
				add(1, "ext %s", pick(g, "hbh", "dst", "route", "ah"))
			}
		} else {
			add(12, "ipopt %s", pick(g, "01010101", "0101010194040000"))
			add(5, "df ipid %d", g.IntN(65536))
		}
		add(12, "frag %s", pick(g, "first", "later", "0", "1", "8191", "7+"))
		if v6 {
			add(40, "ext dst")
		}
		add(60, "total %d", g.IntN(100))
	}
	if head != "arp" && head != "nd" && head != "ether" && !strings.Contains(text, "data") {
		add(2, "len %d", pick(g, 1, 4, 8, 12, 20, 41, 100, 1400, 1420, 1432, 1440, 1452, 1460, 1472))
	}
	add(6, "mac %s > %s", g.mac(), g.mac())
	add(10, "vlan %d", pick(g, 0, 10, 20))
	add(20, "%s %d", pick(g, "qinq", "vlan"), pick(g, 0, 10, 20))
	add(60, "vlan 30")
	add(10, "pad %d", g.IntN(20))
	return b.String()
}
