package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

// digest tells snapshots apart by what they want: neither positions nor what is in set files belong to it.
func digest(snapshot *model.Snapshot) (string, error) {
	bare := *snapshot
	bare.Sets = slices.Clone(bare.Sets)
	for i := range bare.Sets {
		if bare.Sets[i].File != "" {
			bare.Sets[i].Prefixes = nil
		}
	}
	text, err := json.Marshal(&bare)
	if err != nil {
		return "", fmt.Errorf("digest of the snapshot: %w", err)
	}
	var values any
	if err := json.Unmarshal(text, &values); err != nil {
		return "", fmt.Errorf("digest of the snapshot: %w", err)
	}
	dropPositions(values)
	if text, err = json.Marshal(values); err != nil { // keys of maps are sorted
		return "", fmt.Errorf("digest of the snapshot: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

func dropPositions(value any) {
	switch value := value.(type) {
	case map[string]any:
		delete(value, "Pos")
		for _, member := range value {
			dropPositions(member)
		}
	case []any:
		for _, item := range value {
			dropPositions(item)
		}
	}
}

// sameLists reports whether the sets of two snapshots of one digest hold the same.
func sameLists(a, b *model.Snapshot) bool {
	return slices.EqualFunc(a.Sets, b.Sets, func(x, y model.Set) bool { return slices.Equal(x.Prefixes, y.Prefixes) })
}

// withLists returns the snapshot with other prefixes in some of its sets, by name.
func withLists(snapshot *model.Snapshot, lists map[string][]netip.Prefix) *model.Snapshot {
	next := *snapshot
	next.Sets = slices.Clone(next.Sets)
	for i := range next.Sets {
		if prefixes, ok := lists[next.Sets[i].Name]; ok {
			next.Sets[i].Prefixes = prefixes
		}
	}
	return &next
}
