package explain_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
	"gardu/ctl/rule"
)

// layer is where a field stands, and so what fragments have of it.
type layer int

const (
	link      layer = iota // every frame has it
	ip                     // every IP packet, every fragment
	ports                  // the first fragment, and later ones once the first was seen
	transport              // the first fragment alone
	fragments              // its values are about fragments
)

// fieldRow is what TestFieldMatrix knows of a field. A packet comes in on eth0, or leaves by it, unless it begins with eth1.
type fieldRow struct {
	field string
	layer layer
	match string   // values of the condition
	hit   []string // have one of them; the first IPv4 and IPv6 packet go through all variations
	miss  []string // have another value: only the negated condition holds
	lack  []string // don't have the field, often with the same bytes: neither does
}

var fieldRows = []fieldRow{
	{"src", ip, `[198.51.100.0/24, "2001:db8:7::/48", 0.0.0.0]`,
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8:7::7]:1 > [2001:db8::1]:9", "udp 198.51.100.0:1 > 192.0.2.1:9",
			"udp 198.51.100.255:1 > 192.0.2.1:9", "udp [2001:db8:7::]:1 > [2001:db8::1]:9", "udp [2001:db8:7:ffff:ffff:ffff:ffff:ffff]:1 > [2001:db8::1]:9",
			"ip 198.51.100.7 > 192.0.2.1 proto 50", "udp 0.0.0.0:1 > 192.0.2.1:9",
		},
		[]string{
			"udp 198.51.99.255:1 > 192.0.2.1:9", "udp 198.51.101.0:1 > 192.0.2.1:9", "udp [2001:db8:6:ffff::]:1 > [2001:db8::1]:9",
			"udp [2001:db8:8::]:1 > [2001:db8::1]:9", "udp [::ffff:198.51.100.7]:1 > [2001:db8::1]:9", "udp [::]:1 > [2001:db8::1]:9",
			"udp 192.0.2.1:1 > 198.51.100.7:9",
		},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"dst", ip, `[192.0.2.1, 0.0.0.0/1, "2001:db8::1", "::/1"]`,
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8:7::7]:1 > [2001:db8::1]:9", "udp 198.51.100.7:1 > 127.255.255.255:9",
			"udp [2001:db8:7::7]:1 > [7fff::1]:9", "udp [2001:db8:7::7]:1 > [::ffff:192.0.2.2]:9", "ip 198.51.100.7 > 192.0.2.1 proto 59",
		},
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.0:9", "udp 198.51.100.7:1 > 192.0.2.2:9", "udp 198.51.100.7:1 > 128.0.0.0:9",
			"udp [2001:db8:7::7]:1 > [8000::]:9", "udp 192.0.2.1:1 > 198.51.100.7:9",
		},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"proto", ip, "[udp, 50-51]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8::7]:1 > [2001:db8::1]:9", "ip 198.51.100.7 > 192.0.2.1 proto 50 len 8",
			"ip 198.51.100.7 > 192.0.2.1 proto 51 len 8",
		},
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.1:9 syn", "tcp [2001:db8::7]:1 > [2001:db8::1]:9 syn", "ip 198.51.100.7 > 192.0.2.1 proto 49",
			"ip 198.51.100.7 > 192.0.2.1 proto 52", "ip 198.51.100.7 > 192.0.2.1 proto 0",
		},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"sport", ports, "[1000-1999, 65535]",
		[]string{
			"udp 198.51.100.7:1000 > 192.0.2.1:9", "tcp [2001:db8::7]:1999 > [2001:db8::1]:9 syn", "sctp 198.51.100.7:65535 > 192.0.2.1:9",
		},
		[]string{
			"udp 198.51.100.7:999 > 192.0.2.1:1000", "tcp [2001:db8::7]:2000 > [2001:db8::1]:1000 syn", "sctp 198.51.100.7:0 > 192.0.2.1:9",
			"udp 198.51.100.7:65534 > 192.0.2.1:9",
		},
		[]string{
			"udp 198.51.100.7:1000 > 192.0.2.1:9 proto 50", "udp [2001:db8::7]:1000 > [2001:db8::1]:9 proto 136", "icmp 3.232.3.232 > 192.0.2.1 3 code 232",
			"arp who-has 192.0.2.1 tell 198.51.100.7",
		}},
	{"dport", ports, "[0, 8000-8099]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:8000", "tcp [2001:db8::7]:1 > [2001:db8::1]:8099 syn", "sctp 198.51.100.7:1 > 192.0.2.1:0",
		},
		[]string{
			"udp 198.51.100.7:8000 > 192.0.2.1:7999", "tcp [2001:db8::7]:8000 > [2001:db8::1]:8100 syn", "sctp 198.51.100.7:1 > 192.0.2.1:1",
			"udp 198.51.100.7:1 > 192.0.2.1:65535",
		},
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:8000 proto 50", "udp [2001:db8::7]:1 > [2001:db8::1]:8000 proto 59", "icmp 198.51.100.7 > 192.0.2.1 echo-request",
			"arp who-has 192.0.2.1 tell 198.51.100.7",
		}},
	{"icmp-type", transport, "[0-8, 128-129]",
		[]string{
			"icmp 198.51.100.7 > 192.0.2.1 echo-request id 1", "icmpv6 2001:db8::7 > 2001:db8::1 echo-request id 1", "icmp 198.51.100.7 > 192.0.2.1 0",
			"icmp 198.51.100.7 > 192.0.2.1 128",
		},
		[]string{"icmp 198.51.100.7 > 192.0.2.1 9", "icmpv6 2001:db8::7 > 2001:db8::1 127", "icmpv6 2001:db8::7 > 2001:db8::1 130", "icmp 198.51.100.7 > 192.0.2.1 255"},
		[]string{
			"icmp 198.51.100.7 > 192.0.2.1 echo-request proto 58", "icmpv6 2001:db8::7 > 2001:db8::1 echo-request proto 1",
			"udp 198.51.100.7:2048 > 192.0.2.1:1", "arp who-has 192.0.2.1 tell 198.51.100.7",
		}},
	{"icmp-code", transport, "[4, 13]",
		[]string{"icmp 198.51.100.7 > 192.0.2.1 3 code 4", "icmpv6 2001:db8::7 > 2001:db8::1 1 code 4", "icmp 198.51.100.7 > 192.0.2.1 3 code 13"},
		[]string{"icmp 198.51.100.7 > 192.0.2.1 3 code 3", "icmpv6 2001:db8::7 > 2001:db8::1 1 code 5", "icmp 198.51.100.7 > 192.0.2.1 4"},
		[]string{
			"icmp 198.51.100.7 > 192.0.2.1 3 code 4 proto 50", "icmpv6 2001:db8::7 > 2001:db8::1 1 code 4 proto 1",
			"udp 198.51.100.7:772 > 192.0.2.1:1",
		}},
	{"ttl", ip, "[1-5, 255]",
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 ttl 1", "udp [2001:db8::7]:1 > [2001:db8::1]:9 ttl 5", "ip 198.51.100.7 > 192.0.2.1 proto 50 ttl 255"},
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 ttl 0", "udp [2001:db8::7]:1 > [2001:db8::1]:9 ttl 6", "ip 198.51.100.7 > 192.0.2.1 proto 50 ttl 254"},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"dscp", ip, "[ef, 63]",
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 dscp 46", "udp [2001:db8::7]:1 > [2001:db8::1]:9 dscp 63 ecn 3", "udp 198.51.100.7:1 > 192.0.2.1:9 dscp 46 ecn 1"},
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 dscp 45 ecn 3", "udp [2001:db8::7]:1 > [2001:db8::1]:9 dscp 62 ecn 3", "udp 198.51.100.7:1 > 192.0.2.1:9"},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"length", ip, "28-99",
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8::7]:1 > [2001:db8::1]:9", "udp 198.51.100.7:1 > 192.0.2.1:9 len 71", "udp 198.51.100.7:1 > 192.0.2.1:9 pad 200"},
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 len 72", "udp [2001:db8::7]:1 > [2001:db8::1]:9 len 52", "ip 198.51.100.7 > 192.0.2.1 proto 50"},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"tcp-flags", transport, "[syn, none/fin+syn+rst+psh+ack+urg, fin+psh+urg]",
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.1:9 syn", "tcp [2001:db8::7]:1 > [2001:db8::1]:9 syn psh ece", "tcp 198.51.100.7:1 > 192.0.2.1:9",
			"tcp 198.51.100.7:1 > 192.0.2.1:9 fin psh urg",
		},
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.1:9 syn ack", "tcp [2001:db8::7]:1 > [2001:db8::1]:9 ack", "tcp 198.51.100.7:1 > 192.0.2.1:9 psh",
			"tcp 198.51.100.7:1 > 192.0.2.1:9 fin psh",
		},
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.1:9 syn proto 132", "tcp [2001:db8::7]:1 > [2001:db8::1]:9 syn proto 17", "udp 198.51.100.7:1 > 192.0.2.1:9 len 12",
			"arp who-has 192.0.2.1 tell 198.51.100.7",
		}},
	{"fragment", fragments, "[first, later]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 frag first", "udp [2001:db8::7]:1 > [2001:db8::1]:9 frag later", "udp 198.51.100.7:1 > 192.0.2.1:9 frag 8191",
			"udp [2001:db8::7]:1 > [2001:db8::1]:9 ext hbh frag 7+", "icmp 198.51.100.7 > 192.0.2.1 echo-request frag first",
		},
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9 df", "udp [2001:db8::7]:1 > [2001:db8::1]:9 frag 0", "udp [2001:db8::7]:1 > [2001:db8::1]:9"},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"src-mac", link, "[02:00:5e:00:53:01, 00:00:5e:00:00:00/24]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 mac 02:00:5e:00:53:01 > 02:00:00:00:00:02", "udp [2001:db8::7]:1 > [2001:db8::1]:9 mac 00:00:5e:ff:ff:ff > 02:00:00:00:00:02",
			"arp who-has 192.0.2.1 tell 198.51.100.7 mac 02:00:5e:00:53:01 > ff:ff:ff:ff:ff:ff", "ether 0x88cc len 46 mac 00:00:5e:00:00:00 > 02:00:00:00:00:02",
		},
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 mac 02:00:5e:00:53:00 > 02:00:5e:00:53:01", "udp [2001:db8::7]:1 > [2001:db8::1]:9 mac 00:00:5f:00:00:00 > 02:00:00:00:00:02",
			"arp who-has 192.0.2.1 tell 198.51.100.7 mac 00:00:5d:ff:ff:ff > ff:ff:ff:ff:ff:ff", "ether 0x88cc len 46",
		}, nil},
	{"dst-mac", link, "[02:00:5e:00:53:01, 01:00:00:00:00:00/8]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 mac 02:00:00:00:00:02 > 02:00:5e:00:53:01", "udp [2001:db8::7]:1 > [2001:db8::1]:9 mac 02:00:00:00:00:02 > 01:ff:ff:ff:ff:ff",
			"arp who-has 192.0.2.1 tell 198.51.100.7 mac 02:00:00:00:00:02 > 02:00:5e:00:53:01",
		},
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 mac 02:00:5e:00:53:01 > 02:00:5e:00:53:00", "udp [2001:db8::7]:1 > [2001:db8::1]:9 mac 01:00:00:00:00:00 > 02:00:00:00:00:02",
			"arp who-has 192.0.2.1 tell 198.51.100.7 mac 02:00:00:00:00:02 > 00:ff:ff:ff:ff:ff",
		}, nil},
	{"ethertype", link, "[ipv4, ipv6, 0-1535]",
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8::7]:1 > [2001:db8::1]:9 vlan 5", "ether 1535 len 46", "ether 0 len 46 qinq 1 vlan 2"},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7", "ether 1536 len 46", "udp 198.51.100.7:1 > 192.0.2.1:9 vlan 1 vlan 2 vlan 3"}, nil},
	{"vlan", link, "[10, 100-4095]",
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9 vlan 10", "udp [2001:db8::7]:1 > [2001:db8::1]:9 qinq 100 vlan 20", "udp 198.51.100.7:1 > 192.0.2.1:9 vlan 0 vlan 10",
			"udp 198.51.100.7:1 > 192.0.2.1:9 vlan 4095",
		},
		[]string{
			"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8::7]:1 > [2001:db8::1]:9 qinq 20 vlan 10", "udp 198.51.100.7:1 > 192.0.2.1:9 vlan 0",
			"udp 198.51.100.7:1 > 192.0.2.1:9 vlan 99",
		},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7 vlan 10"}}, // no key of the rule takes up what is not IP
	{"interface", link, "eth1",
		[]string{"eth1 udp 198.51.100.7:1 > 192.0.2.1:9", "eth1 udp [2001:db8::7]:1 > [2001:db8::1]:9"},
		[]string{"udp 198.51.100.7:1 > 192.0.2.1:9", "udp [2001:db8::7]:1 > [2001:db8::1]:9"},
		[]string{"eth1 arp who-has 192.0.2.1 tell 198.51.100.7"}},
	{"service", ports, "[web, high6]",
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.10:443 syn", "udp [2001:db8::7]:1 > [2001:db8::10]:8000", "udp [2001:db8::7]:1 > [2001:db8::10]:8099",
		},
		[]string{
			"tcp 198.51.100.7:1 > 192.0.2.10:444 syn", "udp [2001:db8::7]:1 > [2001:db8::10]:8100", "udp [2001:db8::7]:1 > [2001:db8::10]:7999",
			"udp 198.51.100.7:1 > 192.0.2.10:443", "tcp 198.51.100.7:443 > 192.0.2.11:1 syn", "icmp 198.51.100.7 > 192.0.2.10 3",
			"tcp [2001:db8::7]:1 > [::ffff:192.0.2.10]:443 syn",
		},
		[]string{"arp who-has 192.0.2.1 tell 198.51.100.7"}},
}

