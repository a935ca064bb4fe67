package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// Assumption is what a sibling takes for true though it isn't.
type Assumption struct {
	NoFlows bool          // nothing is known of flows, connections, translations and fragments
	Later   time.Duration // so much time has passed: it has the blocks that are left then
}

// Sibling makes a private instance beside this one, with the same programs and trace on: rings, backends, interfaces, exits and
// health flows are shared, and the tables of connections and of translations, which it reads only; the generation in force and the blocks are those of this moment; counters and flows
// are its own, so that nothing it does is seen here. What is known of a flow here it recalls when it is told to, see RecallFlow. Close it before this one.
func (d *Dataplane) Sibling() (*Dataplane, error) { return d.sibling(nil, Assumption{}) }

// SiblingIf makes a Sibling that takes something for true besides.
func (d *Dataplane) SiblingIf(a Assumption) (*Dataplane, error) { return d.sibling(nil, a) }

// Trial is a generation to be tried out beside the one in force.
type Trial struct {
	Features   compile.Features
	Tables     [abi.TableCount][]abi.Line // nil: the one in force
	Rings      map[uint32][]uint16
	Backends   map[uint16]abi.Backend
	Interfaces map[int]abi.Interface
	Exits      map[uint16]abi.Exit

	Later time.Duration // as in Assumption
	Alone bool          // without trace, and without the tables of connections and of translations: to measure what it takes
}

// Try makes a Sibling in which another generation is in force, with its own rings, backends, interfaces and exits.
func (d *Dataplane) Try(trial Trial) (*Dataplane, error) {
	return d.sibling(&trial, Assumption{Later: trial.Later})
}

func (d *Dataplane) sibling(trial *Trial, a Assumption) (_ *Dataplane, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := prepare(Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	blocks, err := d.Blocks()
	if err != nil {
		return nil, err
	}
	then := time.Now().Add(a.Later)
	blocks = slices.DeleteFunc(blocks, func(b Block) bool { return a.Later > 0 && !b.Expires.IsZero() && !b.Expires.After(then) })
	s.specs[abi.AbiMapBlocks].MaxEntries = uint32(max(privateBlocks, len(blocks)))
	s.specs[abi.AbiMapEvents].MaxEntries = privateEvents
	shared := d.sharedWith(trial)
	if a.NoFlows {
		s.nats.max = siblingFlows
		for _, name := range []string{abi.AbiMapStates, abi.AbiMapNatEntries, abi.AbiMapNatLines} {
			delete(shared, name)
		}
	}
	if err := s.create(siblingFlows, lruSize(siblingFlows), shared, func() error { return nil }); err != nil {
		return nil, err
	}
	s.control.HashKey = d.control.HashKey
	s.control.Health = d.control.Health
	alone := trial != nil && trial.Alone
	if !a.NoFlows && !alone {
		if err := errors.Join(s.readStates(d), s.readNats(d)); err != nil {
			return nil, err
		}
	}
	if err := s.AddBlocks(blocks); err != nil {
		return nil, err
	}
	features := d.programs.features
	if trial == nil {
		if !a.NoFlows {
			s.origin = d
			if err := s.readFragments(d); err != nil {
				return nil, err
			}
		}
		s.lengths = d.lengths
		err = s.copyGeneration(d.control.generation(), d.slots)
	} else {
		features = trial.Features
		if alone {
			s.origin = d
		}
		err = s.tryGeneration(d, trial)
	}
	if err != nil {
		return nil, err
	}
	features.Trace, features.Capture = !alone, false
	if s.programs, err = s.loadPrograms(features, Tables{}); err != nil {
		return nil, err
	}
	return s, nil
}

// sharedWith are the maps that a sibling has in common with d.
func (d *Dataplane) sharedWith(trial *Trial) mapSet {
	names := []string{abi.AbiMapHealthFlows}
	if trial == nil {
		names = append(names, abi.AbiMapRings, abi.AbiMapBackends, abi.AbiMapInterfaces, abi.AbiMapExits)
	}
	if trial != nil && trial.Alone {
		return nil
	}
	// A trial that is the first to need one of these tables makes its own, which nobody else may find.
	if trial == nil || d.states.array != nil {
		names = append(names, abi.AbiMapStates)
	}
	if trial == nil || d.nats.entries != nil {
		names = append(names, abi.AbiMapNatEntries, abi.AbiMapNatLines)
	}
	shared := mapSet{}
	for _, name := range names {
		shared[name] = d.maps[name]
	}
	return shared
}

// tryGeneration puts a trial in force on s, a sibling of d without programs.
func (s *Dataplane) tryGeneration(d *Dataplane, trial *Trial) error {
	s.dropped.max, s.nats.max = privateDropped, siblingFlows
	if d.states.array == nil && d.nats.entries == nil { // then it writes to tables of its own only
		s.control.StateFrozen = 0
	}
	var tables Tables
	for which := range abi.TableCount {
		table, err := s.tryTable(d, which, trial.Tables[which])
		if err != nil {
			return err
		}
		tables[which] = table
	}
	if err := s.Commit(1, tables); err != nil {
		return err
	}
	var errs []error
	for id, backend := range trial.Backends {
		errs = append(errs, s.PutBackend(id, backend))
	}
	for id, slots := range trial.Rings {
		errs = append(errs, s.PutRing(id, slots))
	}
	for ifindex, facts := range trial.Interfaces {
		errs = append(errs, s.SetInterface(ifindex, facts))
	}
	for id, exit := range trial.Exits {
		errs = append(errs, s.PutExit(id, exit))
	}
	return errors.Join(errs...)
}

// tryTable makes a table of these lines, or without any gives s the one in force in d.
func (s *Dataplane) tryTable(d *Dataplane, which abi.Table, lines []abi.Line) (*Table, error) {
	generation := d.control.generation()
	if lines != nil || generation == 0 || d.slots[slot(generation)][which] == nil {
		return s.newTable(which, lines)
	}
	table := d.slots[slot(generation)][which]
	array, err := table.array.Clone()
	if err != nil {
		return nil, fmt.Errorf("copy a table of generation %d: %w", generation, err)
	}
	return &Table{array, table.lines}, nil
}

// siblingFlows is how many flows a sibling has room for.
const siblingFlows = 1024

// copyGeneration puts the same inner maps into the sibling's own outer maps, where no later commit moves them.
func (d *Dataplane) copyGeneration(generation uint32, slots [abi.GenerationSlots]Tables) error {
	if generation == 0 {
		return nil
	}
	tables := slots[slot(generation)]
	for which, table := range tables {
		if table == nil {
			return fmt.Errorf("copy generation %d: its tables are unknown", generation)
		}
		array, err := table.array.Clone()
		if err != nil {
			return fmt.Errorf("copy generation %d: %w", generation, err)
		}
		tables[which] = &Table{array, table.lines}
	}
	return d.Commit(generation, tables)
}
