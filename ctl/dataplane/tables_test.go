package dataplane

import (
	"slices"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// commit puts three tables in force that are told apart by a mark.
func commit(t *testing.T, d *Dataplane, generation uint32, marks ...uint64) Tables {
	t.Helper()
	var tables Tables
	for which, mark := range marks {
		var err error
		if tables[which], err = d.NewTable(abi.Table(which), []abi.Line{{}, line(mark)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(generation, tables); err != nil {
		t.Fatal(err)
	}
	return tables
}

// marks reads back what the programs find in force.
func marks(t *testing.T, d *Dataplane) (marks [abi.TableCount]uint64) {
	t.Helper()
	slot := slot(d.control.generation())
	outers, err := d.newOuters(d.lengths)
	if err == nil {
		err = sideBySide(d.fillOuters(outers, Tables{})...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer outers.close()
	for which := range abi.TableCount {
		var got abi.Line
		if err := d.slots[slot][which].array.Lookup(uint32(1), &got); err != nil {
			t.Fatal(err)
		}
		marks[which] = got.W[7]
		var inner uint32
		if err := outers[tableMaps[which]].Lookup(slot, &inner); err != nil {
			t.Fatal(err)
		}
		info, err := d.slots[slot][which].array.Info()
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := info.ID(); uint32(id) != inner {
			t.Errorf("table %d: the programs have map %d, we have %d", which, inner, id)
		}
	}
	return marks
}

// An address is known as one of services for as long as a slot holds a generation that has it.
func TestServiceHintsFollowSlots(t *testing.T) {
	d := mapsOnly(t)
	with := func(lo uint64) []abi.Line {
		return []abi.Line{abi.ToLine(abi.ServicesHead{Services: 1, ServiceOff: 1}), abi.ToLine(abi.ServiceRecord{Addr: [2]uint64{0, lo}})}
	}
	first, second := with(0xffff_c000_0201), with(0xffff_c000_0202)
	hintOf := func(lines []abi.Line) int {
		hints := compile.ServiceHints(lines)
		return slices.Index(hints[:], true)
	}
	for generation, step := range []struct {
		lines []abi.Line
		want  []int
	}{
		{nil, nil},
		{first, []int{hintOf(first)}},
		{second, []int{hintOf(first), hintOf(second)}},
		{nil, []int{hintOf(first), hintOf(second)}},
		{nil, []int{hintOf(second)}},
		{nil, nil},
	} {
		var tables Tables
		if step.lines != nil {
			var err error
			if tables[abi.TableServices], err = d.NewTable(abi.TableServices, step.lines); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Commit(uint32(generation+1), tables); err != nil {
			t.Fatal(err)
		}
		var got []int
		for hint, has := range d.control.ServiceHints {
			if has != 0 {
				got = append(got, hint)
			}
		}
		slices.Sort(step.want)
		if !slices.Equal(got, step.want) {
			t.Errorf("generation %d: hints %d, want %d", generation+1, got, step.want)
		}
	}
}

func TestCommitSharesAndReturns(t *testing.T) {
	d := mapsOnly(t)
	if generation, _ := d.Current(); generation != 0 {
		t.Errorf("generation %d before the first commit", generation)
	}
	if generation, _ := d.Previous(); generation != 0 {
		t.Errorf("generation %d before none", generation)
	}
	first := commit(t, d, 1, 10, 20, 30)
	replaced, err := d.NewTable(abi.TableRules, []abi.Line{{}, line(21)})
	if err != nil {
		t.Fatal(err)
	}
	second := Tables{first[0], replaced, first[2]}
	if err := d.Commit(2, second); err != nil {
		t.Fatal(err)
	}
	if got := marks(t, d); got != [...]uint64{10, 21, 30} {
		t.Errorf("second generation: %v", got)
	}
	if generation, tables := d.Previous(); generation != 1 || tables != first {
		t.Errorf("previous: %d %v", generation, tables)
	}
	if err := d.Commit(3, first); err != nil {
		t.Fatal(err)
	}
	if got := marks(t, d); got != [...]uint64{10, 20, 30} {
		t.Errorf("back to the first: %v", got)
	}
	for generation := uint32(4); generation < 10; generation++ { // displaces, and closes, what no slot holds
		mark := uint64(generation)
		commit(t, d, generation, mark, mark+100, mark+200)
		if got := marks(t, d); got != [...]uint64{mark, mark + 100, mark + 200} {
			t.Errorf("generation %d: %v", generation, got)
		}
	}
	if err := first[0].array.Lookup(uint32(0), new(abi.Line)); err == nil {
		t.Error("a table that no generation holds is still open")
	}
}

func TestCommitRefusesAWrongNumber(t *testing.T) {
	d := mapsOnly(t)
	if err := d.Commit(0, Tables{}); err == nil {
		t.Error("generation 0 was committed")
	}
	commit(t, d, 7, 1, 2, 3)
	for _, generation := range []uint32{0, 6, 7, 9, 10} {
		if err := d.Commit(generation, Tables{}); err == nil {
			t.Errorf("generation %d was committed after 7", generation)
		}
	}
	if got := marks(t, d); got != [...]uint64{1, 2, 3} {
		t.Errorf("in force: %v", got)
	}
}

func TestAbsentTablesAreZeros(t *testing.T) {
	d := mapsOnly(t)
	if err := d.Commit(1, Tables{}); err != nil {
		t.Fatal(err)
	}
	_, tables := d.Current()
	for which, table := range tables {
		var head abi.Line
		err := table.array.Lookup(uint32(0), &head)
		if err != nil || head != (abi.Line{}) || table.Lines() != 0 {
			t.Errorf("table %d: %d lines, head %v, %v", which, table.Lines(), head, err)
		}
	}
}

func TestTablesAreTakenOver(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	first := commit(t, d, 1, 10, 20, 30)
	if err := d.Commit(2, Tables{first[0], nil, first[2]}); err != nil {
		t.Fatal(err)
	}
	commit(t, d, 3, 11, 21, 31)
	closeIt(t, d)

	d = open(t, dir)
	defer closeIt(t, d)
	if generation, _ := d.Current(); generation != 3 {
		t.Errorf("generation %d", generation)
	}
	if got := marks(t, d); got != [...]uint64{11, 21, 31} {
		t.Errorf("in force: %v", got)
	}
	generation, previous := d.Previous()
	if generation != 2 {
		t.Errorf("previous generation %d", generation)
	}
	if err := d.Commit(4, previous); err != nil {
		t.Fatal(err)
	}
	var got abi.Line
	if err := previous[0].array.Lookup(uint32(1), &got); err != nil || got.W[7] != 10 {
		t.Errorf("previous table: %v, %v", got, err)
	}
}

func TestTakeOverSwitchesNoStepOff(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	before := compile.AllFeatures()
	if err := d.SetFeatures(before); err != nil {
		t.Fatal(err)
	}
	closeIt(t, d)

	d, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, d)
	if after := d.Features(); after != before {
		t.Errorf("features %s after %s", after, before)
	}
}

func TestTablesChangeTheirLength(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	commit(t, d, 1, 10, 20, 30)
	long := make([]abi.Line, 1000)
	long[1] = line(11)
	long[999] = line(999)
	sets, err := d.NewTable(abi.TableSets, long)
	if err != nil {
		t.Fatal(err)
	}
	if got := marks(t, d); got != [...]uint64{10, 20, 30} {
		t.Errorf("the generation in force after tables became longer: %v", got)
	}
	_, tables := d.Current()
	if err := d.Commit(2, Tables{sets, tables[abi.TableRules], tables[abi.TableServices]}); err != nil {
		t.Fatal(err)
	}
	if got := marks(t, d); got != [...]uint64{11, 20, 30} {
		t.Errorf("the generation of the long table: %v", got)
	}
	closeIt(t, d)

	d = open(t, dir)
	defer closeIt(t, d)
	if got := marks(t, d); got != [...]uint64{11, 20, 30} {
		t.Errorf("after a take-over: %v", got)
	}
	if d.lengths[abi.TableSets] != 1024 || d.lengths[abi.TableRules] != minLength {
		t.Errorf("lengths %v", d.lengths)
	}
	for generation := uint32(3); generation < 7; generation++ { // until no slot holds the long one
		commit(t, d, generation, 12, 22, 32)
	}
	if d.lengths[abi.TableSets] >= 1024 || marks(t, d) != [...]uint64{12, 22, 32} {
		t.Errorf("lengths %v, marks %v after the long table is gone", d.lengths, marks(t, d))
	}
}

// A commit that lacks a table makes one, and for it the tables may change their length and the programs with them: those
// must have the whole new generation as well.
func TestCommitThatChangesLengths(t *testing.T) {
	d := private(t, allOff())
	long, err := d.NewTable(abi.TableServices, make([]abi.Line, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(1, Tables{abi.TableServices: long}); err != nil {
		t.Fatal(err)
	}
	for generation := uint32(2); generation < 8; generation++ {
		var tables Tables
		for which := range abi.TableServices {
			if tables[which], err = d.NewTable(which, []abi.Line{{}, line(uint64(generation))}); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Commit(generation, tables); err != nil {
			t.Fatal(err)
		}
		programsHave(t, d, tables)
	}
	if d.lengths[abi.TableServices] != minLength {
		t.Errorf("lengths %v", d.lengths)
	}
}

// programsHave fails when the programs don't find these tables (nil: any) in the generation in force.
func programsHave(t *testing.T, d *Dataplane, tables Tables) {
	t.Helper()
	generation := d.control.generation()
	for which, table := range tables {
		if table == nil {
			continue
		}
		var inner uint32
		if err := d.programs.outers[tableMaps[which]].Lookup(slot(generation), &inner); err != nil {
			t.Fatal(err)
		}
		info, err := table.array.Info()
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := info.ID(); uint32(id) != inner {
			t.Errorf("generation %d: the programs have map %d as table %d, not %d", generation, inner, which, id)
		}
	}
}

// Programs that are loaded with the tables of the next generation find these once it is committed, and others when it never was.
func TestPreparedTables(t *testing.T) {
	d := private(t, allOff())
	load := func(lines int) (tables Tables) {
		t.Helper()
		for which := range abi.TableCount {
			var err error
			if tables[which], err = d.NewTable(which, make([]abi.Line, lines)); err != nil {
				t.Fatal(err)
			}
		}
		return tables
	}
	prepare := func(features compile.Features, tables Tables) {
		t.Helper()
		if err := d.Prepare(features, tables); err != nil {
			t.Fatal(err)
		}
	}
	put := func(generation uint32, tables Tables) {
		t.Helper()
		if err := d.Commit(generation, tables); err != nil {
			t.Fatal(err)
		}
		programsHave(t, d, tables)
	}
	commit(t, d, 1, 10, 20, 30)
	first := load(100)
	prepare(compile.Features{Rules: true}, first)
	if got := marks(t, d); got != [...]uint64{10, 20, 30} {
		t.Errorf("before the commit: %v", got)
	}
	put(2, first)
	given := load(1000)
	prepare(compile.Features{}, given)
	for _, table := range given {
		closeIt(t, table)
	}
	put(3, load(100))
	put(4, first)
	put(5, load(100))
	put(6, load(100))
	early := private(t, allOff())
	d = early
	third := load(100)
	prepare(compile.Features{Rules: true}, third)
	put(3, third) // the first may have any number
}