// elsewhere are fields with a test of their own kind.
var elsewhere = map[model.Field]string{"state": "what passed before decides: testdata/match-state.txtar, testdata/state-tcp.txtar and its neighbours"}

// TestFieldMatrix holds each field, plain and negated, against packets that have the value, another one, or none, received at each hook and
// sent: whole, as first and later fragment, behind options, extension headers and two tags, and cut off at each byte. The reference model
// and the programs must both say what the row says.
func TestFieldMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("sends packets cut off at each byte, too many for an emulated machine")
	}
	tested := map[string]bool{}
	for _, row := range fieldRows {
		tested[row.field] = true
	}
	for _, info := range rule.Fields {
		if !tested[string(info.Name)] && elsewhere[info.Name] == "" {
			t.Errorf("the field %s has no row", info.Name)
		}
	}
	t.Run("model", func(t *testing.T) { matrix{t: t, path: newModelPath()}.play() })
	t.Run("model, sent", func(t *testing.T) { matrix{t: t, path: newModelPath(), sent: true}.play() })
	box := func(name string, hook dataplane.Hook, sent bool) {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root: loads BPF programs")
			}
			matrix{t: t, path: newBoxPath(t, hook, allFeatures), sent: sent, atTC: hook != dataplane.HookXDP || sent}.play()
		})
	}
	for name, hook := range hooks {
		box(name, hook, false)
	}
	box("sent", dataplane.HookXDP, true)
}

