package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
	"gardu/ctl/pkt"
)

const goodConfig = `interfaces:
  eth0: {path: tc}
sets:
  bad: {entries: [203.0.113.0/24, "2001:db8:bad::/48"]}
filter:
  rules:
    - {name: bad, match: {src: "@bad"}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: 443
    proto: tcp
    forward: ipip
    backends:
      - {name: b1, address: 10.0.0.11}
`

// write puts a file into a directory of the test and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBlock(t *testing.T) {
	engine := &apitest.Engine{}
	serve(t, engine)
	r := gardu(t, "block", "203.0.113.7", "2001:db8::1/32", "--for", "7d", "--why", "scan")
	want := result{exitDone, "blocked 203.0.113.7/32 until 2026-11-30T12:00:00Z\nblocked 2001:db8::/32 until 2026-11-30T12:00:00Z\n", ""}
	if r != want {
		t.Errorf("%+v", r)
	}
	week := api.Duration(7 * 24 * time.Hour)
	requests := []api.BlockRequest{
		{Prefix: netip.MustParsePrefix("203.0.113.7/32"), For: week, Why: "scan", Origin: "cli"},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), For: week, Why: "scan", Origin: "cli"},
	}
	if got := engine.Blocked(); !reflect.DeepEqual(got, requests) {
		t.Errorf("the daemon got %+v", got)
	}
	if r := gardu(t, "block", "203.0.113.8"); r.stdout != "blocked 203.0.113.8/32 until it is unblocked\n" {
		t.Errorf("%+v", r)
	}
}

// A list comes from a file or stdin, whole or not at all.
func TestBlockList(t *testing.T) {
	engine := &apitest.Engine{}
	serve(t, engine)
	list := "# bad ones\n203.0.113.7\n\n  2001:db8::/32  # all of it\r\n"
	want := []api.BlockRequest{
		{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Why: "list", Origin: "cli"},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Why: "list", Origin: "cli"},
	}
	for _, r := range []result{
		garduWith(t, list, "block", "-", "--why", "list"),
		garduWith(t, list, "block", "--file", "-", "--why", "list"),
		gardu(t, "block", "--file", write(t, "bad.netset", list), "--why", "list"),
	} {
		if r.code != exitDone || strings.Count(r.stdout, "blocked ") != 2 {
			t.Errorf("%+v", r)
		}
	}
	if got := engine.Blocked(); !reflect.DeepEqual(got, slices.Concat(want, want, want)) {
		t.Errorf("the daemon got %+v", got)
	}
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "10.0.%d.%d\n", i>>8, i&255)
	}
	if r := garduWith(t, many.String(), "block", "-", "--for", "7d"); r.stdout != "blocked 5,000 prefixes until 2026-11-30T12:00:00Z\n" {
		t.Errorf("%+v", r)
	}
	before := len(engine.Blocked())
	r := garduWith(t, "203.0.113.9\nbad\n203.0.113.300\n0.0.0.0/0\n", "block", "-")
	if r.code != exitUsage || strings.Contains(r.stderr, "stdin:1") || !strings.Contains(r.stderr, `stdin:2: "bad"`) ||
		!strings.Contains(r.stderr, "stdin:3:") || !strings.Contains(r.stderr, "stdin:4: a block covers") {
		t.Errorf("%+v", r)
	}
	if r := garduWith(t, "# nothing\n", "block", "-"); r.code != exitFailed || !strings.Contains(r.stderr, "no prefix") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "block", "--file", "/nowhere"); r.code != exitFailed || !strings.Contains(r.stderr, "/nowhere") {
		t.Errorf("%+v", r)
	}
	if n := len(engine.Blocked()); n != before {
		t.Errorf("%d blocks of wrong lists got to the daemon", n-before)
	}
	if r := garduWith(t, "203.0.113.7\n", "unblock", "-"); r != (result{exitDone, "unblocked 203.0.113.7/32\n", ""}) {
		t.Errorf("%+v", r)
	}
}

func TestUnblock(t *testing.T) {
	serve(t, &apitest.Engine{})
	if r := gardu(t, "unblock", "203.0.113.7"); r != (result{exitDone, "unblocked 203.0.113.7/32\n", ""}) {
		t.Errorf("%+v", r)
	}
	r := gardu(t, "unblock", "203.0.113.7", "192.0.2.1")
	if r.code != exitFailed || r.stdout != "unblocked 203.0.113.7/32\n" || !strings.Contains(r.stderr, "192.0.2.1/32") || !strings.Contains(r.stderr, "gardu blocks") {
		t.Errorf("%+v", r)
	}
}

