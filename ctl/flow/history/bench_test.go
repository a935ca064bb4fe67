package history

import (
	"context"
	"testing"
	"time"

	"gardu/ctl/expr"
)

// A report costs this much of the daemon.
func BenchmarkRoller(b *testing.B) {
	reports := newSite(11).reports(100_000, noon, 2*time.Minute)
	r := NewRoller(500)
	for i := 0; b.Loop(); i++ {
		at := i * 1000 % len(reports)
		r.Add(reports[at:at+1000], names{}, noon)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/report")
}

// monthFlows is what a busy site reports in 30 days.
const monthFlows = 10_000_000

// month makes a history of 30 days, as it is at their end. Hours are written at once, and reports are of a moment in the shortest
// interval that is kept of them: both are quicker and come to the same.
func month(b *testing.B) (*Store, time.Time) {
	b.Helper()
	o := options(b)
	o.Top = 500
	end := noon.AddDate(0, 0, 30)
	s := openStore(b, o, end)
	site := newSite(12)
	hours := int(end.Sub(noon) / time.Hour)
	for h := range hours {
		at := noon.Add(time.Duration(h+1) * time.Hour)
		r := NewRoller(o.Top)
		for range 10 {
			reports := site.reports(monthFlows/hours/10, at, time.Hour)
			for i := range reports {
				report := &reports[i]
				report.Last = report.Last.Truncate(resolution(o, end.Sub(at)))
				report.First, report.Since, report.Until = report.Last, report.Last, report.Last
			}
			r.Add(reports, names{}, at)
		}
		batch := r.Take()
		if _, err := s.Write(&batch, end); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d MB", s.Size()>>20)
	return s, end
}

// resolution is the shortest interval that is kept of what is so long ago.
func resolution(o Options, ago time.Duration) time.Duration {
	switch {
	case ago < o.Minutes:
		return time.Minute
	case ago < o.Fives:
		return 5 * time.Minute
	default:
		return time.Hour
	}
}

// Questions to 30 days of a busy site are to be answered within a second.
func BenchmarkQuery(b *testing.B) {
	s, end := month(b)
	for _, c := range []struct {
		name, filter, group string
		ago                 time.Duration
	}{
		{"30d by service", "", "service", 30 * 24 * time.Hour},
		{"30d by src", "", "src", 30 * 24 * time.Hour},
		{"30d by src/24,service", "verdict forward", "src/24,service", 30 * 24 * time.Hour},
		{"30d by pair", "", "src,dst,dport,proto", 30 * 24 * time.Hour},
		{"30d of a net", "src 198.0.0.0/22 and dport 443", "dst", 30 * 24 * time.Hour},
		{"7d by src,dst", "", "src,dst", 7 * 24 * time.Hour},
		{"24h by rule", "verdict drop", "rule", 24 * time.Hour},
		{"a minute", "", "src,dst,dport,proto", time.Minute},
	} {
		e, err := expr.Parse(c.filter)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Query(context.Background(), Query{end.Add(-c.ago), end, e, by(b, c.group)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A minute's write of a busy site.
func BenchmarkWrite(b *testing.B) {
	o := options(b)
	o.Top = 500
	s := openStore(b, o, noon)
	site := newSite(13)
	at := noon
	for b.Loop() {
		at = at.Add(time.Minute)
		write(b, s, site.reports(1000, at, 5*time.Minute), at)
	}
}
