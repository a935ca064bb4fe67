package main

import (
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

func TestHistory(t *testing.T) {
	serve(t, &apitest.Engine{})
	golden(t, "revisions", allFormats(t, "history"))
	if r := gardu(t, "history", "6"); r.code != exitDone || r.stdout != "interfaces:\n  eth0: {path: tc}\n" {
		t.Errorf("%+v", r)
	}
	const diff = "--- revision 6\n+++ revision 7\n@@ -1,2 +1,3 @@\n interfaces:\n   eth0: {path: tc}\n+filter: {default: drop}\n"
	for _, args := range [][]string{{"history", "--diff", "6", "7"}, {"history", "--diff", "6"}} {
		if r := gardu(t, args...); r.code != exitDone || r.stdout != diff {
			t.Errorf("%v: %+v", args, r)
		}
	}
	for _, args := range [][]string{{"history", "six"}, {"history", "0"}, {"history", "6", "7"}, {"history", "--diff"}, {"confirm", "x"}, {"rollback", "1", "2"}} {
		if r := gardu(t, args...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := gardu(t, "history", "3"); r.code != exitFailed || !strings.Contains(r.stderr, "there is no revision 3") {
		t.Errorf("%+v", r)
	}
}

func TestConfirmAndRollback(t *testing.T) {
	var got api.ApplyRequest
	engine := &apitest.Engine{Change: func(request api.ApplyRequest) (api.ApplyResult, error) {
		got = request
		if !request.Force {
			return api.ApplyResult{}, api.NewProblem(api.CodeCutOff, "gardu.yaml:3:1: warning: cut off")
		}
		return api.ApplyResult{Revision: 8, Changed: true, Waiting: &api.Waiting{Revision: 8, Back: 7, Until: apitest.Now, Left: request.Confirm}}, nil
	}}
	serve(t, engine)
	path := write(t, "gardu.yaml", goodConfig)
	r := gardu(t, "apply", path, "--confirm", "90s", "-m", "why not")
	if r.code != exitFailed || !strings.Contains(r.stderr, "cut off\n") || !strings.Contains(r.stderr, "--force, best with --confirm") {
		t.Errorf("%+v", r)
	}
	if got.Confirm != api.Duration(90*time.Second) || got.Comment != "why not" {
		t.Errorf("the daemon got %+v", got)
	}
	const waits = "revision 8 waits for `gardu confirm` until "
	r = gardu(t, "apply", path, "--confirm", "90s", "--force")
	if r.code != exitDone || !strings.Contains(r.stdout, waits+"2026-11-23T12:00:00Z, 1m30s from now; then what revision 7 held comes back\n") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "confirm"); r != (result{exitDone, "revision 7 stays\n", ""}) {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "rollback", "6", "--confirm", "60s"); r.code != exitDone || !strings.Contains(r.stdout, "revision 8 is in force: 2 rules") || !strings.Contains(r.stdout, waits) {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"--confirm", "10ms"}, {"--confirm", "48h"}, {"-m", strings.Repeat("x", 501)}, {"-m", "a\nb"}} {
		if r := gardu(t, append([]string{"apply", path, "--force"}, args...)...); r.code != exitFailed || r.stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
	engine.Fail = api.NewProblem(api.CodeConflict, "too late: it went back")
	if r := gardu(t, "confirm"); r.code != exitFailed || !strings.Contains(r.stderr, "gardu confirm: too late: it went back\n") {
		t.Errorf("%+v", r)
	}
}
