package explain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/pkt"
)

const askRules = `
interfaces:
  eth0: {path: auto}
filter:
  default: drop
  rules:
    - {name: telnet, direction: out, match: {proto: tcp, dport: 23}, action: drop}
    - {name: known, match: {state: established}, action: pass}
    - {name: some, match: {proto: udp}, limit: {rate: 1/h, burst: 1, per: src}, action: drop}
    - {name: dns, match: {proto: udp, dport: 53}, action: pass}
    - {name: web, match: {dst: [192.0.2.10, 192.0.2.11]}, action: pass}
services:
  web:
    address: 192.0.2.10
    port: 443
    proto: tcp
    forward: ipip
    backends: [{name: b1, address: 10.0.0.11}, {name: b2, address: 10.0.0.12}]
  other:
    address: 192.0.2.11
    port: 443
    proto: tcp
    forward: nat
    backends: [{name: b3, address: 10.0.0.13}]
`

// What a question takes for true besides: a flow, its backend, a time, and that the kernel sends the packet.
func TestAsk(t *testing.T) {
	snapshot, _, err := config.Parse("ask.yaml", []byte(askRules), ".")
	if err != nil {
		t.Fatal(err)
	}
	const (
		answer = "tcp 203.0.113.5:443 > 192.0.2.1:50000 ack"
		web    = "tcp 198.51.100.7:40000 > 192.0.2.10:443 ack"
		nat    = "tcp 198.51.100.7:40000 > 192.0.2.11:443 ack"
	)
	flow := explain.Question{WithFlow: true}
	old := explain.Question{WithFlow: true, Later: 3 * time.Hour}
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			box := newBox(t, allFeatures)
			defer box.Close()
			for _, key := range keysOf(snapshot) {
				if err := box.SetBackend(key, reachable(key)); err != nil {
					t.Fatal(err)
				}
			}
			if err := box.SetInterface(receivedOn, "eth0", ourMAC); err != nil {
				t.Fatal(err)
			}
			if err := box.Apply(snapshot); err != nil {
				t.Fatal(err)
			}
			ask := func(text string, q explain.Question) (string, error) {
				t.Helper()
				frame, err := pkt.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				if q.Hook = hook; q.Ifindex == 1 {
					q.Hook = dataplane.HookEgress
				}
				q.Frame, q.Ifindex = frame, receivedOn
				told, err := box.Explain(q, nil)
				return strings.TrimSpace(told.Verdict + " " + told.Reason + " " + told.Rule + told.Backend), err
			}
			sent := explain.Question{Ifindex: 1}
			for _, c := range []struct {
				packet string
				q      explain.Question
				want   string
			}{
				{answer, explain.Question{}, "drop default-drop"},
				{answer, flow, "pass rule-pass known"}, // the box itself began it
				{answer, old, "drop default-drop"},
				{"tcp 192.0.2.1:40001 > 203.0.113.5:23 syn", sent, "drop out-drop telnet"},
				{"tcp 192.0.2.1:40001 > 203.0.113.5:25 syn", sent, "pass out-pass"},
				{"udp 198.51.100.9:4000 > 192.0.2.1:53", flow, "pass rule-pass known"},
				{"udp 198.51.100.9:4001 > 192.0.2.1:53", explain.Question{}, "pass rule-pass dns"}, // the flow took no token
				{"icmp 192.0.2.9 > 192.0.2.1 echo-reply", flow, "pass rule-pass known"},
				{web, explain.Question{WithFlow: true, Backend: "b1"}, "forward forward knownb1"},
				{web, explain.Question{WithFlow: true, Backend: "b2"}, "forward forward knownb2"},
				{nat, flow, "forward forward knownb3"},
			} {
				if got, err := ask(c.packet, c.q); err != nil || got != c.want {
					t.Errorf("%s, %+v: %s, %v; want %s", c.packet, c.q, got, err, c.want)
				}
			}
			for _, c := range []struct {
				packet string
				q      explain.Question
				want   string
			}{
				{web, explain.Question{WithFlow: true, Backend: "b9"}, "no backend b9, but b1, b2"},
				{nat, explain.Question{WithFlow: true, Backend: "b3"}, "can't be chosen"},
				{answer, explain.Question{WithFlow: true, Backend: "b1"}, "drop, default-drop"},
				{"tcp 192.0.2.1:23 > 203.0.113.5:23 ack", flow, "would not get through: drop, default-drop"},
				{"arp who-has 192.0.2.1 tell 192.0.2.2", flow, "belongs to none"},
			} {
				if got, err := ask(c.packet, c.q); !errors.Is(err, explain.ErrNoFlow) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s, %+v: %s, %v; want %s", c.packet, c.q, got, err, c.want)
				}
			}
		})
	}
}
