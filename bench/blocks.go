package main

import (
	"fmt"
	"net/netip"
	"time"

	"gardu/ctl/dataplane"
	"gardu/ctl/model"
)

const (
	blocksInForce = 100_000
	arrivals      = 1000    // blocks a second
	maxArrived    = 50_000  // while one sample is taken
	roomForBlocks = 262_144 // as in bpf/maps.h
)

// blockScenarios are cases of blocks whose traffic none of them covers: known flows, and sources that are new each time.
func blockScenarios() []scenario {
	var list []scenario
	for _, kind := range []struct {
		name, about string
		snapshot    func() *model.Snapshot
		noFlows     bool
		flows       []int
	}{
		{"flows", "flow accounting, the flows are known", flowsOnly, false, []int{64_000, 500_000}},
		{"new", "without flow accounting: every packet is like that of a new flow", nothing, true, []int{64_000}},
	} {
		for _, n := range kind.flows {
			flows := fmt.Sprintf("%dk %s", n/1000, kind.name)
			row := scenario{tuples: unblocked(n), action: xdpPass, reasons: passed, snapshot: kind.snapshot, noFlows: kind.noFlows}
			for _, with := range []struct {
				name             string
				blocks, arriving int
			}{{"no blocks", 0, 0}, {"100k blocks", blocksInForce, 0}, {"100k blocks + 1,000/s", blocksInForce, arrivals}} {
				row.name, row.about = with.name+", "+flows, kind.about
				row.world = fmt.Sprintf("%d blocks, %s", with.blocks, kind.name)
				row.blocks, row.arriving = with.blocks, with.arriving
				list = append(list, row)
			}
		}
	}
	return list
}

// blocked returns n different blocks, from the given one on, of the lengths that public lists have, all over the addresses.
func blocked(from, n int) []dataplane.Block {
	lengths := []int{32, 32, 32, 32, 32, 32, 32, 24, 24, 22}
	blocks := make([]dataplane.Block, n)
	for i := range blocks {
		k := uint32(from + i)
		if k%20 == 19 {
			blocks[i].Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, byte(k), byte(k >> 8), byte(k >> 16)}), 56)
			continue
		}
		blocks[i].Prefix = netip.PrefixFrom(addr4(k*2654435761), lengths[k%10]).Masked() // an odd factor makes a permutation
	}
	return blocks
}

// unblocked draws n flows of sources all over the addresses that no block covers, those that arrive included.
func unblocked(n int) func() []tuple {
	return func() []tuple {
		covered := map[netip.Prefix]bool{}
		for _, block := range blocked(0, blocksInForce+maxArrived) {
			covered[block.Prefix] = true
		}
		r := random()
		tuples := make([]tuple, 0, n)
		for len(tuples) < n {
			src := addr4(r.Uint32())
			free := true
			for _, bits := range []int{32, 24, 22} {
				free = free && !covered[netip.PrefixFrom(src, bits).Masked()]
			}
			if free {
				tuples = append(tuples, tuple{src: src, dst: serviceAddress, sport: uint16(1024 + r.Uint32N(60000)), dport: 443})
			}
		}
		return tuples
	}
}

// addBlocks adds blocks, one at a time, each of which the programs must mind, until stop is called. What was added in
// earlier rounds goes first, so that there are always as many.
func (w *world) addBlocks(aSecond int) (stop func() error, err error) {
	var old []netip.Prefix
	for _, block := range blocked(blocksInForce, w.arrived) {
		old = append(old, block.Prefix)
	}
	if _, err := w.RemoveBlocks(old); err != nil {
		return nil, err
	}
	w.arrived = 0
	ended, began, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { done <- w.keepAdding(aSecond, began, ended) }()
	select {
	case <-began:
	case err := <-done:
		return nil, err
	}
	return func() error {
		close(ended)
		return <-done
	}, nil
}

// keepAdding adds blocks until ended is closed. It closes began when the first one is in force.
func (w *world) keepAdding(aSecond int, began, ended chan struct{}) error {
	ticker := time.NewTicker(time.Second / time.Duration(aSecond))
	defer ticker.Stop()
	start := time.Now()
	for {
		select {
		case <-ended:
			return nil
		case <-ticker.C:
		}
		for due := int(time.Since(start).Seconds() * float64(aSecond)); w.arrived < min(due, maxArrived); w.arrived++ {
			if err := w.AddBlocks(blocked(blocksInForce+w.arrived, 1)); err != nil {
				return err
			}
			if w.arrived == 0 {
				close(began)
			}
		}
	}
}
