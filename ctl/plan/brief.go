package plan

import (
	"fmt"
	"slices"
	"strings"

	"gardu/ctl/api"
	"gardu/ctl/model"
)

// Brief is the diff in a line for each kind of objects: what apply tells.
func Brief(old, next *model.Snapshot) []string { return brief(diff(old, next, false)) }

// told is how many names of a kind a brief line has.
const told = 6

func brief(changes []api.Change) []string {
	var lines []string
	for len(changes) > 0 {
		kind := changes[0].Kind
		n := slices.IndexFunc(changes, func(c api.Change) bool { return c.Kind != kind })
		if n < 0 {
			n = len(changes)
		}
		lines = append(lines, briefLine(kind, changes[:n]))
		changes = changes[n:]
	}
	return lines
}

// briefLine is "rule: +ssh ~web -old": one kind of objects.
func briefLine(kind string, changes []api.Change) string {
	if len(changes) > told {
		return kind + "s: " + countText(changes)
	}
	words := make([]string, len(changes))
	for i, c := range changes {
		words[i] = c.Sign() + c.Name
		if c.Name == "" {
			words[i] = c.Sign() + keyNames(c.Keys)
		}
	}
	return kind + ": " + strings.Join(words, " ")
}

func countText(changes []api.Change) string {
	var parts []string
	for _, what := range []struct{ change, word string }{
		{api.ChangeAdded, "added"}, {api.ChangeChanged, "changed"}, {api.ChangeRemoved, "removed"},
	} {
		n := 0
		for _, c := range changes {
			if c.Change == what.change {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what.word))
		}
	}
	return strings.Join(parts, ", ")
}

func keyNames(keys []api.ChangedKey) string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.Key
	}
	return strings.Join(names, " ~")
}
