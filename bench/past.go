package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/expr"
	"gardu/ctl/flow"
	"gardu/ctl/flow/history"
)

const (
	pastDays  = 30
	pastFlows = 2000 // an hour, most of another pair: each table of each interval is full, so ten times as many are no more rows
	pastTop   = 500
)

// noNames are those of reports that name nothing.
type noNames struct{}

func (noNames) Rule(uint32) string      { return "" }
func (noNames) Service(uint16) string   { return "" }
func (noNames) Backend(uint16) string   { return "" }
func (noNames) Interface(uint32) string { return "eth0" }

// asking are rows about questions to a month of history.
func asking() []task {
	end := time.Now().Truncate(24 * time.Hour).Add(-6*time.Hour - 43*time.Minute) // or whole days would answer it all
	var once sync.Once
	var store *history.Store
	var failed error
	ask := func(group string, ago time.Duration) func(*manager) (float64, error) {
		return func(m *manager) (float64, error) {
			once.Do(func() { store, failed = monthOfHistory(m.path("month"), end) })
			if failed != nil {
				return 0, failed
			}
			keys, err := expr.ParseGroup(group)
			if err != nil {
				return 0, err
			}
			begin := time.Now()
			answer, err := store.Query(context.Background(), history.Query{Since: end.Add(-ago), Until: end, Group: keys})
			if err == nil && len(answer.Rows) == 0 {
				err = fmt.Errorf("no rows in %s", ago)
			}
			return ms(time.Since(begin)), err
		}
	}
	row := func(name, group string, ago time.Duration) task {
		return task{name: name, about: "by " + group + ", of 30 days of which each interval has all the rows that are kept", unit: "ms", slow: true, sample: ask(group, ago)}
	}
	return []task{
		row("flows --since 24h", "src/24,service", 24*time.Hour),
		row("flows --since 30d", "src,dst,dport,proto", pastDays*24*time.Hour),
		row("top --at", "src,dst,dport,proto", time.Minute),
	}
}

// monthOfHistory makes a history of 30 days, of a minute of each hour.
func monthOfHistory(dir string, end time.Time) (*history.Store, error) {
	store, _, err := history.Open(history.Options{Dir: dir, Minutes: 24 * time.Hour, Fives: 7 * 24 * time.Hour, Hours: 90 * 24 * time.Hour,
		MaxSize: 1e9, Top: pastTop}, end)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(1, 2))
	for day := range pastDays {
		roller := history.NewRoller(pastTop)
		for hour := range 24 {
			at := end.Add(-time.Duration(day*24+hour)*time.Hour - time.Minute)
			roller.Add(pastReports(random, at), noNames{}, end)
		}
		batch := roller.Take()
		if _, err := store.Write(&batch, end); err != nil {
			return nil, err
		}
	}
	return store, nil
}

func pastReports(random *rand.Rand, at time.Time) []flow.Report {
	reports := make([]flow.Report, pastFlows)
	for i := range reports {
		r := &reports[i]
		r.Src = netip.AddrPortFrom(addr4(198<<24|18<<16|random.Uint32N(1<<15)), 40000)
		r.Dst = netip.AddrPortFrom(addr4(192<<24|2<<8|random.Uint32N(1<<15)), uint16(random.Uint32N(1000)))
		r.Proto, r.Verdict, r.Reason, r.Ifindex = 6, abi.VerdictPass, abi.ReasonDefaultPass, 1
		r.First, r.Last, r.Since, r.Until = at, at, at, at.Add(10*time.Second)
		r.Delta = flow.Count{Packets: 1 + uint64(random.Uint32N(100)), Bytes: 100 + uint64(random.Uint32N(100_000))}
	}
	return reports
}
