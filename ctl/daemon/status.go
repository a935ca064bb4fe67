package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/flow"
	"gardu/ctl/lb/health"
	"gardu/ctl/model"
)

// Status is the state of the whole.
func (d *Daemon) Status(context.Context) (api.Status, error) {
	now := d.current.Load()
	totals, err := d.flowTotals()
	if err != nil {
		return api.Status{}, err
	}
	passed, err := d.passedInterfaces()
	if err != nil {
		return api.Status{}, err
	}
	programs, err := d.plane.FlowTotals()
	if err != nil {
		return api.Status{}, err
	}
	filter, err := d.filterTotals(now, programs)
	if err != nil {
		return api.Status{}, err
	}
	exits, err := d.exitStatus(now)
	if err != nil {
		return api.Status{}, err
	}
	effects, err := d.plane.EffectTotals()
	if err != nil {
		return api.Status{}, err
	}
	losses, err := d.lossStatus()
	if err != nil {
		return api.Status{}, err
	}
	status := api.Status{
		Version:    d.options.Version,
		Revision:   now.revision,
		Generation: d.reconciler.Generation(),
		Config:     now.name,
		Applied:    now.at,
		Waiting:    d.waitingStatus(),
		Started:    d.started,
		Uptime:     api.Duration(time.Since(d.started).Truncate(time.Second)),
		Interfaces: d.interfaceStatus(now, passed),
		Exits:      exits,
		Losses:     losses,
		Reasons:    passed.reasons(),
		Filter:     filter,
		Flows:      flowStatus(totals, now.sample()),
		Sinks:      d.sinkStatus(),
		History:    d.historyStatus(),
		Captures:   d.captureStatus(),
		Events:     api.EventTotals{Sent: effects.Sent, Lost: effects.Lost, Unnoted: effects.Unnoted, Unwatched: effects.Unwatched},
		Overruns:   d.overruns.Load(),
		Limits:     api.LimitTotals{Shared: effects.Shared, Contended: effects.Contended},
		Tables: []api.Fill{
			{Name: "blocks", Entries: uint64(d.plane.BlockCount()), Max: uint64(d.plane.BlocksMax())},
			{Name: "rules", Entries: uint64(len(now.snapshot.Filter.Rules)), Max: uint64(abi.RuleIds) - uint64(abi.FirstRuleId)},
			{Name: "sets", Entries: uint64(len(now.snapshot.Sets)), Max: uint64(abi.SetBits)},
			{Name: "services", Entries: uint64(len(now.snapshot.Services)), Max: uint64(abi.ServiceIds) - 1},
			{Name: "backends", Entries: uint64(len(now.tables.Backends)), Max: uint64(abi.BackendIds) - 1},
		},
	}
	if now.tables.Features.Flows {
		status.Tables = append([]api.Fill{{Name: api.FlowsFill, Entries: totals.Live, Max: totals.Capacity}}, status.Tables...)
	}
	if now.tables.Features.State {
		states, err := d.plane.States()
		if err != nil {
			return api.Status{}, err
		}
		status.States = &api.StateTotals{Entries: states.Live, Max: states.Max, Created: programs.StateCreated,
			Evicted: programs.StateEvicted, Refused: programs.StateRefused}
		status.Tables = append(status.Tables, api.Fill{Name: "states", Entries: states.Live, Max: states.Max})
	}
	if now.tables.Features.Nat {
		translations, err := d.plane.Translations()
		if err != nil {
			return api.Status{}, err
		}
		status.Tables = append(status.Tables, api.Fill{Name: "translations", Entries: translations.Live, Max: translations.Max})
	}
	status.Flows.Reports = d.reportStatus(totals)
	if now.tables.Features.Dropped {
		if status.Dropped, err = d.droppedTotals(programs); err != nil {
			return api.Status{}, err
		}
		status.Dropped.Sample = now.sample()
	}
	status.Privileges = d.privileges()
	status.Warnings = d.warnings(now, status, totals)
	return status, nil
}

