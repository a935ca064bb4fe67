package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// privateBlocks is how many blocks a private instance has room for, unless RoomForBlocks says more.
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

// blockTable is what this process knows of the map of blocks, which nobody else writes: adding and expiring a few of many
// must not cost a system call for each that is there.
type blockTable struct {
	mu     sync.Mutex
	expiry map[abi.BlockKey]uint64 // all that are in the map; as abi.Block.Expires
	next   uint64                  // none expires before
	counts [abi.FamilyCount][129]int
	cells  blockCells
}

// AddBlocks adds blocks, all or, when there is no room, none: ErrBlocksFull. A block that is there already gets the new expiry,
// origin and reason and keeps its counts, but for packets that it drops in the very moment; of one that is given twice the last
// counts. From the return on every packet is judged by them, also of flows whose verdict is remembered. It completes
// Created, Packets and Bytes of the blocks.
func (d *Dataplane) AddBlocks(blocks []Block) error {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	clock, err := readClocks()
	if err != nil {
		return err
	}
	fresh, renewed, err := d.sortBlocks(blocks, clock)
	if err != nil {
		return err
	}
	d.countLengths(fresh.keys, 1) // before the blocks: a length without its bit isn't looked up
	if err := d.putBlocks(fresh); err != nil {
		return errors.Join(err, d.deleteBlocks(fresh.keys))
	}
	if err := d.putBlocks(renewed); err != nil { // the kernel's memory is short
		return errors.Join(err, d.deleteBlocks(fresh.keys), d.rereadExpiry(renewed.keys))
	}
	for i, key := range fresh.keys {
		d.blocks.cells.add(key, 1)
		d.blocks.note(key, fresh.values[i].Expires)
	}
	for i, key := range renewed.keys {
		d.blocks.note(key, renewed.values[i].Expires)
	}
	d.newEpoch(fresh.keys, renewed.keys) // after them: remembered verdicts are looked at again
	return nil
}

// rereadExpiry finds out until when blocks are in force that were perhaps renewed.
func (d *Dataplane) rereadExpiry(keys []abi.BlockKey) error {
	for _, key := range keys {
		var value abi.Block
		if err := d.maps[abi.AbiMapBlocks].Lookup(&key, &value); err != nil {
			return fmt.Errorf("read a block: %w", err)
		}
		d.blocks.note(key, value.Expires)
	}
	d.newEpoch(keys)
	return nil
}

// entries are blocks as the maps hold them.
type entries struct {
	keys   []abi.BlockKey
	values []abi.Block
	notes  []blockNote
}

func (e *entries) add(key abi.BlockKey, value abi.Block, note blockNote) {
	e.keys, e.values, e.notes = append(e.keys, key), append(e.values, value), append(e.notes, note)
}

// sortBlocks tells blocks that are new from those that are in force, and makes room for the new ones.
func (d *Dataplane) sortBlocks(blocks []Block, clock clocks) (fresh, renewed entries, err error) {
	last := make(map[abi.BlockKey]int, len(blocks))
	keys := make([]abi.BlockKey, len(blocks))
	for i, b := range blocks {
		if keys[i], err = blockKey(b.Prefix); err != nil {
			return fresh, renewed, err
		}
		last[keys[i]] = i
	}
	for i := range blocks {
		b, key := &blocks[i], keys[i]
		value := abi.Block{Created: uint64(clock.wall.UnixNano())}
		expires, there := d.blocks.expiry[key]
		if there = there && !clock.over(expires); there {
			if err := d.maps[abi.AbiMapBlocks].Lookup(&key, &value); err != nil {
				return fresh, renewed, fmt.Errorf("block %s: %w", b.Prefix, err)
			}
		}
		b.Created, b.Packets, b.Bytes = time.Unix(0, int64(value.Created)), value.Packets, value.Bytes
		if last[key] != i {
			continue
		}
		value.Expires = clock.monotonicAt(b.Expires)
		if there {
			renewed.add(key, value, packNote(b.Origin, b.Why))
		} else {
			fresh.add(key, value, packNote(b.Origin, b.Why))
		}
	}
	if len(d.blocks.expiry)+len(fresh.keys) > d.BlocksMax() || d.anyOf(fresh.keys) {
		if _, err := d.expireBlocks(clock); err != nil {
			return fresh, renewed, err
		}
	}
	if len(d.blocks.expiry)+len(fresh.keys) > d.BlocksMax() {
		return fresh, renewed, fmt.Errorf("add blocks: %w", ErrBlocksFull)
	}
	return fresh, renewed, nil
}

