package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/dataplane"
)

// Blocks lists all blocks that are in force, by prefix.
func (d *Daemon) Blocks(context.Context) ([]api.Block, error) {
	all, err := d.plane.Blocks()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	all = slices.DeleteFunc(all, func(b dataplane.Block) bool { return !b.Expires.IsZero() && !b.Expires.After(now) })
	return blockList(all), nil
}

// blockList sorts blocks by prefix.
func blockList(blocks []dataplane.Block) []api.Block {
	list := make([]api.Block, len(blocks))
	for i, b := range blocks {
		list[i] = api.Block{Prefix: b.Prefix, Created: b.Created, Expires: b.Expires,
			Packets: b.Packets, Bytes: b.Bytes, Origin: b.Origin, Why: b.Why}
	}
	slices.SortFunc(list, func(a, b api.Block) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

// Block adds or renews blocks, all or none. They act at once, also on flows that are established.
func (d *Daemon) Block(_ context.Context, requests []api.BlockRequest) ([]api.Block, error) {
	now := time.Now()
	last := make(map[netip.Prefix]int, len(requests))
	for i, request := range requests {
		last[request.Prefix] = i
	}
	blocks := make([]dataplane.Block, 0, len(requests))
	for i, request := range requests {
		if last[request.Prefix] != i {
			continue
		}
		block := dataplane.Block{Prefix: request.Prefix, Origin: request.Origin, Why: request.Why}
		if request.For > 0 {
			block.Expires = now.Add(time.Duration(request.For))
		}
		blocks = append(blocks, block)
	}
	if err := d.plane.AddBlocks(blocks); errors.Is(err, dataplane.ErrBlocksFull) {
		return nil, api.NewProblem(api.CodeFull, "no room for %d more blocks, %d are the most: nothing was blocked", len(blocks), d.plane.BlocksMax())
	} else if err != nil {
		return nil, err
	}
	d.log.Info("blocked", "prefixes", len(blocks), "first", blocks[0].Prefix, "origin", blocks[0].Origin, "why", blocks[0].Why)
	d.happened(api.Event{Kind: api.EventBlock, Count: uint64(len(blocks)), Text: blockedText(blocks)})
	return blockList(blocks), nil
}

// loggedExpiries is how many blocks that expire together are logged one by one.
const loggedExpiries = 10

// expireBlocks forgets the blocks whose time is over. The data plane doesn't wait for it.
func (d *Daemon) expireBlocks() {
	expired, err := d.plane.ExpireBlocks()
	d.fault("expire blocks", err)
	for _, block := range expired[:min(len(expired), loggedExpiries)] {
		d.log.Info("block expired", "prefix", block.Prefix, "packets", block.Packets)
		d.happened(api.Event{Kind: api.EventExpire, Text: fmt.Sprintf("the block of %s, after %d packets", block.Prefix, block.Packets)})
	}
	if more := len(expired) - loggedExpiries; more > 0 {
		d.log.Info("more blocks expired", "prefixes", more)
		d.happened(api.Event{Kind: api.EventExpire, Count: uint64(more), Text: fmt.Sprintf("%d more blocks", more)})
	}
}

// Unblock removes blocks of exactly these prefixes.
func (d *Daemon) Unblock(_ context.Context, prefixes []netip.Prefix) (api.Unblocked, error) {
	removed, err := d.plane.RemoveBlocks(prefixes)
	if err != nil {
		return api.Unblocked{}, err
	}
	result := api.Unblocked{Removed: removed}
	were := make(map[netip.Prefix]bool, len(removed))
	for _, prefix := range removed {
		were[prefix] = true
	}
	for _, prefix := range prefixes {
		if !were[prefix] {
			result.Missing = append(result.Missing, prefix)
		}
	}
	if len(removed) > 0 {
		d.log.Info("unblocked", "prefixes", len(removed), "first", removed[0])
		d.happened(api.Event{Kind: api.EventUnblock, Count: uint64(len(removed)), Text: prefixText(removed[0], len(removed))})
	}
	return result, nil
}

// blockedText tells of blocks in a sentence.
func blockedText(blocks []dataplane.Block) string {
	first := blocks[0]
	text := prefixText(first.Prefix, len(blocks)) + " by " + first.Origin
	if !first.Expires.IsZero() {
		text += " until " + first.Expires.Format(time.RFC3339)
	}
	if first.Why != "" {
		text += ": " + first.Why
	}
	return text
}

func prefixText(first netip.Prefix, n int) string {
	if n == 1 {
		return first.String()
	}
	return fmt.Sprintf("%s and %d more", first, n-1)
}
