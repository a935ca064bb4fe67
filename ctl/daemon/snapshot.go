package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"gardu/ctl/model"
)

// digest tells snapshots apart by what they want: neither positions nor what is in set files belong to it.
func digest(snapshot *model.Snapshot) (string, error) {
	bare := *snapshot
	bare.Sets = slices.Clone(bare.Sets)
	for i := range bare.Sets {
		if bare.Sets[i].File != "" {
			bare.Sets[i].Prefixes, bare.Sets[i].Ports = nil, nil
			bare.Sets[i].Read = model.Stamp{}
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
	return slices.EqualFunc(a.Sets, b.Sets, func(x, y model.Set) bool {
		return slices.Equal(x.Prefixes, y.Prefixes) && slices.Equal(x.Ports, y.Ports)
	})
}

// withLists returns the snapshot with what the files of some of its sets hold now, by name.
func withLists(snapshot *model.Snapshot, lists map[string]reread) *model.Snapshot {
	next := *snapshot
	next.Sets = slices.Clone(next.Sets)
	for i := range next.Sets {
		set := &next.Sets[i]
		if next, ok := lists[set.Name]; ok && next.set.File == set.File && next.set.Kind == set.Kind {
			set.Prefixes, set.Ports, set.Read = next.set.Prefixes, next.set.Ports, next.set.Read
		}
	}
	return &next
}
