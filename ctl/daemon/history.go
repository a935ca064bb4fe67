package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/flow/history"
	"gardu/ctl/model"
)

// historyWishes are the sink for `flows.history`.
func (d *Daemon) historyWishes(snapshot *model.Snapshot) []sinkWish {
	wanted := snapshot.Flows.History
	if !wanted.Enabled {
		return nil
	}
	wanted.Pos, wanted.Keep.Pos = model.Position{}, model.Position{}
	options := history.Options{
		Dir: wanted.Dir, Minutes: wanted.Keep.Minutes, Fives: wanted.Keep.Fives, Hours: wanted.Keep.Hours,
		MaxSize: int64(wanted.MaxSize), Top: wanted.Top,
	}
	if options.Dir == "" {
		options.Dir = filepath.Join(d.options.StateDir, "history")
	}
	return []sinkWish{{name: "history", made: fmt.Sprintf("%+v", wanted), open: func() (sink, error) { return d.openHistory(options), nil }}}
}

// historySink is a history that writes by itself.
type historySink struct {
	*history.History
	stop   context.CancelFunc
	ended  chan struct{}
	closed func()
}

func (d *Daemon) openHistory(options history.Options) *historySink {
	ctx, stop := context.WithCancel(context.Background())
	h := history.New(options, d.timeOfDay, d.log)
	s := &historySink{h, stop, make(chan struct{}), func() { d.history.CompareAndSwap(h, nil) }}
	go func() {
		defer close(s.ended)
		h.Run(ctx)
	}()
	d.history.Store(h)
	return s
}

// Close implements sink.
func (s *historySink) Close() error {
	s.closed()
	s.stop()
	<-s.ended
	return s.History.Close()
}

// History implements api.Engine.
func (d *Daemon) History(ctx context.Context, wish api.HistoryWish) (api.History, error) {
	h := d.history.Load()
	if h == nil {
		return api.History{}, api.NewProblem(api.CodeConflict, "flows of the past aren't kept: flows.history in the configuration turns that on")
	}
	answer, err := h.Query(ctx, history.Query{Since: wish.Since, Until: wish.Until, Filter: wish.Filter, Group: wish.Group})
	if wrong, ok := errors.AsType[*history.QueryError](err); ok {
		return api.History{}, api.NewProblem(api.CodeInvalid, "%v", wrong)
	}
	if err != nil {
		return api.History{}, err
	}
	result := api.History{Since: answer.Since, Until: answer.Until, Groups: make([]api.FlowGroup, len(answer.Rows)),
		Undecided: api.HistoryCounts(answer.Undecided), Sample: sampled(answer.Sample)}
	for i, row := range answer.Rows {
		result.Groups[i] = flowGroup(&row, wish, answer.Since, answer.Until)
		result.Groups[i].Sample = result.Sample
	}
	return result, nil
}

// flowGroup is a row with names for its keys, but for those that aren't known.
func flowGroup(row *history.Row, wish api.HistoryWish, since, until time.Time) api.FlowGroup {
	g := api.FlowGroup{Group: map[string]string{}, Other: len(row.Others) > 0, Flows: row.Flows, Packets: row.Packets, Bytes: row.Bytes,
		PacketsReply: row.PacketsReply, BytesReply: row.BytesReply, First: since, Last: until}
	for _, key := range wish.Group {
		if !slices.Contains(row.Others, key.Name) {
			g.Group[key.String()] = key.Value(&row.Group)
		}
	}
	return g
}

// historyStatus is how the history is; nil when none is kept.
func (d *Daemon) historyStatus() *api.HistoryStatus {
	h := d.history.Load()
	if h == nil {
		return nil
	}
	s := h.Status()
	status := &api.HistoryStatus{
		Path: s.Path, Size: uint64(s.Size), MaxSize: uint64(s.MaxSize),
		Reported: api.HistoryCounts(s.Reported), Written: api.HistoryCounts(s.Written),
		Pending: api.HistoryCounts(s.Pending), Lost: api.HistoryCounts(s.Lost),
	}
	if s.Path != "" {
		status.Minutes, status.Fives, status.Hours = &s.Since[0], &s.Since[1], &s.Since[2]
	}
	return status
}

// tellHistory makes events of what History logs.
func (d *Daemon) tellHistory() {
	var now history.Status
	if h := d.history.Load(); h != nil {
		now = h.Status()
	}
	before := d.historyTold
	d.historyTold = now
	switch {
	case now.Err != nil && before.Err == nil:
		d.happened(api.Event{Kind: api.EventFault, Text: fmt.Sprintf("the history isn't written: %v", now.Err)})
	case now.Err == nil && before.Err != nil:
		d.happened(api.Event{Kind: api.EventMended, Text: "write the history"})
	}
	if now.Problem != nil && now.Problem != before.Problem {
		d.happened(api.Event{Kind: api.EventFault, Text: now.Problem.Error()})
	}
}

// historyWarnings are what somebody should look at.
func (d *Daemon) historyWarnings(warn func(format string, args ...any)) {
	h := d.history.Load()
	if h == nil {
		return
	}
	s := h.Status()
	if s.Err != nil {
		warn("the history isn't written: %v", s.Err)
	}
	if s.Problem != nil {
		warn("%v", s.Problem)
	}
	if lost := s.Lost.Packets + s.Lost.PacketsReply; lost > 0 {
		warn("%d packets are missing from the history: they were reported too late, or for too long it could not be written", lost)
	}
}