func TestDrainUndrainWeight(t *testing.T) {
	engine := &apitest.Engine{}
	serve(t, engine)
	warning := "warning: no backend of web takes new flows: they are dropped\n"
	for _, test := range []struct {
		args string
		want result
		told string // the daemon
	}{
		{"drain web/b1", result{exitDone, "web/b1 is draining, weight 100: 310 flows left\n", warning}, "drain web/b1 0s"},
		{"drain web/b1 --timeout 1d", result{exitDone, "web/b1 is draining, weight 100: 310 flows left, moved at " +
			apitest.Now.Add(24*time.Hour).Local().Format(time.RFC3339) + "\n", warning}, "drain web/b1 24h0m0s"},
		{"undrain web/b2", result{exitDone, "web/b2 is down, weight 50\n", warning}, "undrain web/b2"},
		{"weight web/b1 7", result{exitDone, "web/b1 is up, weight 7 (configured: 100)\n", warning}, "weigh web/b1 7"},
		{"weight web/b1 default", result{exitDone, "web/b1 is up, weight 100\n", warning}, "weigh web/b1 as configured"},
		{"drain -w web/b2", result{exitDone, "web/b2 is draining, weight 50: 0 flows left\n", warning}, "drain web/b2 0s"},
	} {
		if r := gardu(t, strings.Fields(test.args)...); r != test.want {
			t.Errorf("%s: %+v", test.args, r)
		}
		if orders := engine.Orders(); orders[len(orders)-1] != test.told {
			t.Errorf("%s: the daemon was told %q", test.args, orders)
		}
	}
	// The example's b1 is up again at the next look.
	if r := gardu(t, "drain", "--wait", "web/b1"); r.code != exitFailed || !strings.Contains(r.stderr, "web/b1 isn't drained any more: it is up") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "drain", "web/b9"); r.code != exitFailed || !strings.Contains(r.stderr, "web has no backend b9, but b1, b2") {
		t.Errorf("%+v", r)
	}
	for _, args := range []string{"drain", "drain web", "drain /b1", "undrain web/", "weight web/b1", "weight web/b1 65536", "weight web/b1 -1", "drain web/b1 --timeout 0s"} {
		if r := gardu(t, strings.Fields(args)...); r.code != exitUsage {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := gardu(t, "__complete", "drain", ""); !strings.HasPrefix(r.stdout, "web/b1\tup\nweb/b2\tdown\n") {
		t.Errorf("completion: %+v", r)
	}
}

func TestApply(t *testing.T) {
	var got api.ApplyRequest
	engine := &apitest.Engine{Change: func(request api.ApplyRequest) (api.ApplyResult, error) {
		got = request
		return api.ApplyResult{Revision: 8, Changed: !request.Check, Rules: 1, Sets: 1, Services: 1,
			Warnings: []api.Warning{{Position: model.Position{File: request.Name, Line: 2, Column: 3}, Message: "hm", Text: "  eth0: {path: tc}"}}}, nil
	}}
	serve(t, engine)
	path := write(t, "gardu.yaml", goodConfig)
	r := gardu(t, "apply", path)
	if r.code != exitDone || r.stdout != "revision 8 is in force: 1 rule, 1 set, 1 service\n" || !strings.Contains(r.stderr, path+":2:3: warning: hm\n") {
		t.Errorf("%+v", r)
	}
	if want := (api.ApplyRequest{Name: path, Dir: filepath.Dir(path), YAML: goodConfig, SSHConnection: sshConnection()}); got != want {
		t.Errorf("the daemon got %+v", got)
	}
	if r := gardu(t, "apply", "--check", path); r.stdout != "ok: 1 rule, 1 set, 1 service; nothing was changed\n" || !got.Check {
		t.Errorf("%+v", r)
	}
	if r := garduWith(t, goodConfig, "apply", "-"); r.code != exitDone || got.Name != "stdin" || got.YAML != goodConfig || !filepath.IsAbs(got.Dir) {
		t.Errorf("%+v, the daemon got %+v", r, got)
	}
	engine.Change = func(api.ApplyRequest) (api.ApplyResult, error) { return api.ApplyResult{Revision: 8}, nil }
	if r := gardu(t, "apply", path); r.stdout != "revision 8 is in force already: 0 rules, 0 sets, 0 services\n" {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "apply", path+".none"); r.code != exitFailed || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("%+v", r)
	}
}

