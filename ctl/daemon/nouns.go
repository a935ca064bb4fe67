package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// Rules lists the rules in the order in which they are tried.
func (d *Daemon) Rules(context.Context) ([]api.Rule, error) {
	now := d.current.Load()
	counters, err := d.ruleCounters(now)
	if err != nil {
		return nil, err
	}
	rules := make([]api.Rule, len(now.snapshot.Filter.Rules))
	for i, r := range now.snapshot.Filter.Rules {
		conditions := make([]string, len(r.Match))
		for j, condition := range r.Match {
			conditions[j] = rule.FormatCondition(condition)
		}
		c := counters[i]
		rules[i] = api.Rule{Name: r.Name, Match: strings.Join(conditions, ", "), Action: r.Action, To: cmp.Or(r.Interface, string(r.Reject)), Pos: r.Pos,
			Direction: cmp.Or(r.Direction, model.In), ShadowRule: r.Shadow, Limit: limitOf(r), Log: r.Log, Sample: r.Sample,
			Packets: c.Packets, Bytes: c.Bytes, Decided: c.Decided, Shadow: c.Shadow}
	}
	return rules, nil
}

func limitOf(r model.Rule) *api.Limit {
	if r.Limit == nil {
		return nil
	}
	return &api.Limit{Rate: rule.FormatRate(*r.Limit), Burst: rule.FormatBurst(*r.Limit), Per: rule.FormatPer(r.Limit.Per)}
}

func (d *Daemon) ruleCounters(now *applied) ([]abi.RuleCounter, error) {
	ids := make([]uint32, len(now.snapshot.Filter.Rules))
	for i, r := range now.snapshot.Filter.Rules {
		ids[i] = now.ids.Rules[r.Name]
	}
	return d.plane.RuleCounters(ids)
}

// Services lists the services with the sums of their backends.
func (d *Daemon) Services(ctx context.Context) ([]api.Service, error) {
	now := d.current.Load()
	backends, err := d.backends(now)
	if err != nil {
		return nil, err
	}
	services := make([]api.Service, len(now.snapshot.Services))
	for i, s := range now.snapshot.Services {
		service := api.Service{Name: s.Name, Address: s.AddressText(), Port: port(s.Port), Proto: rule.ServiceProtocol(s.Proto),
			Forward: s.Forward, Affinity: s.Affinity, Backends: len(s.Backends)}
		for _, b := range backends {
			if b.Service != s.Name {
				continue
			}
			if b.State != api.StateDown && b.State != api.StateDrained {
				service.BackendsUp++
			}
			service.Packets, service.Bytes, service.Flows = service.Packets+b.Packets, service.Bytes+b.Bytes, service.Flows+b.Flows
			service.Active += b.Active
			service.Rates = plus(service.Rates, b.Rates)
		}
		services[i] = service
	}
	return services, nil
}

func port(ports model.Range) string {
	if ports == model.AnyPort {
		return "any"
	}
	return rule.FormatPortRange(ports)
}

// Backends lists the backends of all services.
func (d *Daemon) Backends(context.Context) ([]api.Backend, error) {
	return d.backends(d.current.Load())
}

func (d *Daemon) backends(now *applied) ([]api.Backend, error) {
	ids := make([]uint32, len(now.tables.Backends))
	for i, b := range now.tables.Backends {
		ids[i] = uint32(b.ID)
	}
	counters, err := d.plane.BackendCounters(ids)
	if err != nil {
		return nil, err
	}
	read := time.Now()
	notes := d.orders.all()
	active, err := d.activeFlows()
	if err != nil {
		return nil, err
	}
	links := d.linkNames()
	backends := make([]api.Backend, 0, len(ids))
	for _, s := range now.snapshot.Services {
		for _, b := range s.Backends {
			i := len(backends) // tables.Backends has the snapshot's order
			id := now.tables.Backends[i].ID
			one := api.Backend{Service: s.Name, Name: b.Name, Address: b.Address, Weight: b.Weight, Configured: b.Weight, State: api.StateUp,
				NextHop: d.nextHop(id, links), Active: active[id],
				Packets: counters[i].Packets, Bytes: counters[i].Bytes, Flows: counters[i].Flows, QUIC: counters[i].Named,
				Rates: d.rates.of(id, counters[i], read)}
			if result, checked := d.health.Result(s.Name, b.Name); checked {
				one.State, one.Why, one.Since = result.State.String(), result.Why, result.Since
			}
			tellOrder(&one, notes[id])
			backends = append(backends, one)
		}
	}
	return backends, nil
}

// tellOrder shows what was ordered of a backend. One that is down has lost its flows already.
func tellOrder(b *api.Backend, note dataplane.BackendNote) {
	if note.Weight != nil {
		b.Weight = *note.Weight
	}
	switch {
	case isOver(note, time.Now()):
		b.State, b.Since, b.Active = api.StateDrained, note.Until, 0
	case !note.Drained.IsZero() && b.State != api.StateDown:
		b.State, b.Since, b.Until = api.StateDraining, note.Drained, note.Until
	}
}

// nextHop is the way to a backend for people; empty while it is not known.
func (d *Daemon) nextHop(id uint16, links map[int]string) string {
	w, _ := d.way(id)
	if w.mac == [6]byte{} {
		return ""
	}
	return fmt.Sprintf("%s %s", links[w.hop.Ifindex], net.HardwareAddr(w.mac[:]))
}
