package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/expr"
)

// TopQuery says what to watch. Group must be given.
type TopQuery struct {
	Filter string // see package expr; of a flow as it stands, not of what it did meanwhile
	Group  string // see expr.ParseGroup
	Sort   string // one of TopSorts; empty: bytes
	Limit  int    // groups in a sample; 0: DefaultTopLimit
	Every  time.Duration
}

// Bounds of a TopQuery.
const (
	DefaultTopLimit = 100
	MaxTopLimit     = 10_000
	DefaultTopEvery = 2 * time.Second
	MinTopEvery     = 100 * time.Millisecond
	MaxTopEvery     = time.Hour
)

// TopSorts returns what the groups of a sample can be sorted by.
func TopSorts() []string { return []string{"bytes", "packets", "flows"} }

// TopSample is what flows did between two readings of the flow table.
type TopSample struct {
	Reading
	Unattributed Counter     `json:"unattributed"` // of Total, at least: of no flow, or of one whose record was gone or not known before
	Groups       []FlowGroup `json:"groups"`       // of what the filter picks: packets and bytes since Since
}

// Reading is a reading of the flow table, and the one before.
type Reading struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	Total Counter   `json:"total"` // what reached flow accounting between, and what was dropped if flows of that are remembered; IP bytes
	// Least is what of that came when neither reading was under way, so it is in flows if it is in any.
	Least Counter `json:"-"`
}

// FlowChange is what a flow did between two readings.
type FlowChange struct {
	Packets, Bytes           uint64
	PacketsReply, BytesReply uint64
}

// sampler makes a sample of the changes of a reading.
type sampler struct {
	query  TopQuery
	keys   expr.GroupKeys
	filter *expr.Expr
	groups *groups
	known  Counter
}

func newSampler(query TopQuery) (*sampler, error) {
	s := &sampler{query: query}
	var err error
	if s.filter, err = expr.Parse(query.Filter); err != nil {
		return nil, NewProblem(CodeInvalid, "%v", err)
	}
	if s.keys, err = expr.ParseGroup(query.Group); err != nil {
		return nil, NewProblem(CodeInvalid, "%v", err)
	}
	s.query.Limit = cmp.Or(query.Limit, DefaultTopLimit)
	s.query.Every = cmp.Or(query.Every, DefaultTopEvery)
	switch {
	case query.Sort != "" && !slices.Contains(TopSorts(), query.Sort):
		return nil, NewProblem(CodeInvalid, "top can't be sorted by %q, but by %s", query.Sort, strings.Join(TopSorts(), ", "))
	case s.query.Limit < 0 || s.query.Limit > MaxTopLimit:
		return nil, NewProblem(CodeInvalid, "the limit %d is not 1 to %d", s.query.Limit, MaxTopLimit)
	case s.query.Every < MinTopEvery || s.query.Every > MaxTopEvery:
		return nil, NewProblem(CodeInvalid, "every %v is not %v to %v", s.query.Every, MinTopEvery, MaxTopEvery)
	}
	s.groups = newGroups(s.keys, query.Sort)
	return s, nil
}

// add takes what a flow did.
func (s *sampler) add(f *Flow, did FlowChange) {
	s.known.Packets += did.Packets + did.PacketsReply
	s.known.Bytes += did.Bytes + did.BytesReply
	facts := f.Facts(time.Now())
	if !s.filter.Match(facts) {
		return
	}
	f.Packets, f.Bytes, f.PacketsReply, f.BytesReply = did.Packets, did.Bytes, did.PacketsReply, did.BytesReply
	s.groups.add(f, facts)
}

// sample ends a reading.
func (s *sampler) sample(reading Reading) TopSample {
	sample := TopSample{Reading: reading, Groups: s.groups.lines(s.query.Limit)}
	if sample.Groups == nil {
		sample.Groups = []FlowGroup{}
	}
	sample.Unattributed = Counter{reading.Least.Packets - min(reading.Least.Packets, s.known.Packets),
		reading.Least.Bytes - min(reading.Least.Bytes, s.known.Bytes)}
	s.groups, s.known = newGroups(s.keys, s.query.Sort), Counter{}
	return sample
}

func (h *handler) top() endpoint {
	group, every := groupParam, param{name: "every", help: "time between samples, such as 2s", kind: "string"}
	group.required = true
	return streams[TopSample](h, func(r *http.Request, out *stream) error {
		query, err := parseTopQuery(r)
		if err != nil {
			return err
		}
		s, err := newSampler(query)
		if err != nil {
			return err
		}
		return h.watch(r.Context(), s, func(sample TopSample) error { return out.send(sample, false) })
	}, filterParam, group, sortParam(TopSorts()), limitParam, every)
}

// watch sends a sample after each reading.
func (h *handler) watch(ctx context.Context, s *sampler, send func(TopSample) error) error {
	return h.engine.FlowChanges(ctx, s.query.Every,
		func(f Flow, did FlowChange) error { s.add(&f, did); return nil },
		func(reading Reading) error { return send(s.sample(reading)) })
}

func parseTopQuery(r *http.Request) (TopQuery, error) {
	values := r.URL.Query()
	query := TopQuery{Filter: values.Get("filter"), Group: values.Get("group"), Sort: values.Get("sort")}
	var err error
	if text := values.Get("limit"); text != "" {
		if query.Limit, err = strconv.Atoi(text); err != nil {
			return query, NewProblem(CodeInvalid, "the limit %q is not a number of groups", text)
		}
	}
	if text := values.Get("every"); text != "" {
		if query.Every, err = time.ParseDuration(text); err != nil {
			return query, NewProblem(CodeInvalid, "every is a time like 2s, not %q", text)
		}
	}
	return query, nil
}
