package flow

import (
	"bytes"
	"encoding/binary"
	"time"

	"gardu/ctl/abi"
)

// joinMax bounds the flows held in memory at once (some 250 bytes each); a larger table is joined in several sweeps.
const joinMax = 1 << 17

// Flows calls yield with every flow of the tables, its directions joined and its records added, until yield returns
// false. The flow is valid during the call. Memory is bounded whatever the size of the table: when there are more
// flows than fit, they are parted by a hash that both directions share, and each part takes a sweep of its own. Each
// flow is as it was at its sweep, while others went on.
func Flows(tables []*Table, clock Clock, yield func(*Flow) bool) error {
	return flows(tables, clock, joinMax, yield)
}

func flows(tables []*Table, clock Clock, limit int, yield func(*Flow) bool) error {
	j := joiner{limit: limit}
	return j.flows(tables, clock, yield)
}

func (j *joiner) flows(tables []*Table, clock Clock, yield func(*Flow) bool) error {
	for depth, part := 0, uint64(0); part < 1<<depth; part++ {
		for {
			full, err := j.collect(tables, depth, part)
			if err != nil {
				return err
			}
			if !full {
				break
			}
			depth, part = depth+1, part*2
		}
		for i := range j.pairs {
			if f := j.pairs[i].flow(clock); !yield(&f) {
				return nil
			}
		}
	}
	return nil
}

// joiner holds the flows of one part.
type joiner struct {
	limit int
	only  *hashSet            // nil: all flows
	index map[abi.FlowKey]int // by joint key
	pairs []pair
}

// pair is the two directions of a flow. Side 0 is the one whose source is the smaller end.
type pair struct {
	side [2]side
}

// side adds up the records of one direction.
type side struct {
	raw     abi.FlowRecord
	records int
	slot    *words // of the only record so far; nil when it is in the LRU map or there are more
}

// collect gathers the flows of a part: those whose hash begins with the depth bits of part. It stops and says so
// when they are too many.
func (j *joiner) collect(tables []*Table, depth int, part uint64) (full bool, err error) {
	if j.index == nil {
		j.index = make(map[abi.FlowKey]int)
	}
	clear(j.index)
	j.pairs = j.pairs[:0]
	err = sweep(tables, func(record *abi.FlowRecord, slot *words) bool {
		h := hash(&record.Key)
		if h>>(64-depth) != part || j.only != nil && !j.only.has(h) { // depth 0: shifted out, 0
			return true
		}
		full = !j.add(record, slot)
		return !full
	})
	return full, err
}

// add takes a record; false when there is no room for another flow.
func (j *joiner) add(record *abi.FlowRecord, slot *words) bool {
	key, which := joint(record.Key)
	i, ok := j.index[key]
	if !ok {
		if len(j.pairs) == j.limit {
			return false
		}
		i = len(j.pairs)
		j.index[key] = i
		j.pairs = append(j.pairs, pair{})
	}
	j.pairs[i].side[which].add(record, slot)
	return true
}

// joint is the key that both directions of a flow have in common, and which of them this is. Where a packet was
// seen is no part of it: replies may come in elsewhere.
func joint(key abi.FlowKey) (abi.FlowKey, int) {
	key.Zone = 0
	key.Tag &^= uint16(abi.FlowOut) << tagFlags
	order := bytes.Compare(key.Saddr[:], key.Daddr[:])
	if order == 0 {
		order = int(abi.Ntohs(key.BeSport)) - int(abi.Ntohs(key.BeDport))
	}
	if order <= 0 {
		return key, 0
	}
	key.Saddr, key.Daddr = key.Daddr, key.Saddr
	key.BeSport, key.BeDport = key.BeDport, key.BeSport
	return key, 1
}

// hash is the same for both directions. It need not be keyed: a bad spread costs a sweep more.
func hash(key *abi.FlowKey) uint64 {
	h := hashEnd(&key.Saddr, key.BeSport) + hashEnd(&key.Daddr, key.BeDport) + uint64(key.Proto)
	return (h ^ h>>29) * hashOdd
}

const hashOdd = 0x9E3779B97F4A7C15

func hashEnd(addr *[16]uint8, port uint16) uint64 {
	h := binary.NativeEndian.Uint64(addr[:8])*hashOdd ^ binary.NativeEndian.Uint64(addr[8:])
	h = (h^h>>32)*hashOdd + uint64(port)
	return (h ^ h>>32) * hashOdd
}

