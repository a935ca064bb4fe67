package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// ErrNothing: nothing of gardu is pinned there.
var ErrNothing = errors.New("nothing of gardu is in the kernel")

// Program is one program of gardu's.
type Program struct {
	ID       uint32    `json:"id"`
	Name     string    `json:"name"`
	Type     string    `json:"type"`
	Tag      string    `json:"tag"`      // hash of its instructions, as the kernel has it
	Attached []string  `json:"attached"` // "eth0 xdp"
	Loaded   time.Time `json:"loaded,omitzero"`

	Instructions int    `json:"instructions"` // of BPF, as the kernel keeps them
	Verified     uint32 `json:"verified"`     // instructions that the verifier went through
	JITed        uint32 `json:"jited_bytes"`  // machine code; 0: it is interpreted
	Memory       uint64 `json:"memory"`       // bytes

	Runs      uint64  `json:"runs"`       // while it was looked at
	NsPerRun  float64 `json:"ns_per_run"` // mean of those, what measuring costs included; 0: none
	mapIDs    []ebpf.MapID
	runBefore uint64
	nsBefore  time.Duration
}

// Map is one map of gardu's.
type Map struct {
	ID         uint32 `json:"id"`
	Name       string `json:"name"` // as bpf/maps.h has it where it can be known, else the kernel's, which is cut
	Pin        string `json:"pin,omitempty"`
	Type       string `json:"type"`
	KeyBytes   uint32 `json:"key_bytes"`
	ValueBytes uint32 `json:"value_bytes"`
	Entries    uint32 `json:"entries"` // room; of a ring of events: bytes
	Memory     uint64 `json:"memory"`  // bytes
	Help       string `json:"help,omitempty"`
}

// Instance is the gardu whose objects are pinned in a directory.
type Instance struct {
	dir  string
	pins map[ebpf.MapID]string
}

// Open finds what is pinned under dir; ErrNothing when nothing is.
func Open(dir string) (*Instance, error) {
	i := &Instance{dir: dir, pins: map[ebpf.MapID]string{}}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil // a link or a program
		}
		defer m.Close()
		if id, ok := mapID(m); ok {
			i.pins[id], _ = filepath.Rel(dir, path)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(i.pins) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, ErrNothing)
	}
	return i, err
}

// Features are the load-time constants that the programs were made for, as compile.FeaturesOf reads them.
func (i *Instance) Features() (uint64, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(i.dir, abi.AbiMapControl), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, fmt.Errorf("open map %s: %w", abi.AbiMapControl, err)
	}
	defer m.Close()
	var c abi.Control
	if err := m.Lookup(uint32(0), &c); err != nil {
		return 0, fmt.Errorf("read map %s: %w", abi.AbiMapControl, err)
	}
	return c.Features, nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, bool) {
	info, err := m.Info()
	if err != nil {
		return 0, false
	}
	return info.ID()
}

// Programs returns the programs that use a pinned map, by name. Their runs are measured for as long as that, and not at all
// with 0.
func (i *Instance) Programs(ctx context.Context, measure time.Duration) ([]Program, error) {
	if measure > 0 {
		stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
		if err != nil {
			return nil, fmt.Errorf("switch statistics on: %w", err)
		}
		defer stats.Close()
	}
	list, err := i.programs()
	if err != nil || measure == 0 {
		return list, err
	}
	select {
	case <-ctx.Done():
	case <-time.After(measure):
	}
	for n := range list {
		p := &list[n]
		if runs, spent, err := ran(p.ID); err == nil && runs > p.runBefore {
			p.Runs = runs - p.runBefore
			p.NsPerRun = float64(spent-p.nsBefore) / float64(p.Runs)
		}
	}
	return list, nil
}

