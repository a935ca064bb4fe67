package daemon

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"gardu/ctl/api"
)

// plan asks what a configuration would change, and looks that asking changed nothing.
func (w *world) plan(yaml string) api.Plan {
	w.Helper()
	before := w.status()
	p, err := w.api.Plan(w.Context(), api.PlanRequest{Name: "new.yaml", Dir: w.dir, YAML: yaml})
	w.must(err)
	after := w.status()
	if before.Revision != after.Revision || before.Generation != after.Generation || !reflect.DeepEqual(before.Reasons, after.Reasons) ||
		!reflect.DeepEqual(before.Filter, after.Filter) || before.Flows.Accounted != after.Flows.Accounted || before.Flows.Entries != after.Flows.Entries {
		w.Errorf("plan changed something: %+v, before %+v", after, before)
	}
	return p
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	w.prepareTwo()
	if p := w.plan(twoBackends); p.Changed || len(p.Changes) != 0 || len(p.Services) != 0 || p.Revision != 1 {
		t.Errorf("the same: %+v", p)
	}
	third := twoBackends + "      - {name: b3, address: 10.0.0.13, weight: 80}\n"
	p := w.plan(third)
	if !p.Changed || len(p.Changes) != 1 || p.Changes[0].Kind != "backend" || p.Changes[0].Name != "echo/b3" || p.Refused != "" {
		t.Errorf("a third: %+v", p)
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

func ignore[T any](_ T, err error) error { return err }
