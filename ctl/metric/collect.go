package metric

import (
	"context"
	"strconv"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/api"
)

// maxRules is how many rules have series of their own. The sum of the further ones has the name others, which no rule can have.
const (
	maxRules = 10_000
	others   = "_other"
)

func (c *collector) status(ctx context.Context, s scrape) error {
	status, err := c.engine.Status(ctx)
	if err != nil {
		return err
	}
	s.put(buildInfo, 1, status.Version)
	s.put(revision, float64(status.Revision))
	s.put(generation, float64(status.Generation))
	if !status.Applied.IsZero() {
		s.put(appliedAt, float64(status.Applied.UnixMilli())/1000)
	}
	full := 0
	for _, table := range status.Tables {
		s.put(entries, float64(table.Entries), table.Name)
		s.put(capacity, float64(table.Max), table.Name)
		if table.Ratio() >= api.FullAt {
			full++
		}
	}
	s.put(warnings, float64(len(status.Warnings)+full))
	c.reasons(s, status)
	c.filter(s, status.Filter)
	interfaces(s, status)
	c.flows(s, status.Flows)
	beside(s, status)
	c.dropped(s, status.Dropped)
	sinks(s, status.Sinks)
	history(s, status.History)
	return nil
}

// reasons has a series for each reason there is, so that the first packet of one is seen as an increase.
func (c *collector) reasons(s scrape, status api.Status) {
	for reason := abi.ReasonNone + 1; reason < abi.ReasonCount; reason++ {
		counted := status.Reasons[reason.String()]
		s.count(packets, counted.Packets, reason.Verdict().String(), reason.String())
		s.count(bytes, counted.Bytes, reason.Verdict().String(), reason.String())
	}
}

func (c *collector) filter(s scrape, filter api.FilterTotals) {
	s.count(reached, filter.Reached)
	s.count(decided, filter.Allowed, "allow")
	s.count(decided, filter.Blocked, "block")
	s.count(decided, filter.Health, "health")
	s.count(decided, c.sums.difference("filter", filter.Decided), "rule")
	s.count(decided, filter.Default, "default")
}

func interfaces(s scrape, status api.Status) {
	for _, i := range status.Interfaces {
		s.tell(attached, i.Attached, i.Name)
		if i.Attached {
			s.put(ifaceInfo, 1, i.Name, string(i.Path), strconv.FormatBool(i.Egress))
		}
	}
	for _, i := range status.Interfaces {
		traffic(s, i.Name, i.Traffic)
	}
	for _, exit := range status.Exits {
		s.count(redirected, exit.Redirected, exit.Name)
		s.count(mirrored, exit.Mirrored, exit.Name)
		s.count(unmirrored, exit.Failed, exit.Name)
	}
	losses := map[[2]string]uint64{} // two errors may mean the same
	for _, loss := range status.Losses {
		losses[[2]string{strings.ToValidUTF8(loss.Interface, "\uFFFD"), loss.Why}] += loss.Packets
	}
	for labels, n := range losses {
		s.count(lost, n, labels[0], labels[1])
	}
}

func traffic(s scrape, name string, t *api.Traffic) {
	if t == nil {
		return
	}
	s.count(receivedPackets, t.Received.Packets, name)
	s.count(receivedBytes, t.Received.Bytes, name)
	s.count(ifaceDropped, t.Dropped.Packets, name)
	s.count(ifaceDroppedBytes, t.Dropped.Bytes, name)
	s.count(sentPackets, t.Sent.Packets, name)
	s.count(sentBytes, t.Sent.Bytes, name)
	s.count(sentDropped, t.SentDropped.Packets, name)
	s.count(sentDroppedBytes, t.SentDropped.Bytes, name)
}

func (c *collector) flows(s scrape, flows api.FlowTotals) {
	s.put(flowSample, float64(max(1, flows.Sample)))
	s.put(flowRecords, float64(flows.Entries))
	s.put(flowSpilled, float64(flows.Spilled))
	s.count(flowsCreated, flows.Created)
	s.count(accounted, flows.Accounted)
	s.count(accountedBytes, flows.AccountedBytes)
	s.count(unattributed, c.sums.difference("unattributed", flows.Unattributed))
	s.count(unattributedBytes, c.sums.difference("unattributed bytes", flows.UnattributedBytes))
	s.count(evicted, flows.Evicted)
	s.count(refused, flows.Refused)
	if reports := flows.Reports; reports != nil {
		s.count(flowReports, reports.Reports)
		s.count(reportsPackets, reports.Packets)
		s.count(reportsBytes, reports.Bytes)
		s.put(reportsPending, float64(reports.Pending))
		s.count(reportsMissed, c.sums.difference("missed", reports.Missed))
		s.count(reportsNoRoom, reports.NoRoom)
	}
}

