package explain_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
)

const askedRules = `interfaces:
  eth0: {path: tc}
sets:
  bad: {entries: [203.0.113.0/24, 203.0.113.128/25]}
  web: {ports: [80, 443]}
filter:
  rules:
    - {name: bad, match: {src: "@bad"}, action: drop}
    - {name: idea, shadow: true, match: {proto: tcp}, action: drop}
    - {name: many, match: {proto: tcp, dport: "@web"}, limit: {rate: 1/s, burst: 1, per: src}, action: drop}
    - {name: sent, direction: out, match: {proto: tcp}, action: drop}
    - {name: seen, match: {interface: eth0, not-dport: 443}, count: true}
    - {name: open, match: {tcp-flags: syn, ttl: 1-64}, action: pass}
services:
  web: {address: 192.0.2.10, port: 443, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.0.11}]}
`

func asked(t *testing.T) *model.Snapshot {
	t.Helper()
	snapshot, _, err := config.Parse("asked.yaml", []byte(askedRules), ".")
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// left is what the programs would have told.
func left(steps ...abi.Step) (result dataplane.Result) {
	for i, step := range steps {
		result.Trace.Step[i] = abi.TraceStep{Step: uint16(step), Result: 1}
	}
	result.Trace.Steps = uint32(len(steps))
	return result
}

func tried(e api.Explanation) string {
	var lines []string
	for _, r := range e.Rules {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %v %s", r.Rule, r.Matched, r.Why)))
	}
	return strings.Join(lines, "\n")
}

func TestWhy(t *testing.T) {
	for _, c := range []struct{ packet, rule, want string }{
		{"tcp 203.0.113.200:40000 > 192.0.2.10:443 syn", "bad", "bad true src is in 203.0.113.128/25 of @bad"},
		{"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn", "open", `bad false src is 198.51.100.7; wanted is @bad
idea true in shadow, so it decides nothing
many true dport is 443 of @web; decides only what is over its limit
seen false dport is 443; wanted is anything but 443
open true`},
		{"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn", "many", `bad false src is 198.51.100.7; wanted is @bad
idea true in shadow, so it decides nothing
many true dport is 443 of @web`},
		{"icmp 198.51.100.7 > 192.0.2.10 echo-request", "", `bad false src is 198.51.100.7; wanted is @bad
idea false proto is icmp; wanted is tcp
many false proto is icmp; wanted is tcp
seen false the packet has no dport
open false the packet has no tcp-flags`},
		{"tcp 198.51.100.7:40000 > 192.0.2.1:22 ack ttl 65", "", `bad false src is 198.51.100.7; wanted is @bad
idea true in shadow, so it decides nothing
many false dport is 22; wanted is @web
seen true decides nothing
open false tcp-flags is ack; wanted is syn`},
	} {
		e := api.Explanation{Interface: "eth0", Rule: c.rule}
		explain.Why(&e, asked(t), mustParse(c.packet), left(abi.StepParse, abi.StepDefault), false)
		if got := tried(e); got != c.want {
			t.Errorf("%s, decided by %q:\n%s\nwant\n%s", c.packet, c.rule, got, c.want)
		}
		if e.Disagreement != "" || e.Rules[0].Pos.Line != 8 {
			t.Errorf("%s: %q, %+v", c.packet, e.Disagreement, e.Rules[0])
		}
	}
}

// TestEntriesHaveLines: of sets that are read from files, rules and allow alike.
func TestEntriesHaveLines(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"bad.netset": "# feed\n198.51.100.0/24\n203.0.113.0/24 # worse\n",
		"good.csv":   "prefix,why\n192.0.2.0/25,here\n",
		"a.yaml": `sets:
  bad: {file: bad.netset}
  good: {file: good.csv}
filter:
  allow: "@good"
  rules:
    - {name: bad, match: {src: "@bad", not-dst: "@bad"}, action: drop}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	snapshot, _, err := config.Load(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(packet, rule string, steps ...abi.Step) api.Explanation {
		e := api.Explanation{Rule: rule}
		explain.Why(&e, snapshot, mustParse(packet), left(steps...), false)
		return e
	}
	bad := "udp 203.0.113.9:4000 > 192.0.2.10:53"
	if e, want := ask(bad, "bad", abi.StepRule), "bad true src is in 203.0.113.0/24 of @bad, "+filepath.Join(dir, "bad.netset")+":3"; tried(e) != want {
		t.Errorf("%s\nwant\n%s", tried(e), want)
	}
	allowed := ask("udp 192.0.2.9:4000 > 192.0.2.10:53", "", abi.StepAllow)
	if want := (api.SetEntry{Field: "src", Set: "good", Entry: "192.0.2.0/25", File: filepath.Join(dir, "good.csv"), Line: 2}); allowed.Allow == nil || *allowed.Allow != want {
		t.Errorf("%+v", allowed.Allow)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.netset"), []byte("203.0.113.0/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if e := ask(bad, "bad", abi.StepRule); !strings.HasSuffix(tried(e), "bad.netset (which line can't be told: the file has changed since it was read)") {
		t.Error(tried(e))
	}
}

// TestDisagreementIsShouted: whatever else the programs say than the model.
func TestDisagreementIsShouted(t *testing.T) {
	for _, c := range []struct{ packet, rule string }{
		{"tcp 203.0.113.200:40000 > 192.0.2.10:443 syn", ""},     // bad decides
		{"tcp 203.0.113.200:40000 > 192.0.2.10:443 syn", "open"}, // likewise
		{"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn", "bad"},   // doesn't match
		{"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn", "gone"},
	} {
		e := api.Explanation{Interface: "eth0", Rule: c.rule}
		explain.Why(&e, asked(t), mustParse(c.packet), left(abi.StepParse, abi.StepDefault), false)
		if !strings.Contains(e.Disagreement, "please report it") {
			t.Errorf("%s, decided by %q: %+v", c.packet, c.rule, e)
		}
	}
}

// TestDeciderIsToldOf: however many rules matched before it.
func TestDeciderIsToldOf(t *testing.T) {
	var b strings.Builder
	b.WriteString("filter:\n  rules:\n")
	for i := range 30 {
		fmt.Fprintf(&b, "    - {name: r%d, match: {proto: tcp}, count: true}\n", i)
	}
	b.WriteString("    - {name: last, match: {proto: tcp}, action: drop}\n")
	snapshot, _, err := config.Parse("many.yaml", []byte(b.String()), ".")
	if err != nil {
		t.Fatal(err)
	}
	e := api.Explanation{Rule: "last"}
	explain.Why(&e, snapshot, mustParse("tcp 198.51.100.7:40000 > 192.0.2.10:400 syn"), left(abi.StepRule), false)
	if len(e.Rules) != 10 || e.OtherRules != 21 || e.Rules[9].Rule != "last" || e.Disagreement != "" {
		t.Errorf("%d others than\n%s; %s", e.OtherRules, tried(e), e.Disagreement)
	}
}

// TestNearestRules: of many rules the ones that lack least are told of, in their order, and how many the others are.
func TestNearestRules(t *testing.T) {
	var b strings.Builder
	b.WriteString("filter:\n  rules:\n")
	for i := range 500 {
		near := ""
		if i%100 == 99 {
			near = ", src: 198.51.100.0/24"
		}
		fmt.Fprintf(&b, "    - {name: r%d, match: {proto: udp, dport: %d%s}, action: drop}\n", i, i+1, strings.Replace(near, ", src", ", dst: 192.0.2.0/24, src", 1))
	}
	snapshot, _, err := config.Parse("many.yaml", []byte(b.String()), ".")
	if err != nil {
		t.Fatal(err)
	}
	e := api.Explanation{}
	explain.Why(&e, snapshot, mustParse("tcp 198.51.100.7:40000 > 192.0.2.10:400 syn"), left(abi.StepDefault), false)
	if len(e.Rules) != 10 || e.OtherRules != 490 || e.Rules[len(e.Rules)-1].Rule != "r399" && !strings.Contains(tried(e), "r399 ") {
		t.Errorf("%d others than\n%s", e.OtherRules, tried(e))
	}
}
