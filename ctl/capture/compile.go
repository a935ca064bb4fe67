package capture

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/expr"
)

// ErrTooLong says that the expressions of all readers together have too many tests.
var ErrTooLong = fmt.Errorf("programs evaluate at most %d tests for all captures together, and this is more: ask for less", abi.CaptureTests)

// Names are what the names in expressions stand for. A name may stand for several numbers.
type Names struct {
	Rules      map[string]uint32
	Services   map[string]uint16
	Backends   map[string][]uint16
	Interfaces map[string][]uint32
}

// Filter makes of the expressions of all readers, by their number, what programs evaluate. A name that stands for nothing holds for no
// packet.
func Filter(readers map[int]*expr.Expr, names Names, snap int) (*abi.CaptureFilter, error) {
	c := &compiler{names: names}
	end := c.add(abi.CaptureTest{Kind: uint8(abi.CaptureEnd)})
	before, after := end, end
	for _, reader := range slices.Backward(slices.Sorted(maps.Keys(readers))) {
		for _, begin := range []*label{&before, &after} {
			next := *begin
			take := c.add(abi.CaptureTest{Kind: uint8(abi.CaptureTake), Fact: uint8(reader), Yes: uint16(next)})
			c.early = begin == &before
			*begin = c.node(readers[reader].Root(), take, next, true)
		}
	}
	if len(c.tests) > int(abi.CaptureTests) {
		return nil, ErrTooLong
	}
	f := &abi.CaptureFilter{Before: c.place(before), After: c.place(after), Snap: uint32(snap)}
	for i, test := range c.tests {
		test.Yes, test.No = uint16(c.place(label(test.Yes))), uint16(c.place(label(test.No)))
		f.Test[c.place(label(i))] = test
	}
	return f, nil
}

// label is a test, counted from the last one: what comes later is made first, so that every test knows where it leads.
type label int

type compiler struct {
	names Names
	tests []abi.CaptureTest
	early bool // what is known of packets when they leave isn't known yet
}

func (c *compiler) add(test abi.CaptureTest) label {
	if len(c.tests) <= int(abi.CaptureTests) { // more is too many anyway
		c.tests = append(c.tests, test)
	}
	return label(len(c.tests) - 1)
}

// place is a test's index once all are there.
func (c *compiler) place(l label) uint32 { return uint32(len(c.tests) - 1 - int(l)) }

// node returns the first of the tests that lead to yes when the node holds and to no when it doesn't. of says whether what is asked holds
// if the node does, or if it doesn't: of what isn't known yet, that is taken for granted.
func (c *compiler) node(n *expr.Node, yes, no label, of bool) label {
	if n == nil {
		return yes
	}
	switch n.Kind {
	case expr.NodeAnd:
		for _, part := range slices.Backward(n.Of) {
			yes = c.node(part, yes, no, of)
		}
		return yes
	case expr.NodeOr:
		for _, part := range slices.Backward(n.Of) {
			no = c.node(part, yes, no, of)
		}
		return no
	case expr.NodeNot:
		return c.node(n.Of[0], no, yes, !of)
	}
	if c.early && late[n.Key] {
		if of {
			return yes
		}
		return no
	}
	for _, test := range c.tested(n) {
		test.Yes, test.No = uint16(yes), uint16(no)
		no = c.add(test)
	}
	return no
}

// late are the keys that are known of packets only when they leave.
var late = map[string]bool{"verdict": true, "reason": true, "rule": true, "service": true, "backend": true}

// facts are the keys that are numbers to programs.
var facts = map[string]abi.CaptureFact{
	"sport": abi.CaptureSport, "dport": abi.CaptureDport, "proto": abi.CaptureProto, "vlan": abi.CaptureVlan,
	"interface": abi.CaptureInterface, "direction": abi.CaptureDirection, "length": abi.CaptureLength,
	"verdict": abi.CaptureVerdict, "reason": abi.CaptureReason, "rule": abi.CaptureRule, "service": abi.CaptureService, "backend": abi.CaptureBackend,
}

// tested are the tests of a node, of which one must hold.
func (c *compiler) tested(n *expr.Node) (tests []abi.CaptureTest) {
	number := func(lo, hi uint64) {
		tests = append(tests, abi.CaptureTest{Kind: uint8(abi.CaptureNumber), Fact: uint8(facts[n.Key]), Value: [2]uint64{lo, hi}})
	}
	switch {
	case n.Kind == expr.NodePrefix:
		return []abi.CaptureTest{address(n.Key, n.Prefix)}
	case n.Kind == expr.NodeRange:
		number(n.Lo, n.Hi)
		return tests
	case n.Key == "rule" && n.Name == "":
		number(0, uint64(abi.FirstRuleId)-1)
		return tests
	}
	for _, one := range c.numbers(n.Key, n.Name) {
		number(one, one)
	}
	if tests == nil { // there is no such thing
		number(1, 0)
	}
	return tests
}

// numbers are what a name stands for.
func (c *compiler) numbers(key, name string) (all []uint64) {
	switch key {
	case "direction":
		return []uint64{map[string]uint64{"in": 0, "out": 1}[name]}
	case "verdict":
		for v := abi.VerdictPass; v <= abi.VerdictForward; v++ {
			if v.String() == name {
				all = append(all, uint64(v))
			}
		}
	case "reason":
		for r := range abi.ReasonCount {
			if r.String() == name {
				all = append(all, uint64(r))
			}
		}
	case "rule":
		if id, ok := c.names.Rules[name]; ok {
			all = append(all, uint64(id))
		}
	case "service":
		if id, ok := c.names.Services[name]; ok || name == "" {
			all = append(all, uint64(id))
		}
	case "backend":
		if name == "" {
			return []uint64{0}
		}
		for _, id := range c.names.Backends[name] {
			all = append(all, uint64(id))
		}
	case "interface":
		for _, index := range c.names.Interfaces[name] {
			all = append(all, uint64(index))
		}
	}
	return all
}

// address tests for a prefix, in the words of struct flow_key.
func address(key string, prefix netip.Prefix) abi.CaptureTest {
	raw, family := abi.PutAddr(prefix.Masked().Addr())
	test := abi.CaptureTest{Kind: uint8(abi.CaptureAddress), Family: uint8(family)}
	if key == "dst" {
		test.Fact = 1
	}
	bits := prefix.Bits() + len(raw)*8 - prefix.Addr().BitLen()
	for i := range test.Mask {
		var mask [8]byte
		binary.BigEndian.PutUint64(mask[:], ones(bits-64*i))
		test.Mask[i] = binary.NativeEndian.Uint64(mask[:])
		test.Value[i] = binary.NativeEndian.Uint64(raw[8*i:]) & test.Mask[i]
	}
	return test
}

// ones is a word with so many bits set, from the left.
func ones(n int) uint64 {
	if n <= 0 {
		return 0
	}
	return math.MaxUint64 << (64 - min(n, 64))
}
