package lb

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// RingSize is how many slots a service's ring has unless it says otherwise: a prime, so that every step walks all slots, and large
// enough that 1,000 backends still get their share within a few percent.
const RingSize = 65537

// Member is a backend that takes part in a ring.
type Member struct {
	Name   string // the only thing that is hashed, so that two boxes with different ids build equal rings
	ID     uint16 // what the slots hold
	Weight int    // share of the slots, relative to the other members; 0 or less: none
	Backup bool   // for who decides about weights; a ring doesn't look at it
}

// Ring fills size slots (a prime) with the ids of members in proportion to their weights, by
// Maglev hashing: each member has its own order of preference over the slots, and members take turns, a member
// of twice the weight twice as often. The order of members doesn't matter; names must differ. Without a member
// of positive weight every slot is 0, which is no backend.
func Ring(members []Member, size int) []uint16 {
	ring := make([]uint16, size)
	turns := newTurns(members, uint32(size))
	if len(turns) == 0 {
		return ring
	}
	taken := make([]bool, size)
	for range size {
		next := &turns[0]
		for taken[next.slot] {
			next.advance(uint32(size))
		}
		taken[next.slot] = true
		ring[next.slot] = next.id
		next.count++
		next.due = dueTime(next.count, next.weight)
		sink(turns)
	}
	return ring
}

// turn is a member's place in the queue and in its own order of preference.
type turn struct {
	due    uint64 // when the next turn comes, see dueTime
	hash   uint64 // of the name: the order of turns due at the same time
	count  uint64 // turns taken
	weight uint64
	slot   uint32 // the slot preferred next
	skip   uint32
	id     uint16
}

// dueTime is when a member takes its turn number count (from 0): weight turns in 2^40 units of time. Integers,
// because two machines must agree to the last bit.
func dueTime(count, weight uint64) uint64 { return (count + 1) << 40 / weight }

func (t *turn) advance(size uint32) {
	t.slot += t.skip
	if t.slot >= size {
		t.slot -= size
	}
}

func (t *turn) before(u *turn) bool {
	return t.due < u.due || t.due == u.due && t.hash < u.hash
}

// newTurns returns the queue, a heap whose first element is the next to take a turn. A sorted list is one.
func newTurns(members []Member, size uint32) []turn {
	sorted := slices.SortedFunc(slices.Values(members), func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	turns := make([]turn, 0, len(sorted))
	for _, m := range sorted {
		if m.Weight <= 0 {
			continue
		}
		digest := fnv.New64a()
		digest.Write([]byte(m.Name))
		hash := scramble(digest.Sum64())
		weight := uint64(m.Weight)
		turns = append(turns, turn{
			due:    dueTime(0, weight),
			hash:   hash,
			weight: weight,
			slot:   uint32(hash % uint64(size)),
			skip:   uint32(scramble(hash)%uint64(size-1)) + 1,
			id:     m.ID,
		})
	}
	slices.SortStableFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.hash, b.hash))
	})
	return turns
}

// sink restores the heap after its first element has grown.
func sink(turns []turn) {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(turns) {
			return
		}
		if child+1 < len(turns) && turns[child+1].before(&turns[child]) {
			child++
		}
		if !turns[child].before(&turns[i]) {
			return
		}
		turns[i], turns[child] = turns[child], turns[i]
		i = child
	}
}

// scramble spreads FNV's weak high bits over the word (the finalizer of MurmurHash3).
func scramble(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
