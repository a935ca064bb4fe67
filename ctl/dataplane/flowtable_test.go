package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// onBackend checks that all flows from first to last are remembered with a backend, by number in rigSnapshot, and with all
// their packets.
func (r *rig) onBackend(first, last uint32, backend int) {
	r.t.Helper()
	records := r.records()
	wrong, incomplete := 0, 0
	for number := first; number < last; number++ {
		record := records[number]
		if record.Backend != r.backends[backend].ID {
			wrong++
		}
		if record.Packets != r.sent[number].packets {
			incomplete++
		}
	}
	if wrong > 0 || incomplete > 0 {
		r.t.Errorf("of %d flows %d are not on backend %d, %d lack packets", last-first, wrong, backend, incomplete)
	}
}

// Whatever happens to the table, every packet is in a record, in the LRU map, or in a counter that says why not.
func TestFlowAccountIsExact(t *testing.T) {
	manyPackets(t)
	for _, c := range []struct {
		name          string
		max           int
		guard, budget uint32
	}{
		{"as configured", 4000, 30 * 1000, 1000},
		{"flows idle for a jiffy give way", 4000, 1, 1000},
		{"small budget", 4000, 30 * 1000, 3},
		{"no budget", 4000, 30 * 1000, 0},
		{"small table", 100, 1, 1000},
		{"one bucket, one entry behind it", 1, 0, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.max)
			r.control.FlowGuard, r.control.FlowBudget = c.guard, c.budget
			random := rand.New(rand.NewPCG(1, 2))
			for round := range 12 {
				packets := make([]packet, 0, 20_000)
				for len(packets) < cap(packets) {
					p := packet{flow: random.Uint32N(1000), flags: ack} // some that go on
					switch {
					case round%3 == 0:
						p.flow = random.Uint32N(1 << 20) // a flood of one-packet flows
					case round%3 == 1 && random.Uint32N(10) > 0:
						p.flow = 1<<20 + uint32(round)<<16 + uint32(len(packets))/2 // of two-packet flows
					case round%3 == 2:
						p.flow = random.Uint32N(20_000) // more than there is room for
					}
					packets = append(packets, p)
				}
				r.send(packets...)
				r.exact()
				if t.Failed() {
					t.Fatalf("in round %d", round)
				}
				r.tick()
			}
			t.Logf("%+v", r.exact())
		})
	}
}

// establish sends packets until every flow below n is remembered, which may take a while when the table is crowded.
func (r *rig) establish(n uint32) map[uint32]abi.FlowValue {
	r.t.Helper()
	r.each(0, n, 3, ack)
	records := r.records()
	for deadline := time.Now().Add(5 * time.Second); len(records) < int(n); records = r.records() {
		if time.Now().After(deadline) {
			r.t.Fatalf("only %d of %d flows found room", len(records), n)
		}
		for number := range n {
			if _, ok := records[number]; !ok {
				r.send(packet{flow: number, flags: ack})
			}
		}
		r.tick()
	}
	return records
}

// Established flows keep their packets and their backend under a flood that overflows the table.
func TestFloodsDontWin(t *testing.T) {
	manyPackets(t)
	const established = 5000
	for _, c := range []struct {
		name           string
		spoofed, times int // spoofed packets for each of an established flow, packets a spoofed flow
	}{{"90 % of one packet", 9, 1}, {"90 % of two packets", 9, 2}, {"99 % of one packet", 99, 1}, {"99 % of two packets", 99, 2}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2*established)
			before := r.establish(established)
			r.choose(1)
			spoofed, lasting := uint32(0), uint32(0)
			const total = 500_000
			var packets []packet
			for range total / (c.spoofed + 1) {
				packets = append(packets, packet{flow: lasting % established, flags: ack})
				lasting++
				for range c.spoofed {
					packets = append(packets, packet{flow: established + spoofed/uint32(c.times), flags: ack})
					spoofed++
				}
			}
			r.send(packets...)
			account := r.exact()
			var kept uint64
			moved := 0
			for number, record := range r.records() {
				if number >= established {
					continue
				}
				kept += record.Packets - before[number].Packets
				if record.Backend != r.backends[0].ID {
					moved++
				}
			}
			t.Logf("%d of %d packets kept, %d flows moved: %+v", kept, lasting, moved, account)
			if kept*1000 < uint64(lasting)*999 || moved > 0 {
				t.Errorf("%d of %d packets kept, %d flows moved", kept, lasting, moved)
			}
			if account.Unattributed.Packets == 0 {
				t.Error("the table didn't overflow")
			}
		})
	}
}

