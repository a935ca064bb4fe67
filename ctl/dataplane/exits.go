package dataplane

import (
	"fmt"
	"time"

	"gardu/ctl/abi"
)

// PutExit says where packets leave that rules redirect or mirror to an exit; the zero value: nowhere for now.
func (d *Dataplane) PutExit(id uint16, exit abi.Exit) error {
	if err := d.maps[abi.AbiMapExits].Put(uint32(id), &exit); err != nil {
		return fmt.Errorf("write exit %d: %w", id, err)
	}
	return nil
}

// ExitCounters reads what went out by rules that redirect or mirror, by exit.
func (d *Dataplane) ExitCounters() ([]abi.ExitCounter, error) {
	all, err := counters[abi.ExitCounter](d.maps[abi.AbiMapExitCounters], firstIDs(int(abi.Exits)))
	if err != nil {
		return nil, fmt.Errorf("read the counters of exits: %w", err)
	}
	return all, nil
}

// ResetExitCounters zeroes the counters of exits, before they get new owners.
func (d *Dataplane) ResetExitCounters(ids []uint32) error {
	return resetCounters[abi.ExitCounter](d.maps[abi.AbiMapExitCounters], ids)
}

// How many answers action reject gives a second, at once as many after a while: enough for people who try, and little enough that
// forged sources don't make gardu send a flood of its own. An answer is as long as the packet and 48 bytes more at most.
const (
	rejectsPerSource = 100
	rejectsTogether  = 10_000
)

func rejectLimit() abi.RejectLimit {
	cost := func(perSecond uint64) uint64 { return uint64(time.Second) / perSecond }
	return abi.RejectLimit{
		Cost: cost(rejectsTogether), Burst: uint64(time.Second) - cost(rejectsTogether),
		SourceCost: cost(rejectsPerSource), SourceBurst: uint64(time.Second) - cost(rejectsPerSource),
	}
}

// SetRejectLimit limits the answers of action reject from now on. Private instances have no limit until then.
func (d *Dataplane) SetRejectLimit(limit abi.RejectLimit) error {
	if err := d.maps[abi.AbiMapRejectLimit].Put(uint32(0), &limit); err != nil {
		return fmt.Errorf("limit the answers to rejected packets: %w", err)
	}
	return nil
}
