package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/expr"
	"gardu/ctl/rule"
)

// FlowQuery says which flows, in which order. The zero value is all of them as they are found, which is the
// only query that costs the server no memory.
type FlowQuery struct {
	Filter string // see package expr
	Sort   string // one of FlowSorts; empty: as they are found, groups by bytes
	Limit  int    // the first so many; 0: all
	Group  string // adds up the flows that have these keys in common, see expr.ParseGroup; Sort is one of GroupSorts then
}

// order is descending for amounts and for times: what people look for comes first.
var order = map[string]func(a, b *Flow) int{
	"bytes":    func(a, b *Flow) int { return cmp.Compare(b.Bytes+b.BytesReply, a.Bytes+a.BytesReply) },
	"packets":  func(a, b *Flow) int { return cmp.Compare(b.Packets+b.PacketsReply, a.Packets+a.PacketsReply) },
	"first":    func(a, b *Flow) int { return b.First.Compare(a.First) },
	"last":     func(a, b *Flow) int { return b.Last.Compare(a.Last) },
	"duration": func(a, b *Flow) int { return cmp.Compare(b.Last.Sub(b.First), a.Last.Sub(a.First)) },
	"rate":     func(a, b *Flow) int { return cmp.Compare(b.Rate(), a.Rate()) },
	"src":      func(a, b *Flow) int { return cmp.Or(a.Src.Compare(b.Src), cmp.Compare(a.Sport, b.Sport)) },
	"dst":      func(a, b *Flow) int { return cmp.Or(a.Dst.Compare(b.Dst), cmp.Compare(a.Dport, b.Dport)) },
}

// FlowSorts returns what flows can be sorted by. Amounts and times sort from high to low, addresses upwards.
func FlowSorts() []string { return slices.Sorted(maps.Keys(order)) }

// Facts returns what an expression sees of the flow at the time now.
func (f *Flow) Facts(now time.Time) *expr.Flow {
	proto, known := rule.Protocol(f.Proto)
	if !known {
		number, _ := strconv.ParseUint(f.Proto, 10, 8)
		proto = uint8(number)
	}
	return &expr.Flow{
		Src: f.Src, Dst: f.Dst, Sport: f.Sport, Dport: f.Dport, Proto: proto, Vlan: f.Vlan,
		Packets: f.Packets + f.PacketsReply, Bytes: f.Bytes + f.BytesReply,
		Age: now.Sub(f.Last), Duration: f.Last.Sub(f.First),
		Verdict: f.Verdict, Reason: f.Reason, Rule: f.Rule, Service: f.Service, Backend: f.Backend,
		State: f.State, End: f.End, Interface: f.Interface, InterfaceReply: f.InterfaceReply,
		ServerRTT: time.Duration(f.ServerRTT), ClientRTT: time.Duration(f.ClientRTT),
		Retransmits: f.Retransmits, RetransmitsReply: f.RetransmitsReply,
		TTLMin: f.TTLMin, TTLMax: f.TTLMax, DSCP: f.DSCP,
	}
}

func (h *handler) flows() endpoint {
	e := streams[Flow](h, func(r *http.Request, out *stream) error {
		query, err := parseQuery(r)
		if err != nil {
			return err
		}
		switch {
		case query.keys != nil:
			err = h.groupedFlows(r.Context(), query, out)
		case query.Sort != "":
			err = h.sortedFlows(r, query, out)
		default:
			err = h.foundFlows(r.Context(), query, out)
		}
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}, filterParam, sortParam(append(FlowSorts(), "flows")), limitParam, groupParam, afterParam)
	e.orAnswers = reflect.TypeFor[FlowGroup]()
	return e
}

// foundFlows writes flows as they are found.
func (h *handler) foundFlows(ctx context.Context, query flowQuery, out *stream) error {
	written := 0
	return h.matching(ctx, query, func(f *Flow, _ *expr.Flow) error {
		if err := out.send(f, true); err != nil {
			return err
		}
		if written++; written == query.Limit {
			return errEnough
		}
		return nil
	})
}

