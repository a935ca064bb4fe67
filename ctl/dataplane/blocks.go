package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// privateBlocks is how many blocks a private instance has room for.
const privateBlocks = 4096

// Block drops all that comes from a prefix.
type Block struct {
	Prefix  netip.Prefix // masked, not /0
	Expires time.Time    // zero: never. The data plane itself stops honouring it then
	Origin  string       // who asked for it: "cli", "api"
	Why     string       // cut to what fits beside Origin into 102 bytes
	Created time.Time    // set by AddBlocks
	Packets uint64       // dropped so far
	Bytes   uint64       // of their frames
}

// blockNote is abi.BlockNote as bytes.
type blockNote [abi.NoteBytes]byte

// blockLengths counts the blocks of each prefix length, to know when the last one is gone.
type blockLengths struct {
	mu     sync.Mutex
	counts [abi.FamilyCount][129]int
}

// AddBlocks adds blocks, or no new one: ErrBlocksFull when there is no room for all. A block that is there already
// gets the new expiry, origin and reason and keeps its counts. From its return on every packet is judged by them, also
// of flows whose verdict is remembered.
func (d *Dataplane) AddBlocks(blocks []Block) error {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	clock, err := readClocks()
	if err != nil {
		return err
	}
	var (
		keys   = make([]abi.BlockKey, len(blocks))
		values = make([]abi.Block, len(blocks))
		notes  = make([]blockNote, len(blocks))
		fresh  []abi.BlockKey
		seen   = make(map[abi.BlockKey]bool, len(blocks))
	)
	for i, b := range blocks {
		if keys[i], err = blockKey(b.Prefix); err != nil {
			return err
		}
		err := d.maps[abi.AbiMapBlocks].Lookup(&keys[i], &values[i])
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			values[i].Created = uint64(clock.wall.UnixNano())
			if !seen[keys[i]] {
				seen[keys[i]] = true
				fresh = append(fresh, keys[i])
			}
		} else if err != nil {
			return fmt.Errorf("block %s: %w", b.Prefix, err)
		}
		values[i].Expires = clock.monotonicAt(b.Expires)
		notes[i] = packNote(b.Origin, b.Why)
	}
	d.countLengths(fresh, 1) // before the blocks: a length without its bit isn't looked up
	err = d.putBlocks(keys, values, notes)
	if err != nil {
		err = errors.Join(err, d.deleteBlocks(fresh))
	}
	atomic.AddUint32(&d.control.BlockEpoch, 1) // after them: remembered verdicts are looked at again
	return err
}

// putBlocks writes notes and blocks.
func (d *Dataplane) putBlocks(keys []abi.BlockKey, values []abi.Block, notes []blockNote) error {
	if len(keys) == 0 {
		return nil
	}
	if _, err := d.maps[abi.AbiMapBlockNotes].BatchUpdate(keys, notes, nil); err != nil {
		return blocksError(err)
	}
	if _, err := d.maps[abi.AbiMapBlocks].BatchUpdate(keys, values, nil); err != nil {
		return blocksError(err)
	}
	return nil
}

func blocksError(err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("add blocks: %w", ErrBlocksFull)
	}
	return fmt.Errorf("add blocks: %w", err)
}

// RemoveBlocks removes blocks and returns the prefixes of those that were there. Flows that were dropped for them pass
// from the next packet on.
func (d *Dataplane) RemoveBlocks(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	return d.removeBlocks(prefixes)
}

func (d *Dataplane) removeBlocks(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	var (
		keys []abi.BlockKey
		were []netip.Prefix
	)
	for _, prefix := range prefixes {
		key, err := blockKey(prefix)
		if err != nil {
			return nil, err
		}
		var value abi.Block
		if err := d.maps[abi.AbiMapBlocks].Lookup(&key, &value); err == nil {
			keys, were = append(keys, key), append(were, prefix.Masked())
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("unblock %s: %w", prefix, err)
		}
	}
	return were, d.deleteBlocks(keys)
}

// deleteBlocks deletes blocks that are counted, and their notes.
func (d *Dataplane) deleteBlocks(keys []abi.BlockKey) error {
	for i := range keys {
		if err := absent(d.maps[abi.AbiMapBlocks].Delete(&keys[i]), "remove a block"); err != nil {
			return err
		}
		if err := absent(d.maps[abi.AbiMapBlockNotes].Delete(&keys[i]), "remove a block's note"); err != nil {
			return err
		}
		d.countLengths(keys[i:i+1], -1)
	}
	return nil
}

// Blocks returns all blocks, in no order; those that are expired but not removed yet too.
func (d *Dataplane) Blocks() ([]Block, error) {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	return d.readBlocks()
}

