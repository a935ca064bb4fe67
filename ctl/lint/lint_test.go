package lint

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"gardu/ctl/config"
)

// router knows the ways of a small machine.
type router struct{}

func (router) Way(to netip.Addr) (string, netip.Addr, error) {
	switch {
	case netip.MustParsePrefix("198.51.100.0/24").Contains(to):
		return "eth0", netip.MustParseAddr("192.0.2.1"), nil
	case netip.MustParsePrefix("2001:db8::/32").Contains(to):
		return "eth0", netip.MustParseAddr("2001:db8::1"), nil
	case netip.MustParsePrefix("203.0.113.0/24").Contains(to):
		return "eth1", netip.MustParseAddr("192.0.2.2"), nil
	}
	return "", netip.Addr{}, errors.New("no route")
}

const (
	ssh  = "198.51.100.7 40001 192.0.2.1 22"
	ssh6 = "2001:db8::7 40001 2001:db8::1 22"
)

func TestCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, filter, ssh, resolv string
		want                      []string // the place, and part of the message, of each
	}{
		{"everything passes", "{default: pass}", ssh, "nameserver 198.51.100.53", nil},
		{"default", "{default: drop, rules: [{name: web, match: {proto: tcp, dport: 80}, action: pass}]}", ssh, "",
			[]string{"3:1: warning: the SSH", "from 198.51.100.7:40001 to port 22, would be cut off: its packets meet no rule, and filter.default drops them"}},
		{"allowed", "{default: drop, allow: 198.51.100.7}", ssh, "", nil},
		{"allowed by rule", "{default: drop, rules: [{name: ssh, match: {dst: 192.0.2.1, dport: 22}, action: pass}]}", ssh, "", nil},
		{"by a rule", "{rules: [\n {name: no, match: {proto: tcp, dport: 1-1000}, action: drop}]}", ssh, "",
			[]string{"4:2: warning: the SSH", "its packets meet the rule no, which drops them"}},
		{"after a rule that only looks", "{rules: [{name: look, match: {}}, {name: idea, match: {}, action: drop, shadow: true}]}", ssh, "", nil},
		{"another family", "{rules: [{name: no, match: {src: 198.51.100.0/24}, action: drop}]}", ssh6, "", nil},
		{"IPv6", "{rules: [{name: no, match: {src: \"2001:db8::/64\"}, action: drop}]}", ssh6, "", []string{"SSH", "the rule no"}},
		{"mapped", "{rules: [{name: no, match: {src: 198.51.100.0/24}, action: drop}]}", "::ffff:198.51.100.7 40001 ::ffff:192.0.2.1 22", "", []string{"SSH", "the rule no"}},
		{"elsewhere", "{default: drop, rules: [{name: a, match: {dport: 1}, action: pass}]}", "203.0.113.7 40001 192.0.2.2 22", "", nil},
		{"established", "{default: drop, rules: [{name: known, match: {state: established}, action: pass}]}", ssh, "nameserver 198.51.100.53",
			[]string{"3:1: warning: the SSH", "could not be made again: the packets of a new one meet no rule, and filter.default drops them"}},
		{"new ones refused", "{rules: [\n {name: known, match: {state: established}, action: pass}, {name: no, match: {proto: tcp}, action: drop}]}", ssh, "",
			[]string{"4:60: warning: the SSH", "could not be made again: the packets of a new one meet the rule no"}},
		{"answers", "{rules: [{name: no, direction: out, match: {sport: 22}, action: drop}]}", ssh, "", []string{"its packets meet the rule no, which drops them"}},
		{"no session", "{default: drop, allow: 192.0.2.9}", "", "", nil},
		{"garbage", "{default: drop, allow: 192.0.2.9}", "a b c d", "", nil},
		{"name server", "{default: drop, allow: 192.0.2.9}", "", "# dns\nnameserver 198.51.100.53\nnameserver 127.0.0.53\nnameserver 192.0.2.200\n",
			[]string{"3:1: warning: the name server, 198.51.100.53, would be cut off: questions and answers meet no rule"}},
		{"name server allowed", "{default: drop, rules: [{name: dns, match: {proto: udp, sport: 53}, action: pass}]}", "", "nameserver 198.51.100.53\nnameserver 2001:db8::53", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := "interfaces:\n  eth0: {}\nfilter: " + tc.filter + "\n"
			snapshot, _, err := config.Parse("gardu.yaml", []byte(text), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			peers := NameServers(tc.resolv, router{})
			if session, ok := Session(tc.ssh, router{}); ok {
				peers = append(peers, session)
			}
			warnings := CutOff(snapshot, peers, []byte(text))
			if (len(warnings) == 0) != (tc.want == nil) || len(warnings) > 1 {
				t.Fatalf("%v", warnings)
			}
			for _, want := range tc.want {
				if got := warnings[0].String(); !strings.Contains(got, want) {
					t.Errorf("%s\nwant %s", got, want)
				}
			}
		})
	}
}
