package flow

import (
	"time"

	"gardu/ctl/abi"
)

// Clock places the kernel's two clocks on the wall: all three taken at one moment.
type Clock struct {
	kernel abi.Clock
	hz     int64
	wall   time.Time
}

// ahead is how far a record may be younger than the clock reading before it is taken for a very old one instead.
const ahead = time.Hour

// NewClock takes a reading of the kernel's clocks, the jiffies in a second, and the time of that reading.
func NewClock(kernel abi.Clock, hz int, wall time.Time) Clock {
	return Clock{kernel: kernel, hz: int64(hz), wall: wall.Round(0)} // or differences wouldn't see that the clock was set
}

// drift is how far two clocks may differ that say the same: a tick, and the time that reading them takes.
const drift = 20 * time.Millisecond

// Agrees says whether c, read earlier, places the moment of a later reading where that does. It doesn't after the wall
// clock was set, or the machine slept.
func (c Clock) Agrees(later Clock) bool {
	return c.Monotonic(later.kernel.Monotonic).Sub(later.wall).Abs() <= drift &&
		c.Jiffies(uint32(later.kernel.Jiffies)).Sub(later.wall).Abs() <= drift
}

// sameTime says whether both clocks place the same moment at the same time.
func (c Clock) sameTime(other Clock) bool {
	return c.Monotonic(1).Sub(other.Monotonic(1)).Abs() <= 2*drift
}

// Monotonic turns CLOCK_MONOTONIC nanoseconds into wall time; the zero time for 0.
func (c Clock) Monotonic(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return c.wall.Add(time.Duration(int64(ns - c.kernel.Monotonic)))
}

// jiffiesAt is the low 32 bits of jiffies at a time, the other way round.
func (c Clock) jiffiesAt(at time.Time) uint32 {
	return uint32(int64(c.kernel.Jiffies) + int64(at.Sub(c.wall).Seconds()*float64(c.hz)))
}

// Jiffies turns the low 32 bits of jiffies into wall time. They wrap, so a time more than 198 days back (at 250 Hz)
// can't be told from a later one.
func (c Clock) Jiffies(low uint32) time.Time {
	age := int64(uint32(c.kernel.Jiffies) - low)
	if age > 1<<32-int64(ahead/time.Second)*c.hz {
		age -= 1 << 32
	}
	return c.wall.Add(-time.Duration(age) * time.Second / time.Duration(c.hz))
}
