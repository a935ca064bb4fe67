package config

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"gardu/ctl/model"
	"gardu/ctl/yaml"
)

// maxValues bounds the values of a document after its anchors are expanded.
const maxValues = 4_000_000

// maxMerges bounds how deeply merge keys (<<) may nest.
const maxMerges = 8

// decoder reads one document and collects what is wrong with it.
type decoder struct {
	file     string
	dir      string // set files are relative to it
	text     string
	ascii    bool     // all of it
	lines    []string // see allLines
	errors   Errors
	unkept   int // errors over mostErrors
	warnings []Warning
	values   int                     // values read so far
	objects  []objectNode            // the mapping of each object
	mappings map[place]*yaml.Node    // the same, once valueAt was asked
	broken   map[model.Position]bool // objects with an error in them
	offsets  map[int32][]int32       // characterOffsets of lines, as they are needed
	forked   bool                    // reads a part of a list, beside others
}

// place is where something stands in the document.
type place struct{ line, column int }

// objectNode is an object and the mapping that it was read from.
type objectNode struct {
	place
	mapping *yaml.Node
}

// kind is a type of value: how to read it, and how the JSON schema describes it.
type kind[T any] struct {
	schema schema
	// read reports what is wrong, and then returns false and as much as it understood. owner is the key or list item
	// that the value belongs to; it is where something missing is reported.
	read func(d *decoder, n, owner *yaml.Node) (T, bool)
}

// scalar is a kind written as one word; parse says what is wrong with it.
func scalar[T any](allowed string, s schema, parse func(word string) (T, error)) kind[T] {
	return kind[T]{s, func(d *decoder, n, owner *yaml.Node) (value T, ok bool) {
		word, ok := d.word(n, owner, allowed)
		if !ok {
			return value, false
		}
		value, err := parse(word)
		if err != nil {
			d.fail(d.at(n), allowed, "%s", err)
			return value, false
		}
		return value, true
	}}
}

// as is a kind whose values are made into others.
func as[T, V any](k kind[T], convert func(T) V) kind[V] {
	return kind[V]{k.schema, func(d *decoder, n, owner *yaml.Node) (V, bool) {
		value, ok := k.read(d, n, owner)
		return convert(value), ok
	}}
}

// enabled tells flows that are written from those that are all default.
func enabled(k kind[model.Flows]) kind[model.Flows] {
	return kind[model.Flows]{k.schema, func(d *decoder, n, owner *yaml.Node) (model.Flows, bool) {
		value, ok := k.read(d, n, owner)
		value.Enabled = written(n)
		return value, ok
	}}
}

// list is a kind written as a list. An empty one is refused if it would mean nothing.
func list[T any](item kind[T], empty bool, allowed string) kind[[]T] {
	s := schema{"type": "array", "items": item.schema}
	if !empty {
		s["minItems"] = 1
	}
	return kind[[]T]{s, func(d *decoder, n, owner *yaml.Node) ([]T, bool) {
		n, ok := d.enter(n, owner, yaml.SequenceNode, allowed)
		if !ok {
			return nil, false
		}
		if len(n.Content) == 0 && !empty {
			d.fail(d.at(n), allowed, "the list is empty")
			return nil, false
		}
		if len(n.Content) >= manyItems && !d.forked {
			return item.readSplit(d, n)
		}
		values := make([]T, len(n.Content))
		return values, item.readInto(d, n.Content, values)
	}}
}

// readInto reads the items of a list.
func (k kind[T]) readInto(d *decoder, items []*yaml.Node, values []T) bool {
	allOK := true
	for i, content := range items {
		value, ok := k.read(d, content, content)
		values[i] = value
		allOK = allOK && ok
	}
	return allOK
}

// manyItems is how many items of a list are worth to be read side by side.
const manyItems = 4096

// readSplit reads a long list in parts, side by side.
func (k kind[T]) readSplit(d *decoder, n *yaml.Node) ([]T, bool) {
	values := make([]T, len(n.Content))
	forks := make([]*decoder, runtime.GOMAXPROCS(0))
	allOK := make([]bool, len(forks))
	if !d.ascii {
		d.allLines()
	}
	var running sync.WaitGroup
	for i := range forks {
		first, end := len(values)*i/len(forks), len(values)*(i+1)/len(forks)
		forks[i] = &decoder{file: d.file, dir: d.dir, text: d.text, ascii: d.ascii, lines: d.lines, values: d.values, forked: true,
			broken: make(map[model.Position]bool), offsets: make(map[int32][]int32)}
		running.Go(func() { allOK[i] = k.readInto(forks[i], n.Content[first:end], values[first:end]) })
	}
	running.Wait()
	before := d.values
	for _, fork := range forks {
		d.join(fork, before)
		if fork.values >= maxValues { // it said so, and nobody reads on
			break
		}
	}
	if d.values >= maxValues && !slices.ContainsFunc(forks, func(f *decoder) bool { return f.values >= maxValues }) {
		d.values = maxValues - 1
		d.spend(n)
	}
	return values, !slices.Contains(allOK, false) && d.values < maxValues
}

