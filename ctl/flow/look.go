package flow

import (
	"gardu/ctl/abi"
)

// look is a flow that a pass looks at.
type look struct {
	pair
	hash   uint64
	entry  entry    // what was reported of it
	known  bool     // there is an entry
	aged   bool     // it has records that were there at the last report
	moment bool     // it is time for the flow, whatever it does
	moving bool     // a record went away while it was looked at: perhaps it was seen twice
	newest uint64   // when the record began that began last, ns
	doubt  bool     // records were missing when it was looked at before
	sum    [2]Count // in all its records, by side
	old    [2]Count // in the records that were there at the last report
	left   [2]Count // in a table that is left
}

// place is where a record of a look was found.
type place struct {
	slot  *words
	first uint64
	look  int32
}

// pick finds the flows of a part that are due; it stops and says so when they are too many.
func (t *Tracker) pick(tables []*Table, w *window, depth int, part uint64) (full bool, err error) {
	t.looks = t.looks[:0]
	clear(t.index)
	t.filter = [lookMax / 2]uint64{}
	err = sweep(tables, func(record *abi.FlowRecord, _ *words) bool {
		silenced := w.silenced(&record.Value)
		hash := t.ledger.hash(&record.Key)
		moment := w.moment(hash)
		if !silenced && !moment || partOf(hash, depth) != part {
			return true
		}
		full = !t.pickOne(hash, moment)
		return !full
	})
	return full, err
}

// partOf takes bits that the moments of flows don't depend on.
func partOf(hash uint64, depth int) uint64 { return hash << 32 >> (64 - depth) }

func (t *Tracker) pickOne(hash uint64, moment bool) bool {
	i, ok := t.index[hash]
	if !ok {
		if len(t.looks) == lookMax {
			return false
		}
		i = int32(len(t.looks))
		t.index[hash] = i
		t.mark(hash)
		l := look{hash: hash}
		if index, ok := t.ledger.find(hash); ok {
			l.entry, l.known = *t.ledger.entry(index), true
		}
		l.touch(t.ledger)
		if len(t.looks) == lookSome && cap(t.looks) < lookMax { // all at once: what is grown step by step leaves as much behind
			t.looks = append(make([]look, 0, lookMax), t.looks...)
		}
		t.looks = append(t.looks, l)
	}
	t.looks[i].moment = t.looks[i].moment || moment
	return true
}

func (t *Tracker) mark(hash uint64) {
	bit := hash >> 32 % uint64(len(t.filter)*64)
	t.filter[bit/64] |= 1 << (bit % 64)
}

func (t *Tracker) marked(hash uint64) bool {
	bit := hash >> 32 % uint64(len(t.filter)*64)
	return t.filter[bit/64]&(1<<(bit%64)) != 0
}

// settleTries is how often a flow is looked at in a pass until it is clear what was reported of it.
const settleTries = 3

// settle reports what is due of the flows that were picked; they may have records in tables, and in left, which are left for good. It
// counts those that the ledger had no room for.
func (t *Tracker) settle(tables, left []*Table, w *window) (noRoom uint64, err error) {
	for try := 0; try < settleTries && len(t.looks) > 0; try++ {
		if err := t.gather(tables, left); err != nil {
			return noRoom, err
		}
		now := t.monotonic()
		unclear := t.looks[:0]
		clear(t.index)
		for i := range t.looks {
			switch t.look(&t.looks[i], w, now) {
			case lookAgain:
				t.index[t.looks[i].hash] = int32(len(unclear))
				unclear = append(unclear, t.looks[i])
			case lookNoRoom:
				noRoom++
			}
		}
		t.looks = unclear
	}
	return noRoom, nil
}

// gather adds up the records of the flows that are looked at.
func (t *Tracker) gather(tables, left []*Table) error {
	t.places = t.places[:0]
	for i := range t.looks {
		l := &t.looks[i]
		l.pair, l.aged, l.moving, l.newest = pair{}, false, false, 0
		l.sum, l.old, l.left = [2]Count{}, [2]Count{}, [2]Count{}
	}
	take := func(leaving bool) func(record *abi.FlowRecord, slot *words) bool {
		return func(record *abi.FlowRecord, slot *words) bool {
			hash := t.ledger.hash(&record.Key)
			if !t.marked(hash) {
				return true
			}
			i, ok := t.index[hash]
			if !ok {
				return true
			}
			t.looks[i].take(record, slot, leaving)
			if slot != nil && !leaving {
				t.places = append(t.places, place{slot, record.Value.First, i})
			}
			return true
		}
	}
	if err := sweep(left, take(true)); err != nil {
		return err
	}
	if err := sweep(tables, take(false)); err != nil {
		return err
	}
	for i := range t.places {
		if p := &t.places[i]; !t.stays(p) {
			t.looks[p.look].moving = true
		}
	}
	return nil
}

