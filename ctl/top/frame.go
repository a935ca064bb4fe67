package top

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"gardu/ctl/api"
)

// Source is where numbers come from. *client.Client is one.
type Source interface {
	Top(ctx context.Context, query api.TopQuery, yield func(api.TopSample) error) error
	Status(ctx context.Context) (api.Status, error)
	Rules(ctx context.Context) ([]api.Rule, error)
	Services(ctx context.Context) ([]api.Service, error)
	History(ctx context.Context, query api.HistoryQuery) (api.History, error)
}

// Frame is what happened between two readings.
type Frame struct {
	Since, Until time.Time
	Status       api.Status // at Until
	Total        Rate       // what reached flow accounting
	Unattributed Rate       // of these, what is in no group for want of a record
	Verdicts     []Counted  // the busiest first, all five of them
	Drops        []Counted  // reasons for which packets were dropped or rejected
	Rules        []Counted
	Services     []Counted
	Groups       []Group
	Sample       int // of so many packets one counts in Total, Unattributed and Groups, and of the past in all; 0 and 1: every one
}

// sample says that the numbers of flows are those of a sample; "" they are of all packets.
func (f *Frame) sample() string {
	of := f.Sample
	if of < 2 {
		return ""
	}
	return fmt.Sprintf("sampled 1/%d", of)
}

// Rate is a second's worth. Bytes are of IP for flows and of frames for all else.
type Rate struct{ Packets, Bytes float64 }

// Counted is something with counters of its own.
type Counted struct {
	Name string
	Word string // action of a rule, verdict of a reason, backends up of a service
	Rate
	Flows float64 // a second, of services
	Other float64 // of rules: packets a second whose verdict it decided, or would have as a shadow
}

// Group is flows added up.
type Group struct {
	Keys  map[string]string // by key as asked for; nil: all others. Of the past some may be missing
	Flows uint64            // that had packets
	Sent  Rate              // by who opened them
	Reply Rate
}

// Both is the rate of both directions.
func (g *Group) Both() Rate {
	return Rate{g.Sent.Packets + g.Reply.Packets, g.Sent.Bytes + g.Reply.Bytes}
}

// counters are readings of everything that only ever grows.
type counters struct {
	at       time.Time
	status   api.Status
	rules    []api.Rule
	services []api.Service
}

func readCounters(ctx context.Context, source Source) (c counters, err error) {
	if c.status, err = source.Status(ctx); err != nil {
		return c, err
	}
	if c.rules, err = source.Rules(ctx); err != nil {
		return c, err
	}
	c.services, err = source.Services(ctx)
	c.at = time.Now()
	return c, err
}

// frame turns two readings of the counters and what flows did meanwhile into rates.
func frame(before, now counters, sample api.TopSample) Frame {
	took := sample.Until.Sub(sample.Since)
	f := Frame{Since: sample.Since, Until: sample.Until, Status: now.status, Total: rate(sample.Total, took), Unattributed: rate(sample.Unattributed, took),
		Sample: now.status.Flows.Sample}
	for _, line := range sample.Groups {
		f.Groups = append(f.Groups, groupOf(line, took))
	}
	took = now.at.Sub(before.at)
	f.Verdicts, f.Drops = reasonRates(before.status.Reasons, now.status.Reasons, took)
	f.Rules = ruleRates(before.rules, now.rules, took)
	f.Services = serviceRates(before.services, now.services, took)
	return f
}

func groupOf(line api.FlowGroup, took time.Duration) Group {
	return Group{Keys: line.Group, Flows: line.Flows,
		Sent:  rate(api.Counter{Packets: line.Packets, Bytes: line.Bytes}, took),
		Reply: rate(api.Counter{Packets: line.PacketsReply, Bytes: line.BytesReply}, took)}
}

func rate(c api.Counter, took time.Duration) Rate {
	return Rate{perSecond(c.Packets, took), perSecond(c.Bytes, took)}
}

func perSecond(n uint64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return float64(n) / took.Seconds()
}

// since is what a counter grew by. One that fell began anew: all it holds is new.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func counterSince(now, before api.Counter) api.Counter {
	return api.Counter{Packets: since(now.Packets, before.Packets), Bytes: since(now.Bytes, before.Bytes)}
}

// verdicts are all there are, in the order in which they are shown.
var verdicts = []string{"pass", "forward", "redirect", "reject", "drop"}

func reasonRates(before, now map[string]api.ReasonCounter, took time.Duration) (byVerdict, drops []Counted) {
	sums := map[string]Rate{}
	for name, counter := range now {
		r := rate(counterSince(counter.Counter, before[name].Counter), took)
		sum := sums[counter.Verdict]
		sums[counter.Verdict] = Rate{sum.Packets + r.Packets, sum.Bytes + r.Bytes}
		if counter.Verdict == "drop" || counter.Verdict == "reject" {
			drops = append(drops, Counted{Name: name, Word: counter.Verdict, Rate: r})
		}
	}
	for _, verdict := range verdicts {
		byVerdict = append(byVerdict, Counted{Name: verdict, Word: verdict, Rate: sums[verdict]})
	}
	busiestFirst(drops)
	return byVerdict, drops
}

func ruleRates(before, now []api.Rule, took time.Duration) []Counted {
	old := map[string]api.Rule{}
	for _, r := range before {
		old[r.Name] = r
	}
	var rates []Counted
	for _, r := range now {
		was := old[r.Name]
		rates = append(rates, Counted{Name: r.Name, Word: ruleWord(r),
			Rate:  rate(counterSince(api.Counter{Packets: r.Packets, Bytes: r.Bytes}, api.Counter{Packets: was.Packets, Bytes: was.Bytes}), took),
			Other: perSecond(since(r.Decided+r.Shadow, was.Decided+was.Shadow), took)})
	}
	busiestFirst(rates)
	return rates
}

// ruleWord is what a rule does; a rule without an action only counts.
func ruleWord(r api.Rule) string { return cmp.Or(string(r.Action), "count") }

func serviceRates(before, now []api.Service, took time.Duration) []Counted {
	old := map[string]api.Service{}
	for _, s := range before {
		old[s.Name] = s
	}
	var rates []Counted
	for _, s := range now {
		was := old[s.Name]
		rates = append(rates, Counted{Name: s.Name, Word: upText(s),
			Rate:  rate(counterSince(api.Counter{Packets: s.Packets, Bytes: s.Bytes}, api.Counter{Packets: was.Packets, Bytes: was.Bytes}), took),
			Flows: perSecond(since(s.Flows, was.Flows), took)})
	}
	busiestFirst(rates)
	return rates
}

func busiestFirst(rates []Counted) {
	slices.SortStableFunc(rates, func(a, b Counted) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Name, b.Name))
	})
}
