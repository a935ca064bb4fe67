package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
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
	"gardu/ctl/api/client"
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// serve answers for engine on a socket of its own until the test ends.
func serve(t *testing.T, engine api.Engine) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "gardu.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, listener, engine, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return socket
}

// raw sends a request as it is.
func raw(t *testing.T, socket, method, path string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequest(method, "http://gardu"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return roundTrip(t, socket, request)
}

func roundTrip(t *testing.T, socket string, request *http.Request) (*http.Response, []byte) {
	t.Helper()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, text
}

// What the engine says arrives at the client as it was said.
func TestReaders(t *testing.T) {
	engine := &apitest.Engine{}
	c := client.New(serve(t, engine))
	defer c.Close()
	ctx := t.Context()
	check := func(name string, got any, err error, want any, wantErr error) {
		t.Helper()
		if err != nil || wantErr != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v\n got %+v\nwant %+v", name, err, wantErr, got, want)
		}
	}
	status, err := c.Status(ctx)
	wantStatus, wantErr := engine.Status(ctx)
	wantStatus.Warnings = append(wantStatus.Warnings, "flows is 85% full: 850000 of 1000000")
	check("status", status, err, wantStatus, wantErr)
	rules, err := c.Rules(ctx)
	wantRules, wantErr := engine.Rules(ctx)
	check("rules", rules, err, wantRules, wantErr)
	sets, err := c.Sets(ctx)
	wantSets, wantErr := engine.Sets(ctx)
	check("sets", sets, err, wantSets, wantErr)
	services, err := c.Services(ctx)
	wantServices, wantErr := engine.Services(ctx)
	check("services", services, err, wantServices, wantErr)
	backends, err := c.Backends(ctx)
	wantBackends, wantErr := engine.Backends(ctx)
	check("backends", backends, err, wantBackends, wantErr)
	blocks, err := c.Blocks(ctx)
	wantBlocks, wantErr := engine.Blocks(ctx)
	check("blocks", blocks, err, wantBlocks, wantErr)

	frame := api.Hex{1, 2, 3}
	explanation, err := c.Explain(ctx, api.ExplainRequest{Frame: frame})
	check("explain", explanation, err, apitest.Forwarded(api.ExplainRequest{Frame: frame}), nil)
}

// The names that PRODUCT promises.
func TestPromisedNames(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for path, names := range map[string]string{
		"/v1/status":                 "revision interfaces.0.name interfaces.0.path reasons.forward.packets reasons.forward.bytes flows.entries flows.max flows.evicted flows.unattributed",
		"/v1/rules":                  "0.name 0.packets 0.bytes 0.decided 0.shadow",
		"/v1/backends":               "0.service 0.name 0.address 0.weight 0.state 0.packets 0.bytes 0.flows",
		"/v1/events?filter=kind+log": "time kind verdict reason rule interface direction src dst sport dport proto length packets packet",
		"/v1/flows?limit=1": "src dst sport dport proto packets bytes first last verdict rule service backend " +
			"packets_reply bytes_reply",
	} {
		_, text := raw(t, socket, "GET", path, nil)
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, name := range strings.Fields(names) {
			if !has(value, strings.Split(name, ".")) {
				t.Errorf("%s has no %s", path, name)
			}
		}
	}
	_, text := raw(t, socket, "POST", "/v1/explain", strings.NewReader(`{"frame":"00ff"}`))
	for _, name := range []string{"verdict", "reason", "service", "backend", "interface", "steps.0.step", "steps.0.result", "out.0.interface", "out.0.hex", "out.0.text"} {
		var value any
		if err := json.Unmarshal(text, &value); err != nil || !has(value, strings.Split(name, ".")) {
			t.Errorf("explain has no %s: %s", name, text)
		}
	}
	if !bytes.Contains(text, []byte(`"hex":"00ff"`)) || bytes.Contains(text, []byte(`"rule":`)) || !bytes.Contains(text, []byte(" > ")) {
		t.Errorf("explain: %s", text)
	}
}