// matrix is a row being played.
type matrix struct {
	t    *testing.T
	path path
	sent bool // the kernel sends the packets, and the rule is about such
	atTC bool // by test runs, which refuse some frames there
	row  fieldRow
	key  string
	id   int // of the packet that is fragmented next
}

func (m matrix) play() {
	for _, row := range fieldRows {
		for _, negated := range []bool{false, true} {
			m.row = row
			m.key = row.field
			if negated {
				m.key = "not-" + row.field
			}
			if m.sent && m.key == "not-ethertype" {
				continue // neither IPv4 nor IPv6: check refuses the rule
			}
			m.apply()
			for _, packet := range row.hit {
				m.expect(packet, !negated)
			}
			for _, packet := range row.miss {
				m.expect(packet, negated)
			}
			for _, packet := range row.lack {
				m.expect(packet, false)
			}
			m.vary(row.hit[0], !negated)
			m.vary(row.hit[1], !negated)
		}
	}
}

func (m *matrix) apply() {
	m.t.Helper()
	direction := "in"
	if m.sent {
		direction = "out"
	}
	text := fmt.Sprintf(`interfaces: {eth0: {path: tc}, eth1: {path: tc}}
filter:
  rules: [{name: r, direction: %s, match: {%s: %s}, action: drop}]
services:
  web: {address: 192.0.2.10, port: 443, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.0.11}]}
  high6: {address: "2001:db8::10", port: 8000-8099, proto: udp, forward: ipip, backends: [{name: b1, address: 10.0.0.11}]}
`, direction, m.key, m.row.match)
	snapshot, _, err := config.Parse("matrix.yaml", []byte(text), ".")
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.path.Apply(snapshot); err != nil {
		m.t.Fatal(err)
	}
}

