package pkt

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// option is one word that may follow a head, with what it takes. show gives its text for a packet, "" at its default;
// nil: Describe has other words for it.
type option struct {
	name  string
	takes string // for help; "" when the word stands alone
	on    kind
	help  string
	parse func(*scanner, *packet) error
	show  func(*packet) string
}

// tcpFlags, from the lowest bit of the flags byte.
var tcpFlags = []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"}

// options in the order in which Describe writes them.
var options = []option{
	{"seq", "N", kindTCP, "sequence number", func(s *scanner, p *packet) error { return put(s, &p.seq) },
		func(p *packet) string { return unless(0, int(p.seq), "seq") }},
	{"ackno", "N", kindTCP, "acknowledgment number", func(s *scanner, p *packet) error { return put(s, &p.ack) },
		func(p *packet) string { return unless(0, int(p.ack), "ackno") }},
	{"win", "N", kindTCP, "window; 65535", func(s *scanner, p *packet) error { return put(s, &p.window) },
		func(p *packet) string { return unless(65535, int(p.window), "win") }},
	{"tcpopt", "HEX", kindTCP, "TCP options, a multiple of 4 bytes", func(s *scanner, p *packet) error { return words(s, &p.tcpOptions) },
		func(p *packet) string { return hexOf("tcpopt", p.tcpOptions) }},
	{"doff", "N", kindTCP, "data offset in 32-bit words, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.offset, 15) }, nil},
	{"udplen", "N", kindUDP | kindGUE, "UDP length, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.udpLength, 65535) },
		func(p *packet) string { return unless(right, p.udpLength, "udplen") }},
	{"vtag", "N", kindSCTP, "verification tag", func(s *scanner, p *packet) error { return put(s, &p.tagSCTP) },
		func(p *packet) string { return unless(0, int(p.tagSCTP), "vtag") }},
	{"code", "N", kindsICMP, "ICMP code", func(s *scanner, p *packet) error { return put(s, &p.icmpCode) },
		func(p *packet) string { return unless(0, int(p.icmpCode), "code") }},
	{"id", "N", kindsICMP, "echo identifier: first half of the header's second word", func(s *scanner, p *packet) error { return put(s, &p.rest[0]) },
		func(p *packet) string { return unless(0, int(p.rest[0]), "id") }},
	{"echoseq", "N", kindsICMP, "echo sequence number: second half", func(s *scanner, p *packet) error { return put(s, &p.rest[1]) },
		func(p *packet) string { return unless(0, int(p.rest[1]), "echoseq") }},
	{"sum", "N", kindsPorts | kindsICMP | kindND | kindGUE, "checksum behind the IP header, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.sum, 1<<32-1) },
		func(p *packet) string { return unless(right, p.sum, "sum") }},

	{"ttl", "N", kindsIP, "TTL or hop limit; 64", func(s *scanner, p *packet) error { return put(s, &p.ttl) },
		func(p *packet) string { return unless(defaultTTL(p), int(p.ttl), "ttl") }},
	{"dscp", "N", kindsIP, "0 to 63", parseDSCP, func(p *packet) string { return unless(0, int(p.tos>>2), "dscp") }},
	{"ecn", "N", kindsIP, "0 to 3", parseECN, func(p *packet) string { return unless(0, int(p.tos&3), "ecn") }},
	{"label", "N", kindsIP, "IPv6 flow label", parseLabel, func(p *packet) string { return unless(0, int(p.label), "label") }},
	{"ipid", "N", kindsIP, "IPv4 identification, or that of an IPv6 fragment", func(s *scanner, p *packet) error { return put(s, &p.id) },
		func(p *packet) string { return unless(0, int(p.id), "ipid") }},
	{"df", "", kindsIP, "IPv4: don't fragment", parseDF, func(p *packet) string { return flag("df", p.df) }},
	{"ipopt", "HEX", kindsIP, "IPv4 options, a multiple of 4 bytes, e.g. 01010101", parseIPOptions,
		func(p *packet) string { return hexOf("ipopt", p.ipOptions) }},
	{"ext", "hbh|dst|route|ah", kindsIP, "an IPv6 extension header; several in the order given", parseExtension, showExtensions},
	{"frag", "first|later|N|N+", kindsIP, "a fragment: offset in units of 8 bytes, + when others follow", parseFragment, nil},
	{"proto", "N", kindsIP, "protocol or next header, whatever follows", func(s *scanner, p *packet) error { return up(s, &p.proto, 255) }, nil},
	{"version", "N", kindsIP, "IP version, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.version, 15) }, nil},
	{"ihl", "N", kindsIP, "IPv4 header length in 32-bit words, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.ihl, 15) }, nil},
	{"total", "N", kindsIP, "IPv4 total length or IPv6 payload length, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.total, 65535) }, nil},
	{"ipsum", "N", kindsIP, "IPv4 header checksum, right or wrong", func(s *scanner, p *packet) error { return up(s, &p.headerSum, 65535) },
		func(p *packet) string { return unless(right, p.headerSum, "ipsum") }},

	{"len", "N", kindsPorts | kindsICMP | kindIP | kindEther, "N zero bytes as payload", parseLen, nil},
	{"data", "HEX", kindsPorts | kindsICMP | kindIP | kindEther, "payload", parseData, showPayload},

	{"hw", "MAC", kindARP | kindND, "who-has: the asker's address; its source MAC", parseHardware, showHardware},
	{"mac", "MAC > MAC", kindsAll, "Ethernet addresses; 02:00:00:00:00:01 > 02:00:00:00:00:02", parseMACs, showMACs},
	{"vlan", "N", kindsAll, "VLAN tag 0x8100 with that id; several: outermost first", parseTag(typeVLAN), showTags},
	{"qinq", "N", kindsAll, "VLAN tag 0x88a8", parseTag(typeQinQ), nil},
	{"tag", "TYPE N", kindsAll, "any tag: its Ethernet type, its 16 control bits", parseAnyTag, nil},
	{"pad", "N", kindsAll, "N zero bytes behind the packet", func(s *scanner, p *packet) error { return up(s, &p.pad, maxFrame) },
		func(p *packet) string { return unless(0, p.pad, "pad") }},
	{"truncate", "N", kindsAll, "cut the frame after N bytes", func(s *scanner, p *packet) error { return up(s, &p.truncate, maxFrame) }, nil},
}

// option takes one option.
func (s *scanner) option(p *packet) error {
	word := s.next()
	if bit := slices.Index(tcpFlags, word); bit >= 0 && p.kind == kindTCP {
		p.tcpFlags |= 1 << bit
		return nil
	}
	i := slices.IndexFunc(options, func(o option) bool { return o.name == word && o.on&p.kind != 0 })
	if i >= 0 && p.carried && options[i].on == kindsAll {
		return s.fail("", "%s belongs before carries: it is about the Ethernet frame", quote(word))
	}
	if i >= 0 {
		return options[i].parse(s, p)
	}
	var allowed []string
	if p.kind == kindTCP {
		allowed = append(allowed, tcpFlags...)
	}
	for _, o := range options {
		if o.on&p.kind != 0 {
			allowed = append(allowed, o.name)
		}
	}
	return s.fail(strings.Join(allowed, " "), "no such option here: %s", quote(word))
}

// Help lists the grammar: every head and every option, one a line.
func Help() string {
	var b strings.Builder
	b.WriteString("A PACKET is one of these, then options:\n")
	for _, h := range heads {
		fmt.Fprintf(&b, "  %-44s %s\n", h.syntax, h.help)
	}
	fmt.Fprintf(&b, "  %-44s %s\n", "hex HEX...", "the frame as it is")
	b.WriteString("Options:\n")
	for _, o := range options {
		fmt.Fprintf(&b, "  %-44s %s\n", strings.TrimSpace(o.name+" "+o.takes), o.help)
	}
	return b.String()
}

// put takes a number of the destination's size.
func put[T uint8 | uint16 | uint32](s *scanner, to *T) error {
	n, err := s.number(uint64(^T(0)))
	*to = T(n)
	return err
}

// up takes a number up to limit.
func up(s *scanner, to *int, limit uint64) (err error) {
	*to, err = s.number(limit)
	return err
}

// words takes up to 40 bytes of header options, whole 32-bit words.
func words(s *scanner, to *[]byte) (err error) {
	if *to, err = s.hex(40); err == nil && len(*to)%4 != 0 {
		return s.fail("", "%d bytes are not a multiple of 4", len(*to))
	}
	return err
}

func parseDSCP(s *scanner, p *packet) error {
	n, err := s.number(63)
	p.tos = p.tos&3 | uint8(n)<<2
	return err
}

func parseECN(s *scanner, p *packet) error {
	n, err := s.number(3)
	p.tos = p.tos&^3 | uint8(n)
	return err
}

func parseLabel(s *scanner, p *packet) error {
	if p.src.Is4() {
		return s.fail("", "IPv4 has no flow label")
	}
	n, err := s.number(1<<20 - 1)
	p.label = uint32(n)
	return err
}

func parseDF(s *scanner, p *packet) error {
	if !p.src.Is4() {
		return s.fail("", "IPv6 has no such flag")
	}
	p.df = true
	return nil
}

func parseIPOptions(s *scanner, p *packet) error {
	if !p.src.Is4() {
		return s.fail("ext", "IPv6 has extension headers instead of options")
	}
	return words(s, &p.ipOptions)
}

var extensionNames = []struct {
	number uint8
	text   string
}{{protoHopByHop, "hbh"}, {protoDest, "dst"}, {protoRouting, "route"}, {protoAH, "ah"}}

func parseExtension(s *scanner, p *packet) error {
	if p.src.Is4() {
		return s.fail("ipopt", "IPv4 has no extension headers")
	}
	word := s.next()
	for _, e := range extensionNames {
		if e.text == word {
			p.extensions = append(p.extensions, extension{number: e.number})
			return nil
		}
	}
	return s.fail("hbh, dst, route or ah", "%s is no extension header", quote(word))
}

func parseFragment(s *scanner, p *packet) error {
	if p.src.Is4() && len(p.extensions) > 0 {
		return s.fail("", "IPv4 has one fragment offset")
	}
	word := s.peek()
	e := extension{number: protoFragment}
	switch word {
	case "first":
		s.next()
		e.more = true
	case "later":
		s.next()
		e.offset = laterOffset
	default:
		number, more := strings.CutSuffix(word, "+")
		digits := scanner{text: number}
		n, err := digits.number(1<<13 - 1)
		s.next()
		if err != nil {
			return s.fail("first, later, or 0 to 8191, then + when others follow", "%s is no fragment", quote(word))
		}
		e.offset, e.more = uint16(n), more
	}
	p.extensions = append(p.extensions, e)
	return nil
}

func showExtensions(p *packet) string {
	var out []string
	for _, e := range p.extensions {
		switch {
		case e.number != protoFragment:
			for _, name := range extensionNames {
				if name.number == e.number {
					out = append(out, "ext "+name.text)
				}
			}
		case e.offset == 0 && e.more:
			out = append(out, "frag first")
		case e.offset == laterOffset && !e.more:
			out = append(out, "frag later")
		case e.more:
			out = append(out, fmt.Sprintf("frag %d+", e.offset))
		default:
			out = append(out, fmt.Sprintf("frag %d", e.offset))
		}
	}
	return strings.Join(out, " ")
}

func parseLen(s *scanner, p *packet) error {
	n, err := s.number(65535)
	p.payload = make([]byte, n)
	return err
}

func parseData(s *scanner, p *packet) (err error) {
	p.payload, err = s.hex(65535)
	return err
}

func showPayload(p *packet) string {
	if len(p.payload) == 0 || p.kind&(kindARP|kindND|kindsTunnel) != 0 {
		return ""
	}
	if allZero(p.payload) {
		return fmt.Sprintf("len %d", len(p.payload))
	}
	return hexOf("data", p.payload)
}

func parseHardware(s *scanner, p *packet) (err error) {
	p.given = true
	p.hardware, err = s.mac()
	return err
}

func showHardware(p *packet) string {
	if p.reply || p.hardware == p.source || p.src.IsUnspecified() && p.kind == kindND {
		return ""
	}
	return "hw " + p.hardware.String()
}

func parseMACs(s *scanner, p *packet) (err error) {
	if p.source, err = s.mac(); err != nil {
		return err
	}
	if err = s.expect(">"); err != nil {
		return err
	}
	p.destination, err = s.mac()
	return err
}

func showMACs(p *packet) string {
	usual := newPacket(p.kind)
	usual.src, usual.dst, usual.reply = p.src, p.dst, p.reply
	if p.reply {
		usual.source = p.hardware
	}
	usual.defaults()
	if p.source == usual.source && p.destination == usual.destination {
		return ""
	}
	return fmt.Sprintf("mac %s > %s", p.source, p.destination)
}

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func parseTag(protocol uint16) func(*scanner, *packet) error {
	return func(s *scanner, p *packet) error {
		n, err := s.number(4095)
		p.tags = append(p.tags, tag{protocol, uint16(n)})
		return err
	}
}

func parseAnyTag(s *scanner, p *packet) error {
	var t tag
	if err := put(s, &t.protocol); err != nil {
		return err
	}
	err := put(s, &t.control)
	p.tags = append(p.tags, t)
	return err
}

func showTags(p *packet) string {
	var out []string
	for _, t := range p.tags {
		switch {
		case t.protocol == typeVLAN && t.control < 4096:
			out = append(out, fmt.Sprintf("vlan %d", t.control))
		case t.protocol == typeQinQ && t.control < 4096:
			out = append(out, fmt.Sprintf("qinq %d", t.control))
		default:
			out = append(out, fmt.Sprintf("tag %#04x %d", t.protocol, t.control))
		}
	}
	return strings.Join(out, " ")
}

func defaultTTL(p *packet) int {
	if p.kind == kindND {
		return 255
	}
	return 64
}

func unless(usual, value int, name string) string {
	if value == usual {
		return ""
	}
	return fmt.Sprintf("%s %d", name, value)
}

func flag(name string, on bool) string {
	if on {
		return name
	}
	return ""
}

func hexOf(name string, b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return name + " " + hex.EncodeToString(b)
}

func allZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}
