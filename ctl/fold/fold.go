package fold

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// constantSection is where bpf/config.h puts the load-time constants.
const constantSection = ".rodata.config"

// Constants puts the values of the load-time constants into the programs of an object, and the places of entries that are the only
// ones of their map; then it takes out what can't be reached or has no effect.
func Constants(spec *ebpf.CollectionSpec) error {
	k := known{constants: map[uint32]uint8{}}
	for _, variable := range spec.Variables {
		if variable.SectionName == constantSection && len(variable.Value) == 1 {
			k.constants[variable.Offset] = variable.Value[0]
		}
	}
	for name, m := range spec.Maps {
		if m.Type == ebpf.Array && m.MaxEntries == 1 {
			k.single = append(k.single, name)
		}
	}
	for name, program := range spec.Programs {
		folded, err := fold(program.Instructions, k)
		if err != nil {
			return fmt.Errorf("program %s: %w", name, err)
		}
		program.Instructions = folded
	}
	return nil
}

// known is what is known of an object before it is loaded.
type known struct {
	constants map[uint32]uint8 // by offset in constantSection
	single    []string         // arrays of one entry, which a program can address without looking it up: its key can only be 0
}

// folder has what is found out about a program. All slices are by instruction.
type folder struct {
	known
	code    asm.Instructions
	target  []int        // of a jump; -1: it is none
	begins  []bool       // a jump leads there, or a call
	before  []*registers // what is in registers where ways begin; nil: nothing leads there yet
	reached []bool
	work    []int // beginnings of ways that are to be followed
}

// registers are what is known of R0 to R10.
type registers [11]register

// register is what a register holds: something; a number; where a constant is, by its offset; a map of one entry, by its place in
// known.single; or the address of such an entry, which is not 0.
type register struct {
	kind  registerKind
	value int64
}

type registerKind uint8

const (
	holdsSomething registerKind = iota
	holdsNumber
	holdsPlace
	holdsMap
	holdsEntry
)

// fold propagates the constants along the ways that they leave open (conditional constant propagation: Wegman and Zadeck, 1991, on
// registers alone), decides the jumps that they decide, and drops what is not reached and what only writes registers that nobody reads.
func fold(code asm.Instructions, k known) (asm.Instructions, error) {
	n := len(code)
	f := &folder{known: k, code: code,
		target: make([]int, n), begins: make([]bool, n), before: make([]*registers, n), reached: make([]bool, n)}
	if err := f.findTargets(); err != nil {
		return nil, err
	}
	entries := map[string]int{}
	for i := range code {
		if symbol := code[i].Symbol(); symbol != "" {
			entries[symbol], f.begins[i] = i, true
		}
	}
	f.meet(0, registers{})
	for len(f.work) > 0 {
		at := f.work[len(f.work)-1]
		f.work = f.work[:len(f.work)-1]
		if err := f.follow(at, entries); err != nil {
			return nil, err
		}
	}
	f.replace()
	return f.emit(f.useful()), nil
}

// findTargets finds where each jump leads.
func (f *folder) findTargets() error {
	place := make([]int, len(f.code)) // jumps count those of 64 bits twice
	index := make([]int, 0, 2*len(f.code))
	for i := range f.code {
		place[i] = len(index)
		for range f.code[i].Width() {
			index = append(index, i)
		}
	}
	for i := range f.code {
		ins := &f.code[i]
		f.target[i] = -1
		if !isBranch(ins.OpCode) {
			continue
		}
		target := place[i] + 1 + int(ins.Offset)
		if isLongJump(ins.OpCode) {
			target = place[i] + 1 + int(ins.Constant)
		}
		if target < 0 || target >= len(index) {
			return fmt.Errorf("instruction %d jumps nowhere", i)
		}
		f.target[i], f.begins[index[target]] = index[target], true
	}
	return nil
}

func isBranch(op asm.OpCode) bool {
	return op.Class().IsJump() && op.JumpOp() != asm.Call && op.JumpOp() != asm.Exit
}

// isLongJump: its distance is in Constant.
func isLongJump(op asm.OpCode) bool { return op.Class() == asm.Jump32Class && op.JumpOp() == asm.Ja }

// meet adds what is known on a way that leads to an instruction. When that is news, the way has to be followed from there.
func (f *folder) meet(at int, held registers) {
	before := f.before[at]
	if before == nil {
		f.before[at] = &held
		f.work = append(f.work, at)
		return
	}
	changed := false
	for i := range before {
		if before[i] != held[i] && before[i].kind != holdsSomething {
			before[i], changed = register{}, true
		}
	}
	if changed {
		f.work = append(f.work, at)
	}
}

