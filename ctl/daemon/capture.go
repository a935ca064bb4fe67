package daemon

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/capture"
	"gardu/ctl/dataplane"
	"gardu/ctl/expr"
	"gardu/ctl/rule"
)

const (
	captureAhead = 4096            // packets that a reader may be behind before it loses some
	captureHold  = time.Second     // how often programs are told to go on, and what names stand for is looked up
	captureDrain = 2 * time.Second // what is on its way when a capture ends is waited for so long
)

// captures are those under way. They share one ring and one filter, which says of each packet who wants it.
type captures struct {
	changing sync.Mutex      // orders beginnings and ends, which take as long as loading programs
	ring     *capture.Reader // guarded by changing; nil: programs don't capture
	running  sync.WaitGroup
	stop     func()
	handed   atomic.Uint64 // packets taken out of the ring and handed on

	mu      sync.Mutex // guards what follows
	readers map[int]*capturing
	next    int // reader number to try first: one that has just ended must not get another's packets
	count   uint64
	names   capture.Names
	past    api.CaptureStatus // of rings that are no more
	kept    bool              // so is the one that programs still tell
}

// capturing is one of them.
type capturing struct {
	number  int
	name    string
	filter  *expr.Expr
	snap    int
	packets chan capture.Packet
	missed  atomic.Uint64
	ended   chan struct{}
	end     func()
}

// Capture tells of packets as they are handled.
func (d *Daemon) Capture(ctx context.Context, wish api.CaptureWish, yield func(item api.CaptureItem, more bool) error) error {
	r, before, err := d.beginCapture(wish)
	if err != nil {
		return err
	}
	defer d.leaveCapture(r)
	t := &telling{d: d, r: r, before: before, wish: wish, yield: yield}
	if err := yield(api.CaptureItem{Began: r.name}, false); err != nil {
		return err
	}
	tick := time.NewTicker(captureHold)
	defer tick.Stop()
	for !t.enough() {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ending:
			return t.end()
		case <-r.ended:
			return t.end()
		case p := <-r.packets:
			err = t.tell(&p)
		case <-tick.C:
			err = t.tellLost()
		}
		if err != nil {
			return err
		}
	}
	return t.end()
}

// EndCapture lets a capture end as if it had what it wants.
func (d *Daemon) EndCapture(_ context.Context, name string) error {
	d.captures.mu.Lock()
	defer d.captures.mu.Unlock()
	for _, r := range d.captures.readers {
		if r.name == name {
			r.end()
			return nil
		}
	}
	return api.NewProblem(api.CodeNotFound, "there is no capture %s", name)
}

// telling is a capture as its client sees it.
type telling struct {
	d      *Daemon
	r      *capturing
	wish   api.CaptureWish
	yield  func(api.CaptureItem, bool) error
	names  eventNames
	before abi.CaptureTotals
	told   api.CaptureTotals
}

func (t *telling) enough() bool { return t.wish.Count > 0 && t.told.Captured >= t.wish.Count }

func (t *telling) tell(p *capture.Packet) error {
	if err := t.names.refresh(t.d); err != nil {
		return err
	}
	t.told.Captured++
	return t.yield(api.CaptureItem{Captured: t.names.captured(p, t.wish.Snap)}, len(t.r.packets) > 0 && !t.enough())
}

// totals are what there is to say of losses by now.
func (t *telling) totals() (api.CaptureTotals, error) {
	now, err := t.d.plane.CaptureTotals()
	return api.CaptureTotals{
		Captured: t.told.Captured, Lost: now.Lost - t.before.Lost, Refused: now.Refused - t.before.Refused, Missed: t.r.missed.Load(),
	}, err
}

// tellLost tells of losses when there are more of them.
func (t *telling) tellLost() error {
	now, err := t.totals()
	if err != nil || now.Lost == t.told.Lost && now.Refused == t.told.Refused && now.Missed == t.told.Missed {
		return err
	}
	t.told = now
	return t.yield(api.CaptureItem{Totals: &now}, false)
}

// end tells of what is still on its way, and then the totals.
func (t *telling) end() error {
	t.d.forget(t.r)
	for deadline := time.Now().Add(captureDrain); !t.enough(); {
		totals, err := t.d.plane.CaptureTotals()
		if err != nil {
			return err
		}
		caughtUp := t.d.captures.handed.Load() >= totals.Sent || time.Now().After(deadline)
		select {
		case p := <-t.r.packets:
			if err := t.tell(&p); err != nil {
				return err
			}
			continue
		default:
		}
		if caughtUp {
			break
		}
		time.Sleep(time.Millisecond)
	}
	now, err := t.totals()
	if err != nil {
		return err
	}
	return t.yield(api.CaptureItem{Totals: &now}, false)
}

