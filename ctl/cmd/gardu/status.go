package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func (a *app) statusCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "status",
		Short: "Show what is attached, what became of the packets, what is full or lost",
		Long: `Shows the interfaces and the path in force on each with the reason for it, the
packets by verdict and reason, how full the tables are, and what was lost. Totals
are exact: packets that found no room in the flow table are counted as
unattributed.`,
		Example: `  gardu status
  gardu status -o json | jq .reasons`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *client.Client) error {
				status, err := c.Status(cmd.Context())
				if err != nil {
					return err
				}
				return printValue(a, status, func() error { return a.printStatus(&status) })
			})
		},
	})
}

// printStatus is the page that people read.
func (a *app) printStatus(s *api.Status) error {
	a.printf("gardu %s, up %s\n", s.Version, span(time.Duration(s.Uptime)))
	switch {
	case s.Revision == 0:
		a.printf("no configuration is in force\n")
	default:
		a.printf("revision %d", s.Revision)
		if s.Config != "" {
			a.printf(" from %s", printable(s.Config))
		}
		if !s.Applied.IsZero() {
			a.printf(", applied %s", s.Applied.Format(time.RFC3339))
		}
		a.printf(", generation %d\n", s.Generation)
		if s.Waiting != nil {
			a.printf("%s\n", warn.paint(a.color, waitingText(s.Waiting)))
		}
	}
	a.printf("\n")
	if err := writeTable(a.stdout, a.color, s.Interfaces, interfaceColumns()); err != nil {
		return err
	}
	a.printf("\n")
	if err := writeTable(a.stdout, a.color, s.Interfaces, trafficColumns()); err != nil {
		return err
	}
	a.printf("\n")
	if len(s.Exits) > 0 {
		if err := writeTable(a.stdout, a.color, s.Exits, exitColumns()); err != nil {
			return err
		}
		a.printf("\n")
	}
	if err := writeTable(a.stdout, a.color, reasonRows(s.Reasons), reasonColumns()); err != nil {
		return err
	}
	f := s.Filter
	a.printf("\nfilter: %s packets = %s allowed + %s blocked + %s health replies + %s decided by rules + %s by default\n", thousands(f.Reached),
		thousands(f.Allowed), thousands(f.Blocked), thousands(f.Health), thousands(f.Decided), thousands(f.Default))
	if e := s.Events; e != (api.EventTotals{}) {
		a.printf("events: %s packets logged or sampled, %s lost\n", thousands(e.Sent), thousands(e.Lost))
	}
	if c := s.Captures; c != (api.CaptureStatus{}) {
		a.printf("captures: %d under way, %s packets captured, %s lost, %s missed by clients\n", c.Readers, thousands(c.Captured), thousands(c.Lost), thousands(c.Missed))
	}
	a.printf("flows:  ")
	if s.Flows.Sample > 1 {
		a.printf("%s: ", sampleText(s.Flows.Sample))
	}
	a.printf("%s packets, %s of them unattributed (%s evicted, %s refused)\n", thousands(s.Flows.Accounted),
		thousands(s.Flows.Unattributed), thousands(s.Flows.Evicted), thousands(s.Flows.Refused))
	if r := s.Flows.Reports; r != nil {
		a.printf("        %s reported in %s reports, %s not yet, %s missed\n", thousands(r.Packets), thousands(r.Reports), thousands(r.Pending), thousands(r.Missed))
	}
	if s.Dropped != nil {
		a.printf("dropped or rejected: %s packets, %s of them in no flow that is remembered\n", thousands(s.Dropped.Packets), thousands(s.Dropped.Unattributed))
	}
	a.printf("\n")
	if len(s.Sinks) > 0 {
		if err := writeTable(a.stdout, a.color, s.Sinks, sinkColumns()); err != nil {
			return err
		}
		a.printf("\n")
	}
	if s.History != nil {
		a.printf("%s\n\n", historyText(s.History))
	}
	if err := writeTable(a.stdout, a.color, s.Tables, fillColumns()); err != nil {
		return err
	}
	if s.Privileges != nil {
		a.printf("\n%s\n", privilegesText(s.Privileges))
	}
	for i, warning := range s.Warnings {
		if i == 0 {
			a.printf("\n")
		}
		a.printf("%s %s\n", warn.paint(a.color, "warning:"), printable(warning))
	}
	return nil
}

// privilegesText says what the daemon may still do.
func privilegesText(p *api.Privileges) string {
	text := "the daemon keeps " + strings.Join(p.Capabilities, ", ")
	if !p.NoNewPrivileges {
		text += ", and may get more"
	}
	if !p.Filtered {
		text += "; no system call is refused"
	}
	if p.Unrestricted != "" {
		return text + "; writes to all files: " + printable(p.Unrestricted)
	}
	return text + "\n  writes below " + printable(strings.Join(p.Writable, ", ")) + "; runs no program"
}

// historyText says from when on flows of the past are kept, and what became of what was reported.
func historyText(h *api.HistoryStatus) string {
	all := func(c api.HistoryCounts) string { return thousands(c.Packets + c.PacketsReply) }
	text := fmt.Sprintf("history: %s of %s, %s packets written, %s waiting, %s lost",
		bytesText(h.Size), bytesText(h.MaxSize), all(h.Written), all(h.Pending), all(h.Lost))
	if h.Minutes == nil {
		return text
	}
	return text + fmt.Sprintf("\n         minutes since %s, 5 minutes since %s, hours since %s",
		h.Minutes.Format(time.RFC3339), h.Fives.Format(time.RFC3339), h.Hours.Format(time.RFC3339))
}

