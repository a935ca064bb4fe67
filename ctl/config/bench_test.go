package config

import (
	"fmt"
	"strings"
	"testing"
)

// manyRules is a configuration of n rules as people and their scripts write them: a line each.
func manyRules(n int) string {
	var b strings.Builder
	b.WriteString("interfaces:\n  eth0: {path: auto}\nfilter:\n  default: pass\n  rules:\n")
	for i := range n {
		field := "src"
		if i%2 == 1 {
			field = "dst"
		}
		fmt.Fprintf(&b, "    - {name: rule-%d, match: {%s: %d.%d.%d.0/24, dport: %d}, action: drop}\n",
			i, field, 1+i>>16, i>>8&255, i&255, 1+i*7919%65535)
	}
	return b.String()
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		text := []byte(manyRules(n))
		b.Run(fmt.Sprintf("%d rules", n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Parse("gardu.yaml", text, "/"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