// captured is a packet as it travels.
func (n *eventNames) captured(p *capture.Packet, snap int) *api.Captured {
	c := &api.Captured{
		Time: n.clock.Monotonic(p.Monotonic), Verdict: p.Reason.Verdict().String(), Reason: p.Reason.String(),
		Service: n.services[p.Service], Backend: n.backends[p.Backend], Interface: n.interfaceName(p.Ifindex), Direction: "in",
		Vlan: p.VLAN, Packets: p.Packets, CapturedFrame: cut(p.Before, snap),
	}
	if p.Out {
		c.Direction = "out"
	}
	if p.Decider >= uint32(abi.FirstRuleId) {
		c.Rule = n.rules[p.Decider]
	}
	if p.Src.IsValid() {
		c.Src, c.Dst, c.Sport, c.Dport, c.Proto = p.Src.Addr(), p.Dst.Addr(), p.Src.Port(), p.Dst.Port(), rule.ProtocolName(p.Proto)
	}
	if len(p.After.Bytes) > 0 {
		c.Out = &api.CapturedOut{Interface: n.interfaceName(p.SentBy), CapturedFrame: cut(p.After, snap)}
	}
	for name, id := range n.ids.Exits {
		if p.Mirrors>>id&1 != 0 {
			c.Copies = append(c.Copies, name)
		}
	}
	slices.Sort(c.Copies)
	return c
}

func cut(f capture.Frame, snap int) api.CapturedFrame {
	return api.CapturedFrame{Length: f.Length, Frame: f.Bytes[:min(len(f.Bytes), snap)]}
}

// beginCapture adds a reader; for the first one programs are swapped in that capture.
func (d *Daemon) beginCapture(wish api.CaptureWish) (*capturing, abi.CaptureTotals, error) {
	c := &d.captures
	c.changing.Lock()
	defer c.changing.Unlock()
	r, err := c.add(wish)
	if err != nil {
		return nil, abi.CaptureTotals{}, err
	}
	err = d.startCapture()
	var before abi.CaptureTotals
	if err == nil {
		before, err = d.plane.CaptureTotals()
	}
	if err != nil {
		c.remove(r)
		d.stopCapture()
		if errors.Is(err, capture.ErrTooLong) {
			err = api.NewProblem(api.CodeInvalid, "%v", err)
		}
		return nil, before, err
	}
	return r, before, nil
}

func (c *captures) add(wish api.CaptureWish) (*capturing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.readers) >= int(abi.CaptureReaders) {
		return nil, api.NewProblem(api.CodeFull, "%d captures are under way, and no more are served at once", len(c.readers))
	}
	if c.readers == nil {
		c.readers = map[int]*capturing{}
	}
	number := c.next % int(abi.CaptureReaders)
	for c.readers[number] != nil {
		number = (number + 1) % int(abi.CaptureReaders)
	}
	c.next = number + 1
	c.count++
	r := &capturing{number: number, name: strconv.FormatUint(c.count, 10), filter: wish.Filter, snap: wish.Snap,
		packets: make(chan capture.Packet, captureAhead), ended: make(chan struct{})}
	r.end = sync.OnceFunc(func() { close(r.ended) })
	c.readers[number] = r
	return r, nil
}

func (c *captures) remove(r *capturing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readers, r.number)
}

// startCapture puts the filter of all readers in force. captures.changing is held.
func (d *Daemon) startCapture() error {
	c := &d.captures
	if c.ring != nil {
		return d.filterCapture(d.plane.SetCapture)
	}
	begin := func(filter *abi.CaptureFilter) error {
		return d.plane.BeginCapture(filter, dataplane.DefaultCaptureRing)
	}
	err := d.filterCapture(begin)
	if err != nil {
		return err
	}
	if c.ring, err = capture.NewReader(d.plane.CaptureRing()); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.handed.Store(0)
	c.mu.Lock()
	c.kept = false
	c.mu.Unlock()
	ring := c.ring
	c.running.Go(func() { d.readCaptures(ring) })
	c.running.Go(func() { d.holdCapture(ctx) })
	d.log.Info("packets are captured: programs that do so were swapped in")
	return nil
}

// filterCapture puts the filter of those who are there.
func (d *Daemon) filterCapture(put func(*abi.CaptureFilter) error) error {
	c := &d.captures
	names := d.captureNames()
	c.mu.Lock()
	c.names = names
	filters, snap := map[int]*expr.Expr{}, 1
	for number, r := range c.readers {
		filters[number], snap = r.filter, max(snap, r.snap)
	}
	c.mu.Unlock()
	filter, err := capture.Filter(filters, names, snap)
	if err != nil {
		return err
	}
	return put(filter)
}

