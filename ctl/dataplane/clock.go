package dataplane

import (
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

func loadClockProgram() (*ebpf.Program, error) {
	spec, err := loadClock()
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(spec.Programs["gardu_clock"])
	if err != nil {
		return nil, permission("load program gardu_clock", err)
	}
	return program, nil
}

// Clock reads the kernel's jiffies and CLOCK_MONOTONIC at one moment, and how many jiffies a second has. Jiffies are those of a private
// instance's own clock, see Wait.
func (d *Dataplane) Clock() (now abi.Clock, hz int, err error) {
	if hz, err = hertz(); err != nil {
		return now, 0, err
	}
	if _, err = d.clock.Run(&ebpf.RunOptions{Context: &now, ContextOut: &now}); err != nil {
		return now, 0, fmt.Errorf("read the kernel's clocks: %w", err)
	}
	if still := atomic.LoadUint64(&d.control.Still); still != 0 {
		now.Jiffies = still
	}
	return now, hz, nil
}