// follow goes from an instruction to the end of what follows it, and leaves word wherever it could go elsewhere.
func (f *folder) follow(at int, entries map[string]int) error {
	held := *f.before[at]
	for i := at; i < len(f.code); i++ {
		if i != at && f.begins[i] {
			f.meet(i, held)
			return nil
		}
		f.reached[i] = true
		ins := &f.code[i]
		if ins.IsFunctionReference() {
			entry, ok := entries[ins.Reference()]
			if !ok {
				return fmt.Errorf("instruction %d refers to %q, which isn't there", i, ins.Reference())
			}
			f.meet(entry, registers{})
		}
		switch op := ins.OpCode; {
		case op.JumpOp() == asm.Exit:
			return nil
		case f.target[i] >= 0:
			never, always := f.decide(ins, &held)
			if !never {
				f.meet(f.target[i], held)
			}
			if always {
				return nil
			}
			if i+1 < len(f.code) {
				f.meet(i+1, held)
			}
			return nil
		default:
			f.step(ins, &held)
		}
	}
	return fmt.Errorf("the program has no end")
}

// step says what is known behind an instruction that is no jump.
func (f *folder) step(ins *asm.Instruction, held *registers) {
	op := ins.OpCode
	if op.JumpOp() == asm.Call {
		entry, found := entryFound(ins, held)
		clear(held[asm.R0 : asm.R5+1])
		if found {
			held[asm.R0] = entry
		}
		return
	}
	if place, ok := constantPlace(ins); ok {
		held[ins.Dst] = register{holdsPlace, int64(place)}
	} else if single := slices.Index(f.single, ins.Reference()); single >= 0 && ins.IsLoadFromMap() {
		held[ins.Dst] = register{holdsMap, int64(single)}
		if ins.Src == asm.PseudoMapValue {
			held[ins.Dst].kind = holdsEntry
		}
	} else if value, ok := f.constantLoaded(ins, held); ok {
		held[ins.Dst] = register{holdsNumber, int64(value)}
	} else if op.ALUOp() == asm.Mov && ins.Offset == 0 {
		moved := register{holdsNumber, ins.Constant}
		if op.Source() == asm.RegSource {
			moved = held[ins.Src]
		}
		if op.Class() == asm.ALUClass && moved.kind == holdsNumber {
			moved.value = int64(uint32(moved.value))
		} else if op.Class() == asm.ALUClass {
			moved = register{}
		}
		held[ins.Dst] = moved
	} else {
		for written := writes(ins); written != 0; written &= written - 1 {
			held[bits.TrailingZeros16(written)] = register{}
		}
	}
}

// constantPlace: the instruction takes the address of a constant.
func constantPlace(ins *asm.Instruction) (offset uint32, ok bool) {
	if ins.OpCode.IsDWordLoad() && ins.Src == asm.PseudoMapValue && ins.Reference() == constantSection {
		return uint32(uint64(ins.Constant) >> 32), true
	}
	return 0, false
}

// constantLoaded: the instruction reads a constant.
func (f *folder) constantLoaded(ins *asm.Instruction, held *registers) (value uint8, ok bool) {
	from := held[ins.Src]
	if ins.OpCode != asm.LoadMemOp(asm.Byte) || from.kind != holdsPlace {
		return 0, false
	}
	value, ok = f.constants[uint32(from.value)+uint32(ins.Offset)]
	return value, ok
}

// entryFound: the instruction looks up the entry of a map that has no other.
func entryFound(ins *asm.Instruction, held *registers) (entry register, ok bool) {
	if !ins.IsBuiltinCall() || ins.Constant != int64(asm.FnMapLookupElem) || held[asm.R1].kind != holdsMap {
		return register{}, false
	}
	return register{holdsEntry, held[asm.R1].value}, true
}

// decide says whether a jump is never, or always, made.
func (f *folder) decide(ins *asm.Instruction, held *registers) (never, always bool) {
	if ins.OpCode.JumpOp() == asm.Ja {
		return false, true
	}
	a, b := held[ins.Dst], register{holdsNumber, ins.Constant}
	if ins.OpCode.Source() == asm.RegSource {
		b = held[ins.Src]
	}
	if a.kind == holdsEntry && b == (register{holdsNumber, 0}) && ins.OpCode.Class() == asm.JumpClass {
		a = register{holdsNumber, 1} // as good as any that isn't 0
	}
	if a.kind != holdsNumber || b.kind != holdsNumber {
		return false, false
	}
	if ins.OpCode.Class() == asm.Jump32Class {
		a.value, b.value = int64(int32(a.value)), int64(int32(b.value))
	}
	var made bool
	switch ins.OpCode.JumpOp() {
	case asm.JEq:
		made = a.value == b.value
	case asm.JNE:
		made = a.value != b.value
	case asm.JSet:
		made = a.value&b.value != 0
	case asm.JGT:
		made = uint64(a.value) > uint64(b.value)
	case asm.JGE:
		made = uint64(a.value) >= uint64(b.value)
	case asm.JLT:
		made = uint64(a.value) < uint64(b.value)
	case asm.JLE:
		made = uint64(a.value) <= uint64(b.value)
	default:
		return false, false
	}
	return !made, made
}