// vary puts a packet through what may happen to it on its way.
func (m *matrix) vary(packet string, hits bool) {
	if !strings.Contains(packet, "vlan") && !strings.Contains(packet, "qinq") && m.row.field != "vlan" {
		m.expect(packet+" qinq 5 vlan 6", hits)
	}
	switch v6 := strings.Contains(packet, "2001:"); {
	case m.row.layer == fragments || m.row.field == "ethertype" && strings.Contains(packet, "ether"):
	case v6:
		m.expect(packet+" ext hbh ext route ext dst", hits)
		m.expect(packet+" ext ah", hits)
	default:
		m.expect(packet+" ipopt 01010101", hits)
		m.expect(packet+" df ipopt 0101010194040000", hits)
	}
	if m.row.layer != fragments {
		m.fragment(packet, hits)
	}
	_, frame := m.parse(packet)
	refused := "malformed"
	if m.sent {
		refused = "none" // what the kernel sends is dropped by rules alone
	}
	for n := 14; n < len(frame); n++ {
		cut := fmt.Sprintf("%s truncate %d", packet, n)
		if on, frame := m.parse(cut); !m.atTC || !refusedAtTC(frame) {
			if out := m.judge(on, frame); out.Reason != refused {
				m.t.Errorf("%s: %s: %s: %s", m.key, m.row.match, cut, outcomeText(out))
			}
		}
	}
	m.expect(packet, hits)
}