// What the daemon finds wrong prints as check would print it.
func TestApplyBadConfig(t *testing.T) {
	wrong := config.Errors{{Pos: model.Position{File: "gardu.yaml", Line: 2, Column: 3}, Msg: "no such thing", Allowed: "another", Line: "  thing: 1"}}
	serve(t, &apitest.Engine{Fail: wrong})
	r := gardu(t, "apply", write(t, "gardu.yaml", "filter: {}\n"))
	if r.code != exitFailed || r.stdout != "" || r.stderr != wrong.Error()+"\ngardu apply: 1 error; nothing was changed\n" {
		t.Errorf("%+v", r)
	}
}

func TestCheck(t *testing.T) {
	r := gardu(t, "check", write(t, "gardu.yaml", goodConfig))
	if r.code != exitDone || !strings.HasPrefix(r.stdout, "ok: 1 interface, 1 rule, 1 set with 2 entries, 1 service with 1 backend\n") {
		t.Errorf("%+v", r)
	}
	if r := garduWith(t, goodConfig, "check", "-"); r.code != exitDone {
		t.Errorf("%+v", r)
	}
	elsewhere := write(t, "gardu.yaml", strings.ReplaceAll(goodConfig, "eth0", "nowhere0"))
	r = gardu(t, "check", elsewhere)
	if r.code != exitDone || !strings.Contains(r.stderr, elsewhere+":2:3: warning: this machine has no interface nowhere0") ||
		!strings.Contains(r.stderr, "^^^^^^^^") {
		t.Errorf("%+v", r)
	}
	bad := strings.Replace(goodConfig, "@bad", "@good", 1)
	bad = strings.Replace(bad, "443", "70000", 1)
	path := write(t, "gardu.yaml", bad)
	r = gardu(t, "check", path)
	for _, want := range []string{path + ":7:", path + ":11:", "@good", "70000", "^", "gardu check: 2 errors; nothing was changed\n"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q in\n%s", want, r.stderr)
		}
	}
	if r.code != exitFailed || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

