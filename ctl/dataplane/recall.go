package dataplane

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// Recalls says whether this is a sibling that RecallFlow tells something.
func (d *Dataplane) Recalls() bool { return d.origin != nil }

// RecallFlow makes what the live instance knows of a flow known to its sibling, and what the sibling itself has seen of it forgotten. A
// CPU that has no record of the flow would judge it anew, and find the same; so what is recalled is the record of the one that saw it last.
// False: it is a new flow.
func (d *Dataplane) RecallFlow(key abi.FlowKey) (abi.FlowValue, bool, error) {
	if d.origin == nil || key.Tag == 0 {
		return abi.FlowValue{}, false, nil
	}
	value, found, err := d.origin.findFlow(key)
	if err != nil {
		return abi.FlowValue{}, false, err
	}
	known := value
	known.BlockEpoch = d.control.BlockEpoch + 1<<31 // the sibling's epochs are its own: it asks all of its blocks
	known.Spilled = 0
	d.flows.mu.RLock()
	defer d.flows.mu.RUnlock()
	for _, bucket := range d.privateBuckets(&key) {
		*bucket = abi.FlowBucket{}
		if found {
			bucket.Record[0] = abi.FlowRecord{Key: key, Value: known}
		}
	}
	return value, found, nil
}

// ForgetFlow makes a private instance forget what it has seen of a flow.
func (d *Dataplane) ForgetFlow(key abi.FlowKey) {
	if d.dir != "" || key.Tag == 0 {
		return
	}
	d.flows.mu.RLock()
	defer d.flows.mu.RUnlock()
	for _, bucket := range d.privateBuckets(&key) {
		*bucket = abi.FlowBucket{}
	}
}

func (d *Dataplane) privateBuckets(key *abi.FlowKey) []*abi.FlowBucket {
	slot := d.control.FlowSlot
	return flowBucketsOf(d.flows.pairs[slot].Memory, d.control.FlowBuckets[slot], flowHash(d.control.HashKey, key))
}

// readFragments copies what first fragments left to those that follow them.
func (d *Dataplane) readFragments(from *Dataplane) error {
	const batch = 1024
	var cursor ebpf.MapBatchCursor
	keys, values := make([]abi.FragmentKey, batch), make([]abi.Fragment, batch)
	for {
		n, err := from.maps[abi.AbiMapFragments].BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read what is known of fragments: %w", err)
		}
		if n > 0 {
			if _, err := d.maps[abi.AbiMapFragments].BatchUpdate(keys[:n], values[:n], nil); err != nil {
				return fmt.Errorf("copy what is known of fragments: %w", err)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// findFlow looks for the records of a flow, of which each CPU that saw it has one: what the one says that was written last, and of all of
// them the sum, and the first packet.
func (d *Dataplane) findFlow(key abi.FlowKey) (value abi.FlowValue, found bool, err error) {
	var packets, bytes, first uint64
	take := func(v *abi.FlowValue) {
		if packets, bytes = packets+v.Packets, bytes+v.Bytes; !found || v.First < first {
			first = v.First
		}
		if !found || int32(v.Last-value.Last) > 0 {
			value, found = *v, true
		}
	}
	defer func() { value.Packets, value.Bytes, value.First = packets, bytes, first }()
	d.flows.mu.RLock()
	defer d.flows.mu.RUnlock()
	hash := flowHash(d.control.HashKey, &key)
	for slot, table := range d.flows.pairs {
		if table == nil {
			continue
		}
		for _, bucket := range flowBucketsOf(table.Memory, d.control.FlowBuckets[slot], hash) {
			for i := range bucket.Record {
				if v, ok := loadFlow(&bucket.Record[i], &key); ok {
					take(&v)
				}
			}
		}
		var v abi.FlowValue
		switch err := table.LRU.Lookup(&key, &v); {
		case err == nil:
			take(&v)
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return value, false, fmt.Errorf("look for a flow in the LRU map: %w", err)
		}
	}
	return value, found, nil
}

// flowWords is a record in pieces that the kernel writes in one store each.
type flowWords [unsafe.Sizeof(abi.FlowRecord{}) / 8]uint64

// loadFlow copies a record that programs may be writing, if it is that flow's: see load in package flow.
func loadFlow(from *abi.FlowRecord, key *abi.FlowKey) (abi.FlowValue, bool) {
	live := (*flowWords)(unsafe.Pointer(from))
	var copied flowWords
	record := (*abi.FlowRecord)(unsafe.Pointer(&copied))
	for range 16 { // as often as it may give way to another flow meanwhile, and come back
		for i := range live {
			copied[i] = atomic.LoadUint64(&live[i])
		}
		if record.Key != *key {
			return abi.FlowValue{}, false
		}
		same := true
		for i := range unsafe.Sizeof(abi.FlowKey{}) / 8 {
			same = same && atomic.LoadUint64(&live[i]) == copied[i]
		}
		if same {
			return record.Value, true
		}
	}
	return abi.FlowValue{}, false
}

// flowBucketsOf are the buckets of a hash, one of each CPU, which has so many.
func flowBucketsOf(memory []byte, each uint32, hash uint64) (all []*abi.FlowBucket) {
	buckets := unsafe.Slice((*abi.FlowBucket)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/int(unsafe.Sizeof(abi.FlowBucket{})))
	for at := int(uint64(uint32(hash)) * uint64(each) >> 32); at < len(buckets); at += int(each) {
		all = append(all, &buckets[at])
	}
	return all
}

// flowHash is flow_hash() of bpf/flow.h.
func flowHash(secret [2]uint64, key *abi.FlowKey) uint64 {
	var word [unsafe.Sizeof(abi.FlowKey{}) / 8]uint64
	*(*abi.FlowKey)(unsafe.Pointer(&word)) = *key
	h := secret[0]
	if key.Tag>>12&uint16(abi.FlowV6) == 0 {
		h = mix(h, word[1]&^0xffffffff|word[3]>>32)
	} else {
		for _, w := range word[:4] {
			h = mix(h, w)
		}
	}
	return mix(mix(h, word[4]), secret[1])
}
