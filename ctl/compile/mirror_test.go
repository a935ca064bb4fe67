package compile

import (
	"math/bits"
	"net/netip"

	"gardu/ctl/abi"
)

// packet is what the data plane knows of a packet when it judges it.
type packet struct {
	src, dst     netip.Addr // of one family
	proto        uint8
	ports        bool // has ports
	sport, dport uint16
	icmp         bool
	icmpType     uint8
	icmpCode     uint8
	ttl, dscp    uint8
	length       uint16
	tcp          bool
	flags        uint8
	fragment     uint8
	mac          [2]uint64 // source, destination
	etherType    uint16
	vlan         uint16
	interfaceID  uint16
	service      uint16 // 0: none
}

func (p *packet) family() abi.Family {
	_, family := abi.PutAddr(p.src)
	return family
}

// fact is fact() of bpf/parse.h.
func (p *packet) fact(field abi.Field) (uint32, bool) {
	switch field {
	case abi.FieldProto:
		return uint32(p.proto), true
	case abi.FieldSport:
		return uint32(p.sport), p.ports
	case abi.FieldDport:
		return uint32(p.dport), p.ports
	case abi.FieldIcmpType:
		return uint32(p.icmpType), p.icmp
	case abi.FieldIcmpCode:
		return uint32(p.icmpCode), p.icmp
	case abi.FieldTtl:
		return uint32(p.ttl), true
	case abi.FieldDscp:
		return uint32(p.dscp), true
	case abi.FieldLength:
		return uint32(p.length), true
	}
	switch field {
	case abi.FieldTcpFlags:
		return uint32(p.flags), p.tcp
	case abi.FieldFragment:
		return uint32(p.fragment), true
	case abi.FieldEthertype:
		return uint32(p.etherType), true
	case abi.FieldVlan:
		return uint32(p.vlan), true
	case abi.FieldInterface:
		return uint32(p.interfaceID), true
	case abi.FieldService:
		return uint32(p.service), true
	}
	return 0, false
}

// macOf is the MAC address that a field is about.
func (p *packet) macOf(field abi.Field) uint64 {
	if field == abi.FieldDstMac {
		return p.mac[1]
	}
	return p.mac[0]
}

// mirror reads tables as the programs do: by offset and number, from xdp/sets.h, xdp/rules.h and xdp/lb.h. It counts
// what a lookup reads.
type mirror struct {
	*Tables
	probes, verified int // of the last first()
	unsure           uint32
	remember         bool // the last verdict may be remembered
}

func area(lines []abi.Line, off uint32) array { return array(lines[off:]) }

func (a array) u32(i int) uint32 { return uint32(a.word(i/2) >> (i % 2 * 32)) }
func (a array) u8(i int) uint8   { return uint8(a.word(i/8) >> (i % 8 * 8)) }

// setsOf returns the class line of an address.
func (m *mirror) setsOf(addr netip.Addr) abi.Line {
	head := abi.FromLine[abi.SetsHead](m.Sets[0])
	var class uint16
	if addr.Is4() {
		class = m.class4(&head, uint32(hostOrder(addr)[1]))
	} else {
		at := hostOrder(addr)
		class = m.class6(&head, at[0], at[1])
	}
	return m.Sets[head.ClassOff+uint32(class)]
}

func (m *mirror) class4(head *abi.SetsHead, addr uint32) uint16 {
	if head.V4TouchedOff != 0 && area(m.Sets, head.V4TouchedOff).word(int(addr>>15))>>(addr>>9&63)&1 == 0 {
		return 0
	}
	if head.V4CodeOff != 0 {
		switch area(m.Sets, head.V4CodeOff).word(int(addr>>13)) >> (addr >> 8 & 31 * 2) & 3 {
		case 0:
			return 0
		case 1:
			return area(m.Sets, head.V4L16Off).u16(int(addr >> 16))
		}
	} else if head.V4BucketOff == 0 {
		return 0
	}
	key24 := uint64(addr >> 8)
	bucket := uint32(mix(key24, 4)) & head.V4BucketMask
	var class uint16
	for range abi.BucketHops {
		line := m.Sets[head.V4BucketOff+bucket]
		for _, slot := range line.W {
			kind := abi.V4Slot(slot >> 60)
			if kind == abi.V4End {
				break
			}
			if slot>>36&0xffffff != key24 {
				continue
			}
			switch {
			case kind == abi.V4Dense:
				return area(m.Sets, head.V4DenseOff).u16(int(uint32(slot)*256 + addr&0xff))
			case kind == abi.V4Uniform:
				class = uint16(slot)
			case uint32(slot>>16&0xff) == addr&0xff:
				return uint16(slot)
			}
		}
		if line.W[0]&(1<<35) == 0 {
			break
		}
		bucket = (bucket + 1) & head.V4BucketMask
	}
	return class
}

