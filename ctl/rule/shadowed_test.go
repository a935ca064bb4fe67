package rule

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gardu/ctl/model"
)

func TestCovered(t *testing.T) {
	office := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	sets := []model.Set{
		{Name: "office", Prefixes: office},
		{Name: "web", Ports: []model.Range{{Lo: 80, Hi: 80}, {Lo: 8000, Hi: 8099}}},
		{Name: "feed", File: "feed.netset", Prefixes: office},
	}
	for _, tc := range []struct {
		rules []string
		want  []Shadow
	}{
		{[]string{"not-dport: 22", "dport: 20-30"}, nil},
		{[]string{"not-dport: [22, 80]", "dport: 1-21; proto: tcp"}, []Shadow{{1, 0}}},
		{[]string{"not-src: 10.0.0.0/8", "src: [11.0.0.0/8, 2001:db8::/32]"}, []Shadow{{1, 0}}},
		{[]string{"not-src: 10.0.0.0/8", "src: 0.0.0.0/0"}, nil},
		{[]string{"dport: 80", "not-dport: 22"}, nil},
		{[]string{"src: 10.1.2.0/20; dport: 1-100", "src: 10.1.2.3; dport: [22, 80]"}, []Shadow{{1, 0}}},
		{[]string{"src: 2001:db8::/36; dst: 2001:db8:1::/48", "src: 2001:db8::1; dst: 2001:db8:1::/64; dport: 1"}, []Shadow{{1, 0}}},
		{[]string{"src: 10.0.0.0/8", "src: 0.0.0.0/0", "src: 10.1.0.0/16"}, []Shadow{{2, 0}}},
		{[]string{"src: @a; dst: @a", "src: @a"}, nil},
		{[]string{"src: @office", "src: 203.0.113.7; dport: 22"}, []Shadow{{1, 0}}},
		{[]string{"src: 203.0.0.0/16", "src: @office"}, []Shadow{{1, 0}}},
		{[]string{"dport: @web", "dport: 8010-8020; proto: tcp"}, []Shadow{{1, 0}}},
		{[]string{"dport: @web", "dport: 8010-8120"}, nil},
		{[]string{"src: @feed", "src: 203.0.113.7"}, nil},
		{[]string{"not-src: @office", "src: 198.51.100.7"}, []Shadow{{1, 0}}},
	} {
		if got := Shadowed(rules(t, tc.rules...), sets...); !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v, want %v", tc.rules, got, tc.want)
		}
	}
}