// A flow that went into the LRU map goes on where it was, with its counts.
func TestFlowsComeBackFromTheLRU(t *testing.T) {
	t.Run("spilled because they were idle", func(t *testing.T) {
		r := newRig(t, 1000)
		r.control.FlowGuard, r.control.FlowBudget = 1, 1000
		r.each(0, 500, 2, ack)
		for range 3 {
			r.tick()
		}
		r.each(10_000, 11_000, 2, ack)
		if a := r.exact(); a.LRU.Entries == 0 {
			t.Fatal("nothing was spilled")
		}
		r.onBackend(0, 500, 0)
		r.choose(1)
		for range 3 {
			r.tick()
		}
		r.each(0, 500, 1, ack)
		a := r.exact()
		r.onBackend(0, 500, 0)
		totals, err := r.FlowTotals()
		if err != nil || totals.Returned == 0 {
			t.Errorf("nothing returned: %+v, %v", totals, err)
		}
		t.Logf("%+v", a)
	})
	t.Run("never in the array", func(t *testing.T) {
		r := newRig(t, 1000)
		r.control.FlowBudget = 1000
		r.each(0, 1500, 2, ack)
		a := r.exact()
		if a.LRU.Entries == 0 || a.Lost.Packets != 0 {
			t.Fatalf("%+v", a)
		}
		r.onBackend(0, 1500, 0)
		r.choose(1)
		r.each(0, 1500, 3, ack)
		r.onBackend(0, 1500, 0)
		r.control.FlowGuard = 0
		r.tick()
		r.each(0, 1500, 1, ack)
		r.exact()
		r.onBackend(0, 1500, 0)
	})
}

