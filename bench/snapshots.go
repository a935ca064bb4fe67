package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/model"
)

const (
	setSize   = 1_000_000
	manyRules = 10_000
)

var (
	serviceAddress  = netip.MustParseAddr("192.0.2.10")
	serviceAddress6 = netip.MustParseAddr("2001:db8::10")
	otherAddress    = netip.MustParseAddr("192.0.2.200") // no service's
)

// nothing passes every packet.
func nothing() *model.Snapshot { return &model.Snapshot{Filter: model.Filter{Default: model.Pass}} }

// limited drops what comes faster from a source.
func limited(rate uint64, every time.Duration, burst uint64) *model.Snapshot {
	s := nothing()
	per := model.Per{What: model.PerSource, Bits: [2]int{32, 128}}
	s.Filter.Rules = []model.Rule{{Name: "fast", Action: model.Drop, Limit: &model.Limit{Rate: rate, Every: every, Burst: burst, Per: per}}}
	return s
}

// flowsOnly passes every packet and keeps its flow.
func flowsOnly() *model.Snapshot {
	s := nothing()
	s.Flows = model.Flows{Enabled: true}
	return s
}

// droppedAll drops everything, and remembers so many flows of that.
func droppedAll(remembered int) *model.Snapshot {
	s := flowsOnly()
	s.Filter.Default = model.Drop
	s.Flows.Dropped = remembered
	return s
}

// stateful passes what is established by a rule, and all else.
func stateful() *model.Snapshot {
	s := nothing()
	s.Flows = model.Flows{Enabled: true, Max: 1_000_000}
	s.Filter.Rules = []model.Rule{{
		Name: "answers", Match: []model.Condition{{Field: "state", Ranges: []model.Range{{Lo: 2, Hi: 2}}}}, Action: model.Pass,
	}}
	return s
}

// list is a set of prefixes, with a test for membership.
type list struct {
	prefixes []netip.Prefix
	member   func(netip.Addr) bool
	any      func(*rand.Rand) netip.Addr // an address, mostly not a member
}

// blocked drops the sources of a list.
func (l list) blocked() *model.Snapshot {
	s := nothing()
	s.Sets = []model.Set{{Name: "listed", Prefixes: l.prefixes}}
	s.Filter.Rules = []model.Rule{{Name: "listed", Match: []model.Condition{{Field: "src", Set: "listed"}}, Action: model.Drop}}
	return s
}

// feed4 and feed6 have setSize prefixes of the lengths that public lists have; addresses only has as many addresses as
// xdp-filter takes, intervals as many prefixes, and millionAddresses as many as feed4.
func feed4() list { return feedOf(setSize) }

func intervals() list { return feedOf(peerAddresses) }

func feedOf(n int) list {
	return drawList(n, []int{32, 32, 32, 32, 32, 32, 32, 24, 24, 22}, func(r *rand.Rand) netip.Addr { return addr4(r.Uint32()) })
}

func feed6() list {
	return drawList(setSize, []int{128, 128, 128, 64, 64, 64, 64, 56, 48, 48}, func(r *rand.Rand) netip.Addr {
		return addr6(2<<60|r.Uint64()>>4, r.Uint64())
	})
}

func addresses() list { return addressesOf(peerAddresses) }

func millionAddresses() list { return addressesOf(setSize) }

func addressesOf(n int) list {
	return drawList(n, []int{32}, func(r *rand.Rand) netip.Addr { return addr4(r.Uint32()) })
}

func drawList(n int, lengths []int, any func(*rand.Rand) netip.Addr) list {
	r := random()
	member := make(map[netip.Prefix]bool, n)
	l := list{any: any, prefixes: make([]netip.Prefix, 0, n)}
	for len(l.prefixes) < n {
		prefix := netip.PrefixFrom(any(r), lengths[len(l.prefixes)%len(lengths)]).Masked()
		if !member[prefix] {
			member[prefix] = true
			l.prefixes = append(l.prefixes, prefix)
		}
	}
	l.member = func(a netip.Addr) bool {
		for _, bits := range slices.Compact(slices.Sorted(slices.Values(lengths))) {
			if member[netip.PrefixFrom(a, bits).Masked()] {
				return true
			}
		}
		return false
	}
	return l
}

