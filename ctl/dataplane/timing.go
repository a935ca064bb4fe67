package dataplane

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// Timing runs a program of a private instance on a frame so many times, and tells what it returned last and how long one run took. The
// frame isn't restored between runs: of frames that get longer, only one run at a time means anything.
func (d *Dataplane) Timing(hook Hook, frame []byte, ifindex, repeat int) (action uint32, took time.Duration, err error) {
	if d.dir != "" {
		return 0, 0, errors.New("time a frame: not on the live data plane, which it would change; use Try")
	}
	program, err := d.Program(hook)
	if err != nil {
		return 0, 0, err
	}
	return d.timing(program, hook, frame, ifindex, repeat)
}

// TimingEmpty is Timing of a program that lets everything pass, without a look at it.
func (d *Dataplane) TimingEmpty(hook Hook, frame []byte, ifindex, repeat int) (time.Duration, error) {
	d.mu.Lock()
	empty, err := d.run.emptyFor(hook)
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	_, took, err := d.timing(empty, hook, frame, ifindex, repeat)
	return took, err
}

func (d *Dataplane) timing(program *ebpf.Program, hook Hook, frame []byte, ifindex, repeat int) (uint32, time.Duration, error) {
	d.run.Lock()
	defer d.run.Unlock()
	if err := d.run.begin(d.maps[abi.AbiMapTrace]); err != nil {
		return 0, 0, err
	}
	result, _, err := d.run.at(hook, program, frame, ifindex, repeat)
	for range 10 { // a signal ends many runs in a row
		if !errors.Is(err, unix.EINTR) {
			break
		}
		result, _, err = d.run.at(hook, program, frame, ifindex, repeat)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("time a frame of %d bytes: %w", len(frame), err)
	}
	return result, time.Duration(d.run.attr.duration), nil
}

// emptyFor loads the empty program of a hook, once.
func (t *testRun) emptyFor(hook Hook) (*ebpf.Program, error) {
	kind, passes := ebpf.SchedCLS, int32(0) // TC_ACT_OK
	if hook == HookXDP {
		kind, passes = ebpf.XDP, 2 // XDP_PASS
	}
	if t.empty[kind] != nil {
		return t.empty[kind], nil
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "gardu_empty", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, passes), asm.Return()}})
	if err != nil {
		return nil, fmt.Errorf("load an empty program: %w", err)
	}
	if t.empty == nil {
		t.empty = map[ebpf.ProgramType]*ebpf.Program{}
	}
	t.empty[kind] = program
	return program, nil
}