// TestShadowedByWhatDecides has rules that match all that the second one matches and yet don't keep it from anything.
func TestShadowedByWhatDecides(t *testing.T) {
	for name, change := range map[string]func(*model.Rule){
		"no action":       func(r *model.Rule) { r.Action = "" },
		"mirror":          func(r *model.Rule) { r.Action = model.Mirror },
		"shadow":          func(r *model.Rule) { r.Shadow = true },
		"limit":           func(r *model.Rule) { r.Limit = &model.Limit{Rate: 1} },
		"other direction": func(r *model.Rule) { r.Direction = model.Out },
	} {
		pair := rules(t, "src: 10.0.0.0/8", "src: 10.1.0.0/16")
		change(&pair[0])
		if got := Shadowed(pair); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, change := range map[string]func(*model.Rule){
		"observed": func(r *model.Rule) { r.Action = "" },
		"limited":  func(r *model.Rule) { r.Limit = &model.Limit{Rate: 1} },
		"said in":  func(r *model.Rule) { r.Direction = model.In },
	} {
		pair := rules(t, "src: 10.0.0.0/8", "src: 10.1.0.0/16")
		change(&pair[1])
		if got := Shadowed(pair); !slices.Equal(got, []Shadow{{1, 0}}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestShadowedFindsWhatComparingFinds compares the search with looking at every pair.
func TestShadowedFindsWhatComparingFinds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(texts ...string) string { return texts[random.IntN(len(texts))] }
	found := 0
	for range 300 {
		var texts []string
		for range 30 {
			var parts []string
			for _, part := range []string{
				pick("", "", "src: 10.0.0.0/8", "src: 10.1.0.0/16", "src: 10.1.2.0/20", "src: 10.1.2.3", "src: [10.1.2.3, 11.0.0.0/8]", "src: 2001:db8::/32", "src: 2001:db8::1", "src: @a", "src: 0.0.0.0/0"),
				pick("", "", "not-src: 10.1.2.3", "not-src: @a", "not-src: 11.0.0.0/8"),
				pick("", "", "dst: 192.0.2.0/24", "dst: 192.0.2.1", "dst: @a", "dst: @b", "dst: 2001:db8::/48"),
				pick("", "proto: tcp", "proto: [tcp, udp]", "not-proto: icmp"),
				pick("", "", "dport: 80", "dport: [80, 443]", "dport: 1-1024", "not-dport: 22", "not-dport: 1-1024"),
				pick("", "", "", "length: 0-59", "ttl: 1"),
			} {
				if part != "" {
					parts = append(parts, part)
				}
			}
			texts = append(texts, strings.Join(parts, "; "))
		}
		all := rules(t, texts...)
		var want []Shadow
		covered := map[int]bool{}
		for i := range all {
			for j := range i {
				effort := maxEffort
				if !covered[j] && covers(&all[j], &all[i], &effort) {
					want = append(want, Shadow{i, j})
					covered[i] = true
					break
				}
			}
		}
		found += len(want)
		if got := Shadowed(all); !slices.Equal(got, want) {
			t.Fatalf("%q\n%v, want %v", texts, got, want)
		}
	}
	if found < 1000 {
		t.Errorf("only %d rules were covered", found)
	}
}

func BenchmarkShadowed(b *testing.B) {
	random := rand.New(rand.NewPCG(3, 4))
	address := func() netip.Addr {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], random.Uint32())
		return netip.AddrFrom4(a)
	}
	for name, length := range map[string]func() int{
		"few shapes":  func() int { return []int{16, 24, 32}[random.IntN(3)] },
		"many shapes": func() int { return 8 + random.IntN(25) },
		"any source":  func() int { return 0 },
	} {
		many := make([]model.Rule, 100_000)
		for i := range many {
			port := uint32(random.IntN(60000))
			many[i] = model.Rule{Action: model.Drop, Match: []model.Condition{
				{Field: "src", Prefixes: []netip.Prefix{netip.PrefixFrom(address(), length()).Masked()}},
				{Field: "dst", Prefixes: []netip.Prefix{netip.PrefixFrom(address(), length()).Masked()}},
				{Field: "dport", Ranges: []model.Range{{Lo: port, Hi: port + uint32(random.IntN(5000))}}},
			}}
		}
		b.Run(name, func(b *testing.B) {
			var found []Shadow
			for b.Loop() {
				found = Shadowed(many)
			}
			b.ReportMetric(float64(len(found)), "found")
		})
	}
}

func TestNothingLeft(t *testing.T) {
	for text, want := range map[string]string{
		"dport: 22; not-dport: [80, 1-30]":        "not-dport excludes every value that dport in line 0 allows",
		"dport: 22-90; not-dport: [1-50, 51-100]": "not-dport excludes every value that dport in line 0 allows",
		"dport: 22-90; not-dport: 1-50":           "",
		"src: 10.1.0.0/16; not-src: 10.0.0.0/8":   "not-src excludes every value that src in line 0 allows",
		"src: 10.0.0.0/8; not-src: 10.1.0.0/16":   "",
		"src: @a; not-src: @a":                    "not-src excludes every value that src in line 0 allows",
		"src: @a; not-src: @b":                    "",
		"not-proto: [0-100, 101-255]":             "not-proto excludes every value",
		"not-src: 0.0.0.0/0":                      "",
		"not-src: [0.0.0.0/0, ::/0]":              "not-src excludes every value",
		"proto: icmp; dport: 22":                  "only packets of tcp, udp, sctp have dport, and the rest of this rule excludes them",
	} {
		if _, got := NeverMatches(rules(t, text)[0]); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
