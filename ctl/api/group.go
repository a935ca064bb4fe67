package api

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"gardu/ctl/expr"
)

// FlowGroup is what the flows of one group add up to.
type FlowGroup struct {
	Group        map[string]string `json:"group,omitempty"` // what they have in common, by the keys as asked for
	Other        bool              `json:"other,omitempty"` // of what they have in common, this is all that is in no other line
	Flows        uint64            `json:"flows"`
	Packets      uint64            `json:"packets"`
	Bytes        uint64            `json:"bytes"` // IP bytes
	PacketsReply uint64            `json:"packets_reply"`
	BytesReply   uint64            `json:"bytes_reply"`
	Sample       int               `json:"sample,omitempty"` // one packet of so many was counted; absent: every one
	First        time.Time         `json:"first"`            // packet of the first flow
	Last         time.Time         `json:"last"`
	// Missing is the most that can be in the line of the others and belongs here, both directions. Absent while all
	// groups find room.
	Missing *Counter `json:"missing,omitempty"`
}

// Rate is bits a second from the first packet to the last, as those of a flow.
func (g *FlowGroup) Rate() float64 { return rate(g.Bytes+g.BytesReply, g.Last.Sub(g.First)) }

// Rate is bits a second in both directions, from the first packet to the last. What took less than a second is taken to
// be spread over one: two packets that come at once are no gigabits.
func (f *Flow) Rate() float64 { return rate(f.Bytes+f.BytesReply, f.Last.Sub(f.First)) }

func rate(bytes uint64, took time.Duration) float64 {
	return 8 * float64(bytes) / max(1, took.Seconds())
}

var groupOrder = map[string]func(a, b *FlowGroup) int{
	"bytes":    func(a, b *FlowGroup) int { return cmp.Compare(b.Bytes+b.BytesReply, a.Bytes+a.BytesReply) },
	"packets":  func(a, b *FlowGroup) int { return cmp.Compare(b.Packets+b.PacketsReply, a.Packets+a.PacketsReply) },
	"flows":    func(a, b *FlowGroup) int { return cmp.Compare(b.Flows, a.Flows) },
	"rate":     func(a, b *FlowGroup) int { return cmp.Compare(b.Rate(), a.Rate()) },
	"first":    func(a, b *FlowGroup) int { return b.First.Compare(a.First) },
	"last":     func(a, b *FlowGroup) int { return b.Last.Compare(a.Last) },
	"duration": func(a, b *FlowGroup) int { return cmp.Compare(b.Last.Sub(b.First), a.Last.Sub(a.First)) },
}

// GroupSorts returns what groups can be sorted by, from high to low.
func GroupSorts() []string { return slices.Sorted(maps.Keys(groupOrder)) }

// maxGroups bounds the groups held in memory at once, some 300 bytes each.
const maxGroups = 1 << 16

// groups adds up flows by group. When there are too many groups, the lesser half goes to the line of the others; one that
// comes back begins anew, and says how much it can be short of. So all lines together are all flows, always.
type groups struct {
	keys    expr.GroupKeys
	compare func(a, b *FlowGroup) int
	limit   int
	members map[expr.Group]*member
	other   FlowGroup
	missing Counter // the most that a group among the others can have
}

type member struct {
	key expr.Group
	sum FlowGroup
}

func newGroups(keys expr.GroupKeys, sort string) *groups {
	return &groups{keys: keys, compare: groupOrder[cmp.Or(sort, "bytes")], limit: maxGroups,
		members: map[expr.Group]*member{}, other: FlowGroup{Other: true}}
}

// add counts a flow to its group. facts are those of the flow.
func (g *groups) add(f *Flow, facts *expr.Flow) {
	key := g.keys.Of(facts)
	m := g.members[key]
	if m == nil {
		if len(g.members) >= g.limit {
			g.makeRoom()
		}
		m = &member{key: key}
		if g.missing != (Counter{}) {
			missing := g.missing
			m.sum.Missing = &missing
		}
		g.members[key] = m
	}
	m.sum.plus(&FlowGroup{Flows: 1, Packets: f.Packets, Bytes: f.Bytes, PacketsReply: f.PacketsReply, BytesReply: f.BytesReply,
		Sample: f.Sample, First: f.First, Last: f.Last})
}

// plus adds up all but what the flows have in common.
func (g *FlowGroup) plus(more *FlowGroup) {
	if g.Flows == 0 || more.First.Before(g.First) {
		g.First = more.First
	}
	if more.Last.After(g.Last) {
		g.Last = more.Last
	}
	g.Sample = max(g.Sample, more.Sample)
	g.Flows += more.Flows
	g.Packets += more.Packets
	g.Bytes += more.Bytes
	g.PacketsReply += more.PacketsReply
	g.BytesReply += more.BytesReply
}

// sorted are the groups in order, the same when called again.
func (g *groups) sorted() []*member {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *member) int {
		if order := g.compare(&a.sum, &b.sum); order != 0 {
			return order
		}
		return a.key.Compare(&b.key)
	})
}

// makeRoom moves the lesser half of the groups to the others.
func (g *groups) makeRoom() {
	for _, m := range g.sorted()[g.limit/2:] {
		g.leave(m)
	}
}

func (g *groups) leave(m *member) {
	delete(g.members, m.key)
	most := Counter{m.sum.Packets + m.sum.PacketsReply, m.sum.Bytes + m.sum.BytesReply}
	if missing := m.sum.Missing; missing != nil {
		most = Counter{most.Packets + missing.Packets, most.Bytes + missing.Bytes}
	}
	g.missing = Counter{max(g.missing.Packets, most.Packets), max(g.missing.Bytes, most.Bytes)}
	g.other.plus(&m.sum)
}

// lines are the first groups in order, as many as limit (0: all), and behind them what is in none of these, if anything.
func (g *groups) lines(limit int) []FlowGroup {
	var lines []FlowGroup
	for i, m := range g.sorted() {
		if limit > 0 && i >= limit {
			g.leave(m)
			continue
		}
		line := m.sum
		line.Group = map[string]string{}
		for _, key := range g.keys {
			line.Group[key.String()] = key.Value(&m.key)
		}
		lines = append(lines, line)
	}
	if g.other.Flows > 0 {
		lines = append(lines, g.other)
	}
	return lines
}
