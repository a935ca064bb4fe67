package dataplane

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// sender sends on a CPU of its own, round after round: once each flow of its own, and a flood that all senders share.
type sender struct {
	cpu    int
	own    uint32 // first of ownFlows
	rounds atomic.Int64
	passed count
}

const (
	ownFlows    = 1000
	sharedFlows = 1 << 16
)

func (s *sender) run(t *testing.T, g *generator, stop <-chan struct{}) {
	pin(t, s.cpu)
	random := rand.New(rand.NewPCG(1, uint64(s.cpu)))
	for {
		var packets []packet
		for i := range uint32(ownFlows) {
			packets = append(packets, packet{flow: s.own + i, flags: ack}, packet{flow: s.own + i, flags: ack})
			for range 4 {
				packets = append(packets, packet{flow: random.Uint32N(sharedFlows), flags: ack})
			}
		}
		g.send(t, packets)
		for _, p := range packets {
			s.passed.add(1, p.bytes())
		}
		s.rounds.Add(1)
		select {
		case <-stop:
			return
		default:
		}
	}
}

// Two CPUs send packets of the same flows, so that records go to and fro through the LRU map, while the table changes its
// size again and again: no packet is lost or counted twice, and flows that live stay on their backend.
func TestFlowsWhileCPUsSendAndTheTableIsResized(t *testing.T) {
	manyPackets(t)
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	const small, large = 6000, 40_000
	r := newRig(t, large)
	senders := []*sender{{cpu: 0, own: 1 << 20}, {cpu: 1, own: 2 << 20}}
	var all sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range senders {
		g := newGenerator(t, program(t, r.Dataplane, HookXDP))
		all.Go(func() { s.run(t, g, stop) })
	}
	round := func() {
		t.Helper()
		for _, s := range senders {
			want := s.rounds.Load() + 2 // the one that goes on may be past some flows
			eventually(t, "a round of packets", func() bool { return s.rounds.Load() >= want })
		}
	}
	round()
	r.choose(1)
	for i, deadline := 0, time.Now().Add(3*time.Second); time.Now().Before(deadline); i++ {
		if err := r.ResizeFlows([]int{small, large}[i%2]); err != nil {
			t.Error(err)
		}
		round()
		err := r.FinishResize(func(old, _ FlowTable) error {
			table, err := flow.NewTable(old.Memory, old.LRU)
			if err == nil {
				r.dropped = r.dropped.Plus(table.Array())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	close(stop)
	all.Wait()
	for _, s := range senders {
		r.passed.add(s.passed.packets, s.passed.bytes)
	}
	t.Logf("%+v", r.account())
	records := r.records()
	moved := 0
	for _, s := range senders {
		for i := range uint32(ownFlows) {
			if records[s.own+i].Backend != r.backends[0].ID {
				moved++
			}
		}
	}
	if moved > 0 {
		t.Errorf("%d of %d flows moved", moved, len(senders)*ownFlows)
	}
}

// A sender's packets may come in on another CPU from one moment to the next, and find no record there.
func TestFlowsThatChangeCPUStayOnTheirBackend(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	const flows = 100
	r := newRig(t, 100*flows) // no bucket gets more than its four
	on := func(cpu int, flags uint8) {
		t.Helper()
		r.sendOn(cpu, flows, packet{flags: flags})
	}
	on(0, syn)
	on(0, ack)
	r.choose(1)
	on(1, ack)
	for i, value := range r.records() {
		if value.Backend != r.backends[0].ID || value.Packets != 3 {
			t.Errorf("flow %d: backend %d, %d packets; want 3 to the first backend", i, value.Backend, value.Packets)
		}
	}
	on(1, syn|ack) // no SYN of its own: still the same flows
	if records := r.records(); len(records) != flows || records[7].Backend != r.backends[0].ID {
		t.Errorf("%d flows; flow 7: %+v", len(records), records[7])
	}
}

// sendOn sends a packet of each of the first flows on a CPU.
func (r *rig) sendOn(cpu int, flows uint32, p packet) {
	r.t.Helper()
	var done sync.WaitGroup
	done.Go(func() {
		pin(r.t, cpu)
		g := newGenerator(r.t, program(r.t, r.Dataplane, HookXDP))
		for p.flow = range flows {
			g.send(r.t, []packet{p})
		}
	})
	done.Wait()
}

// A client gives a new connection the name of an old one. What a CPU remembers of the old one must not take the new one's packets to
// another backend than that of its SYN, which another CPU saw.
func TestConnectionsWithAnOldNameFollowTheirSYN(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	const flows, later = 100, 1 << 24
	for name, c := range map[string]struct {
		end     packet // of the old connection, and where it is seen
		endsOn  int
		next    []packet // of the new one: the first by CPU 1, the others by CPU 0
		backend int      // where all of it goes
	}{
		"closed here":                  {packet{flags: fin | ack}, 0, []packet{{flags: syn}, {flags: ack}, {flags: ack}}, 1},
		"closed there":                 {packet{flags: fin | ack}, 1, []packet{{flags: syn, seq: later}, {flags: ack, seq: later}}, 1},
		"closed there, smaller number": {packet{flags: rst}, 1, []packet{{flags: syn, seq: -later}, {flags: ack, seq: -later}}, 1},
		"nothing begins":               {packet{flags: fin | ack}, 0, []packet{{flags: ack}, {flags: ack}}, 0},
		"a long way on, the same":      {packet{flags: ack}, 1, []packet{{flags: ack, seq: later}, {flags: ack, seq: later}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 100*flows) // no bucket gets more than its four
			r.sendOn(0, flows, packet{flags: syn})
			r.sendOn(0, flows, packet{flags: ack, seq: 1})
			r.sendOn(c.endsOn, flows, c.end)
			r.choose(1)
			for i, p := range c.next {
				r.sendOn(max(0, 1-i), flows, p)
			}
			wrong, records := 0, 0
			r.read(func(tables []*flow.Table) error {
				return flow.Sweep(tables, func(record *abi.FlowRecord) bool {
					records++
					if record.Value.Backend != r.backends[c.backend].ID {
						wrong++
					}
					return true
				})
			})
			if records != 2*flows || wrong > 0 {
				t.Errorf("of %d records, one a flow and CPU, %d are on the wrong backend", records, wrong)
			}
		})
	}
}

// A connection whose SYN found no room for a record must not go where another CPU remembers that an earlier one of its name went, if that was closed.
func TestConnectionsWithoutRecordOfTheirSYN(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	const flows, later = 100, 1 << 24
	for name, c := range map[string]struct {
		end     packet // of the connection that CPU 0 saw
		next    packet // what comes in by CPU 1
		backend int    // where it goes
	}{
		"closed, another":             {packet{flags: fin | ack, seq: 1}, packet{flags: ack, seq: later}, 1},
		"reset, another":              {packet{flags: rst, seq: 1}, packet{flags: ack, seq: -later}, 1},
		"closed, the last of it":      {packet{flags: fin | ack, seq: 1}, packet{flags: ack, seq: 2}, 0},
		"open, perhaps a long way on": {packet{flags: ack, seq: 1}, packet{flags: ack, seq: later}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 100*flows) // no bucket gets more than its four
			r.sendOn(0, flows, packet{flags: syn})
			r.sendOn(0, flows, c.end)
			r.choose(1)
			r.sendOn(1, flows, c.next)
			went := map[uint16]int{}
			r.read(func(tables []*flow.Table) error {
				return flow.Sweep(tables, func(record *abi.FlowRecord) bool {
					if record.Value.Packets == 1 { // of CPU 1
						went[record.Value.Backend]++
					}
					return true
				})
			})
			if want := map[uint16]int{r.backends[c.backend].ID: flows}; !maps.Equal(went, want) {
				t.Errorf("flows went to backends %v, want %v", went, want)
			}
		})
	}
}