func has(value any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch value := value.(type) {
	case map[string]any:
		member, found := value[path[0]]
		return found && has(member, path[1:])
	case []any:
		return path[0] == "0" && len(value) > 0 && has(value[0], path[1:])
	}
	return false
}

func TestBlock(t *testing.T) {
	engine := &apitest.Engine{}
	c := client.New(serve(t, engine))
	defer c.Close()
	blocks, err := c.Block(t.Context(), []api.BlockRequest{
		{Prefix: netip.MustParsePrefix("203.0.113.7/24"), For: api.Duration(90 * time.Second), Why: "scan"},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Origin: "cli"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []api.BlockRequest{
		{Prefix: netip.MustParsePrefix("203.0.113.0/24"), For: api.Duration(90 * time.Second), Why: "scan", Origin: "api"},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Origin: "cli"},
	}
	if got := engine.Blocked(); !reflect.DeepEqual(got, want) {
		t.Errorf("the engine got %+v", got)
	}
	if len(blocks) != 2 || !blocks[0].Expires.Equal(apitest.Now.Add(90*time.Second)) || !blocks[1].Expires.IsZero() {
		t.Errorf("blocks are %+v", blocks)
	}
	gone, err := c.Unblock(t.Context(), []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("192.0.2.77/24")})
	if err != nil {
		t.Fatal(err)
	}
	if len(gone.Removed) != 1 || !slices.Equal(gone.Missing, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}) {
		t.Errorf("unblocked is %+v", gone)
	}
}

// A batch with wrong entries tells which, and asks the engine for nothing.
func TestBlockWrongEntries(t *testing.T) {
	engine := &apitest.Engine{}
	socket := serve(t, engine)
	body := `[{"prefix":"203.0.113.7/32"}, {"prefix":"203.0.113.300/32"}, 5, {"prefix":"203.0.113.8/32","for":-1}, {"prefix":"203.0.113.9/32"}]`
	response, text := raw(t, socket, "POST", "/v1/blocks", strings.NewReader(body))
	var problem api.Problem
	if err := json.Unmarshal([]byte(text), &problem); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var wrong []int
	for _, entry := range problem.Entries {
		wrong = append(wrong, entry.Entry)
	}
	if response.StatusCode != http.StatusBadRequest || !slices.Equal(wrong, []int{2, 3, 4}) || !strings.HasPrefix(problem.Detail, "3 of 5 entries can't be blocked, so none was; entry 2: ") {
		t.Errorf("%d: %s", response.StatusCode, text)
	}
	if got := engine.Blocked(); len(got) > 0 {
		t.Errorf("the engine got %+v", got)
	}
	many := "[" + strings.Repeat("{},", 999) + "{}]"
	_, text = raw(t, socket, "POST", "/v1/blocks", strings.NewReader(many))
	if err := json.Unmarshal([]byte(text), &problem); err != nil || len(problem.Entries) != 100 || !strings.HasPrefix(problem.Detail, "1000 of 1000") {
		t.Errorf("%v: %d entries: %s", err, len(problem.Entries), problem.Detail)
	}
}

// Thousands of prefixes are unblocked, although a URL doesn't hold them.
func TestUnblockMany(t *testing.T) {
	engine := &apitest.Engine{}
	c := client.New(serve(t, engine))
	defer c.Close()
	var prefixes []netip.Prefix
	for i := range 100_000 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	gone, err := c.Unblock(t.Context(), prefixes)
	if err != nil || !slices.Equal(gone.Missing, prefixes) {
		t.Errorf("%d of %d: %v", len(gone.Missing), len(prefixes), err)
	}
}

