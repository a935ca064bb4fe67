package flow

import "gardu/ctl/abi"

// Sum adds up records.
type Sum struct {
	Entries, Packets, Bytes uint64
}

func (s *Sum) add(v *abi.FlowValue) {
	s.Entries++
	s.Packets += v.Packets
	s.Bytes += v.Bytes
}

// Totals accounts for every packet that reached flow accounting: Accounted = Records + LRU + Unattributed, exactly
// when no packet came in between, within those packets otherwise. Packets are wire packets, bytes IP lengths.
type Totals struct {
	Capacity     uint64 // records that the arrays have room for
	Live         uint64 // records of the arrays that were seen not long ago; the others give way to new flows
	Records, LRU Sum
	Accounted    Count
	Evicted      Count // one-packet flows that gave way to others
	Refused      Count // flows that found no room
	Lost         Count // flows that the kernel threw out of the LRU map
	Dropped      Count // left in a table that was replaced by one of another size
	Unattributed Count // the four together: packets of no flow that can be shown
	Created      uint64
	Sent         Count // seen at tc egress; bytes are frame lengths
}

// Count is packets and their bytes.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Plus adds.
func (c Count) Plus(other Count) Count {
	return Count{c.Packets + other.Packets, c.Bytes + other.Bytes}
}

// minus stops at 0: the counters are read one after the other while packets go on.
func (c Count) minus(other Count) Count {
	return Count{c.Packets - min(c.Packets, other.Packets), c.Bytes - min(c.Bytes, other.Bytes)}
}

// Account says what is needed besides the tables.
type Account struct {
	Counters  func() (abi.FlowTotals, error) // of the programs, summed over CPUs
	Dropped   Count                          // see Totals
	LiveSince uint32                         // jiffies: a record is live when it was seen then or later
}

// Total sweeps the tables and closes the account.
func (a Account) Total(tables []*Table) (Totals, error) {
	before, err := a.Counters()
	if err != nil {
		return Totals{}, err
	}
	t := Totals{Dropped: a.Dropped}
	for _, table := range tables {
		t.Capacity += uint64(table.Capacity())
	}
	if before.Created == 0 { // nothing is in there, and reading a table for a million flows takes a tenth of a second
		t.close(before, before)
		return t, nil
	}
	err = sweep(tables, func(record *abi.FlowRecord, slot *words) bool {
		if slot == nil {
			t.LRU.add(&record.Value)
			return true
		}
		t.Records.add(&record.Value)
		if int32(record.Value.Last-a.LiveSince) >= 0 {
			t.Live++
		}
		return true
	})
	if err != nil {
		return Totals{}, err
	}
	after, err := a.Counters()
	if err != nil {
		return Totals{}, err
	}
	t.close(before, after)
	return t, nil
}

// close fills in what the counters say. Both readings stand around the sweep, so that a flow that left the LRU map before it
// was seen there is not taken for lost.
func (t *Totals) close(before, after abi.FlowTotals) {
	t.Accounted = Count{before.Accounted, before.AccountedBytes}
	t.Evicted = Count{before.Evicted, before.EvictedBytes}
	t.Refused = Count{before.Refused, before.RefusedBytes}
	t.Sent = Count{before.Sent, before.SentBytes}
	t.Created = before.Created
	there := Count{t.LRU.Packets, t.LRU.Bytes}
	t.Lost = behind(before).minus(there)
	if lost := behind(after).minus(there); lost.Packets < t.Lost.Packets {
		t.Lost = lost
	}
	t.Unattributed = t.Evicted.Plus(t.Refused).Plus(t.Lost).Plus(t.Dropped)
}

// behind is what went into the LRU map and didn't come back.
func behind(c abi.FlowTotals) Count {
	return Count{c.Spilled, c.SpilledBytes}.minus(Count{c.Returned, c.ReturnedBytes})
}

// Array adds up what is in the array, without the LRU map.
func (t *Table) Array() Count {
	sum := t.Sum()
	return Count{sum.Packets, sum.Bytes}
}

// Sum does so too, and counts the records.
func (t *Table) Sum() Sum {
	var sum Sum
	t.sweepArray(func(record *abi.FlowRecord, _ *words) bool {
		sum.add(&record.Value)
		return true
	})
	return sum
}

// DroppedTotals accounts for every packet that went no further: Dropped = Records + Lost, exactly when no packet came in between.
type DroppedTotals struct {
	Capacity uint64 // records that there is room for
	Records  Sum    // those of dropped flows
	Dropped  Count
	Lost     Count // of flows that gave way to others, and of packets that are no flow's
}

// TotalDropped closes the account of dropped packets. before is what was lost with tables that others replaced; table may be nil.
func TotalDropped(counters abi.FlowTotals, before Count, table *Table) DroppedTotals {
	t := DroppedTotals{
		Dropped: Count{counters.Dropped, counters.DroppedBytes},
		Lost:    before.Plus(Count{counters.DroppedLost, counters.DroppedLostBytes}),
	}
	if table != nil {
		t.Capacity, t.Records = uint64(table.Capacity()), table.Sum()
	}
	return t
}
