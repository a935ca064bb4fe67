package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// mapSet is the maps of bpf/maps.h, by name.
type mapSet map[string]*ebpf.Map

func (m mapSet) close() {
	for _, one := range m {
		one.Close()
	}
}

// mapSpecs are the maps as this version of gardu has them.
func mapSpecs() (map[string]*ebpf.MapSpec, error) {
	spec, err := abi.LoadAbi()
	if err != nil {
		return nil, err
	}
	for name := range spec.Maps {
		if strings.HasPrefix(name, ".") { // constants
			delete(spec.Maps, name)
		}
	}
	return spec.Maps, nil
}

// createMaps makes every map that shared doesn't have yet, but for those of the tables; shared ones are cloned. On error
// nothing is left.
func createMaps(specs map[string]*ebpf.MapSpec, shared mapSet) (_ mapSet, err error) {
	created := mapSet{}
	defer func() {
		if err != nil {
			created.close()
		}
	}()
	// Side by side: what takes long is the kernel's first touch of the memory of large ones.
	var (
		running sync.WaitGroup
		mu      sync.Mutex // guards what follows, and created
		errs    []error
	)
	for name, spec := range specs {
		if slices.Contains(tableMaps[:], name) {
			continue
		}
		running.Go(func() {
			var m *ebpf.Map
			var err error
			if from, ok := shared[name]; ok {
				m, err = from.Clone()
			} else {
				m, err = ebpf.NewMap(spec)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, permission("create map "+name, err))
				return
			}
			created[name] = m
		})
	}
	running.Wait()
	if len(errs) > 0 {
		return nil, errs[0] // mostly all fail for the same reason
	}
	return created, nil
}

// openMaps opens what is pinned under dir. It returns nil when there is nothing yet: the control map is pinned last,
// so without it whatever else is there was left by a gardu that died while it began.
func openMaps(dir string, specs map[string]*ebpf.MapSpec) (_ mapSet, err error) {
	pinned := mapSet{}
	defer func() {
		if err != nil {
			pinned.close()
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, abi.AbiMapControl)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for name := range specs {
		if slices.Contains(tableMaps[:], name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, permission("open pinned map "+name, err)
		}
		pinned[name] = m
	}
	return pinned, nil
}

// pinMaps pins all maps by name, control last.
func pinMaps(dir string, all mapSet) error {
	for name, m := range all {
		if name == abi.AbiMapControl {
			continue
		}
		if err := repin(m, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return repin(all[abi.AbiMapControl], filepath.Join(dir, abi.AbiMapControl))
}

// repin pins a map at path instead of what is there. A map may be pinned at several paths.
func repin(m *ebpf.Map, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return permission("unpin "+path, err)
	}
	again, err := m.Clone() // a handle of its own: pinning one twice would move the pin
	if err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	defer again.Close()
	if err := again.Pin(path); err != nil {
		return permission("pin "+path, err)
	}
	return nil
}

// initialise writes what the control map holds from the start.
func (c control) initialise() error {
	var key [24]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("make the hash key: %w", err)
	}
	hz, err := hertz()
	if err != nil {
		return err
	}
	c.AbiVersion = uint32(abi.AbiVersion)
	c.HashKey = [2]uint64{binary.NativeEndian.Uint64(key[:8]), binary.NativeEndian.Uint64(key[8:])}
	c.NatKey = binary.NativeEndian.Uint64(key[16:])
	c.Hz = uint32(hz)
	c.LimitSpare = uint32(abi.LimitFewerBits)
	c.FlowGuard = uint32(flowGuard.Seconds()) * uint32(hz)
	return nil
}

// hertz is the number of jiffies a second: the coarse clocks of the kernel tick once a jiffy.
func hertz() (int, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the kernel's tick: %w", err)
	}
	return int((1e9 + tick.Nano()/2) / tick.Nano()), nil
}
