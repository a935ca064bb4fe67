package dataplane

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	r := newRig(t, 10*flows)
	on := func(cpu int, flags uint8) {
		t.Helper()
		var done sync.WaitGroup
		done.Go(func() {
			pin(t, cpu)
			g := newGenerator(t, program(t, r.Dataplane, HookXDP))
			for i := range uint32(flows) {
				g.send(t, []packet{{flow: i, flags: flags}})
			}
		})
		done.Wait()
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
