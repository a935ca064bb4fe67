package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// layout is what is pinned for one purpose, and taken over, converted or lost together.
type layout struct {
	name    string
	version uint32   // raised when the meaning of anything in it changes
	maps    []string // of bpf/maps.h
	tables  []string // pinned in flowsDir besides
	rebuilt bool     // from the configuration, or by itself within moments: nobody misses it
	late    bool     // programs write it: converted in the moment in which they are swapped

	// older are the versions that can be converted, each by a function for each map of it that has changed. Nothing of a layout that
	// needs more than that (inner tables) can.
	older map[uint32]converter
}

// converter moves what is in an old map into a new one, which is empty.
type converter func(old, next *ebpf.Map) error

// layoutControl is the map without which other tables are of no use: it has their sizes and the secret of their hash. Its version is
// ABI_VERSION.
const layoutControl = "control"

// pinnedLayouts are all of them. Their versions are pinned as well, so that the next gardu knows what it finds.
func pinnedLayouts() []layout {
	return []layout{
		{name: layoutControl, version: uint32(abi.AbiVersion), maps: []string{abi.AbiMapControl}, older: map[uint32]converter{8: controlOf8, 9: controlOf9, 10: controlOf10}},
		{name: "tables", version: 2, rebuilt: true, maps: []string{abi.AbiMapRings, abi.AbiMapBackends, abi.AbiMapInterfaces, abi.AbiMapInterfacePlaces,
			abi.AbiMapExits, abi.AbiMapHealthFlows, abi.AbiMapFragments, abi.AbiMapRejectLimit, abi.AbiMapRejectSources, abi.AbiMapLimits,
			abi.AbiMapEvents, abi.AbiMapTrace}},
		{name: "counters", version: 2, late: true, older: map[uint32]converter{1: carry}, maps: []string{abi.AbiMapRuleCounters, abi.AbiMapBackendCounters, abi.AbiMapInterfaceCounters,
			abi.AbiMapExitCounters, abi.AbiMapEffectTotals, abi.AbiMapLosses}},
		{name: "blocks", version: 1, maps: []string{abi.AbiMapBlocks, abi.AbiMapBlockCells, abi.AbiMapBlockNotes}},
		{name: "orders", version: 1, maps: []string{abi.AbiMapBackendNotes}},
		{name: "flows", version: 2, maps: []string{abi.AbiMapFlowTables, abi.AbiMapFlowLru, abi.AbiMapFlowDropped, abi.AbiMapFlowTotals},
			tables: []string{"0-table", "0-lru", "1-table", "1-lru", "dropped", "ledger"}},
		{name: "connections", version: 1, maps: []string{abi.AbiMapStates}, tables: []string{"states"}},
		{name: "translations", version: 2, maps: []string{abi.AbiMapNatEntries, abi.AbiMapNatLines}, tables: []string{abi.AbiMapNatEntries, abi.AbiMapNatLines}},
	}
}

// controlOf10 adds service_hints, where any address may be a service's until the next commit.
func controlOf10(old, next *ebpf.Map) error {
	return lengthenControl(old, next, func(was []byte) []byte { return was })
}

// controlOf9 adds nat_pools as well, where any address may be one that translations came from.
func controlOf9(old, next *ebpf.Map) error {
	return lengthenControl(old, next, withPools)
}

// controlOf8 makes room for flow_max as well. Tables of flows were found by another part of the hash then, and begin anew.
func controlOf8(old, next *ebpf.Map) error {
	return lengthenControl(old, next, func(was []byte) []byte {
		return withPools(slices.Insert(was, int(unsafe.Offsetof(abi.Control{}.FlowMax)), make([]byte, unsafe.Sizeof(abi.Control{}.FlowMax))...))
	})
}

func withPools(was []byte) []byte {
	return append(was, bytes.Repeat([]byte{0xff}, int(unsafe.Sizeof(abi.Control{}.NatPools)))...)
}

