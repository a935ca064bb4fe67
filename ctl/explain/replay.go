package explain

import (
	"errors"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
)

// Replay puts the packets of a capture through a Box, at the times at which they were captured: limits, states and flows see
// that time pass, however long it takes.
type Replay struct {
	*Box
	hook    dataplane.Hook
	ifindex int

	last    time.Time     // in the capture
	elapsed time.Duration // in the capture

	Back uint64 // packets older than the one before them; they count as simultaneous
	Cut  uint64 // packets of which the capture has only the beginning, judged with zeros for the rest of the payload
	Bare uint64 // those of which it hasn't even the headers: not judged
}

const (
	replayFlows = 1 << 18
	// Where the clock begins: not at 0, which would be the real time.
	replayBegin = time.Hour
	// More than any time-out, so that longer is the same: ages have 32 bits.
	longestGap = 3 * time.Hour
)

// NewReplay makes a Box for that snapshot. The caller furnishes it before the first packet.
func NewReplay(snapshot *model.Snapshot) (*Replay, error) {
	ids, _, err := compile.IDs{}.Assign(snapshot)
	if err != nil {
		return nil, err
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		return nil, err
	}
	box, err := newBox(tables.Features, replayFlows)
	if err != nil {
		return nil, err
	}
	return &Replay{Box: box}, nil
}

// At says where the packets come in.
func (r *Replay) At(hook dataplane.Hook, ifindex int) { r.hook, r.ifindex = hook, ifindex }

// Judge runs one packet. judged is false when the programs can't be run with it.
func (r *Replay) Judge(c pkt.Captured) (result dataplane.Result, judged bool, err error) {
	r.tick(c.Time)
	frame := c.Frame
	switch {
	case !c.HasHeaders():
		r.Bare++
		return result, false, nil
	case c.Length > len(frame):
		r.Cut++
		frame = c.Filled()
	}
	result, err = r.Run(r.hook, frame, r.ifindex)
	if errors.Is(err, dataplane.ErrFrame) {
		return result, false, nil
	}
	return result, err == nil, err
}

// tick sets the clocks to the time of a packet.
func (r *Replay) tick(at time.Time) {
	switch {
	case r.last.IsZero():
		r.last = at
	case at.Before(r.last):
		r.Back++
	default:
		r.elapsed += min(at.Sub(r.last), longestGap)
		r.last = at
	}
	r.plane.StopClock(replayBegin + r.elapsed)
	r.SetClock(replayBegin + r.elapsed)
}

// Fate is what became of a packet, without its way.
type Fate struct {
	Reason           abi.Reason
	rule             uint32
	service, backend uint16
}

// FateOf is that of a result.
func FateOf(result dataplane.Result) Fate {
	t := result.Trace
	f := Fate{Reason: abi.Reason(t.Reason), service: t.Service, backend: t.Backend}
	if t.Rule >= uint32(abi.FirstRuleId) {
		f.rule = t.Rule
	}
	return f
}

// In names it.
func (f Fate) In(n Names) api.Fate {
	return api.Fate{Verdict: f.Reason.Verdict().String(), Reason: f.Reason.String(), Rule: n.rules[f.rule], Service: n.services[f.service],
		Backend: n.backends[f.backend]}
}

// Unattributed is how many packets found no place in the flow table, or lost it.
func (r *Replay) Unattributed() (uint64, error) {
	totals, err := r.plane.FlowTotals()
	return totals.Evicted + totals.Refused, err
}
