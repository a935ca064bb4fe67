package pkt

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Error says where a PACKET text is wrong. Its message has three lines: what is wrong, the text, and a caret under
// the place with what is allowed there; what has no room beside the caret stands below it.
type Error struct {
	Text    string // the whole PACKET
	Column  int    // of the word that is wrong, from 1, in bytes; one past the end when something is missing
	Message string
	Allowed string // may be ""
}

func (e *Error) Error() string {
	text := fmt.Sprintf("column %d: %s\n  %s\n  %s^", e.Column, e.Message, e.Text, strings.Repeat(" ", e.Column-1))
	switch {
	case e.Allowed == "":
	case e.Column+len(e.Allowed) < lineWidth:
		text += " " + e.Allowed
	default:
		text += "\n  allowed there:"
		width := len("  allowed there:")
		for word := range strings.FieldsSeq(e.Allowed) {
			if width += 1 + len(word); width >= lineWidth {
				text += "\n   "
				width = 4 + len(word)
			}
			text += " " + word
		}
	}
	return text
}

// lineWidth is what a terminal has room for.
const lineWidth = 80

// Parse builds the Ethernet frame that a PACKET text describes, with right checksums unless it asks for others. The
// error is an *Error.
func Parse(text string) ([]byte, error) {
	s := &scanner{text: text}
	if s.peek() == "hex" {
		s.next()
		return s.hexToEnd()
	}
	p, err := s.packet(false)
	if err != nil {
		return nil, err
	}
	return p.frame(), nil
}

// scanner yields the words of a text and remembers where the last one stood.
type scanner struct {
	text string
	end  int // behind the last word
	last int // start of the last word
}

