package flow

import (
	"hash/maphash"
	"time"

	"gardu/ctl/abi"
)

// meterMax bounds the flows that a Meter remembers, some 100 bytes each.
const meterMax = 1 << 18

// Meter tells what flows did between two readings of the tables. Of a flow that it doesn't know and that is no new one, it
// can't; it knows it from then on. When they are too many, it forgets those that were silent for longest.
//
// A reading joins only flows that had packets since the one before: a table of a million flows that few use costs two sweeps.
type Meter struct {
	limit   int
	seed    maphash.Seed
	known   map[uint64]metered // by keyed hash: nobody can make two flows share one
	reading uint32
	at      time.Time // of the last reading
	clock   Clock     // likewise
	stepped bool      // times of the last reading say nothing to those of this one
	active  hashSet
}

// metered is a flow as it was when it was read last.
type metered struct {
	first        time.Time
	count, reply Count
	changed      uint32 // reading
}

// NewMeter knows nothing yet: its first reading gives no flows.
func NewMeter() *Meter {
	return &Meter{limit: meterMax, seed: maphash.MakeSeed(), known: map[uint64]metered{}}
}

// Read looks at all flows of the tables at the time now, and calls yield with those that had packets since the last
// reading and with how much, until yield returns false.
func (m *Meter) Read(tables []*Table, clock Clock, now time.Time, yield func(f *Flow, did, reply Count) bool) error {
	m.reading++
	m.stepped, m.clock = m.reading > 1 && !clock.sameTime(m.clock), clock
	j := joiner{limit: joinMax}
	if m.reading > 1 && !m.stepped {
		if err := m.findActive(tables, clock.jiffiesAt(m.at.Add(-slack))); err != nil {
			return err
		}
		j.only = &m.active
	}
	err := j.flows(tables, clock, func(f *Flow) bool {
		did, reply := m.look(f)
		return did == Count{} && reply == Count{} || yield(f, did, reply)
	})
	m.at = now
	m.forget()
	return err
}

// slack is how much longer ago than the last reading a packet may be that counts as later: clocks tick apart.
const slack = 250 * time.Millisecond

// findActive marks the flows of which either direction had a packet since then.
func (m *Meter) findActive(tables []*Table, since uint32) error {
	m.active.clear()
	return sweep(tables, func(record *abi.FlowRecord, _ *words) bool {
		if int32(record.Value.Last-since) >= 0 {
			m.active.add(hash(&record.Key))
		}
		return true
	})
}

// hashSet says of a hash that it isn't there, or that it may be.
type hashSet struct{ bits []uint64 }

// hashBits are looked at: of a million hashes in it, one in seventeen of the others is taken for one of them.
const hashBits = 24

func (s *hashSet) clear() {
	if s.bits == nil {
		s.bits = make([]uint64, 1<<hashBits/64)
	}
	clear(s.bits)
}

func (s *hashSet) add(hash uint64) {
	at := hash >> (64 - hashBits)
	s.bits[at/64] |= 1 << (at % 64)
}

func (s *hashSet) has(hash uint64) bool {
	at := hash >> (64 - hashBits)
	return s.bits[at/64]>>(at%64)&1 != 0
}

// look compares a flow with what is known of it.
func (m *Meter) look(f *Flow) (did, reply Count) {
	hash := maphash.Comparable(m.seed, f.Key)
	before, known := m.known[hash]
	now := metered{first: f.First, count: Count{f.Packets, f.Bytes}, reply: Count{f.PacketsReply, f.BytesReply}, changed: before.changed}
	isNew := !m.stepped && m.reading > 1 && f.First.After(m.at)
	switch {
	case known && !(isNew && f.First.Sub(before.first).Abs() > 2*drift): // it may have begun while the last reading went on
		did, reply = now.count.since(before.count), now.reply.since(before.reply)
	case isNew:
		did, reply = now.count, now.reply
	}
	if !known || now.count != before.count || now.reply != before.reply {
		now.changed = m.reading
	}
	if known || len(m.known) < m.limit {
		m.known[hash] = now
	}
	return did, reply
}

// since is what was added. A count that fell began anew.
func (c Count) since(before Count) Count {
	if c.Packets < before.Packets || c.Bytes < before.Bytes {
		return c
	}
	return c.minus(before)
}

// forget makes room: while fewer than a quarter is free, those go that were silent for longest.
func (m *Meter) forget() {
	if len(m.known) <= m.limit/4*3 {
		return
	}
	silent := map[uint32]int{} // how many flows changed last in that reading
	for _, f := range m.known {
		silent[f.changed]++
	}
	oldest := uint32(0)
	for left := len(m.known); left > m.limit/4*3 && oldest < m.reading; oldest++ {
		left -= silent[oldest]
	}
	for hash, f := range m.known {
		if f.changed < oldest {
			delete(m.known, hash)
		}
	}
}
