package dataplane

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/model"
)

// Every map belongs to one layout.
func TestLayoutsHaveAllMaps(t *testing.T) {
	specs, err := mapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, l := range pinnedLayouts() {
		if len(l.name) >= layoutName || l.version == 0 {
			t.Errorf("layout %+v", l)
		}
		for _, name := range l.maps {
			if specs[name] == nil || seen[name] {
				t.Errorf("%s: map %s is none, or of two layouts", l.name, name)
			}
			seen[name] = true
		}
	}
	for name := range specs {
		if !seen[name] && !slices.Contains(tableMaps[:], name) {
			t.Errorf("map %s has no layout", name)
		}
	}
}

var update = flag.Bool("update", false, "write testdata/layouts.txt anew")

// innerTypes are what tables hold that are in an outer map: those say only its size.
var innerTypes = map[string][]string{"flows": {"flow_bucket"}, "connections": {"state_bucket"}, "translations": {"nat_bucket", "nat_line"}}

// layoutText is what a layout looks like in the kernel, member by member.
func layoutText(t *testing.T, l layout, specs map[string]*ebpf.MapSpec, types *btf.Spec) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d\n", l.name, l.version)
	var describe func(margin string, typ btf.Type)
	describe = func(margin string, typ btf.Type) {
		of, ok := btf.UnderlyingType(typ).(*btf.Struct)
		if !ok {
			return
		}
		for _, m := range of.Members {
			member, times := m.Type, ""
			for array, ok := btf.As[*btf.Array](member); ok; array, ok = btf.As[*btf.Array](member) {
				member, times = array.Type, fmt.Sprintf("%s[%d]", times, array.Nelems)
			}
			fmt.Fprintf(&b, "%s%d %s%s %s\n", margin, m.Offset.Bytes(), m.Name, times, member.TypeName())
			describe(margin+"  ", member)
		}
	}
	for _, name := range l.maps {
		spec := specs[name]
		fmt.Fprintf(&b, "  %s %s key %d value %d\n", name, spec.Type, spec.KeySize, spec.ValueSize)
		describe("    ", spec.Value)
	}
	for _, name := range innerTypes[l.name] {
		var inner *btf.Struct
		if err := types.TypeByName(name, &inner); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  struct %s of %d\n", name, inner.Size)
		describe("    ", inner)
	}
	if l.name == "counters" { // what an index in interface_counter means
		for reason := range abi.ReasonCount {
			fmt.Fprintf(&b, "  reason %d %s\n", reason, reason)
		}
	}
	return b.String()
}