func (d *Dataplane) readBlocks() ([]Block, error) {
	clock, err := readClocks()
	if err != nil {
		return nil, err
	}
	notes := map[abi.BlockKey]blockNote{}
	err = each(d.maps[abi.AbiMapBlockNotes], func(key abi.BlockKey, note blockNote) { notes[key] = note })
	if err != nil {
		return nil, err
	}
	var blocks []Block
	err = each(d.maps[abi.AbiMapBlocks], func(key abi.BlockKey, value abi.Block) {
		block := Block{
			Prefix:  blockPrefix(key),
			Expires: clock.wallAt(value.Expires),
			Created: time.Unix(0, int64(value.Created)),
			Packets: value.Packets,
			Bytes:   value.Bytes,
		}
		block.Origin, block.Why = unpackNote(notes[key])
		blocks = append(blocks, block)
	})
	return blocks, err
}

// BlocksMax is how many blocks there is room for.
func (d *Dataplane) BlocksMax() int { return int(d.maps[abi.AbiMapBlocks].MaxEntries()) }

// ExpireBlocks removes the blocks whose time is over and returns them. The data plane ignores them already.
func (d *Dataplane) ExpireBlocks() ([]Block, error) {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock() // throughout: one that is renewed meanwhile must stay
	all, err := d.readBlocks()
	if err != nil {
		return nil, err
	}
	var (
		now      = time.Now()
		expired  []Block
		prefixes []netip.Prefix
	)
	for _, block := range all {
		if !block.Expires.IsZero() && block.Expires.Before(now) {
			expired, prefixes = append(expired, block), append(prefixes, block.Prefix)
		}
	}
	_, err = d.removeBlocks(prefixes)
	return expired, err
}

// countLengths adds to the count of each key's prefix length, and keeps the bits that tell programs which to look up.
func (d *Dataplane) countLengths(keys []abi.BlockKey, add int) {
	for _, key := range keys {
		count := &d.blocks.counts[key.Family][key.Plen]
		*count += add
		word, bit := d.control.blockLength(abi.Family(key.Family), int(key.Plen))
		if *count > 0 {
			atomic.OrUint64(word, bit)
		} else {
			atomic.AndUint64(word, ^bit)
		}
	}
}

// countBlocks counts the blocks that a former daemon left.
func (d *Dataplane) countBlocks() error {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	return each(d.maps[abi.AbiMapBlocks], func(key abi.BlockKey, _ abi.Block) {
		d.countLengths([]abi.BlockKey{key}, 1)
	})
}

// any says whether there are blocks.
func (l *blockLengths) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts != [abi.FamilyCount][129]int{}
}

func blockKey(prefix netip.Prefix) (abi.BlockKey, error) {
	if !prefix.IsValid() || prefix.Bits() == 0 {
		return abi.BlockKey{}, fmt.Errorf("block %s: a block covers a part of the addresses, not all", prefix)
	}
	addr, family := abi.PutAddr(prefix.Masked().Addr())
	return abi.BlockKey{Addr: addr, Plen: uint8(prefix.Bits()), Family: uint8(family)}, nil
}

func blockPrefix(key abi.BlockKey) netip.Prefix {
	return netip.PrefixFrom(abi.Addr(key.Addr, abi.Family(key.Family)), int(key.Plen))
}

func packNote(origin, why string) (note blockNote) {
	const room = len(note) - 2
	origin = cut(origin, room)
	why = cut(why, room-len(origin))
	copy(note[:], origin+"\x00"+why)
	return note
}

func unpackNote(note blockNote) (origin, why string) {
	parts := bytes.SplitN(note[:], []byte{0}, 3)
	return string(parts[0]), string(parts[1])
}

// cut shortens text to at most n bytes, between characters, and keeps NULs out of it.
func cut(text string, n int) string {
	text = strings.ReplaceAll(text, "\x00", "")
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// clocks is one moment on the two clocks that blocks are timed by.
type clocks struct {
	wall      time.Time
	monotonic int64 // CLOCK_MONOTONIC, ns
}

func readClocks() (clocks, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return clocks{}, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return clocks{time.Now(), now.Nano()}, nil
}

// monotonicAt is 0 for the zero time, and at least 1 for every other.
func (c clocks) monotonicAt(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(1, c.monotonic+int64(t.Sub(c.wall))))
}

// wallAt is its inverse, to the millisecond.
func (c clocks) wallAt(monotonic uint64) time.Time {
	if monotonic == 0 {
		return time.Time{}
	}
	return c.wall.Add(time.Duration(int64(monotonic) - c.monotonic)).Round(time.Millisecond)
}