// lengthenControl brings an older control map to version 10, and then to this one.
func lengthenControl(old, next *ebpf.Map, to10 func([]byte) []byte) error {
	was, err := old.LookupBytes(uint32(0))
	if err != nil {
		return err
	}
	now := append(to10(was), bytes.Repeat([]byte{1}, int(unsafe.Sizeof(abi.Control{}.ServiceHints)))...)
	if len(now) != int(next.ValueSize()) {
		return errors.New("its size is another one")
	}
	(*abi.Control)(unsafe.Pointer(unsafe.SliceData(now))).LimitSpare = uint32(abi.LimitFewerBits) // their buckets begin anew, see layout tables
	return next.Put(uint32(0), now)
}

// FreshAll as an element of Options.Fresh stands for everything that can't be converted.
const FreshAll = "all"

// migration is a take-over of pins that another gardu made with other layouts.
type migration struct {
	dir     string
	old     mapSet               // to be converted
	convert map[string]converter // of them, by map
	late    map[string]bool
	lost    []layout
}

func (m *migration) loses(name string) bool {
	return slices.ContainsFunc(m.lost, func(l layout) bool { return l.name == name })
}

// names are those of what is lost.
func (m *migration) names() (names []string) {
	for _, l := range m.lost {
		names = append(names, l.name)
	}
	return names
}

// judge compares what is pinned with this gardu's layouts. What fits stays in pinned; with everything else the migration says what
// becomes of it. nil: all fits. Nothing is changed.
func judge(dir string, pinned mapSet, specs map[string]*ebpf.MapSpec, layouts []layout, fresh []string) (*migration, error) {
	versions, err := readLayouts(dir, pinned)
	if err != nil {
		return nil, err
	}
	m := &migration{dir: dir, old: mapSet{}, convert: map[string]converter{}, late: map[string]bool{}}
	wrong := &VersionError{Dir: dir}
	changed := false
	for _, l := range layouts {
		version := versions[l.name]
		if version > l.version {
			wrong.Newer = append(wrong.Newer, l.name)
			continue
		}
		differences := l.differences(pinned, specs)
		if version == l.version && differences == nil {
			continue
		}
		changed = true
		convert := l.older[version]
		if version == l.version && l.sameEntries(pinned, specs) {
			convert = carry // only as long as now
		}
		for _, name := range l.maps {
			if old := pinned[name]; old != nil {
				m.old[name], m.convert[name], m.late[name] = old, convert, l.late
			}
			delete(pinned, name)
		}
		if convert == nil && !l.rebuilt {
			m.lost = append(m.lost, l)
			wrong.Differences = append(wrong.Differences, fmt.Sprintf("%s: version %d, this gardu's is %d", l.name, version, l.version))
			wrong.Differences = append(wrong.Differences, differences...)
		}
	}
	if m.loses(layoutControl) {
		m.loseAll(layouts, pinned, "flows", "connections", "translations")
	}
	wrong.Lost = m.names()
	allowed := func(name string) bool { return slices.Contains(fresh, name) || slices.Contains(fresh, FreshAll) }
	if len(wrong.Newer) > 0 || slices.ContainsFunc(wrong.Lost, func(name string) bool { return !allowed(name) }) {
		m.old.close()
		return nil, wrong
	}
	if !changed {
		return nil, nil
	}
	return m, nil
}

func (m *migration) loseAll(layouts []layout, pinned mapSet, names ...string) {
	for _, l := range layouts {
		if !slices.Contains(names, l.name) || m.loses(l.name) {
			continue
		}
		m.lost = append(m.lost, l)
		for _, name := range l.maps {
			if old := pinned[name]; old != nil {
				m.old[name] = old
			}
			delete(pinned, name)
			delete(m.convert, name)
		}
	}
}

// differences are those between the pinned maps of a layout and ours.
func (l *layout) differences(pinned mapSet, specs map[string]*ebpf.MapSpec) (texts []string) {
	for _, name := range l.maps {
		m := pinned[name]
		if m == nil {
			texts = append(texts, "no map "+name)
		} else if err := specs[name].Compatible(m); err != nil {
			texts = append(texts, fmt.Sprintf("%s: %v", name, err))
		}
	}
	return texts
}

// sameEntries says whether the entries of all maps are what they are in ours, so that they can be copied.
func (l *layout) sameEntries(pinned mapSet, specs map[string]*ebpf.MapSpec) bool {
	return !slices.ContainsFunc(l.maps, func(name string) bool {
		m, spec := pinned[name], specs[name]
		return m == nil || m.Type() != spec.Type || m.KeySize() != spec.KeySize || m.ValueSize() != spec.ValueSize || spec.InnerMap != nil
	})
}

// carry copies all entries. Values may have become longer at their end, which is zero then.
func carry(old, next *ebpf.Map) error {
	if old.KeySize() != next.KeySize() || old.ValueSize() > next.ValueSize() {
		return errors.New("its entries don't fit")
	}
	entries := old.Iterate()
	var key []byte
	if old.Type() == ebpf.PerCPUArray || old.Type() == ebpf.PerCPUHash {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return err
		}
		for values := make([][]byte, cpus); entries.Next(&key, values); {
			some := false
			for i := range values {
				some = some || hasData(values[i])
				values[i] = lengthened(values[i], next)
			}
			if some {
				if err := next.Put(key, values); err != nil {
					return err
				}
			}
		}
		return entries.Err()
	}
	for value := []byte(nil); entries.Next(&key, &value); {
		if old.Type() == ebpf.Array && !hasData(value) {
			continue
		}
		if err := next.Put(key, lengthened(value, next)); err != nil {
			return err
		}
	}
	return entries.Err()
}

func hasData(value []byte) bool {
	return slices.ContainsFunc(value, func(b byte) bool { return b != 0 })
}

func lengthened(value []byte, m *ebpf.Map) []byte {
	return append(slices.Clone(value), make([]byte, int(m.ValueSize())-len(value))...)
}

// migrate makes the maps for m beside those of the programs that run, which go on as they are until finishMigration.
func (d *Dataplane) migrate(m *migration, fits mapSet, flowsMax int) (err error) {
	d.migration = m
	defer fits.close()
	was, shared := fits[abi.AbiMapControl], mapSet{}
	for name, one := range fits {
		shared[name] = one
	}
	if was == nil && !m.loses(layoutControl) {
		was = m.old[abi.AbiMapControl]
	}
	delete(shared, abi.AbiMapControl) // or a commit would be one of the programs that run as well
	if d.maps, err = createMaps(d.specs, shared); err != nil {
		return err
	}
	if was != nil {
		convert := m.convert[abi.AbiMapControl]
		if convert == nil {
			convert = carry
		}
		if err := convert(was, d.maps[abi.AbiMapControl]); err != nil {
			return fmt.Errorf("convert map control: %w", err)
		}
	}
	if d.control, err = mapControl(d.maps[abi.AbiMapControl]); err != nil {
		return err
	}
	if was == nil {
		if err := d.control.initialise(); err != nil {
			return err
		}
	}
	d.control.AbiVersion = uint32(abi.AbiVersion)
	if err := m.carry(d.maps, false); err != nil {
		return err
	}
	return d.openMigrated(flowsMax)
}

// openMigrated opens the tables that stay, and makes those that are lost anew.
func (d *Dataplane) openMigrated(flowsMax int) error {
	m := d.migration
	for _, part := range []struct {
		of   string
		open func() error
	}{{"flows", d.openFlows}, {"flows", d.openLedger}, {"flows", d.openDropped}, {"connections", d.openStates}, {"translations", d.openNats}} {
		if m.loses(part.of) {
			continue
		}
		if err := part.open(); err != nil {
			return err
		}
	}
	// Until finishMigration nothing is pinned: what is pinned is the old gardu's, and good if this one fails.
	d.lostDir, d.dir = d.dir, ""
	if m.loses("flows") {
		d.control.FlowSlot, d.control.FlowOld, d.control.DroppedMask = 0, 0, 0
		if err := d.createFlows(0, flowsMax, lruSize(flowsMax)); err != nil {
			return err
		}
	}
	if m.loses("blocks") {
		d.control.BlockLens4, d.control.BlockLens6 = 0, [3]uint64{}
	}
	if err := d.openBlocks(); err != nil {
		return err
	}
	if err := d.countBlocks(); err != nil {
		return err
	}
	return d.forgetHealthFlows()
}

// carry converts maps.
func (m *migration) carry(next mapSet, late bool) error {
	for name, convert := range m.convert {
		if convert == nil || m.late[name] != late || name == abi.AbiMapControl {
			continue
		}
		if err := convert(m.old[name], next[name]); err != nil {
			return fmt.Errorf("convert map %s: %w", name, err)
		}
	}
	return nil
}

