package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/expr"
)

func (a *app) flowsCommand() *cobra.Command {
	var query api.FlowQuery
	var past period
	var file string
	cmd := a.outputFlag(&cobra.Command{
		Use:   "flows [EXPR]",
		Short: "Show the flows: who talks to whom, how much, by which rule or backend",
		Long: `Shows the flow records, both directions joined. Reading them stops nothing.

EXPR picks flows by what they are; gardu help expr explains it. Tables are sorted
by bytes unless --sort says otherwise; the other formats come as found unless
--sort is given. Packets and bytes are those of the opener; the columns with
"reply" those of the other direction. A rate is the average from the first packet
to the last.

--group adds up the flows that have its keys in common:
` + wrapped(expr.GroupHelp(), "  ") + `
Of src/N and dst/N the first N bits of an IPv4 address count, of IPv6 twice as many.
What is in none of the lines is added up in a last one.

--since asks what flows did in a time that may be long past, if flows.history is
kept: of flows added up by --group (` + api.HistoryGroup + `
unless given). EXPR and --group can ask for all but single flows' own: not for source
ports, states, sizes and ages. What lasts is reported every flows.active, so the
last minutes may not be whole. A rate is the average over that time. Small flows may
be kept without their addresses and ports, as (other).`,
		Example: `  gardu flows                                           all
  gardu flows -n 10                                     the ten largest
  gardu flows 'src in 198.51.100.0/24 and dport 443'    some
  gardu flows 'verdict drop and age < 1m' --sort last   what was just dropped
  gardu flows --group src/24 -n 10 dport 22             who knocks, by network
  gardu flows --group service,backend --sort rate       how services are used
  gardu flows --since 24h --group src/24,service        who used what since yesterday
  gardu flows --since 14:05 --until 14:10 dport 22      who knocked at that time
  gardu flows -o ndjson 'service web' | jq .backend
  gardu flows --since 30d --group src,dst,dport --parquet flows.parquet`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			query.Filter = strings.Join(args, " ")
			if _, err := expr.Parse(query.Filter); err != nil {
				return &usageError{err.Error(), "expr"}
			}
			if file != "" {
				if cmd.Flags().Changed("output") {
					return usage("--parquet and -o: flows are written or printed")
				}
				a.format = formatCSV // columns as machines want them
			}
			if past.asked() {
				return a.flowsOfThePast(cmd, query, past, file)
			}
			what, sorts := "flows", api.FlowSorts()
			if cmd.Flags().Changed("group") {
				if _, err := expr.ParseGroup(query.Group); err != nil {
					return usage("--group: %v", err)
				}
				what, sorts = "groups", api.GroupSorts()
			}
			if query.Sort != "" && !slices.Contains(sorts, query.Sort) {
				return usage("--sort %s: %s are sorted by %s", query.Sort, what, strings.Join(sorts, ", "))
			}
			if query.Limit < 0 {
				return usage("-n %d: it is a number of flows", query.Limit)
			}
			if a.format.human() && query.Sort == "" {
				query.Sort = "bytes"
			}
			return a.ask(func(c *client.Client) error {
				if query.Group != "" {
					return a.printGroups(cmd, c, query, file)
				}
				if file != "" {
					return writeParquet(a, file, a.flowColumns(query.Sort), func(yield func(api.Flow) error) error {
						return c.Flows(cmd.Context(), query, yield)
					})
				}
				return a.printFlows(cmd, c, query)
			})
		},
	})
	cmd.Flags().StringVar(&query.Sort, "sort", "", "by `KEY`: "+strings.Join(api.FlowSorts(), ", ")+"; with --group "+strings.Join(api.GroupSorts(), ", "))
	groupFlag(cmd, &query.Group)
	past.flags(cmd)
	cmd.Flags().StringVar(&file, "parquet", "", parquetHelp)
	cmd.Flags().IntVarP(&query.Limit, "number", "n", 0, "only the first `N` (0: all)")
	sorts := slices.Compact(slices.Sorted(slices.Values(slices.Concat(api.FlowSorts(), api.GroupSorts()))))
	complete := cobra.FixedCompletions(sorts, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("sort", complete); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

// printFlows streams in the formats of a line a flow, and collects for the others.
func (a *app) printFlows(cmd *cobra.Command, c *client.Client, query api.FlowQuery) error {
	told := false
	err := printEach(a, "flows", a.flowColumns(query.Sort), func(yield func(api.Flow) error) error {
		return c.Flows(cmd.Context(), query, func(f api.Flow) error {
			if !told {
				a.tellSample(f.Sample)
				told = true
			}
			return yield(f)
		})
	})
	if err != nil || told {
		return err
	}
	return a.tellNoFlows(cmd.Context(), c)
}

// tellNoFlows says why there are none, if nobody counts them.
func (a *app) tellNoFlows(ctx context.Context, c *client.Client) error {
	if !a.format.human() {
		return nil
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if _, counted := status.FlowTable(); !counted {
		a.warnf("they aren't counted: the configuration has no flows\n")
	}
	return nil
}

// tellSample says above a table that its numbers are those of a sample.
func (a *app) tellSample(of int) {
	if of > 1 && a.format.human() {
		a.printf("%s\n\n", sampleText(of))
	}
}

func sampleText(of int) string { return fmt.Sprintf("sampled: one packet of %d is counted", of) }

// flowColumns shows addresses with their ports in tables, and each by itself in CSV; and what flows are sorted by.
func (a *app) flowColumns(sort string) []column[api.Flow] {
	ends := []column[api.Flow]{
		{"src", false, func(f *api.Flow) any { return endpoint(f.Src, f.Sport) }},
		{"dst", false, func(f *api.Flow) any { return endpoint(f.Dst, f.Dport) }},
	}
	if a.format == formatCSV {
		ends = []column[api.Flow]{
			{"src", false, func(f *api.Flow) any { return f.Src }},
			{"dst", false, func(f *api.Flow) any { return f.Dst }},
			{"sport", false, func(f *api.Flow) any { return f.Sport }},
			{"dport", false, func(f *api.Flow) any { return f.Dport }},
		}
	}
	columns := append(ends, []column[api.Flow]{
		{"proto", false, func(f *api.Flow) any { return f.Proto }},
		{"packets", false, func(f *api.Flow) any { return f.Packets }},
		{"bytes", false, func(f *api.Flow) any { return size(f.Bytes) }},
		{"packets reply", true, func(f *api.Flow) any { return f.PacketsReply }},
		{"bytes reply", false, func(f *api.Flow) any { return size(f.BytesReply) }},
		{"rate", sort != "rate", func(f *api.Flow) any { return bitRate(f.Rate()) }},
		{"first", sort != "first" && sort != "duration", func(f *api.Flow) any { return f.First }},
		{"last", sort != "last" && sort != "duration", func(f *api.Flow) any { return f.Last }},
		{"verdict", false, func(f *api.Flow) any { return styled{f.Verdict, verdictStyle(f.Verdict)} }},
		{"reason", true, func(f *api.Flow) any { return f.Reason }},
		{"rule", false, func(f *api.Flow) any { return f.Rule }},
		{"service", false, func(f *api.Flow) any { return f.Service }},
		{"backend", false, func(f *api.Flow) any { return f.Backend }},
		{"state", true, func(f *api.Flow) any { return f.State }},
		{"end", true, func(f *api.Flow) any { return f.End }},
		{"flags", true, func(f *api.Flow) any { return f.Flags }},
		{"flags reply", true, func(f *api.Flow) any { return f.FlagsReply }},
		{"server rtt", true, func(f *api.Flow) any { return lapse(f.ServerRTT) }},
		{"client rtt", true, func(f *api.Flow) any { return lapse(f.ClientRTT) }},
		{"retransmits", true, func(f *api.Flow) any { return f.Retransmits }},
		{"retransmits reply", true, func(f *api.Flow) any { return f.RetransmitsReply }},
		{"ttl min", true, func(f *api.Flow) any { return f.TTLMin }},
		{"ttl max", true, func(f *api.Flow) any { return f.TTLMax }},
		{"ttl min reply", true, func(f *api.Flow) any { return f.TTLMinReply }},
		{"ttl max reply", true, func(f *api.Flow) any { return f.TTLMaxReply }},
		{"dscp", true, func(f *api.Flow) any { return f.DSCP }},
		{"dscp reply", true, func(f *api.Flow) any { return f.DSCPReply }},
		{"interface", true, func(f *api.Flow) any { return f.Interface }},
		{"interface reply", true, func(f *api.Flow) any { return f.InterfaceReply }},
		{"vlan", true, func(f *api.Flow) any { return f.Vlan }},
	}...)
	if a.format == formatCSV { // tables say it above
		columns = append(columns, column[api.Flow]{"sample", false, func(f *api.Flow) any { return max(1, f.Sample) }})
	}
	return columns
}

// endpoint is an address with its port, where it has one.
func endpoint(addr netip.Addr, port uint16) string {
	if port == 0 {
		return addr.String()
	}
	return netip.AddrPortFrom(addr, port).String()
}

// wrapped breaks a long list into lines with a margin.
func wrapped(list, margin string) string { return margin + fold(list, margin, proseWidth) }

// exprTopic is `gardu help expr`.
func exprTopic() *cobra.Command {
	table := func(all []expr.Key) string {
		var keys strings.Builder
		for _, key := range all {
			fmt.Fprintf(&keys, "  %-10s %-55s %s\n", key.Name, key.Help, key.Values)
		}
		return strings.TrimSuffix(keys.String(), "\n")
	}
	return &cobra.Command{
		Use:   "expr",
		Short: "How to pick flows, events and packets: src in 198.51.100.0/24 and dport 443",
		Long: `An EXPR is tests joined by and, or, not and parentheses. A test is a key, an
operator and a value, or several separated by commas, of which any may hold.
Operators are in, =, !=, <, <=, >, >=; left out, it is in.

  src in 198.51.100.0/24 and dport 443
  dport 80,443,8000-8099 and not verdict pass
  (rule ssh or service web) and bytes > 1M and age < 5m

Keys of flows:
` + table(expr.Keys()) + `

Keys of events:
` + table(expr.EventKeys()) + `

Packets that are captured have those of events but age and kind; rule is the one that
decided.`,
	}
}