// What rules cost is for people and for programs, and rules that nothing tells apart are named.
func TestCheckCost(t *testing.T) {
	path := write(t, "gardu.yaml", goodConfig)
	r := gardu(t, "check", path, "--cost")
	for _, want := range []string{"received  one after the other        1", "memory: rules", "sets 512 B", "2 classes", "not a measurement\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	var report costReport
	if r := gardu(t, "check", path, "--cost", "-o", "json"); json.Unmarshal([]byte(r.stdout), &report) != nil ||
		len(report.Runs) != 1 || report.Runs[0].Structure != "scan" || report.Runs[0].WorstNs == 0 || report.Bytes["sets"] == 0 {
		t.Errorf("%+v", r)
	}

	var text strings.Builder
	text.WriteString("interfaces: {eth0: {}}\nfilter:\n  rules:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "    - {name: rule-%d, match: {proto: tcp, length: %d}, action: drop}\n", i, i)
	}
	r = gardu(t, "check", write(t, "gardu.yaml", text.String()))
	if want := "nothing that can be hashed tells the rules rule-0, rule-1, rule-2, rule-3, rule-4 and 995 more apart"; !strings.Contains(r.stderr, want) {
		t.Errorf("no %q in\n%s", want, r.stderr)
	}
}

// Whoever works over SSH is told before the door closes, also when sudo took the variable away.
func TestCheckOverSSH(t *testing.T) {
	t.Setenv("SSH_CONNECTION", "198.51.100.7 40001 192.0.2.1 22")
	if got := sshConnection(); got != "198.51.100.7 40001 192.0.2.1 22" {
		t.Errorf("%q", got)
	}
	var got api.ApplyRequest
	serve(t, &apitest.Engine{Change: func(request api.ApplyRequest) (api.ApplyResult, error) {
		got = request
		return api.ApplyResult{}, nil
	}})
	gardu(t, "apply", "--check", write(t, "gardu.yaml", goodConfig))
	if got.SSHConnection != "198.51.100.7 40001 192.0.2.1 22" {
		t.Errorf("%+v", got)
	}
}

func TestFlowQueries(t *testing.T) {
	serve(t, &apitest.Engine{})
	for args, want := range map[string]int{
		"flows -o ndjson":                                      3,
		"flows -o ndjson verdict drop":                         1,
		"flows -o ndjson -n 2":                                 2,
		"flows -o ndjson src in 198.51.100.0/24 and dport 443": 1,
		"flows -o csv --sort last":                             4,
		"flows -n 1":                                           2,
		"flows --sort rate -n 1 -o ndjson":                     1,
		"flows --group service -o ndjson":                      2,
		"flows --group src/24,dport -n 1 -o csv":               3,
		"flows --group src -o ndjson verdict drop":             1,
		"events -o ndjson":                                     5,
		"events -o ndjson -n 2":                                2,
		"events -o ndjson kind log or rule idea":               2,
		"events -o csv verdict drop":                           2,
		"events -f":                                            0,
		"events -f -n 3":                                       3,
		"events -f -n 1 -o csv":                                2,
	} {
		if r := gardu(t, strings.Fields(args)...); r.code != exitDone || strings.Count(r.stdout, "\n") != want {
			t.Errorf("%s: %+v", args, r)
		}
	}
	serve(t, &apitest.Engine{FlowsFail: errors.New("table went away")})
	if r := gardu(t, "flows", "-o", "ndjson"); r.code != exitFailed || strings.Count(r.stdout, "\n") != 3 || !strings.Contains(r.stderr, "table went away") {
		t.Errorf("%+v", r)
	}
}

func TestExplainAsks(t *testing.T) {
	var got api.ExplainRequest
	engine := &apitest.Engine{Judge: func(request api.ExplainRequest) (api.Explanation, error) {
		got = request
		return api.Explanation{Verdict: "drop", Reason: "rule-drop", Help: "a rule with action drop decided", Rule: "ssh", Interface: request.Interface}, nil
	}}
	serve(t, engine)
	const text = "tcp 198.51.100.7:40000 > 192.0.2.10:22 syn"
	r := gardu(t, append([]string{"explain", "-i", "eth1"}, strings.Fields(text)...)...)
	if r.code != exitDone || !strings.Contains(r.stdout, "drop, rule-drop: a rule with action drop decided\n  rule     ssh\n") {
		t.Errorf("%+v", r)
	}
	frame, err := pkt.Parse(text)
	if err != nil || string(got.Frame) != string(frame) || got.Interface != "eth1" || got.Packet != "" {
		t.Errorf("the daemon got %+v, %v", got, err)
	}
	capture := write(t, "two.pcap", pcap(string(frame[:60-6]), "another frame, of ICMP perhaps"))
	if r := gardu(t, "explain", "--pcap", capture, "--packet", "2"); r.code != exitDone || string(got.Frame) != "another frame, of ICMP perhaps" {
		t.Errorf("%+v, the daemon got %q", r, got.Frame)
	}
	if r := gardu(t, "explain", "--pcap", capture); r.code != exitDone || string(got.Frame) != string(frame) {
		t.Errorf("%+v, the daemon got %q", r, got.Frame)
	}
	if r := gardu(t, "explain", "--pcap", capture, "--packet", "3"); r.code != exitFailed || !strings.Contains(r.stderr, "holds 2 packets, there is no number 3") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "explain", "--pcap", write(t, "x.pcap", "not a capture")); r.code != exitFailed || !strings.Contains(r.stderr, "x.pcap") {
		t.Errorf("%+v", r)
	}
}

// pcap is a capture of Ethernet frames in the classic format.
func pcap(frames ...string) string {
	head := "\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x01\x00\x00\x00"
	for _, frame := range frames {
		length := string([]byte{byte(len(frame)), 0, 0, 0})
		head += "\x00\x00\x00\x00\x00\x00\x00\x00" + length + length + frame
	}
	return head
}

