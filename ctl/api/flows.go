package api

import (
	"cmp"
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
	Sort   string // one of FlowSorts; empty: as they are found
	Limit  int    // the first so many; 0: all
}

// order is descending for amounts and for times: what people look for comes first.
var order = map[string]func(a, b *Flow) int{
	"bytes":    func(a, b *Flow) int { return cmp.Compare(b.Bytes+b.BytesReply, a.Bytes+a.BytesReply) },
	"packets":  func(a, b *Flow) int { return cmp.Compare(b.Packets+b.PacketsReply, a.Packets+a.PacketsReply) },
	"first":    func(a, b *Flow) int { return b.First.Compare(a.First) },
	"last":     func(a, b *Flow) int { return b.Last.Compare(a.Last) },
	"duration": func(a, b *Flow) int { return cmp.Compare(b.Last.Sub(b.First), a.Last.Sub(a.First)) },
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
		State: f.State, Interface: f.Interface,
	}
}

func (h *handler) flows(w http.ResponseWriter, r *http.Request) error {
	query, filter, err := parseQuery(r)
	if err != nil {
		return err
	}
	out := &flowWriter{w: w, control: http.NewResponseController(w), encoder: json.NewEncoder(w)}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", ProblemTrailer)
	now := time.Now()
	if query.Sort == "" {
		err = h.engine.Flows(r.Context(), func(f Flow) error {
			if !filter.Match(f.Facts(now)) {
				return nil
			}
			if err := out.write(&f); err != nil {
				return err
			}
			if out.written == query.Limit {
				return errEnough
			}
			return nil
		})
	} else {
		top := &top{compare: order[query.Sort], limit: query.Limit}
		err = h.engine.Flows(r.Context(), func(f Flow) error {
			if filter.Match(f.Facts(now)) {
				top.add(f)
			}
			return nil
		})
		for _, f := range top.flows() {
			if err == nil {
				err = out.write(&f)
			}
		}
	}
	if err == nil || errors.Is(err, errEnough) {
		return nil
	}
	if out.written == 0 {
		w.Header().Del("Trailer")
		return err
	}
	problem, _ := json.Marshal(problemOf(err)) // a struct of strings
	w.Header().Set(ProblemTrailer, string(problem))
	return nil
}

// errEnough ends a stream that has reached its limit.
var errEnough = errors.New("enough")

func parseQuery(r *http.Request) (query FlowQuery, filter *expr.Expr, err error) {
	values := r.URL.Query()
	query = FlowQuery{Filter: values.Get("filter"), Sort: values.Get("sort")}
	if filter, err = expr.Parse(query.Filter); err != nil {
		return query, nil, NewProblem(CodeInvalid, "%v", err)
	}
	if query.Sort != "" && order[query.Sort] == nil {
		return query, nil, NewProblem(CodeInvalid, "flows can't be sorted by %q, but by %s", query.Sort, strings.Join(FlowSorts(), ", "))
	}
	if text := values.Get("limit"); text != "" {
		if query.Limit, err = strconv.Atoi(text); err != nil || query.Limit < 0 {
			return query, nil, NewProblem(CodeInvalid, "the limit %q is not a number of flows", text)
		}
	}
	return query, filter, nil
}

// flowWriter writes a flow a line and gives up on a client that stalls.
type flowWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	encoder *json.Encoder
	written int
}

func (o *flowWriter) write(f *Flow) error {
	if o.written%1024 == 0 {
		if err := o.control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return err
		}
	}
	o.written++
	return o.encoder.Encode(f)
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
