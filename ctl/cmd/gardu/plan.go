package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/plan"
)

func (a *app) planCommand() *cobra.Command {
	var exit, noPrice bool
	var against string
	cmd := a.outputFlag(&cobra.Command{
		Use:   "plan FILE",
		Short: "Say what apply would change, and change nothing",
		Long: `Compares a configuration with the one in force, object by object: what is new (+),
gone (-) or another one (~), each key with its old and its new value, and of sets how
many entries come and go. Warns as 'gardu check' does, and says whether apply would
refuse.

Of each service it says what share of new flows would get another backend than now;
established flows stay where they are. Up to 50,000 live flows are judged by both, with
packets like theirs put through the programs beside the live ones: which would be cut
and by which rule, among them perhaps your SSH session, which would pass that are
dropped now, and which would leave their service. A packet in the middle of the flow is
taken, and no limit is assumed to be exceeded.

What a packet would cost is measured on packets of live flows, by turns with what is in
force and with the new one: of flows that are remembered, and judged by everything as
the first of a flow is. Without live flows it is the estimate of 'gardu check --cost'.

With --exit-code the exit code is 4 if anything would change. With --against it
compares two files instead, and needs no daemon. FILE may be - for stdin.`,
		Example: `  gardu plan gardu.yaml
  gardu plan gardu.yaml --exit-code > /dev/null; test $? -ne 4 || gardu apply gardu.yaml
  gardu plan new.yaml --against old.yaml
  gardu plan gardu.yaml -o json | jq '.services[] | select(.moved > 0.1).service'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, name, dir, err := a.readConfig(args[0])
			if err != nil {
				return err
			}
			var result api.Plan
			if against != "" {
				result, err = a.planAgainst(against, name, text, dir)
			} else {
				err = a.ask(func(c *client.Client) error {
					result, err = c.Plan(cmd.Context(), api.PlanRequest{Name: name, Dir: dir, YAML: string(text), SSHConnection: sshConnection(), NoPrice: noPrice})
					if wrong, ok := errors.AsType[config.Errors](err); ok {
						return wrong.Quote()
					}
					if errors.Is(err, client.ErrUnreachable) {
						return advise(err, "%s\nor compare with a file: gardu plan %s --against OLD.yaml", a.todo(err), args[0])
					}
					return err
				})
			}
			if err != nil {
				return err
			}
			for _, warning := range result.Warnings {
				a.warnf("%v\n", warning)
			}
			if err := printValue(a, result, func() error { a.printPlan(result, args[0]); return nil }); err != nil {
				return err
			}
			if exit && result.Changed {
				return exitCode(exitChanges)
			}
			return nil
		},
	})
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 4 if anything would change")
	cmd.Flags().BoolVar(&noPrice, "no-price", false, "don't measure what a packet would cost, which takes a moment")
	cmd.Flags().StringVar(&against, "against", "", "compare with this `FILE` instead of what is in force")
	return cmd
}

// planAgainst compares two files, with all backends up.
func (a *app) planAgainst(path, name string, text []byte, dir string) (api.Plan, error) {
	old, _, err := config.Load(path)
	if err != nil {
		return api.Plan{}, err
	}
	next, warnings, err := config.Parse(name, text, dir)
	if err != nil {
		return api.Plan{}, err
	}
	known, _, err := compile.IDs{}.Assign(old)
	if err != nil {
		return api.Plan{}, fmt.Errorf("%s: %w", path, err)
	}
	before, err := compile.Compile(old, known)
	if err != nil {
		return api.Plan{}, fmt.Errorf("%s: %w", path, err)
	}
	ids, _, err := known.Assign(next)
	if err != nil {
		return api.Plan{}, fmt.Errorf("%s: %w", name, err)
	}
	after, err := compile.CompileAfter(before, next, ids)
	if err != nil {
		return api.Plan{}, fmt.Errorf("%s: %w", name, err)
	}
	changes := plan.Diff(old, next)
	if changes == nil {
		changes = []api.Change{}
	}
	shares := plan.Shares(plan.Side{Snapshot: old, Rings: before.Rings}, plan.Side{Snapshot: next, Rings: after.Rings}, nil)
	if shares == nil {
		shares = []api.PlannedShare{}
	}
	return api.Plan{Changed: len(changes) > 0, Changes: changes, Services: shares,
		Warnings: api.Warnings(append(warnings, onThisMachine(next, text)...))}, nil
}

// printPlan is a plan for people, of a file.
func (a *app) printPlan(p api.Plan, file string) {
	in := "the other file"
	if p.Revision != 0 {
		in = fmt.Sprintf("revision %d", p.Revision)
	}
	switch {
	case !p.Changed:
		a.printf("nothing to do: %s holds the same\n", in)
		return
	case len(p.Changes) == 0:
		a.printf("nothing but the order of things differs from %s\n", in)
	default:
		a.printf("%s, against %s:\n", plural(len(p.Changes), "change"), in)
	}
	width := 0
	for _, c := range p.Changes {
		width = max(width, len(c.Kind)+1+len(c.Name))
	}
	width = min(width, 32)
	for _, c := range p.Changes {
		a.printChange(c, width)
	}
	for _, s := range p.Services {
		a.printShare(s)
	}
	if p.Flows != nil {
		a.printPlannedFlows(p.Flows)
	}
	if p.Price != nil {
		for line := range strings.SplitSeq(priceText(p.Price), "\n") {
			a.printf("%s\n", printable(line))
		}
	}
	switch {
	case p.Refused != "":
		a.printf("%s\n", bad.paint(a.color, "apply would refuse it: "+printable(p.Refused)))
	case p.Tag != "":
		a.printf("to do just that, unless somebody else changes anything before: gardu apply %s --if-match %s\n", file, p.Tag)
	}
}

func (a *app) printChange(c api.Change, width int) {
	look := map[string]style{api.ChangeAdded: good, api.ChangeRemoved: bad, api.ChangeChanged: warn}[c.Change]
	head := fmt.Sprintf("%s %-*s", c.Sign(), width, printable(strings.TrimSpace(c.Kind+" "+c.Name)))
	var lines []string
	switch {
	case c.Change != api.ChangeChanged:
		lines = []string{c.Text}
		if c.Before != "" {
			lines[0] += "  before " + c.Before
		}
	default:
		for _, key := range c.Keys {
			lines = append(lines, fmt.Sprintf("%s: %s -> %s", key.Key, a.clip(orElse(key.Old, "none")), a.clip(orElse(key.New, "none"))))
		}
	}
	if a.format == formatWide && c.At != "" {
		lines = append(lines, "at "+c.At)
	}
	for i, line := range lines {
		if i > 0 {
			head = strings.Repeat(" ", width+2)
		}
		a.printf("  %s  %s\n", look.paint(a.color, head), printable(line))
	}
}

// clip shortens a value of a table; -o wide shows it whole.
func (a *app) clip(text string) string {
	const most = 100
	if runes := []rune(text); len(runes) > most && a.format != formatWide {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// printShare says how new flows of a service would be spread; each backend's part only while they are few.
func (a *app) printShare(s api.PlannedShare) {
	const few = 8
	a.printf("service %s: %s of new flows would get another backend than now; established ones stay\n", printable(s.Service), api.Percent(s.Moved))
	changed := 0
	for _, b := range s.Backends {
		if b.Before != b.After {
			changed++
		}
	}
	if changed > few && a.format != formatWide {
		a.printf("  %s get another share of them; -o wide lists them\n", plural(changed, "backend"))
		return
	}
	for _, b := range s.Backends {
		if b.Before != b.After {
			a.printf("  %s: %s -> %s\n", printable(b.Name), api.Percent(b.Before), api.Percent(b.After))
		}
	}
}

// printPlannedFlows says what would become of flows that live.
func (a *app) printPlannedFlows(f *api.PlannedFlows) {
	switch {
	case f.Unjudged != "":
		a.printf("live flows were not judged: %s\n", printable(f.Unjudged))
		return
	case f.Live == 0:
		a.printf("no flow is live\n")
		return
	case f.Judged < f.Live:
		a.printf("live flows: %s of %s, taken by chance\n", thousands(uint64(f.Judged)), thousands(uint64(f.Live)))
	default:
		a.printf("live flows: %s\n", thousands(uint64(f.Live)))
	}
	if len(f.Otherwise) == 0 && len(f.Services) == 0 {
		a.printf("  none would be judged otherwise\n")
	}
	for i := range f.Otherwise {
		a.printVerdict(&f.Otherwise[i])
	}
	for _, s := range f.Services {
		a.printf("  of %s of %s, %d would leave their backend; %d would get another one if they began anew\n", plural(s.Live, "flow"),
			printable(s.Service), s.Leave, s.Anew)
	}
}

// printVerdict says what would become of the flows that would be judged otherwise in one way.
func (a *app) printVerdict(v *api.PlannedVerdict) {
	cut := map[string]bool{"drop": true, "reject": true}
	what, look := "would be another way of "+v.After, warn
	switch {
	case cut[v.After] && !cut[v.Before]:
		what, look = "would be cut", bad
	case cut[v.Before] && !cut[v.After]:
		what, look = "dropped now would pass", good
	case v.After != v.Before:
		what = fmt.Sprintf("would go from %s to %s", v.Before, v.After)
	}
	by := orElse(v.Reason, "no programs")
	if v.Rule != "" {
		by = "rule " + v.Rule
	}
	text := fmt.Sprintf("%s %s by %s", plural(v.Flows, "flow"), what, by)
	if v.Service != "" {
		text += ", service " + v.Service
	}
	if v.Established > 0 {
		text += fmt.Sprintf("; %s established", thousands(uint64(v.Established)))
	}
	a.printf("  %s\n", look.paint(a.color, printable(text)))
	if v.Session != "" {
		a.printf("    %s\n", bad.paint(a.color, "among them your SSH session: "+printable(v.Session)))
	}
	for _, example := range v.Examples {
		if example != v.Session {
			a.printf("    %s\n", printable(example))
		}
	}
	if more := v.Flows - len(v.Examples); more > 0 {
		a.printf("    and %s more\n", thousands(uint64(more)))
	}
}

// priceText says what a received packet takes now and would take.
func priceText(p *api.PlannedPrice) string {
	ns := func(n *api.PlannedNs) string { return fmt.Sprintf("%.0f -> %.0f ns", n.Before, n.After) }
	switch {
	case p.Error != "":
		return "price: not measured: " + p.Error
	case p.Known != nil && p.New != nil:
		return fmt.Sprintf("price: a packet of a known flow %s, the first of a flow %s\n  measured here on packets of %s", ns(p.Known), ns(p.New), plural(p.Flows, "live flow"))
	case p.Typical != nil && p.Worst != nil:
		return fmt.Sprintf("price: no live flow to measure on; by the estimate of `gardu check --cost` rules take %s a packet, at most %s", ns(p.Typical), ns(p.Worst))
	}
	return "price: not known"
}
