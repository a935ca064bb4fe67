package top

import (
	"context"
	"time"

	"gardu/ctl/api"
)

// pastStep is the shortest time that the history tells apart.
const pastStep = time.Minute

// Past gives what happened at a time, as the history has it. It may be of a longer time than a minute when that is long ago.
func Past(ctx context.Context, source Source, query api.TopQuery, at time.Time) (Frame, error) {
	var err error
	ask := func(group, filter string, limit int) api.History {
		if err != nil {
			return api.History{}
		}
		var answer api.History
		answer, err = source.History(ctx, api.HistoryQuery{Since: at, Until: at.Add(pastStep), Group: group, Filter: filter, Sort: query.Sort, Limit: limit})
		return answer
	}
	var f Frame
	if f.Status, err = source.Status(ctx); err != nil {
		return f, err
	}
	answer := ask(query.Group, query.Filter, query.Limit)
	f.Since, f.Until, f.Sample = answer.Since, answer.Until, answer.Sample
	took := f.Until.Sub(f.Since)
	for _, line := range answer.Groups {
		f.Groups = append(f.Groups, groupOf(line, took))
	}
	verdictSums := pastCounts(ask("verdict", "", 0), "verdict", took)
	for _, verdict := range verdicts {
		counted := Counted{Name: verdict, Word: verdict, Rate: verdictSums[verdict]}
		f.Verdicts = append(f.Verdicts, counted)
		f.Total = f.Total.plus(counted.Rate)
	}
	f.Services = pastList(ask("service", `service != ""`, api.DefaultTopLimit), "service", took)
	f.Rules = pastList(ask("rule", `rule != ""`, api.DefaultTopLimit), "rule", took)
	f.Drops = pastList(ask("reason", "verdict drop, reject", api.DefaultTopLimit), "reason", took)
	return f, err
}

// pastCounts are the rates of both directions by the value of a key.
func pastCounts(answer api.History, key string, took time.Duration) map[string]Rate {
	sums := map[string]Rate{}
	for _, line := range answer.Groups {
		if name := line.Group[key]; name != "" {
			g := groupOf(line, took)
			sums[name] = sums[name].plus(g.Both())
		}
	}
	return sums
}

func pastList(answer api.History, key string, took time.Duration) []Counted {
	var list []Counted
	for name, sum := range pastCounts(answer, key, took) {
		list = append(list, Counted{Name: name, Rate: sum})
	}
	busiestFirst(list)
	return list
}

func (r Rate) plus(other Rate) Rate { return Rate{r.Packets + other.Packets, r.Bytes + other.Bytes} }

// past says whether it is the past that is shown.
func (s *screen) past() bool { return !s.at.IsZero() }

// pastTime is the time that the numbers are of.
func (s *screen) pastTime() string {
	if s.frame.Until.IsZero() {
		return s.at.Local().Format("2006-01-02 15:04")
	}
	return s.frame.Since.Local().Format("2006-01-02 15:04") + " to " + s.frame.Until.Local().Format("15:04")
}

// step goes back or forth in time, a minute or as long as the history tells apart; forth from the last whole minute to now.
func (m *live) step(direction int, now time.Time) {
	step := pastStep
	if m.past() && m.frame.Until.After(m.frame.Since) {
		step = max(step, m.frame.Until.Sub(m.frame.Since))
	}
	last := now.Truncate(pastStep).Add(-pastStep) // that is over
	switch next := m.at.Add(time.Duration(direction) * step); {
	case !m.past() && direction < 0:
		m.at = last
	case !m.past():
	case next.After(last):
		m.at = time.Time{}
	default:
		m.at = next
	}
}