// take adds a record.
func (l *look) take(record *abi.FlowRecord, slot *words, leaving bool) {
	_, which := joint(record.Key)
	l.newest = max(l.newest, record.Value.First)
	count := Count{record.Value.Packets, record.Value.Bytes}
	l.side[which].add(record, slot)
	l.sum[which] = l.sum[which].Plus(count)
	if l.known && record.Value.First <= l.entry.until() {
		l.aged = true
		l.old[which] = l.old[which].Plus(count)
	}
	if leaving {
		l.left[which] = l.left[which].Plus(count)
	}
}

// stays says whether a record is where it was found. If not, it is somewhere else, where it may have been seen again.
func (t *Tracker) stays(p *place) bool {
	var now words
	return load(p.slot, &now) && now.record().Value.First == p.first && t.ledger.hash(&now.record().Key) == t.looks[p.look].hash
}

// outcome is what became of a look.
type outcome int

const (
	lookDone outcome = iota
	lookAgain
	lookNoRoom
)

// look compares a flow's records with what was reported of it, and reports what is due. now is after the records were read.
func (t *Tracker) look(l *look, w *window, now uint64) outcome {
	if l.side[0].records+l.side[1].records == 0 { // gone meanwhile
		return lookDone
	}
	base, gone := l.base()
	missing := gone != Count{}
	if l.moving || missing && !l.doubt {
		l.doubt = missing
		return lookAgain
	}
	now = max(now, l.newest)
	s := slot{until: now, entry: entry{flow: l.hash, count: base, meta: l.entry.meta}}
	for i := range l.side {
		if l.side[i].records > 0 {
			s.sides[i], s.raw[i] = true, l.side[i].raw
			s.delta[i] = l.sum[i].minus(base[i])
		}
	}
	if l.aged {
		s.since = l.entry.until()
	}
	s.end = l.end(w)
	switch changed := s.delta != [2]Count{}; {
	case s.end != EndNone && (changed || !l.aged || !l.entry.ended()), changed && l.moment:
		s.entry.count = l.sum
		s.entry.meta = meta(now, s.end != EndNone, t.ledger.head.round)
	case missing || l.left != [2]Count{}:
		s.silent = true
	default:
		return lookDone
	}
	for i := range l.left {
		s.entry.count[i] = s.entry.count[i].minus(l.left[i])
		gone = gone.Plus(l.left[i])
	}
	var ok bool
	if s.index, ok = t.ledger.room(l.hash); !ok {
		return lookNoRoom
	}
	t.append(&s, gone)
	return lookDone
}

// touch notes that the flow is still there.
func (l *look) touch(ledger *ledger) {
	if !l.known {
		return
	}
	if index, ok := ledger.find(l.hash); ok {
		ledger.touch(index)
		l.entry.meta = ledger.entry(index).meta
	}
}

// base is what of the reported is certainly still in the flow's records, and gone is what isn't.
func (l *look) base() (base [2]Count, gone Count) {
	for i, reported := range l.entry.count {
		base[i] = Count{min(reported.Packets, l.old[i].Packets), min(reported.Bytes, l.old[i].Bytes)}
		gone = gone.Plus(reported.minus(base[i]))
	}
	return base, gone
}

// end is why the flow has ended, if it has.
func (l *look) end(w *window) End {
	silent, closed, flags := uint32(1<<32-1), true, uint8(0)
	for i := range l.side {
		if l.side[i].records == 0 {
			continue
		}
		v := &l.side[i].raw.Value
		silent = min(silent, w.age(v.Last))
		if abi.FlowState(v.State)&abi.FlowStateClosed == 0 {
			closed = false
		} else {
			flags |= v.TcpFlags
		}
	}
	switch {
	case silent > w.linger && flags&tcpRST != 0:
		return EndRST
	case silent > w.linger && closed && flags&tcpFIN != 0:
		return EndFIN
	case silent > w.idle:
		return EndIdle
	case l.left != [2]Count{} && l.left == l.sum:
		return EndEvicted
	case w.last:
		return EndForced
	default:
		return EndNone
	}
}
