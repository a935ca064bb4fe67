package daemon

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/flow"
)

const (
	pricedMax    = 128 // flows whose packets are measured
	priceRounds  = 7   // of which the median counts
	priceRepeats = 100 // runs of a packet at once
	priceSingles = 9   // single runs of a packet that gets longer, a round

	loopback = 1 // its index
)

// price measures packets like those of live flows with what is in force and with a candidate, by turns. Without flows there is
// an estimate.
func (d *Daemon) price(ctx context.Context, now *applied, c compiled, state map[uint16]compile.Runtime) (*api.PlannedPrice, error) {
	var live liveFlows
	var err error
	if d.plane.FlowsMax() != 0 {
		live, err = d.liveFlows(pricedMax, func(*flow.Flow) bool { return false })
	}
	if err != nil {
		return nil, err
	}
	t := &trial{daemon: d, links: d.linkNames()}
	t.prepare(now, c)
	var samples []pricedPacket
	for i := range live.flows {
		f := &live.flows[i]
		frame, ifname, out, err := t.packet(f, false)
		before, sat := t.before.hooks[ifname]
		after, sits := t.after.hooks[ifname]
		if err == nil && !out && sat && sits {
			samples = append(samples, pricedPacket{frame: frame, hooks: [2]dataplane.Hook{before, after}, packets: float64(f.Packets)})
		}
	}
	if len(samples) == 0 {
		return estimated(now.tables, c.tables), nil
	}
	price := &api.PlannedPrice{Flows: len(samples)}
	if price.Known, err = d.measure(ctx, now, c, state, samples, true); err != nil {
		return nil, err
	}
	price.New, err = d.measure(ctx, now, c, state, samples, false)
	return price, err
}

// estimated is the price by the model of check --cost.
func estimated(before, after *compile.Tables) *api.PlannedPrice {
	p := &api.PlannedPrice{Typical: &api.PlannedNs{}, Worst: &api.PlannedNs{}}
	p.Typical.Before, p.Worst.Before = estimate(before)
	p.Typical.After, p.Worst.After = estimate(after)
	return p
}

func estimate(t *compile.Tables) (typical, worst float64) {
	for _, run := range t.Runs {
		if run.Packets == "received" {
			a, b := run.Estimate(t.Cost.Bytes[abi.TableSets])
			return float64(a), float64(b)
		}
	}
	return 0, 0
}

// pricedPacket is a packet of a flow.
type pricedPacket struct {
	frame   []byte
	hooks   [2]dataplane.Hook // before, after
	packets float64           // that the flow had
}

// measure weighs packets by those of their flows where these are known, else all alike.
func (d *Daemon) measure(ctx context.Context, now *applied, c compiled, state map[uint16]compile.Runtime, samples []pricedPacket, known bool) (*api.PlannedNs, error) {
	var sides [2]scale
	for i, one := range []compiled{now.compiled, c} {
		wish := d.trialOf(now, one, state)
		wish.Alone = true
		if !known {
			wish.Features.Flows, wish.Features.Dropped, wish.Features.Sample = false, false, false
		}
		if indexes := slices.Sorted(maps.Keys(wish.Interfaces)); len(indexes) > 0 { // packets come in by the loopback here
			wish.Interfaces[loopback] = wish.Interfaces[indexes[0]]
		}
		plane, err := d.plane.Try(wish)
		if err != nil {
			return nil, err
		}
		defer plane.Close()
		sides[i].plane = plane
	}
	var sum [2]float64
	var weight float64
	for _, sample := range samples {
		ns, err := weigh(ctx, &sides, sample)
		if err != nil {
			return nil, err
		}
		w := 1.0
		if known {
			w = sample.packets
		}
		weight += w
		for i := range sum {
			sum[i] += w * ns[i]
		}
	}
	return &api.PlannedNs{Before: sum[0] / weight, After: sum[1] / weight}, nil
}

// scale is an instance and what a single run takes by itself.
type scale struct {
	plane *dataplane.Dataplane
	tare  map[dataplane.Hook]float64
}

// weigh measures one packet on both sides by turns.
func weigh(ctx context.Context, sides *[2]scale, p pricedPacket) (ns [2]float64, err error) {
	repeats, runs := priceRepeats, 1
	for i := range sides {
		result, err := sides[i].plane.Run(p.hooks[i], p.frame, loopback)
		if err != nil {
			return ns, err
		}
		if len(result.Frame) != len(p.frame) || !bytes.Equal(result.Frame[12:], p.frame[12:]) { // MAC addresses apart
			repeats, runs = 1, priceSingles
		}
	}
	var took [2][]float64
	for range priceRounds * runs {
		if err := ctx.Err(); err != nil {
			return ns, err
		}
		for i := range sides {
			_, one, err := sides[i].plane.Timing(p.hooks[i], p.frame, loopback, repeats)
			if err != nil {
				return ns, err
			}
			took[i] = append(took[i], float64(one.Nanoseconds()))
		}
	}
	for i := range sides {
		ns[i] = explain.Median(took[i])
		if repeats == 1 {
			tare, err := sides[i].tareOf(p.hooks[i])
			if err != nil {
				return ns, err
			}
			ns[i] = max(0, ns[i]-tare)
		}
	}
	return ns, nil
}

// tareOf is what a single run takes by itself.
func (s *scale) tareOf(hook dataplane.Hook) (tare float64, err error) {
	tare, ok := s.tare[hook]
	if ok {
		return tare, nil
	}
	if s.tare == nil {
		s.tare = map[dataplane.Hook]float64{}
	}
	s.tare[hook], err = explain.Tare(s.plane, hook, loopback)
	return s.tare[hook], err
}
