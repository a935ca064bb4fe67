package dataplane

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/compile"
	"gardu/ctl/fold"
)

// matrix is all features off, each alone, each two (not with -short), and all on. What captures is verified on its own, so it is left
// out of the pairs.
func matrix() []compile.Features {
	var all compile.Features
	n := reflect.TypeFor[compile.Features]().NumField()
	set := func(f *compile.Features, i int) { reflect.ValueOf(f).Elem().Field(i).SetBool(true) }
	sets := []compile.Features{{}}
	for i := range n {
		set(&all, i)
		for j := i; j < n && (j == i || !testing.Short()); j++ {
			var two compile.Features
			set(&two, i)
			set(&two, j)
			if two.Capture && i != j {
				continue
			}
			sets = append(sets, two)
		}
	}
	return append(sets, allOn(), all)
}

// TestVerifierTakesEveryCombination prints what each costs: instructions left after dead code went, those that the
// verifier walked through, and bytes of machine code.
func TestVerifierTakesEveryCombination(t *testing.T) {
	d := mapsOnly(t)
	for _, features := range matrix() {
		p, err := d.loadPrograms(features, Tables{})
		if err == nil {
			err = d.loadRest(p)
		}
		if err != nil {
			t.Errorf("%s: %+v", features, err)
			continue
		}
		line := fmt.Sprintf("%-20s", features)
		for hook, name := range []string{HookXDP: "xdp", HookIngress: "ingress", HookEgress: "egress"} {
			line += "  " + name + " " + cost(t, p.loaded[hook])
		}
		t.Log(line)
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
}

func cost(t *testing.T, program *ebpf.Program) string {
	t.Helper()
	info, err := program.Info()
	if err != nil {
		t.Fatal(err)
	}
	translated, err := info.TranslatedSize()
	if err != nil {
		t.Fatal(err)
	}
	jited, err := info.JitedSize()
	if err != nil {
		t.Fatal(err)
	}
	verified, _ := info.VerifiedInstructions()
	return fmt.Sprintf("%5d insns %6d verified %6d bytes", translated/8, verified, jited)
}

// TestNothingOfConstantsIsLeft: whatever is on, what the constants are makes no difference to the folded programs.
func TestNothingOfConstantsIsLeft(t *testing.T) {
	for _, features := range matrix() {
		for _, object := range objects {
			spec, err := object.spec()
			if err != nil {
				t.Fatal(err)
			}
			if err := setConstants(spec, features); err != nil {
				t.Fatal(err)
			}
			if err := fold.Constants(spec); err != nil {
				t.Fatal(err)
			}
			inverted, err := object.spec()
			if err != nil {
				t.Fatal(err)
			}
			for name, variable := range spec.Variables {
				inverted.Variables[name].Value = []byte{1 ^ variable.Value[0]}
			}
			for name, program := range spec.Programs {
				inverted.Programs[name].Instructions = program.Instructions
			}
			if err := errors.Join(fold.Constants(spec), fold.Constants(inverted)); err != nil {
				t.Fatal(err)
			}
			for name, program := range spec.Programs {
				if fmt.Sprint(program.Instructions) != fmt.Sprint(inverted.Programs[name].Instructions) {
					t.Errorf("%s with %s: a constant is still read", name, features)
				}
			}
		}
	}
}
