package rule

import (
	"fmt"
	"slices"
	"testing"

	"gardu/ctl/model"
)

func TestContradiction(t *testing.T) {
	const ports = "only packets of tcp, udp, sctp have dport, and the rest of this rule excludes them"
	for text, want := range map[string]string{
		"":                                                  "",
		"proto: tcp; dport: 22":                             "",
		"proto: [icmp, tcp]; dport: 22":                     "",
		"not-proto: tcp; dport: 22":                         "",
		"proto: icmp; dport: 22":                            ports,
		"dport: 22; proto: icmp":                            ports,
		"not-proto: [tcp, udp, sctp]; dport: 22":            ports,
		"proto: icmp; not-dport: 22":                        ports,
		"proto: tcp; not-proto: tcp; dport: 22":             ports,
		"proto: tcp; icmp-type: 8":                          "only packets of icmp, icmpv6 have icmp-type, and the rest of this rule excludes them",
		"src: 2001:db8::/32; proto: icmp; icmp-type: 8":     "only packets of icmp, icmpv6 have icmp-type, and the rest of this rule excludes them",
		"src: 2001:db8::/32; icmp-type: 128":                "",
		"src: 192.0.2.1; dst: 198.51.100.0/24":              "",
		"src: 192.0.2.1; dst: 2001:db8::/32":                "src is IPv4 and dst is IPv6: no packet is both",
		"dst: 2001:db8::/32; src: 192.0.2.1":                "dst is IPv6 and src is IPv4: no packet is both",
		"src: [192.0.2.1, 2001:db8::1]; dst: 2001:db8::/32": "",
		"src: 192.0.2.1; not-dst: 2001:db8::/32":            "",
		"src: @a; dst: 2001:db8::/32":                       "",
		"proto: udp; tcp-flags: syn":                        "only packets of tcp have tcp-flags, and the rest of this rule excludes them",
		"ethertype: arp; src-mac: 02:00:00:00:00:01":        "",
		"ethertype: arp; vlan: 10; interface: eth0":         "",
		"ethertype: arp; src: 192.0.2.1":                    "only packets of IPv4 and IPv6 have src, and ethertype excludes them",
		"ethertype: arp; fragment: none":                    "only packets of IPv4 and IPv6 have fragment, and ethertype excludes them",
		"not-ethertype: [ipv4, ipv6]; proto: tcp":           "only packets of IPv4 and IPv6 have proto, and ethertype excludes them",
		"not-ethertype: ipv4; src: 192.0.2.1":               "src is IPv4, and ethertype excludes that",
		"ethertype: ipv6; src: 192.0.2.1":                   "src is IPv4, and ethertype excludes that",
		"ethertype: [ipv6, arp]; dst: 2001:db8::1":          "",
	} {
		if _, got := Contradiction(rules(t, text)[0]); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestShadowed(t *testing.T) {
	for _, tc := range []struct {
		rules []string
		want  []Shadow
	}{
		{[]string{"proto: tcp; dport: 22", "dport: 22; proto: tcp"}, []Shadow{{1, 0}}},
		{[]string{"src: 10.0.0.0/8", "src: 10.1.0.0/16; proto: tcp"}, []Shadow{{1, 0}}},
		{[]string{"src: 10.1.0.0/16", "src: 10.0.0.0/8"}, nil},
		{[]string{"src: 10.0.0.0/8", "src: [10.1.0.0/16, 11.0.0.0/8]"}, nil},
		{[]string{"src: [10.0.0.0/8, 11.0.0.0/8]", "src: [10.1.0.0/16, 11.0.0.0/8]"}, []Shadow{{1, 0}}},
		{[]string{"dport: 1-1000", "dport: [22, 80-90]", "dport: 900-1001"}, []Shadow{{1, 0}}},
		{[]string{"not-dport: 22", "not-dport: [22, 80]"}, []Shadow{{1, 0}}},
		{[]string{"not-dport: [22, 80]", "not-dport: 22"}, nil},
		{[]string{"not-dport: 22", "dport: 80"}, []Shadow{{1, 0}}},
		{[]string{"src: @a", "src: @a; dst: @b", "src: @b"}, []Shadow{{1, 0}}},
		{[]string{"tcp-flags: syn/syn", "tcp-flags: syn", "tcp-flags: ack", "tcp-flags: [syn+ack, syn+fin]"}, []Shadow{{1, 0}, {3, 0}}},
		{[]string{"tcp-flags: syn", "tcp-flags: syn/syn"}, nil},
		{[]string{"src-mac: 02:00:5e:00:00:00/24", "src-mac: 02:00:5e:00:53:01", "dst-mac: 02:00:5e:00:53:01"}, []Shadow{{1, 0}}},
		{[]string{"interface: [a, b]", "interface: b", "interface: c", "not-interface: a"}, []Shadow{{1, 0}}},
		{[]string{"fragment: any", "fragment: first", "fragment: none"}, []Shadow{{1, 0}}},
		{[]string{"", "proto: tcp", ""}, []Shadow{{1, 0}, {2, 0}}},
		{[]string{"proto: tcp", ""}, nil},
		{[]string{"src: 0.0.0.0/0", "src: 2001:db8::/32"}, nil},
	} {
		if got := Shadowed(rules(t, tc.rules...)); !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v, want %v", tc.rules, got, tc.want)
		}
	}
}

// TestShadowedIsBounded has more pairs than anyone would wait for, and a repetition at the very end.
func TestShadowedIsBounded(t *testing.T) {
	many := make([]model.Rule, 100_000)
	for i := range many {
		c, err := condition(fmt.Sprintf("src: 10.%d.%d.%d", i>>16, i>>8&255, i&255))
		if err != nil {
			t.Fatal(err)
		}
		many[i] = model.Rule{Match: []model.Condition{c}, Action: model.Drop}
	}
	many[len(many)-1] = many[7]
	if got := Shadowed(many); !slices.Equal(got, []Shadow{{len(many) - 1, 7}}) {
		t.Errorf("%v", got)
	}
}