func beside(s scrape, status api.Status) {
	if states := status.States; states != nil {
		s.count(statesCreated, states.Created)
		s.count(statesEvicted, states.Evicted)
		s.count(statesRefused, states.Refused)
	}
	s.count(eventsSent, status.Events.Sent)
	s.count(eventsLost, status.Events.Lost)
	s.count(eventsUnnoted, status.Events.Unnoted)
	s.put(captureReaders, float64(status.Captures.Readers))
	s.count(captureCaptured, status.Captures.Captured)
	s.count(captureLost, status.Captures.Lost)
	s.count(captureMissed, status.Captures.Missed)
	s.count(limitsShared, status.Limits.Shared)
	s.count(limitsContended, status.Limits.Contended)
}

func (c *collector) dropped(s scrape, dropped *api.DroppedTotals) {
	if dropped == nil {
		return
	}
	s.put(droppedRecords, float64(dropped.Entries))
	s.put(droppedCapacity, float64(dropped.Max))
	s.count(droppedPackets, dropped.Packets)
	s.count(droppedBytes, dropped.Bytes)
	s.count(droppedUnattributed, c.sums.difference("dropped", dropped.Unattributed))
	s.count(droppedUnattributedBytes, c.sums.difference("dropped bytes", dropped.UnattributedBytes))
}

func history(s scrape, history *api.HistoryStatus) {
	if history == nil {
		return
	}
	s.put(historySize, float64(history.Size))
	s.put(historyMax, float64(history.MaxSize))
	s.count(historyPackets, history.Written.Packets+history.Written.PacketsReply)
	s.put(historyPending, float64(history.Pending.Packets+history.Pending.PacketsReply))
	s.count(historyLost, history.Lost.Packets+history.Lost.PacketsReply)
}

func sinks(s scrape, sinks []api.Sink) {
	for _, sink := range sinks {
		s.tell(sinkFailing, sink.Error != "", sink.Name)
		s.count(sinkReports, sink.Reports, sink.Name)
		s.count(sinkPackets, sink.Packets, sink.Name)
		s.put(sinkWaiting, float64(sink.Waiting), sink.Name)
		s.count(sinkLostReports, sink.LostReports, sink.Name)
		s.count(sinkLostPackets, sink.LostPackets, sink.Name)
		s.count(sinkLostBytes, sink.LostBytes, sink.Name)
	}
}

func (c *collector) rules(ctx context.Context, s scrape) error {
	rules, err := c.engine.Rules(ctx)
	if err != nil {
		return err
	}
	if len(rules) > maxRules {
		rest := api.Rule{Name: others}
		for _, r := range rules[maxRules:] {
			rest.Packets, rest.Bytes, rest.Decided, rest.Shadow = rest.Packets+r.Packets, rest.Bytes+r.Bytes, rest.Decided+r.Decided, rest.Shadow+r.Shadow
		}
		rules = append(rules[:maxRules:maxRules], rest)
	}
	for _, r := range rules {
		s.count(rulePackets, r.Packets, r.Name)
		s.count(ruleBytes, r.Bytes, r.Name)
		s.count(ruleDecided, r.Decided, r.Name)
		s.count(ruleShadow, r.Shadow, r.Name)
	}
	return nil
}

func (c *collector) sets(ctx context.Context, s scrape) error {
	sets, err := c.engine.Sets(ctx)
	if err != nil {
		return err
	}
	for _, set := range sets {
		s.count(setPackets, c.sums.parts("set packets "+set.Name, set.Packets), set.Name)
		s.count(setBytes, c.sums.parts("set bytes "+set.Name, set.Bytes), set.Name)
		s.put(setEntries, float64(set.Wanted), set.Name, set.Kind)
		if set.File != "" {
			s.tell(setKept, set.Error != "", set.Name)
			s.put(setLoaded, float64(set.Loaded.UnixMilli())/1000, set.Name)
		}
	}
	return nil
}

func (c *collector) services(ctx context.Context, s scrape) error {
	services, err := c.engine.Services(ctx)
	if err != nil {
		return err
	}
	names := make(map[string]bool, len(services))
	for _, service := range services {
		names[service.Name] = true
		s.count(servicePackets, c.sums.parts("service packets "+service.Name, service.Packets), service.Name)
		s.count(serviceBytes, c.sums.parts("service bytes "+service.Name, service.Bytes), service.Name)
		s.count(serviceFlows, c.sums.parts("service flows "+service.Name, service.Flows), service.Name)
		s.put(serviceBackends, float64(service.Backends), service.Name)
		s.put(serviceBackendsUp, float64(service.BackendsUp), service.Name)
	}
	c.handshakes.collect(s, names)
	return nil
}

func (c *collector) backends(ctx context.Context, s scrape) error {
	backends, err := c.engine.Backends(ctx)
	if err != nil {
		return err
	}
	for _, b := range backends {
		s.count(backendPackets, b.Packets, b.Service, b.Name)
		s.count(backendBytes, b.Bytes, b.Service, b.Name)
		s.count(backendFlows, b.Flows, b.Service, b.Name)
		s.count(backendQUIC, b.QUIC, b.Service, b.Name)
		s.tell(backendUp, b.State != "down", b.Service, b.Name)
		s.tell(backendHop, b.NextHop != "", b.Service, b.Name)
		s.put(backendWeight, float64(b.Weight), b.Service, b.Name)
	}
	return nil
}