func interfaceColumns() []column[api.Interface] {
	return []column[api.Interface]{
		{"interface", false, func(i *api.Interface) any { return i.Name }},
		{"path", false, func(i *api.Interface) any {
			if !i.Attached {
				return styled{"none", bad}
			}
			return i.Path
		}},
		{"configured", false, func(i *api.Interface) any { return i.Want }},
		{"egress", false, func(i *api.Interface) any {
			if i.Egress {
				return "yes"
			}
			return "no"
		}},
		{"why", false, func(i *api.Interface) any {
			if !i.Attached {
				return styled{"not attached: " + i.Error, bad}
			}
			return i.Why
		}},
	}
}

// trafficColumns say what passed by interfaces. Who sends decides what Sent is complete for.
func trafficColumns() []column[api.Interface] {
	count := func(of func(*api.Traffic) any) func(*api.Interface) any {
		return func(i *api.Interface) any {
			if i.Traffic == nil {
				return styled{}
			}
			return of(i.Traffic)
		}
	}
	return []column[api.Interface]{
		{"interface", false, func(i *api.Interface) any { return i.Name }},
		{"received", false, count(func(t *api.Traffic) any { return t.Received.Packets })},
		{"bytes", false, count(func(t *api.Traffic) any { return size(t.Received.Bytes) })},
		{"dropped", false, count(func(t *api.Traffic) any { return t.Dropped.Packets })},
		{"bytes", false, count(func(t *api.Traffic) any { return size(t.Dropped.Bytes) })},
		{"sent", false, count(func(t *api.Traffic) any { return t.Sent.Packets })},
		{"bytes", false, count(func(t *api.Traffic) any { return size(t.Sent.Bytes) })},
		{"by", false, func(i *api.Interface) any {
			if i.Egress {
				return "gardu and the kernel"
			}
			return "gardu"
		}},
	}
}

func exitColumns() []column[api.Exit] {
	return []column[api.Exit]{
		{"rules send to", false, func(e *api.Exit) any {
			if e.Error != "" {
				return styled{e.Name + ": " + e.Error, bad}
			}
			return e.Name
		}},
		{"redirected", false, func(e *api.Exit) any { return e.Redirected }},
		{"mirrored", false, func(e *api.Exit) any { return e.Mirrored }},
		{"failed", false, func(e *api.Exit) any { return e.Failed }},
	}
}

// reasonRow is a line of packets by verdict and reason. The line of a verdict's sum has no reason.
type reasonRow struct {
	verdict, reason string
	api.Counter
}

// reasonRows groups the reasons that were counted by verdict, each verdict led by its sum, the most frequent first.
func reasonRows(reasons map[string]api.ReasonCounter) []reasonRow {
	sums := map[string]*reasonRow{}
	var rows []reasonRow
	for reason, counter := range reasons {
		if counter.Packets == 0 {
			continue
		}
		if sums[counter.Verdict] == nil {
			sums[counter.Verdict] = &reasonRow{verdict: counter.Verdict}
		}
		sum := sums[counter.Verdict]
		sum.Packets += counter.Packets
		sum.Bytes += counter.Bytes
		rows = append(rows, reasonRow{counter.Verdict, reason, counter.Counter})
	}
	for _, verdict := range slices.Sorted(maps.Keys(sums)) {
		rows = append(rows, *sums[verdict])
	}
	slices.SortFunc(rows, func(x, y reasonRow) int {
		return cmp.Or(
			cmp.Compare(sums[y.verdict].Packets, sums[x.verdict].Packets),
			cmp.Compare(x.verdict, y.verdict),
			cmp.Compare(min(len(x.reason), 1), min(len(y.reason), 1)), // the sum leads
			cmp.Compare(y.Packets, x.Packets),
			cmp.Compare(x.reason, y.reason),
		)
	})
	return rows
}

func reasonColumns() []column[reasonRow] {
	return []column[reasonRow]{
		{"verdict", false, func(r *reasonRow) any {
			if r.reason != "" {
				return styled{}
			}
			return styled{r.verdict, verdictStyle(r.verdict)}
		}},
		{"reason", false, func(r *reasonRow) any { return styled{text: r.reason} }},
		{"packets", false, func(r *reasonRow) any { return r.Packets }},
		{"bytes", false, func(r *reasonRow) any { return size(r.Bytes) }},
	}
}

func sinkColumns() []column[api.Sink] {
	return []column[api.Sink]{
		{"flows are reported to", false, func(s *api.Sink) any {
			if s.Error != "" {
				return styled{s.Name + ": " + s.Error, bad}
			}
			return s.Name
		}},
		{"reports", false, func(s *api.Sink) any { return s.Reports }},
		{"packets", false, func(s *api.Sink) any { return s.Packets }},
		{"bytes", false, func(s *api.Sink) any { return size(s.Bytes) }},
		{"waiting", false, func(s *api.Sink) any { return s.Waiting }},
		{"lost reports", false, func(s *api.Sink) any {
			if s.LostReports > 0 {
				return styled{strconv.FormatUint(s.LostReports, 10), bad}
			}
			return s.LostReports
		}},
		{"lost packets", false, func(s *api.Sink) any { return s.LostPackets }},
	}
}

func fillColumns() []column[api.Fill] {
	return []column[api.Fill]{
		{"table", false, func(f *api.Fill) any { return f.Name }},
		{"entries", false, func(f *api.Fill) any { return f.Entries }},
		{"room for", false, func(f *api.Fill) any { return f.Max }},
		{"full", false, func(f *api.Fill) any {
			look := plainStyle
			if f.Ratio() >= api.FullAt {
				look = warn
			}
			return styled{percent(f.Ratio()), look}
		}},
	}
}