// join takes over what was found in a part of the document that was read beside others, from when so many values had been read.
func (d *decoder) join(fork *decoder, before int) {
	d.values += fork.values - before
	kept := min(len(fork.errors), mostErrors-len(d.errors))
	d.errors = append(d.errors, fork.errors[:kept]...)
	d.unkept += fork.unkept + len(fork.errors) - kept
	d.warnings = append(d.warnings, fork.warnings...)
	for place, mapping := range fork.mappings {
		d.objects = append(d.objects, objectNode{place, mapping})
	}
	d.objects = append(d.objects, fork.objects...)
	maps.Copy(d.broken, fork.broken)
}

// object is a kind written as a mapping with known keys.
type object[T any] struct {
	what  string // "a service"
	pos   func(*T) *model.Position
	keys  []key[T]
	later []string // keys that this version lacks
}

// key is one row of an object's table.
type key[T any] struct {
	name     string
	help     string // with the unit and the bounds
	required bool
	absent   *yaml.Node // what is read when the key is absent; nil leaves the zero value
	schema   schema
	read     func(d *decoder, n, owner *yaml.Node, into *T) bool
}

// in makes a key whose value goes into a part of T. What was understood of a wrong value goes there too, so that
// the checks that follow can find more errors at once.
func in[T, V any](name string, k kind[V], part func(*T) *V, help string) key[T] {
	return key[T]{name: name, help: help, schema: k.schema, read: func(d *decoder, n, owner *yaml.Node, into *T) bool {
		value, ok := k.read(d, n, owner)
		*part(into) = value
		return ok
	}}
}

func (k key[T]) must() key[T] {
	k.required = true
	return k
}

// or gives a scalar key its default, as it would be written.
func (k key[T]) or(preset string) key[T] {
	k.absent = &yaml.Node{Kind: yaml.ScalarNode, Value: preset}
	return k
}

// orDefaults makes an absent object one that has all defaults.
func (k key[T]) orDefaults() key[T] {
	k.absent = &yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NullTag}
	return k
}

// written tells a node of the file from a default.
func written(n *yaml.Node) bool { return n.Line > 0 }

// kind returns the object as a kind. Without a required key, nothing at all (`eth0:`) is an object of defaults.
func (o object[T]) kind() kind[T] {
	return kind[T]{o.schema(), o.read}
}

// allowed says what the object can hold.
func (o *object[T]) allowed() string { return "the keys " + strings.Join(o.names(), ", ") }

func (o object[T]) names() []string {
	names := make([]string, len(o.keys))
	for i, k := range o.keys {
		names[i] = k.name
	}
	return names
}

func (o object[T]) read(d *decoder, n, owner *yaml.Node) (value T, ok bool) {
	var pos model.Position // stays zero for an object that is all default
	if written(n) {
		pos = d.at(owner)
	}
	if o.pos != nil {
		*o.pos(&value) = pos
	}
	var pairs []pair
	if !(isNull(resolve(n)) && !slices.ContainsFunc(o.keys, func(k key[T]) bool { return k.required })) {
		if n, ok = d.enterWith(n, owner, yaml.MappingNode, o.allowed); !ok {
			d.broken[pos] = true
			return value, false
		}
		pairs = d.pairs(n)
	}
	d.objects = append(d.objects, objectNode{place{pos.Line, pos.Column}, n})

	ok = true
	var given uint64 // keys, by their place in the table
	for _, p := range pairs {
		i := slices.IndexFunc(o.keys, func(k key[T]) bool { return k.name == p.key.Value })
		if i < 0 {
			d.unknown(p.key, "key", " in "+o.what, o.names(), o.later)
			ok = false
			continue
		}
		given |= 1 << i
		ok = o.keys[i].read(d, p.value, p.key, &value) && ok
	}
	for i := range o.keys {
		k := &o.keys[i]
		switch {
		case given>>i&1 != 0:
		case k.required:
			d.fail(d.at(owner), k.help, "%s needs the key %s", o.what, k.name)
			ok = false
		case k.absent != nil:
			k.read(d, k.absent, owner, &value)
		}
	}
	if !ok {
		d.broken[pos] = true
	}
	return value, ok
}

