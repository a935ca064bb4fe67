package dataplane

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// Table is one immutable table of a generation, in the kernel. Generations that don't differ in it share it.
type Table struct {
	array *ebpf.Map
}

// Tables are those of one generation, by abi.Table. nil: the snapshot says nothing about it.
type Tables [abi.TableCount]*Table

// NewTable puts lines into the kernel. Commit takes it over; one that is never committed is freed by Close.
func (d *Dataplane) NewTable(lines []abi.Line) (*Table, error) {
	array, err := newLines(d.specs[abi.AbiMapTables].InnerMap, lineBytes(lines))
	if err != nil {
		return nil, fmt.Errorf("make a table of %d lines: %w", len(lines), err)
	}
	return &Table{array}, nil
}

// Lines is the number of lines.
func (t *Table) Lines() int { return int(t.array.MaxEntries()) }

// Close frees a table that was never committed.
func (t *Table) Close() error { return t.array.Close() }

// head reads line 0; all zeros of an absent table.
func (t *Table) head() (line abi.Line, err error) {
	if t == nil {
		return line, nil
	}
	if err := t.array.Lookup(uint32(0), &line); err != nil {
		return line, fmt.Errorf("read the head of a table: %w", err)
	}
	return line, nil
}

// newLines makes an inner array of lines, at least one, and copies content into it.
func newLines(spec *ebpf.MapSpec, content []byte) (*ebpf.Map, error) {
	spec = spec.Copy()
	spec.MaxEntries = max(1, uint32((len(content)+int(spec.ValueSize)-1)/int(spec.ValueSize)))
	array, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, permission("create map "+spec.Name, err)
	}
	if len(content) == 0 {
		return array, nil
	}
	memory, err := mapMemory(array)
	if err != nil {
		array.Close()
		return nil, err
	}
	copy(memory, content)
	if err := unix.Munmap(memory); err != nil {
		array.Close()
		return nil, fmt.Errorf("unmap a table: %w", err)
	}
	return array, nil
}

// Current is the generation in force and its tables; 0 when nothing was committed yet, and then packets pass.
func (d *Dataplane) Current() (generation uint32, tables Tables) {
	d.mu.Lock()
	defer d.mu.Unlock()
	generation = d.control.generation()
	if generation != 0 {
		tables = d.slots[slot(generation)]
	}
	return generation, tables
}

// Previous is the generation before the one in force, kept so that committing its tables again is all that a return to it
// takes; 0 when there is none.
func (d *Dataplane) Previous() (generation uint32, tables Tables) {
	d.mu.Lock()
	defer d.mu.Unlock()
	current := d.control.generation()
	if current <= 1 {
		return 0, tables
	}
	tables = d.slots[slot(current-1)]
	if tables == (Tables{}) {
		return 0, tables
	}
	return current - 1, tables
}

func slot(generation uint32) uint32 { return generation % uint32(abi.GenerationSlots) }

// Commit puts tables in force as a generation, on all hooks with one store: a packet sees the old one or the new
// one at a hook, never a mixture. generation is one more than the current one (after 0 any will do), so that the
// previous one keeps its slot. The Dataplane owns the tables from then on, and frees those that no slot holds any more. On
// error the generation in force is as it was.
func (d *Dataplane) Commit(generation uint32, tables Tables) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	current := d.control.generation()
	if generation == 0 || current != 0 && generation != current+1 {
		return fmt.Errorf("commit generation %d: the current one is %d", generation, current)
	}
	slot := slot(generation)
	for which := range abi.TableCount {
		if tables[which] == nil {
			absent, err := d.NewTable(nil)
			if err != nil {
				return err
			}
			tables[which] = absent
		}
		if err := d.fillSlot(slot, which, tables[which]); err != nil {
			return fmt.Errorf("commit generation %d: %w", generation, err)
		}
	}
	displaced := d.slots[slot]
	d.slots[slot] = tables
	d.control.flip(generation)
	return d.dropTables(displaced)
}

// fillSlot puts one table into the outer map and pins it, so that the next daemon finds it.
func (d *Dataplane) fillSlot(slot uint32, which abi.Table, table *Table) error {
	if err := d.maps[abi.AbiMapTables].Put(slot*uint32(abi.TableCount)+uint32(which), table.array); err != nil {
		return fmt.Errorf("put table %d into slot %d: %w", which, slot, err)
	}
	if d.dir == "" {
		return nil
	}
	return repin(table.array, d.tablePath(slot, which))
}

func (d *Dataplane) tablePath(slot uint32, which abi.Table) string {
	return d.path(tablesDir, fmt.Sprintf("%d-%d", slot, which))
}

// dropTables closes those tables that no slot holds.
func (d *Dataplane) dropTables(tables Tables) error {
	held := map[*Table]bool{nil: true}
	for _, slot := range d.slots {
		for _, table := range slot {
			held[table] = true
		}
	}
	var errs []error
	for _, table := range tables {
		if !held[table] {
			held[table] = true
			errs = append(errs, table.Close())
		}
	}
	return errors.Join(errs...)
}

// openTables opens the pinned tables of all slots.
func (d *Dataplane) openTables() error {
	for slot := range d.slots {
		for which := range abi.TableCount {
			array, err := ebpf.LoadPinnedMap(d.tablePath(uint32(slot), which), nil)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return permission("open a pinned table", err)
			}
			d.slots[slot][which] = &Table{array}
		}
	}
	return nil
}

func (d *Dataplane) closeTables() error {
	var errs []error
	for i, tables := range d.slots {
		d.slots[i] = Tables{}
		errs = append(errs, d.dropTables(tables))
	}
	return errors.Join(errs...)
}

// rulesHead and servicesHead read line 0 of their tables as what it is.
func (t Tables) rulesHead() (abi.RulesHead, error) {
	line, err := t[abi.TableRules].head()
	return abi.FromLine[abi.RulesHead](line), err
}

func (t Tables) servicesHead() (abi.ServicesHead, error) {
	line, err := t[abi.TableServices].head()
	return abi.FromLine[abi.ServicesHead](line), err
}
