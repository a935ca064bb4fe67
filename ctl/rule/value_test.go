package rule

import (
	"strings"
	"testing"

	"gardu/ctl/model"
)

// condition parses `KEY: VALUE` or `KEY: [VALUE, VALUE]`, what FormatCondition prints.
func condition(text string) (model.Condition, error) {
	key, values, _ := strings.Cut(text, ": ")
	field, negated, ok := ParseKey(key)
	if !ok {
		panic("no field " + key)
	}
	c := model.Condition{Field: field.Name, Not: negated}
	for value := range strings.SplitSeq(strings.Trim(values, "[]"), ", ") {
		if err := field.Add(&c, value); err != nil {
			return c, err
		}
	}
	return c, nil
}

func rules(t *testing.T, texts ...string) []model.Rule {
	t.Helper()
	var all []model.Rule
	for _, text := range texts {
		r := model.Rule{Action: model.Drop}
		for part := range strings.SplitSeq(text, "; ") {
			if part == "" {
				continue
			}
			c, err := condition(part)
			if err != nil {
				t.Fatalf("%s: %v", part, err)
			}
			r.Match = append(r.Match, c)
		}
		all = append(all, r)
	}
	return all
}

func TestConditionsReadBack(t *testing.T) {
	for in, want := range map[string]string{
		"src: 198.51.100.0/24":              "",
		"src: 198.51.100.7/24":              "src: 198.51.100.0/24",
		"src: 198.51.100.7/32":              "src: 198.51.100.7",
		"dst: 2001:DB8:0::/32":              "dst: 2001:db8::/32",
		"dst: ::ffff:0.0.0.0/96":            "",
		"not-src: [0.0.0.0/0, 2001:db8::1]": "",
		"src: @office":                      "",
		"dport: @web-ports":                 "",
		"proto: tcp":                        "",
		"proto: [6, udp, 253]":              "proto: [tcp, udp, 253]",
		"proto: 0-255":                      "",
		"not-dport: [22, 8000-8099]":        "",
		"sport: 0":                          "",
		"dport: 80-80":                      "dport: 80",
		"dscp: [ef, 46, 63]":                "dscp: [ef, ef, 63]",
		"icmp-type: 8":                      "",
		"icmp-code: 255":                    "",
		"ttl: 0-5":                          "",
		"length: 0-59":                      "",
		"length: 65535":                     "",
		"tcp-flags: syn":                    "",
		"tcp-flags: syn/fin+syn+rst+ack":    "tcp-flags: syn",
		"not-tcp-flags: [ack+syn, none]":    "not-tcp-flags: [syn+ack, none]",
		"tcp-flags: syn/ack+syn":            "tcp-flags: syn/syn+ack",
		"tcp-flags: none/fin+syn":           "",
		"tcp-flags: fin+psh+urg":            "",
		"tcp-flags: ece+cwr/ece+cwr":        "",
		"fragment: first":                   "",
		"not-fragment: any":                 "",
		"fragment: [none, later]":           "",
		"src-mac: 02:00:5e:00:53:01":        "",
		"dst-mac: [02:00:5E:00:53:aB, 00:00:5e:00:00:00/24]": "dst-mac: [02:00:5e:00:53:ab, 00:00:5e:00:00:00/24]",
		"dst-mac: 02:00:00:00:00:01/48":                      "dst-mac: 02:00:00:00:00:01",
		"dst-mac: 00:00:00:00:00:00/1":                       "",
		"ethertype: [arp, 2048, 0x88CC, 0x88a, 0x9000]":      "ethertype: [arp, ipv4, lldp, 0x088a, 0x9000]",
		"not-ethertype: 0x0-0x5dc":                           "not-ethertype: 0x0-0x5dc",
		"vlan: none":                                         "",
		"vlan: [0, 10, 100-199, 4095]":                       "vlan: [none, 10, 100-199, 4095]",
		"interface: eth0":                                    "",
		"not-interface: [eth0, eth1]":                        "",
		"service: web":                                       "",
	} {
		if want == "" {
			want = in
		}
		c, err := condition(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if got := FormatCondition(c); got != want {
			t.Errorf("%s reads back as %s, want %s", in, got, want)
		}
	}
}

func TestWrongValues(t *testing.T) {
	for in, want := range map[string]string{
		"src: 1.2.3.4/33":               `an IPv4 prefix is 0 to 32 bits long, not "33"`,
		"src: 1.2.3.4/":                 `an IPv4 prefix is 0 to 32 bits long, not ""`,
		"src: 1.2.3.4/024":              `an IPv4 prefix is 0 to 32 bits long, not "024"`,
		"src: 2001:db8::/129":           `an IPv6 prefix is 0 to 128 bits long, not "129"`,
		"src: 2001:db8::/-1":            `an IPv6 prefix is 0 to 128 bits long, not "-1"`,
		"src: 1.2.3":                    `"1.2.3" is not an IP address`,
		"src: 1.2.3.04":                 `"1.2.3.04" is not an IP address`,
		"src: example.com":              `"example.com" is not an IP address`,
		"src: fe80::1%eth0":             `"fe80::1%eth0" has a zone`,
		"src: @":                        "@ without the name of a set",
		"src: [@a, 1.2.3.4]":            "1.2.3.4 after the set @a: a set stands alone; put all values into one set",
		"src: [1.2.3.4, @a]":            "@a after other values: a set stands alone; put all values into one set",
		"proto: @a":                     "proto takes no set",
		"proto: tpc":                    `"tpc" is not a number or range`,
		"proto: TCP":                    `"TCP" is not a number or range`,
		"proto: 256":                    "256 is larger than 255",
		"dport: 70000":                  "70000 is larger than 65535",
		"dport: 99999999999":            "99999999999 is larger than 65535",
		"dport: -1":                     `"-1" is not a number or range`,
		"dport: 2000-1000":              "2000-1000 runs backwards; write 1000-2000",
		"dport: 80-":                    `"80-" is not a number or range`,
		"dport: 0x50":                   `"0x50" is not a number or range`,
		"dport: 080":                    "080 has a leading zero",
		"dport: 1-2-3":                  `"1-2-3" is not a number or range`,
		"dscp: 64":                      "64 is larger than 63",
		"length: 65536":                 "65536 is larger than 65535",
		"tcp-flags: foo":                `"foo" is not a flag`,
		"tcp-flags: SYN":                `"SYN" is not a flag`,
		"tcp-flags: 2":                  `"2" is not a flag`,
		"tcp-flags: syn+":               `"" is not a flag`,
		"tcp-flags: syn/":               `"" is not a flag`,
		"tcp-flags: syn+none":           `"none" is not a flag`,
		"tcp-flags: syn/none":           "syn/none: the mask is empty",
		"tcp-flags: syn/ack":            "syn/ack: the mask lacks syn, so nothing can match",
		"tcp-flags: @a":                 "tcp-flags takes no set",
		"fragment: 1":                   `"1" is not a kind of fragment`,
		"fragment: second":              `"second" is not a kind of fragment`,
		"src-mac: 02:00:00:00:00":       `"02:00:00:00:00" is not a MAC address`,
		"src-mac: 02:00:00:00:00:0":     `"02:00:00:00:00:0" is not a MAC address`,
		"src-mac: 02:00:00:00:00:00:01": `"02:00:00:00:00:00:01" is not a MAC address`,
		"src-mac: 02:00:00:00:00:+1":    `"02:00:00:00:00:+1" is not a MAC address`,
		"src-mac: 02-00-00-00-00-01":    `"02-00-00-00-00-01" is not a MAC address`,
		"src-mac: 0200.0000.0001":       `"0200.0000.0001" is not a MAC address`,
		"src-mac: 02:00:00:00:00:01/49": `a prefix of a MAC address is 1 to 48 bits long, not "49"`,
		"src-mac: 00:00:00:00:00:00/0":  `a prefix of a MAC address is 1 to 48 bits long, not "0"`,
		"src-mac: 02:00:5e:00:53:01/24": "02:00:5e:00:53:01/24 has bits set behind its length; write 02:00:5e:00:00:00/24",
		"ethertype: 0x10000":            "0x10000 is larger than 0xffff",
		"ethertype: 0x":                 `"0x" is not a number or range`,
		"ethertype: 0-0x5dc":            `"0-0x5dc" is not a number or range`,
		"ethertype: 0x800-0x700":        "0x800-0x700 runs backwards; write 0x700-0x800",
		"vlan: 4096":                    "4096 is larger than 4095",
		"vlan: untagged":                `"untagged" is not a number or range`,
	} {
		if _, err := condition(in); err == nil {
			t.Errorf("%s is accepted", in)
		} else if err.Error() != want {
			t.Errorf("%s: %v\nwant %s", in, err, want)
		}
	}
}

func TestParseKey(t *testing.T) {
	for _, key := range []string{"", "not-", "not-not-src", "srcs", "Src"} {
		if field, _, ok := ParseKey(key); ok {
			t.Errorf("%q is the field %s", key, field.Name)
		}
	}
}

func TestFormat(t *testing.T) {
	r := rules(t, "src: @office; proto: tcp; not-dport: [22, 8000-8099]")[0]
	if got, want := Format(r), "drop {src: @office, proto: tcp, not-dport: [22, 8000-8099]}"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := Format(model.Rule{Action: model.Pass}), "pass {}"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
