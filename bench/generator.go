package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// generator sends the packets of one case to the program under test, in a loop.
type generator struct {
	own     map[string]*ebpf.Program // the programs of bench.c, by name
	entry   *ebpf.Program            // the one that generates, for the family of the packets
	subject *ebpf.Map                // what is tail-called
	sources *ebpf.Map                // addresses that tc_set looks for
	came    *ebpf.Variable           // packets that came to tc_drop and tc_set
	frame   []byte
	packets int
}

// options are what differs between generators. The zero value is right for gardu's own programs.
type options struct {
	programs []string // of bench.c or parse.c that are wanted besides the one that generates
	noFrags  bool     // the program under test can't do multi-buffer packets: a tail call wants the same on both sides
	sendTo   int      // the interface that the program "send" sends on
	length   int      // bytes of a frame; 0: the shortest
	records  int      // a power of two: entries of the table of the program "floor_record"; 0: as good as none
}

// newGenerator loads a generator that sends tuples in order and then again, to nobody yet. They are of one family.
func newGenerator(tuples []tuple, o options) (g *generator, err error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	frame := tuples[0].framed(o.length)
	var words [frame6Bytes / 8]uint64
	for i := range min(len(words), len(frame)/8) {
		words[i] = binary.NativeEndian.Uint64(frame[i*8:])
	}
	entry, table := benchProgGenerate, benchMapPackets
	if tuples[0].src.Is6() {
		entry, table = benchProgGenerate6, benchMapPackets6
	}
	spec.Maps[table].MaxEntries = uint32(len(tuples))
	spec.Maps[benchMapRecords].MaxEntries = uint32(max(1, o.records))
	for name, value := range map[string]any{
		benchVarRecordMask:  uint32(max(1, o.records) - 1),
		benchVarFrame:       words,
		benchVarFrameLength: uint32(len(frame)),
		benchVarPacketCount: uint32(len(tuples)),
		benchVarSendTo:      uint32(o.sendTo),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s of the generator: %w", name, err)
		}
	}
	if o.noFrags {
		for _, program := range spec.Programs {
			program.Flags &^= unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	for name := range spec.Programs { // loading takes time
		if name != entry && !slices.Contains(o.programs, name) {
			delete(spec.Programs, name)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the generator: %w", err)
	}
	defer collection.Close()
	g = &generator{own: map[string]*ebpf.Program{}, subject: collection.DetachMap(benchMapSubject),
		sources: collection.DetachMap(benchMapSources), came: collection.Variables[benchVarCame], frame: frame, packets: len(tuples)}
	for name := range collection.Programs {
		g.own[name] = collection.DetachProgram(name)
	}
	if slices.Contains(o.programs, parseProgram) {
		if g.own[parseProgram], err = loadParser(); err != nil {
			return nil, errors.Join(err, g.close())
		}
	}
	g.entry = g.own[entry]
	if err := fillTable(collection.Maps[table], tuples, o.length); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// parseProgram is that of parse.c.
const parseProgram = "parse_only"

func loadParser() (*ebpf.Program, error) {
	spec, err := loadParse()
	if err != nil {
		return nil, err
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the parser: %w", err)
	}
	defer collection.Close()
	return collection.DetachProgram(parseProgram), nil
}

// put sets the program under test.
func (g *generator) put(subject *ebpf.Program) error {
	if err := g.subject.Put(uint32(0), subject); err != nil {
		return fmt.Errorf("put the program under test behind the generator: %w", err)
	}
	return nil
}

// fillTable writes a packet table.
func fillTable(table *ebpf.Map, tuples []tuple, length int) error {
	keys := make([]uint32, len(tuples))
	for i := range keys {
		keys[i] = uint32(i)
	}
	var err error
	if tuples[0].src.Is6() {
		_, err = table.BatchUpdate(keys, each(tuples, length, tuple.packet6), nil)
	} else {
		_, err = table.BatchUpdate(keys, each(tuples, length, tuple.packet), nil)
	}
	if err != nil {
		return fmt.Errorf("write %d packets for the generator: %w", len(tuples), err)
	}
	return nil
}

func each[T any](tuples []tuple, length int, f func(tuple, int) T) []T {
	all := make([]T, len(tuples))
	for i, t := range tuples {
		all[i] = f(t, length)
	}
	return all
}

// send runs n packets and returns the action of the last one.
func (g *generator) send(n int) (action uint32, err error) {
	if n <= 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("send %d packets: out of range", n)
	}
	action, err = g.entry.Run(&ebpf.RunOptions{Data: g.frame, Repeat: uint32(n)})
	if err != nil {
		return 0, fmt.Errorf("run the generator: %w", err)
	}
	return action, nil
}

func (g *generator) close() error {
	errs := []error{g.subject.Close(), g.sources.Close()}
	for _, program := range g.own {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
