package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
)

// EntryError is what is wrong with one entry of a list; the first is entry 1.
type EntryError struct {
	Entry  int    `json:"entry"`
	Detail string `json:"detail"`
}

// maxEntryErrors is how many of them a Problem carries.
const maxEntryErrors = 100

// blockEntry is a BlockRequest, or why it is none: each entry of a batch is read for itself, so that all errors are told.
type blockEntry struct {
	BlockRequest
	err error
}

// UnmarshalJSON keeps what is wrong for later.
func (e *blockEntry) UnmarshalJSON(data []byte) error {
	e.err = strictly(data, &e.BlockRequest)
	if e.err == nil {
		e.err = e.check()
	}
	return nil
}

func (r *BlockRequest) check() error {
	switch {
	case !r.Prefix.IsValid():
		return errors.New("there is no prefix")
	case r.Prefix.Bits() == 0:
		return fmt.Errorf("%s: a block covers a part of the addresses, not all; use filter.default", r.Prefix)
	case r.For < 0:
		return fmt.Errorf("%s: the time is negative", r.Prefix)
	}
	return nil
}

// block takes a batch, all or nothing.
func (h *handler) block(ctx context.Context, entries []blockEntry) ([]Block, error) {
	if len(entries) == 0 {
		return nil, NewProblem(CodeInvalid, "nothing to block")
	}
	requests := make([]BlockRequest, len(entries))
	var wrong []EntryError
	for i, entry := range entries {
		if entry.err != nil {
			wrong = append(wrong, EntryError{i + 1, entry.err.Error()})
			continue
		}
		requests[i] = entry.BlockRequest
		requests[i].Prefix = entry.Prefix.Masked()
		if entry.Origin == "" {
			requests[i].Origin = "api"
		}
	}
	if len(wrong) > 0 {
		problem := NewProblem(CodeInvalid, "%d of %d entries can't be blocked, so none was; entry %d: %s",
			len(wrong), len(entries), wrong[0].Entry, wrong[0].Detail)
		problem.Entries = wrong[:min(len(wrong), maxEntryErrors)]
		return nil, problem
	}
	return h.engine.Block(ctx, requests)
}

func (h *handler) unblock(ctx context.Context, query url.Values) (Unblocked, error) {
	var prefixes []netip.Prefix
	for _, text := range query["prefix"] {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Unblocked{}, NewProblem(CodeInvalid, "%q is not a prefix", text)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	if len(prefixes) == 0 {
		return Unblocked{}, NewProblem(CodeInvalid, "nothing to unblock: ?prefix=P&prefix=P is missing")
	}
	unblocked, err := h.engine.Unblock(ctx, prefixes)
	if unblocked.Removed == nil {
		unblocked.Removed = []netip.Prefix{}
	}
	if unblocked.Missing == nil {
		unblocked.Missing = []netip.Prefix{}
	}
	return unblocked, err
}

// strictly reads JSON without unknown keys.
func strictly(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