// sources draws packets of which the given part, in percent, comes from the list, in random order but for the last one,
// which doesn't unless all do.
func (l list) sources(percent int) []tuple {
	r := random()
	dst := serviceAddress
	if l.prefixes[0].Addr().Is6() {
		dst = serviceAddress6
	}
	tuples := make([]tuple, manyPackets)
	for i := range tuples {
		src := l.any(r)
		if i < len(tuples)*percent/100 {
			src = l.prefixes[r.IntN(len(l.prefixes))].Addr()
		} else {
			for l.member(src) {
				src = l.any(r)
			}
		}
		tuples[i] = tuple{src: src, dst: dst, sport: between(r, model.Range{Lo: 1024, Hi: 65535}), dport: 443}
	}
	last := len(tuples) - 1
	r.Shuffle(last, func(i, j int) { tuples[i], tuples[j] = tuples[j], tuples[i] })
	return tuples
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

// farm is services with backends.
type farm struct {
	services, backends int
	six                bool // IPv6, and so are the backends
}

// usualFarm is that of most cases; packets are for its first service.
var (
	usualFarm  = farm{services: 64, backends: 16}
	usualFarm6 = farm{services: 64, backends: 16, six: true}
)

// address is that of service i.
func (f farm) address(i int) netip.Addr {
	if f.six {
		return addr6(0x20010db8<<32, uint64(0x10+i))
	}
	return addr4(number4(serviceAddress) + uint32(i))
}

// backend is the address of backend b of service i.
func (f farm) backend(i, b int) netip.Addr {
	if f.six {
		return addr6(0xfd<<56, uint64(i)<<16|uint64(b+2))
	}
	return addr4(10<<24 | uint32(i)<<10 | uint32(b+2))
}

// balanced has a farm's services, and flow accounting.
func balanced(mode model.Mode, f farm) *model.Snapshot {
	s := flowsOnly()
	for i := range f.services {
		service := model.Service{
			Name:     fmt.Sprintf("service-%d", i),
			Address:  f.address(i),
			Port:     model.Range{Lo: 443, Hi: 443},
			Proto:    model.ProtoTCP,
			Forward:  mode,
			Affinity: model.AffinityFlow,
			NAT:      model.NAT{Ports: model.Range{Lo: 1024, Hi: 32767}},
		}
		for b := range f.backends {
			service.Backends = append(service.Backends, model.Backend{Name: fmt.Sprintf("b%d", b), Address: f.backend(i, b), Weight: 100})
		}
		for b := range natPool {
			service.NAT.Pool = append(service.NAT.Pool, addr4(100<<24|64<<16|uint32(b+1)))
		}
		s.Services = append(s.Services, service)
	}
	return s
}

// datagrams has the farm's services by udp; with quic, the connection IDs of their packets are looked at.
func datagrams(f farm, quic bool) *model.Snapshot {
	s := balanced("ipip", f)
	for i := range s.Services {
		service := &s.Services[i]
		service.Proto = model.ProtoUDP
		if quic {
			service.QUIC = &model.QUIC{Format: model.QUICLB, Length: len(namedServer)}
			service.Backends[0].ServerID = namedServer
		}
	}
	return s
}

// namedServer is whose the connection ID of every datagram is: a short header, of config 0, with what the frames have there.
const namedServer = "\x00\x00"

// natPool is how many addresses translations of a service come from.
const natPool = 4

// all is everything together: rules that the packets of the service don't meet, the service, its flows.
func all(f farm) *model.Snapshot {
	s := balanced("ipip", f)
	s.Filter = rules(manyRules).Filter
	return s
}
