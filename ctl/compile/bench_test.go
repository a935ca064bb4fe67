package compile

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gardu/ctl/model"
)

// randomPrefixes returns n distinct-enough IPv4 prefixes as block lists have them: mostly hosts, some networks.
func randomPrefixes(n int, v6 bool) []netip.Prefix {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	prefixes := make([]netip.Prefix, n)
	for i := range prefixes {
		if v6 {
			var a [16]byte
			binary.BigEndian.PutUint64(a[:], 0x24<<56|random.Uint64()>>8)
			binary.BigEndian.PutUint64(a[8:], random.Uint64())
			length := []int{48, 56, 64, 128}[random.IntN(4)]
			prefixes[i] = netip.PrefixFrom(netip.AddrFrom16(a), length).Masked()
			continue
		}
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], random.Uint32())
		length := 32
		if random.IntN(4) == 0 {
			length = 20 + random.IntN(12)
		}
		prefixes[i] = netip.PrefixFrom(netip.AddrFrom4(a), length).Masked()
	}
	return prefixes
}

func setSnapshot(prefixes []netip.Prefix) *model.Snapshot {
	return &model.Snapshot{
		Sets: []model.Set{{Name: "big", Prefixes: prefixes}},
		Filter: model.Filter{Rules: []model.Rule{
			{Name: "big", Match: []model.Condition{{Field: "src", Set: "big"}}, Action: model.Drop},
		}},
	}
}

// ruleSnapshot has n rules of a source or destination network and a destination port, as firewalls have them.
func ruleSnapshot(n int) *model.Snapshot {
	random := rand.New(rand.NewPCG(2, uint64(n)))
	snapshot := &model.Snapshot{}
	for i := range n {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], random.Uint32())
		length := []int{16, 20, 22, 24, 24, 24, 28, 32, 32, 32}[random.IntN(10)]
		field := model.Field("src")
		if random.IntN(2) == 0 {
			field = "dst"
		}
		port := uint32(random.IntN(65536))
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{
			Name: fmt.Sprintf("r%d", i), Action: model.Drop,
			Match: []model.Condition{
				{Field: field, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(a), length).Masked()}},
				{Field: "dport", Ranges: []model.Range{{Lo: port, Hi: port}}},
			},
		})
	}
	return snapshot
}

// shapesSnapshot has rules of every combination of prefix lengths, protocols and port ranges: many more shapes than groups.
func shapesSnapshot(n int) *model.Snapshot {
	random := rand.New(rand.NewPCG(3, uint64(n)))
	snapshot := &model.Snapshot{}
	for i := range n {
		var match []model.Condition
		for _, field := range []model.Field{"src", "dst"} {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], random.Uint32())
			prefix := netip.PrefixFrom(netip.AddrFrom4(a), 8+random.IntN(25)).Masked()
			match = append(match, model.Condition{Field: field, Prefixes: []netip.Prefix{prefix}})
		}
		if random.IntN(2) == 0 {
			match = append(match, model.Condition{Field: "proto", Ranges: []model.Range{{Lo: 6, Hi: 6}}})
		}
		lo := uint32(random.IntN(65536))
		hi := min(65535, lo+uint32(random.IntN(2)*random.IntN(10000)))
		match = append(match, model.Condition{Field: "dport", Ranges: []model.Range{{Lo: lo, Hi: hi}}})
		snapshot.Filter.Rules = append(snapshot.Filter.Rules, model.Rule{Name: fmt.Sprintf("r%d", i), Match: match, Action: model.Drop})
	}
	return snapshot
}

func BenchmarkCompile(b *testing.B) {
	for _, bench := range []struct {
		name     string
		snapshot func() *model.Snapshot
	}{
		{"set of 1M v4 prefixes", func() *model.Snapshot { return setSnapshot(randomPrefixes(1_000_000, false)) }},
		{"set of 1M v6 prefixes", func() *model.Snapshot { return setSnapshot(randomPrefixes(1_000_000, true)) }},
		{"10k rules", func() *model.Snapshot { return ruleSnapshot(10_000) }},
		{"10k rules of 2,500 shapes", func() *model.Snapshot { return shapesSnapshot(10_000) }},
		{"100k rules of 2,500 shapes", func() *model.Snapshot { return shapesSnapshot(100_000) }},
		{"100k rules", func() *model.Snapshot { return ruleSnapshot(100_000) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			snapshot := bench.snapshot()
			ids, _, err := IDs{}.Assign(snapshot)
			if err != nil {
				b.Fatal(err)
			}
			var tables *Tables
			for b.Loop() {
				if tables, err = Compile(snapshot, ids); err != nil {
					b.Fatal(err)
				}
			}
			b.Logf("%+v", tables.Cost)
		})
	}
}

func BenchmarkAssign(b *testing.B) {
	snapshot := ruleSnapshot(100_000)
	ids, _, err := IDs{}.Assign(snapshot)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := ids.Assign(snapshot); err != nil {
			b.Fatal(err)
		}
	}
}