func (m *mirror) touches6(head *abi.SetsHead, hi uint64) bool {
	h := mix(hi >> head.V6TouchedShift)
	want := uint64(1)<<(h&63) | 1<<(h>>6&63)
	return head.V6TouchedOff == 0 || area(m.Sets, head.V6TouchedOff).word(int(h>>40&uint64(head.V6TouchedMask)))&want == want
}

func (m *mirror) class6(head *abi.SetsHead, hi, lo uint64) uint16 {
	if !m.touches6(head, hi) {
		return 0
	}
	for i := range head.V6Lens {
		length := area(m.Sets, head.V6LenOff).u8(int(i))
		mhi, mlo := hi, lo
		if length <= 64 {
			mhi &= ^uint64(0) << (64 - length)
			mlo = 0
		} else {
			mlo &= ^uint64(0) << (128 - length)
		}
		h := mix(mhi, mlo, 6|uint64(length)<<8)
		want := uint64(1)<<(h&63) | 1<<(h>>6&63) | 1<<(h>>12&63)
		if area(m.Sets, head.V6BloomOff).word(int(h>>40&uint64(head.V6BloomMask)))&want != want {
			continue
		}
		bucket := uint32(h>>18) & head.V6BucketMask
		for range abi.BucketHops {
			b := abi.FromLine[abi.SetsBucket6](m.Sets[head.V6BucketOff+bucket])
			for k := range b.Key {
				if b.Len[k] == length && b.Key[k].Hi == mhi && b.Key[k].Lo == mlo {
					return b.Class[k]
				}
			}
			if b.Overflow == 0 {
				break
			}
			bucket = (bucket + 1) & head.V6BucketMask
		}
	}
	return 0
}

func hasBit(line abi.Line, bit uint16) bool { return line.W[bit/64]>>(bit%64)&1 != 0 }

// judge returns the decider of a packet and the filter's verdict.
func (m *mirror) judge(p *packet) (uint32, abi.Verdict) {
	head := abi.FromLine[abi.RulesHead](m.Rules[abi.WayIn])
	var src, dst abi.Line
	flags := abi.RulesFlags(head.Flags)
	if m.Features.Sets && flags&abi.RulesSrcSets != 0 {
		src = m.setsOf(p.src)
	}
	if m.Features.Sets && flags&abi.RulesDstSets != 0 {
		dst = m.setsOf(p.dst)
	}
	if flags&abi.RulesAllow != 0 && hasBit(src, 0) {
		return uint32(abi.DeciderAllow), abi.VerdictPass
	}
	m.unsure, m.remember = noRecord, true
	for from := uint32(0); from < head.Records; {
		record := m.first(&head, p, src, dst, from)
		m.remember = m.remember && (m.unsure == noRecord || m.unsure > record)
		if record == noRecord {
			break
		}
		r := abi.FromLine[abi.RuleRecord](m.Rules[head.RecordOff+record])
		if r.Effect == 0 {
			return r.Id, abi.Verdict(r.Verdict)
		}
		effect := abi.FromLine[abi.RuleEffect](m.Rules[head.EffectOff+r.Effect])
		if abi.EffectFlags(effect.Flags)&(abi.EffectDecides|abi.EffectShadow) == abi.EffectDecides {
			return r.Id, abi.Verdict(effect.Verdict)
		}
		m.remember = false
		from = effect.Next
	}
	return uint32(abi.DeciderDefault), abi.Verdict(head.DefaultVerdict)
}

const noRecord = ^uint32(0)

