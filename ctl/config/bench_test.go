package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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

// Many rules are read in parts, side by side: what is wrong with any is said as it is of few, in the order of the file.
func TestManyRulesAreReadInParts(t *testing.T) {
	lines := strings.SplitAfter(manyRules(3*manyItems), "\n")
	const before = 5         // lines before the first rule
	wrong := map[int]string{ // by rule
		0:               "    - {name: a, match: {dport: 70000}, action: drop}\n",
		manyItems:       "    - {name: b, match: {src: 1.2.3.4/33}, action: drop}\n",
		manyItems + 1:   "    - {name: c, match: {}, limit: {rate: 1MB/s, burst: 5}, action: drop}\n",
		3*manyItems - 1: "    - {name: d, match: {src: 192.0.2.1}, action: drop, colour: red}\n",
	}
	for i, line := range wrong {
		lines[before+i] = line
	}
	_, _, err := Parse("gardu.yaml", []byte(strings.Join(lines, "")), "/")
	errs, ok := errors.AsType[Errors](err)
	if !ok || len(errs) != len(wrong) {
		t.Fatalf("%v", err)
	}
	for i, rule := range slices.Sorted(maps.Keys(wrong)) {
		if got := errs[i].Pos.Line; got != before+rule+1 {
			t.Errorf("error %d is in line %d, want %d", i, got, before+rule+1)
		}
		_, _, alone := Parse("gardu.yaml", []byte(strings.Join(lines[:before], "")+wrong[rule]), "/")
		if few, ok := errors.AsType[Errors](alone); !ok || len(few) != 1 || few[0].Msg != errs[i].Msg || few[0].Pos.Column != errs[i].Pos.Column || few[0].Line != errs[i].Line {
			t.Errorf("%v\nbut alone %v", errs[i], alone)
		}
	}
	for i := range wrong {
		lines[before+i] = fmt.Sprintf("    - {name: right-%d, match: {src: 192.0.2.1}, action: drop}\n", i)
	}
	snapshot, _, err := Parse("gardu.yaml", []byte(strings.Join(lines, "")), "/")
	if err != nil || len(snapshot.Filter.Rules) != 3*manyItems {
		t.Fatalf("%v", err)
	}
	for i, rule := range snapshot.Filter.Rules {
		if rule.Pos.Line != before+i+1 || rule.Name != fmt.Sprintf("rule-%d", i) && rule.Name != fmt.Sprintf("right-%d", i) {
			t.Fatalf("rule %d is %+v", i, rule)
		}
	}
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