// While flows.max changes, up or down, flows stay where they are, and what the old table still holds at the end is
// accounted for as dropped.
func TestResizeKeepsFlows(t *testing.T) {
	for name, max := range map[string][2]int{"up": {2000, 8000}, "down": {8000, 2000}, "down to less than there are": {8000, 1000}} {
		t.Run(name, func(t *testing.T) {
			const live, idle = 1500, 500
			r := newRig(t, max[0])
			r.control.FlowBudget = 1000
			r.each(0, live+idle, 3, ack)
			r.choose(1)
			before := r.exact()
			if err := r.ResizeFlows(max[1]); err != nil {
				t.Fatal(err)
			}
			if during := r.exact(); during.Records.Packets+during.LRU.Packets != before.Records.Packets+before.LRU.Packets {
				t.Errorf("before %+v, then %+v", before, during)
			}
			lost := max[1] < live
			for range 3 {
				r.each(0, live, 2, ack)
				during := r.exact()
				if !lost {
					r.onBackend(0, live, 0)
					if during.Unattributed.Packets != 0 {
						t.Errorf("%+v", during)
					}
				}
			}
			err := r.FinishResize(func(old, _ FlowTable) error {
				table, err := flow.NewTable(old.Memory, old.LRU)
				if err == nil {
					r.dropped = r.dropped.Plus(table.Array())
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			after := r.exact()
			t.Logf("%+v", after)
			if !lost {
				r.each(0, live, 1, ack)
				r.onBackend(0, live, 0)
				if after.Unattributed.Packets != 3*idle {
					t.Errorf("of the idle flows' %d packets: %+v", 3*idle, after)
				}
			}
			r.exact()
		})
	}
}

// A closed flow's name may be a new flow's; nothing else moves a flow.
func TestWhatMovesAFlow(t *testing.T) {
	r := newRig(t, 40_000) // no flow is alone with its first packet in a full bucket
	for i, c := range []struct {
		name  string
		flags []uint8
		want  int
	}{
		{"SYN again", []uint8{syn}, 0},
		{"SYN on a live flow", []uint8{ack, syn, ack}, 0},
		{"SYN+ACK on a closed flow", []uint8{ack, fin | ack, syn | ack}, 0},
		{"last ACK of a closed flow", []uint8{ack, fin | ack, ack}, 0},
		{"SYN on a flow with FIN", []uint8{ack, fin | ack, syn}, 1},
		{"SYN on a flow with RST", []uint8{ack, rst, syn}, 1},
		{"SYN+ACK and ACK after that", []uint8{ack, rst, syn, syn | ack, ack}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			pin(t, 0)
			first := uint32(i) * 100
			r.choose(0)
			r.each(first, first+100, 1, syn)
			r.choose(1)
			for _, flags := range c.flags {
				r.each(first, first+100, 1, flags)
			}
			r.onBackend(first, first+100, c.want)
			r.exact()
		})
	}
}

// What is dropped leaves no trace in the table.
func TestDroppedPacketsAreNotRecorded(t *testing.T) {
	r := newRig(t, 1000)
	for number := range uint32(100) {
		r.lose(packet{flow: number, flags: ack, dport: telnet})
	}
	if a := r.exact(); a.Records.Entries+a.LRU.Entries != 0 {
		t.Errorf("%+v", a)
	}
	r.each(0, 100, 2, ack)
	before := r.records()
	r.choose(1)
	block := prefix(sourceOf(7).String() + "/32")
	add(t, r.Dataplane, Block{Prefix: block})
	r.lose(packet{flow: 7, flags: ack}, packet{flow: 7, flags: syn}, packet{flow: 7, flags: rst})
	for number, now := range r.records() {
		if now != before[number] {
			t.Errorf("flow %d: %+v, before %+v", number, now, before[number])
		}
	}
	if _, err := r.RemoveBlocks([]netip.Prefix{block}); err != nil {
		t.Fatal(err)
	}
	r.each(0, 100, 1, ack)
	r.onBackend(0, 100, 0)
	r.exact()
}

// Flows that begin all at once, and of which some find their bucket full, are kept behind the array as far as a second's budget goes; the
// next second has another.
func TestBurstOfNewFlows(t *testing.T) {
	r := newRig(t, 1000)
	if r.control.FlowBudget != 1 {
		t.Fatalf("%d inserts a jiffy", r.control.FlowBudget)
	}
	r.each(0, 750, 2, ack)
	a := r.exact()
	t.Logf("%+v", a)
	if a.LRU.Entries < 20 || a.Unattributed.Packets != 0 {
		t.Errorf("%+v", a)
	}
	r.each(1000, 4000, 2, ack) // what a flood gets
	if a := r.exact(); a.LRU.Entries > 350 {
		t.Errorf("a flood got %d entries: %+v", a.LRU.Entries, a)
	}
}

func TestFlowBudgetGrowsWithTheTable(t *testing.T) {
	for _, c := range []struct {
		lru  uint32
		cpus int
		want uint32
	}{{1, 2, 1}, {10_000, 2, 1}, {1_000_000, 1, 134}, {1_000_000, 2, 67}, {100_000_000, 2, 1000}} {
		if got := flowBudget(c.lru, c.cpus, 250); got != c.want {
			t.Errorf("an LRU map of %d, %d CPUs: %d inserts a jiffy, want %d", c.lru, c.cpus, got, c.want)
		}
	}
}