// Without a daemon, by the real programs.
func TestExplainOffline(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	t.Setenv("GARDU_SOCKET", filepath.Join(t.TempDir(), "none.sock"))
	path := write(t, "gardu.yaml", strings.ReplaceAll(goodConfig, "eth0", "lo"))
	for _, c := range []struct{ packet, verdict, reason, rule, service string }{
		{"tcp 203.0.113.7:40000 > 192.0.2.1:80 syn", "drop", "rule-drop", "bad", ""},
		{"tcp [2001:db8:bad::1]:40000 > [2001:db8::1]:80 syn", "drop", "rule-drop", "bad", ""},
		{"tcp 198.51.100.7:40000 > 192.0.2.1:80 syn", "pass", "default-pass", "", ""},
		{"tcp 198.51.100.7:40000 > 192.0.2.10:443 syn", "", "", "", "web"}, // its way depends on this machine's routes
	} {
		r := gardu(t, "explain", "-c", path, "-o", "json", c.packet)
		var e api.Explanation
		if err := json.Unmarshal([]byte(r.stdout), &e); err != nil || r.code != exitDone {
			t.Fatalf("%s: %v, %+v", c.packet, err, r)
		}
		if c.verdict != "" && (e.Verdict != c.verdict || e.Reason != c.reason) || e.Rule != c.rule || e.Service != c.service ||
			e.Interface != "lo" || len(e.Steps) == 0 {
			t.Errorf("%s: %+v", c.packet, e)
		}
	}
	if r := gardu(t, "explain", "-c", path, "-i", "eth7", "arp who-has 192.0.2.1 tell 192.0.2.2"); r.code != exitUsage || !strings.Contains(r.stderr, "has the interfaces lo\n") {
		t.Errorf("%+v", r)
	}
	elsewhere := write(t, "gardu.yaml", strings.ReplaceAll(goodConfig, "eth0", "nowhere0"))
	r := gardu(t, "explain", "-c", elsewhere, "tcp 203.0.113.7:40000 > 192.0.2.1:80 syn")
	if r.code != exitDone || !strings.Contains(r.stderr, "nowhere0 is not on this machine") || !strings.Contains(r.stdout, "on nowhere0") {
		t.Errorf("%+v", r)
	}
}

func TestExplainOfflineBadConfig(t *testing.T) {
	path := write(t, "gardu.yaml", "nonsense: 1\n")
	r := gardu(t, "explain", "-c", path, "tcp 203.0.113.7:40000 > 192.0.2.1:80 syn")
	if r.code != exitFailed || !strings.Contains(r.stderr, path+":1:1: ") || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

// What to do about errors that come from below.
func TestAdvice(t *testing.T) {
	a := newApp(nil, nil, nil)
	for _, c := range []struct {
		err  error
		want string
	}{
		{api.ErrInUse, "stop the other daemon"},
		{api.NewProblem(api.CodeNotReady, "starting"), "try again"},
		{&dataplane.BusyError{Interface: "eth0"}, "--replace"},
		{fmt.Errorf("interface eth7: %w", netdev.ErrNoLink), "ip link"},
		{errors.New("anything"), ""},
	} {
		if todo := a.todo(c.err); c.want == "" && todo != "" || !strings.Contains(todo, c.want) {
			t.Errorf("%v: %q", c.err, todo)
		}
	}
}

func TestDetachNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks at interfaces and bpffs")
	}
	dir := "/sys/fs/bpf/gardu-test-" + filepath.Base(t.TempDir()) + "-none"
	if r := gardu(t, "detach", "--bpffs", dir); r.code != exitDone || r.stdout != "nothing of gardu is left in "+dir+" or on the interfaces\n" {
		t.Errorf("%+v", r)
	}
}

func TestRunErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run refuses before it reads the configuration")
	}
	path := write(t, "gardu.yaml", "nonsense: 1\n")
	r := gardu(t, "run", "-c", path)
	if r.code != exitFailed || !strings.Contains(r.stderr, path+":1:1: ") || !strings.Contains(r.stderr, "nothing was changed") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "run", "-c", path+".none"); r.code != exitFailed || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("%+v", r)
	}
}

func TestDecapErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: asks for interfaces")
	}
	for args, want := range map[string]string{
		"decap -i nowhere0":                     "nowhere0",
		"decap -i lo --detach --bpffs /nowhere": "not attached",
		"decap -i lo --path carrier-pigeon":     "xdp-generic",
		"decap -i lo --detach --keep-attached":  "not both",
		"decap":                                 `"interface" not set`,
	} {
		if r := gardu(t, strings.Fields(args)...); r.code == exitDone || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
