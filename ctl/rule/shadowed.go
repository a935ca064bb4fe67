package rule

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// Shadow says that Rule is never reached because By, before it, matches all that it matches. Both are indexes.
type Shadow struct{ Rule, By int }

const (
	// maxEffort bounds the search for covering rules, in steps of some nanoseconds.
	maxEffort = 10_000_000
	// maxResolved is how many entries a set may have whose entries are looked at. Set files change, so those of inline sets
	// alone say something about tomorrow.
	maxResolved = 64
)

// Shadowed finds rules that are never reached because one earlier rule decides all that they match. What it finds is
// true; it stops looking after a bounded effort, which 100,000 rules of a few fields don't need.
func Shadowed(rules []model.Rule, sets ...model.Set) []Shadow {
	s := shadows{
		rules:  make([]*model.Rule, len(rules)),
		shapes: map[coverShape]*coverIndex{},
		alike:  make(map[uint64]int32, len(rules)),
		inline: map[string]*model.Set{},
		effort: maxEffort,
	}
	for i := range sets {
		if set := &sets[i]; set.File == "" && len(set.Prefixes)+len(set.Ports) <= maxResolved {
			s.inline[set.Name] = set
		}
	}
	var found []Shadow
	for i := range rules {
		s.rules[i] = s.resolve(&rules[i])
		if by := s.coveredBy(i); by >= 0 {
			found = append(found, Shadow{Rule: i, By: by})
		} else if Decides(rules[i]) {
			s.add(i)
		}
	}
	return found
}

// shadows is the state of Shadowed: the rules so far that decide and that no other covers, to be found by what they hold.
type shadows struct {
	rules  []*model.Rule
	shapes map[coverShape]*coverIndex
	order  []*coverIndex
	alike  map[uint64]int32 // by hash of all conditions, in any order
	inline map[string]*model.Set
	effort int
}

// coverShape says what rules are indexed by: which fields they ask for, and of an address, a protocol and a port, if they ask
// for one value, what part of it.
type coverShape struct {
	fields   uint64 // by their rows: the negated ones 32 bits higher
	src, dst uint8  // leading bits, plus one; 0: not indexed
	v6       bool
	proto    bool
	sport    bool
	dport    bool
	srcSet   bool // the name of the set
	dstSet   bool
}

// coverIndex holds the rules of one shape.
type coverIndex struct {
	shape coverShape
	rules map[uint64]int32 // the first one with a hash
	more  map[int32][]int32
}

// resolve returns the rule with the entries of small inline sets in the place of the set.
func (s *shadows) resolve(r *model.Rule) *model.Rule {
	resolved := r
	for i := range r.Match {
		set, ok := s.inline[r.Match[i].Set]
		if r.Match[i].Set == "" || !ok || len(set.Prefixes)+len(set.Ports) == 0 {
			continue
		}
		if resolved == r {
			other := *r
			other.Match = slices.Clone(r.Match)
			resolved = &other
		}
		c := &resolved.Match[i]
		c.Set, c.Prefixes, c.Ranges = "", set.Prefixes, set.Ports
	}
	return resolved
}

// coveredBy returns the first earlier rule that covers rule i, or -1.
func (s *shadows) coveredBy(i int) int {
	r := s.rules[i]
	best := -1
	consider := func(j int32) {
		if (best < 0 || int(j) < best) && covers(s.rules[j], r, &s.effort) {
			best = int(j)
		}
	}
	if j, ok := s.alike[hashAll(r)]; ok {
		free := maxEffort
		if covers(s.rules[j], r, &free) {
			best = int(j)
		}
	}
	fields := fieldsOf(r)
	for _, index := range s.order {
		if s.effort -= 2; s.effort < 0 {
			return best
		}
		// A negated condition can follow from a plain one.
		if index.shape.fields&^(fields|fields<<32) != 0 {
			continue
		}
		key, ok := index.shape.key(r)
		if !ok {
			continue
		}
		s.effort -= 10
		first, ok := index.rules[key]
		if !ok {
			continue
		}
		consider(first)
		for _, j := range index.more[first] {
			if s.effort < 0 || best >= 0 && int(j) > best {
				break
			}
			consider(j)
		}
	}
	return best
}

// add indexes a rule.
func (s *shadows) add(i int) {
	r := s.rules[i]
	all := hashAll(r)
	if _, ok := s.alike[all]; !ok {
		s.alike[all] = int32(i)
	}
	shape := shapeOf(r)
	index := s.shapes[shape]
	if index == nil {
		index = &coverIndex{shape: shape, rules: map[uint64]int32{}, more: map[int32][]int32{}}
		s.shapes[shape] = index
		s.order = append(s.order, index)
	}
	key, _ := shape.key(r)
	if first, ok := index.rules[key]; ok {
		index.more[first] = append(index.more[first], int32(i))
	} else {
		index.rules[key] = int32(i)
	}
}

// fieldsOf returns which fields a rule asks for.
func fieldsOf(r *model.Rule) (fields uint64) {
	for i := range r.Match {
		c := &r.Match[i]
		for row := range Fields {
			if Fields[row].Name != c.Field {
				continue
			}
			if c.Not {
				row += 32
			}
			fields |= 1 << row
			break
		}
	}
	return fields
}

// coarse are the lengths of prefixes that are indexed, longest first: few, so that there are few shapes.
var coarse = [2][]int{{32, 24, 16, 8}, {128, 64, 48, 32, 16}}

