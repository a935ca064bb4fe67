package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// PutRing puts the ring of an id in force in one step: a backend id a slot. While a generation is in force that may mean that
// flows are on other backends than rings give from now on, which programs are told.
func (d *Dataplane) PutRing(id uint32, slots []uint16) error {
	ring, err := newLines(d.specs[abi.AbiMapRings].InnerMap, uint32(ringLines(len(slots))), slotBytes(slots))
	if err != nil {
		return fmt.Errorf("make ring %d: %w", id, err)
	}
	defer ring.Close()
	if d.control.generation() != 0 {
		atomic.AddUint32(&d.control.RingChanges, 1)
	}
	if err := d.maps[abi.AbiMapRings].Put(id, ring); err != nil {
		return fmt.Errorf("put ring %d: %w", id, err)
	}
	return nil
}

// ringLines is how many lines a ring of so many slots takes.
func ringLines(slots int) int {
	const lineSlots = int(unsafe.Sizeof(abi.Line{})) / 2
	return (slots + lineSlots - 1) / lineSlots
}

// DeleteRing frees the ring of an id; it is no error when there is none.
func (d *Dataplane) DeleteRing(id uint32) error {
	return absent(d.maps[abi.AbiMapRings].Delete(id), fmt.Sprintf("delete ring %d", id))
}

// PutBackend writes the runtime state of a backend id; Seq is taken care of. Programs that read it meanwhile see an odd
// Seq and read again.
func (d *Dataplane) PutBackend(id uint16, backend abi.Backend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, err := d.Backend(id)
	if err != nil {
		return err
	}
	seq := old.Seq | 1
	old.Seq, backend.Seq = seq, seq
	settled := backend
	settled.Seq = seq + 1
	for _, value := range []*abi.Backend{&old, &backend, &settled} {
		if err := d.maps[abi.AbiMapBackends].Put(uint32(id), value); err != nil {
			return fmt.Errorf("write backend %d: %w", id, err)
		}
	}
	return nil
}

// Backend reads the runtime state of a backend id; all zeros (no abi.BackendUsed) when it was never written.
func (d *Dataplane) Backend(id uint16) (abi.Backend, error) {
	var backend abi.Backend
	if err := d.maps[abi.AbiMapBackends].Lookup(uint32(id), &backend); err != nil {
		return backend, fmt.Errorf("read backend %d: %w", id, err)
	}
	return backend, nil
}

// SetInterface tells the programs about an interface.
func (d *Dataplane) SetInterface(ifindex int, facts abi.Interface) error {
	if err := d.maps[abi.AbiMapInterfaces].Put(uint32(ifindex), &facts); err != nil {
		return fmt.Errorf("write interface %d: %w", ifindex, err)
	}
	return d.placeInterface(ifindex, uint64(ifindex)<<32|uint64(facts.Number))
}

// placeInterface writes the place of an interface in the array that programs look at first.
func (d *Dataplane) placeInterface(ifindex int, place uint64) error {
	if err := d.maps[abi.AbiMapInterfacePlaces].Put(uint32(ifindex)%uint32(abi.InterfacePlaces), place); err != nil {
		return fmt.Errorf("write the place of interface %d: %w", ifindex, err)
	}
	return nil
}

// DeleteInterface forgets an interface; it is no error when it isn't known.
func (d *Dataplane) DeleteInterface(ifindex int) error {
	var place uint64
	if err := d.maps[abi.AbiMapInterfacePlaces].Lookup(uint32(ifindex)%uint32(abi.InterfacePlaces), &place); err != nil {
		return fmt.Errorf("read the place of interface %d: %w", ifindex, err)
	}
	if place>>32 == uint64(ifindex) {
		if err := d.placeInterface(ifindex, 0); err != nil {
			return err
		}
	}
	return absent(d.maps[abi.AbiMapInterfaces].Delete(uint32(ifindex)), fmt.Sprintf("delete interface %d", ifindex))
}

// AddHealthFlow lets the answers to one of our own health checks through the filter, and has what is sent at the address of a service
// brought to a backend; 0: it isn't. Call it before connecting.
func (d *Dataplane) AddHealthFlow(local, remote netip.AddrPort, proto uint8, backend uint16) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.maps[abi.AbiMapHealthFlows].Update(healthKey(local, remote, proto), uint32(backend), ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) && backend == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("let health check %s > %s through: %w", local, remote, err)
	}
	atomic.AddUint32(&d.control.Health, 1)
	return nil
}

// RemoveHealthFlow undoes AddHealthFlow; it is no error when there is none.
func (d *Dataplane) RemoveHealthFlow(local, remote netip.AddrPort, proto uint8) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.maps[abi.AbiMapHealthFlows].Delete(healthKey(local, remote, proto))
	if err == nil {
		atomic.AddUint32(&d.control.Health, ^uint32(0))
	}
	return absent(err, fmt.Sprintf("forget health check %s > %s", local, remote))
}

func healthKey(local, remote netip.AddrPort, proto uint8) *abi.HealthKey {
	key := &abi.HealthKey{BeLport: abi.Htons(local.Port()), BeRport: abi.Htons(remote.Port()), Proto: proto}
	var family abi.Family
	key.Laddr, family = abi.PutAddr(local.Addr())
	key.Raddr, _ = abi.PutAddr(remote.Addr())
	key.Family = uint8(family)
	return key
}

// forgetHealthFlows removes those of a daemon that is gone: its sockets are closed.
func (d *Dataplane) forgetHealthFlows() error {
	var stale []abi.HealthKey
	err := each(d.maps[abi.AbiMapHealthFlows], func(key abi.HealthKey, _ uint32) { stale = append(stale, key) })
	if err != nil {
		return err
	}
	for i := range stale {
		if err := absent(d.maps[abi.AbiMapHealthFlows].Delete(&stale[i]), "forget an old health check"); err != nil {
			return err
		}
	}
	atomic.StoreUint32(&d.control.Health, 0)
	return nil
}

// absent says what was tried, and that a key that isn't there needs no deleting.
func absent(err error, tried string) error {
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return fmt.Errorf("%s: %w", tried, err)
}

// eachBatch is how many entries each reads by one system call.
const eachBatch = 4096

// each calls yield with every entry of a hash map. What changes meanwhile may be missed or seen twice.
func each[K, V any](m *ebpf.Map, yield func(K, V)) error {
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]K, eachBatch)
		values = make([]V, eachBatch)
	)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read %s: %w", m, err)
		}
		for i := range n {
			yield(keys[i], values[i])
		}
		if err != nil {
			return nil
		}
	}
}