// named is a kind written as a mapping from names to objects, in the order of the file.
func named[T any](name kind[string], o object[T], nameOf func(*T) *string) kind[[]T] {
	s := schema{"type": "object", "propertyNames": name.schema, "additionalProperties": o.schema()}
	return kind[[]T]{s, func(d *decoder, n, owner *yaml.Node) ([]T, bool) {
		n, ok := d.enter(n, owner, yaml.MappingNode, "NAME: {"+strings.Join(o.names(), ", ")+"}")
		if !ok {
			return nil, false
		}
		pairs := d.pairs(n)
		values := make([]T, 0, len(pairs))
		for _, p := range pairs {
			word, nameOK := name.read(d, p.key, p.key)
			value, valueOK := o.read(d, p.value, p.key)
			*nameOf(&value) = word
			values = append(values, value)
			ok = ok && nameOK && valueOK
		}
		return values, ok
	}}
}

// pair is a key of a mapping and its value.
type pair struct{ key, value *yaml.Node }

// pairs returns a mapping's keys and values, then those it merges in (<<) and doesn't have itself.
func (d *decoder) pairs(n *yaml.Node) []pair {
	if all, ok := plainPairs(n); ok {
		return all
	}
	var all []pair
	d.gather(n, maxMerges, make(map[string]*yaml.Node), &all)
	return all
}

// plainPairs is pairs for a short mapping of different words, which is nearly every one.
func plainPairs(n *yaml.Node) ([]pair, bool) {
	const short = 16
	if len(n.Content) > 2*short {
		return nil, false
	}
	all := make([]pair, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := resolve(n.Content[i])
		if k.Kind != yaml.ScalarNode || k.Tag == yaml.MergeTag || slices.ContainsFunc(all, func(p pair) bool { return p.key.Value == k.Value }) {
			return nil, false
		}
		all = append(all, pair{k, n.Content[i+1]})
	}
	return all, true
}

func (d *decoder) gather(n *yaml.Node, depth int, seen map[string]*yaml.Node, all *[]pair) {
	own := make(map[string]*yaml.Node, len(n.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), n.Content[i+1]
		switch first := own[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.fail(d.at(k), "", "a key is one word, not a %s", kindName(k))
		case first != nil:
			d.fail(d.at(k), "", "%s is given twice; the first is in line %d", quoted(k.Value), first.Line)
		case k.Tag == yaml.MergeTag:
			own[k.Value] = k
			merged = append(merged, v)
		default:
			own[k.Value] = k
			if seen[k.Value] == nil {
				seen[k.Value] = k
				*all = append(*all, pair{k, v})
			}
		}
	}
	for _, v := range merged {
		from := []*yaml.Node{v}
		if target := resolve(v); target.Kind == yaml.SequenceNode {
			from = target.Content
		}
		for _, v := range from {
			switch target := resolve(v); {
			case target.Kind != yaml.MappingNode:
				d.fail(d.at(v), "a mapping, or a list of them, each usually as *ANCHOR", "<< merges mappings, not a %s", kindName(target))
			case depth == 0:
				d.fail(d.at(v), "", "<< is nested more than %d deep", maxMerges)
			case d.spend(target):
				d.gather(target, depth-1, seen, all)
			}
		}
	}
}

// enter resolves n and makes sure that it is of the wanted kind. It fails silently once the document is too large.
func (d *decoder) enter(n, owner *yaml.Node, want yaml.Kind, allowed string) (*yaml.Node, bool) {
	return d.enterWith(n, owner, want, func() string { return allowed })
}

// enterWith is enter where it takes time to say what is allowed.
func (d *decoder) enterWith(n, owner *yaml.Node, want yaml.Kind, say func() string) (*yaml.Node, bool) {
	n = resolve(n)
	if !d.spend(n) {
		return n, false
	}
	if n.Kind == want && !n.Tagged && !isNull(n) {
		return n, true
	}
	allowed := say()
	switch {
	case n.Kind == want && n.Tagged:
		d.fail(d.at(n), "", "the tag %s has no meaning here", quoted(n.Tag))
	case isNull(n):
		d.fail(d.at(owner), allowed, "%s has no value", quoted(owner.Value))
	case want == yaml.ScalarNode && n.Kind == yaml.MappingNode && looksLikeIPv6(n):
		d.fail(d.at(n), allowed, `an IPv6 address that starts or ends with a colon needs quotes: "2001:db8::"`)
	default:
		d.fail(d.at(n), allowed, "a %s stands where a %s belongs", kindName(n), kindName(&yaml.Node{Kind: want}))
	}
	return n, false
}

