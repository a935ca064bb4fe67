package dataplane

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// stackLimit is how much stack a chain of calls may have. Linux 6.1 rounds each function's up to stackUnit, later kernels
// to less, so what fits here fits all.
const (
	stackLimit = 512
	stackUnit  = 32
)

// TestStackFitsOldKernels does by hand what the verifier of 6.1 does: newer ones take more.
func TestStackFitsOldKernels(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"xdp": loadXdp, "tc": loadTc, "decap": loadDecap} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range spec.Programs {
			functions := stackOf(program.Instructions)
			depth, chain := functions.deepest(program.Instructions[0].Symbol())
			t.Logf("%s %s: %d bytes by %v", name, program.Name, depth, chain)
			if depth > stackLimit {
				t.Errorf("%s %s: %d bytes of stack, %d are allowed: %v", name, program.Name, depth, stackLimit, chain)
			}
		}
	}
}

// function is the stack that one function uses, in bytes, and whom it calls, callbacks included.
type function struct {
	bytes int
	calls []string
}

type functions map[string]*function

// stackOf reads the instructions of a program with all its functions.
func stackOf(instructions asm.Instructions) functions {
	all := functions{}
	var (
		current *function
		frame   map[asm.Register]bool // registers that hold the frame pointer
	)
	for i := range instructions {
		ins := &instructions[i]
		if btf.FuncMetadata(ins) != nil {
			current, frame = &function{}, map[asm.Register]bool{asm.RFP: true}
			all[ins.Symbol()] = current
		}
		if ins.IsFunctionReference() {
			current.calls = append(current.calls, ins.Reference())
		}
		switch class := ins.OpCode.Class(); {
		case class.IsLoad() && frame[ins.Src], class.IsStore() && frame[ins.Dst]:
			current.bytes = max(current.bytes, -int(ins.Offset))
		case class == asm.ALU64Class && ins.OpCode.ALUOp() == asm.Add && frame[ins.Dst]:
			current.bytes = max(current.bytes, -int(ins.Constant))
		}
		if ins.Dst != asm.RFP {
			frame[ins.Dst] = ins.OpCode.Class() == asm.ALU64Class && ins.OpCode.ALUOp() == asm.Mov && ins.Src == asm.RFP
		}
	}
	return all
}

// deepest is the chain of calls from a function that needs the most stack.
func (f functions) deepest(name string) (depth int, chain []string) {
	for _, callee := range f[name].calls {
		if d, c := f.deepest(callee); d > depth {
			depth, chain = d, c
		}
	}
	bytes := (max(f[name].bytes, 1) + stackUnit - 1) / stackUnit * stackUnit
	return depth + bytes, append([]string{fmt.Sprintf("%s %d", name, f[name].bytes)}, chain...)
}
