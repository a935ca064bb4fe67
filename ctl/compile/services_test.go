package compile

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// services are random but for one thing that config sees to: of two that take the same packet one does so more narrowly.
func (s *source) services(n int) []model.Service {
	var services []model.Service
	for i := range n {
		one := model.Service{
			Name: fmt.Sprintf("s%d", i), Address: pick(s, s.pool), Proto: uint8(pick(s, []int{model.ProtoTCP, model.ProtoUDP, model.ProtoSCTP})),
			Forward: "ipip", Affinity: pick(s, []model.Affinity{model.AffinityFlow, model.AffinitySource}), ARP: s.chance(20),
		}
		if s.chance(30) {
			one.Prefix, _ = one.Address.Prefix(one.Address.BitLen() - 1 - s.IntN(24))
		}
		one.Port.Lo = uint32(pick(s, s.ports))
		one.Port.Hi = one.Port.Lo
		switch s.IntN(8) {
		case 0:
			one.Port.Hi = min(65535, one.Port.Lo+uint32(s.IntN(100)))
		case 1:
			one.Port = model.AnyPort
		case 2:
			one.Port, one.Proto = model.AnyPort, model.ProtoAny
		}
		free := true
		for j := range services {
			o := &services[j]
			free = free && (o.Addresses() != one.Addresses() || o.Proto != one.Proto || o.Ports() != one.Ports() ||
				o.Port.Hi < one.Port.Lo || o.Port.Lo > one.Port.Hi)
		}
		if free {
			services = append(services, one)
		}
	}
	return services
}

func TestServicesAgreeWithNaive(t *testing.T) {
	hits := 0
	for seed := range uint64(150) {
		s := newSource(seed)
		snapshot := &model.Snapshot{Services: s.services(1 << s.IntN(8))}
		tables, ids := compiled(t, snapshot)
		m := &mirror{Tables: tables}
		hints := ServiceHints(tables.Services)
		for range 1000 {
			p := s.packet()
			if s.chance(60) {
				one := pick(s, snapshot.Services)
				p.dst = one.Address
				if one.Prefix.IsValid() && s.chance(50) {
					p.dst = one.Prefix.Addr()
				}
				if p.ports && one.Proto != model.ProtoAny {
					p.proto, p.dport = one.Proto, uint16(one.Port.Lo)+uint16(s.IntN(3)-1)
				}
			}
			if p.src.Is4() != p.dst.Is4() {
				p.src = p.dst
			}
			var best *model.Service
			var wantFlags uint8
			wantAddress := false
			for i := range snapshot.Services {
				one := &snapshot.Services[i]
				if !one.Addresses().Contains(p.dst) {
					continue
				}
				wantAddress = true
				if one.ARP {
					wantFlags |= uint8(abi.ServiceArp)
				}
				takes := (one.Proto == p.proto || one.Proto == model.ProtoAny) && one.Port.Lo <= uint32(p.dport) && uint32(p.dport) <= one.Port.Hi
				if p.ports && takes && (best == nil || goesBefore(one, best)) {
					best = one
				}
			}
			var want uint16
			if best != nil {
				want = ids.Services[best.Name]
				hits++
			}
			got, address, flags := m.service(p)
			if got != want || address != wantAddress || flags&uint8(abi.ServiceArp) != wantFlags {
				t.Fatalf("seed %d, %+v: service %d, address %t, flags %d; want %d, %t, %d",
					seed, *p, got, address, flags, want, wantAddress, wantFlags)
			}
			if wantAddress && !hints[hint(p.dst)] {
				t.Fatalf("seed %d, %+v: a service has the address, and its hint says no", seed, *p)
			}
		}
	}
	t.Logf("%d packets for a service", hits)
}

// hint is address_hint() of bpf/hash.h.
func hint(addr netip.Addr) uint64 {
	bytes := addr.As16()
	return (binary.LittleEndian.Uint64(bytes[:]) ^ binary.LittleEndian.Uint64(bytes[8:])) * mixPrime >> (64 - abi.HintBits)
}

// Most addresses have no hint that a service has, unless services are prefixes: then all may be.
func TestServiceHints(t *testing.T) {
	count := func(services ...model.Service) (set int) {
		tables, _ := compiled(t, &model.Snapshot{Services: services})
		for _, has := range ServiceHints(tables.Services) {
			if has {
				set++
			}
		}
		return set
	}
	one := model.Service{Name: "web", Address: netip.MustParseAddr("192.0.2.1"), Proto: model.ProtoTCP, Port: model.Range{Lo: 80, Hi: 80}, Forward: "ipip"}
	six, wide := one, one
	six.Name, six.Address = "six", netip.MustParseAddr("2001:db8::1")
	wide.Name, wide.Prefix = "wide", netip.MustParsePrefix("198.51.100.0/24")
	wide.Address = wide.Prefix.Addr()
	if got := [...]int{count(), count(one), count(one, six), count(one, wide)}; got != [...]int{0, 1, 2, 1 << abi.HintBits} {
		t.Errorf("hints set without services, with one, two, a prefix: %d", got)
	}
}

// goesBefore says whether a service takes a packet that another one would take, too.
func goesBefore(a, b *model.Service) bool {
	if a.Addresses().Bits() != b.Addresses().Bits() {
		return a.Addresses().Bits() > b.Addresses().Bits()
	}
	if (a.Proto == model.ProtoAny) != (b.Proto == model.ProtoAny) {
		return b.Proto == model.ProtoAny
	}
	return a.Port.Hi-a.Port.Lo < b.Port.Hi-b.Port.Lo
}

func TestServiceRecord(t *testing.T) {
	web := service("web", "192.0.2.10", 443, backend("b1", "10.0.0.11", 100))
	web.ARP, web.Affinity = true, model.AffinitySource
	tables, ids := compiled(t, &model.Snapshot{Services: []model.Service{web}})
	head := abi.FromLine[abi.ServicesHead](tables.Services[0])
	got := abi.FromLine[abi.ServiceRecord](tables.Services[head.ServiceOff])
	want := abi.ServiceRecord{
		Addr: [2]uint64{0, 0xffff_c000_020a}, Family: uint8(abi.FamilyV4), Proto: 6, Mode: uint8(abi.ModeIpip),
		Flags: uint8(abi.ServiceArp | abi.ServiceAffinitySource), PortLo: 443, PortHi: 443, Id: ids.Services["web"], Ring: tables.Rings[0].ID, RingSize: 65537,
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// However many services share an address, a packet to another of its ports meets one record.
func TestServicesOfOneAddress(t *testing.T) {
	snapshot := &model.Snapshot{}
	for i := range 1000 {
		snapshot.Services = append(snapshot.Services, service(fmt.Sprintf("s%d", i), "192.0.2.10", uint32(1000+i)))
	}
	snapshot.Services[700].ARP = true
	tables, _ := compiled(t, snapshot)
	head := abi.FromLine[abi.ServicesHead](tables.Services[0])
	if head.ChainOff != 0 {
		t.Error("there is a chain")
	}
	m := &mirror{Tables: tables}
	s := newSource(1)
	p := s.packet()
	p.src, p.dst = snapshot.Services[0].Address, snapshot.Services[0].Address
	if _, address, flags := m.service(p); !address || flags != uint8(abi.ServiceArp) {
		t.Errorf("address %t, flags %d", address, flags)
	}
}