// inKernel are the beginnings of faults that mean that the kernel doesn't hold what is wanted.
var inKernel = []string{"state of ", "next hop of ", "exit ", "tell programs ", "leave interface ", "detach from ", "re-read set files", "resize ",
	"finish resize ", "end the drain ", "give backends ", "go back ", "tidy up "}

// outOfSync are those faults.
func outOfSync(f *faults) []string {
	return slices.DeleteFunc(f.all(), func(fault string) bool {
		return !slices.ContainsFunc(inKernel, func(begin string) bool { return strings.HasPrefix(fault, begin) })
	})
}

// Ready says on which interfaces packets are not handled as configured, and what the kernel doesn't hold as it is wanted.
func (d *Daemon) Ready(context.Context) error {
	var away []string
	wanted := d.reconciler.Generation()
	if held, _ := d.plane.Current(); held != wanted && d.reconciler.Generation() == wanted { // else it changed meanwhile
		away = append(away, fmt.Sprintf("the kernel is at generation %d, not %d", held, wanted))
	}
	away = append(away, outOfSync(&d.faults)...)
	for _, i := range d.interfaceStatus(d.current.Load(), nil) {
		if !i.Attached {
			away = append(away, fmt.Sprintf("not attached to %s: %s", i.Name, i.Error))
		}
	}
	if away != nil {
		return errors.New(strings.Join(away, "; "))
	}
	return nil
}

func flowStatus(t flow.Totals, sample int) api.FlowTotals {
	return api.FlowTotals{
		Sample:  sample,
		Entries: t.Records.Entries, Max: t.Capacity, Spilled: t.LRU.Entries, Created: t.Created,
		Evicted: t.Evicted.Packets, Refused: t.Refused.Packets,
		Attributed:   t.Records.Packets + t.LRU.Packets,
		Unattributed: t.Unattributed.Packets, UnattributedBytes: t.Unattributed.Bytes,
		Accounted: t.Accounted.Packets, AccountedBytes: t.Accounted.Bytes,
	}
}

// filterTotals adds up who decided. Reached is counted on its own by the programs.
func (d *Daemon) filterTotals(now *applied, programs abi.FlowTotals) (api.FilterTotals, error) {
	ids := []uint32{uint32(abi.DeciderAllow), uint32(abi.DeciderBlock), uint32(abi.DeciderHealth), uint32(abi.DeciderDefault),
		uint32(abi.DeciderGone)}
	for id := range now.rules { // also rules that are gone: they decided what they decided
		ids = append(ids, id)
	}
	counters, err := d.plane.RuleCounters(ids)
	if err != nil {
		return api.FilterTotals{}, err
	}
	totals := api.FilterTotals{
		Allowed: counters[0].Decided,
		Blocked: counters[1].Decided,
		Health:  counters[2].Decided,
		Default: counters[3].Decided,
	}
	for _, c := range counters[4:] {
		totals.Decided += c.Decided
	}
	totals.Decided -= programs.OutDecided // of what was sent, which the filter of received packets never saw
	totals.Reached = programs.Filtered
	return totals, nil
}

// missedShare is the part of packets that may be in no report before status warns: a flow of one packet that begins when its bucket is full
// costs one now and then.
const missedShare = 100

