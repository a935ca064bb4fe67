package api

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"gardu/ctl/expr"
)

// HistoryQuery asks what flows did in a time that may be long past. What `gardu top` would have shown at 14:05:
//
//	History(ctx, HistoryQuery{Since: at, Until: at.Add(time.Minute), Group: "src,dst,dport,proto", Limit: 20})
type HistoryQuery struct {
	Since, Until time.Time // zero: until now
	Filter       string    // see package expr; only of what is kept of flows
	Group        string    // see expr.ParseGroup; empty: HistoryGroup
	Sort         string    // one of HistorySorts; empty: by bytes
	Limit        int       // the first so many groups, and the rest added up; 0: as many as there may be
}

// HistoryGroup are the keys that tell the most of flows of the past.
const HistoryGroup = "src,dst,dport,proto,verdict,rule,service"

// HistoryWish is a query for the engine: what a look at the words alone can tell has been checked.
type HistoryWish struct {
	Since, Until time.Time
	Filter       *expr.Expr
	Group        expr.GroupKeys
}

// History is what flows did in a time. All groups and Undecided together are what flows did that the filter doesn't exclude.
type History struct {
	// Since and Until are the time that the answer is of. It may be wider than was asked for, since the more time has passed the longer
	// the intervals are that are kept, and shorter when what is older is kept no more.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Groups have First and Last of that time, so their rates are averages over it. Of small flows not all keys are kept: they are in
	// groups with Other that lack these keys. Flows are those that began.
	Groups []FlowGroup `json:"groups"`
	// Undecided is what small flows did of which the filter can't tell: they are kept without a key that it asks for.
	Undecided HistoryCounts `json:"undecided"`
	// Sample says that of so many packets one was counted, at least in a part of that time; absent: every one was.
	Sample int `json:"sample,omitempty"`
}

// HistoryCounts is what flows did, by the side that opened them and by the other.
type HistoryCounts struct {
	Flows        uint64 `json:"flows"` // that began
	Packets      uint64 `json:"packets"`
	Bytes        uint64 `json:"bytes"` // IP bytes
	PacketsReply uint64 `json:"packets_reply"`
	BytesReply   uint64 `json:"bytes_reply"`
}

// HistoryStatus is how the history is. Reported = Written + Pending + Lost, exactly, since it was opened.
type HistoryStatus struct {
	Path     string        `json:"path,omitempty"` // of its file; absent while that can't be opened
	Size     uint64        `json:"size"`           // in bytes, of all its files
	MaxSize  uint64        `json:"max_size"`
	Minutes  *time.Time    `json:"minutes_since,omitempty"` // from when on what flows did is kept by the minute,
	Fives    *time.Time    `json:"fives_since,omitempty"`   // by five minutes,
	Hours    *time.Time    `json:"hours_since,omitempty"`   // and by the hour
	Reported HistoryCounts `json:"reported"`
	Written  HistoryCounts `json:"written"`
	Pending  HistoryCounts `json:"pending"` // to be written within a minute
	Lost     HistoryCounts `json:"lost"`    // reported too late, or while nothing could be written for long
}

// HistorySorts returns what groups of the past can be sorted by, from high to low.
func HistorySorts() []string { return []string{"bytes", "flows", "packets"} }

func (h *handler) history() endpoint {
	since, until := param{name: "since", help: "a time", kind: "date-time", required: true}, param{name: "until", help: "a time; absent: now", kind: "date-time"}
	return asker(func(ctx context.Context, values url.Values) (History, error) {
		query, err := parseHistory(values)
		if err != nil {
			return History{}, err
		}
		return h.past(ctx, query)
	}, since, until, filterParam, groupParam, sortParam(HistorySorts()), limitParam)
}

func (h *handler) past(ctx context.Context, query HistoryQuery) (History, error) {
	wish := HistoryWish{Since: query.Since, Until: query.Until}
	if wish.Until.IsZero() {
		wish.Until = time.Now()
	}
	if !wish.Since.Before(wish.Until) {
		return History{}, NewProblem(CodeInvalid, "nothing lies between %s and %s", query.Since.Format(time.RFC3339), wish.Until.Format(time.RFC3339))
	}
	var err error
	if wish.Filter, err = expr.Parse(query.Filter); err != nil {
		return History{}, NewProblem(CodeInvalid, "%v", err)
	}
	if wish.Group, err = expr.ParseGroup(cmp.Or(query.Group, HistoryGroup)); err != nil {
		return History{}, NewProblem(CodeInvalid, "%v", err)
	}
	sort := cmp.Or(query.Sort, "bytes")
	if !slices.Contains(HistorySorts(), sort) {
		return History{}, NewProblem(CodeInvalid, "flows of the past can't be sorted by %q, but by %s", sort, strings.Join(HistorySorts(), ", "))
	}
	history, err := h.engine.History(ctx, wish)
	if err != nil {
		return History{}, err
	}
	history.Groups = firstGroups(history.Groups, wish.Group, groupOrder[sort], min(cmp.Or(query.Limit, maxGroups), maxGroups))
	return history, nil
}

// firstGroups sorts groups and adds up those behind the first.
func firstGroups(groups []FlowGroup, keys expr.GroupKeys, compare func(a, b *FlowGroup) int, limit int) []FlowGroup {
	slices.SortFunc(groups, func(a, b FlowGroup) int {
		if order := compare(&a, &b); order != 0 {
			return order
		}
		for _, key := range keys {
			if order := cmp.Compare(a.Group[key.String()], b.Group[key.String()]); order != 0 {
				return order
			}
		}
		return cmp.Compare(len(b.Group), len(a.Group))
	})
	if len(groups) <= limit {
		return slices.Concat([]FlowGroup{}, groups)
	}
	rest := FlowGroup{Other: true}
	for i := range groups[limit:] {
		rest.plus(&groups[limit+i])
	}
	return append(groups[:limit:limit], rest)
}

func parseHistory(values url.Values) (query HistoryQuery, err error) {
	query = HistoryQuery{Filter: values.Get("filter"), Group: values.Get("group"), Sort: values.Get("sort")}
	if query.Limit, err = parseLimit(values.Get("limit"), "groups"); err != nil {
		return query, err
	}
	for name, into := range map[string]*time.Time{"since": &query.Since, "until": &query.Until} {
		text := values.Get(name)
		if text == "" && name == "until" {
			continue
		}
		if *into, err = time.Parse(time.RFC3339, text); err != nil {
			return query, NewProblem(CodeInvalid, "%s is %q, not a time such as %s", name, text, time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC).Format(time.RFC3339))
		}
	}
	return query, nil
}
