package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"gardu/ctl/api"
	"gardu/ctl/model"
)

// What explain says fits 80 columns, and can be copied from there: a packet that is told in lines is one all the same.
func TestExplanationFits(t *testing.T) {
	const out = "ipip 10.0.1.1 > 10.0.1.11 df mac 42:63:70:e0:5f:50 > 1a:fe:6b:c2:ab:99 carries tcp 198.51.100.10:40000 > 192.0.2.10:80 syn"
	var printed bytes.Buffer
	newApp(nil, &printed, nil).printExplanation(out, &api.Explanation{
		Verdict: "forward", Reason: "forward", Interface: "client0",
		Steps: []api.Step{{Step: "remembered", Result: "the default decided that of its flow, and still does, whatever else has changed meanwhile"}},
		Rules: []api.TriedRule{
			{Rule: "known-bad", Why: "src is 198.51.100.10; wanted is @known-bad", Pos: model.Position{File: "/etc/gardu/gardu.yaml", Line: 20, Column: 7}},
			{Rule: "all", Matched: true, Pos: model.Position{File: "/etc/gardu/gardu.yaml", Line: 21, Column: 7}},
		},
		Out: []api.OutFrame{{Interface: "b1", Text: out}},
	})
	for line := range strings.Lines(printed.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n >= proseWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if got := strings.Join(strings.Fields(printed.String()), " "); strings.Count(got, out) != 2 {
		t.Errorf("the packet isn't told whole:\n%s", printed.String())
	}
	const rules = `
  no   known-bad  src is 198.51.100.10; wanted is @known-bad
                  /etc/gardu/gardu.yaml:20:7
  yes  all  /etc/gardu/gardu.yaml:21:7
`
	if !strings.Contains(printed.String(), rules) {
		t.Errorf("rules:\n%s", printed.String())
	}
}