// first returns the first record from `from` on that matches.
func (m *mirror) first(head *abi.RulesHead, p *packet, srcSets, dstSets abi.Line, from uint32) uint32 {
	src, dst := hostOrder(p.src), hostOrder(p.dst)
	var ports uint32
	if p.ports {
		ports = uint32(p.sport)<<16 | uint32(p.dport)
	}
	best := noRecord
	m.probes, m.verified = 0, 0
	verify := func(record uint32) {
		m.verified++
		if record >= from && record < best && m.matches(head, record, p, src, dst, srcSets, dstSets) {
			best = record
		}
	}
	if head.Flags&uint8(abi.RulesScan) != 0 {
		for record := range head.Records {
			verify(record)
		}
		return best
	}
	groups := ^uint64(0) >> (64 - head.Groups)
	candidates := func(off uint32, areaBits uint8, shift [abi.FamilyCount]uint8, addr [2]uint64) uint64 {
		words := uint64(1) << areaBits
		switch {
		case off == 0:
			return ^uint64(0)
		case p.family() == abi.FamilyV4:
			return area(m.Rules, off).word(int(addr[1] >> shift[abi.FamilyV4] & (words - 1)))
		}
		return area(m.Rules, off).word(int(words + addr[0]>>shift[abi.FamilyV6]&(words-1)))
	}
	groups &= candidates(head.CandSrcOff, head.CandSrcBits, head.CandSrcShift, src)
	groups &= candidates(head.CandDstOff, head.CandDstBits, head.CandDstShift, dst)
	if head.CandProtoOff != 0 {
		groups &= area(m.Rules, head.CandProtoOff).word(int(p.proto))
	}
	if head.CandDportOff != 0 {
		groups &= area(m.Rules, head.CandDportOff).word(int(ports & 0xffff))
	}
	if head.CandSportOff != 0 {
		groups &= area(m.Rules, head.CandSportOff).word(int(ports >> 16))
	}
	for ; groups != 0; groups &= groups - 1 {
		index := bits.TrailingZeros64(groups)
		group := abi.FromLine[abi.RuleGroup](m.Rules[head.GroupOff+uint32(index)])
		if group.MinRecord >= best {
			break
		}
		if group.Families>>p.family()&1 == 0 {
			continue
		}
		m.probes++
		h := hashing{src: group.SrcMask, dst: group.DstMask, ports: group.KeyMask, proto: group.ProtoMask, group: index}
		m.bucket(m.Rules, head.BucketOff, head.BucketMask, head.ChainOff, h.hash(p.family(), src, dst, p.proto, ports), verify)
	}
	return best
}

// bucket calls found for each record that a bucket table has for a hash.
func (m *mirror) bucket(lines []abi.Line, off, mask, chainOff uint32, hash uint64, found func(uint32)) {
	at := uint32(hash) & mask
	tag := (uint32(hash>>32) | 1) & 0x7fffffff
	for range abi.BucketHops {
		bucket := abi.FromLine[abi.Bucket](lines[off+at])
		for _, slot := range bucket.Slot {
			if slot.Tag&^0x80000000 != tag {
				continue
			}
			if slot.Ref&0x80000000 != 0 {
				found(slot.Ref &^ 0x80000000)
				continue
			}
			chain := area(lines, chainOff)
			for i := range chain.u32(int(slot.Ref)) {
				found(chain.u32(int(slot.Ref + 1 + i)))
			}
		}
		if bucket.Slot[0].Tag&0x80000000 == 0 {
			return
		}
		at = (at + 1) & mask
	}
}

func prefixMatch(family abi.Family, addr, want [2]uint64, plen uint8) bool {
	if family == abi.FamilyV4 {
		return (addr[1]^want[1])>>(32-plen) == 0
	}
	if plen > 64 {
		return addr[0] == want[0] && (addr[1]^want[1])>>(128-plen) == 0
	}
	return (addr[0]^want[0])>>(64-plen) == 0
}

func (m *mirror) matches(head *abi.RulesHead, record uint32, p *packet, src, dst [2]uint64, srcSets, dstSets abi.Line) bool {
	r := abi.FromLine[abi.RuleRecord](m.Rules[head.RecordOff+record])
	asked := abi.RuleConditions(r.Conditions)
	if asked&(abi.RuleSport|abi.RuleDport) != 0 && !p.ports {
		return false
	}
	fits := abi.RuleExt
	for _, part := range []struct {
		flag abi.RuleConditions
		fits bool
	}{
		{abi.RuleV4, p.family() == abi.FamilyV4},
		{abi.RuleV6, p.family() == abi.FamilyV6},
		{abi.RuleSrc, prefixMatch(p.family(), src, r.Src, r.SrcPlen)},
		{abi.RuleDst, prefixMatch(p.family(), dst, r.Dst, r.DstPlen)},
		{abi.RuleProto, p.proto == r.Proto},
		{abi.RuleSport, r.SportLo <= p.sport && p.sport <= r.SportHi},
		{abi.RuleDport, r.DportLo <= p.dport && p.dport <= r.DportHi},
		{abi.RuleSrcSet, hasBit(srcSets, r.SrcSet)},
		{abi.RuleDstSet, hasBit(dstSets, r.DstSet)},
	} {
		if part.fits {
			fits |= part.flag
		}
	}
	fits ^= abi.RuleConditions(r.Negated)
	return fits&asked == asked && (asked&abi.RuleExt == 0 || m.extra(head, record, r.Ext, p))
}

func (m *mirror) extra(head *abi.RulesHead, record, line uint32, p *packet) bool {
	for ; ; line++ {
		extra := abi.FromLine[abi.RuleExtra](m.Rules[head.ExtOff+line])
		for i, c := range extra.Cond[:extra.Count] {
			value, has := p.fact(abi.Field(c.Field))
			hit := c.Lo <= value && value <= c.Hi
			flags := abi.ExtFlags(c.Flags)
			if flags&abi.ExtVolatile != 0 {
				m.unsure = min(m.unsure, record)
			}
			switch {
			case flags&(abi.ExtMac|abi.ExtMacs) != 0:
				hit, has = m.macHit(head, &extra, i, p), true
			case flags&abi.ExtMask != 0:
				hit = value&c.Hi == c.Lo
			case flags&abi.ExtBitmap != 0:
				hit = area(m.Rules, head.ExtOff+c.Lo).word(int(value/64))>>(value%64)&1 != 0
			}
			if !has || hit == (flags&abi.ExtNegated != 0) {
				return false
			}
		}
		if extra.More == 0 {
			return true
		}
	}
}

// macHit is mac_hit() of xdp/rules.h.
func (m *mirror) macHit(head *abi.RulesHead, extra *abi.RuleExtra, i int, p *packet) bool {
	c := extra.Cond[i]
	mac := p.macOf(abi.Field(c.Field))
	if abi.ExtFlags(c.Flags)&abi.ExtMacs == 0 {
		return mac>>(48-c.Hi) == uint64(c.Part)<<32|uint64(c.Lo)
	}
	leading := mac >> (48 - c.Part)
	bucket := uint32(mix(leading, uint64(c.Part))) & c.Hi
	for range abi.BucketHops {
		for _, word := range m.Rules[head.ExtOff+c.Lo+bucket].W {
			switch word {
			case leading | 1<<63:
				return true
			case 0:
				return false
			}
		}
		bucket = (bucket + 1) & c.Hi
	}
	return false
}

// service returns the service of a packet, and whether some service has its destination address, with its flags.
func (m *mirror) service(p *packet) (id uint16, address bool, flags uint8) {
	head := abi.FromLine[abi.ServicesHead](m.Services[0])
	if head.Services == 0 {
		return 0, false, 0
	}
	levels := []abi.ServiceLevel{{Mask: cutMask(0), Family: uint8(p.family())}}
	for i := range head.Levels {
		levels = append(levels, abi.FromLine[abi.ServiceLevel](m.Services[head.LevelOff+i]))
	}
	for _, level := range levels {
		if level.Family != uint8(p.family()) {
			continue
		}
		found, has, more := m.serviceAt(p, head, level)
		if id == 0 {
			id = found
		}
		address, flags = address || has, flags|more
	}
	return id, address, flags
}

// serviceAt is service for the prefixes of one length.
func (m *mirror) serviceAt(p *packet, head abi.ServicesHead, level abi.ServiceLevel) (id uint16, address bool, flags uint8) {
	at, family, kind := mapped(p.dst), uint64(p.family()), uint64(level.Cut)<<8
	at[0], at[1] = at[0]&level.Mask[0], at[1]&level.Mask[1]
	bit := uint32(mix(at[0]^at[1], family|kind)>>32) & head.FilterMask
	if area(m.Services, head.FilterOff).word(int(bit/64))>>(bit%64)&1 == 0 {
		return 0, false, 0
	}
	try := func(record uint32) {
		r := abi.FromLine[abi.ServiceRecord](m.Services[head.ServiceOff+record])
		if r.Addr != at || uint64(r.Family) != family || r.Cut != level.Cut {
			return
		}
		address = true
		flags |= r.Flags
		if id == 0 && p.ports && (r.Proto == p.proto || r.Proto == uint8(abi.ProtoAny)) && r.PortLo <= p.dport && p.dport <= r.PortHi {
			id = r.Id
		}
	}
	lookup := func(hash uint64) {
		m.bucket(m.Services, head.BucketOff, head.BucketMask, head.ChainOff, hash, try)
	}
	lookup(mix(at[0], at[1], uint64(p.dport)<<16|uint64(p.proto)<<8|family, 1|kind))
	flags = 0
	lookup(mix(at[0], at[1], family, 2|kind))
	return id, address, flags
}