// warnings are what somebody should look at, a sentence each.
func (d *Daemon) warnings(now *applied, status api.Status, totals flow.Totals) []string {
	var texts []string
	warn := func(format string, args ...any) { texts = append(texts, fmt.Sprintf(format, args...)) }
	if len(status.Interfaces) == 0 {
		warn("no interface is configured, so gardu sees no packets: name one in the configuration; `gardu init` writes one for this machine")
	}
	for _, i := range status.Interfaces {
		switch {
		case !i.Attached:
			warn("not attached to %s: %s", i.Name, i.Error)
		case i.Path == model.PathXDPGeneric && i.Want != model.PathXDPGeneric:
			warn("%s runs generic XDP, which is slower: %s", i.Name, i.Why)
		}
	}
	for _, loss := range status.Losses {
		warn("%d packets that XDP sent to %s were lost: %s", loss.Packets, loss.Interface, loss.Why)
	}
	for _, exit := range status.Exits {
		if exit.Error != "" {
			warn("what rules send to %s is lost: %s", exit.Name, exit.Error)
		} else if exit.Failed > 0 {
			warn("%d copies of packets for %s could not be made", exit.Failed, exit.Name)
		}
	}
	for _, set := range now.snapshot.Sets {
		if file, ok := d.lists.get(set.Name); ok && file.err != nil {
			warn("set %s holds what was in its file before: %s", set.Name, summary(file.err))
		}
	}
	d.checkWarnings(now, warn)
	up := map[string]int{}
	for _, b := range now.tables.Backends {
		result, checked := d.health.Result(b.ServiceName, b.Name)
		if checked && result.State == health.Down {
			warn("backend %s is down: %s", name(b), result.Why)
			continue
		}
		if !orderOf(d.orders.get(b.ID)).Drained {
			up[b.ServiceName]++
		}
		if w, ok := d.way(b.ID); ok && w.err != nil {
			warn("the way to backend %s is not known: %v", name(b), w.err)
		} else if text := tooNarrow(now.snapshot, b, w.hop.MTU); ok && text != "" {
			warn("the way to backend %s is too narrow: %s", name(b), text)
		}
	}
	for _, service := range now.snapshot.Services {
		if up[service.Name] == 0 {
			warn("service %s has no backend that is up and not drained", service.Name)
		}
	}
	if totals.Refused.Packets+totals.Lost.Packets > 0 {
		warn("%d packets found no room in the flow table: raise flows.max", totals.Refused.Packets+totals.Lost.Packets)
	}
	if s := status.States; s != nil && s.Refused > 0 {
		warn("%d packets' connections found no room in the table that state is read from: raise flows.max, and have the table made anew by `gardu detach` and run", s.Refused)
	}
	if full := status.Reasons[abi.ReasonNatFull.String()].Packets; full > 0 {
		warn("%d packets found no room for a translation: raise nat.max, and have the table made anew by `gardu detach` and run", full)
	}
	if taken := status.Reasons[abi.ReasonNatPorts.String()].Packets; taken > 0 {
		warn("%d packets found no free source port for a translation: give their services more addresses by nat.pool, or more ports", taken)
	}
	if lost := status.Events.Lost; lost > 0 {
		warn("%d events were lost, because the ring was full: let rules log and sample fewer packets", lost)
	}
	for _, s := range status.Sinks {
		if s.Error != "" {
			warn("reports of flows don't get to %s: %s", s.Name, s.Error)
		}
		if s.LostReports > 0 {
			warn("%d reports of flows, %d packets, are missing from %s, which is away or too slow", s.LostReports, s.LostPackets, s.Name)
		}
	}
	d.historyWarnings(warn)
	if r := status.Flows.Reports; r != nil {
		if r.Missed > status.Flows.Accounted/missedShare {
			warn("%d packets of %d are in no report, because their flows gave way to newer ones or found no room: raise flows.max, or lower flows.idle",
				r.Missed, status.Flows.Accounted)
		}
		if r.NoRoom > 0 {
			warn("%d flows are not reported, because there is no room to remember it: raise flows.max", r.NoRoom)
		}
	}
	if shared := status.Limits.Shared; shared > 0 && !d.plane.LimitsMayGrow() {
		warn("%d packets shared the token bucket of others: more buckets than there is room for were in use at once", shared)
	}
	if d.plane.Resizing() {
		warn("the flow table changes its size: flows that are idle are in the old one still")
	}
	return append(texts, d.faults.all()...)
}
