package config

import (
	"errors"
	"strings"
	"testing"
)

// TestBadValues writes one wrong value into a rule: one error says what is wrong and, unless that says it, what is allowed.
func TestBadValues(t *testing.T) {
	const (
		address = "an address or prefix such as 198.51.100.0/24 or 2001:db8::/32"
		port    = "0 to 65535, a range LOW-HIGH, @NAME for a set of ports"
		octet   = "0 to 255, a range LOW-HIGH"
	)
	for _, tc := range []struct{ rule, msg, allowed string }{
		{"match: {src: 1.2.3.4/33}, action: drop", `an IPv4 prefix is 0 to 32 bits long, not "33"`, address},
		{"match: {dst: \"2001:db8::/129\"}, action: drop", `an IPv6 prefix is 0 to 128 bits long, not "129"`, address},
		{"match: {src: 1.2.3}, action: drop", `"1.2.3" is not an IP address`, address},
		{"match: {src: 1.2.3.4-1.2.3.9}, action: drop", "is not an IP address", address},
		{"match: {src: example.com}, action: drop", `"example.com" is not an IP address`, address},
		{"match: {src: \"@nobody\"}, action: drop", `there is no set "nobody"`, "a set of addresses under sets"},
		{"match: {src: []}, action: drop", "the list is empty", address},
		{"match: {src: }, action: drop", `"src" has no value`, address},
		{"match: {src: {a: b}}, action: drop", "a mapping stands where a single value belongs", address},
		{"match: {dport: 70000}, action: drop", "70000 is larger than 65535", port},
		{"match: {dport: 2000-1000}, action: drop", "2000-1000 runs backwards; write 1000-2000", port},
		{"match: {dport: http}, action: drop", `"http" is not a number or range`, port},
		{"match: {dport: \"@nobody\"}, action: drop", `there is no set "nobody"`, "a set of ports under sets"},
		{"match: {sport: -1}, action: drop", `"-1" is not a number or range`, port},
		{"match: {sport: 22 80}, action: drop", `"22 80" is not a number or range`, port},
		{"match: {proto: tpc}, action: drop", `"tpc" is not a number or range; did you mean tcp?`, "icmp igmp ipip tcp udp"},
		{"match: {proto: 256}, action: drop", "256 is larger than 255", "0 to 255"},
		{"match: {proto: \"@a\"}, action: drop", "proto takes no set", "0 to 255"},
		{"match: {icmp-type: echo}, action: drop", `"echo" is not a number or range`, octet},
		{"match: {proto: tcp, icmp-type: 8}, action: drop", "only packets of icmp, icmpv6 have icmp-type, and the rest of this rule excludes them", ""},
		{"match: {proto: tcp, icmp-code: 0}, action: drop", "only packets of icmp, icmpv6 have icmp-code", ""},
		{"match: {proto: icmp, dport: 22}, action: drop", "only packets of tcp, udp, sctp have dport", ""},
		{"match: {src: 1.2.3.4, dst: \"2001:db8::1\"}, action: drop", "src is IPv4 and dst is IPv6: no packet is both", ""},
		{"match: {dport: 22, not-dport: 1-1000}, action: drop", "not-dport excludes every value that dport in line 3 allows", ""},
		{"match: {ttl: 256}, action: drop", "256 is larger than 255", octet},
		{"match: {dscp: ef1}, action: drop", `"ef1" is not a number or range`, "cs0 le cs1"},
		{"match: {length: 65536}, action: drop", "65536 is larger than 65535", "0 to 65535"},
		{"match: {state: open}, action: drop", `"open"`, "established"},
		{"match: {dprot: 22}, action: drop", `unknown field "dprot" in match; did you mean`, "src, dst, proto"},
		{"match: tcp, action: drop", "a single value stands where a mapping belongs", "{} for every packet, or the keys src"},
		{"match: {}, action: block", `unknown value "block" for action`, "pass, drop"},
		{"match: {}, action: redirect", "redirect needs to know where to", "{redirect: INTERFACE}"},
		{"match: {}, action: {redirect: a/b}", `"a/b" is not the name of an interface`, "1 to 15 characters"},
		{"match: {}, action: {redirect: }", `"redirect" has no value`, "1 to 15 characters"},
		{"match: {}, action: {reject: nope}", `unknown value "nope" for reject`, "tcp-reset, port-unreachable"},
		{"match: {proto: udp}, action: {reject: tcp-reset}", "only TCP has a reset", "proto: tcp in match"},
		{"match: {}, action: {drop: x}", `unknown key "drop" in action`, "reject, redirect, mirror"},
		{"match: {}, action: [drop]", "a list stands where a single value belongs", "pass, drop, reject"},
		{"match: {}, action: {reject: tcp-reset, redirect: eth0}", "an action is one thing, not 2", "pass, drop, reject"},
		{"match: {}, action: reject, direction: out", "the rule a judges what is sent, where gardu can't reject", "pass, drop"},
		{"match: {}, action: drop, limit: {rate: 10}", `"10" is not a rate`, "10000/s"},
		{"match: {}, action: drop, limit: {rate: 10/d}", `"10/d" is not a rate`, "and s, m or h"},
		{"match: {}, action: drop, limit: {rate: 10/s, burst: 1kB}", "the rate is in packets and the burst is in bytes", "a number of packets"},
		{"match: {}, action: drop, limit: {rate: 10/s, per: src/33}", `"33" is not a number of bits`, "from 1 to 32"},
		{"match: {}, action: drop, limit: {burst: 10}", "a limit needs the key rate", "packets or bytes"},
		{"match: {}, action: drop, limit: 10/s", "a single value stands where a mapping belongs", "the keys rate, burst, per"},
		{"match: {}, log: 100", `"100" is not one packet of so many`, "1/N"},
		{"match: {}, sample: 1/0", `"1/0" is not one packet of so many`, "1/N"},
		{"match: {ethertype: arp}, action: drop, direction: out", "of what is sent only IPv4 and IPv6 are judged, and ethertype excludes both", ""},
		{"match: {}, action: drop, direction: both", `unknown value "both" for direction`, "in, out"},
		{"match: {}, action: drop, shadow: 1", `"1" is neither true nor false`, "true or false"},
		{"match: {}, action: drop, count: often", `"often" is neither true nor false`, "true or false"},
		{"match: {}, action: drop, actoin: pass", `unknown key "actoin" in a rule; did you mean action?`, "name, match, action"},
		{"action: drop", "a rule needs the key match", "what it matches"},
	} {
		text := "filter:\n  rules:\n    - {name: a, " + tc.rule + "}\n"
		_, _, err := Parse("gardu.yaml", []byte(text), t.TempDir())
		wrong, ok := errors.AsType[Errors](err)
		if !ok || len(wrong) != 1 {
			t.Errorf("%s: not one error but %v", tc.rule, err)
			continue
		}
		if one := wrong[0]; !strings.Contains(one.Msg, tc.msg) || !strings.Contains(one.Allowed, tc.allowed) || one.Pos.Line != 3 || one.Pos.Column < 7 || one.Line == "" {
			t.Errorf("%s:\n%v\nwant %s\nallowed %s", tc.rule, one, tc.msg, tc.allowed)
		}
	}
}

