package main

import (
	"strings"
	"testing"

	"gardu/ctl/api/apitest"
)

func TestLogLevel(t *testing.T) {
	serve(t, &apitest.Engine{})
	for _, c := range []struct{ args, want string }{
		{"", "info\n"},
		{"debug --for 10m", "debug until 2026-11-23T12:10:00Z, then info\n"},
		{"", "debug until 2026-11-23T12:10:00Z, then info\n"},
		{"warn", "warn\n"},
	} {
		if r := gardu(t, append([]string{"log-level"}, strings.Fields(c.args)...)...); r.code != exitDone || r.stdout != c.want {
			t.Errorf("log-level %s: %+v", c.args, r)
		}
	}
	for _, args := range []string{"loud", "debug info", "--for 10m", "debug --for ever"} {
		if r := gardu(t, append([]string{"log-level"}, strings.Fields(args)...)...); r.code != exitUsage {
			t.Errorf("log-level %s: %+v", args, r)
		}
	}
}
