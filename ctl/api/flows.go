package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/expr"
	"gardu/ctl/rule"
)

// ProblemTrailer is the HTTP trailer that holds a Problem when a stream of flows ends before its time.
const ProblemTrailer = "Gardu-Problem"

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

func (h *handler) flows(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	out := &lineWriter{w: w, control: http.NewResponseController(w), encoder: json.NewEncoder(w)}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", ProblemTrailer)
	switch {
	case query.keys != nil:
		err = h.groupedFlows(r.Context(), query, out)
	case query.Sort != "":
		err = h.sortedFlows(r.Context(), query, out)
	default:
		err = h.foundFlows(r.Context(), query, out)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return endStream(w, out.written > 0, err)
}

// endStream tells of an error in the trailer when there is an answer already.
func endStream(w http.ResponseWriter, begun bool, err error) error {
	if err == nil {
		return nil
	}
	if !begun {
		w.Header().Del("Trailer")
		return err
	}
	problem, _ := json.Marshal(problemOf(err)) // a struct of strings
	w.Header().Set(ProblemTrailer, string(problem))
	return nil
}

// foundFlows writes flows as they are found.
func (h *handler) foundFlows(ctx context.Context, query flowQuery, out *lineWriter) error {
	return h.matching(ctx, query, func(f *Flow, _ *expr.Flow) error {
		if err := out.write(f); err != nil {
			return err
		}
		if out.written == query.Limit {
			return errEnough
		}
		return nil
	})
}

func (h *handler) sortedFlows(ctx context.Context, query flowQuery, out *lineWriter) error {
	top := &top{compare: order[query.Sort], limit: query.Limit}
	err := h.matching(ctx, query, func(f *Flow, _ *expr.Flow) error {
		top.add(*f)
		return nil
	})
	if err != nil {
		return err
	}
	return writeAll(out, top.flows())
}

func (h *handler) groupedFlows(ctx context.Context, query flowQuery, out *lineWriter) error {
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

func writeAll[T any](out *lineWriter, lines []T) error {
	for i := range lines {
		if err := out.write(&lines[i]); err != nil {
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
	query.Limit, err = parseLimit(values.Get("limit"))
	return query, err
}

func parseLimit(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 0 {
		return 0, NewProblem(CodeInvalid, "the limit %q is not a number of flows", text)
	}
	return limit, nil
}

// lineWriter writes a value a line and gives up on a client that stalls.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	encoder *json.Encoder
	written int
}

func (o *lineWriter) write(value any) error {
	if o.written%1024 == 0 {
		if err := o.control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return err
		}
	}
	o.written++
	return o.encoder.Encode(value)
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
