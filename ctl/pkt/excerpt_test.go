package pkt_test

import (
	"slices"
	"strings"
	"testing"

	"gardu/ctl/pkt"
)

func parsed(t *testing.T, text string) []byte {
	t.Helper()
	frame, err := pkt.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// What a snap length cut off is not made up: neither as zeros nor as something else.
func TestTextOfWhatWasCut(t *testing.T) {
	const (
		tcp4  = "tcp 198.51.100.7:40000 > 192.0.2.10:443 psh ack seq 7 win 512 tcpopt 0101080a0000000100000002 ttl 63 data 0102030405"
		tcp6  = "tcp [2001:db8::7]:40000 > [2001:db8::10]:443 syn seq 9"
		gue   = "gue 10.0.0.1:50000 > 10.0.0.11:6080 carries udp 198.51.100.7:1 > 192.0.2.10:53 len 900"
		later = "ip 198.51.100.7 > 192.0.2.10 proto 17 frag later len 100"
	)
	for _, tc := range []struct {
		packet string
		snap   int
		want   string
	}{
		{tcp4, 70, "tcp 198.51.100.7:40000 > 192.0.2.10:443 psh ack seq 7 win 512 tcpopt 0101080a0000000100000002 ttl 63 len 5 (70 of 71 bytes)"},
		{tcp4, 64, "tcp 198.51.100.7:40000 > 192.0.2.10:443 psh ack seq 7 win 512 ttl 63 len 5 ... (64 of 71 bytes)"},
		{tcp4, 53, "tcp 198.51.100.7:40000 > 192.0.2.10:443 ttl 63 ... (53 of 71 bytes)"},
		{tcp4, 38, "tcp 198.51.100.7:40000 > 192.0.2.10:443 ttl 63 ... (38 of 71 bytes)"},
		{tcp4, 37, "ip 198.51.100.7 > 192.0.2.10 proto 6 ttl 63 len 37 (37 of 71 bytes)"},
		{tcp4, 33, "ether 0x0800 len 57 (33 of 71 bytes)"},
		{tcp4, 13, "hex 02000000000202000000000108 (13 of 71 bytes)"},
		{tcp6, 64, "tcp [2001:db8::7]:40000 > [2001:db8::10]:443 ... (64 of 74 bytes)"},
		{"tcp [2001:db8::7]:40000 > [2001:db8::10]:443 syn ext hbh ext dst", 60, "ip 2001:db8::7 > 2001:db8::10 proto 0 len 36 (60 of 90 bytes)"},
		{"tcp [2001:db8::7]:40000 > [2001:db8::10]:443 syn ext hbh ext dst", 71, "ip 2001:db8::7 > 2001:db8::10 proto 6 ext hbh ext dst len 20 (71 of 90 bytes)"},
		{"udp 198.51.100.7:1 > 192.0.2.10:53 len 900 vlan 12", 50, "udp 198.51.100.7:1 > 192.0.2.10:53 len 900 vlan 12 (50 of 946 bytes)"},
		{"udp 198.51.100.7:1 > 192.0.2.10:53 len 900 vlan 12", 17, "ether 0x8100 len 932 (17 of 946 bytes)"},
		{"udp 198.51.100.7:1 > 192.0.2.10:53 ipopt 01010101 len 9", 36, "ip 198.51.100.7 > 192.0.2.10 proto 17 len 17 ... (36 of 55 bytes)"},
		{gue, 84, gue + " (84 of 970 bytes)"},
		{gue, 69, "gue 10.0.0.1:50000 > 10.0.0.11:6080 carries udp 198.51.100.7:1 > 192.0.2.10:53 ... (69 of 970 bytes)"},
		{gue, 60, "udp 10.0.0.1:50000 > 10.0.0.11:6080 len 928 (60 of 970 bytes)"},
		{later, 40, later[:strings.Index(later, "frag")] + "frag later len 100 (40 of 134 bytes)"},
		{"arp who-has 192.0.2.1 tell 192.0.2.2 pad 18", 50, "arp who-has 192.0.2.1 tell 192.0.2.2 pad 18 (50 of 60 bytes)"},
		{"arp who-has 192.0.2.1 tell 192.0.2.2 pad 18", 41, "ether 0x0806 len 46 mac 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff (41 of 60 bytes)"},
		{"icmp 198.51.100.7 > 192.0.2.10 echo-request id 3 len 100", 42, "icmp 198.51.100.7 > 192.0.2.10 echo-request id 3 len 100 (42 of 142 bytes)"},
		{"icmp 198.51.100.7 > 192.0.2.10 echo-request id 3 len 100", 41, "ip 198.51.100.7 > 192.0.2.10 proto 1 len 108 (41 of 142 bytes)"},
		{"nd who-has 2001:db8::1 tell 2001:db8::2", 80, "icmpv6 2001:db8::2 > ff02::1:ff00:1 neighbour-solicitation ttl 255 len 24 (80 of 86 bytes)"},
	} {
		frame := parsed(t, tc.packet)
		if got := (pkt.Captured{Frame: frame[:tc.snap], Length: len(frame)}).Text(); got != tc.want {
			t.Errorf("%d bytes of %s:\n%s, want\n%s", tc.snap, tc.packet, got, tc.want)
		}
	}
}

// However short it is, what is told of the same kind of packet is what is told of the whole.
func TestTextOfEachLength(t *testing.T) {
	for _, text := range texts {
		frame := parsed(t, text)
		whole := strings.Fields(pkt.Describe(frame))
		for n := range frame {
			c := pkt.Captured{Frame: frame[:n], Length: len(frame)}
			words := strings.Fields(strings.TrimSuffix(pkt.Excerpt(c.Frame, c.Length), " ..."))
			if len(words) == 0 || words[0] != whole[0] {
				continue // it is told as what is below
			}
			for i, word := range words {
				if word == "ip" { // carried
					break
				}
				if word != "len" && (i == 0 || words[i-1] != "len") && !slices.Contains(whole, word) {
					t.Errorf("%d bytes of %s read %v: %s", n, text, words, word)
				}
			}
		}
	}
}