// replace writes what is known into the instructions that are reached: a number for the load of a constant, the address for the look-up
// of an entry, and for a jump that is decided one that always leads there, or to the next instruction.
func (f *folder) replace() {
	f.code = append(asm.Instructions(nil), f.code...) // the caller's stays as it is
	var held registers
	for i := range f.code {
		if f.before[i] != nil {
			held = *f.before[i]
		}
		ins := &f.code[i]
		if !f.reached[i] {
			continue
		}
		if value, ok := f.constantLoaded(ins, &held); ok {
			number := asm.Mov.Imm(ins.Dst, int32(value))
			number.Metadata = ins.Metadata
			*ins = number
		}
		if entry, ok := entryFound(ins, &held); ok {
			*ins = asm.LoadMapValue(asm.R0, 0, 0).WithReference(f.single[entry.value]).WithSource(ins.Source())
		}
		if f.target[i] < 0 {
			f.step(ins, &held)
			continue
		}
		if never, always := f.decide(ins, &held); never || always {
			jump := asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource), Metadata: ins.Metadata}
			*ins = jump
			if never {
				f.target[i] = i + 1
			}
		}
	}
}

// useful says which instructions stay: those that are reached, but for the ones that write only registers which nobody reads then.
// (Live variables, backward until nothing changes.)
func (f *folder) useful() []bool {
	n := len(f.code)
	live := make([]uint16, n+1) // registers that are read at an instruction or later, before they are written
	stays := make([]bool, n)
	for changed := true; changed; {
		changed = false
		for i := n - 1; i >= 0; i-- {
			if !f.reached[i] {
				continue
			}
			ins := &f.code[i]
			var after uint16
			if target := f.target[i]; target >= 0 {
				after = live[target]
			}
			if ins.OpCode.JumpOp() != asm.Exit && !(f.target[i] >= 0 && ins.OpCode.JumpOp() == asm.Ja) {
				after |= live[i+1]
			}
			// A function begins where its symbol is, whatever it begins with.
			stays[i] = ins.Symbol() != "" || !onlyWrites(ins) || writes(ins)&after != 0
			if stays[i] {
				after = after&^writes(ins) | reads(ins)
			}
			if after != live[i] {
				live[i], changed = after, true
			}
		}
	}
	for i := range stays {
		stays[i] = stays[i] && f.reached[i]
	}
	return stays
}

// onlyWrites: all that the instruction does is to work out a register. Loads are not among them: they bring a line of memory near.
func onlyWrites(ins *asm.Instruction) bool {
	return ins.OpCode.Class().IsALU() || ins.OpCode.IsDWordLoad()
}

func bit(r asm.Register) uint16 { return 1 << r }

const arguments = 1<<asm.R1 | 1<<asm.R2 | 1<<asm.R3 | 1<<asm.R4 | 1<<asm.R5

// writes is the registers that an instruction changes, reads those that it may take something from.
func writes(ins *asm.Instruction) uint16 {
	switch class := ins.OpCode.Class(); {
	case ins.OpCode.JumpOp() == asm.Call:
		return bit(asm.R0) | arguments
	case class == asm.StXClass && ins.OpCode.Mode() == asm.AtomicMode:
		return bit(asm.R0) | bit(ins.Src)
	case class.IsALU(), class.IsLoad():
		return bit(ins.Dst)
	}
	return 0
}

func reads(ins *asm.Instruction) uint16 {
	op := ins.OpCode
	switch class := op.Class(); {
	case op.JumpOp() == asm.Call:
		return arguments
	case op.JumpOp() == asm.Exit:
		return bit(asm.R0)
	case op.IsDWordLoad():
		return 0
	case class.IsALU() && op.ALUOp() == asm.Mov && op.Source() == asm.ImmSource:
		return 0
	case class.IsALU() && op.ALUOp() == asm.Mov:
		return bit(ins.Src)
	case class == asm.LdXClass:
		return bit(ins.Src)
	case class.IsALU() && op.Source() == asm.ImmSource, class.IsJump() && op.Source() == asm.ImmSource, class == asm.StClass:
		return bit(ins.Dst)
	case class == asm.StXClass && op.Mode() == asm.AtomicMode:
		return bit(asm.R0) | bit(ins.Dst) | bit(ins.Src)
	}
	return bit(ins.Dst) | bit(ins.Src)
}

// emit lists the instructions that stay, with the jumps as long as they are then.
func (f *folder) emit(stays []bool) asm.Instructions {
	next := make([]int, len(f.code)+1) // the first one that stays, from each on
	next[len(f.code)] = len(f.code)
	for i := len(f.code) - 1; i >= 0; i-- {
		next[i] = next[i+1]
		// A jump to what follows it anyway goes as well.
		if stays[i] && f.code[i].Symbol() == "" && f.code[i].OpCode.JumpOp() == asm.Ja && next[f.target[i]] == next[i+1] {
			stays[i] = false
		}
		if stays[i] {
			next[i] = i
		}
	}
	place := make([]int64, len(f.code)+1)
	for i := range f.code {
		place[i+1] = place[i]
		if stays[i] {
			place[i+1] += int64(f.code[i].Width())
		}
	}
	var out asm.Instructions
	for i, ins := range f.code {
		if !stays[i] {
			continue
		}
		if target := f.target[i]; target >= 0 {
			distance := place[next[target]] - place[i] - 1
			if isLongJump(ins.OpCode) {
				ins.Constant = distance
			} else {
				ins.Offset = int16(distance)
			}
		}
		out = append(out, ins)
	}
	return out
}
