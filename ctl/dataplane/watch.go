package dataplane

import (
	"sync/atomic"

	"gardu/ctl/abi"
)

// SampleFlows lets one packet of so many count in flow records, with programs that sample; 1: every one.
func (d *Dataplane) SampleFlows(of int) { atomic.StoreUint32(&d.control.FlowSample, uint32(of)) }

// FlowsSampled is of how many packets one counts; 0 and 1: every one.
func (d *Dataplane) FlowsSampled() int { return int(atomic.LoadUint32(&d.control.FlowSample)) }

// watchWindows is for how many windows of time dropped packets become events after WatchDrops.
const watchWindows = 4

// WatchDrops lets dropped packets become events for about four seconds, or no longer. It is to be called again every second or so.
func (d *Dataplane) WatchDrops(on bool) error {
	var until uint32
	if on {
		now, err := readClocks()
		if err != nil {
			return err
		}
		until = uint32(now.monotonic>>abi.WatchShift) + watchWindows
	}
	atomic.StoreUint32(&d.control.WatchUntil, until)
	return nil
}
