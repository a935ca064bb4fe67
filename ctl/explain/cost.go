package explain

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
)

const (
	costRounds  = 9 // of which the median counts
	costRepeats = 1000
	costSingles = 301
	costTries   = 3 // of them

	tareRounds  = 63
	tareRepeats = 100

	which = "the same program without trace, beside the live one"
)

// Cost measures the packet of a question on a private instance whose programs have no trace, in which the same is in force and as much
// is known of flows. answer is what became of the packet. A program can run many times in a row on a packet that it leaves as it was
// and whose flow it knows; what a new flow takes, and a new header, shows in single runs only.
func Cost(plane *dataplane.Dataplane, q Question, answer Answer) (*api.PacketCost, error) {
	release, err := dataplane.OneCPU()
	if err != nil {
		return nil, err
	}
	defer release()
	s := weighing{plane: plane, q: q, key: answer.Trace.Flow, known: answer.Flow != nil || q.WithFlow}
	if answer.Flow != nil {
		if _, _, err := plane.RecallFlow(s.key); err != nil {
			return nil, err
		}
		if usedNat(answer.Trace) {
			return &api.PacketCost{How: "not measured: its translation is in the live tables, which nothing else may touch"}, nil
		}
	}
	result, err := plane.Run(q.Hook, q.Frame, q.Ifindex)
	if err != nil {
		return nil, err
	}
	var cost *api.PacketCost
	if s.known && bytes.Equal(result.Frame, q.Frame) {
		cost, err = s.many()
	} else {
		cost, err = s.single()
	}
	if err == nil && (result.Action != answer.Action || len(result.Frame) != len(answer.Frame) || s.last != answer.Action) {
		return &api.PacketCost{How: "not measured: sent again and again, the packet fares otherwise (a limit, or a connection)"}, nil
	}
	return cost, err
}

func usedNat(trace abi.Trace) bool {
	steps := trace.Step[:min(trace.Steps, uint32(len(trace.Step)))]
	return slices.ContainsFunc(steps, func(s abi.TraceStep) bool { return abi.Step(s.Step) == abi.StepNat })
}

// weighing is one packet that is measured.
type weighing struct {
	plane *dataplane.Dataplane
	q     Question
	key   abi.FlowKey
	known bool
	last  uint32 // what the program returned
}

// many runs the program and an empty one by turns, many times each.
func (w *weighing) many() (*api.PacketCost, error) {
	var took, empty []float64
	for range costRounds {
		ns, err := w.time(costRepeats)
		if err != nil {
			return nil, err
		}
		took = append(took, ns)
		if empty, err = w.timeEmpty(empty); err != nil {
			return nil, err
		}
	}
	floor := Median(empty)
	return &api.PacketCost{Ns: max(0, Median(took)-floor), Empty: floor, Runs: costRounds * costRepeats,
		How: fmt.Sprintf("as a packet of a known flow: median of %d times %d runs of %s, less an empty one's %.0f ns", costRounds, costRepeats, which, floor)}, nil
}

// single measures single runs, and again when the machine was too busy for them.
func (w *weighing) single() (cost *api.PacketCost, err error) {
	for range costTries {
		if cost, err = w.singles(); err != nil || cost.Runs > 0 {
			break
		}
	}
	return cost, err
}

// singles runs the program one time and again, and takes off what a single run takes by itself.
func (w *weighing) singles() (*api.PacketCost, error) {
	var took, empty []float64
	for i := range costSingles {
		if !w.known {
			w.plane.ForgetFlow(w.key)
		}
		ns, err := w.time(1)
		if err != nil {
			return nil, err
		}
		took = append(took, ns)
		if i%(costSingles/costRounds) == 0 {
			if empty, err = w.timeEmpty(empty); err != nil {
				return nil, err
			}
		}
	}
	tare, err := Tare(w.plane, w.q.Hook, w.q.Ifindex)
	if err != nil {
		return nil, err
	}
	floor := Median(empty)
	ns := Median(took) - tare - floor
	if ns <= 0 {
		return &api.PacketCost{Empty: floor, How: "not measured: a run took no longer than one of nothing; the machine is too busy to tell"}, nil
	}
	what := "a packet of a known flow"
	if !w.known {
		what = "the first packet of a flow"
	}
	return &api.PacketCost{Ns: ns, Empty: floor, Runs: costSingles,
		How: fmt.Sprintf("as %s: median of %d single runs of %s, less the %.0f ns that a run takes by itself and an empty one's %.0f",
			what, costSingles, which, tare, floor)}, nil
}

func (w *weighing) time(repeat int) (float64, error) {
	last, took, err := w.plane.Timing(w.q.Hook, w.q.Frame, w.q.Ifindex, repeat)
	w.last = last
	return nanoseconds(took), err
}

func (w *weighing) timeEmpty(all []float64) ([]float64, error) {
	took, err := w.plane.TimingEmpty(w.q.Hook, w.q.Frame, w.q.Ifindex, costRepeats)
	return append(all, nanoseconds(took)), err
}

// Tare is what a single run takes more than one of many: an ARP request is left alone, so it can be both.
func Tare(plane *dataplane.Dataplane, hook dataplane.Hook, ifindex int) (float64, error) {
	arp := make([]byte, 64)
	copy(arp[12:], []byte{0x08, 0x06})
	var single, many []float64
	for range tareRounds {
		for repeats, to := range map[int]*[]float64{1: &single, tareRepeats: &many} {
			_, took, err := plane.Timing(hook, arp, ifindex, repeats)
			if err != nil {
				return 0, err
			}
			*to = append(*to, nanoseconds(took))
		}
	}
	return Median(single) - Median(many), nil
}

func nanoseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) }

// Median sorts values, of which there is at least one, and returns the middle one: the upper of two.
func Median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