// add takes one more record of the direction: of another CPU, or from the LRU map.
func (s *side) add(record *abi.FlowRecord, slot *words) {
	s.records++
	if s.records == 1 || s.moved(record) {
		s.raw, s.slot, s.records = *record, slot, 1
		return
	}
	s.slot = nil
	to, from := &s.raw.Value, &record.Value
	packets, octets := to.Packets+from.Packets, to.Bytes+from.Bytes
	first, flags, state := min(to.First, from.First), to.TcpFlags|from.TcpFlags, to.State|from.State
	ttlMin, ttlMax := min(to.TtlMin, from.TtlMin), max(to.TtlMax, from.TtlMax)
	syn, acked, retransmits := max(to.Syn, from.Syn), acked(to, from), to.Retransmits+from.Retransmits
	if int32(from.Last-to.Last) > 0 { // the verdict in force is that of the last packet
		s.raw = *record
	}
	to.Packets, to.Bytes, to.First, to.TcpFlags, to.State = packets, octets, first, flags, state
	to.TtlMin, to.TtlMax = ttlMin, ttlMax
	to.Syn, to.Acked, to.Retransmits = syn, acked, retransmits
}

// acked is when two records of a direction saw the first segment after the SYN. One that didn't see the SYN may have begun with it.
func acked(a, b *abi.FlowValue) uint64 {
	syn, first := max(a.Syn, b.Syn), uint64(0)
	if syn == 0 {
		return 0
	}
	for _, v := range []*abi.FlowValue{a, b} {
		at := v.Acked
		if v.Syn == 0 && at == 0 {
			at = v.First
		}
		if at > syn && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// moved reports whether record is the one already seen, which went to another place since: first seen at the same
// moment, and no longer where it was.
func (s *side) moved(record *abi.FlowRecord) bool {
	if s.slot == nil || s.raw.Value.First != record.Value.First {
		return false
	}
	var now words
	return !load(s.slot, &now) || now.record().Key != s.raw.Key
}

// flow joins the directions.
func (p *pair) flow(clock Clock) Flow {
	first := p.opener()
	open, back := &p.side[first], &p.side[1-first]
	f := Flow{Record: NewRecord(&open.raw, clock)}
	if back.records == 0 {
		return f
	}
	reply := NewRecord(&back.raw, clock)
	f.PacketsReply, f.BytesReply, f.TCPFlagsReply = reply.Packets, reply.Bytes, reply.TCPFlags
	f.RetransmitsReply, f.DSCPReply, f.IfindexReply = reply.Retransmits, reply.DSCP, reply.Ifindex
	f.TTLMinReply, f.TTLMaxReply, f.OutReply = reply.TTLMin, reply.TTLMax, reply.Out
	f.ServerRTT = after(back.raw.Value.Syn, open.raw.Value.Syn)
	f.ClientRTT = after(open.raw.Value.Acked, back.raw.Value.Syn)
	f.State |= reply.State
	if reply.Last.After(f.Last) {
		f.Last = reply.Last
	}
	return f
}

// opener is the side that opened the flow.
func (p *pair) opener() int {
	if p.side[0].records == 0 || p.side[1].records != 0 && opened(&p.side[1], &p.side[0]) {
		return 1
	}
	return 0
}

// opened says whether a opened the flow rather than b: who was answered by a SYN+ACK, else who was seen first, and at the same moment who
// talks to the lower port. A SYN may have lost its record, as that of one packet, to a newer flow, so that who sent it seems to come second.
func opened(a, b *side) bool {
	if is := answered(b, a); is != answered(a, b) {
		return is
	}
	if a.raw.Value.First != b.raw.Value.First {
		return a.raw.Value.First < b.raw.Value.First
	}
	return abi.Ntohs(a.raw.Key.BeDport) < abi.Ntohs(b.raw.Key.BeDport)
}

// answered says whether a side sent a SYN+ACK to another, which did more than reject it: anybody can send one.
func answered(from, to *side) bool {
	return abi.FlowState(from.raw.Value.State)&abi.FlowStateAnswered != 0 && to.raw.Value.TcpFlags&^tcpACK != tcpRST
}

// after is the time from one moment to a later one; 0 when one of them isn't known, or they don't belong together.
func after(later, earlier uint64) time.Duration {
	if earlier == 0 || later < earlier {
		return 0
	}
	return time.Duration(later - earlier)
}
