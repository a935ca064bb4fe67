package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// InterfaceCounters counts what passed by interfaces, by their numbers. Number 0 counts what passed by all that have none, or had one
// that another has now.
func (d *Dataplane) InterfaceCounters(numbers []uint32) ([]abi.InterfaceCounter, error) {
	all, err := counters[abi.InterfaceCounter](d.maps[abi.AbiMapInterfaceCounters], numbers)
	if err != nil {
		return nil, fmt.Errorf("read the counters of interfaces: %w", err)
	}
	return all, nil
}

// Reasons counts the packets that left for each reason, by abi.Reason, of the interfaces with these numbers and those that have none.
func (d *Dataplane) Reasons(numbers ...uint32) ([]abi.Counter, error) {
	all, err := d.InterfaceCounters(append([]uint32{0}, numbers...))
	if err != nil {
		return nil, err
	}
	var sum abi.InterfaceCounter
	for _, c := range all {
		sum.Add(c)
	}
	return sum.Reason[:abi.ReasonCount], nil
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
	return setAside(m, uint32(abi.DeciderGone), ids, were)
}

// ResetInterfaceCounters zeroes those of numbers, before they get new owners, and adds them up under 0, so that the totals stay.
func (d *Dataplane) ResetInterfaceCounters(numbers []uint32) error {
	if len(numbers) == 0 {
		return nil
	}
	were, err := d.InterfaceCounters(numbers)
	if err != nil {
		return err
	}
	return setAside(d.maps[abi.AbiMapInterfaceCounters], 0, numbers, were)
}

// setAside adds counters up under one id of their map, and zeroes them. What programs count under that id meanwhile may be lost.
func setAside[T any, P adder[T]](m *ebpf.Map, under uint32, ids []uint32, were []T) error {
	var parts []T
	if err := m.Lookup(under, &parts); err != nil {
		return fmt.Errorf("read what %s counted before: %w", m, err)
	}
	for _, c := range were {
		P(&parts[0]).Add(c)
	}
	if err := m.Put(under, parts); err != nil {
		return fmt.Errorf("keep what %s counted before: %w", m, err)
	}
	return resetCounters[T](m, ids)
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
