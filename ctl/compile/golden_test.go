package compile

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"gardu/ctl/model"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

func only(field model.Field, lo, hi uint32) model.Condition {
	return model.Condition{Field: field, Ranges: []model.Range{{Lo: lo, Hi: hi}}}
}

func from(field model.Field, prefixes ...string) model.Condition {
	return model.Condition{Field: field, Prefixes: parsePrefixes(prefixes...)}
}

func not(c model.Condition) model.Condition {
	c.Not = true
	return c
}

// firewall has a rule of each kind that is expressed differently.
func firewall() *model.Snapshot {
	drop := func(name string, match ...model.Condition) model.Rule {
		return model.Rule{Name: name, Match: match, Action: model.Drop}
	}
	var many []string
	for i := range 20 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(8 * i)}), 30).String())
	}
	return &model.Snapshot{
		Sets: []model.Set{
			{Name: "office", Prefixes: parsePrefixes("203.0.113.0/24", "2001:db8:1::/48")},
			{Name: "known-bad", Prefixes: parsePrefixes("203.0.113.128/25", "192.0.2.66/32")},
			{Name: "web-ports", Kind: model.Ports, Ports: []model.Range{{Lo: 80, Hi: 80}, {Lo: 443, Hi: 443}, {Lo: 8000, Hi: 8099}}},
			{Name: "unused", Prefixes: parsePrefixes("10.0.0.0/8")},
		},
		Filter: model.Filter{
			Default: model.Drop,
			Allow:   "office",
			Rules: []model.Rule{
				drop("known-bad", model.Condition{Field: "src", Set: "known-bad"}),
				{Name: "office-ssh", Match: []model.Condition{{Field: "src", Set: "office"}, only("proto", 6, 6), only("dport", 22, 22)}, Action: model.Pass},
				drop("both-families", not(from("src", "203.0.113.0/24", "2001:db8::/32"))),
				drop("one-family", not(from("src", "203.0.113.0/24"))),
				drop("cross", from("src", "192.0.2.0/24", "2001:db8::/32"), from("dst", "192.0.2.1/32", "2001:db8::1/128")),
				drop("web", model.Condition{Field: "dport", Set: "web-ports"}),
				drop("long-list", from("src", many...)),
				drop("less", model.Condition{Field: "src", Set: "office"}, not(model.Condition{Field: "src", Set: "known-bad"})),
				drop("ping", only("proto", 1, 1), only("icmp-type", 8, 8), not(only("length", 28, 84))),
				drop("all"),
			},
		},
	}
}

func balancer() *model.Snapshot {
	web := service("web", "192.0.2.10", 443, backend("b1", "10.0.0.11", 100), backend("b2", "10.0.0.12", 50))
	web.ARP, web.Health = true, &model.Health{TCP: true}
	dns := service("dns", "2001:db8::53", 53, backend("b1", "2001:db8:1::11", 100))
	dns.Proto, dns.Forward, dns.Affinity = model.ProtoUDP, "dsr", model.AffinitySource
	all := service("all", "192.0.2.11", 0)
	all.Port.Hi = 65535
	return &model.Snapshot{Services: []model.Service{web, dns, all}}
}

func TestGolden(t *testing.T) {
	for name, snapshot := range map[string]*model.Snapshot{"firewall": firewall(), "balancer": balancer()} {
		t.Run(name, func(t *testing.T) {
			tables, _ := compiled(t, snapshot)
			path := filepath.Join("testdata", name+".golden")
			got := tables.String()
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("tables differ from %s (go test -update rewrites it):\n%s", path, got)
			}
		})
	}
}