// finishMigration swaps this gardu's programs in, once a generation is there for them, and pins everything. d.mu is held.
func (d *Dataplane) finishMigration() error {
	m := d.migration
	if m == nil {
		return nil
	}
	if err := m.carry(d.maps, true); err != nil {
		return err
	}
	for _, h := range d.hooks() {
		if err := d.renew(h); err != nil {
			return err
		}
	}
	d.migration, d.lost = nil, m.names()
	d.dir, d.lostDir = m.dir, ""
	// From here on the old gardu finds nothing, and this one all.
	if err := os.Remove(d.path(abi.AbiMapControl)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return permission("unpin control", err)
	}
	stale := []string{}
	for _, l := range m.lost {
		for _, name := range l.tables {
			stale = append(stale, d.path(flowsDir, name))
		}
	}
	for slot := range d.slots {
		for which := range abi.TableCount {
			stale = append(stale, d.tablePath(uint32(slot), which))
		}
	}
	for _, path := range stale {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return permission("unpin "+path, err)
		}
	}
	d.movePins(m.dir)
	m.old.close()
	err := d.pinAll()
	d.log.Info("took over what another version of gardu left", "converted", len(m.convert), "lost", strings.Join(m.names(), ", "))
	return err
}

// Lost are the layouts that this instance began anew when it took over what was pinned.
func (d *Dataplane) Lost() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// CheckFresh says whether Options.Fresh names what there is.
func CheckFresh(names []string) error {
	all := []string{FreshAll}
	for _, l := range pinnedLayouts() {
		if !l.rebuilt {
			all = append(all, l.name)
		}
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("%q is nothing that could begin anew; there are %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// layoutRecord is pinned beside the maps: the versions of layouts by their names. It never changes.
const (
	layoutRecord = "layouts"
	layoutName   = 32
	unrecorded   = 8 // the last version of struct control that may be without a record; all else was at its first then
)

// pinLayouts pins the versions of all layouts.
func (d *Dataplane) pinLayouts() error {
	record, err := ebpf.NewMap(&ebpf.MapSpec{Name: layoutRecord, Type: ebpf.Hash, KeySize: layoutName, ValueSize: 4, MaxEntries: 256})
	if err != nil {
		return permission("make the record of layouts", err)
	}
	defer record.Close()
	for _, l := range d.layouts {
		var key [layoutName]byte
		copy(key[:], l.name)
		if err := record.Put(key, l.version); err != nil {
			return fmt.Errorf("record layout %s: %w", l.name, err)
		}
	}
	return repin(record, d.path(layoutRecord))
}

// readLayouts are the versions of what is pinned; 0: another one than any known.
func readLayouts(dir string, pinned mapSet) (map[string]uint32, error) {
	versions := map[string]uint32{}
	record, err := ebpf.LoadPinnedMap(dir+"/"+layoutRecord, nil)
	if errors.Is(err, os.ErrNotExist) {
		version, err := abiVersion(pinned[abi.AbiMapControl])
		if err != nil || version != uint32(abi.AbiVersion) && version != unrecorded {
			return versions, err
		}
		for _, l := range pinnedLayouts() {
			if versions[l.name] = l.version; version == unrecorded {
				versions[l.name] = 1
			}
		}
		versions[layoutControl] = version
		return versions, nil
	}
	if err != nil {
		return nil, permission("open the record of layouts", err)
	}
	defer record.Close()
	var key [layoutName]byte
	var version uint32
	entries := record.Iterate()
	for entries.Next(&key, &version) {
		versions[strings.TrimRight(string(key[:]), "\x00")] = version
	}
	return versions, entries.Err()
}

// abiVersion is what a control map says; 0 when it is too short for that. Where it is said never changes.
func abiVersion(control *ebpf.Map) (uint32, error) {
	const at = int(unsafe.Offsetof(abi.Control{}.AbiVersion))
	if control == nil || int(control.ValueSize()) < at+4 {
		return 0, nil
	}
	value, err := control.LookupBytes(uint32(0))
	if err != nil || value == nil {
		return 0, fmt.Errorf("read map control: %w", err)
	}
	return binary.NativeEndian.Uint32(value[at:]), nil
}
