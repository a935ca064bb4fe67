package daemon

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
)

const (
	pricedMax    = 128 // flows whose packets are measured
	priceRounds  = 7   // of which the median counts
	priceRepeats = 100 // runs of a packet at once
	priceSingles = 9   // single runs of a packet that gets longer, a round

	loopback = 1 // its index
)

// price measures packets like those of live flows with what is in force and with a candidate, by turns; without flows there is
// an estimate. It begins with making what it measures with, and measures when it is called again, so that nothing else of ours is under way then.
func (t *trial) price(ctx context.Context) func() (*api.PlannedPrice, error) {
	var samples []pricedPacket
	for i := range t.live.flows[:min(len(t.live.flows), pricedMax)] {
		f := &t.live.flows[i]
		frame, ifname, out, err := t.packet(f, false)
		before, sat := t.before.hooks[ifname]
		after, sits := t.after.hooks[ifname]
		if err == nil && !out && sat && sits {
			samples = append(samples, pricedPacket{frame: frame, hooks: [2]dataplane.Hook{before, after}, packets: float64(f.Packets)})
		}
	}
	if len(samples) == 0 {
		return func() (*api.PlannedPrice, error) { return estimated(t.tables[0], t.tables[1]), nil }
	}
	var known, fresh balance
	loaded := make(chan error, 1)
	go func() { loaded <- cmp.Or(known.load(ctx, t, true), fresh.load(ctx, t, false)) }()
	return func() (price *api.PlannedPrice, err error) {
		err = <-loaded
		defer known.close()
		defer fresh.close()
		if err != nil {
			return nil, err
		}
		price = &api.PlannedPrice{Flows: len(samples)}
		if price.Known, err = known.measure(ctx, samples); err == nil {
			price.New, err = fresh.measure(ctx, samples)
		}
		return price, err
	}
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

// balance is two instances on which packets are measured by turns: with records of flows, or without any, as the first packet of
// a flow meets them.
type balance struct {
	known bool
	sides [2]scale
}

// load makes both sides, which share nothing.
func (b *balance) load(ctx context.Context, t *trial, known bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.known = known
	side := func(i int, hooks map[string]dataplane.Hook) func() error {
		wish := t.wishes[i]
		wish.Alone = true
		if !known {
			wish.Features.Flows, wish.Features.Dropped, wish.Features.Sample = false, false, false
		}
		if indexes := slices.Sorted(maps.Keys(wish.Interfaces)); len(indexes) > 0 { // packets come in by the loopback here
			wish.Interfaces = maps.Clone(wish.Interfaces)
			wish.Interfaces[loopback] = wish.Interfaces[indexes[0]]
		}
		return func() (err error) {
			b.sides[i].plane, err = ready(func() (*dataplane.Dataplane, error) { return t.daemon.plane.Try(wish) }, hooks)
			return err
		}
	}
	return bothSides(side(0, t.before.hooks), side(1, t.after.hooks))
}

func (b *balance) close() {
	for _, side := range b.sides {
		if side.plane != nil {
			side.plane.Close()
		}
	}
}

// measure weighs packets by those of their flows where these are known, else all alike.
func (b *balance) measure(ctx context.Context, samples []pricedPacket) (*api.PlannedNs, error) {
	var sum [2]float64
	var weight float64
	for _, sample := range samples {
		ns, err := weigh(ctx, &b.sides, sample)
		if err != nil {
			return nil, err
		}
		w := 1.0
		if b.known {
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
