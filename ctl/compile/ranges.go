package compile

import (
	"cmp"
	"fmt"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// planNumber combines the conditions of both signs on a number field; at least one is there.
func planNumber(snapshot *model.Snapshot, ids IDs, field abi.Field, is, not *model.Condition) (numberPlan, error) {
	n := numberPlan{field: field}
	var err error
	if is == nil {
		n.not = true
		n.ranges, err = rangesOf(snapshot, ids, not)
		if len(n.ranges) == 0 { // outside of nothing: whatever has the field
			n.not, n.ranges = false, []model.Range{{Lo: 0, Hi: rule.Fields[field].Max}}
		}
		return n, err
	}
	if n.ranges, err = rangesOf(snapshot, ids, is); err != nil {
		return n, err
	}
	if not != nil {
		except, err := rangesOf(snapshot, ids, not)
		if err != nil {
			return n, err
		}
		n.ranges = subtract(n.ranges, except)
	}
	if field == abi.FieldProto {
		n.ranges = singles(n.ranges)
	}
	return n, nil
}

// rangesOf returns the values of a condition on a number field, ascending and apart from each other.
func rangesOf(snapshot *model.Snapshot, ids IDs, condition *model.Condition) ([]model.Range, error) {
	ranges := condition.Ranges
	for _, name := range condition.Names {
		number, ok := ids.numberOf(condition.Field, name)
		if !ok {
			return nil, fmt.Errorf("%s %q doesn't exist", condition.Field, name)
		}
		ranges = append(ranges, model.Range{Lo: number, Hi: number})
	}
	if condition.Set != "" {
		set, err := findSet(snapshot, condition.Set, model.Ports)
		if err != nil {
			return nil, err
		}
		ranges = set.Ports
	}
	return union(ranges), nil
}

// union sorts ranges and joins those that overlap or touch.
func union(ranges []model.Range) []model.Range {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b model.Range) int { return cmp.Compare(a.Lo, b.Lo) })
	var joined []model.Range
	for _, r := range sorted {
		if last := len(joined) - 1; last >= 0 && uint64(r.Lo) <= uint64(joined[last].Hi)+1 {
			joined[last].Hi = max(joined[last].Hi, r.Hi)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

// subtract returns what of ranges is in none of except; both are results of union.
func subtract(ranges, except []model.Range) []model.Range {
	var left []model.Range
	for _, r := range ranges {
		lo := uint64(r.Lo)
		for _, e := range except {
			if uint64(e.Hi) < lo || e.Lo > r.Hi {
				continue
			}
			if uint64(e.Lo) > lo {
				left = append(left, model.Range{Lo: uint32(lo), Hi: e.Lo - 1})
			}
			lo = uint64(e.Hi) + 1
		}
		if lo <= uint64(r.Hi) {
			left = append(left, model.Range{Lo: uint32(lo), Hi: r.Hi})
		}
	}
	return left
}

// singles splits ranges into single values, which can be hashed, while these are few.
func singles(ranges []model.Range) []model.Range {
	var values []model.Range
	for _, r := range ranges {
		if len(values)+int(r.Hi-r.Lo) >= maxExpand {
			return ranges
		}
		for v := r.Lo; v <= r.Hi; v++ {
			values = append(values, model.Range{Lo: v, Hi: v})
		}
	}
	return values
}

// condition is one entry of a rule_extra line.
type condition struct {
	field  abi.Field
	flags  abi.ExtFlags
	lo, hi uint32
	part   uint16
}

const (
	conditionsPerLine = 5
	bitmapBits        = 65536
	bitmapLines       = bitmapBits / 8 / lineBytes
)

// extras is the ext area under construction. Equal lists of conditions and equal bitmaps are stored once.
type extras struct {
	lines   []abi.Line
	lists   map[string]uint32
	bitmaps map[string]uint32
}

// list stores conditions, at least one, and returns their first line.
func (e *extras) list(conditions []condition) uint32 {
	var key []byte
	for _, c := range conditions {
		key = append(key, byte(c.field), byte(c.flags))
		key = appendRange(key, c.lo, c.hi)
		key = append(key, byte(c.part), byte(c.part>>8))
	}
	if at, ok := e.lists[string(key)]; ok {
		return at
	}
	at := uint32(len(e.lines))
	for chunk := range slices.Chunk(conditions, conditionsPerLine) {
		var extra abi.RuleExtra
		for i, c := range chunk {
			cond := &extra.Cond[i]
			cond.Field, cond.Flags, cond.Part, cond.Lo, cond.Hi = uint8(c.field), uint8(c.flags), c.part, c.lo, c.hi
		}
		extra.Count, extra.More = uint16(len(chunk)), 1
		e.lines = append(e.lines, abi.ToLine(extra))
	}
	last := &e.lines[len(e.lines)-1]
	extra := abi.FromLine[abi.RuleExtra](*last)
	extra.More = 0
	*last = abi.ToLine(extra)
	if e.lists == nil {
		e.lists = map[string]uint32{}
	}
	e.lists[string(key)] = at
	return at
}

// bitmap stores the set of values and returns its first line.
func (e *extras) bitmap(ranges []model.Range) uint32 {
	var key []byte
	for _, r := range ranges {
		key = appendRange(key, r.Lo, r.Hi)
	}
	if at, ok := e.bitmaps[string(key)]; ok {
		return at
	}
	at := uint32(len(e.lines))
	bits := make(array, bitmapLines)
	for _, r := range ranges {
		for v := r.Lo; v <= r.Hi && v < bitmapBits; v++ {
			bits.or(int(v/64), 1<<(v%64))
		}
	}
	e.lines = append(e.lines, bits...)
	if e.bitmaps == nil {
		e.bitmaps = map[string]uint32{}
	}
	e.bitmaps[string(key)] = at
	return at
}

func appendRange(key []byte, lo, hi uint32) []byte {
	return append(key, byte(lo), byte(lo>>8), byte(lo>>16), byte(lo>>24), byte(hi), byte(hi>>8), byte(hi>>16), byte(hi>>24))
}
