package dataplane

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// Table is one immutable table of a generation, in the kernel. Generations that don't differ in it share it.
type Table struct {
	array *ebpf.Map
	lines int // in use; the array is as long as all of its kind
}

// Tables are those of one generation, by abi.Table. nil: the snapshot says nothing about it.
type Tables [abi.TableCount]*Table

// NewTable puts lines into the kernel. Commit takes it over; one that is never committed is freed by Close. When the
// tables of that kind have become too short for it, or far too long, it has the length that Prepare or Commit will give all of them.
func (d *Dataplane) NewTable(which abi.Table, lines []abi.Line) (*Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.newTable(which, lines)
}

func (d *Dataplane) newTable(which abi.Table, lines []abi.Line) (*Table, error) {
	array, err := newLines(d.specs[tableMaps[which]].InnerMap, d.nextLength(which, len(lines)), lineBytes(lines))
	if err != nil {
		return nil, fmt.Errorf("make a table of %d lines: %w", len(lines), err)
	}
	return &Table{array, len(lines)}, nil
}

const (
	// minLength is the least length of tables, in lines.
	minLength = 64
	// wasteful is how many times too long tables may be.
	wasteful = 8
)

// lengthFor is the length that tables of a kind need when one of so many lines comes.
func (d *Dataplane) lengthFor(which abi.Table, lines int) uint32 {
	most := max(minLength, lines)
	for _, tables := range d.slots {
		if table := tables[which]; table != nil {
			most = max(most, table.lines)
		}
	}
	return 1 << bits.Len(uint(most-1))
}

// nextLength is the length that tables of a kind will have when one of so many lines comes: another one only if they are too short, or
// far too long.
func (d *Dataplane) nextLength(which abi.Table, lines int) uint32 {
	want, now := d.lengthFor(which, lines), d.lengths[which]
	if want > now || want*wasteful < now {
		return want
	}
	return now
}

// lengthsFor are the lengths that all kinds will have when tables of so many lines come (0: none does).
func (d *Dataplane) lengthsFor(lines [abi.TableCount]int) [abi.TableCount]uint32 {
	lengths := d.lengths
	for which, n := range lines {
		if n > 0 {
			lengths[which] = d.nextLength(abi.Table(which), n)
		}
	}
	return lengths
}

// lengthsOf are the lengths that all kinds will have with these tables (nil: it stays).
func (d *Dataplane) lengthsOf(tables Tables) [abi.TableCount]uint32 {
	lengths := d.lengths
	for which, table := range tables {
		if table != nil {
			lengths[which] = table.array.MaxEntries()
		}
	}
	return lengths
}

// setLengths copies the tables into arrays of other lengths and swaps in programs made for these and for features, which find next where
// the next generation will be. On error all is as it was.
func (d *Dataplane) setLengths(lengths [abi.TableCount]uint32, features compile.Features, next Tables) (err error) {
	before := map[*Table]*ebpf.Map{}
	was := d.lengths
	d.lengths = lengths
	defer func() {
		if err == nil {
			for _, array := range before {
				err = errors.Join(err, array.Close())
			}
			return
		}
		d.lengths = was
		for table, array := range before {
			table.array.Close()
			table.array = array
		}
	}()
	for _, tables := range d.slots {
		for which, table := range tables {
			if table == nil || before[table] != nil || table.array.MaxEntries() == lengths[which] {
				continue
			}
			array, err := d.copyLines(abi.Table(which), table)
			if err != nil {
				return err
			}
			before[table], table.array = table.array, array
		}
	}
	if d.programs == nil {
		return nil // they are loaded next
	}
	if err := d.swapPrograms(features, next); err != nil {
		return err
	}
	for slot, tables := range d.slots {
		for which, table := range tables {
			if before[table] == nil {
				continue
			}
			if err := d.pinTable(uint32(slot), abi.Table(which), table); err != nil {
				d.log.Warn("a table stays pinned in its old length as well", "error", err)
			}
		}
	}
	return nil
}

// copyLines makes an array of the kind's length with the lines of a table.
func (d *Dataplane) copyLines(which abi.Table, table *Table) (*ebpf.Map, error) {
	memory, err := mapMemory(table.array)
	if err != nil {
		return nil, err
	}
	array, err := newLines(d.specs[tableMaps[which]].InnerMap, d.lengths[which], memory[:table.lines*int(table.array.ValueSize())])
	return array, errors.Join(err, unix.Munmap(memory))
}

// tableMaps names the outer map of each kind of table.
var tableMaps = [abi.TableCount]string{
	abi.TableSets:     abi.AbiMapTablesSets,
	abi.TableRules:    abi.AbiMapTablesRules,
	abi.TableServices: abi.AbiMapTablesServices,
}

// newOuters makes the outer maps for one load of the programs, for tables of these lengths.
func (d *Dataplane) newOuters(lengths [abi.TableCount]uint32) (mapSet, error) {
	outers := mapSet{}
	for which, name := range tableMaps {
		spec := d.specs[name].Copy()
		spec.InnerMap.MaxEntries = lengths[which]
		outer, err := ebpf.NewMap(spec)
		if err != nil {
			outers.close()
			return nil, permission("create map "+name, err)
		}
		outers[name] = outer
	}
	return outers, nil
}

// fillOuters puts the tables of all slots into outer maps, and next where the next generation will be; none of it needs to wait for the
// other.
func (d *Dataplane) fillOuters(outers mapSet, next Tables) (fill []func() error) {
	slots := d.slots
	for which, table := range next {
		if table != nil {
			slots[d.nextSlot()][which] = table
		}
	}
	for slot, tables := range slots {
		for which, table := range tables {
			if table != nil {
				fill = append(fill, func() error { return putTable(outers[tableMaps[which]], uint32(slot), abi.Table(which), table) })
			}
		}
	}
	return fill
}