// anyOf tells whether one of the keys is in the map.
func (d *Dataplane) anyOf(keys []abi.BlockKey) bool {
	return slices.ContainsFunc(keys, func(key abi.BlockKey) bool {
		_, there := d.blocks.expiry[key]
		return there
	})
}

// putBlocks writes notes and blocks.
func (d *Dataplane) putBlocks(e entries) error {
	if len(e.keys) == 0 {
		return nil
	}
	if _, err := d.maps[abi.AbiMapBlockNotes].BatchUpdate(e.keys, e.notes, nil); err != nil {
		return blocksError(err)
	}
	if _, err := d.maps[abi.AbiMapBlocks].BatchUpdate(e.keys, e.values, nil); err != nil {
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
	clock, err := readClocks()
	if err != nil {
		return nil, err
	}
	var (
		keys []abi.BlockKey
		were []netip.Prefix
		seen = make(map[abi.BlockKey]bool, len(prefixes))
	)
	for _, prefix := range prefixes {
		key, err := blockKey(prefix)
		if err != nil {
			return nil, err
		}
		if expires, there := d.blocks.expiry[key]; there && !clock.over(expires) && !seen[key] {
			seen[key] = true
			keys, were = append(keys, key), append(were, prefix.Masked())
		}
	}
	return were, d.deleteBlocks(keys)
}

// deleteBlocks deletes blocks whose lengths are counted, and their notes.
func (d *Dataplane) deleteBlocks(keys []abi.BlockKey) error {
	for _, name := range []string{abi.AbiMapBlocks, abi.AbiMapBlockNotes} {
		if err := deleteAll(d.maps[name], keys); err != nil {
			return fmt.Errorf("remove blocks: %w", err)
		}
	}
	for _, key := range keys {
		if _, there := d.blocks.expiry[key]; there {
			delete(d.blocks.expiry, key)
			d.blocks.cells.add(key, -1)
		}
	}
	d.countLengths(keys, -1)
	return nil
}

// deleteAll deletes entries of a hash map; those that aren't there are no error, but end a batch.
func deleteAll(m *ebpf.Map, keys []abi.BlockKey) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		keys = keys[n+1:]
	}
	return nil
}

// Blocks returns all blocks, in no order; those that are expired but not removed yet too.
func (d *Dataplane) Blocks() ([]Block, error) {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	clock, err := readClocks()
	if err != nil {
		return nil, err
	}
	notes := make(map[abi.BlockKey]blockNote, len(d.blocks.expiry))
	err = each(d.maps[abi.AbiMapBlockNotes], func(key abi.BlockKey, note blockNote) { notes[key] = note })
	if err != nil {
		return nil, err
	}
	blocks := make([]Block, 0, len(d.blocks.expiry))
	err = each(d.maps[abi.AbiMapBlocks], func(key abi.BlockKey, value abi.Block) {
		blocks = append(blocks, clock.block(key, value, notes[key]))
	})
	return blocks, err
}

// block is an entry of the maps as a Block.
func (c clocks) block(key abi.BlockKey, value abi.Block, note blockNote) Block {
	b := Block{
		Prefix:  blockPrefix(key),
		Expires: c.wallAt(value.Expires),
		Created: time.Unix(0, int64(value.Created)),
		Packets: value.Packets,
		Bytes:   value.Bytes,
	}
	b.Origin, b.Why = unpackNote(note)
	return b
}

// BlocksMax is how many blocks there is room for.
func (d *Dataplane) BlocksMax() int { return int(d.maps[abi.AbiMapBlocks].MaxEntries()) }

