package daemon

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

// plan asks what a configuration would change, and looks that asking changed nothing. What somebody else sends meanwhile changes
// something now and then, but not every time.
func (w *world) plan(yaml string, priced ...bool) (p api.Plan) {
	w.Helper()
	w.until("a plan changes nothing", func() (err error) {
		before := w.status()
		p, err = w.api.Plan(w.Context(), api.PlanRequest{Name: "new.yaml", Dir: w.dir, YAML: yaml, NoPrice: priced == nil})
		w.must(err)
		after := w.status()
		delete(before.Reasons, "not-ip") // the daemon keeps neighbours resolved
		delete(after.Reasons, "not-ip")
		if before.Revision != after.Revision || before.Generation != after.Generation || !reflect.DeepEqual(before.Reasons, after.Reasons) ||
			!reflect.DeepEqual(before.Filter, after.Filter) || before.Flows.Accounted != after.Flows.Accounted || before.Flows.Entries != after.Flows.Entries {
			return fmt.Errorf("%+v, before %+v", after, before)
		}
		return nil
	})
	return p
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	for _, node := range []*testnet.Node{w.client, w.backend} { // of their own accord they would send neighbour discovery, which are flows
		w.must(node.SetSysctl("net.ipv6.conf.all.disable_ipv6", "1"))
	}
	w.prepareTwo()
	if p := w.plan(twoBackends); p.Changed || len(p.Changes) != 0 || len(p.Services) != 0 || p.Revision != 1 {
		t.Errorf("the same: %+v", p)
	}
	third := twoBackends + "      - {name: b3, address: 10.0.0.13, weight: 80}\n"
	p := w.plan(third, true)
	if !p.Changed || len(p.Changes) != 1 || p.Changes[0].Kind != "backend" || p.Changes[0].Name != "echo/b3" || p.Refused != "" {
		t.Errorf("a third: %+v", p)
	}
	if p.Price == nil || p.Price.Flows != 0 || p.Price.Typical == nil || p.Price.Error != "" {
		t.Errorf("a price without flows: %+v", p.Price)
	}
	if len(p.Services) != 1 || math.Abs(p.Services[0].Moved-80.0/240) > 0.01 || len(p.Services[0].Backends) != 3 {
		t.Errorf("a third: %+v", p.Services)
	}
	_, err := w.api.Drain(w.Context(), api.DrainRequest{Service: "echo", Backend: "b2"})
	w.must(err)
	if p := w.plan(third); len(p.Services) != 1 || math.Abs(p.Services[0].Moved-80.0/140) > 0.01 || p.Services[0].Backends[1].Before != 0 {
		t.Errorf("a third while one is drained: %+v", p.Services)
	}
	w.must(ignore(w.api.Undrain(w.Context(), "echo", "b2")))

	result, err := w.api.Apply(w.Context(), api.ApplyRequest{Name: "new.yaml", Dir: w.dir, YAML: third})
	w.must(err)
	if strings.Join(result.Changes, "; ") != "backend: +echo/b3" {
		t.Errorf("apply told %q", result.Changes)
	}
	if p := w.plan(third); p.Changed || p.Revision != 2 {
		t.Errorf("after apply: %+v", p)
	}
}

// What apply would say against a snapshot, plan says.
func TestPlanRefused(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	ask := func(yaml, ssh string) (api.Plan, error) {
		return w.api.Plan(w.Context(), api.PlanRequest{Name: "new.yaml", Dir: w.dir, YAML: yaml, SSHConnection: ssh})
	}
	p, err := ask(base+"filter: {default: drop}\n", "198.51.100.10 40001 198.51.100.1 22")
	w.must(err)
	if !strings.Contains(p.Refused, "from 198.51.100.10:40001 to port 22, would be cut off") || len(p.Warnings) == 0 {
		t.Errorf("who asks would be cut off: %+v", p)
	}
	_, err = ask("interfaces: {none0: {path: tc}}\n", "")
	w.wantProblem(err, api.CodeConfig, "the configuration is invalid")
	w.mustTry(base+"filter: {rules: [{name: a, match: {proto: udp}, action: pass}]}\n", patience)
	p, err = ask(base, "")
	w.must(err)
	if !strings.Contains(p.Refused, "revision 2 waits for confirmation") {
		t.Errorf("while another one waits: %+v", p)
	}
}

