package flow

import "time"

// Timers say when a flow is reported.
type Timers struct {
	Active time.Duration // a flow that goes on is reported so often
	Idle   time.Duration // one that was silent for so long has ended
	Last   bool          // all end now, for the table goes
}

// linger is how long a TCP flow that was closed must be silent before it has ended: the last segments come after the FIN.
const linger = 2 * time.Second

// reportBatch bounds the reports that are handed over at once.
const reportBatch = 1024

// Tracker turns the records of flow tables into reports: of each flow, what it did since the last one.
type Tracker struct {
	flows map[Key]*tracked
	pass  uint64
}

// tracked is what was reported of a flow.
type tracked struct {
	first        time.Time
	until        time.Time
	count, reply Count
	end          End
	seen         uint64 // the pass that saw it last
}

// NewTracker has reported nothing yet.
func NewTracker() *Tracker { return &Tracker{flows: map[Key]*tracked{}} }

// Pass looks at every flow of the tables once and hands over reports of those that are due. A batch belongs to who gets it.
func (t *Tracker) Pass(tables []*Table, clock Clock, now time.Time, timers Timers, report func([]Report)) error {
	t.pass++
	var due []Report
	err := Flows(tables, clock, func(f *Flow) bool {
		if r, ok := t.look(f, now, timers); ok {
			if due = append(due, r); len(due) == reportBatch {
				report(due)
				due = nil
			}
		}
		return true
	})
	if len(due) > 0 {
		report(due)
	}
	for key, known := range t.flows {
		if known.seen != t.pass {
			delete(t.flows, key)
		}
	}
	return err
}

// look compares a flow with what was reported of it.
func (t *Tracker) look(f *Flow, now time.Time, timers Timers) (Report, bool) {
	known, ok := t.flows[f.Key]
	if !ok || known.until.Before(f.First) { // another one under the same key
		known = &tracked{first: f.First, until: f.First}
		t.flows[f.Key] = known
	}
	known.seen = t.pass
	r := Report{Flow: *f, Since: known.until, Until: now, End: f.ended(now, timers.Idle)}
	if timers.Last && r.End == EndNone {
		r.End = EndForced
	}
	count, reply := Count{f.Packets, f.Bytes}, Count{f.PacketsReply, f.BytesReply}
	r.Delta, r.DeltaReply = count.minus(known.count), reply.minus(known.reply)
	changed := r.Delta != Count{} || r.DeltaReply != Count{}
	switch {
	case r.End != EndNone && (changed || known.end == EndNone):
	case r.End == EndNone && changed && now.Sub(known.until) >= timers.Active:
	default:
		return Report{}, false
	}
	known.count, known.reply, known.until, known.end = count, reply, now, r.End
	return r, true
}
