// Package apitest has an Engine for tests of what stands before and behind the API: it answers with a small, complete
// example and remembers what it was asked to change.
package apitest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
)

// Now is the time of the example.
var Now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Engine answers from the example. The zero value is ready.
type Engine struct {
	// Fail, when set, is every method's answer.
	Fail error
	// FlowsFail is returned after all flows were yielded.
	FlowsFail error
	// Judge answers Explain; nil gives Forwarded.
	Judge func(api.ExplainRequest) (api.Explanation, error)
	// Change answers Apply; nil accepts.
	Change func(api.ApplyRequest) (api.ApplyResult, error)
	// Foresee answers Plan; nil gives an example.
	Foresee func(api.PlanRequest) (api.Plan, error)

	mu      sync.Mutex
	tokens  []api.NewToken
	level   api.LogLevel
	blocked []api.BlockRequest
	orders  []string
	removed []netip.Prefix
}

// Blocked returns what Block was asked for so far.
func (e *Engine) Blocked() []api.BlockRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.blocked)
}

// Orders returns what Drain, Undrain and Weigh were asked for so far, a line each.
func (e *Engine) Orders() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.orders)
}

func (e *Engine) order(text string, service, backend string, change func(*api.Backend)) (api.Ordered, error) {
	backends, err := e.Backends(context.Background())
	if err != nil {
		return api.Ordered{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(backends, func(b api.Backend) bool { return b.Service == service && b.Name == backend })
	if i < 0 {
		return api.Ordered{}, api.NewProblem(api.CodeNotFound, "%s has no backend %s, but b1, b2", service, backend)
	}
	e.orders = append(e.orders, text)
	change(&backends[i])
	return api.Ordered{Backend: backends[i], Warning: "no backend of web takes new flows: they are dropped"}, nil
}

// Capture implements api.Engine: it tells of one packet, and of losses.
func (e *Engine) Capture(_ context.Context, wish api.CaptureWish, yield func(api.CaptureItem, bool) error) error {
	if e.Fail != nil {
		return e.Fail
	}
	frame := api.CapturedFrame{Length: len(example), Frame: example[:min(wish.Snap, len(example))]}
	packet := &api.Captured{
		Time: Now, Verdict: "forward", Reason: "forward", Service: "web", Backend: "b1", Interface: "eth0", Direction: "in",
		Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.10"), Sport: 40000, Dport: 443, Proto: "tcp", Packets: 1,
		CapturedFrame: frame, Out: &api.CapturedOut{Interface: "eth1", CapturedFrame: frame},
	}
	return errors.Join(yield(api.CaptureItem{Began: "1"}, false), yield(api.CaptureItem{Captured: packet}, true),
		yield(api.CaptureItem{Totals: &api.CaptureTotals{Captured: 1, Lost: 2, Missed: 3}}, false))
}

// example is a frame.
var example, _ = pkt.Parse("tcp 198.51.100.7:40000 > 192.0.2.10:443 syn")

// EndCapture implements api.Engine.
func (e *Engine) EndCapture(context.Context, string) error { return e.Fail }

// Drain implements api.Engine.
func (e *Engine) Drain(_ context.Context, request api.DrainRequest) (api.Ordered, error) {
	text := fmt.Sprintf("drain %s/%s %s", request.Service, request.Backend, time.Duration(request.Timeout))
	return e.order(text, request.Service, request.Backend, func(b *api.Backend) {
		b.State = api.StateDraining
		if request.Timeout > 0 {
			b.Until = Now.Add(time.Duration(request.Timeout))
		}
	})
}

// Undrain implements api.Engine.
func (e *Engine) Undrain(_ context.Context, service, backend string) (api.Ordered, error) {
	return e.order(fmt.Sprintf("undrain %s/%s", service, backend), service, backend, func(*api.Backend) {})
}

// Weigh implements api.Engine.
func (e *Engine) Weigh(_ context.Context, request api.WeightRequest) (api.Ordered, error) {
	text := fmt.Sprintf("weigh %s/%s as configured", request.Service, request.Backend)
	if request.Weight != nil {
		text = fmt.Sprintf("weigh %s/%s %d", request.Service, request.Backend, *request.Weight)
	}
	return e.order(text, request.Service, request.Backend, func(b *api.Backend) {
		if request.Weight != nil {
			b.Weight = *request.Weight
		}
	})
}

// Removed returns what Unblock was asked for so far.
func (e *Engine) Removed() []netip.Prefix {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.removed)
}

func since(ago time.Duration) *time.Time {
	at := Now.Add(-ago)
	return &at
}

// Status implements api.Engine.
func (e *Engine) Status(context.Context) (api.Status, error) {
	return api.Status{
		Version:    "0.1.0",
		Revision:   7,
		Generation: 9,
		Config:     "/etc/gardu/gardu.yaml",
		Applied:    Now.Add(-time.Hour),
		Started:    Now.Add(-26*time.Hour - 3*time.Minute),
		Uptime:     api.Duration(26*time.Hour + 3*time.Minute),
		Interfaces: []api.Interface{
			{Name: "eth0", Ifindex: 2, Path: model.PathTC, Want: model.PathAuto, Attached: true,
				Why: "veth with offloads on: XDP would send broken checksums",
				Traffic: &api.Traffic{Received: api.Counter{Packets: 2_000_000, Bytes: 3_000_000_000},
					Dropped: api.Counter{Packets: 2_000, Bytes: 120_000}, Sent: api.Counter{Packets: 500, Bytes: 30_000}}},
			{Name: "eth1", Ifindex: 3, Path: model.PathXDP, Want: model.PathXDP, Egress: true, Attached: true,
				Traffic: &api.Traffic{Received: api.Counter{Packets: 1_007_000, Bytes: 1_200_720_000},
					Sent: api.Counter{Packets: 3_000_000, Bytes: 4_200_000_000}, SentDropped: api.Counter{Packets: 7, Bytes: 420}}},
			{Name: "wan0", Want: model.PathAuto, Error: "no such interface; waiting for it", Traffic: &api.Traffic{}},
		},
		Reasons: map[string]api.ReasonCounter{
			"default-pass": {Counter: api.Counter{Packets: 5_000, Bytes: 600_000}, Verdict: "pass"},
			"rule-drop":    {Counter: api.Counter{Packets: 1_200, Bytes: 72_000}, Verdict: "drop"},
			"blocked":      {Counter: api.Counter{Packets: 800, Bytes: 48_000}, Verdict: "drop"},
			"forward":      {Counter: api.Counter{Packets: 3_000_000, Bytes: 4_200_000_000}, Verdict: "forward"},
		},
		Filter: api.FilterTotals{Reached: 3_007_000, Allowed: 10, Blocked: 800, Decided: 1_200, Default: 3_004_990},
		Dropped: &api.DroppedTotals{Entries: 4_000, Max: 65_536, Packets: 9_000, Bytes: 540_000, Attributed: 8_900, Unattributed: 100,
			UnattributedBytes: 6_000},
		Flows: api.FlowTotals{Entries: 850_000, Max: 1_000_000, Created: 900_000, Evicted: 12, Refused: 3, Unattributed: 15,
			UnattributedBytes: 900, Accounted: 3_006_000, AccountedBytes: 4_200_000_000,
			Reports: &api.ReportTotals{Reports: 52_000, Packets: 2_900_000, Bytes: 4_100_000_000, Pending: 105_985, Missed: 15}},
		Sinks: []api.Sink{
			{Name: "ipfix 127.0.0.1:4739", Reports: 52_000, Packets: 2_900_000, Bytes: 4_100_000_000, Waiting: 12},
			{Name: "history", Reports: 51_000, Packets: 2_800_000, Bytes: 4_000_000_000, LostReports: 1_012, LostPackets: 100_000, LostBytes: 90_000_000},
			{Name: "file /var/log/gardu/flows.csv", LostReports: 3, LostPackets: 40, LostBytes: 5_000, Error: "no space left on device"},
		},
		History: &api.HistoryStatus{Path: "/var/lib/gardu/history/flows.db", Size: 312_000_000, MaxSize: 1_000_000_000,
			Minutes: since(24 * time.Hour), Fives: since(7 * 24 * time.Hour), Hours: since(90 * 24 * time.Hour),
			Reported: api.HistoryCounts{Flows: 40_000, Packets: 1_800_000, Bytes: 3_000_000_000, PacketsReply: 1_000_000, BytesReply: 1_000_000_000},
			Written:  api.HistoryCounts{Flows: 39_000, Packets: 1_790_000, Bytes: 2_990_000_000, PacketsReply: 1_000_000, BytesReply: 1_000_000_000},
			Pending:  api.HistoryCounts{Flows: 1_000, Packets: 10_000, Bytes: 10_000_000}},
		Tables: []api.Fill{
			{Name: "flows", Entries: 850_000, Max: 1_000_000},
			{Name: "blocks", Entries: 2, Max: 262_144},
		},
		Warnings: []string{"wan0 is not attached: no such interface"},
	}, e.Fail
}

// Ready implements api.Engine.
func (e *Engine) Ready(context.Context) error { return e.Fail }

// Rules implements api.Engine.
func (e *Engine) Rules(context.Context) ([]api.Rule, error) {
	return []api.Rule{
		{Name: "office-ssh", Match: "src: @office, proto: tcp, dport: 22", Action: model.Pass, Packets: 90, Bytes: 9_000, Decided: 90,
			Direction: model.In, Pos: model.Position{File: "gardu.yaml", Line: 9, Column: 7}},
		{Name: "ssh", Match: "proto: tcp, dport: 22", Action: model.Drop, Packets: 1_200, Bytes: 72_000, Decided: 1_200,
			Direction: model.In, Log: 100, Pos: model.Position{File: "gardu.yaml", Line: 10, Column: 7}},
		{Name: "mail", Match: "proto: tcp, dport: 25", Action: model.Drop, Packets: 70, Bytes: 4_000, Shadow: 8,
			Direction: model.Out, ShadowRule: true, Limit: &api.Limit{Rate: "10k/s", Burst: "20k", Per: "src/24"}, Sample: 1000,
			Pos: model.Position{File: "gardu.yaml", Line: 11, Column: 7}},
	}, e.Fail
}

// Sets implements api.Engine.
func (e *Engine) Sets(context.Context) ([]api.Set, error) {
	return []api.Set{
		{Name: "known-bad", Kind: "addresses", Entries: 1_000_000, Wanted: 999_000, Kernel: 999_000, State: "ok",
			File: "lists/drop.netset", Loaded: Now.Add(-time.Hour), Age: api.Duration(time.Hour), Packets: 5, Bytes: 300},
		{Name: "web-ports", Kind: "ports", Entries: 3, Wanted: 102, State: "unused", Difference: "no rule asks for it"},
	}, e.Fail
}

// Services implements api.Engine.
func (e *Engine) Services(context.Context) ([]api.Service, error) {
	return []api.Service{{Name: "web", Address: "192.0.2.10", Port: "443", Proto: "tcp", Forward: "ipip",
		Affinity: model.AffinityFlow, Backends: 2, BackendsUp: 1, Packets: 3_000_000, Bytes: 4_200_000_000, Flows: 40_000, Active: 310,
		Rates: api.Rates{Packets: 1500.5, Bytes: 2_100_000, Flows: 20}}}, e.Fail
}

// Backends implements api.Engine.
func (e *Engine) Backends(context.Context) ([]api.Backend, error) {
	return []api.Backend{
		{Service: "web", Name: "b1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 100, Configured: 100, State: "up", Since: Now.Add(-time.Hour),
			Why: "HTTP 200 in 2ms", NextHop: "eth1 02:00:00:00:00:0b", Packets: 2_000_000, Bytes: 2_800_000_000, Flows: 26_000, Active: 310,
			Rates: api.Rates{Packets: 1500.5, Bytes: 2_100_000, Flows: 20}},
		{Service: "web", Name: "b2", Address: netip.MustParseAddr("2001:db8::12"), Weight: 50, Configured: 50, State: "down", Since: Now.Add(-time.Minute),
			Why: "connection refused", Packets: 1_000_000, Bytes: 1_400_000_000, Flows: 14_000},
	}, e.Fail
}

// Blocks implements api.Engine.
func (e *Engine) Blocks(context.Context) ([]api.Block, error) {
	return []api.Block{
		{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Created: Now.Add(-time.Minute), Expires: Now.Add(9 * time.Minute),
			Packets: 800, Bytes: 48_000, Origin: "cli", Why: "scanner, again"},
		{Prefix: netip.MustParsePrefix("2001:db8:bad::/48"), Created: Now.Add(-time.Hour), Origin: "api"},
	}, e.Fail
}

// Block implements api.Engine.
func (e *Engine) Block(_ context.Context, requests []api.BlockRequest) ([]api.Block, error) {
	if e.Fail != nil {
		return nil, e.Fail
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.blocked = append(e.blocked, requests...)
	var blocks []api.Block
	for _, request := range requests {
		block := api.Block{Prefix: request.Prefix, Created: Now, Origin: request.Origin, Why: request.Why}
		if request.For > 0 {
			block.Expires = Now.Add(time.Duration(request.For))
		}
		blocks = append(blocks, block)
	}
	return blocks, nil
}

// Unblock implements api.Engine. Only what Blocks shows is there to be removed.
func (e *Engine) Unblock(ctx context.Context, prefixes []netip.Prefix) (api.Unblocked, error) {
	blocks, err := e.Blocks(ctx)
	if err != nil {
		return api.Unblocked{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.removed = append(e.removed, prefixes...)
	var result api.Unblocked
	for _, prefix := range prefixes {
		if slices.ContainsFunc(blocks, func(b api.Block) bool { return b.Prefix == prefix }) {
			result.Removed = append(result.Removed, prefix)
		} else {
			result.Missing = append(result.Missing, prefix)
		}
	}
	return result, nil
}

// Flows implements api.Engine.
func (e *Engine) Flows(_ context.Context, yield func(api.Flow) error) error {
	if e.Fail != nil {
		return e.Fail
	}
	for _, flow := range []api.Flow{
		{Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.10"), Sport: 40000, Dport: 443, Proto: "tcp",
			Packets: 1_500, Bytes: 2_000_000, PacketsReply: 900, BytesReply: 500_000, First: Now.Add(-5 * time.Minute), Last: Now.Add(-time.Second),
			Verdict: "forward", Reason: "forward", Service: "web", Backend: "b1", State: "established", Flags: "SA", FlagsReply: "SA",
			Interface: "eth0", InterfaceReply: "eth1", ServerRTT: api.Duration(1200 * time.Microsecond), ClientRTT: api.Duration(30 * time.Millisecond),
			Retransmits: 2, TTLMin: 57, TTLMax: 58, TTLMinReply: 63, TTLMaxReply: 63, DSCP: 10},
		{Src: netip.MustParseAddr("203.0.113.9"), Dst: netip.MustParseAddr("192.0.2.1"), Sport: 50000, Dport: 22, Proto: "tcp",
			Packets: 3, Bytes: 180, First: Now.Add(-time.Minute), Last: Now.Add(-30 * time.Second),
			Verdict: "drop", Reason: "rule-drop", Rule: "ssh", State: "new", Flags: "S", Interface: "eth0",
			TTLMin: 50, TTLMax: 50},
		{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"), Proto: "132",
			Packets: 10, Bytes: 1_000, First: Now.Add(-2 * time.Minute), Last: Now.Add(-2 * time.Second),
			Verdict: "pass", Reason: "default-pass", State: "established", Interface: "eth1", Vlan: 12},
	} {
		if err := yield(flow); err != nil {
			return err
		}
	}
	return e.FlowsFail
}

// FlowChanges implements api.Engine: one reading, a second after another, in which each flow had a tenth of its packets.
func (e *Engine) FlowChanges(ctx context.Context, _ time.Duration, yield func(api.Flow, api.FlowChange) error, read func(api.Reading) error) error {
	reading := api.Reading{Since: Now.Add(-time.Second), Until: Now, Total: api.Counter{Packets: 1_000, Bytes: 1_000_000},
		Least: api.Counter{Packets: 990, Bytes: 990_000}}
	err := e.Flows(ctx, func(f api.Flow) error {
		return yield(f, api.FlowChange{Packets: f.Packets / 10, Bytes: f.Bytes / 10, PacketsReply: f.PacketsReply / 10, BytesReply: f.BytesReply / 10})
	})
	if err != nil {
		return err
	}
	return read(reading)
}

// Apply implements api.Engine.
func (e *Engine) Apply(_ context.Context, request api.ApplyRequest) (api.ApplyResult, error) {
	if e.Fail != nil {
		return api.ApplyResult{}, e.Fail
	}
	if e.Change != nil {
		return e.Change(request)
	}
	if !api.Matches(request.IfMatch, tag) {
		return api.ApplyResult{}, e.stale()
	}
	return api.ApplyResult{Revision: 8, Tag: "8-def", Changed: true, Rules: 2, Sets: 2, Services: 1}, nil
}

// tag is that of what is in force.
const tag = "7-abc"

func (e *Engine) stale() *api.Problem {
	problem := api.NewProblem(api.CodeStale, "revision 7 is in force now (apply by anna)")
	problem.Current = &e.revisions()[0]
	return problem
}

// Plan implements api.Engine.
func (e *Engine) Plan(_ context.Context, request api.PlanRequest) (api.Plan, error) {
	if e.Foresee != nil {
		return e.Foresee(request)
	}
	return api.Plan{
		Revision: 7, Changed: true,
		Changes: []api.Change{
			{Change: api.ChangeAdded, Kind: "set", Name: "scanners", Text: "addresses, 3 entries of lists/scanners.txt", At: "gardu.yaml:5:3"},
			{Change: api.ChangeChanged, Kind: "rule", Name: "ssh", At: "gardu.yaml:9:7", Keys: []api.ChangedKey{
				{Key: "action", Old: "pass", New: "drop"}, {Key: "log", New: "1/100"}}},
			{Change: api.ChangeRemoved, Kind: "backend", Name: "web/b2", Text: "address: 10.0.0.12, weight: 50", At: "/etc/gardu/gardu.yaml:20:9"},
		},
		Warnings: []api.Warning{{Position: model.Position{File: "gardu.yaml", Line: 9, Column: 7}, Message: "hm", Text: "    - name: ssh"}},
		Services: []api.PlannedShare{{Service: "web", Moved: 1.0 / 3, Backends: []api.PlannedBackend{
			{Name: "b1", Before: 2.0 / 3, After: 1}, {Name: "b2", Before: 1.0 / 3}}}},
		Flows: &api.PlannedFlows{Live: 25_000, Judged: 10_000, Cut: 12, Opened: 1, Otherwise: []api.PlannedVerdict{
			{Before: "pass", After: "drop", Reason: "rule-drop", Rule: "ssh", Flows: 12, Established: 11,
				Session:  "tcp 198.51.100.7:40000 > 192.0.2.1:22",
				Examples: []string{"tcp 198.51.100.9:40000 > 192.0.2.1:22", "tcp 198.51.100.7:40000 > 192.0.2.1:22"}},
			{Before: "drop", After: "pass", Reason: "default-pass", Flows: 1, Examples: []string{"udp 198.51.100.7:53 > 192.0.2.1:40000"}},
			{Before: "forward", After: "pass", Reason: "default-pass", Service: "old", Flows: 1, Examples: []string{"tcp 198.51.100.7:40000 > 192.0.2.11:80"}},
		}, Services: []api.PlannedAssignment{{Service: "web", Live: 900, Leave: 0, Anew: 300}}},
		Price: &api.PlannedPrice{Flows: 128, Known: &api.PlannedNs{Before: 84.4, After: 85.1}, New: &api.PlannedNs{Before: 210.5, After: 260.25}},
	}, e.Fail
}

// Confirm implements api.Engine.
func (e *Engine) Confirm(_ context.Context, request api.ConfirmRequest) (api.ConfirmResult, error) {
	if request.Revision == 0 {
		request.Revision = 7
	}
	return api.ConfirmResult{Revision: request.Revision}, e.Fail
}

// Rollback implements api.Engine.
func (e *Engine) Rollback(_ context.Context, request api.RollbackRequest) (api.ApplyResult, error) {
	if e.Fail != nil {
		return api.ApplyResult{}, e.Fail
	}
	if !api.Matches(request.IfMatch, tag) {
		return api.ApplyResult{}, e.stale()
	}
	return api.ApplyResult{Revision: 8, Changed: true, Rules: 2, Sets: 2, Services: 1, Waiting: e.waiting(8, request.Confirm)}, nil
}

func (e *Engine) waiting(revision uint64, confirm api.Duration) *api.Waiting {
	if confirm == 0 {
		return nil
	}
	return &api.Waiting{Revision: revision, Back: revision - 1, Author: "root", Until: Now.Add(time.Duration(confirm)), Left: confirm}
}

// Revisions implements api.Engine.
func (e *Engine) Revisions(context.Context) ([]api.Revision, error) {
	list := e.revisions()
	for i := range list {
		list[i].YAML, list[i].Tag = "", ""
	}
	return list, e.Fail
}

// Revision implements api.Engine.
func (e *Engine) Revision(_ context.Context, number uint64) (api.Revision, error) {
	for _, r := range e.revisions() {
		if r.Revision == number || number == 0 {
			return r, e.Fail
		}
	}
	return api.Revision{}, cmp.Or(e.Fail, error(api.NewProblem(api.CodeNotFound, "there is no revision %d", number)))
}

func (e *Engine) revisions() []api.Revision {
	const first = "interfaces:\n  eth0: {path: tc}\n"
	return []api.Revision{
		{Revision: 7, Time: Now.Add(-time.Hour), Author: "anna", How: "apply", Comment: "close ssh to the world", Config: "/etc/gardu/gardu.yaml",
			State: api.RevisionInForce, Tag: tag, YAML: first + "filter: {default: drop}\n"},
		{Revision: 6, Time: Now.Add(-2 * time.Hour), Author: "root", How: "rollback", Of: 4, Config: "/etc/gardu/gardu.yaml", State: api.RevisionPast, YAML: first},
		{Revision: 5, State: api.RevisionDamaged, Error: "revision 5: /var/lib/gardu/revisions/5.json.gz is damaged: it ends too early"},
	}
}

// LogLevel implements api.Engine.
func (e *Engine) LogLevel(context.Context) (api.LogLevel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return api.LogLevel{Level: cmp.Or(e.level.Level, "info"), Until: e.level.Until, Then: e.level.Then}, e.Fail
}

// SetLogLevel implements api.Engine.
func (e *Engine) SetLogLevel(_ context.Context, request api.LogLevelRequest) (api.LogLevel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.level = api.LogLevel{Level: request.Level}
	if request.For > 0 {
		e.level.Until, e.level.Then = Now.Add(time.Duration(request.For)), "info"
	}
	return e.level, e.Fail
}

// CreateToken implements api.Engine.
func (e *Engine) CreateToken(ctx context.Context, request api.TokenRequest) (api.NewToken, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	token := api.NewToken{Token: api.Token{Name: request.Name, Scope: request.Scope, Created: Now, Author: api.Author(ctx)}, Secret: "gardu_" + request.Name}
	if request.For > 0 {
		token.Expires = Now.Add(time.Duration(request.For))
	}
	e.tokens = append(e.tokens, token)
	return token, e.Fail
}

// Tokens implements api.Engine.
func (e *Engine) Tokens(context.Context) (list []api.Token, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, token := range e.tokens {
		list = append(list, token.Token)
	}
	return list, e.Fail
}

// RevokeToken implements api.Engine.
func (e *Engine) RevokeToken(_ context.Context, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.tokens, func(t api.NewToken) bool { return t.Name == name })
	if i < 0 {
		return cmp.Or(e.Fail, error(api.NewProblem(api.CodeNotFound, "there is no token %q", name)))
	}
	e.tokens = slices.Delete(e.tokens, i, i+1)
	return e.Fail
}

// FindToken implements api.Engine.
func (e *Engine) FindToken(secret string) (api.Token, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.tokens, func(t api.NewToken) bool { return t.Secret == secret })
	if i < 0 {
		return api.Token{}, false
	}
	return e.tokens[i].Token, true
}

// Explain implements api.Engine.
func (e *Engine) Explain(_ context.Context, request api.ExplainRequest) (api.Explanation, error) {
	if e.Fail != nil {
		return api.Explanation{}, e.Fail
	}
	if e.Judge != nil {
		return e.Judge(request)
	}
	return Forwarded(request), nil
}

// Forwarded is the explanation of a packet that went to backend b1, and left as it came.
func Forwarded(request api.ExplainRequest) api.Explanation {
	return api.Explanation{
		Verdict: "forward", Reason: "forward", Help: "sent to a backend", Service: "web", Backend: "b1", Interface: "eth0",
		Steps: []api.Step{
			{Step: "parse", Result: "tcp 198.51.100.7:40000 > 192.0.2.10:443"},
			{Step: "block", Result: "no"},
			{Step: "rule", Result: "no rule decides"},
			{Step: "service", Result: "web"},
			{Step: "backend", Result: "b1"},
			{Step: "leave", Result: "forward"},
		},
		Cost: &api.PacketCost{Ns: 118.6, Empty: 12, Runs: 9000, How: "as a packet of a known flow: median of 9 times 1000 runs"},
		Out:  []api.OutFrame{{Interface: "eth1", Hex: api.Hex(request.Frame), Text: "ipip 10.0.0.1 > 10.0.0.11 carries tcp 198.51.100.7:40000 > 192.0.2.10:443 syn"}},
	}
}

// History implements api.Engine.
func (e *Engine) History(_ context.Context, wish api.HistoryWish) (api.History, error) {
	if e.Fail != nil {
		return api.History{}, e.Fail
	}
	group := func(src, service string, packets uint64) api.FlowGroup {
		g := api.FlowGroup{Group: map[string]string{}, Flows: packets / 10, Packets: packets, Bytes: 1000 * packets, PacketsReply: packets / 2,
			BytesReply: 90 * packets, First: wish.Since, Last: wish.Until}
		for _, key := range wish.Group {
			switch key.Name {
			case "src":
				if g.Other = src == ""; !g.Other {
					g.Group[key.String()] = src
				}
			case "service":
				g.Group[key.String()] = service
			default:
				g.Group[key.String()] = ""
			}
		}
		return g
	}
	history := api.History{Since: wish.Since, Until: wish.Until, Groups: []api.FlowGroup{
		group("203.0.113.9", "", 30), group("198.51.100.7", "web", 1500), group("", "web", 400), group("2001:db8::1", "dns", 600),
	}}
	if wish.Filter.String() != "" {
		history.Undecided = api.HistoryCounts{Flows: 2, Packets: 1000, Bytes: 90_000, PacketsReply: 200, BytesReply: 10_000}
	}
	return history, nil
}

// Events implements api.Engine: an event of each sort, and no further ones.
func (e *Engine) Events(_ context.Context, wish api.EventWish, yield func(api.Event, bool) error) error {
	events := []api.Event{
		{ID: "x-1", Time: Now.Add(-3 * time.Minute), Kind: api.EventApply, Text: "revision 7 from /etc/gardu/gardu.yaml: 3 rules, 1 sets, 1 services"},
		{Time: Now.Add(-2 * time.Minute), Kind: api.EventLog, Verdict: "drop", Reason: "rule-drop", Rule: "ssh", Decided: "ssh",
			Interface: "eth0", Direction: "in", Src: netip.MustParseAddr("198.51.100.7"), Dst: netip.MustParseAddr("192.0.2.10"),
			Sport: 40000, Dport: 22, Proto: "tcp", Length: 54, Packets: 1, Packet: "tcp 198.51.100.7:40000 > 192.0.2.10:22 syn"},
		{Time: Now.Add(-time.Minute), Kind: api.EventShadow, Verdict: "forward", Reason: "forward", Rule: "idea", Would: "drop", Service: "web",
			Backend: "b1", Interface: "eth0", Direction: "in", Src: netip.MustParseAddr("2001:db8::7"), Dst: netip.MustParseAddr("2001:db8::10"),
			Sport: 40000, Dport: 443, Proto: "tcp", Length: 1474, Packets: 1, Packet: "tcp [2001:db8::7]:40000 > [2001:db8::10]:443 ack len 1400"},
		{Time: Now, Kind: api.EventDown, Service: "web", Backend: "b2", Text: "connection refused"},
		{Time: Now, Kind: api.EventLost, Count: 12, Text: "12 events: the ring was full"},
	}
	var wanted []api.Event
	for _, event := range events {
		if wish.Match(&event) && (wish.After == "" || wish.After != event.ID) {
			wanted = append(wanted, event)
		}
	}
	if wish.Last >= 0 && len(wanted) > wish.Last {
		wanted = wanted[len(wanted)-wish.Last:]
	}
	for i, event := range wanted {
		if err := yield(event, i < len(wanted)-1); err != nil {
			return err
		}
	}
	return e.Fail
}
