package fold

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// constant is the address of the load-time constant at an offset, and jump one over so many instructions (of 64 bits: two).
func constant(dst asm.Register, offset int) asm.Instruction {
	ins := asm.LoadMapValue(dst, 0, uint32(offset)).WithReference(constantSection)
	return ins
}

func jump(op asm.JumpOp, dst asm.Register, value int32, over int16) asm.Instruction {
	ins := op.Imm(dst, value, "")
	ins.Offset = over
	return ins.WithReference("")
}

func TestFold(t *testing.T) {
	load := func(dst, src asm.Register) asm.Instruction { return asm.LoadMem(dst, src, 0, asm.Byte) }
	check := asm.Instructions{
		constant(asm.R6, 0).WithSymbol("program"),
		load(asm.R6, asm.R6),
		jump(asm.JEq, asm.R6, 0, 2),
		asm.Call.Label("helper"),
		jump(asm.Ja, 0, 0, 1),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 2).WithSymbol("helper"),
		asm.Return(),
	}
	for name, c := range map[string]struct {
		code asm.Instructions
		on   uint8
		want string
	}{
		"off: neither what it guards nor the function that is called from there": {check, 0, `
			LdImmDW r6
			Mov r0 1
			Exit`},
		"on: without the check": {check, 1, `
			LdImmDW r6
			Call helper
			Exit
			Mov r0 2
			Exit`},
		"what differs by the way is not known": {asm.Instructions{
			jump(asm.JEq, asm.R2, 0, 3).WithSymbol("program"),
			constant(asm.R1, 0),
			load(asm.R1, asm.R1),
			jump(asm.JEq, asm.R1, 0, 1), // jumped to with something, and reached with a number
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		}, 1, `
			JEq r2 0 1
			Mov r1 1
			JEq r1 0 1
			Mov r0 1
			Exit`},
		"a number that is copied, and a loop": {asm.Instructions{
			asm.Mov.Imm(asm.R0, 0).WithSymbol("program"),
			constant(asm.R1, 0),
			load(asm.R3, asm.R1),
			asm.Mov.Reg32(asm.R4, asm.R3),
			asm.Add.Imm(asm.R0, 1),
			jump(asm.JNE, asm.R4, 1, 1),
			jump(asm.JLT, asm.R0, 10, -3),
			asm.Return(),
		}, 1, `
			Mov r0 0
			Add r0 1
			JLT r0 10 -2
			Exit`},
		"a call forgets": {asm.Instructions{
			constant(asm.R1, 0).WithSymbol("program"),
			load(asm.R0, asm.R1),
			asm.FnKtimeGetNs.Call(),
			jump(asm.JEq, asm.R0, 0, 1),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		}, 0, `
			LdImmDW r1
			Call 5
			JEq r0 0 1
			Mov r0 1
			Exit`},
		"the only entry of a map is where it is": {asm.Instructions{
			asm.LoadMapPtr(asm.R1, 0).WithReference("control").WithSymbol("program"),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.FnMapLookupElem.Call(),
			jump(asm.JNE, asm.R0, 0, 2),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
			asm.LoadMapPtr(asm.R1, 0).WithReference("flows"),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.FnMapLookupElem.Call(),
			jump(asm.JEq, asm.R0, 0, 1),
			asm.Mov.Imm(asm.R0, 2),
			asm.Return(),
		}, 0, `
			LdImmDW r1
			LdImmDW r0
			LdImmDW r1
			Mov r2 0
			Call 1
			JEq r0 0 1
			Mov r0 2
			Exit`},
		"a load may bring a line near, what was worked out for nobody goes": {asm.Instructions{
			asm.Mov.Imm(asm.R0, 0).WithSymbol("program"),
			asm.LoadMem(asm.R3, asm.R1, 0, asm.Word),
			asm.Add.Imm(asm.R3, 1),
			asm.Return(),
		}, 0, `
			Mov r0 0
			LdX r3 r1
			Exit`},
	} {
		folded, err := fold(c.code, known{constants: map[uint32]uint8{0: c.on}, single: []string{"control"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, want := listing(folded), strings.Join(strings.Fields(c.want), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

// listing is a program in the words of TestFold.
func listing(code asm.Instructions) string {
	var words []string
	for i := range code {
		ins := &code[i]
		switch op := ins.OpCode; {
		case op.JumpOp() == asm.Exit:
			words = append(words, "Exit")
		case ins.IsFunctionCall():
			words = append(words, "Call "+ins.Reference())
		case op.JumpOp() == asm.Call:
			words = append(words, fmt.Sprint("Call ", ins.Constant))
		case isBranch(op):
			words = append(words, fmt.Sprint(op.JumpOp(), " ", ins.Dst, " ", ins.Constant, " ", ins.Offset))
		case op.Class().IsALU():
			words = append(words, fmt.Sprint(op.ALUOp(), " ", ins.Dst, " ", ins.Constant))
		case op.IsDWordLoad():
			words = append(words, fmt.Sprint("LdImmDW ", ins.Dst))
		default:
			words = append(words, fmt.Sprint("LdX ", ins.Dst, " ", ins.Src))
		}
	}
	return strings.Join(words, " ")
}

func TestFoldRefuses(t *testing.T) {
	for want, code := range map[string]asm.Instructions{
		"jumps nowhere":      {jump(asm.Ja, 0, 0, 7).WithSymbol("program"), asm.Return()},
		"has no end":         {asm.Mov.Imm(asm.R0, 0).WithSymbol("program")},
		`refers to "helper"`: {asm.Call.Label("helper").WithSymbol("program"), asm.Return()},
	} {
		if _, err := fold(code, known{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %s", err, want)
		}
	}
}