func TestApply(t *testing.T) {
	var got api.ApplyRequest
	engine := &apitest.Engine{Change: func(request api.ApplyRequest) (api.ApplyResult, error) {
		got = request
		return api.ApplyResult{Revision: 3, Changed: true, Warnings: api.Warnings([]config.Warning{
			{Pos: model.Position{File: "x.yaml", Line: 2, Column: 3}, Msg: "hm", Line: "  key: 1"}})}, nil
	}}
	c := client.New(serve(t, engine))
	defer c.Close()
	sent := api.ApplyRequest{Name: "x.yaml", Dir: "/etc", YAML: "filter: {}\n", Check: true}
	result, err := c.Apply(t.Context(), sent)
	if err != nil {
		t.Fatal(err)
	}
	if got != sent || result.Revision != 3 || len(result.Warnings) != 1 {
		t.Errorf("sent %+v, got %+v, result %+v", sent, got, result)
	}
	want := config.Warning{Pos: model.Position{File: "x.yaml", Line: 2, Column: 3}, Msg: "hm", Line: "  key: 1"}.String()
	if text := result.Warnings[0].String(); text != want {
		t.Errorf("the warning is\n%s\nwant\n%s", text, want)
	}
}

// The errors of a configuration print at the client as they would in the daemon.
func TestConfigErrors(t *testing.T) {
	want := config.Errors{
		{Pos: model.Position{File: "gardu.yaml", Line: 3, Column: 5}, Msg: "unknown key \"defualt\"", Allowed: "default", Line: "    defualt: pass"},
		{Pos: model.Position{File: "drop.netset", Line: 7, Column: 1}, Msg: "not an address", Line: "300.1.1.1"},
	}
	engine := &apitest.Engine{Fail: want}
	c := client.New(serve(t, engine))
	defer c.Close()
	_, err := c.Apply(t.Context(), api.ApplyRequest{YAML: "x"})
	problem, ok := errors.AsType[*api.Problem](err)
	if !ok || problem.Code != api.CodeConfig || problem.Status != http.StatusUnprocessableEntity {
		t.Fatalf("error is %#v", err)
	}
	if got, ok := errors.AsType[config.Errors](err); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

func TestProblems(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	huge := strings.NewReader(`{"yaml":"` + strings.Repeat("x", api.MaxRequest) + `"}`)
	for _, c := range []struct {
		method, path string
		body         io.Reader
		code         api.Code
		detail       string
	}{
		{"GET", "/", nil, api.CodeNotFound, "no / in this API"},
		{"GET", "/v2/status", nil, api.CodeNotFound, "no /v2/status"},
		{"POST", "/v1/status", nil, api.CodeMethod, "takes GET, not POST"},
		{"PUT", "/v1/blocks", nil, api.CodeMethod, "not PUT"},
		{"POST", "/v1/blocks", strings.NewReader(`[]`), api.CodeInvalid, "nothing to block"},
		{"POST", "/v1/blocks", strings.NewReader(`[{}]`), api.CodeInvalid, "entry 1: there is no prefix"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"0.0.0.0/0"}]`), api.CodeInvalid, "use filter.default"},
		{"POST", "/v1/drains", strings.NewReader(`{"service":"web","backend":"b9"}`), api.CodeNotFound, "no backend b9"},
		{"POST", "/v1/drains", strings.NewReader(`{"service":"web","backend":"b1","timeout":-1}`), api.CodeInvalid, "negative"},
		{"DELETE", "/v1/drains", nil, api.CodeNotFound, "no backend"},
		{"PUT", "/v1/weights", strings.NewReader(`{"service":"web","backend":"b1","weight":65536}`), api.CodeInvalid, "0 to 65535"},
		{"PUT", "/v1/weights", strings.NewReader(`{"service":"web","backend":"b1","weight":-1}`), api.CodeInvalid, "0 to 65535"},
		{"POST", "/v1/blocks", strings.NewReader(`{}`), api.CodeInvalid, "cannot unmarshal"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7"}]`), api.CodeInvalid, "no '/'"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7/32","for":-1}]`), api.CodeInvalid, "negative"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7/32","for":1e300}]`), api.CodeInvalid, "too long"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7/32","until":1}]`), api.CodeInvalid, `unknown field "until"`},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7/32"}] x`), api.CodeInvalid, "invalid character"},
		{"POST", "/v1/blocks", strings.NewReader(`[{"prefix":"203.0.113.7/32"}] []`), api.CodeInvalid, "something follows"},
		{"DELETE", "/v1/blocks", nil, api.CodeInvalid, "nothing to unblock"},
		{"DELETE", "/v1/blocks?prefix=x", nil, api.CodeInvalid, `"x" is not a prefix`},
		{"PUT", "/v1/snapshot", strings.NewReader(``), api.CodeInvalid, "EOF"},
		{"PUT", "/v1/snapshot", huge, api.CodeTooLarge, "larger than"},
		{"POST", "/v1/explain", strings.NewReader(`{}`), api.CodeInvalid, "either"},
		{"POST", "/v1/explain", strings.NewReader(`{"packet":"tcp x"}`), api.CodeInvalid, "^"},
		{"POST", "/v1/explain", strings.NewReader(`{"frame":"zz"}`), api.CodeInvalid, "invalid byte"},
		{"POST", "/v1/explain", strings.NewReader(`{"frame":"00","as_new_flow":true,"with_flow":true}`), api.CodeInvalid, "contradict"},
		{"POST", "/v1/explain", strings.NewReader(`{"frame":"00","backend":"b1"}`), api.CodeInvalid, "with_flow"},
		{"POST", "/v1/explain", strings.NewReader(`{"frame":"00","at":"2020-01-02T03:04:05Z"}`), api.CodeInvalid, "is over"},
		{"GET", "/v1/flows?filter=dpotr+1", nil, api.CodeInvalid, `"dpotr" is not a key`},
		{"GET", "/v1/flows?sort=beauty", nil, api.CodeInvalid, "bytes, dst, duration"},
		{"GET", "/v1/flows?group=srv", nil, api.CodeInvalid, `"srv" is not a key to group by`},
		{"GET", "/v1/flows?group=src&sort=dst", nil, api.CodeInvalid, "bytes, duration, first, flows"},
		{"GET", "/v1/top", nil, api.CodeInvalid, "a key is missing"},
		{"GET", "/v1/top?group=srv", nil, api.CodeInvalid, `"srv" is not a key to group by`},
		{"GET", "/v1/top?group=src&filter=dpotr+1", nil, api.CodeInvalid, `"dpotr" is not a key`},
		{"GET", "/v1/top?group=src&sort=src", nil, api.CodeInvalid, "bytes, packets, flows"},
		{"GET", "/v1/top?group=src&limit=-1", nil, api.CodeInvalid, "not 1 to 10000"},
		{"GET", "/v1/top?group=src&limit=x", nil, api.CodeInvalid, "not a number of groups"},
		{"GET", "/v1/top?group=src&every=1ms", nil, api.CodeInvalid, "100ms to 1h"},
		{"GET", "/v1/top?group=src&every=soon", nil, api.CodeInvalid, "a time like 2s"},
		{"GET", "/v1/flows?limit=-1", nil, api.CodeInvalid, "not a number of flows"},
		{"GET", "/v1/events?filter=bytes+1", nil, api.CodeInvalid, `"bytes" is not a key`},
		{"GET", "/v1/events?last=-1", nil, api.CodeInvalid, "number of events"},
		{"GET", "/v1/events?follow=perhaps", nil, api.CodeInvalid, "true or false"},
	} {
		response, body := raw(t, socket, c.method, c.path, c.body)
		var problem api.Problem
		if err := json.Unmarshal(body, &problem); err != nil {
			t.Errorf("%s %s: %v: %s", c.method, c.path, err, body)
			continue
		}
		if problem.Code != c.code || !strings.Contains(problem.Detail, c.detail) {
			t.Errorf("%s %s: %s: %s", c.method, c.path, problem.Code, problem.Detail)
		}
		if response.StatusCode != c.code.Status() || problem.Status != response.StatusCode || problem.Type != "about:blank" ||
			problem.Title == "" || response.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %s %+v", c.method, c.path, response.Status, problem)
		}
	}
	response, _ := raw(t, socket, "PUT", "/v1/blocks", nil)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		if allow := response.Header.Get("Allow"); !strings.Contains(allow, method) {
			t.Errorf("Allow is %q", allow)
		}
	}
}