// wantPrice expects that something was measured. How much is the machine's business.
func wantPrice(t *testing.T, p *api.PlannedPrice) {
	t.Helper()
	if p == nil || p.Error != "" || p.Flows == 0 || p.Known == nil || p.New == nil {
		t.Fatalf("price: %+v", p)
	}
	for _, ns := range []float64{p.Known.Before, p.Known.After, p.New.Before, p.New.After} {
		if ns <= 0 || ns > 1e6 {
			t.Errorf("price: %+v, %+v", p.Known, p.New)
		}
	}
	t.Logf("known %.0f -> %.0f, new %.0f -> %.0f ns", p.Known.Before, p.Known.After, p.New.Before, p.New.After)
}

func ignore[T any](_ T, err error) error { return err }

// Flows of each kind are judged by both snapshots, where nobody sees it.
func TestPlanJudgesLiveFlows(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	lasting := strings.NewReplacer("{max: 1000}", "{max: 1000, idle: 1h}") // than a slow machine takes for the test
	two := lasting.Replace(twoBackends)
	w.mustTry(two, 0)
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	for range 8 {
		conn := w.dialEcho()
		defer conn.Close()
		_, err := conn.Write([]byte("?"))
		w.must(err)
	}
	w.until("flows are known", func() error {
		if n := w.status().Flows.Entries; n < 9 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	const rules = "filter: {rules: [{name: seven, match: {proto: udp, dport: 7777}, action: drop}]}\n"
	p := w.plan(two+rules, true)
	if p.Flows == nil || p.Flows.Unjudged != "" || p.Flows.Cut == 0 || p.Flows.Judged != p.Flows.Live || len(p.Flows.Otherwise) != 1 {
		t.Fatalf("a rule that drops: %+v", p.Flows)
	}
	if g := p.Flows.Otherwise[0]; g.Rule != "seven" || g.Before != "pass" || g.After != "drop" || g.Flows != p.Flows.Cut ||
		!strings.HasPrefix(g.Examples[0], "udp 198.51.100.10:") || !strings.HasSuffix(g.Examples[0], " > 10.0.0.11:7777") {
		t.Errorf("a rule that drops: %+v", g)
	}
	wantPrice(t, p.Price)
	p = w.plan(strings.ReplaceAll(two, "weight: 60", "weight: 0"))
	if len(p.Flows.Services) != 1 || p.Flows.Services[0].Leave != 0 || p.Flows.Services[0].Live < 8 || p.Flows.Services[0].Anew > p.Flows.Services[0].Live || p.Flows.Cut != 0 {
		t.Errorf("a backend without weight: %+v", p.Flows)
	}
	p = w.plan(strings.ReplaceAll(two, "forward: dsr", "forward: ipip"), true) // packets get longer
	wantPrice(t, p.Price)
	p = w.plan(lasting.Replace(base))
	if len(p.Flows.Otherwise) == 0 || len(p.Flows.Services) != 1 || p.Flows.Services[0].Leave != p.Flows.Services[0].Live {
		t.Errorf("without the service: %+v", p.Flows)
	}
	for _, g := range p.Flows.Otherwise {
		if g.Before != "forward" || g.After != "pass" || g.Service != "echo" {
			t.Errorf("without the service: %+v", g)
		}
	}
	many := "filter:\n  rules:\n    - {name: seven, match: {proto: udp, dport: 7777}, action: drop}\n"
	for i := range 500 { // longer tables than those in force, for programs of their own
		many += fmt.Sprintf("    - {name: r%d, match: {src: 203.0.113.%d, dport: %d}, action: drop}\n", i, i%256, 1000+i)
	}
	if p = w.plan(two+many, true); p.Flows.Unjudged != "" || p.Flows.Cut == 0 {
		t.Errorf("many rules: %+v", p.Flows)
	}
	wantPrice(t, p.Price)
	p = w.plan(two + "filter: {default: drop, rules: [{name: answers, match: {state: established}, action: pass}]}\nnat: {max: 1000}\n")
	if p.Flows.Unjudged != "" || p.Flows.Cut < 9 {
		t.Errorf("a snapshot that is the first to ask for state: %+v", p.Flows)
	}
	w.mustTry(two+rules, 0)
	if w.passes() {
		t.Fatal("dropped packets pass")
	}
	w.until("dropped flows are known", func() error {
		p := w.plan(two)
		if p.Flows.Opened == 0 || p.Flows.Cut != 0 {
			return fmt.Errorf("without the rule: %+v", p.Flows)
		}
		return nil
	})
}
