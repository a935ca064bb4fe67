package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/dataplane"
)

// Blocks lists all blocks that are in force, by prefix.
func (d *Daemon) Blocks(context.Context) ([]api.Block, error) {
	return d.blocks(func(dataplane.Block) bool { return true })
}

func (d *Daemon) blocks(wanted func(dataplane.Block) bool) ([]api.Block, error) {
	all, err := d.plane.Blocks()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var list []api.Block
	for _, b := range all {
		if !wanted(b) || !b.Expires.IsZero() && b.Expires.Before(now) {
			continue
		}
		list = append(list, api.Block{Prefix: b.Prefix, Created: b.Created, Expires: b.Expires,
			Packets: b.Packets, Bytes: b.Bytes, Origin: b.Origin, Why: b.Why})
	}
	slices.SortFunc(list, func(a, b api.Block) int { return a.Prefix.Compare(b.Prefix) })
	return list, nil
}

// Block adds or renews blocks, all or none. They act at once, also on flows that are established.
func (d *Daemon) Block(_ context.Context, requests []api.BlockRequest) ([]api.Block, error) {
	now := time.Now()
	blocks := make([]dataplane.Block, len(requests))
	prefixes := make(map[netip.Prefix]bool, len(requests))
	for i, request := range requests {
		if request.Prefix.Bits() == 0 {
			return nil, api.NewProblem(api.CodeInvalid, "block %s: a block covers a part of the addresses, not all; use filter.default", request.Prefix)
		}
		block := dataplane.Block{Prefix: request.Prefix, Origin: request.Origin, Why: request.Why}
		if block.Origin == "" {
			block.Origin = "api"
		}
		if request.For > 0 {
			block.Expires = now.Add(time.Duration(request.For))
		}
		blocks[i], prefixes[request.Prefix] = block, true
	}
	if err := d.plane.AddBlocks(blocks); errors.Is(err, dataplane.ErrBlocksFull) {
		return nil, api.NewProblem(api.CodeFull, "no room for %d more blocks: nothing was blocked", len(blocks))
	} else if err != nil {
		return nil, err
	}
	d.log.Info("blocked", "prefixes", len(prefixes), "first", blocks[0].Prefix, "origin", blocks[0].Origin, "why", blocks[0].Why)
	return d.blocks(func(b dataplane.Block) bool { return prefixes[b.Prefix] })
}

// Unblock removes blocks of exactly these prefixes.
func (d *Daemon) Unblock(_ context.Context, prefixes []netip.Prefix) (api.Unblocked, error) {
	removed, err := d.plane.RemoveBlocks(prefixes)
	if err != nil {
		return api.Unblocked{}, err
	}
	result := api.Unblocked{Removed: removed}
	for _, prefix := range prefixes {
		if !slices.Contains(removed, prefix) {
			result.Missing = append(result.Missing, prefix)
		}
	}
	if len(removed) > 0 {
		d.log.Info("unblocked", "prefixes", len(removed), "first", removed[0])
	}
	return result, nil
}
