package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"gardu/ctl/model"
)

func sameEntries(a, b *model.Set) bool {
	return slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Pairs, b.Pairs)
}

// differentEntries counts entries that only one of two sets of a kind has.
func differentEntries(old, next *model.Set) (added, gone int) {
	switch next.Kind {
	case model.Ports:
		return countUnsorted(old.Ports, next.Ports, func(a, b model.Range) int {
			return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi))
		})
	case model.Pairs:
		return countUnsorted(old.Pairs, next.Pairs, netip.AddrPort.Compare)
	default:
		return countUnsorted(old.Prefixes, next.Prefixes, comparePrefixes)
	}
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// countUnsorted leaves the lists as they are: a snapshot is never changed.
func countUnsorted[T comparable](old, next []T, compare func(a, b T) int) (added, gone int) {
	head, tail := common(len(old), len(next), func(i, j int) bool { return old[i] == next[j] }) // that needs no sorting
	old, next = slices.Clone(old[head:len(old)-tail]), slices.Clone(next[head:len(next)-tail])
	slices.SortFunc(old, compare)
	slices.SortFunc(next, compare)
	return countDifferent(old, next, compare)
}