// sortedFlows writes the first flows of an order, and says where those behind them are if that order stays.
func (h *handler) sortedFlows(r *http.Request, query flowQuery, out *stream) error {
	compare, limit := order[query.Sort], query.Limit
	if stays(query.Sort) {
		compare = func(a, b *Flow) int { return cmp.Or(order[query.Sort](a, b), identity(a, b)) }
		if limit > 0 {
			limit++ // to know whether there are more
		}
	}
	top := &top{compare: compare, limit: limit}
	err := h.matching(r.Context(), query, func(f *Flow, _ *expr.Flow) error {
		if query.after == nil || compare(f, query.after) > 0 {
			top.add(*f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	flows := top.flows()
	if limit > query.Limit && len(flows) == limit {
		flows = flows[:query.Limit]
		linkNext(out.w, r.URL, cursor(&flows[query.Limit-1]))
	}
	return writeAll(out, flows)
}

// stays tells whether a flow keeps its place in an order as long as it lasts: then there can be pages.
func stays(sort string) bool { return sort == "src" || sort == "dst" || sort == "first" }

// identity tells any two flows apart.
func identity(a, b *Flow) int {
	return cmp.Or(a.Src.Compare(b.Src), cmp.Compare(a.Sport, b.Sport), a.Dst.Compare(b.Dst), cmp.Compare(a.Dport, b.Dport), cmp.Compare(a.Proto, b.Proto),
		cmp.Compare(a.Vlan, b.Vlan), cmp.Compare(a.Interface, b.Interface), a.First.Compare(b.First))
}

// cursor is where a page ends: what of its last flow identity looks at.
func cursor(f *Flow) string {
	text, _ := json.Marshal(Flow{Src: f.Src, Sport: f.Sport, Dst: f.Dst, Dport: f.Dport, Proto: f.Proto, Vlan: f.Vlan, Interface: f.Interface, First: f.First})
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseCursor(text string) (*Flow, error) {
	var f Flow
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = strictly(data, &f)
	}
	if err != nil {
		return nil, NewProblem(CodeInvalid, "after=%s is not where a page of flows ended", text)
	}
	return &f, nil
}

func (h *handler) groupedFlows(ctx context.Context, query flowQuery, out *stream) error {
	groups := newGroups(query.keys, query.Sort)
	err := h.matching(ctx, query, func(f *Flow, facts *expr.Flow) error {
		groups.add(f, facts)
		return nil
	})
	if err != nil {
		return err
	}
	return writeAll(out, groups.lines(query.Limit))
}

// matching calls yield with the flows that the filter picks.
func (h *handler) matching(ctx context.Context, query flowQuery, yield func(*Flow, *expr.Flow) error) error {
	now := time.Now()
	return h.engine.Flows(ctx, func(f Flow) error {
		facts := f.Facts(now)
		if !query.filter.Match(facts) {
			return nil
		}
		return yield(&f, facts)
	})
}

func writeAll[T any](out *stream, lines []T) error {
	for i := range lines {
		if err := out.send(&lines[i], true); err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends a stream that has reached its limit.
var errEnough = errors.New("enough")

// flowQuery is a FlowQuery that makes sense.
type flowQuery struct {
	FlowQuery
	filter *expr.Expr
	keys   expr.GroupKeys // nil: flows one by one
	after  *Flow          // nil: from the first on
}

func parseQuery(r *http.Request) (flowQuery, error) {
	values := r.URL.Query()
	query := flowQuery{FlowQuery: FlowQuery{Filter: values.Get("filter"), Sort: values.Get("sort"), Group: values.Get("group")}}
	what, sorts := "flows", FlowSorts()
	var err error
	if query.filter, err = expr.Parse(query.Filter); err != nil {
		return query, NewProblem(CodeInvalid, "%v", err)
	}
	if query.Group != "" {
		what, sorts = "groups of flows", GroupSorts()
		if query.keys, err = expr.ParseGroup(query.Group); err != nil {
			return query, NewProblem(CodeInvalid, "%v", err)
		}
	}
	if query.Sort != "" && !slices.Contains(sorts, query.Sort) {
		return query, NewProblem(CodeInvalid, "%s can't be sorted by %q, but by %s", what, query.Sort, strings.Join(sorts, ", "))
	}
	if query.Limit, err = parseLimit(values.Get("limit"), "flows"); err != nil {
		return query, err
	}
	if after := values.Get("after"); after != "" {
		if query.keys != nil || !stays(query.Sort) {
			return query, NewProblem(CodeInvalid, "only flows sorted by src, dst or first have pages: else they change places meanwhile")
		}
		query.after, err = parseCursor(after)
	}
	return query, err
}

// top keeps the first flows of an order; with limit 0 all of them.
type top struct {
	compare func(a, b *Flow) int
	limit   int
	kept    []Flow
}

// add keeps up to twice the limit before it sorts and cuts, so that a flow costs a comparison or two on average.
func (t *top) add(f Flow) {
	t.kept = append(t.kept, f)
	if t.limit > 0 && len(t.kept) >= 2*t.limit+1024 {
		t.kept = t.flows()
	}
}

func (t *top) flows() []Flow {
	slices.SortFunc(t.kept, func(a, b Flow) int { return t.compare(&a, &b) })
	if t.limit > 0 && len(t.kept) > t.limit {
		return t.kept[:t.limit]
	}
	return t.kept
}
