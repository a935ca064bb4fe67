package explain_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/pkt"
)

const webService = `
interfaces:
  eth0: {path: auto}
filter:
  default: drop
  rules:
    - {name: web, match: {proto: tcp, dport: 443}, action: pass}
services:
  web:
    address: 192.0.2.10
    port: 443
    proto: tcp
    forward: ipip
    backends:
      - {name: b1, address: 10.0.0.11}
`

// explainOn explains a packet under webService.
func explainOn(t *testing.T, hook dataplane.Hook, text string) api.Explanation {
	t.Helper()
	snapshot, _, err := config.Parse("web.yaml", []byte(webService), ".")
	if err != nil {
		t.Fatal(err)
	}
	path := newBoxPath(t, hook, allFeatures)
	for _, key := range keysOf(snapshot) {
		if err := path.SetBackend(key, reachable(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := path.Apply(snapshot); err != nil {
		t.Fatal(err)
	}
	frame, err := pkt.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	told, err := path.Explain(explain.Question{Hook: hook, Frame: frame, Ifindex: receivedOn}, map[int]string{receivedOn: "eth0", sentBy: "eth1"})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

func TestExplainTellsTheWholeWay(t *testing.T) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			told := explainOn(t, hook, "tcp 198.51.100.7:40000 > 192.0.2.10:443 syn")
			if told.Verdict != "forward" || told.Reason != "forward" || told.Rule != "web" || told.Service != "web" || told.Backend != "b1" || told.Interface != "eth0" {
				t.Errorf("got %+v", told)
			}
			if len(told.Out) != 1 || told.Out[0].Interface != "eth1" || !strings.HasPrefix(told.Out[0].Text, "ipip 10.0.0.1 > 10.0.0.11") {
				t.Errorf("leaves as %+v", told.Out)
			}
			var way []string
			for _, step := range told.Steps {
				way = append(way, step.Step+": "+step.Result)
			}
			want := "parse: understood; flow: new; state: new; rule: rule web; service: service web; backend: backend b1; next-hop: by eth1; leave: forward by eth1"
			if got := strings.Join(way, "; "); got != want {
				t.Errorf("the way is %s\n want %s", got, want)
			}
		})
	}
}

// Parts that don't apply are left out of the JSON.
func TestExplainJSON(t *testing.T) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			told := explainOn(t, hook, "udp 198.51.100.7:40000 > 192.0.2.10:443")
			told.Help, told.Steps, told.Rules = "", nil, nil
			text, err := json.Marshal(told)
			if err != nil {
				t.Fatal(err)
			}
			if want := `{"verdict":"drop","reason":"default-drop","interface":"eth0","steps":null}`; string(text) != want {
				t.Errorf("got %s, want %s", text, want)
			}
		})
	}
}

func TestBoxRefusesWhatItWasNotLoadedFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	snapshot, _, err := config.Parse("web.yaml", []byte(webService), ".")
	if err != nil {
		t.Fatal(err)
	}
	box, err := explain.NewBox(compile.Features{Rules: true, Blocks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if err := box.Apply(snapshot); err == nil || !strings.Contains(err.Error(), "without services") {
		t.Errorf("got %v", err)
	}
}
