package daemon

import (
	"context"
	"errors"
	"time"

	"gardu/ctl/netdev"
)

// settle is how long the network is left to change before it is looked at again: changes come in bursts.
const settle = 20 * time.Millisecond

// watchNetwork follows interfaces, routes and neighbours.
func (d *Daemon) watchNetwork(ctx context.Context) error {
	ticker := time.NewTicker(hopEvery)
	defer ticker.Stop()
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
	neighbours map[netdev.Event]bool
}

func (c *changes) note(event netdev.Event) {
	switch event.Kind {
	case netdev.LinkChanged, netdev.LinkGone, netdev.Overrun:
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
