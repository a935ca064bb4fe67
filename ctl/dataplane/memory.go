package dataplane

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// mapMemory maps the contents of an array made with BPF_F_MMAPABLE. Munmap it when done.
func mapMemory(m *ebpf.Map) ([]byte, error) {
	size := int(m.MaxEntries()) * int(m.ValueSize())
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("map memory of %s: %w", m, err)
	}
	return memory, nil
}

// linesOf shows memory of a table as its lines.
func linesOf(memory []byte) []abi.Line {
	return unsafe.Slice((*abi.Line)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/int(unsafe.Sizeof(abi.Line{})))
}

// lineBytes shows lines as the bytes they are.
func lineBytes(lines []abi.Line) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(lines))), len(lines)*int(unsafe.Sizeof(abi.Line{})))
}

// slotBytes does so for the slots of a ring.
func slotBytes(slots []uint16) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(slots))), len(slots)*2)
}

// control is the control map's one line, mapped. Programs read it while it is written, so every word is stored at
// once, and they see the stores in their order.
type control struct {
	memory []byte
	*abi.Control
}

func mapControl(m *ebpf.Map) (control, error) {
	memory, err := mapMemory(m)
	if err != nil {
		return control{}, err
	}
	c := control{memory, (*abi.Control)(unsafe.Pointer(unsafe.SliceData(memory)))}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return control{}, errors.Join(fmt.Errorf("count CPUs: %w", err), c.unmap())
	}
	atomic.StoreUint32(&c.FlowCpus, uint32(cpus))
	return c, nil
}

func (c control) unmap() error { return unix.Munmap(c.memory) }

func (c control) generation() uint32 { return atomic.LoadUint32(&c.Generation) }

// flip makes a generation the one that every hook of every interface uses from its next packet on.
func (c control) flip(generation uint32) { atomic.StoreUint32(&c.Generation, generation) }

// blockLengths is the word that has the bit of a prefix length, and that bit.
func (c control) blockLength(family abi.Family, bits int) (*uint64, uint64) {
	if family == abi.FamilyV4 {
		return &c.BlockLens4, 1 << bits
	}
	return &c.BlockLens6[bits/64], 1 << (bits % 64)
}
