package flow

import (
	"hash/maphash"
	"time"
)

// meterMax bounds the flows that a Meter remembers, some 100 bytes each.
const meterMax = 1 << 18

// Meter tells what flows did between two readings of the tables. Of a flow that it doesn't know and that is no new one, it
// can't; it knows it from then on. It forgets flows that are gone, and when they are too many those that were silent for longest.
type Meter struct {
	limit   int
	seed    maphash.Seed
	known   map[uint64]metered // by keyed hash: nobody can make two flows share one
	reading uint32
	at      time.Time // of the last reading
	clock   Clock     // likewise
	stepped bool      // times of the last reading say nothing to those of this one
}

// metered is a flow as it was when it was read last.
type metered struct {
	first         time.Time
	count, reply  Count
	seen, changed uint32 // readings
}

// NewMeter knows nothing yet: its first reading gives no flows.
func NewMeter() *Meter {
	return &Meter{limit: meterMax, seed: maphash.MakeSeed(), known: map[uint64]metered{}}
}

// Read looks at all flows of the tables at the time now, and calls yield with those that had packets since the last
// reading and with how much, until yield returns false.
func (m *Meter) Read(tables []*Table, clock Clock, now time.Time, yield func(f *Flow, did, reply Count) bool) error {
	m.reading++
	m.stepped, m.clock = m.reading > 1 && clock != m.clock, clock
	err := Flows(tables, clock, func(f *Flow) bool {
		did, reply := m.look(f)
		return did == Count{} && reply == Count{} || yield(f, did, reply)
	})
	m.at = now
	m.forget()
	return err
}

// look compares a flow with what is known of it.
func (m *Meter) look(f *Flow) (did, reply Count) {
	hash := maphash.Comparable(m.seed, f.Key)
	before, known := m.known[hash]
	now := metered{first: f.First, count: Count{f.Packets, f.Bytes}, reply: Count{f.PacketsReply, f.BytesReply}, seen: m.reading, changed: before.changed}
	isNew := !m.stepped && m.reading > 1 && f.First.After(m.at)
	switch {
	case known && !(isNew && !f.First.Equal(before.first)): // it may have begun while the last reading went on
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

// forget makes room: flows that are gone, and while fewer than a quarter is free, those that were silent for longest.
func (m *Meter) forget() {
	silent := map[uint32]int{} // how many flows changed last in that reading
	for hash, f := range m.known {
		if f.seen != m.reading {
			delete(m.known, hash)
			continue
		}
		silent[f.changed]++
	}
	keep, oldest := len(m.known), uint32(0)
	for keep > m.limit/4*3 && oldest < m.reading {
		keep -= silent[oldest]
		oldest++
	}
	if oldest == 0 {
		return
	}
	for hash, f := range m.known {
		if f.changed < oldest {
			delete(m.known, hash)
		}
	}
}
