package pkt_test

import (
	"testing"

	"gardu/ctl/pkt"
)

func TestOpening(t *testing.T) {
	const none = ""
	for _, c := range []struct{ packet, first, answer, next, other string }{
		{
			"tcp 198.51.100.7:40000 > 192.0.2.1:443 psh ack len 100 vlan 7",
			"tcp 198.51.100.7:40000 > 192.0.2.1:443 syn vlan 7", "tcp 192.0.2.1:443 > 198.51.100.7:40000 syn ack vlan 7",
			"tcp 198.51.100.7:40000 > 192.0.2.1:443 ack vlan 7", "tcp 192.0.2.1:443 > 198.51.100.7:40000 syn vlan 7",
		},
		{
			"udp [2001:db8::1]:53 > [2001:db8::2]:4000 len 9", "udp [2001:db8::1]:53 > [2001:db8::2]:4000", "udp [2001:db8::2]:4000 > [2001:db8::1]:53",
			"udp [2001:db8::1]:53 > [2001:db8::2]:4000", "udp [2001:db8::2]:4000 > [2001:db8::1]:53",
		},
		{"icmp 192.0.2.1 > 192.0.2.2 echo-request", "icmp 192.0.2.1 > 192.0.2.2 echo-request", "icmp 192.0.2.2 > 192.0.2.1 echo-reply", "icmp 192.0.2.1 > 192.0.2.2 echo-request", none},
		{"icmp 192.0.2.1 > 192.0.2.2 echo-reply", none, none, none, "icmp 192.0.2.2 > 192.0.2.1 echo-request"},
		{"icmp 192.0.2.1 > 192.0.2.2 unreachable", none, none, none, none},
		{"arp who-has 192.0.2.1 tell 192.0.2.2", none, none, none, none},
		{"udp 192.0.2.1:1 > 192.0.2.2:2 frag later", none, none, none, none},
	} {
		frame, err := pkt.Parse(c.packet)
		if err != nil {
			t.Errorf("%s: %v", c.packet, err)
			continue
		}
		same := func(what string, got []byte, want string) {
			t.Helper()
			if want == none {
				if got != nil {
					t.Errorf("%s: %s %s", c.packet, what, pkt.Describe(got))
				}
				return
			}
			wanted, err := pkt.Parse(want)
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			ends := func(f []byte) string { return pkt.Describe(append(make([]byte, 12), f[12:]...)) } // MACs are changed as well
			if got == nil || ends(got) != ends(wanted) {
				t.Errorf("%s: %s %s, want %s", c.packet, what, pkt.Describe(got), want)
			}
		}
		first := pkt.Begin(frame, false)
		same("begins with", first, c.first)
		same("begins by the other side with", pkt.Begin(frame, true), c.other)
		if first != nil {
			same("is answered by", pkt.Answer(first), c.answer)
			same("goes on with", pkt.Next(first), c.next)
		}
	}
}
