package daemon

import (
	"context"
	"errors"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/netdev"
)

// settle is how long the network is left to change before it is looked at again: changes come in bursts.
const settle = 20 * time.Millisecond

// tellOverruns is how often at most is told of changes that were lost.
const tellOverruns = 10 * time.Second

// watchNetwork follows interfaces, routes and neighbours.
func (d *Daemon) watchNetwork(ctx context.Context) error {
	ticker := time.NewTicker(hopEvery)
	defer ticker.Stop()
	var lost uint64    // overruns not told yet
	var told time.Time // the last ones
	for {
		d.beat(loopNetwork)
		var dirty changes
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			dirty.routes = true
		case event, ok := <-d.events:
			if !ok {
				return d.watchEnded(ctx)
			}
			dirty.note(event)
			if !dirty.gather(ctx, d.events) {
				return d.watchEnded(ctx)
			}
		}
		if lost += dirty.overruns; lost > 0 && time.Since(told) >= tellOverruns {
			d.tellOverrun(lost)
			lost, told = 0, time.Now()
		}
		if dirty.links {
			d.syncLinks()
			d.announce()
		}
		d.syncHops(dirty)
		if dirty.routes {
			d.syncExits(d.current.Load().ids.Exits)
			d.followChecks()
		}
	}
}

func (d *Daemon) watchEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("watch the kernel's network settings: the kernel closed the socket")
}

// changes is what events add up to.
type changes struct {
	links      bool
	routes     bool // of any backend
	overruns   uint64
	neighbours map[netdev.Event]bool
}

func (c *changes) note(event netdev.Event) {
	switch event.Kind {
	case netdev.Overrun:
		c.overruns++
		c.links, c.routes = true, true
	case netdev.LinkChanged, netdev.LinkGone:
		c.links, c.routes = true, true
	case netdev.NeighbourChanged:
		if c.neighbours == nil {
			c.neighbours = map[netdev.Event]bool{}
		}
		c.neighbours[netdev.Event{Ifindex: event.Ifindex, Address: event.Address}] = true
	default:
		c.routes = true
	}
}

// gather adds the events of a burst; false when there will be no more events.
func (c *changes) gather(ctx context.Context, events <-chan netdev.Event) bool {
	calm := time.NewTimer(settle)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-calm.C:
			return true
		case event, ok := <-events:
			if !ok {
				return false
			}
			c.note(event)
		}
	}
}

// concerns says whether the way to a backend may have changed.
func (c *changes) concerns(hop netdev.Hop) bool {
	return c.routes || c.neighbours[netdev.Event{Ifindex: hop.Ifindex, Address: hop.Neighbour}]
}

// tellOverrun counts and tells that the kernel told of more changes than it could keep. Nothing is missed: all is read again.
func (d *Daemon) tellOverrun(n uint64) {
	d.overruns.Add(n)
	d.log.Warn("the network changes faster than it can be followed; interfaces, routes and neighbours are read again", "times", n)
	d.happened(api.Event{Kind: api.EventInterface, Count: n, Text: "changes of the network were lost; all of it is read again"})
}