// word returns start and end of the next word; both len(text) at the end.
func (s *scanner) word() (int, int) {
	start := s.end
	for start < len(s.text) && isBlank(s.text[start]) {
		start++
	}
	end := start
	for end < len(s.text) && !isBlank(s.text[end]) {
		end++
	}
	return start, end
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func (s *scanner) peek() string {
	start, end := s.word()
	return s.text[start:end]
}

// next returns the next word, "" at the end.
func (s *scanner) next() string {
	s.last, s.end = s.word()
	return s.text[s.last:s.end]
}

// fail reports the last word.
func (s *scanner) fail(allowed, format string, args ...any) error {
	return &Error{Text: s.text, Column: s.last + 1, Message: fmt.Sprintf(format, args...), Allowed: allowed}
}

// expect takes one given word.
func (s *scanner) expect(word string) error {
	if got := s.next(); got != word {
		return s.fail(word, "%s expected, not %s", word, quote(got))
	}
	return nil
}

func quote(word string) string {
	if word == "" {
		return "the end"
	}
	return strconv.Quote(word)
}

// number takes a decimal or 0x number up to limit.
func (s *scanner) number(limit uint64) (int, error) {
	word := s.next()
	n, err := strconv.ParseUint(word, 0, 64)
	if err != nil || n > limit {
		return 0, s.fail(fmt.Sprintf("0 to %d", limit), "%s is not a number in range", quote(word))
	}
	return int(n), nil
}

func (s *scanner) address() (netip.Addr, error) {
	word := s.next()
	addr, err := netip.ParseAddr(word)
	if err != nil || addr.Zone() != "" {
		return addr, s.fail("192.0.2.1 or 2001:db8::1", "%s is not an address", quote(word))
	}
	return addr, nil
}

func (s *scanner) endpoint() (netip.Addr, uint16, error) {
	word := s.next()
	ap, err := netip.ParseAddrPort(word)
	if err != nil || ap.Addr().Zone() != "" {
		return netip.Addr{}, 0, s.fail("192.0.2.1:443 or [2001:db8::1]:443", "%s is not an address and port", quote(word))
	}
	return ap.Addr(), ap.Port(), nil
}

func (s *scanner) mac() (mac, error) {
	word := s.next()
	var m mac
	b, err := hex.DecodeString(strings.ReplaceAll(word, ":", ""))
	if err != nil || len(b) != len(m) || strings.Count(word, ":") != len(m)-1 {
		return m, s.fail("02:00:00:00:00:01", "%s is not a MAC address", quote(word))
	}
	copy(m[:], b)
	return m, nil
}

// hex takes one word of hex digits.
func (s *scanner) hex(limit int) ([]byte, error) {
	word := s.next()
	b, err := hex.DecodeString(word)
	if err != nil || len(b) == 0 || len(b) > limit {
		return nil, s.fail(fmt.Sprintf("pairs of hex digits, up to %d bytes", limit), "%s is not hex", quote(word))
	}
	return b, nil
}

// hexToEnd takes all words that are left.
func (s *scanner) hexToEnd() ([]byte, error) {
	var all []byte
	for {
		b, err := s.hex(maxFrame)
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
		if s.peek() == "" {
			return all, nil
		}
	}
}

// packet takes a head and its options; carried: inside another packet.
func (s *scanner) packet(carried bool) (*packet, error) {
	p, err := s.head()
	if err != nil {
		return nil, err
	}
	if carried && p.kind&kindsIP == 0 {
		return nil, s.fail("", "what is carried is an IP packet")
	}
	p.carried = carried
	p.defaults()
	for s.peek() != "" && s.peek() != carries {
		if err := s.option(p); err != nil {
			return nil, err
		}
	}
	if !p.reply && !p.given {
		p.hardware = p.source
	}
	if p.kind&kindsTunnel == 0 {
		if s.peek() == carries {
			s.next()
			return nil, s.fail("", "only ipip and gue carry a packet")
		}
		return p, nil
	}
	if err := s.expect(carries); err != nil {
		return nil, err
	}
	p.inner, err = s.packet(true)
	return p, err
}

const (
	carries  = "carries"
	maxFrame = 65535 + 14 + 8
)

// heads are the words that a PACKET begins with.
var heads = []struct {
	name   string
	kind   kind
	syntax string
	help   string
	parse  func(*scanner, *packet) error
}{
	{"tcp", kindTCP, "tcp ADDR:PORT > ADDR:PORT", "fin syn rst psh ack urg ece cwr set its flags", (*scanner).endpoints},
	{"udp", kindUDP, "udp ADDR:PORT > ADDR:PORT", "", (*scanner).endpoints},
	{"sctp", kindSCTP, "sctp ADDR:PORT > ADDR:PORT", "", (*scanner).endpoints},
	{"icmp", kindICMP, "icmp ADDR > ADDR TYPE", "IPv4; TYPE is a name or a number", (*scanner).icmp},
	{"icmpv6", kindICMPv6, "icmpv6 ADDR > ADDR TYPE", "IPv6", (*scanner).icmp},
	{"ip", kindIP, "ip ADDR > ADDR proto N", "any other protocol, both families", (*scanner).addresses},
	{"ipip", kindIPIP, "ipip ADDR > ADDR [OPTION...] carries PACKET", "a packet in a packet", (*scanner).addresses},
	{"gue", kindGUE, "gue ADDR:PORT > ADDR:PORT [OPTION...] carries PACKET", "a packet in UDP", (*scanner).endpoints},
	{"arp", kindARP, "arp who-has ADDR tell ADDR", "or: arp reply ADDR is-at MAC to ADDR", (*scanner).arp},
	{"nd", kindND, "nd who-has ADDR tell ADDR [to GROUP]", "or: nd reply ADDR is-at MAC to ADDR", (*scanner).nd},
	{"ether", kindEther, "ether TYPE", "any other Ethernet type", (*scanner).ether},
}

func (s *scanner) head() (*packet, error) {
	word := s.next()
	for _, h := range heads {
		if h.name == word {
			p := newPacket(h.kind)
			return p, h.parse(s, p)
		}
	}
	var names []string
	for _, h := range heads {
		names = append(names, h.name)
	}
	return nil, s.fail(strings.Join(names, ", ")+" or hex", "%s begins no packet", quote(word))
}

func (s *scanner) endpoints(p *packet) (err error) {
	if p.src, p.sport, err = s.endpoint(); err != nil {
		return err
	}
	if err = s.expect(">"); err != nil {
		return err
	}
	if p.dst, p.dport, err = s.endpoint(); err != nil {
		return err
	}
	return s.sameFamily(p)
}

func (s *scanner) addresses(p *packet) (err error) {
	if p.src, err = s.address(); err != nil {
		return err
	}
	if err = s.expect(">"); err != nil {
		return err
	}
	if p.dst, err = s.address(); err != nil {
		return err
	}
	if err = s.sameFamily(p); err != nil || p.kind != kindIP {
		return err
	}
	if err = s.expect("proto"); err != nil {
		return err
	}
	p.proto, err = s.number(255)
	return err
}

func (s *scanner) sameFamily(p *packet) error {
	if p.src.Is4() != p.dst.Is4() {
		return s.fail("", "source and destination are of different families")
	}
	return nil
}

func (s *scanner) icmp(p *packet) (err error) {
	if err = s.addresses(p); err != nil {
		return err
	}
	if p.kind == kindICMP && !p.src.Is4() {
		return s.fail("icmpv6", "icmp goes with IPv4 addresses")
	}
	if p.kind == kindICMPv6 && p.src.Is4() {
		return s.fail("icmp", "icmpv6 goes with IPv6 addresses")
	}
	for _, name := range icmpNames(p.kind) {
		if name.text == s.peek() {
			s.next()
			p.icmpType = name.number
			return nil
		}
	}
	n, err := s.number(255)
	p.icmpType = uint8(n)
	if err != nil {
		var allowed []string
		for _, name := range icmpNames(p.kind) {
			allowed = append(allowed, name.text)
		}
		return s.fail(strings.Join(allowed, ", ")+" or 0 to 255", "no such type")
	}
	return nil
}

// arp and nd share their words: who-has TARGET tell SENDER, reply SENDER is-at MAC to TARGET.
func (s *scanner) arp(p *packet) error {
	asked, other, err := s.neighbour(p)
	if err != nil {
		return err
	}
	if !asked.Is4() || !other.Is4() {
		return s.fail("192.0.2.1", "arp goes with IPv4 addresses")
	}
	p.src, p.dst = other, asked
	if p.reply {
		p.src, p.dst = asked, other
	}
	return nil
}

func (s *scanner) nd(p *packet) error {
	asked, other, err := s.neighbour(p)
	if err != nil {
		return err
	}
	if asked.Is4() || other.Is4() {
		return s.fail("2001:db8::1", "nd goes with IPv6 addresses")
	}
	p.target = asked
	p.src, p.dst = other, solicitedNode(asked)
	if p.reply {
		p.src, p.dst = asked, other
	} else if s.peek() == "to" {
		s.next()
		if p.dst, err = s.address(); err != nil {
			return err
		}
		return s.sameFamily(p)
	}
	return nil
}

func (s *scanner) neighbour(p *packet) (asked, other netip.Addr, err error) {
	switch word := s.next(); word {
	case "who-has":
		if asked, err = s.address(); err != nil {
			return asked, other, err
		}
		if err = s.expect("tell"); err != nil {
			return asked, other, err
		}
	case "reply":
		p.reply = true
		if asked, err = s.address(); err != nil {
			return asked, other, err
		}
		if err = s.expect("is-at"); err != nil {
			return asked, other, err
		}
		if p.hardware, err = s.mac(); err != nil {
			return asked, other, err
		}
		p.source = p.hardware
		if err = s.expect("to"); err != nil {
			return asked, other, err
		}
	default:
		return asked, other, s.fail("who-has or reply", "%s is neither question nor answer", quote(word))
	}
	other, err = s.address()
	return asked, other, err
}

func (s *scanner) ether(p *packet) error {
	n, err := s.number(0xffff)
	p.etherType = uint16(n)
	return err
}

type icmpName struct {
	number uint8
	text   string
}

// icmpNames are the types that have a word.
func icmpNames(k kind) []icmpName {
	if k == kindICMP {
		return []icmpName{{0, "echo-reply"}, {3, "unreachable"}, {5, "redirect"}, {8, "echo-request"}, {11, "time-exceeded"}, {12, "parameter-problem"}}
	}
	return []icmpName{
		{1, "unreachable"}, {2, "too-big"}, {3, "time-exceeded"}, {4, "parameter-problem"}, {128, "echo-request"}, {129, "echo-reply"},
		{130, "mld-query"}, {131, "mld-report"}, {132, "mld-done"}, {133, "router-solicitation"}, {134, "router-advertisement"},
		{135, "neighbour-solicitation"}, {136, "neighbour-advertisement"}, {137, "redirect"}, {143, "mldv2-report"},
	}
}
