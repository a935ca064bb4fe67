package history

import (
	"cmp"
	"net/netip"
	"slices"
)

// kind is what flows have in common besides their ends.
type kind struct {
	other                                              bool // the kinds that aren't kept: only the verdict is known
	proto                                              uint8
	vlan                                               uint16
	sample                                             uint16 // one packet of so many was counted
	verdict, reason, rule, service, backend, ifaceName string
}

// key is what a row is about. Of others, and in tables that don't have them, the ends are zero.
type key struct {
	src, dst netip.Addr
	dport    uint16
	kind     *kind // the same pointer for the same kind, in all tables that are added up together
}

// The tables of an interval.
const (
	totals = iota
	sources
	destinations
	pairs
	tableCount
)

// in is the key of a row of table that a flow of this key, with both ends, belongs to.
func (k key) in(table int) key {
	if table == totals || table == sources {
		k.dst, k.dport = netip.Addr{}, 0
	}
	if table == totals || table == destinations {
		k.src = netip.Addr{}
	}
	return k
}

// rows is one table of an interval.
type rows map[key]Counts

func (r rows) add(k key, c Counts) { r[k] = r[k].Plus(c) }

func (r rows) sum() (sum Counts) {
	for _, c := range r {
		sum = sum.Plus(c)
	}
	return sum
}

// interval is all tables of one.
type interval [tableCount]rows

func newInterval() *interval {
	var i interval
	for t := range i {
		i[t] = rows{}
	}
	return &i
}

// add takes what a flow did.
func (i *interval) add(k key, c Counts) {
	for t := range i {
		i[t].add(k.in(t), c)
	}
}

// merge takes all that other has; kinds says which kind of ours is the same as one of other's.
func (i *interval) merge(other *interval, kinds *kinds) {
	for t := range i {
		for k, c := range other[t] {
			k.kind = kinds.same(k.kind)
			i[t].add(k, c)
		}
	}
}

func (i *interval) keys() (n int) {
	for t := range i {
		n += len(i[t])
	}
	return n
}

// cut leaves the first top rows of each table, and others.
func (i *interval) cut(top int, kinds *kinds) {
	for t := range i {
		i[t].cut(t, top, kinds)
	}
}

type row struct {
	key
	Counts
}

// other tells rows of others from those that are kept for their own sake.
func (k key) other(table int) bool {
	if table == totals {
		return k.kind.other
	}
	return !k.src.IsValid() && !k.dst.IsValid()
}

// cut leaves the first top rows, half of them by bytes and half by packets, and adds the rest up.
func (r rows) cut(table, top int, kinds *kinds) {
	if len(r) <= top {
		return
	}
	var named, others []row
	for k, c := range r {
		if k.other(table) {
			others = append(others, row{k, c})
		} else {
			named = append(named, row{k, c})
		}
	}
	if len(named) > top {
		slices.SortFunc(named, byBytes)
		slices.SortFunc(named[top/2:], byPackets)
		for _, last := range named[top:] {
			delete(r, last.key)
			rest := key{kind: last.kind}
			if table == totals {
				rest.kind = kinds.others(last.kind)
			}
			r.add(rest, last.Counts)
		}
		named = named[:top]
	}
	if table == totals || len(r)-len(named) <= top {
		return
	}
	others = others[:0]
	for k, c := range r {
		if k.other(table) {
			others = append(others, row{k, c})
		}
	}
	slices.SortFunc(others, byBytes)
	slices.SortFunc(others[top/2:], byPackets)
	for _, last := range others[top:] {
		if last.kind.other {
			continue // as it will be
		}
		delete(r, last.key)
		r.add(key{kind: kinds.others(last.kind)}, last.Counts)
	}
}

func byBytes(a, b row) int { return cmp.Or(cmp.Compare(b.allBytes(), a.allBytes()), a.compare(b.key)) }

func byPackets(a, b row) int {
	return cmp.Or(cmp.Compare(b.allPackets(), a.allPackets()), a.compare(b.key))
}

// compare is any order that is always the same.
func (k key) compare(other key) int {
	return cmp.Or(k.src.Compare(other.src), k.dst.Compare(other.dst), cmp.Compare(k.dport, other.dport), k.kind.compare(other.kind))
}

func (k *kind) compare(other *kind) int {
	return cmp.Or(cmp.Compare(k.rule, other.rule), cmp.Compare(k.service, other.service), cmp.Compare(k.backend, other.backend),
		cmp.Compare(k.verdict, other.verdict), cmp.Compare(k.reason, other.reason), cmp.Compare(k.ifaceName, other.ifaceName),
		cmp.Compare(k.proto, other.proto), cmp.Compare(k.vlan, other.vlan), cmp.Compare(k.sample, other.sample))
}

// kinds has one pointer a kind, so that keys are small and quick to compare.
type kinds struct {
	known map[kind]*kind
}

func newKinds() *kinds { return &kinds{map[kind]*kind{}} }

// kindsMax bounds the kinds of what isn't written yet. They come from rules and services, and from what strangers send: protocol
// numbers and VLAN tags.
const kindsMax = 1 << 16

// of returns the pointer for a kind, or that for others when there are too many.
func (ks *kinds) of(k kind) *kind {
	if known := ks.known[k]; known != nil {
		return known
	}
	if len(ks.known) >= kindsMax && !k.other {
		return ks.others(&k)
	}
	ks.known[k] = &k
	return &k
}

// same returns our pointer for a kind that another pointer stands for.
func (ks *kinds) same(k *kind) *kind { return ks.of(*k) }

// others is what is left of a kind that isn't kept.
func (ks *kinds) others(k *kind) *kind {
	return ks.of(kind{other: true, verdict: k.verdict, sample: k.sample})
}
