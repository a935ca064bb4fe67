package daemon

import (
	"errors"
	"strings"
	"testing"

	"gardu/ctl/api"
)

// Who applies over SSH is told when that would be the end of it. The daemon knows by which interface they come.
func TestApplyWouldCutOff(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	const (
		ssh      = "198.51.100.10 40001 198.51.100.1 22"
		attached = "interfaces: {in0: {path: tc}}\n"
		closing  = "filter: {default: drop, rules: [{name: web, match: {proto: tcp, dport: 80}, action: pass}]}\n"
		opened   = "filter: {default: drop, rules: [{name: ssh, match: {proto: tcp, dport: 22}, action: pass}]}\n"
	)
	for _, tc := range []struct {
		name, yaml, ssh string
		told            bool
	}{
		{"closing", attached + closing, ssh, true},
		{"open", attached + opened, ssh, false},
		{"nobody there", attached + closing, "", false},
		{"by another interface", "interfaces: {out0: {path: tc}}\n" + closing, ssh, false},
		{"from this machine", attached + closing, "198.51.100.1 40001 198.51.100.1 22", false},
	} {
		request := api.ApplyRequest{Name: "new.yaml", YAML: tc.yaml, Check: true, SSHConnection: tc.ssh}
		_, err := w.api.Apply(t.Context(), request)
		if problem, ok := errors.AsType[*api.Problem](err); ok != tc.told || ok && problem.Code != api.CodeCutOff {
			t.Errorf("%s: %v", tc.name, err)
		}
		request.Force = true
		result, err := w.api.Apply(t.Context(), request)
		w.must(err)
		told := len(result.Warnings) == 1 && result.Warnings[0].Line == 2 &&
			strings.Contains(result.Warnings[0].Message, "from 198.51.100.10:40001 to port 22, would be cut off")
		if told != tc.told || !tc.told && len(result.Warnings) > 0 {
			t.Errorf("%s: %+v", tc.name, result.Warnings)
		}
	}
}

// A veth takes VLAN tags off: rules don't see them at XDP.
func TestApplyWouldSeeNoTags(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	for path, told := range map[string]bool{"xdp": true, "auto": false} {
		yaml := "interfaces: {in0: {path: " + path + "}}\nfilter: {rules: [{name: guests, match: {vlan: 10}, action: drop}]}\n"
		result, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "new.yaml", YAML: yaml, Check: true})
		w.must(err)
		if got := len(result.Warnings) == 1 && strings.Contains(result.Warnings[0].Message, "rule guests matches on vlan, but in0"); got != told {
			t.Errorf("%s: %+v", path, result.Warnings)
		}
	}
}
