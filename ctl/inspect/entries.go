package inspect

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"gardu/ctl/abi"
)

// Entry is a key of a map and what is there: decoded where the type is known, else hex. Of a map that each CPU has for itself,
// a list by CPU.
type Entry struct {
	Key   any `json:"key"`
	Value any `json:"value"`
}

func marshal(value any) ([]byte, error) { return json.Marshal(value) }

// Content reads the entries of a map. Close it.
type Content struct {
	m          *ebpf.Map
	key, value btf.Type // nil: not known
	perCPU     bool
}

// errNoKeys is for maps that can't be looked into by key.
var errNoKeys = errors.New("it has no entries that can be looked up")

// Content opens a map for reading, by its name or id.
func (m Map) Content() (*Content, error) {
	opened, err := ebpf.NewMapFromID(ebpf.MapID(m.ID))
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", m.Name, err)
	}
	c := &Content{m: opened, perCPU: strings.HasPrefix(opened.Type().String(), "PerCPU") || opened.Type() == ebpf.LRUCPUHash}
	switch opened.Type() {
	case ebpf.RingBuf, ebpf.ProgramArray:
		opened.Close()
		return nil, fmt.Errorf("map %s: %w", m.Name, errNoKeys)
	}
	if spec, err := abi.LoadAbi(); err == nil {
		if one, ok := spec.Maps[m.Name]; ok && one.InnerMap == nil {
			c.key, c.value = one.Key, one.Value
		}
	}
	return c, nil
}

// Close lets go of the map.
func (c *Content) Close() error { return c.m.Close() }

// ParseKey reads a key: a number, or the bytes in hex.
func (c *Content) ParseKey(text string) ([]byte, error) {
	size := int(c.m.KeySize())
	if size == 4 {
		if n, err := strconv.ParseUint(text, 0, 32); err == nil {
			return binary.NativeEndian.AppendUint32(nil, uint32(n)), nil
		}
	}
	key, err := hex.DecodeString(strings.TrimPrefix(strings.ReplaceAll(text, " ", ""), "0x"))
	if err != nil || len(key) != size {
		return nil, fmt.Errorf("key %q: it is %d bytes in hex%s", text, size, map[bool]string{true: ", or a number"}[size == 4])
	}
	return key, nil
}

// Lookup returns the entry of a key; errors.Is(err, ebpf.ErrKeyNotExist) when there is none.
func (c *Content) Lookup(key []byte) (Entry, error) {
	size := int(c.m.ValueSize())
	if !c.perCPU {
		value := make([]byte, size)
		if err := c.m.Lookup(key, &value); err != nil {
			return Entry{}, noEntry(err)
		}
		return Entry{c.decodeKey(key), c.decode(value)}, nil
	}
	var each [][]byte
	if err := c.m.Lookup(key, &each); err != nil {
		return Entry{}, noEntry(err)
	}
	values := make([]any, len(each))
	for cpu, value := range each {
		values[cpu] = c.decode(value[:size])
	}
	return Entry{c.decodeKey(key), values}, nil
}

// Next returns the key behind one; nil: the first. errors.Is(err, ebpf.ErrKeyNotExist) at the end.
func (c *Content) Next(key []byte) ([]byte, error) {
	next := make([]byte, c.m.KeySize())
	var from any // not a nil slice
	if key != nil {
		from = key
	}
	if err := c.m.NextKey(from, &next); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, &NoEntry{"no further entry"}
	} else if err != nil {
		return nil, fmt.Errorf("next key: %w", err)
	}
	return next, nil
}

// NoEntry says that a map has none; it is ebpf.ErrKeyNotExist.
type NoEntry struct{ what string }

func (e *NoEntry) Error() string { return "the map has " + e.what }

func (e *NoEntry) Unwrap() error { return ebpf.ErrKeyNotExist }

func noEntry(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return &NoEntry{"no such entry"}
	}
	return fmt.Errorf("look up: %w", err)
}

// Dump calls visit with each entry, at most so many, until it returns an error. Entries that come and go meanwhile may be seen
// or not. Those of an array that hold nothing but zeros are left out.
func (c *Content) Dump(most int, visit func(Entry) error) error {
	array := slices.Contains([]ebpf.MapType{ebpf.Array, ebpf.PerCPUArray}, c.m.Type())
	var key []byte
	for range c.m.MaxEntries() {
		next, err := c.Next(key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		key = next
		if array && c.zero(key) {
			continue
		}
		entry, err := c.Lookup(key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := visit(entry); err != nil {
			return err
		}
		if most--; most == 0 {
			return nil
		}
	}
	return nil
}

func (c *Content) zero(key []byte) bool {
	raw, err := c.m.LookupBytes(key)
	return err == nil && !slices.ContainsFunc(raw, func(b byte) bool { return b != 0 })
}

func (c *Content) decodeKey(key []byte) any {
	if c.key == nil {
		if len(key) == 4 {
			return binary.NativeEndian.Uint32(key)
		}
		return hex.EncodeToString(key)
	}
	return decode(c.key, key)
}

func (c *Content) decode(value []byte) any {
	if c.value == nil {
		return hex.EncodeToString(value)
	}
	return decode(c.value, value)
}
