package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// generator sends the packets of one case to the program under test, in a loop.
type generator struct {
	own     map[string]*ebpf.Program // the programs of bench.c, by name
	table   *ebpf.Map                // of packets
	subject *ebpf.Map                // what is tail-called
	frame   []byte
	packets int
}

// newGenerator loads a generator that sends tuples in order and then again, to nobody yet.
func newGenerator(tuples []tuple) (g *generator, err error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	frame := tuples[0].frame()
	var words [frameBytes / 8]uint64
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(frame[i*8:])
	}
	spec.Maps[benchMapPackets].MaxEntries = uint32(len(tuples))
	for name, value := range map[string]any{
		benchVarFrame:       words,
		benchVarPacketCount: uint32(len(tuples)),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s of the generator: %w", name, err)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the generator: %w", err)
	}
	defer collection.Close()
	g = &generator{
		own:     map[string]*ebpf.Program{},
		table:   collection.DetachMap(benchMapPackets),
		subject: collection.DetachMap(benchMapSubject),
		frame:   frame,
		packets: len(tuples),
	}
	for name := range collection.Programs {
		g.own[name] = collection.DetachProgram(name)
	}
	if err := g.fill(tuples); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// put sets the program under test.
func (g *generator) put(subject *ebpf.Program) error {
	if err := g.subject.Put(uint32(0), subject); err != nil {
		return fmt.Errorf("put the program under test behind the generator: %w", err)
	}
	return nil
}

// fill writes the packet table.
func (g *generator) fill(tuples []tuple) error {
	keys, packets := make([]uint32, len(tuples)), make([]benchPacket, len(tuples))
	for i, t := range tuples {
		keys[i], packets[i] = uint32(i), t.packet()
	}
	if _, err := g.table.BatchUpdate(keys, packets, nil); err != nil {
		return fmt.Errorf("write %d packets for the generator: %w", len(tuples), err)
	}
	return nil
}

// send runs n packets and returns the action of the last one.
func (g *generator) send(n int) (action uint32, err error) {
	if n <= 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("send %d packets: out of range", n)
	}
	action, err = g.own[benchProgGenerate].Run(&ebpf.RunOptions{Data: g.frame, Repeat: uint32(n)})
	if err != nil {
		return 0, fmt.Errorf("run the generator: %w", err)
	}
	return action, nil
}

func (g *generator) close() error {
	errs := []error{g.table.Close(), g.subject.Close()}
	for _, program := range g.own {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