// stopCapture swaps in programs that don't capture when nobody does. captures.changing is held.
func (d *Daemon) stopCapture() {
	c := &d.captures
	c.mu.Lock()
	idle := len(c.readers) == 0
	c.mu.Unlock()
	if !idle || d.plane.CaptureRing() == nil {
		return
	}
	if c.ring != nil {
		c.stop()
		err := c.ring.Close()
		c.running.Wait()
		c.ring = nil
		c.keepTotals(d)
		d.fault("close the ring of captured packets", err)
	}
	select {
	case <-d.ending: // end() knows what to do with the programs
		return
	default:
	}
	err := d.plane.EndCapture()
	d.fault("swap in programs that don't capture", err)
	if err == nil {
		d.log.Info("packets are no longer captured: programs that don't were swapped in")
	}
}

// keepTotals adds what a ring has lost to what is told of it later.
func (c *captures) keepTotals(d *Daemon) {
	totals, err := d.plane.CaptureTotals()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.past.Captured += totals.Sent
		c.past.Lost += totals.Lost + totals.Refused
	}
	c.kept = true
}

// captureStatus is what there is to say of captures, of all since the daemon began.
func (d *Daemon) captureStatus() api.CaptureStatus {
	c := &d.captures
	totals, err := d.plane.CaptureTotals()
	c.mu.Lock()
	defer c.mu.Unlock()
	status := c.past
	status.Readers = len(c.readers)
	if err == nil && !c.kept {
		status.Captured += totals.Sent
		status.Lost += totals.Lost + totals.Refused
	}
	for _, r := range c.readers {
		status.Missed += r.missed.Load()
	}
	return status
}

// captureNames are what names stand for at this moment.
func (d *Daemon) captureNames() capture.Names {
	now := d.current.Load()
	names := capture.Names{Rules: now.ids.Rules, Services: now.ids.Services, Backends: map[string][]uint16{}, Interfaces: map[string][]uint32{}}
	for id, backend := range d.reconciler.Have().Backends {
		names.Backends[backend.Name] = append(names.Backends[backend.Name], id)
	}
	for _, ids := range names.Backends {
		slices.Sort(ids)
	}
	for index, name := range d.linkNames() {
		names.Interfaces[name] = []uint32{uint32(index)}
	}
	return names
}

// readCaptures hands packets to who wants them, until the ring is closed.
func (d *Daemon) readCaptures(ring *capture.Reader) {
	c := &d.captures
	for {
		p, err := ring.Read()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		d.fault("read captured packets", err)
		c.mu.Lock()
		for number, r := range c.readers {
			if p.Readers>>number&1 == 0 {
				continue
			}
			select {
			case r.packets <- p:
			default:
				r.missed.Add(1)
			}
		}
		c.mu.Unlock()
		c.handed.Add(1)
	}
}

// holdCapture lets programs go on: without a daemon they stop by themselves. Names may stand for something else meanwhile.
func (d *Daemon) holdCapture(ctx context.Context) {
	tick := time.NewTicker(captureHold)
	defer tick.Stop()
	for {
		d.fault("go on capturing", d.plane.HoldCapture())
		select {
		case <-ctx.Done():
			d.fault("go on capturing", nil)
			return
		case <-tick.C:
		}
		names := d.captureNames()
		d.captures.mu.Lock()
		changed := !reflect.DeepEqual(names, d.captures.names)
		d.captures.mu.Unlock()
		if changed {
			d.fault("filter captured packets", d.filterCapture(d.plane.SetCapture))
		}
	}
}

// forget has programs pick no more packets for a reader.
func (d *Daemon) forget(r *capturing) {
	d.captures.mu.Lock()
	r.filter = expr.Nothing()
	d.captures.mu.Unlock()
	d.fault("filter captured packets", d.filterCapture(d.plane.SetCapture))
}

// leaveCapture ends a capture; after the last one, programs that don't capture are swapped in.
func (d *Daemon) leaveCapture(r *capturing) {
	d.forget(r)
	c := &d.captures
	c.mu.Lock()
	delete(c.readers, r.number)
	c.past.Missed += r.missed.Load()
	c.mu.Unlock()
	c.changing.Lock()
	defer c.changing.Unlock()
	d.stopCapture()
}

// tidyCapture tries again what failed when the last capture ended.
func (d *Daemon) tidyCapture() {
	if !d.captures.changing.TryLock() {
		return
	}
	defer d.captures.changing.Unlock()
	d.stopCapture()
}
