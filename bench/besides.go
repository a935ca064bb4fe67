package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// besidesBatch is how many packets the other CPU sends before it looks whether it is enough.
const besidesBatch = 20_000

// besides has another CPU send packets to a program while something is measured.
func besides(program *ebpf.Program, tuples []tuple) (during func() (stop func() error, err error), release func() error, err error) {
	g, err := newGenerator(tuples, options{})
	if err != nil {
		return nil, nil, err
	}
	if err := g.put(program); err != nil {
		return nil, nil, errors.Join(err, g.close())
	}
	during = func() (func() error, error) {
		var here, there unix.CPUSet
		if err := unix.SchedGetaffinity(0, &here); err != nil {
			return nil, fmt.Errorf("read the CPU of this thread: %w", err)
		}
		if runtime.NumCPU() < 2 {
			return nil, errors.New("there is no other CPU")
		}
		for cpu := range runtime.NumCPU() {
			if !here.IsSet(cpu) {
				there.Set(cpu)
				break
			}
		}
		var enough atomic.Bool
		began, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			err := unix.SchedSetaffinity(0, &there)
			for first := true; err == nil && !enough.Load(); first = false {
				if _, err = g.send(besidesBatch); first {
					close(began)
				}
			}
			ended <- err
		}()
		select {
		case <-began:
		case err := <-ended:
			return nil, fmt.Errorf("send packets on another CPU: %w", err)
		}
		return func() error {
			enough.Store(true)
			return <-ended
		}, nil
	}
	return during, g.close, nil
}
