package lint

import (
	"strings"
	"testing"

	"gardu/ctl/config"
)

func TestUntagged(t *testing.T) {
	for interfaces, want := range map[string]string{
		"{eth0: {path: xdp}}":           "1:14: warning: rule v matches on vlan, but eth0 takes tags off",
		"{eth0: {path: xdp-generic}}":   "rule v matches on vlan, but eth0 takes tags off",
		"{eth0: {path: auto}}":          "",
		"{eth0: {path: tc}}":            "",
		"{eth1: {path: xdp}}":           "", // leaves tags where they are
		"{eth0: {path: xdp}, eth1: {}}": "eth0 takes tags off",
	} {
		for _, rule := range []string{"{name: v, match: {not-vlan: none}, action: drop}", "{name: n, match: {src: 192.0.2.1}, action: drop}"} {
			want := want
			if strings.Contains(rule, "name: n") {
				want = ""
			}
			text := []byte("interfaces: " + interfaces + "\nfilter: {rules: [" + rule + "]}\n")
			snapshot, _, err := config.Parse("gardu.yaml", text, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var got string
			for _, w := range Untagged(snapshot, func(name string) bool { return name == "eth0" }, text) {
				got += w.String()
			}
			if (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q", text, got, want)
			}
		}
	}
}
