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

// Total sweeps the tables and closes the account with the counters of the programs, summed over CPUs, and with what is
// known to have been dropped.
func Total(tables []*Table, counters abi.FlowTotals, dropped Count) (Totals, error) {
	t := Totals{
		Accounted: Count{counters.Accounted, counters.AccountedBytes},
		Evicted:   Count{counters.Evicted, counters.EvictedBytes},
		Refused:   Count{counters.Refused, counters.RefusedBytes},
		Dropped:   dropped,
		Created:   counters.Created,
		Sent:      Count{counters.Sent, counters.SentBytes},
	}
	for _, table := range tables {
		t.Capacity += uint64(table.Capacity())
	}
	err := sweep(tables, func(record *abi.FlowRecord, slot *words) bool {
		if slot != nil {
			t.Records.add(&record.Value)
		} else {
			t.LRU.add(&record.Value)
		}
		return true
	})
	if err != nil {
		return Totals{}, err
	}
	t.Lost = Count{counters.Spilled, counters.SpilledBytes}.
		minus(Count{counters.Returned, counters.ReturnedBytes}).
		minus(Count{t.LRU.Packets, t.LRU.Bytes})
	t.Unattributed = t.Evicted.Plus(t.Refused).Plus(t.Lost).Plus(t.Dropped)
	return t, nil
}

// Array adds up what is in the array, without the LRU map.
func (t *Table) Array() Count {
	var sum Sum
	t.sweepArray(func(record *abi.FlowRecord, _ *words) bool {
		sum.add(&record.Value)
		return true
	})
	return Count{sum.Packets, sum.Bytes}
}