// Whatever the engine's error is, every method passes it on.
func TestEngineErrors(t *testing.T) {
	for _, c := range []struct {
		fail error
		code api.Code
	}{
		{errors.New("disk on fire"), api.CodeInternal},
		{api.NewProblem(api.CodeFull, "262144 blocks are the most"), api.CodeFull},
	} {
		client := client.New(serve(t, &apitest.Engine{Fail: c.fail}))
		defer client.Close()
		ctx := t.Context()
		calls := map[string]func() error{
			"status":   func() error { _, err := client.Status(ctx); return err },
			"rules":    func() error { _, err := client.Rules(ctx); return err },
			"sets":     func() error { _, err := client.Sets(ctx); return err },
			"services": func() error { _, err := client.Services(ctx); return err },
			"backends": func() error { _, err := client.Backends(ctx); return err },
			"blocks":   func() error { _, err := client.Blocks(ctx); return err },
			"block": func() error {
				_, err := client.Block(ctx, []api.BlockRequest{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}})
				return err
			},
			"unblock": func() error {
				_, err := client.Unblock(ctx, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")})
				return err
			},
			"flows":   func() error { return client.Flows(ctx, api.FlowQuery{}, func(api.Flow) error { return nil }) },
			"apply":   func() error { _, err := client.Apply(ctx, api.ApplyRequest{}); return err },
			"explain": func() error { _, err := client.Explain(ctx, api.ExplainRequest{Frame: api.Hex{1}}); return err },
		}
		for name, call := range calls {
			err := call()
			if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != c.code || problem.Detail != c.fail.Error() {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestFlows(t *testing.T) {
	c := client.New(serve(t, &apitest.Engine{}))
	defer c.Close()
	for _, q := range []struct {
		query api.FlowQuery
		want  string // destination ports
	}{
		{api.FlowQuery{}, "443 22 0"},
		{api.FlowQuery{Limit: 2}, "443 22"},
		{api.FlowQuery{Filter: "proto tcp"}, "443 22"},
		{api.FlowQuery{Filter: "proto 132"}, "0"},
		{api.FlowQuery{Filter: "verdict drop", Limit: 1}, "22"},
		{api.FlowQuery{Filter: "vlan 12"}, "0"},
		{api.FlowQuery{Filter: "age < 1s"}, ""},
		{api.FlowQuery{Filter: "packets 2400"}, "443"}, // both directions
		{api.FlowQuery{Sort: "bytes"}, "443 0 22"},
		{api.FlowQuery{Sort: "packets", Limit: 2}, "443 0"},
		{api.FlowQuery{Sort: "first"}, "22 0 443"},
		{api.FlowQuery{Sort: "last"}, "443 0 22"},
		{api.FlowQuery{Sort: "duration"}, "443 0 22"},
		{api.FlowQuery{Sort: "rate"}, "443 0 22"},
		{api.FlowQuery{Sort: "src"}, "443 22 0"},
		{api.FlowQuery{Sort: "dst"}, "22 443 0"},
	} {
		var ports []string
		err := c.Flows(t.Context(), q.query, func(f api.Flow) error {
			text, err := json.Marshal(f.Dport)
			ports = append(ports, string(text))
			return err
		})
		if got := strings.Join(ports, " "); err != nil || got != q.want {
			t.Errorf("%+v: %q, %v", q.query, got, err)
		}
	}
	stop := errors.New("stop")
	if err := c.Flows(t.Context(), api.FlowQuery{}, func(api.Flow) error { return stop }); err != stop {
		t.Errorf("yield's error became %v", err)
	}
	if len(api.FlowSorts()) != 8 {
		t.Errorf("untested sorts: %v", api.FlowSorts())
	}
}

// A stream that breaks off says so after the flows it has.
func TestFlowsBreakOff(t *testing.T) {
	c := client.New(serve(t, &apitest.Engine{FlowsFail: errors.New("table went away")}))
	defer c.Close()
	seen := 0
	err := c.Flows(t.Context(), api.FlowQuery{}, func(api.Flow) error { seen++; return nil })
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Detail != "table went away" || seen != 3 {
		t.Errorf("%d flows, then %v", seen, err)
	}
}

// A sample has what flows did, added up and sorted, and what is in no flow.
func TestTop(t *testing.T) {
	c := client.New(serve(t, &apitest.Engine{}))
	defer c.Close()
	samples := 0
	query := api.TopQuery{Group: "proto,service", Filter: "proto tcp", Limit: 1, Every: time.Second}
	err := c.Top(t.Context(), query, func(got api.TopSample) error {
		samples++
		first := api.FlowGroup{Group: map[string]string{"proto": "tcp", "service": "web"}, Flows: 1, Packets: 150, Bytes: 200_000,
			PacketsReply: 90, BytesReply: 50_000, First: apitest.Now.Add(-5 * time.Minute), Last: apitest.Now.Add(-time.Second)}
		other := api.FlowGroup{Other: true, Flows: 1, Bytes: 18, First: apitest.Now.Add(-time.Minute), Last: apitest.Now.Add(-30 * time.Second)}
		want := api.TopSample{Groups: []api.FlowGroup{first, other}, Unattributed: api.Counter{Packets: 990 - 241, Bytes: 990_000 - 250_118},
			Reading: api.Reading{Since: apitest.Now.Add(-time.Second), Until: apitest.Now, Total: api.Counter{Packets: 1_000, Bytes: 1_000_000}}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		return nil
	})
	if err != nil || samples != 1 {
		t.Errorf("%d samples, %v", samples, err)
	}
	query.Filter = "vlan 99"
	err = c.Top(t.Context(), query, func(got api.TopSample) error {
		if got.Groups == nil || len(got.Groups) != 0 {
			t.Errorf("%+v", got.Groups)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// many yields n flows with rising byte counts.
type many struct {
	*apitest.Engine
	n int
}

func (m many) Flows(_ context.Context, yield func(api.Flow) error) error {
	for i := range m.n {
		if err := yield(api.Flow{Sport: uint16(i), Bytes: uint64(i)}); err != nil {
			return err
		}
	}
	return nil
}

func TestTopFlows(t *testing.T) {
	c := client.New(serve(t, many{&apitest.Engine{}, 20_000}))
	defer c.Close()
	next := uint64(20_000)
	err := c.Flows(t.Context(), api.FlowQuery{Sort: "bytes", Limit: 700}, func(f api.Flow) error {
		if next--; f.Bytes != next {
			t.Fatalf("got %d, want %d", f.Bytes, next)
		}
		return nil
	})
	if err != nil || next != 20_000-700 {
		t.Errorf("down to %d, %v", next, err)
	}
}

// What answers on the socket may be anything.
func TestNotGardu(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go http.Serve(listener, http.NotFoundHandler())
	_, err = client.New(path).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not that of a gardu daemon: HTTP 404") {
		t.Errorf("error is %v", err)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"1.5": 1500 * time.Millisecond, "0": 0, "600": 10 * time.Minute} {
		var d api.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s became %v, %v", text, time.Duration(d), err)
		}
		if back, err := json.Marshal(d); err != nil || string(back) != text {
			t.Errorf("%v became %s, %v", want, back, err)
		}
	}
	for _, text := range []string{`"5m"`, "1e18", "-1e300"} {
		var d api.Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s became %v", text, time.Duration(d))
		}
	}
}
