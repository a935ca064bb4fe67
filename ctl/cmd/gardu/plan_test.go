package main

import (
	"path/filepath"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// planFormats runs plan in each format; its warnings are those of check and go to stderr.
func planFormats(t *testing.T) string {
	t.Helper()
	path := write(t, "gardu.yaml", goodConfig)
	var all strings.Builder
	for _, format := range formats {
		r := gardu(t, "plan", path, "-o", format)
		if r.code != exitDone || !strings.HasPrefix(r.stderr, "gardu.yaml:9:7: warning: hm\n") {
			t.Errorf("-o %s: exit %d, %s", format, r.code, r.stderr)
		}
		all.WriteString("-- -o " + format + " --\n" + r.stdout)
	}
	return all.String()
}

func TestPlan(t *testing.T) {
	var got api.PlanRequest
	answer := api.Plan{Revision: 7}
	engine := &apitest.Engine{Foresee: func(request api.PlanRequest) (api.Plan, error) {
		got = request
		return answer, nil
	}}
	serve(t, engine)
	path := write(t, "gardu.yaml", goodConfig)
	for _, tc := range []struct {
		args string
		plan api.Plan
		code int
		want string
	}{
		{"", answer, exitDone, "nothing to do: revision 7 holds the same\n"},
		{"--exit-code", answer, exitDone, "nothing to do: revision 7 holds the same\n"},
		{"", api.Plan{Revision: 7, Changed: true}, exitDone, "nothing but the order of things differs from revision 7\n"},
		{"--exit-code", api.Plan{Revision: 7, Changed: true}, exitChanges, "nothing but the order of things differs from revision 7\n"},
		{"--exit-code -o ndjson", api.Plan{Revision: 7, Changed: true}, exitChanges, `{"revision":7,"changed":true,"changes":[],"services":[]}` + "\n"},
		{"", api.Plan{Revision: 7, Changed: true, Tag: "7-abc"}, exitDone, "unless somebody else changes anything before: gardu apply " + path + " --if-match 7-abc\n"},
		{"", api.Plan{Revision: 7, Changed: true, Refused: "no way"}, exitDone, "apply would refuse it: no way\n"},
	} {
		answer = tc.plan
		r := gardu(t, append([]string{"plan", path}, strings.Fields(tc.args)...)...)
		if r.code != tc.code || !strings.HasSuffix(r.stdout, tc.want) || r.stderr != "" {
			t.Errorf("%s: %+v", tc.args, r)
		}
	}
	if want := (api.PlanRequest{Name: path, Dir: filepath.Dir(path), YAML: goodConfig, SSHConnection: sshConnection()}); got != want {
		t.Errorf("the daemon got %+v", got)
	}
	if r := garduWith(t, goodConfig, "plan", "-"); r.code != exitDone || got.Name != "stdin" {
		t.Errorf("%+v, the daemon got %+v", r, got)
	}
}

// What is wrong with a file prints as check prints it, whoever finds it.
func TestPlanBadConfig(t *testing.T) {
	wrong := config.Errors{{Pos: model.Position{File: "gardu.yaml", Line: 2, Column: 3}, Msg: "no such thing", Allowed: "another", Line: "  thing: 1"}}
	serve(t, &apitest.Engine{Fail: wrong})
	r := gardu(t, "plan", write(t, "gardu.yaml", "filter: {}\n"))
	if r.code != exitFailed || r.stdout != "" || r.stderr != wrong.Error()+"\ngardu plan: 1 error; nothing was changed\n" {
		t.Errorf("%+v", r)
	}
	bad := write(t, "bad.yaml", "filter: {defualt: drop}\n")
	check := gardu(t, "check", bad)
	plan := gardu(t, "plan", bad, "--against", write(t, "good.yaml", goodConfig))
	if plan.code != exitFailed || plan.stderr != strings.ReplaceAll(check.stderr, "gardu check", "gardu plan") {
		t.Errorf("%+v, want %+v", plan, check)
	}
}

func TestPlanAgainst(t *testing.T) {
	t.Setenv("GARDU_SOCKET", "/none")
	const balanced = `services:
  web: {address: 192.0.2.10, port: 80, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.0.11}%s]}
`
	old := write(t, "old.yaml", strings.ReplaceAll(balanced, "%s", ""))
	next := write(t, "new.yaml", strings.ReplaceAll(balanced, "%s", ", {name: b2, address: 10.0.0.12}"))
	r := gardu(t, "plan", next, "--against", old, "--exit-code")
	for _, want := range []string{"1 change, against the other file:\n", "+ backend web/b2  address: 10.0.0.12, weight: 100\n",
		"service web: 50.0 % of new flows would get another backend than now", "b1: 100.0 % -> 50.0 %\n", "b2: 0.0 % -> 50.0 %\n"} {
		if r.code != exitChanges || !strings.Contains(r.stdout, want) {
			t.Errorf("%+v, want %q", r, want)
		}
	}
	if r := gardu(t, "plan", old, "--against", old, "--exit-code"); r.code != exitDone || r.stdout != "nothing to do: the other file holds the same\n" {
		t.Errorf("%+v", r)
	}
	r = gardu(t, "plan", next)
	if r.code != exitUnreachable || !strings.Contains(r.stderr, "gardu run -c FILE") || !strings.Contains(r.stderr, "--against OLD.yaml") {
		t.Errorf("%+v", r)
	}
}