func (m *matrix) fragment(packet string, hits bool) {
	m.id++
	first, later := fmt.Sprintf("%s frag first ipid %d", packet, m.id), fmt.Sprintf("%s frag later ipid %d", packet, m.id)
	unseen := hits
	if m.row.layer == ports || m.row.layer == transport {
		unseen = false
	}
	m.expect(later, unseen)
	m.expect(first, hits)
	m.expect(later, hits && m.row.layer != transport)
}

func (m *matrix) parse(packet string) (on int, frame []byte) {
	m.t.Helper()
	text, other := strings.CutPrefix(packet, "eth1 ")
	if other {
		on = 1
	}
	frame, err := pkt.Parse(text)
	if err != nil {
		m.t.Fatalf("%s: %v", packet, err)
	}
	return on, frame
}

func (m *matrix) judge(on int, frame []byte) explain.Outcome {
	m.t.Helper()
	judge := m.path.Judge
	if m.sent {
		judge = m.path.JudgeSent
	}
	out, err := judge(on, frame)
	if err != nil {
		m.t.Fatalf("%s: %s: %s: %v", m.key, m.row.match, pkt.Describe(frame), err)
	}
	return out
}

func (m *matrix) expect(packet string, hits bool) {
	m.t.Helper()
	on, frame := m.parse(packet)
	if at, _ := ipAt(frame); m.sent && at == 0 {
		hits = false // what isn't IP is judged where it is received
	}
	out := m.judge(on, frame)
	if got := out.Rule == "r"; got != hits || out.Reason == "malformed" {
		m.t.Errorf("%s: %s: %s: the rule must match: %t\n%s", m.key, m.row.match, packet, hits, outcomeText(out))
	}
}