// shapeOf returns the shape by which a rule is found.
func shapeOf(r *model.Rule) coverShape {
	shape := coverShape{fields: fieldsOf(r)}
	for i := range r.Match {
		c := &r.Match[i]
		if c.Not {
			continue
		}
		single := len(c.Ranges) == 1 && c.Ranges[0].Lo == c.Ranges[0].Hi
		switch c.Field {
		case "proto":
			shape.proto = single
		case "sport":
			shape.sport = single
		case "dport":
			shape.dport = single
		case "src", "dst":
			switch {
			case c.Set != "" && c.Field == "src":
				shape.srcSet = true
			case c.Set != "":
				shape.dstSet = true
			}
			if len(c.Prefixes) != 1 {
				continue
			}
			p := c.Prefixes[0]
			v6 := p.Addr().Is6()
			if shape.src|shape.dst != 0 && shape.v6 != v6 {
				continue // contradicts itself
			}
			for _, length := range coarse[family(v6)] {
				if length <= p.Bits() {
					shape.v6 = v6
					if c.Field == "src" {
						shape.src = uint8(length + 1)
					} else {
						shape.dst = uint8(length + 1)
					}
					break
				}
			}
		}
	}
	return shape
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// key is the hash of what the shape looks at. It is the same for a rule of that shape and for every rule that it covers;
// ok is false for a rule that none of that shape can cover.
func (s coverShape) key(r *model.Rule) (key uint64, ok bool) {
	h := hasher(s.fields)
	for i := range r.Match {
		c := &r.Match[i]
		if c.Not {
			continue
		}
		var number bool
		switch c.Field {
		case "src", "dst":
			length, set, salt := s.src, s.srcSet, uint64(1)
			if c.Field == "dst" {
				length, set, salt = s.dst, s.dstSet, 2
			}
			if set {
				h.sum(hashText(c.Set) + salt)
			}
			if length == 0 {
				continue
			}
			if len(c.Prefixes) == 0 {
				return 0, false
			}
			p := c.Prefixes[0]
			if p.Addr().Is6() != s.v6 || p.Bits() < int(length)-1 {
				return 0, false
			}
			h.sum(hashPrefix(p.Addr(), int(length)-1) + salt)
			continue
		case "proto":
			number = s.proto
		case "sport":
			number = s.sport
		case "dport":
			number = s.dport
		}
		if number {
			if len(c.Ranges) == 0 {
				return 0, false
			}
			h.sum(hashText(string(c.Field)) + uint64(c.Ranges[0].Lo))
		}
	}
	return uint64(h), true
}

// hashAll is equal for rules with the same conditions in any order.
func hashAll(r *model.Rule) uint64 {
	h := hasher(hashText(string(cmp.Or(r.Direction, model.In))))
	for i := range r.Match {
		c := &r.Match[i]
		own := hasher(hashText(string(c.Field)))
		if c.Not {
			own++
		}
		if c.Set != "" {
			own.then(hashText(c.Set))
		}
		for _, p := range c.Prefixes {
			own.then(hashPrefix(p.Addr(), p.Bits()) + uint64(p.Bits()))
		}
		for _, v := range c.Ranges {
			own.then(uint64(v.Lo)<<32 | uint64(v.Hi))
		}
		for _, m := range c.Masks {
			own.then(m.Value)
			own.then(m.Bits)
		}
		for _, name := range c.Names {
			own.then(hashText(name))
		}
		h.sum(uint64(own))
	}
	return uint64(h)
}

// hasher is a hash under construction. Nothing depends on it but time: what it finds is compared.
type hasher uint64

func (h *hasher) then(v uint64) {
	hi, lo := bits.Mul64(uint64(*h)^v, 0x9E3779B97F4A7C15)
	*h = hasher(hi ^ lo)
}

// sum adds something in whatever order.
func (h *hasher) sum(v uint64) {
	mixed := hasher(0x243F6A8885A308D3)
	mixed.then(v)
	*h += mixed
}

func hashText(text string) uint64 {
	h := hasher(len(text))
	for i := range len(text) {
		h = h*31 + hasher(text[i])
	}
	return uint64(h)
}

// hashPrefix is the hash of the leading bits of an address.
func hashPrefix(addr netip.Addr, length int) uint64 {
	if addr.Is4() {
		b := addr.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) >> (32 - length) << 8
	}
	b := addr.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if length <= 64 {
		return hi >> (64 - length) << 8
	}
	h := hasher(hi)
	h.then(lo >> (128 - length))
	return uint64(h)
}

// covers tells whether wide obviously matches every packet that narrow matches: each condition of wide is implied by
// one of narrow.
func covers(wide, narrow *model.Rule, effort *int) bool {
	if cmp.Or(wide.Direction, model.In) != cmp.Or(narrow.Direction, model.In) {
		return false
	}
	if JudgesLink(*narrow) && !JudgesLink(*wide) {
		return false // frames that are neither IPv4 nor IPv6 get as far as narrow
	}
	for i := range wide.Match {
		w := &wide.Match[i]
		if !slices.ContainsFunc(narrow.Match, func(n model.Condition) bool { return implies(n, *w, effort) || excludes(n, *w, effort) }) {
			return false
		}
	}
	return true
}

// excludes tells whether a packet with one of a's values obviously has none of those that b forbids.
func excludes(a, b model.Condition, effort *int) bool {
	if a.Field != b.Field || a.Not || !b.Not || a.Set != "" || b.Set != "" || len(a.Prefixes)+len(a.Ranges) == 0 {
		return false
	}
	if *effort -= len(a.Prefixes)*len(b.Prefixes) + len(a.Ranges)*len(b.Ranges); *effort < 0 {
		return false
	}
	for _, p := range a.Prefixes {
		if slices.ContainsFunc(b.Prefixes, p.Overlaps) {
			return false
		}
	}
	for _, r := range a.Ranges {
		if slices.ContainsFunc(b.Ranges, func(s model.Range) bool { return s.Lo <= r.Hi && r.Lo <= s.Hi }) {
			return false
		}
	}
	return true
}
