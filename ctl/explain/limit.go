package explain

import (
	"fmt"
	"net/netip"

	"gardu/ctl/model"
)

// bucket tells token buckets apart.
type bucket struct {
	rule     string // its name; PerAll: what the limit says
	prefix   netip.Prefix
	service  string
	src, dst netip.AddrPort
	proto    uint8
}

// ticks is how many make a nanosecond: the unit that buckets count time in.
const ticks = 4

// overLimit takes the packet's tokens from its bucket. True: there are not enough, and none is taken. A token comes back every
// Every / Rate, of which the fraction of a 65536th of a ns is dropped; the time that a packet or a whole burst takes is a number
// of ticks, rounded down. The bucket is the time at which it will be full again.
func (m *Model) overLimit(rule model.Rule, f facts, frame []byte) bool {
	l := rule.Limit
	tokens := uint64(1)
	if l.Bytes {
		tokens = uint64(f.length)
		if tokens == 0 { // not IP
			tokens = uint64(len(frame))
		}
	}
	cost := uint64(l.Every) << 16 / l.Rate
	burst := l.Burst * cost / (65536 / ticks)
	key := m.bucketOf(rule, f)
	now := uint64(m.Clock) * ticks
	full := max(m.buckets[key], now) + tokens*cost/(65536/ticks)
	if tokens > l.Burst || full-now > burst {
		return true
	}
	if m.buckets == nil {
		m.buckets = map[bucket]uint64{}
	}
	m.buckets[key] = full
	return false
}

func (m *Model) bucketOf(rule model.Rule, f facts) bucket {
	l := rule.Limit
	key := bucket{rule: rule.Name}
	prefix := func(addr netip.Addr) netip.Prefix {
		bits := l.Per.Bits[0]
		if addr.Is6() {
			bits = l.Per.Bits[1]
		}
		p, _ := addr.Prefix(bits)
		return p
	}
	switch l.Per.What {
	case model.PerAll:
		key.rule = fmt.Sprint("all ", l.Rate, l.Every, l.Bytes, l.Burst)
	case model.PerSource:
		key.prefix = prefix(f.src)
	case model.PerDest:
		key.prefix = prefix(f.dst)
	case model.PerService:
		if service, _ := m.serviceFor(f); service != nil {
			key.service = service.Name
		}
	case model.PerFlow:
		sport, dport, _ := m.ports(f)
		key.src, key.dst, key.proto = netip.AddrPortFrom(f.src, sport), netip.AddrPortFrom(f.dst, dport), f.proto
	}
	return key
}

// note says that a rule that logs or samples chose the packet: the first that concerns it, and every so many-th after it.
func (m *Model) note(rule model.Rule) {
	if rule.Log == 0 && rule.Sample == 0 {
		return
	}
	c := m.counters["rule "+rule.Name]
	before := c.Packets
	if rule.Limit != nil {
		undecided := m.counters["rule "+rule.Name+" undecided"].Packets
		if before -= undecided; rule.Shadow || !decides(rule) {
			before = m.counters["rule "+rule.Name+" shadow"].Packets
		}
	}
	for _, chosen := range []struct {
		kind string
		of   uint32
	}{{"log", rule.Log}, {"sample", rule.Sample}} {
		if chosen.of == 0 || before%uint64(chosen.of) != 0 || len(m.notes) == maxNotes {
			continue
		}
		text := chosen.kind + " rule=" + rule.Name
		if rule.Shadow {
			text = "shadow rule=" + rule.Name
			if decides(rule) {
				text += " would=" + string(rule.Action)
			}
		}
		m.notes = append(m.notes, text)
	}
}

// maxNotes is how many notes of rules an event has room for.
const maxNotes = 4

// decides tells rules that decide from those that observe.
func decides(rule model.Rule) bool { return rule.Action != "" && rule.Action != model.Mirror }

// noteDrop notes what became of a packet for those who watch.
func (m *Model) noteDrop(out Outcome) {
	if m.WatchDrops && len(m.notes) == 0 && (out.Verdict == Drop || out.Verdict == Reject) {
		m.notes = append(m.notes, "drop")
	}
}
