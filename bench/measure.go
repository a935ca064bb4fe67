package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// figure is what the rounds gave for one case, ns a packet.
type figure struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// subject is one line of the table: a program under test behind its generator.
type subject struct {
	scenario
	*generator
	counted func() (tally, error)                 // nil: the program doesn't count
	during  func() (stop func() error, err error) // what goes on beside the packets; nil: nothing
	release func() error                          // what else is to be freed; may be nil
	samples []float64
	hits    float64 // part of the packets that a rule dropped
	failed  error   // why it isn't measured
	six     bool    // its packets are IPv6
}

// tally is a program's own count, since ever.
type tally struct {
	packets uint64 // that left for an expected reason
	dropped uint64 // by a rule
}

// pin keeps the calling goroutine on one thread and one CPU, before other threads if the machine permits, and away from signals. It returns
// the CPU and whether the thread has real-time priority.
func pin() (cpu int, realtime bool, err error) {
	runtime.LockOSThread()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, false, fmt.Errorf("read the CPUs of this process: %w", err)
	}
	for cpu = len(set)*64 - 1; cpu > 0 && !set.IsSet(cpu); cpu-- {
	}
	set.Zero()
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return 0, false, fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	// A signal, like those by which the Go runtime preempts, would end a run early and make it be repeated.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return 0, false, fmt.Errorf("block signals: %w", err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	return cpu, unix.SchedSetAttr(0, &attr, 0) == nil, nil
}

// threadTime is the CPU time of the calling thread.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// sample sends n packets and returns ns a packet. It fails when the program did something else than measured.
func (s *subject) sample(n int) (ns float64, failed error) {
	if s.during != nil {
		stop, err := s.during()
		if err != nil {
			return 0, err
		}
		defer func() { failed = errors.Join(failed, stop()) }()
	}
	before, err := s.count()
	if err != nil {
		return 0, err
	}
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	action, err := s.send(n)
	if err != nil {
		return 0, err
	}
	end, err := threadTime()
	if err != nil {
		return 0, err
	}
	if action != s.action {
		return 0, fmt.Errorf("the last packet's action is %d, want %d", action, s.action)
	}
	after, err := s.count()
	if err != nil {
		return 0, err
	}
	if got := after.packets - before.packets; s.counted != nil && got != uint64(n) {
		return 0, fmt.Errorf("the program counted %d packets for the expected reasons, want %d", got, n)
	}
	s.hits = float64(after.dropped-before.dropped) / float64(n)
	return float64(end-start) / float64(n), nil
}

// passes is the smallest number of packets that is at least n and sends each of the subject's own equally often, so that
// the last packet of a sample is always the same one. A subject that says what a part is sends that.
func (s *subject) passes(n int) int {
	if s.part > 0 {
		return s.part
	}
	return (n + s.packets - 1) / s.packets * s.packets
}

func (s *subject) count() (tally, error) {
	if s.counted == nil {
		return tally{}, nil
	}
	return s.counted()
}

// measure runs every subject once a round, in random order, and keeps the samples with each. A sample is at least
// that many packets. A subject that fails is left out from then on, and says why. After the deadline no further round
// begins, but for the first five. It returns how many there were.
func measure(subjects []*subject, rounds, packets int, deadline time.Time, progress func(round int)) int {
	order := slices.Clone(subjects)
	try := func(n func(*subject) int, keep bool) {
		for _, s := range order {
			if s.failed != nil {
				continue
			}
			ns, err := s.sample(n(s))
			if s.failed = err; err == nil && keep {
				s.samples = append(s.samples, ns)
			}
		}
	}
	// Twice over all packets first: flows are known and caches are as full as they get. What is ever new needs no second time.
	try(func(s *subject) int {
		if s.part > 0 {
			return s.part
		}
		if s.packets > packets {
			return s.packets
		}
		return 2 * s.passes(packets/10)
	}, false)
	for round := range rounds {
		if round >= fewestRounds && time.Now().After(deadline) {
			return round
		}
		progress(round)
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		try(func(s *subject) int { return s.passes(packets) }, true)
	}
	return rounds
}

// fewestRounds are measured whatever the time.
const fewestRounds = 5

// figureOf sums samples up; there is at least one.
func figureOf(samples []float64) figure {
	sorted := slices.Sorted(slices.Values(samples))
	return figure{Median: sorted[len(sorted)/2], Min: sorted[0], Max: sorted[len(sorted)-1]}
}

// closeAll frees the subjects.
func closeAll(subjects []*subject) error {
	var errs []error
	for _, s := range subjects {
		if s.generator != nil {
			errs = append(errs, s.generator.close())
		}
		if s.release != nil {
			errs = append(errs, s.release())
		}
	}
	return errors.Join(errs...)
}
