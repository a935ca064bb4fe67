package dataplane

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// The maps of bpf/capture.h.
const (
	captureControl = "capture_control"
	captureFilters = "capture_filters"
	captureTotals  = "capture_totals"
	captureRing    = "captures"
	capturePlaces  = "capture_places" // of each object its own
)

// capturing is the capture that is on: its maps, and the word in the first of them.
type capturing struct {
	maps  mapSet
	which uint64 // filter in force
	until uint32 // window of time
}

// DefaultCaptureRing is how many bytes of packets may wait to be read.
const DefaultCaptureRing = 8 << 20

// BeginCapture swaps in programs that tell of the packets that a filter picks, through a ring of at least that many bytes. They
// do so for about four seconds, see HoldCapture. When a capture is on already it gets the filter, and goes on.
func (d *Dataplane) BeginCapture(filter *abi.CaptureFilter, ring int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.capture == nil {
		c, err := newCapture(ring)
		if err != nil {
			return err
		}
		d.setCapture(c)
	}
	err := d.SetCapture(filter)
	if features := d.programs.features; err == nil && !features.Capture {
		features.Capture = true
		err = d.swapPrograms(features, Tables{})
	}
	if err != nil && !d.programs.features.Capture {
		d.capture.maps.close()
		d.setCapture(nil)
		return err
	}
	return errors.Join(err, d.HoldCapture())
}

// setCapture is for who holds mu: either lock is enough to read it.
func (d *Dataplane) setCapture(c *capturing) {
	d.captureMu.Lock()
	defer d.captureMu.Unlock()
	d.capture = c
}

// SetCapture gives the capture that is on another filter.
func (d *Dataplane) SetCapture(filter *abi.CaptureFilter) error {
	return d.withCapture(func(c *capturing) error { return c.put(filter) })
}

// HoldCapture lets the capture go on for about four more seconds. It is to be called again every second or so.
func (d *Dataplane) HoldCapture() error { return d.withCapture((*capturing).hold) }

// EndCapture swaps in programs that know nothing of captures. On error the capture is on, but tells of no packet.
func (d *Dataplane) EndCapture() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.capture
	if c == nil {
		return nil
	}
	stop := func(c *capturing) error {
		c.until = 0
		return c.write()
	}
	if err := d.withCapture(stop); err != nil {
		return err
	}
	features := d.programs.features
	features.Capture = false
	if err := d.swapPrograms(features, Tables{}); err != nil {
		return err
	}
	d.setCapture(nil)
	c.maps.close()
	return nil
}

// CaptureRing is the ring of the capture that is on, for package capture to read until EndCapture; nil: none is.
func (d *Dataplane) CaptureRing() (ring *ebpf.Map) {
	d.captureMu.Lock()
	defer d.captureMu.Unlock()
	if d.capture != nil {
		ring = d.capture.maps[captureRing]
	}
	return ring
}

// CaptureTotals counts packets that the capture that is on told of, and could not tell of.
func (d *Dataplane) CaptureTotals() (totals abi.CaptureTotals, err error) {
	return totals, d.withCapture(func(c *capturing) error {
		all, err := counters[abi.CaptureTotals](c.maps[captureTotals], firstIDs(1))
		if err != nil {
			return fmt.Errorf("read the totals of a capture: %w", err)
		}
		totals = all[0]
		return nil
	})
}

// errNoCapture is what there is to say when no capture is on.
var errNoCapture = errors.New("no capture is on")

// withCapture needn't wait for programs that are loaded, as who holds mu does.
func (d *Dataplane) withCapture(do func(*capturing) error) error {
	d.captureMu.Lock()
	defer d.captureMu.Unlock()
	if d.capture == nil {
		return errNoCapture
	}
	return do(d.capture)
}

func newCapture(ring int) (_ *capturing, err error) {
	spec, err := loadXdp()
	if err != nil {
		return nil, err
	}
	c := &capturing{maps: mapSet{}}
	defer func() {
		if err != nil {
			c.maps.close()
		}
	}()
	size := os.Getpagesize()
	for size < ring {
		size *= 2
	}
	spec.Maps[captureRing].MaxEntries = uint32(size)
	for _, name := range []string{captureControl, captureFilters, captureTotals, captureRing} {
		if c.maps[name], err = ebpf.NewMap(spec.Maps[name]); err != nil {
			return nil, permission("create map "+name, err)
		}
	}
	return c, nil
}

// put makes a filter the one in force. A packet keeps the one that it met when it came.
func (c *capturing) put(filter *abi.CaptureFilter) error {
	next := c.which ^ 1
	if err := c.maps[captureFilters].Put(uint32(next), filter); err != nil {
		return fmt.Errorf("put the filter of a capture: %w", err)
	}
	c.which = next
	return c.write()
}

func (c *capturing) hold() error {
	now, err := readClocks()
	if err != nil {
		return err
	}
	c.until = uint32(now.monotonic>>abi.WatchShift) + watchWindows
	return c.write()
}

func (c *capturing) write() error {
	if err := c.maps[captureControl].Put(uint32(0), uint64(c.until)<<32|c.which); err != nil {
		return fmt.Errorf("tell programs of a capture: %w", err)
	}
	return nil
}

// captureSizes makes the maps of an object's own as large as programs need them that capture, or that don't.
func (d *Dataplane) captureSizes(specs map[string]*ebpf.MapSpec, features compile.Features) {
	if places := specs[capturePlaces]; places != nil && features.Capture {
		places.MaxEntries = 2 * atomic.LoadUint32(&d.control.FlowCpus)
	}
	for _, name := range []string{capturePlaces, captureFilters} {
		if large := specs[name]; large != nil && !features.Capture { // no instruction is left that uses it
			large.Key, large.Value, large.ValueSize, large.MaxEntries = nil, nil, 8, 1
		}
	}
}