// TestBadListen makes sure that nothing is served to other machines without TLS.
func TestBadListen(t *testing.T) {
	for word, msg := range map[string]string{
		"0.0.0.0:9180":            "0.0.0.0:9180 can be reached from other machines, and what they send and get must be encrypted",
		"'[::]:9180'":             "[::]:9180 can be reached from other machines",
		"192.0.2.1:9180":          "192.0.2.1:9180 can be reached from other machines",
		"224.0.0.1:9180":          "224.0.0.1:9180 is not an address of a machine",
		"'[::ffff:127.0.0.1]:80'": "[::ffff:127.0.0.1]:80 is an IPv4 address in IPv6 form",
		"'[::1%lo]:9180'":         `"[::1%lo]:9180" has a zone`,
		"127.0.0.1:0":             "0 is not the port of a listener",
		"localhost:9180":          `"localhost:9180" is not an address and a port`,
		"127.0.0.1":               `"127.0.0.1" is not an address and a port`,
		"9180":                    `"9180" is not an address and a port`,
		"127.0.0.1:65536":         `"127.0.0.1:65536" is not an address and a port`,
		"[127.0.0.1:9180]":        "a list stands where a single value belongs",
	} {
		_, _, err := Parse("gardu.yaml", []byte("interfaces: {eth0: }\napi:\n  listen: "+word+"\n"), t.TempDir())
		wrong, ok := errors.AsType[Errors](err)
		if !ok || len(wrong) != 1 || !strings.Contains(wrong[0].Msg, msg) || !strings.Contains(wrong[0].Allowed, "127.0.0.1:9180") || wrong[0].Pos.Line != 3 {
			t.Errorf("%s: %v", word, err)
		}
	}
}

// TestBadAPI writes one wrong thing into the API's TLS: one error says where and what.
func TestBadAPI(t *testing.T) {
	for _, c := range []struct{ api, msg, allowed string }{
		{"{listen: 127.0.0.1:9180, tls: {cert: a}}", "tls needs the key key", ""},
		{"{listen: 127.0.0.1:9180, tls: {key: a}}", "tls needs the key cert", ""},
		{"{listen: 127.0.0.1:9180, tls: }", `"tls" has no value`, "the keys cert, key"},
		{"{listen: 127.0.0.1:9180, tls: a}", "a single value stands where a mapping belongs", "the keys cert, key"},
		{"{listen: 127.0.0.1:9180, tls: {cert: a, key: b, ca: c}}", `unknown key "ca" in tls`, "cert, key"},
		{"{listen: 127.0.0.1:9180, tls: {cert: [a], key: b}}", "a list stands where a single value belongs", "the path of a file"},
		{"{tls: {cert: a, key: b}}", "tls is for what is served by TCP, and nothing is", "listen: ADDRESS:PORT"},
		{"{listen: 127.0.0.1:9180, anonymous: all}", `unknown value "all" for anonymous`, "read, none"},
		{"{listen: 192.0.2.1:9180, anonymous: none}", "192.0.2.1:9180 can be reached from other machines", "tls: {cert: FILE, key: FILE}"},
	} {
		_, _, err := Parse("gardu.yaml", []byte("interfaces: {eth0: }\napi: "+c.api+"\n"), t.TempDir())
		wrong, ok := errors.AsType[Errors](err)
		if !ok || len(wrong) != 1 || !strings.Contains(wrong[0].Msg, c.msg) || !strings.Contains(wrong[0].Allowed, c.allowed) || wrong[0].Pos.Line != 2 || wrong[0].Pos.Column < 6 {
			t.Errorf("%s: %v", c.api, err)
		}
	}
	for api, want := range map[string]int{"{listen: 192.0.2.1:9180, tls: {cert: a, key: b}}": 1, "{listen: 192.0.2.1:9180, tls: {cert: a, key: b}, anonymous: none}": 0} {
		if _, warnings, err := Parse("gardu.yaml", []byte("interfaces: {eth0: }\napi: "+api+"\n"), t.TempDir()); err != nil || len(warnings) != want {
			t.Errorf("%s: %v, %v", api, warnings, err)
		}
	}
}
