package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// doors are where the API is served by TCP: at the one that the configuration in force names.
type doors struct {
	address netip.AddrPort // of the one that is open or about to be; the zero value: none. Guarded by Daemon.changing
	next    chan door      // from who changes the configuration to who serves; holds one
	access  atomic.Pointer[api.Access]
}

// door is a place to listen, or none, and who may ask there.
type door struct {
	address  netip.AddrPort
	listener net.Listener
	access   api.Access
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
	var err error
	if next.access, err = d.access(c); err != nil {
		return door{}, err
	}
	if !next.address.IsValid() || next.address == d.doors.address {
		return next, nil
	}
	if next.listener, err = api.ListenTCP(next.address); err != nil {
		pos := c.snapshot.API.Pos
		return door{}, config.Errors{{Pos: pos, Msg: err.Error(), Line: config.LineOf(c.text, pos.Line),
			Allowed: "an address and a port where no other program listens"}}
	}
	return next, nil
}

// access is what a candidate says of who may ask.
func (d *Daemon) access(c candidate) (api.Access, error) {
	want := c.snapshot.API
	access := api.Access{TokensOnly: want.Anonymous == model.AnonymousNone}
	if want.TLS.Cert == "" {
		return access, nil
	}
	if now := d.doors.access.Load(); now != nil && now.Certificate.Same(want.TLS.Cert, want.TLS.Key) {
		access.Certificate = now.Certificate // which is read again when it changes
		return access, nil
	}
	var err error
	if access.Certificate, err = api.LoadCertificate(want.TLS.Cert, want.TLS.Key); err != nil {
		pos := want.TLS.Pos
		return access, config.Errors{{Pos: pos, Msg: err.Error(), Line: config.LineOf(c.text, pos.Line),
			Allowed: "files with a certificate and its key, PEM"}}
	}
	return access, nil
}

// rereadCertificate looks whether that of the API is another one.
func (d *Daemon) rereadCertificate() {
	const tried = "read api.tls again"
	access := d.doors.access.Load()
	if access == nil || access.Certificate == nil {
		d.fault(tried, nil)
		d.fault("api.tls", nil)
		return
	}
	d.fault(tried, access.Certificate.Refresh())
	var expired error
	if at := access.Certificate.Expires(); time.Now().After(at) {
		expired = fmt.Errorf("the certificate has expired at %s", timeText(at))
	}
	d.fault("api.tls", expired)
}

// changeDoor has the API served there from now on, and nowhere else. changing is held, or nobody else is there yet.
func (d *Daemon) changeDoor(next door) {
	d.doors.access.Store(&next.access)
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
		if err := api.ServeTCP(ctx, at.listener, func() api.Access { return *d.doors.access.Load() }, d, d.metrics.Handler(), d.log); err != nil {
			d.fault(tried, err)
		}
	})
	d.log.Info("serving by TCP", "address", at.address)
	return end
}