func (i *Instance) programs() ([]Program, error) {
	attached := i.attachments()
	var list []Program
	var id ebpf.ProgramID
	for {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("list programs: %w", err)
		}
		p, err := describe(id)
		if errors.Is(err, os.ErrNotExist) || err == nil && !slices.ContainsFunc(p.mapIDs, i.owns) {
			continue // it went meanwhile, or is somebody else's
		}
		if err != nil {
			return nil, fmt.Errorf("look at program %d: %w", id, err)
		}
		p.Attached = append([]string{}, attached[id]...)
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Program) int { return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func (i *Instance) owns(id ebpf.MapID) bool { return i.pins[id] != "" }

func describe(id ebpf.ProgramID) (Program, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return Program{}, err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return Program{}, err
	}
	p := Program{ID: uint32(id), Name: info.Name, Type: info.Type.String(), Tag: info.Tag}
	p.mapIDs, _ = info.MapIDs()
	if bytes, err := info.TranslatedSize(); err == nil {
		const instruction = 8 // bytes
		p.Instructions = bytes / instruction
	}
	p.Verified, _ = info.VerifiedInstructions()
	p.JITed, _ = info.JitedSize()
	p.Memory, _ = info.Memlock()
	if since, ok := info.LoadTime(); ok {
		p.Loaded = booted().Add(since)
	}
	p.runBefore, p.nsBefore, err = ran(p.ID)
	return p, err
}

// booted is when CLOCK_BOOTTIME was 0, to the second.
func booted() time.Time {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(now.Nano())).Truncate(time.Second)
}

func ran(id uint32) (runs uint64, spent time.Duration, err error) {
	program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return 0, 0, err
	}
	defer program.Close()
	stats, err := program.Stats()
	if err != nil {
		return 0, 0, err
	}
	return stats.RunCount, stats.Runtime, nil
}

// attachments tells where programs are attached, by the pins of links and filters: eth0-xdp. What holds no pin, as the
// programs on tracepoints, has none.
func (i *Instance) attachments() map[ebpf.ProgramID][]string {
	at := map[ebpf.ProgramID][]string{}
	filepath.WalkDir(i.dir, func(path string, entry fs.DirEntry, err error) error { // what can't be read is left out
		if err != nil || entry.IsDir() {
			return nil
		}
		if id, ok := pinnedProgram(path); ok {
			name := strings.ReplaceAll(entry.Name(), ":", ".")
			if dash := strings.LastIndexByte(name, '-'); dash > 0 {
				name = name[:dash] + " " + name[dash+1:]
			}
			at[id] = append(at[id], name)
		}
		return nil
	})
	return at
}

// pinnedProgram is the program of a pinned link, or the pinned program itself.
func pinnedProgram(path string) (ebpf.ProgramID, bool) {
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return 0, false
		}
		return info.Program, true
	}
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, false
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return 0, false
	}
	return info.ID()
}

// Maps returns the maps that are pinned or that one of the programs uses, by name.
func (i *Instance) Maps(programs []Program) ([]Map, error) {
	ids := map[ebpf.MapID]bool{}
	for id := range i.pins {
		ids[id] = true
	}
	for _, p := range programs {
		for _, id := range p.mapIDs {
			ids[id] = true
		}
	}
	names := fullNames()
	var list []Map
	for id := range ids {
		m, err := i.describeMap(id, names)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at map %d: %w", id, err)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Map) int { return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func (i *Instance) describeMap(id ebpf.MapID, names map[string]string) (Map, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return Map{}, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return Map{}, err
	}
	one := Map{
		ID: uint32(id), Name: info.Name, Pin: i.pins[id], Type: info.Type.String(), KeyBytes: info.KeySize, ValueBytes: info.ValueSize,
		Entries: info.MaxEntries,
	}
	one.Memory, _ = info.Memlock()
	if strings.Contains(one.Pin, "/") {
		one.Name = one.Pin // of the tables of a kind there are several
	} else if full, ok := names[info.Name]; ok {
		one.Name = full
	}
	one.Help = abi.MapHelp(outerOf(one.Name))
	return one, nil
}

// outerOf is the map of maps that a pinned table is in; other names are left as they are.
func outerOf(name string) string {
	dir, of, _ := strings.Cut(name, "/")
	switch {
	case dir == "generations" && strings.HasSuffix(of, "-0"):
		return abi.AbiMapTablesSets
	case dir == "generations":
		return abi.AbiMapTablesRules
	case dir != "flows":
		return name
	case of == "dropped":
		return "flow_dropped"
	case strings.HasSuffix(of, "-table"):
		return "flow_tables"
	case strings.HasSuffix(of, "-lru"):
		return "flow_lru"
	}
	return of
}

// fullNames gives back to names what the kernel cuts off: it keeps 15 bytes.
func fullNames() map[string]string {
	const kept = 15
	names := map[string]string{}
	for _, name := range abi.MapNames() {
		names[name[:min(len(name), kept)]] = name
	}
	return names
}
