package main

import (
	"fmt"
	"net/netip"

	"gardu/ctl/model"
)

const (
	setSize   = 1_000_000
	manyRules = 10_000
)

var (
	serviceAddress = netip.MustParseAddr("192.0.2.10")
	otherAddress   = netip.MustParseAddr("192.0.2.200") // no service's
)

// nothing passes every packet.
func nothing() *model.Snapshot { return &model.Snapshot{Filter: model.Filter{Default: model.Pass}} }

// flowsOnly passes every packet and keeps its flow.
func flowsOnly() *model.Snapshot {
	s := nothing()
	s.Flows = model.Flows{Enabled: true}
	return s
}

// blocklist drops the sources of a set of setSize prefixes.
func blocklist() *model.Snapshot {
	s := nothing()
	prefixes, _ := listed()
	s.Sets = []model.Set{{Name: "listed", Prefixes: prefixes}}
	s.Filter.Rules = []model.Rule{{Name: "listed", Match: []model.Condition{{Field: "src", Set: "listed"}}, Action: model.Drop}}
	return s
}

// listed draws the prefixes of the block list, of the lengths that public lists have, and a test for membership.
func listed() ([]netip.Prefix, func(netip.Addr) bool) {
	lengths := []int{32, 32, 32, 32, 32, 32, 32, 24, 24, 22}
	r := random()
	member := make(map[netip.Prefix]bool, setSize)
	prefixes := make([]netip.Prefix, 0, setSize)
	for len(prefixes) < setSize {
		prefix := netip.PrefixFrom(addr4(r.Uint32()), lengths[len(prefixes)%len(lengths)]).Masked()
		if !member[prefix] {
			member[prefix] = true
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes, func(a netip.Addr) bool {
		for _, bits := range []int{32, 24, 22} {
			if member[netip.PrefixFrom(a, bits).Masked()] {
				return true
			}
		}
		return false
	}
}

// rules returns a snapshot of n rules of eight shapes, in turn, that drop.
func rules(n int) *model.Snapshot {
	s := nothing()
	for i := range n {
		s.Filter.Rules = append(s.Filter.Rules, model.Rule{
			Name: fmt.Sprintf("rule-%d", i), Match: match(i), Action: model.Drop,
		})
	}
	return s
}

// source and destination are rule i's own; no two rules share one.
func source(i int) netip.Prefix      { return netip.PrefixFrom(addr4(10<<24|uint32(i)<<8), 24) }
func destination(i int) netip.Prefix { return netip.PrefixFrom(addr4(100<<24|uint32(i)<<8), 24) }

func host(p netip.Prefix) netip.Addr { return p.Addr().Next() }

// match is the condition of rule i.
func match(i int) []model.Condition {
	src := model.Condition{Field: "src", Prefixes: []netip.Prefix{source(i)}}
	dst := model.Condition{Field: "dst", Prefixes: []netip.Prefix{destination(i)}}
	srcHost := model.Condition{Field: "src", Prefixes: []netip.Prefix{netip.PrefixFrom(host(source(i)), 32)}}
	dstHost := model.Condition{Field: "dst", Prefixes: []netip.Prefix{netip.PrefixFrom(host(destination(i)), 32)}}
	tcp := model.Condition{Field: "proto", Ranges: []model.Range{{Lo: model.ProtoTCP, Hi: model.ProtoTCP}}}
	port := uint32(dport(i))
	one := model.Condition{Field: "dport", Ranges: []model.Range{{Lo: port, Hi: port}}}
	some := model.Condition{Field: "dport", Ranges: []model.Range{{Lo: port - 10, Hi: port + 10}}}
	switch i % 8 {
	case 0:
		return []model.Condition{src, tcp, one}
	case 1:
		return []model.Condition{srcHost}
	case 2:
		return []model.Condition{dst, tcp, some}
	case 3:
		return []model.Condition{dstHost, tcp, one}
	case 4:
		return []model.Condition{src, dst}
	case 5:
		return []model.Condition{dst}
	case 6:
		return []model.Condition{srcHost, dstHost, tcp}
	default:
		return []model.Condition{src, one}
	}
}

func dport(i int) uint16 { return uint16(1000 + i%50*20) }

// hit is a packet that rule i matches, and no other.
func hit(i int) tuple {
	return tuple{src: host(source(i)), dst: host(destination(i)), sport: 40000, dport: dport(i)}
}

// balanced has 64 services of 16 backends each; packets are for the first one.
func balanced(mode model.Mode) *model.Snapshot {
	s := flowsOnly()
	for i := range 64 {
		service := model.Service{
			Name:     fmt.Sprintf("service-%d", i),
			Address:  addr4(0xc0000200 + 10 + uint32(i)),
			Port:     model.Range{Lo: 443, Hi: 443},
			Proto:    model.ProtoTCP,
			Forward:  mode,
			Affinity: model.AffinityFlow,
		}
		for b := range 16 {
			service.Backends = append(service.Backends, model.Backend{
				Name: fmt.Sprintf("b%d", b), Address: addr4(10<<24 | uint32(i)<<8 | uint32(b+2)), Weight: 100,
			})
		}
		s.Services = append(s.Services, service)
	}
	return s
}

// all is everything together: rules that the packets of the service don't meet, the service, its flows.
func all() *model.Snapshot {
	s := balanced("ipip")
	s.Filter = rules(manyRules).Filter
	return s
}
