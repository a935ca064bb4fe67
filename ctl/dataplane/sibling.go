package dataplane

import (
	"fmt"

	"gardu/ctl/abi"
)

// Sibling makes a private instance beside this one, with the same programs and trace on: rings, backends, interfaces, exits and
// health flows are shared, and the tables of connections and of translations, which it reads only; the generation in force and the blocks are those of this moment; counters and flows
// are its own, so that nothing it does is seen here. Close it.
func (d *Dataplane) Sibling() (_ *Dataplane, err error) {
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
	s.specs[abi.AbiMapBlocks].MaxEntries = uint32(max(privateBlocks, len(blocks)))
	s.specs[abi.AbiMapEvents].MaxEntries = privateEvents
	shared := mapSet{}
	for _, name := range []string{
		abi.AbiMapRings, abi.AbiMapBackends, abi.AbiMapInterfaces, abi.AbiMapHealthFlows, abi.AbiMapStates, abi.AbiMapNatEntries, abi.AbiMapNatLines,
		abi.AbiMapExits,
	} {
		shared[name] = d.maps[name]
	}
	if err := s.create(siblingFlows, shared); err != nil {
		return nil, err
	}
	s.control.HashKey = d.control.HashKey
	s.control.Health = d.control.Health
	if err := s.readStates(d); err != nil {
		return nil, err
	}
	if err := s.readNats(d); err != nil {
		return nil, err
	}
	if err := s.AddBlocks(blocks); err != nil {
		return nil, err
	}
	s.lengths = d.lengths
	if generation := d.control.generation(); generation != 0 {
		if err := s.copyGeneration(generation, d.slots[slot(generation)]); err != nil {
			return nil, err
		}
	}
	features := d.programs.features
	features.Trace = true
	if s.programs, err = s.loadPrograms(features); err != nil {
		return nil, err
	}
	return s, nil
}

// siblingFlows is how many flows a sibling has room for.
const siblingFlows = 1024

// copyGeneration puts the same inner maps into the sibling's own outer maps, where no later commit moves them.
func (d *Dataplane) copyGeneration(generation uint32, tables Tables) error {
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
