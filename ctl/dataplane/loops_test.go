package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// TestLoopsCallOneFunction: the verifier makes a loop with direct calls of bpf_loop() (kernel/bpf/verifier.c, inline_bpf_loop) where one
// call of it has one function to call. Clang likes to make one call of two, and each round is an indirect one then, three times as dear.
func TestLoopsCallOneFunction(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"xdp": loadXdp, "tc": loadTc} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range spec.Programs {
			function, loops, functions := "", map[string]int{}, map[string]int{}
			for i := range program.Instructions {
				ins := &program.Instructions[i]
				if btf.FuncMetadata(ins) != nil {
					function = ins.Symbol()
				}
				if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnLoop) {
					loops[function]++
				}
				if ins.IsLoadOfFunctionPointer() {
					functions[function]++
				}
			}
			if len(loops) == 0 {
				t.Errorf("%s %s: no loops found", name, program.Name)
			}
			for function, n := range functions {
				if n != loops[function] {
					t.Errorf("%s %s: %s has %d calls of bpf_loop for %d functions", name, program.Name, function, loops[function], n)
				}
			}
		}
	}
}
