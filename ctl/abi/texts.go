package abi

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// texts are the names that bpf/abi.c and its BTF carry: a row added in C needs no edit here.
type texts struct {
	reasons  []reasonText
	verdicts []string
	steps    []string
}

// reasonText is struct reason_text of bpf/abi.c.
type reasonText struct {
	Text    [24]byte
	Verdict [12]byte
	Help    [92]byte
}

// load reads the embedded object, once. It panics when that isn't what bpf/abi.c makes.
var load = sync.OnceValue(func() texts {
	spec, err := LoadAbi()
	if err != nil {
		panic(fmt.Sprintf("abi: read the embedded object: %v", err))
	}
	t := texts{reasons: make([]reasonText, ReasonCount)}
	if err := spec.Variables[AbiVarReasonTexts].Get(t.reasons); err != nil {
		panic(fmt.Sprintf("abi: read the texts of reasons: %v", err))
	}
	t.verdicts = enumNames(spec.Types, "verdict")
	t.steps = enumNames(spec.Types, "step")
	return t
})

// enumNames are the names of an enum that counts from 0, as users read them: STEP_NEXT_HOP is next-hop.
func enumNames(types *btf.Spec, name string) []string {
	var enum *btf.Enum
	if err := types.TypeByName(name, &enum); err != nil {
		panic(fmt.Sprintf("abi: read enum %s: %v", name, err))
	}
	names := make([]string, len(enum.Values))
	for _, v := range enum.Values {
		word := strings.ToLower(strings.TrimPrefix(v.Name, strings.ToUpper(name)+"_"))
		names[v.Value] = strings.ReplaceAll(word, "_", "-")
	}
	return names
}

// String is the reason's name: "rule-drop".
func (r Reason) String() string {
	if r >= ReasonCount {
		return fmt.Sprintf("reason-%d", uint32(r))
	}
	return text(load().reasons[r].Text[:])
}

// Help says what the reason means, in a sentence without a full stop.
func (r Reason) Help() string {
	if r >= ReasonCount {
		return ""
	}
	return text(load().reasons[r].Help[:])
}

// Verdict is what becomes of packets that leave for this reason.
func (r Reason) Verdict() Verdict {
	if r < ReasonCount {
		name := strings.ToLower(text(load().reasons[r].Verdict[:]))
		for v, known := range load().verdicts {
			if known == name {
				return Verdict(v)
			}
		}
	}
	return VerdictDrop
}

// String is the verdict's name: pass, drop, reject, redirect or forward.
func (v Verdict) String() string {
	if names := load().verdicts; int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("verdict-%d", uint32(v))
}

// String is the step's name: "next-hop".
func (s Step) String() string {
	if names := load().steps; s < StepCount {
		return names[s]
	}
	return fmt.Sprintf("step-%d", uint32(s))
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }
