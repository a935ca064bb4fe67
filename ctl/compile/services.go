package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// filterBits is how many bits of the address filter an address gets: the share of packets for no service that
// pass it is about the inverse.
const filterBits = 16

// servicesTable builds the table of services, a record each: of those that would take a packet the first one does.
func servicesTable(services []model.Service, ids IDs) ([]abi.Line, error) {
	if len(services) == 0 {
		return make([]abi.Line, 1), nil
	}
	services = slices.Clone(services)
	slices.SortStableFunc(services, byNarrowness)
	records := make([]abi.ServiceRecord, len(services))
	lines := make([]abi.Line, len(services))
	for i := range services {
		var err error
		if records[i], err = serviceRecord(&services[i], ids); err != nil {
			return nil, fmt.Errorf("service %q: %w", services[i].Name, err)
		}
	}
	byAddress := map[serviceAddress][]uint32{}
	var entries []entry
	for i := range records {
		r := &records[i]
		at := addressOf(r)
		byAddress[at] = append(byAddress[at], uint32(i))
		if r.PortLo == r.PortHi {
			meta := uint64(r.PortLo)<<16 | uint64(r.Proto)<<8 | uint64(r.Family)
			entries = append(entries, entry{hash: mix(at.hi, at.lo, meta, 1|at.level()), ref: uint32(i)})
		}
	}
	filter := newArray(powerOfTwo(filterBits*len(byAddress)), 1)
	filterSize := uint64(len(filter) * lineBytes * 8)
	for at, refs := range byAddress {
		bit := mix(at.hi^at.lo, uint64(at.family)|at.level()) >> 32 & (filterSize - 1)
		filter.or(int(bit/64), 1<<(bit%64))
		for _, ref := range addressRefs(records, refs) {
			entries = append(entries, entry{hash: mix(at.hi, at.lo, uint64(at.family), 2|at.level()), ref: ref})
		}
	}
	buckets, err := newBucketTable(entries)
	if err != nil {
		return nil, err
	}
	t := table{heads: 1}
	head := abi.ServicesHead{Services: uint32(len(services))}
	for i := range services {
		if pool := poolLines(&services[i]); pool != nil {
			records[i].NatOff, records[i].NatAddresses = t.add(pool), uint16(len(services[i].NAT.Pool))
		}
		lines[i] = abi.ToLine(records[i])
	}
	head.ServiceOff = t.add(lines)
	head.FilterOff, head.FilterMask = t.add(filter), uint32(filterSize-1)
	head.BucketOff, head.BucketMask = t.add(buckets.buckets), buckets.mask()
	head.ChainOff = t.add(buckets.chainLines())
	levels, err := serviceLevels(records)
	if err != nil {
		return nil, err
	}
	head.LevelOff, head.Levels = t.add(levels), uint32(len(levels))
	if err := addServerIDs(&t, &head, services, ids); err != nil {
		return nil, err
	}
	return t.finish(abi.ToLine(head)), nil
}

// ServiceHints says which hints (abi.Control.ServiceHints) addresses of the services in a table have: all of them, if a service's address is a
// prefix.
func ServiceHints(lines []abi.Line) (hints [1 << abi.HintBits]bool) {
	if len(lines) == 0 {
		return hints
	}
	head := abi.FromLine[abi.ServicesHead](lines[0])
	for _, line := range lines[head.ServiceOff:][:head.Services] {
		r := abi.FromLine[abi.ServiceRecord](line)
		hints[bits.ReverseBytes64(r.Addr[0]^r.Addr[1])*mixPrime>>(64-abi.HintBits)] = true
	}
	for i := range hints {
		hints[i] = hints[i] || head.Levels != 0
	}
	return hints
}

// serviceAddress is a service's address as the table has it.
type serviceAddress struct {
	hi, lo      uint64
	family, cut uint8
}

func addressOf(r *abi.ServiceRecord) serviceAddress {
	return serviceAddress{r.Addr[0], r.Addr[1], r.Family, r.Cut}
}

// level is what a prefix is told from an address by, where both are hashed.
func (a serviceAddress) level() uint64 { return uint64(a.cut) << 8 }

// byNarrowness orders services of the same addresses: of one protocol before any, of fewer ports before more.
func byNarrowness(a, b model.Service) int {
	all := func(s *model.Service) int {
		if s.Proto == model.ProtoAny {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(all(&a), all(&b)), cmp.Compare(a.Ports(), b.Ports()))
}

// serviceLevels are the lengths of prefixes, longest first.
func serviceLevels(records []abi.ServiceRecord) ([]abi.Line, error) {
	var levels []abi.ServiceLevel
	for i := range records {
		r := &records[i]
		level := abi.ServiceLevel{Mask: cutMask(r.Cut), Family: r.Family, Cut: r.Cut}
		if r.Cut != 0 && !slices.Contains(levels, level) {
			levels = append(levels, level)
		}
	}
	if len(levels) > int(abi.ServiceLevels) {
		return nil, &LimitError{What: "lengths of prefixes of services", Limit: int(abi.ServiceLevels)}
	}
	slices.SortFunc(levels, func(a, b abi.ServiceLevel) int {
		return cmp.Or(cmp.Compare(a.Cut, b.Cut), cmp.Compare(a.Family, b.Family))
	})
	lines := make([]abi.Line, len(levels))
	for i := range levels {
		lines[i] = abi.ToLine(levels[i])
	}
	return lines, nil
}

// cutMask has ones for all but the last bits of an address.
func cutMask(cut uint8) [2]uint64 {
	if cut >= 64 {
		return [2]uint64{^uint64(0) << (cut - 64), 0}
	}
	return [2]uint64{^uint64(0), ^uint64(0) << cut}
}

// addressRefs returns which services of an address a lookup of the address alone must find: those with several
// ports, which only it finds, and one that is announced. The others would make the lookup the longer,
// the more services share the address.
func addressRefs(records []abi.ServiceRecord, all []uint32) []uint32 {
	var refs []uint32
	answered := false
	answers := func(ref uint32) bool { return records[ref].Flags&uint8(abi.ServiceArp) != 0 }
	for _, ref := range all {
		if records[ref].PortLo != records[ref].PortHi {
			refs = append(refs, ref)
			answered = answered || answers(ref)
		}
	}
	for _, ref := range all {
		if !answered && answers(ref) {
			refs = append(refs, ref)
			answered = true
		}
	}
	if len(refs) == 0 {
		refs = append(refs, all[0])
	}
	return refs
}

func serviceRecord(s *model.Service, ids IDs) (abi.ServiceRecord, error) {
	id, ok := ids.Services[s.Name]
	ring, ringOK := ids.Rings[ringKey(s)]
	if !ok || !ringOK {
		return abi.ServiceRecord{}, fmt.Errorf("no id")
	}
	mode, ok := lb.FindMode(s.Forward)
	if !ok {
		return abi.ServiceRecord{}, fmt.Errorf("unknown forward %q", s.Forward)
	}
	addresses := s.Addresses()
	_, family := abi.PutAddr(addresses.Addr())
	r := abi.ServiceRecord{
		Addr: mapped(addresses.Addr()), Family: uint8(family), Cut: uint8(addresses.Addr().BitLen() - addresses.Bits()), Proto: s.Proto, Mode: uint8(mode.ABI),
		PortLo: uint16(s.Port.Lo), PortHi: uint16(s.Port.Hi), Id: id, Ring: ring, RingSize: uint32(ringSlots(s)),
	}
	if s.Forward == lb.ModeNAT {
		r.NatLo, r.NatHi = uint16(s.NAT.Ports.Lo), uint16(s.NAT.Ports.Hi)
	}
	r.Quic = quicForm(s.QUIC)
	if s.ARP {
		r.Flags |= uint8(abi.ServiceArp)
	}
	if s.Affinity == model.AffinitySource {
		r.Flags |= uint8(abi.ServiceAffinitySource)
	}
	return r, nil
}

// poolLines are the addresses that a service's packets are sent on from, four a line; nil: it has no pool.
func poolLines(s *model.Service) []abi.Line {
	if s.Forward != lb.ModeNAT || len(s.NAT.Pool) == 0 {
		return nil
	}
	lines := make([]abi.Line, (len(s.NAT.Pool)+3)/4)
	for i, address := range s.NAT.Pool {
		bytes, _ := abi.PutAddr(address)
		word := lines[i/4].W[i%4*2:]
		word[0], word[1] = binary.NativeEndian.Uint64(bytes[:8]), binary.NativeEndian.Uint64(bytes[8:])
	}
	return lines
}

// ringSlots is the size of a service's ring.
func ringSlots(s *model.Service) int { return cmp.Or(s.Ring, lb.RingSize) }

// backends returns the rings and backends of all services.
func backends(services []model.Service, ids IDs) ([]Ring, []Backend, error) {
	var rings []Ring
	var all []Backend
	for i := range services {
		s := &services[i]
		mode, _ := lb.FindMode(s.Forward)
		ring := Ring{ID: ids.Rings[ringKey(s)], Service: s.Name, Size: ringSlots(s), Members: make([]lb.Member, len(s.Backends))}
		for j := range s.Backends {
			b := &s.Backends[j]
			id, ok := ids.Backends[backendKey(s, b)]
			if !ok {
				return nil, nil, fmt.Errorf("backend %s/%s has no id", s.Name, b.Name)
			}
			ring.Members[j] = lb.Member{Name: b.Name, ID: id, Weight: b.Weight, Backup: b.Backup}
			all = append(all, Backend{
				ID: id, Service: ids.Services[s.Name], Name: b.Name, ServiceName: s.Name, Address: b.Address, Port: b.Port, Mode: mode.ABI, OnDown: s.OnDown,
			})
		}
		rings = append(rings, ring)
	}
	return rings, all, nil
}