// spend counts a value. When there are too many it reports that once and returns false from then on.
func (d *decoder) spend(n *yaml.Node) bool {
	d.values++
	if d.values == maxValues {
		d.fail(d.at(n), "", "the document has more than %d values with its anchors expanded", maxValues)
	}
	return d.values < maxValues
}

// word reads a scalar. Whether it is quoted makes no difference, because each kind says what it takes.
func (d *decoder) word(n, owner *yaml.Node, allowed string) (string, bool) {
	return d.wordWith(n, owner, func() string { return allowed })
}

// wordWith is word where it takes time to say what is allowed.
func (d *decoder) wordWith(n, owner *yaml.Node, say func() string) (string, bool) {
	n, ok := d.enterWith(n, owner, yaml.ScalarNode, say)
	return n.Value, ok
}

// unknown reports a word that isn't one of those known, and why: not in this version, or a slip.
func (d *decoder) unknown(n *yaml.Node, what, where string, known, later []string) {
	if slices.Contains(later, n.Value) {
		d.fail(d.at(n), strings.Join(known, ", "), "%s is not available in this version", n.Value)
		return
	}
	d.fail(d.at(n), strings.Join(known, ", "), "unknown %s %s%s%s", what, quoted(n.Value), where, didYouMean(n.Value, known))
}

// fail reports an error.
func (d *decoder) fail(pos model.Position, allowed, format string, args ...any) {
	if len(d.errors) == mostErrors {
		d.unkept++
		return
	}
	d.errors = append(d.errors, &Error{Pos: pos, Msg: fmt.Sprintf(format, args...), Allowed: allowed, Line: d.line(pos)})
}

// warn reports a warning.
func (d *decoder) warn(pos model.Position, format string, args ...any) {
	d.warnings = append(d.warnings, Warning{Pos: pos, Msg: fmt.Sprintf(format, args...), Line: d.line(pos)})
}

// line returns the text of a position in the document, for an error.
func (d *decoder) line(pos model.Position) string {
	if lines := d.allLines(); pos.File == d.file && pos.Line >= 1 && pos.Line <= len(lines) {
		return shownLine(lines[pos.Line-1])
	}
	return ""
}

// at returns where a node stands. YAML counts columns in characters, a Position in bytes.
func (d *decoder) at(n *yaml.Node) model.Position {
	pos := model.Position{File: d.file, Line: int(n.Line), Column: int(n.Column)}
	if d.ascii {
		return pos
	}
	offsets, ok := d.offsets[n.Line]
	if lines := d.allLines(); !ok && pos.Line >= 1 && pos.Line <= len(lines) {
		line := lines[pos.Line-1]
		// Most lines are ASCII and short; those are looked at again rather than kept.
		if offsets = characterOffsets(line); offsets != nil || len(line) > 4096 {
			d.offsets[n.Line] = offsets
		}
	}
	if pos.Column >= 1 && pos.Column <= len(offsets) {
		pos.Column = int(offsets[pos.Column-1]) + 1
	}
	return pos
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// characterOffsets returns at which byte each character of a line starts; nil if characters are bytes.
func characterOffsets(line string) []int32 {
	if isASCII(line) {
		return nil
	}
	var offsets []int32
	for i := range line {
		offsets = append(offsets, int32(i))
	}
	return offsets
}

// valueAt returns where the value of a key of the object at pos stands; the object itself if it lacks the key.
func (d *decoder) valueAt(object model.Position, name string) model.Position {
	if d.mappings == nil {
		d.mappings = make(map[place]*yaml.Node, len(d.objects))
	}
	for _, o := range d.objects {
		d.mappings[o.place] = o.mapping
	}
	d.objects = nil
	if n := d.mappings[place{object.Line, object.Column}]; n != nil && n.Kind == yaml.MappingNode && object.File == d.file {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				return d.at(resolve(n.Content[i+1]))
			}
		}
	}
	return object
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Content[0]
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == yaml.NullTag
}

// looksLikeIPv6 recognizes {"2001:db8:": null}, what YAML makes of the list item 2001:db8::.
func looksLikeIPv6(n *yaml.Node) bool {
	return len(n.Content) == 2 && strings.HasSuffix(n.Content[0].Value, ":") && isNull(n.Content[1])
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	default:
		return "single value"
	}
}
