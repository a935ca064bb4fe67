package plan

import (
	"cmp"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Side is one of two snapshots, with the rings that it compiles to.
type Side struct {
	Snapshot *model.Snapshot
	Rings    []compile.Ring
}

// Shares lists the services of both sides whose new flows would be spread otherwise. state is what is known of backends
// at this moment; ids are those of both sides.
func Shares(old, next Side, state map[uint16]compile.Runtime) []api.PlannedShare {
	rings := map[string]compile.Ring{}
	for _, ring := range old.Rings {
		rings[ring.Service] = ring
	}
	var shares []api.PlannedShare
	for _, ring := range next.Rings {
		before, known := rings[ring.Service]
		if !known {
			continue
		}
		anew := affinity(old.Snapshot, ring.Service) != affinity(next.Snapshot, ring.Service)
		if before.Equal(ring) && before.Size == ring.Size && !anew {
			continue
		}
		if share := compareRings(before, ring, state, anew); share.Moved > 0 {
			shares = append(shares, share)
		}
	}
	return shares
}

func affinity(s *model.Snapshot, service string) model.Affinity {
	if found, ok := s.Service(service); ok {
		return cmp.Or(found.Affinity, model.AffinityFlow)
	}
	return ""
}

// compareRings: anew says that flows choose by something else than before, so that where they were doesn't matter.
func compareRings(old, next compile.Ring, state map[uint16]compile.Runtime, anew bool) api.PlannedShare {
	was, is := old.Build(state), next.Build(state)
	share := api.PlannedShare{Service: next.Service, Moved: Moved(was, is)}
	before, after := parts(was), parts(is)
	if anew {
		share.Moved = 1
		for id, part := range before {
			share.Moved -= part * after[id]
		}
	}
	share.Backends = backendParts(old.Members, next.Members, before, after)
	return share
}

// backendParts lists who has or had a part. A backend that changes its address is two of them, and told as one.
func backendParts(old, next []lb.Member, before, after map[uint16]float64) []api.PlannedBackend {
	var list []api.PlannedBackend
	at := map[string]int{}
	add := func(name string, before, after float64) {
		i, ok := at[name]
		if !ok {
			i = len(list)
			at[name] = i
			list = append(list, api.PlannedBackend{Name: name})
		}
		list[i].Before += before
		list[i].After += after
	}
	for _, m := range old {
		add(m.Name, before[m.ID], 0)
	}
	for _, m := range next {
		add(m.Name, 0, after[m.ID])
	}
	return list
}

// parts is the share of each backend in a ring.
func parts(ring []uint16) map[uint16]float64 {
	slots := map[uint16]int{}
	for _, id := range ring {
		slots[id]++
	}
	shares := make(map[uint16]float64, len(slots))
	for id, n := range slots {
		shares[id] = float64(n) / float64(len(ring))
	}
	return shares
}

// Moved is the share of flows that get another backend from the second ring than from the first. A flow's place is a
// fraction of the ring, so rings of different sizes are compared piece by piece.
func Moved(old, next []uint16) float64 {
	if len(old) == len(next) {
		moved := 0
		for i := range old {
			if old[i] != next[i] {
				moved++
			}
		}
		return float64(moved) / float64(max(1, len(old)))
	}
	if len(old) == 0 || len(next) == 0 {
		return 1
	}
	moved, at := 0, 0 // in pieces of a ring of len(old)*len(next)
	for i, j := 0, 0; i < len(old) && j < len(next); {
		end := min((i+1)*len(next), (j+1)*len(old))
		if old[i] != next[j] {
			moved += end - at
		}
		at = end
		if end == (i+1)*len(next) {
			i++
		}
		if end == (j+1)*len(old) {
			j++
		}
	}
	return float64(moved) / float64(len(old)*len(next))
}
