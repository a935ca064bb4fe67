package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
)

// planWorld is a service on two backends, with a third at hand.
func planWorld(extra string) string {
	return `
interfaces: {client0: {path: tc}, b1: {path: tc}, b2: {path: tc}, b3: {path: tc}}
flows: {max: 10000}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}` + extra
}

const (
	twoOfThem   = "]\n"
	threeOfThem = ", {name: b3, address: 10.0.3.11}]\n"
	closing     = "filter: {rules: [{name: no-web, match: {proto: tcp, dport: 80}, action: drop}, {name: no-ssh, match: {proto: tcp, dport: 2222}, action: {reject: tcp-reset}}]}\n"
)

// plan runs the command on a configuration.
func (w *world) plan(ssh, config string, args ...string) (r ended, p api.Plan) {
	w.Helper()
	path := w.path("next.yaml")
	w.must(os.WriteFile(path, []byte(config+w.apiConfig()), 0o644))
	r = w.try("env", append([]string{"SSH_CONNECTION=" + ssh, binary, "--socket", w.path("gardu.sock"), "plan", path, "--exit-code"}, args...)...)
	if r.code != 0 && r.code != 4 {
		w.Fatalf("plan %v: %+v", args, r)
	}
	if args != nil {
		w.must(json.Unmarshal([]byte(r.stdout), &p))
	}
	return r, p
}

// What plan says of connections at work comes true when it is applied, and nothing happens before.
func TestPlan(t *testing.T) {
	w := newWorld(t, 3)
	w.startWeb()
	w.start(planWorld(twoOfThem))
	w.ready()
	s, ssh := w.echo()
	w.must(s.says("hello", patience))
	if r, _ := w.plan(ssh, planWorld(twoOfThem)); r.code != 0 || r.stdout != "nothing to do: revision 1 holds the same\n" {
		t.Errorf("%+v", r)
	}

	w.file("large", 16<<20)
	load := exec.Command("curl", w.download("192.0.2.10", "large", "got", "256k").args...)
	load.Stderr = os.Stderr
	transfer, err := w.client.Start(load)
	w.must(err)
	defer transfer.Kill()
	w.until("the transfer is at work", func() error {
		list, err := w.api.Backends(t.Context())
		if err == nil && list[0].Active+list[1].Active != 1 {
			err = fmt.Errorf("%d and %d flows", list[0].Active, list[1].Active)
		}
		return err
	})
	r, _ := w.plan(ssh, planWorld(twoOfThem)+closing)
	for _, want := range []string{"1 flow would be cut by rule no-web, service web; 1 established\n    tcp 198.51.100.10:", " > 192.0.2.10:80\n",
		"1 flow would be cut by rule no-ssh; 1 established\n    among them your SSH session: tcp 198.51.100.10:", "apply would refuse it:", "price: a packet of a known flow "} {
		if r.code != 4 || !strings.Contains(r.stdout, want) {
			t.Errorf("%q is missing: exit %d\n%s%s", want, r.code, r.stdout, r.stderr)
		}
	}
	w.must(s.says("still here", patience))
	select {
	case <-transfer.Done():
		t.Errorf("the transfer ended: %v", transfer.Wait())
	default:
	}

	_, p := w.plan(ssh, planWorld(threeOfThem), "-o", "json", "--no-price")
	if len(p.Services) != 1 || math.Abs(p.Services[0].Moved-1.0/3) > 0.01 || p.Flows.Cut != 0 || len(p.Flows.Services) > 0 && p.Flows.Services[0].Leave != 0 {
		t.Errorf("a third backend: %+v, %+v", p.Services, p.Flows)
	}

	// Both are cut, as was said.
	w.apply(planWorld(twoOfThem) + closing)
	if err := s.says("anybody there", time.Second); err == nil {
		t.Error("the session goes on in spite of the rule")
	}
	w.apply(planWorld(twoOfThem))
	transfer.Kill()
}

// Counters, tables and the tokens that flows have left are the same before a plan and after it.
func TestPlanChangesNothing(t *testing.T) {
	const pace = "rules: [{name: pace, match: {proto: tcp}, limit: {rate: 1000/h, burst: 1000, per: src}, action: drop}, "
	limited := func(filter string) string { return strings.Replace(filter, "rules: [", pace, 1) }
	w := newWorld(t, 3)
	w.start(planWorld(twoOfThem) + limited("filter: {rules: []}\n"))
	w.ready()
	s, _ := w.echo()
	w.must(s.says("hello", patience))
	all := func() (text string) {
		for _, line := range []string{"rules -o json", "services -o json", "flows -n 1000 --sort src -o json", "blocks -o json", "history -o json",
			"bpf dump backends", "bpf dump interfaces", "bpf dump rule_counters", "bpf dump flow_totals"} {
			args := strings.Fields(line)
			if args[0] == "bpf" {
				args = append(args, "--bpffs", w.bpffs)
			}
			out, err := w.gardu(args...)
			if err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			text += strings.Join(args, " ") + ":\n" + out
		}
		return text
	}
	tokens := func() string {
		out, err := w.gardu("bpf", "dump", "limits", "--bpffs", w.bpffs)
		w.must(err)
		return out
	}
	w.until("counters and tables are the same before and after", func() error { // neighbours may ask for each other meanwhile
		before, met, had := all(), w.rule("pace").Packets, tokens()
		if _, p := w.plan("", planWorld(threeOfThem)+limited(closing), "-o", "json", "--no-price"); p.Flows.Judged == 0 || p.Flows.Cut == 0 {
			t.Fatalf("%+v", p.Flows)
		}
		if has := tokens(); has != had && w.rule("pace").Packets == met || met == 0 {
			t.Fatalf("%d packets have taken tokens:\n%safter a plan:\n%s", met, had, has)
		}
		if after := all(); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
}