// BlockCount is how many blocks there are, with those that are expired but not removed yet.
func (d *Dataplane) BlockCount() int {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	return len(d.blocks.expiry)
}

// ExpireBlocks removes the blocks whose time is over and returns them. The data plane ignores them already.
func (d *Dataplane) ExpireBlocks() ([]Block, error) {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock() // throughout: one that is renewed meanwhile must stay
	clock, err := readClocks()
	if err != nil {
		return nil, err
	}
	return d.expireBlocks(clock)
}

func (d *Dataplane) expireBlocks(clock clocks) (expired []Block, err error) {
	if !clock.over(d.blocks.next) {
		return nil, nil
	}
	var keys []abi.BlockKey
	next := uint64(math.MaxUint64)
	for key, expires := range d.blocks.expiry {
		if !clock.over(expires) {
			if expires != 0 {
				next = min(next, expires)
			}
			continue
		}
		var (
			value abi.Block
			note  blockNote
		)
		err := d.maps[abi.AbiMapBlocks].Lookup(&key, &value)
		if err == nil {
			err = d.maps[abi.AbiMapBlockNotes].Lookup(&key, &note)
		}
		if err := absent(err, "read an expired block"); err != nil {
			return nil, err
		}
		keys, expired = append(keys, key), append(expired, clock.block(key, value, note))
	}
	if err := d.deleteBlocks(keys); err != nil {
		return expired, err
	}
	d.blocks.next = next
	return expired, nil
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

// newEpoch has the flows that blocks may concern asked again. Until there is a block the epoch is 0, and programs ask nobody.
func (d *Dataplane) newEpoch(groups ...[]abi.BlockKey) {
	if !slices.ContainsFunc(groups, func(keys []abi.BlockKey) bool { return len(keys) > 0 }) {
		return
	}
	epoch := atomic.LoadUint32(&d.control.BlockEpoch) + 1
	if epoch == 0 {
		epoch = 1
	}
	for _, keys := range groups {
		for _, key := range keys {
			if !d.blocks.cells.mark(key, epoch) {
				atomic.StoreUint32(&d.control.WideEpoch, epoch)
			}
		}
	}
	atomic.StoreUint32(&d.control.BlockEpoch, epoch) // last: who reads it sees what is marked with it
}

// openBlocks makes the table of a map of blocks.
func (d *Dataplane) openBlocks() (err error) {
	d.blocks.expiry, d.blocks.next = map[abi.BlockKey]uint64{}, math.MaxUint64
	d.blocks.cells, err = mapBlockCells(d.maps[abi.AbiMapBlockCells])
	return err
}

// countBlocks counts the blocks that a former daemon left. It may have died between writing a block and marking its cells, so they
// are marked, and every flow is asked again.
func (d *Dataplane) countBlocks() error {
	d.blocks.mu.Lock()
	defer d.blocks.mu.Unlock()
	var keys []abi.BlockKey
	err := each(d.maps[abi.AbiMapBlocks], func(key abi.BlockKey, value abi.Block) {
		if _, seen := d.blocks.expiry[key]; seen {
			return
		}
		d.blocks.note(key, value.Expires)
		d.blocks.cells.add(key, 1)
		keys = append(keys, key)
	})
	d.countLengths(keys, 1)
	d.blocks.cells.sweep()
	d.newEpoch(keys)
	return err
}

// note keeps until when a block is in force.
func (t *blockTable) note(key abi.BlockKey, expires uint64) {
	t.expiry[key] = expires
	if expires != 0 {
		t.next = min(t.next, expires)
	}
}

// any says whether there are blocks.
func (t *blockTable) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.expiry) > 0
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

// over tells whether a block that expires then does so no later than now, as the programs see it.
func (c clocks) over(monotonic uint64) bool {
	return monotonic != 0 && monotonic <= uint64(c.monotonic)
}

// wallAt is its inverse, to the millisecond.
func (c clocks) wallAt(monotonic uint64) time.Time {
	if monotonic == 0 {
		return time.Time{}
	}
	return c.wall.Add(time.Duration(int64(monotonic) - c.monotonic)).Round(time.Millisecond)
}
