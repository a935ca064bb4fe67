package history

import (
	"maps"
	"slices"
	"time"

	"gardu/ctl/flow"
)

const (
	minute = int64(time.Minute / time.Second)

	// spread is the longest time that a report is spread over: what it says of more than that counts for the last of it.
	spread = 15 * time.Minute

	// pendingMax bounds the rows that wait to be written, at some 200 bytes each, and pendingEach those for each row that is kept of a
	// table: enough for as many minutes as a report is spread over. As many may be on their way into the file meanwhile.
	pendingMax  = 1 << 18
	pendingEach = 192
	pendingMin  = 1 << 14
)

// Roller adds reports up by minute until they are taken. It is pure: no clock, no file. It is not safe for concurrent use.
type Roller struct {
	top     int
	pending Batch
	lost    Counts
}

// Batch is what was reported and is in no file yet.
type Batch struct {
	kinds   *kinds
	minutes map[int64]*interval // by the Unix time at which the minute begins
}

func newBatch() Batch { return Batch{newKinds(), map[int64]*interval{}} }

// Sum is all that the batch holds.
func (b *Batch) Sum() (sum Counts) {
	for _, m := range b.minutes {
		sum = sum.Plus(m[totals].sum())
	}
	return sum
}

func (b *Batch) keys() (n int) {
	for _, m := range b.minutes {
		n += m.keys()
	}
	return n
}

// minute returns that of a time, which may be new.
func (b *Batch) minute(at int64) *interval {
	m := b.minutes[at]
	if m == nil {
		m = newInterval()
		b.minutes[at] = m
	}
	return m
}

// oldest returns when the first n minutes begin.
func (b *Batch) oldest(n int) []int64 {
	times := slices.Sorted(maps.Keys(b.minutes))
	return times[:min(n, len(times))]
}

// NewRoller returns one that keeps the first top rows of each table when it has to choose.
func NewRoller(top int) *Roller { return &Roller{top: top, pending: newBatch()} }

// Add takes reports. Nothing counts for a time after now.
func (r *Roller) Add(reports []flow.Report, names flow.Names, now time.Time) {
	named := naming{names: names, kinds: r.pending.kinds, known: map[ids]*kind{}}
	for i := range reports {
		r.add(&reports[i], &named, now)
	}
	r.bound()
}

// add spreads what a flow did evenly over the time in which it did so.
func (r *Roller) add(report *flow.Report, named *naming, now time.Time) {
	all := countsOf(report)
	k := keyOf(report, named)
	from, to := period(report, now)
	whole := uint64(to - from)
	var done Counts
	for at := from - modulo(from, minute*1e9); ; at += minute * 1e9 {
		last := at+minute*1e9 > to
		sum := all
		if !last {
			sum = all.share(uint64(at+minute*1e9-from), whole)
		}
		if part := sum.minus(done); part != (Counts{}) {
			r.pending.minute(at/1e9).add(k, part)
		}
		if done = sum; last {
			return
		}
	}
}

func countsOf(report *flow.Report) Counts {
	c := Counts{Packets: report.Delta.Packets, Bytes: report.Delta.Bytes,
		PacketsReply: report.DeltaReply.Packets, BytesReply: report.DeltaReply.Bytes}
	if report.Since.Equal(report.First) {
		c.Flows = 1
	}
	return c
}

// period is the time, in Unix nanoseconds, in which a flow did what is reported.
func period(report *flow.Report, now time.Time) (from, to int64) {
	end := report.Until
	if report.Last.Before(end) && !report.Last.Before(report.Since) {
		end = report.Last // it has been idle since
	}
	to = min(end.UnixNano(), now.UnixNano())
	from = max(report.Since.UnixNano(), to-int64(spread))
	return min(from, to), to
}

func modulo(a, b int64) int64 { return ((a % b) + b) % b }

// keyOf says what a flow is kept under.
func keyOf(report *flow.Report, named *naming) key {
	k := key{src: report.Src.Addr(), dst: report.Dst.Addr(), kind: named.kind(report)}
	switch report.Proto {
	case 6, 17, 33, 132, 136: // TCP, UDP, DCCP, SCTP, UDP-Lite; what ping has for ports are its identifiers
		k.dport = report.Dst.Port()
	}
	return k
}

// naming finds the kinds of flows. Names cost more than numbers to compare, so numbers are looked up first.
type naming struct {
	names flow.Names
	kinds *kinds
	known map[ids]*kind
}

type ids struct {
	rule, ifindex          uint32
	service, backend, vlan uint16
	sample                 uint16
	proto, verdict, reason uint8
}

// sampleOf is of how many packets one was counted.
func sampleOf(report *flow.Report) uint16 { return uint16(max(1, report.Sample)) }

func (n *naming) kind(report *flow.Report) *kind {
	id := ids{report.Rule, report.Ifindex, report.Service, report.Backend, report.VLAN, sampleOf(report),
		report.Proto, uint8(report.Verdict), uint8(report.Reason)}
	k := n.known[id]
	if k == nil {
		k = n.kinds.of(kind{
			proto: report.Proto, vlan: report.VLAN,
			verdict: report.Verdict.String(), reason: report.Reason.String(),
			rule: n.names.Rule(report.Rule), service: n.names.Service(report.Service), backend: n.names.Backend(report.Backend),
			sample: sampleOf(report), ifaceName: n.names.Interface(report.Ifindex),
		})
		n.known[id] = k
	}
	return k
}

func pendingRows(top int) int { return min(max(pendingEach*top, pendingMin), pendingMax) }

// bound keeps what waits in memory from growing: first the small rows are added up, then the oldest minutes are lost.
func (r *Roller) bound() {
	most := pendingRows(r.top)
	if r.pending.keys() <= most {
		return
	}
	for _, m := range r.pending.minutes {
		m.cut(r.top, r.pending.kinds)
	}
	for _, at := range r.pending.oldest(len(r.pending.minutes)) {
		if r.pending.keys() <= most*3/4 {
			return
		}
		r.lost = r.lost.Plus(r.pending.minutes[at][totals].sum())
		delete(r.pending.minutes, at)
	}
}

// Take returns what was added and begins anew.
func (r *Roller) Take() Batch {
	taken := r.pending
	r.pending = newBatch()
	return taken
}

// Restore gives back what could not be written.
func (r *Roller) Restore(b Batch) {
	for at, m := range b.minutes {
		r.pending.minute(at).merge(m, r.pending.kinds)
	}
	r.bound()
}

// Pending is what waits to be taken.
func (r *Roller) Pending() Counts { return r.pending.Sum() }

// Lost is what there was no room for, since the beginning.
func (r *Roller) Lost() Counts { return r.lost }