func putTable(outer *ebpf.Map, slot uint32, which abi.Table, table *Table) error {
	if err := outer.Put(slot, table.array); err != nil {
		return fmt.Errorf("put table %d into slot %d: %w", which, slot, err)
	}
	return nil
}

// sideBySide does all at once, each of which puts a map into another one: the kernel then waits for the programs that run (an RCU grace period,
// which takes milliseconds and can be the same one for all), also if none of them knows the map.
func sideBySide(all ...func() error) error {
	errs := make([]error, len(all))
	var running sync.WaitGroup
	for i, one := range all {
		running.Go(func() { errs[i] = one() })
	}
	running.Wait()
	return errors.Join(errs...)
}

// Lines is the number of lines.
func (t *Table) Lines() int { return t.lines }

// Close frees a table that was never committed.
func (t *Table) Close() error { return t.array.Close() }

// newLines makes an inner array of so many lines and copies content to its beginning.
func newLines(spec *ebpf.MapSpec, length uint32, content []byte) (*ebpf.Map, error) {
	spec = spec.Copy()
	spec.MaxEntries = length
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
	if len(content) > len(memory) {
		err = fmt.Errorf("%d bytes do not fit into %d lines", len(content), length)
	}
	copy(memory, content)
	if err := errors.Join(err, unix.Munmap(memory)); err != nil {
		array.Close()
		return nil, err
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

// nextSlot is where the next generation will be, if it is one more than the current one.
func (d *Dataplane) nextSlot() uint32 { return slot(d.control.generation() + 1) }

func slot(generation uint32) uint32 { return generation % uint32(abi.GenerationSlots) }

// Lines reads a table of the generation in force back from the kernel; nil when there is none.
func (d *Dataplane) Lines(which abi.Table) ([]abi.Line, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	generation := d.control.generation()
	if generation == 0 || d.slots[slot(generation)][which] == nil {
		return nil, nil
	}
	table := d.slots[slot(generation)][which]
	memory, err := mapMemory(table.array)
	if err != nil {
		return nil, err
	}
	lines := make([]abi.Line, table.lines)
	copy(lineBytes(lines), memory)
	return lines, unix.Munmap(memory)
}

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
			absent, err := d.newTable(which, nil)
			if err != nil {
				return err
			}
			tables[which] = absent
		}
	}
	if lengths := d.lengthsOf(tables); lengths != d.lengths {
		if err := d.setLengths(lengths, d.features(), tables); err != nil {
			return fmt.Errorf("commit generation %d: make tables of %d lines: %w", generation, lengths, err)
		}
	}
	displaced, slots := d.slots[slot], d.slots
	slots[slot] = tables
	hints, err := serviceHints(slots)
	if err == nil {
		err = d.fillSlot(slot, tables)
	}
	if err != nil {
		return fmt.Errorf("commit generation %d: %w", generation, err)
	}
	d.slots = slots
	d.control.ServiceHints = hints // no packet of any of them is taken for no service's, whichever bytes it sees
	d.control.flip(generation)
	return errors.Join(d.dropTables(displaced), d.finishMigration())
}

// serviceHints says which addresses can be a service's, in any generation that a slot holds: a packet may be on its way by the one in force
// as long.
func serviceHints(slots [abi.GenerationSlots]Tables) (hints [1 << abi.HintBits]uint8, err error) {
	seen := map[*Table]bool{nil: true}
	for _, tables := range slots {
		table := tables[abi.TableServices]
		if seen[table] {
			continue
		}
		seen[table] = true
		memory, err := mapMemory(table.array)
		if err != nil {
			return hints, err
		}
		for i, has := range compile.ServiceHints(linesOf(memory)[:table.lines]) {
			if has {
				hints[i] = 1
			}
		}
		if err := unix.Munmap(memory); err != nil {
			return hints, err
		}
	}
	return hints, nil
}

// fillSlot gives tables to the programs and pins them, so that the next daemon finds them. What the programs were loaded with needs no wait:
// who still looks into this slot runs the programs before them.
func (d *Dataplane) fillSlot(slot uint32, tables Tables) error {
	loadedWith := slot == d.nextSlot()
	var fill []func() error
	for which, table := range tables {
		fill = append(fill, func() error {
			if d.programs != nil && (!loadedWith || d.programs.next[which] != table) { // without programs: they find it when they are loaded
				if err := putTable(d.programs.outers[tableMaps[which]], slot, abi.Table(which), table); err != nil {
					return err
				}
			}
			return d.pinTable(slot, abi.Table(which), table)
		})
	}
	if err := sideBySide(fill...); err != nil {
		return err
	}
	if d.programs != nil {
		d.programs.next = Tables{}
	}
	return nil
}

func (d *Dataplane) pinTable(slot uint32, which abi.Table, table *Table) error {
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
			d.slots[slot][which] = &Table{array, int(array.MaxEntries())}
		}
	}
	var lengths [abi.TableCount]uint32
	for which := range abi.TableCount {
		lengths[which] = d.lengthFor(which, 0)
	}
	return d.setLengths(lengths, compile.Features{}, Tables{})
}

func (d *Dataplane) closeTables() error {
	var errs []error
	for i, tables := range d.slots {
		d.slots[i] = Tables{}
		errs = append(errs, d.dropTables(tables))
	}
	return errors.Join(errs...)
}
