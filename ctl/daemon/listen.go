package daemon

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"gardu/ctl/api"
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// doors are where the API is served by TCP: at the one that the configuration in force names.
type doors struct {
	address netip.AddrPort // of the one that is open or about to be; the zero value: none. Guarded by Daemon.changing
	next    chan door      // from who changes the configuration to who serves; holds one
}

// door is a place to listen, or none.
type door struct {
	address  netip.AddrPort
	listener net.Listener
}

func (o door) close() error {
	if o.listener == nil {
		return nil
	}
	return o.listener.Close()
}

// prepareDoor listens where a candidate wants it, unless that is where the API is served already. changing is held, or
// nobody else is there yet.
func (d *Daemon) prepareDoor(c candidate) (door, error) {
	next := door{address: c.snapshot.API.Listen}
	if !next.address.IsValid() || next.address == d.doors.address {
		return next, nil
	}
	var err error
	if next.listener, err = api.ListenTCP(next.address); err != nil {
		pos := c.snapshot.API.Pos
		return door{}, config.Errors{{Pos: pos, Msg: err.Error(), Line: config.LineOf(c.text, pos.Line),
			Allowed: "an address and a port where no other program listens"}}
	}
	return next, nil
}

// changeDoor has the API served there from now on, and nowhere else. changing is held, or nobody else is there yet.
func (d *Daemon) changeDoor(next door) {
	if next.address == d.doors.address {
		return
	}
	d.doors.address = next.address
	select {
	case unused := <-d.doors.next: // nobody serves yet, or any more
		if err := unused.close(); err != nil {
			d.log.Warn("listener not closed", "address", unused.address, "error", err)
		}
	default:
	}
	d.doors.next <- next
}

// metricSinks are told of flows for handshake times, where there are some to be scraped: of services.
func (d *Daemon) metricSinks(snapshot *model.Snapshot) []sinkWish {
	tcp := slices.ContainsFunc(snapshot.Services, func(s model.Service) bool { return s.Proto == model.ProtoTCP })
	if !snapshot.API.Listen.IsValid() || !tcp {
		return nil
	}
	return []sinkWish{{name: "metrics", open: func() (sink, error) { return d.metrics.Handshakes, nil }}}
}

// serveTCP serves the API by TCP until ctx ends.
func (d *Daemon) serveTCP(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	end := func() {}
	for {
		select {
		case <-ctx.Done():
			end()
			return nil
		case next := <-d.doors.next:
			end()
			end = d.open(ctx, &serving, next)
		}
	}
}

// open serves at a door until end is called.
func (d *Daemon) open(ctx context.Context, serving *sync.WaitGroup, at door) (end func()) {
	const tried = "serve api.listen"
	d.fault(tried, nil)
	if at.listener == nil {
		return func() {}
	}
	ctx, end = context.WithCancel(ctx)
	serving.Go(func() {
		if err := api.ServeTCP(ctx, at.listener, d, d.metrics.Handler(), d.log); err != nil {
			d.fault(tried, err)
		}
	})
	d.log.Info("serving by TCP", "address", at.address)
	return end
}