// What is pinned doesn't change without another version, or the next gardu takes it for what it isn't.
func TestLayoutsHaveVersions(t *testing.T) {
	specs, err := mapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := abi.LoadAbi()
	if err != nil {
		t.Fatal(err)
	}
	const path = "testdata/layouts.txt"
	known, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, l := range pinnedLayouts() {
		text := layoutText(t, l, specs, objects.Types)
		all.WriteString(text + "\n")
		first, _, _ := strings.Cut(text, "\n")
		switch {
		case strings.Contains(string(known), text+"\n"):
		case strings.Contains("\n"+string(known), "\n"+first+"\n"):
			t.Errorf("%s: what is pinned has changed and the version hasn't: raise it in layout.go, with a converter if it can be done, then -update (only another name: remove %s before)", first, path)
		case !*update:
			t.Errorf("%s: -update writes what this version looks like", first)
		}
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(path, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shorten pins a map in the place of another, with entries cut to a size, as an older gardu had it.
func shorten(t *testing.T, dir, name string, size uint32) {
	t.Helper()
	path := filepath.Join(dir, name)
	now, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	old, err := ebpf.NewMap(&ebpf.MapSpec{Name: "older", Type: now.Type(), KeySize: now.KeySize(), ValueSize: size, MaxEntries: now.MaxEntries(), Flags: now.Flags()})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	var key []byte
	entries := now.Iterate()
	if now.Type() == ebpf.PerCPUArray {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			t.Fatal(err)
		}
		for values := make([][]byte, cpus); entries.Next(&key, values); {
			for i := range values {
				values[i] = values[i][:size]
			}
			if err := old.Put(key, values); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		for value := []byte(nil); entries.Next(&key, &value); {
			if err := old.Put(key, value[:size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(entries.Err(), repin(old, path)); err != nil {
		t.Fatal(err)
	}
}

// layoutsOf are ours, changed.
func layoutsOf(change func(*layout)) []layout {
	all := pinnedLayouts()
	for i := range all {
		change(&all[i])
	}
	return all
}

// older is a data plane that a gardu left whose counters and blocks were shorter: with a block, and with packets that were dropped for it.
func older(t *testing.T, w *wires, dir string) (blocked, passed uint64) {
	t.Helper()
	d := w.open(t, dir, compile.Features{Blocks: true, Flows: true})
	w.attach(t, d, AttachOptions{Path: model.PathTC})
	commit(t, d, 1, 1, 2, 3)
	w.send(t, 5)
	passed = decided(t, d, abi.DeciderDefault)
	add(t, d, Block{Prefix: prefix("192.0.2.0/24"), Origin: "cli", Why: "test"}, Block{Prefix: prefix("198.51.100.0/24"), Origin: "cli", Why: "test"})
	w.send(t, 7)
	if blocked = decided(t, d, abi.DeciderBlock); blocked == 0 || passed == 0 {
		t.Fatalf("%d packets were blocked, %d passed", blocked, passed)
	}
	closeIt(t, d)
	shorten(t, dir, abi.AbiMapBlocks, 24) // without the time
	return blocked, passed
}

func decided(t *testing.T, d *Dataplane, decider abi.Decider) uint64 {
	t.Helper()
	counters, err := d.RuleCounters([]uint32{uint32(decider)})
	if err != nil {
		t.Fatal(err)
	}
	return counters[0].Decided
}

// What an older gardu left is converted where that is known how, and goes on; nothing is detached, and the flows stay.
func TestOlderLayoutIsConverted(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	blocked, passed := older(t, w, dir)
	before := linksIn(t, dir)
	next := layoutsOf(func(l *layout) {
		switch l.name {
		case "blocks", "counters", layoutControl:
			l.version, l.older = l.version+1, map[uint32]converter{l.version: carry}
		case "tables":
			l.version++
		}
	})
	d := w.openWith(t, Options{Dir: dir, FlowsMax: 1000, Features: compile.Features{Blocks: true, Flows: true}, layouts: next})
	if generation, _ := d.Current(); generation != 1 {
		t.Fatalf("generation %d", generation)
	}
	w.send(t, 3) // by the old programs still
	commit(t, d, 2, 4, 5, 6)
	if lost := d.Lost(); len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	blocks := blocksOf(t, d)
	if len(blocks) != 2 || blocks[0].Why != "test" {
		t.Errorf("blocks %+v", blocks)
	}
	if got := decided(t, d, abi.DeciderBlock); got < blocked+3 {
		t.Errorf("%d packets are counted as blocked, %d were before 3 more", got, blocked)
	}
	if got := decided(t, d, abi.DeciderDefault); got < passed {
		t.Errorf("%d packets are counted as passed, %d were", got, passed)
	}
	was := decided(t, d, abi.DeciderBlock)
	w.send(t, 3)
	if got := decided(t, d, abi.DeciderBlock); got < was+3 {
		t.Errorf("%d packets are counted as blocked by the new programs, %d before 3 more", got, was)
	}
	if after := linksIn(t, dir); !reflect.DeepEqual(before, after) {
		t.Errorf("attached was %v, is %v", before, after)
	}
	closeIt(t, d)

	// The next one finds its own layouts; this one's version has gone from them.
	d = w.openWith(t, Options{Dir: dir, FlowsMax: 1000, layouts: next})
	if generation, _ := d.Current(); generation != 2 {
		t.Errorf("generation %d", generation)
	}
	closeIt(t, d)
	all := files(t, dir)
	_, err := Open(Options{Dir: dir, Fresh: []string{FreshAll}})
	if version, ok := errors.AsType[*VersionError](err); !ok || len(version.Newer) != 4 || !strings.Contains(err.Error(), "made by a newer gardu (control, tables, counters, blocks)") {
		t.Errorf("down-grade: %v", err)
	}
	if files(t, dir) != all {
		t.Error("the refusal changed pins")
	}
}

// linksIn are the ids of pinned links.
func linksIn(t *testing.T, dir string) map[string]int {
	t.Helper()
	hooks, err := openHooks(filepath.Join(dir, linksDir), noFilters{})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, h := range hooks {
		if h.link != nil {
			info, err := h.link.Info()
			if err != nil {
				t.Fatal(err)
			}
			ids[h.name+string(h.kind)] = int(info.ID)
		}
		if err := h.close(); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// What can't be converted is named before anything is touched, and begins anew only when somebody says so.
func TestOlderLayoutIsLost(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	older(t, w, dir)
	before := files(t, dir)
	for _, fresh := range [][]string{nil, {"flows", "counters"}} {
		_, err := Open(Options{Dir: dir, Netlink: w.netlink, Fresh: fresh})
		version, ok := errors.AsType[*VersionError](err)
		if !ok || strings.Join(version.Lost, ",") != "blocks" || !strings.Contains(err.Error(), "ValueSize: 24 changed to 32") || !strings.Contains(err.Error(), "--fresh=blocks") {
			t.Fatalf("fresh %q: %v", fresh, err)
		}
		if after := files(t, dir); after != before {
			t.Errorf("changed from\n%s\nto\n%s", before, after)
		}
	}
	d := w.openWith(t, Options{Dir: dir, FlowsMax: 1000, Features: compile.Features{Blocks: true, Flows: true}, Fresh: []string{"blocks"}})
	commit(t, d, 2, 4, 5, 6)
	if lost := d.Lost(); !slices.Equal(lost, []string{"blocks"}) || len(blocksOf(t, d)) != 0 {
		t.Errorf("lost: %q, blocks %+v", lost, blocksOf(t, d))
	}
	closeIt(t, d)
	d = w.open(t, dir)
	closeIt(t, d)
}

// asVersion8 makes of pins what a gardu left that had version 8 of struct control, kept no record yet, and counted less of backends.
func asVersion8(t *testing.T, dir string) {
	t.Helper()
	shorten(t, dir, abi.AbiMapBackendCounters, 24)
	path := filepath.Join(dir, abi.AbiMapControl)
	now, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	value, err := now.LookupBytes(uint32(0))
	if err != nil {
		t.Fatal(err)
	}
	value = slices.Delete(value[:168], 140, 148) // flow_max, nat_pools
	binary.NativeEndian.PutUint32(value[24:], 8)
	old, err := ebpf.NewMap(&ebpf.MapSpec{Name: "control", Type: now.Type(), KeySize: 4, ValueSize: 160, MaxEntries: 1, Flags: now.Flags()})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := errors.Join(old.Put(uint32(0), value), repin(old, path), os.Remove(filepath.Join(dir, layoutRecord))); err != nil {
		t.Fatal(err)
	}
}

// What the versions before these left loses its flows and translations, which it names, and nothing else: secrets, blocks, counters, connections.
func TestVersion8IsTakenOver(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	features := compile.Features{Blocks: true, Flows: true, State: true, Nat: true}
	d := w.open(t, dir, features)
	w.attach(t, d, AttachOptions{Path: model.PathTC})
	commit(t, d, 1, 1, 2, 3)
	add(t, d, Block{Prefix: prefix("198.51.100.0/24"), Origin: "cli", Why: "test"})
	w.send(t, 7)
	blocked := decided(t, d, abi.DeciderBlock)
	if blocked == 0 {
		t.Fatal("nothing was blocked")
	}
	var parts []abi.BackendCounter
	counters := d.maps[abi.AbiMapBackendCounters]
	if err := counters.Lookup(uint32(5), &parts); err != nil {
		t.Fatal(err)
	}
	parts[0] = abi.BackendCounter{Packets: 3, Bytes: 300, Flows: 2}
	if err := counters.Put(uint32(5), parts); err != nil {
		t.Fatal(err)
	}
	was := *d.control.Control
	closeIt(t, d)
	asVersion8(t, dir)
	states := pinnedID(t, filepath.Join(dir, flowsDir, "states"))

	before := files(t, dir)
	_, err := Open(Options{Dir: dir, Netlink: w.netlink})
	if version, ok := errors.AsType[*VersionError](err); !ok || strings.Join(version.Lost, ",") != "flows,translations" || !strings.Contains(err.Error(), "--fresh=flows,translations") {
		t.Fatalf("Open: %v", err)
	}
	if after := files(t, dir); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	d = w.openWith(t, Options{Dir: dir, FlowsMax: 1000, Features: features, Fresh: []string{"flows", "translations"}})
	commit(t, d, 2, 4, 5, 6)
	if lost := d.Lost(); !slices.Equal(lost, []string{"flows", "translations"}) {
		t.Errorf("lost: %q", lost)
	}
	now := *d.control.Control
	if now.HashKey != was.HashKey || now.NatKey != was.NatKey || now.NatMask != was.NatMask || now.StateMask != was.StateMask || now.BlockLens4 != was.BlockLens4 ||
		now.AbiVersion != uint32(abi.AbiVersion) || now.FlowMax[now.FlowSlot] != 1000 {
		t.Errorf("control was %+v, is %+v", was, now)
	}
	if got := decided(t, d, abi.DeciderBlock); got != blocked || len(blocksOf(t, d)) != 1 {
		t.Errorf("%d packets were blocked, now %d, by %+v", blocked, got, blocksOf(t, d))
	}
	if got, err := d.BackendCounters([]uint32{5}); err != nil || got[0] != parts[0] {
		t.Errorf("backend 5 counts %+v, %v", got, err)
	}
	if got := pinnedID(t, filepath.Join(dir, flowsDir, "states")); got != states {
		t.Errorf("the table of connections was map %d, is %d", states, got)
	}
	w.send(t, 3)
	if got := decided(t, d, abi.DeciderBlock); got != blocked+3 {
		t.Errorf("%d packets were blocked, %d after 3 more", blocked, got)
	}
	closeIt(t, d)
	d = w.open(t, dir)
	closeIt(t, d)
}

// What the version before this one left is taken over whole; until the first commit any address may be a service's.
func TestVersion10IsTakenOver(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := w.open(t, dir, compile.Features{Blocks: true, Flows: true})
	commit(t, d, 1, 1, 2, 3)
	was := *d.control.Control
	closeIt(t, d)
	path := filepath.Join(dir, abi.AbiMapControl)
	shorten(t, dir, abi.AbiMapControl, 232) // without service_hints
	record, err := ebpf.LoadPinnedMap(filepath.Join(dir, layoutRecord), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer record.Close()
	var key [layoutName]byte
	copy(key[:], layoutControl)
	if err := record.Put(key, uint32(10)); err != nil {
		t.Fatal(err)
	}
	old := pinnedID(t, path)
	d = w.open(t, dir, compile.Features{Blocks: true, Flows: true})
	defer closeIt(t, d)
	now := *d.control.Control
	if now.HashKey != was.HashKey || now.Generation != was.Generation || now.FlowMax != was.FlowMax || d.Lost() != nil {
		t.Errorf("control was %+v, is %+v, lost: %q", was, now, d.Lost())
	}
	if slices.Contains(now.ServiceHints[:], 0) {
		t.Error("an address is taken for no service's, and nobody knows that yet")
	}
	commit(t, d, 2, 4, 5, 6)
	if slices.Contains(d.control.ServiceHints[:], 1) || pinnedID(t, path) == old {
		t.Error("after the commit: the generation has no service and an address has a hint, or control is still the old map")
	}
}

// pinnedID is the kernel's number of a pinned map.
func pinnedID(t *testing.T, path string) ebpf.MapID {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// Pins without a record of layouts are known by their ABI version, or not at all.
func TestPinsWithoutRecord(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := w.open(t, dir, compile.Features{Flows: true})
	commit(t, d, 1, 1, 2, 3)
	closeIt(t, d)
	forget := func() {
		if err := os.Remove(filepath.Join(dir, layoutRecord)); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	d = w.open(t, dir)
	d.control.AbiVersion = 99
	closeIt(t, d)
	_, err := Open(Options{Dir: dir})
	if version, ok := errors.AsType[*VersionError](err); !ok || len(version.Lost) != 7 {
		t.Fatalf("Open: %v", err)
	}
	d = w.openWith(t, Options{Dir: dir, FlowsMax: 1000, Features: compile.Features{Flows: true}, Fresh: []string{FreshAll}})
	if generation, _ := d.Current(); generation != 0 {
		t.Errorf("generation %d", generation)
	}
	commit(t, d, 1, 1, 2, 3)
	closeIt(t, d)
	d = w.open(t, dir)
	if generation, _ := d.Current(); generation != 1 || d.FlowsMax() != 1000 {
		t.Errorf("generation %d, %d flows", generation, d.FlowsMax())
	}
	closeIt(t, d)
}
