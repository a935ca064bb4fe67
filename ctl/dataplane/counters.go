package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// Reasons counts the packets that left for each reason, by abi.Reason.
func (d *Dataplane) Reasons() ([]abi.Counter, error) {
	all, err := counters[abi.Counter](d.maps[abi.AbiMapReasons], firstIDs(int(abi.ReasonCount)))
	if err != nil {
		return nil, fmt.Errorf("read the counters of reasons: %w", err)
	}
	return all, nil
}

// RuleCounters reads the counters of ids (abi.Decider or of rules), in their order.
func (d *Dataplane) RuleCounters(ids []uint32) ([]abi.RuleCounter, error) {
	all, err := counters[abi.RuleCounter](d.maps[abi.AbiMapRuleCounters], ids)
	if err != nil {
		return nil, fmt.Errorf("read the counters of rules: %w", err)
	}
	return all, nil
}

// BackendCounters reads the counters of backend ids, in their order. Id 0 counts packets that found no backend.
func (d *Dataplane) BackendCounters(ids []uint32) ([]abi.BackendCounter, error) {
	all, err := counters[abi.BackendCounter](d.maps[abi.AbiMapBackendCounters], ids)
	if err != nil {
		return nil, fmt.Errorf("read the counters of backends: %w", err)
	}
	return all, nil
}

// FlowTotals reads the totals of flow accounting.
func (d *Dataplane) FlowTotals() (abi.FlowTotals, error) {
	all, err := counters[abi.FlowTotals](d.maps[abi.AbiMapFlowTotals], firstIDs(1))
	if err != nil {
		return abi.FlowTotals{}, fmt.Errorf("read the totals of flows: %w", err)
	}
	return all[0], nil
}

// EffectTotals reads what limits and events have cost and lost.
func (d *Dataplane) EffectTotals() (abi.EffectTotals, error) {
	all, err := counters[abi.EffectTotals](d.maps[abi.AbiMapEffectTotals], firstIDs(1))
	if err != nil {
		return abi.EffectTotals{}, fmt.Errorf("read the totals of effects: %w", err)
	}
	return all[0], nil
}

// Events is the ring of events, for package event to read.
func (d *Dataplane) Events() *ebpf.Map { return d.maps[abi.AbiMapEvents] }

// ResetRuleCounters zeroes the counters of rule ids, before they get new owners. What was decided stays in the sum over all
// deciders, under abi.DeciderGone.
func (d *Dataplane) ResetRuleCounters(ids []uint32) error {
	if len(ids) == 0 {
		return nil
	}
	m := d.maps[abi.AbiMapRuleCounters]
	were, err := d.RuleCounters(ids)
	if err != nil {
		return err
	}
	var gone []abi.RuleCounter
	if err := m.Lookup(uint32(abi.DeciderGone), &gone); err != nil {
		return fmt.Errorf("read the counters of rules that are gone: %w", err)
	}
	for _, c := range were {
		gone[0].Add(c)
	}
	if err := m.Put(uint32(abi.DeciderGone), gone); err != nil {
		return fmt.Errorf("keep the counters of rules that are gone: %w", err)
	}
	return resetCounters[abi.RuleCounter](m, ids)
}

// ResetBackendCounters zeroes the counters of backend ids, before they get new owners.
func (d *Dataplane) ResetBackendCounters(ids []uint32) error {
	return resetCounters[abi.BackendCounter](d.maps[abi.AbiMapBackendCounters], ids)
}

// adder is a pointer to a counter that has a part on each CPU.
type adder[T any] interface {
	*T
	Add(T)
}

// batchWorth: from one counter in so many on, reading all up to the last takes less time than asking for each.
const batchWorth = 8

// counters reads per-CPU counters and adds up their parts.
func counters[T any, P adder[T]](m *ebpf.Map, ids []uint32) ([]T, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if all := slices.Max(ids) + 1; len(ids)*batchWorth >= int(all) {
		return batchedCounters[T, P](m, ids, int(min(all, m.MaxEntries())))
	}
	sums := make([]T, len(ids))
	var parts []T
	for i, id := range ids {
		if err := m.Lookup(id, &parts); err != nil {
			return nil, err
		}
		addParts[T, P](&sums[i], parts)
	}
	return sums, nil
}

// batchedCounters reads the first n counters of the map in a few system calls and picks ids.
func batchedCounters[T any, P adder[T]](m *ebpf.Map, ids []uint32, n int) ([]T, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	var (
		cursor ebpf.MapBatchCursor
		size   = min(n, eachBatch)
		keys   = make([]uint32, size)
		parts  = make([]T, size*cpus)
		all    = make([]T, n)
	)
	for read := 0; read < n; {
		got, err := m.BatchLookup(&cursor, keys, parts, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, err
		}
		for i := range min(got, n-read) {
			addParts[T, P](&all[read+i], parts[i*cpus:(i+1)*cpus])
		}
		if read += got; err != nil {
			break
		}
	}
	sums := make([]T, len(ids))
	for i, id := range ids {
		if int(id) >= n {
			return nil, fmt.Errorf("id %d: %w", id, ebpf.ErrKeyNotExist)
		}
		sums[i] = all[id]
	}
	return sums, nil
}

func addParts[T any, P adder[T]](sum *T, parts []T) {
	for _, part := range parts {
		P(sum).Add(part)
	}
}

func resetCounters[T any](m *ebpf.Map, ids []uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	zeros := make([]T, cpus)
	for _, id := range ids {
		if err := m.Put(id, zeros); err != nil {
			return fmt.Errorf("reset counter %d of %s: %w", id, m, err)
		}
	}
	return nil
}

// firstIDs are 0 to n-1.
func firstIDs(n int) []uint32 {
	ids := make([]uint32, n)
	for i := range ids {
		ids[i] = uint32(i)
	}
	return ids
}
