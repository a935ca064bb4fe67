package config

import (
	"fmt"
	"testing"

	"gardu/ctl/rule"
)

// A limit reads again as what it is printed as.
func TestLimitsAreFormatted(t *testing.T) {
	for text, want := range map[string]string{
		"{rate: 10000/s, burst: 20000, per: src/24}": "{rate: 10k/s, burst: 20k, per: src/24}",
		"{rate: 1/h, burst: 1, per: all}":            "",
		"{rate: 7/m, burst: 123, per: src}":          "",
		"{rate: 1.5MB/m, burst: 64kB, per: dst/32}":  "{rate: 1500kB/m, burst: 64kB, per: dst/32}",
		"{rate: 100Mbit/s, burst: 1MB, per: flow}":   "",
		"{rate: 12345bit/h, burst: 300B, per: dst}":  "",
		"{rate: 2000Gbit/m, per: service}":           "{rate: 2000Gbit/m, burst: 4166666666B, per: service}",
		"{rate: 5/s}":                                "{rate: 5/s, burst: 5, per: rule}",
	} {
		if want == "" {
			want = text
		}
		for _, text := range []string{text, want} {
			snapshot, _, err := Parse("c.yaml", fmt.Appendf(nil, "interfaces: {eth0: {}}\nfilter: {rules: [{name: r, match: {}, limit: %s, action: drop}]}\n", text), ".")
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			l := *snapshot.Filter.Rules[0].Limit
			if got := fmt.Sprintf("{rate: %s, burst: %s, per: %s}", rule.FormatRate(l), rule.FormatBurst(l), rule.FormatPer(l.Per)); got != want {
				t.Errorf("%s is printed as %s, not %s", text, got, want)
			}
		}
	}
}
