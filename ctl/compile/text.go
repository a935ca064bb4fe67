package compile

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/rule"
)

// String returns what the tables say, read back from their lines: the parts a person can check, not every word.
func (t *Tables) String() string {
	var w strings.Builder
	t.textRules(&w)
	t.textSets(&w)
	t.textServices(&w)
	for _, b := range t.Backends {
		fmt.Fprintf(&w, "backend %d: %s/%s %s mode %d service %d\n", b.ID, b.ServiceName, b.Name, b.Address, b.Mode, b.Service)
	}
	fmt.Fprintf(&w, "features: %+v\n", t.Features)
	fmt.Fprintf(&w, "cost: %+v\n", t.Cost)
	return w.String()
}

func (t *Tables) textRules(w *strings.Builder) {
	for way, name := range []string{abi.WayIn: "rules", abi.WayOut: "out rules", abi.WayLink: "link rules"} {
		head := abi.FromLine[abi.RulesHead](t.Rules[way])
		if abi.Way(way) == abi.WayIn || head.Records > 0 {
			t.textRun(w, name, &head)
		}
	}
}

func (t *Tables) textRun(w *strings.Builder, name string, head *abi.RulesHead) {
	fmt.Fprintf(w, "%s: %d records, %d groups, default verdict %d, flags %#x, candidates", name, head.Records, head.Groups, head.DefaultVerdict, head.Flags)
	for _, c := range []struct {
		name string
		off  uint32
	}{
		{"src", head.CandSrcOff}, {"dst", head.CandDstOff}, {"proto", head.CandProtoOff}, {"sport", head.CandSportOff}, {"dport", head.CandDportOff},
	} {
		if c.off != 0 {
			fmt.Fprintf(w, " %s", c.name)
		}
	}
	w.WriteByte('\n')
	for i := range head.Groups {
		g := abi.FromLine[abi.RuleGroup](t.Rules[head.GroupOff+i])
		fmt.Fprintf(w, "group %d: from record %d, families %d, src %x dst %x proto %x ports %08x\n",
			i, g.MinRecord, g.Families, g.SrcMask, g.DstMask, g.ProtoMask, g.KeyMask)
	}
	for i := range head.Records {
		r := abi.FromLine[abi.RuleRecord](t.Rules[head.RecordOff+i])
		fmt.Fprintf(w, "record %d: rule %d verdict %d%s%s\n", i, r.Id, r.Verdict, textRecord(&r), t.textExtra(head, &r))
		if r.Effect != 0 {
			e := abi.FromLine[abi.RuleEffect](t.Rules[head.EffectOff+r.Effect])
			fmt.Fprintf(w, "  effect %d: flags %#x, next record %d", r.Effect, e.Flags, e.Next)
			if e.Reject != 0 {
				fmt.Fprintf(w, ", reject %d", e.Reject)
			}
			if e.Interface != 0 {
				fmt.Fprintf(w, ", exit %d", e.Interface)
			}
			w.WriteByte('\n')
		}
	}
}

// textRecord lists the conditions of a record, in the words of the configuration.
func textRecord(r *abi.RuleRecord) string {
	var w strings.Builder
	part := func(flag abi.RuleConditions, name, format string, values ...any) {
		if r.Conditions&uint16(flag) == 0 {
			return
		}
		if r.Negated&uint16(flag) != 0 {
			name = "not-" + name
		}
		fmt.Fprintf(&w, " "+name+format, values...)
	}
	part(abi.RuleV4, "v4", "")
	part(abi.RuleV6, "v6", "")
	part(abi.RuleSrc, "src", " %s", textPrefix(r, r.Src, r.SrcPlen))
	part(abi.RuleDst, "dst", " %s", textPrefix(r, r.Dst, r.DstPlen))
	part(abi.RuleSrcSet, "src", " set %d", r.SrcSet)
	part(abi.RuleDstSet, "dst", " set %d", r.DstSet)
	part(abi.RuleProto, "proto", " %d", r.Proto)
	part(abi.RuleSport, "sport", " %d-%d", r.SportLo, r.SportHi)
	part(abi.RuleDport, "dport", " %d-%d", r.DportLo, r.DportHi)
	return w.String()
}

func textPrefix(r *abi.RuleRecord, value [2]uint64, plen uint8) netip.Prefix {
	return netip.PrefixFrom(addrOf(value, r.Conditions&uint16(abi.RuleV4) != 0), int(plen))
}

// addrOf is the inverse of hostOrder, and of mapped.
func addrOf(value [2]uint64, v4 bool) netip.Addr {
	if v4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(value[1]))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], value[0])
	binary.BigEndian.PutUint64(b[8:], value[1])
	return netip.AddrFrom16(b)
}

func (t *Tables) textExtra(head *abi.RulesHead, r *abi.RuleRecord) string {
	if r.Conditions&uint16(abi.RuleExt) == 0 {
		return ""
	}
	var w strings.Builder
	for line := head.ExtOff + r.Ext; ; line++ {
		extra := abi.FromLine[abi.RuleExtra](t.Rules[line])
		for _, c := range extra.Cond[:extra.Count] {
			w.WriteByte(' ')
			if c.Flags&uint8(abi.ExtNegated) != 0 {
				w.WriteString("not-")
			}
			fmt.Fprintf(&w, "%s ", rule.Fields[c.Field].Name)
			switch flags := abi.ExtFlags(c.Flags); {
			case flags&abi.ExtBitmap != 0:
				fmt.Fprintf(&w, "bitmap %d", c.Lo)
			case flags&abi.ExtMask != 0:
				fmt.Fprintf(&w, "%#x/%#x", c.Lo, c.Hi)
			case flags&abi.ExtMac != 0:
				fmt.Fprintf(&w, "%#x/%d", uint64(c.Part)<<32|uint64(c.Lo), c.Hi)
			case flags&abi.ExtMacs != 0:
				fmt.Fprintf(&w, "list %d of /%d", c.Lo, c.Part)
			default:
				fmt.Fprintf(&w, "%d-%d", c.Lo, c.Hi)
			}
		}
		if extra.More == 0 {
			return w.String()
		}
	}
}

func (t *Tables) textSets(w *strings.Builder) {
	head := abi.FromLine[abi.SetsHead](t.Sets[0])
	fmt.Fprintf(w, "sets: %d classes, %d v6 lengths", head.Classes, head.V6Lens)
	if head.V4BucketOff != 0 || head.V4CodeOff != 0 {
		fmt.Fprint(w, ", v4")
	}
	w.WriteByte('\n')
	for i := range head.Classes {
		fmt.Fprintf(w, "class %d: sets", i)
		line := array(t.Sets[head.ClassOff+i:])
		for bit := range uint16(abi.SetBits) {
			if line.bit(bit) {
				fmt.Fprintf(w, " %d", bit)
			}
		}
		w.WriteByte('\n')
	}
}

func (t *Tables) textServices(w *strings.Builder) {
	head := abi.FromLine[abi.ServicesHead](t.Services[0])
	fmt.Fprintf(w, "services: %d\n", head.Services)
	for i := range head.Services {
		s := abi.FromLine[abi.ServiceRecord](t.Services[head.ServiceOff+i])
		addr := addrOf(s.Addr, abi.Family(s.Family) == abi.FamilyV4)
		prefix := ""
		if s.Cut != 0 {
			prefix = fmt.Sprintf("/%d", addr.BitLen()-int(s.Cut))
		}
		fmt.Fprintf(w, "service %d: %s%s proto %d port %d-%d mode %d flags %d ring %d\n", s.Id, addr, prefix, s.Proto, s.PortLo, s.PortHi, s.Mode, s.Flags, s.Ring)
	}
	for _, ring := range t.Rings {
		fmt.Fprintf(w, "ring %d: %s", ring.ID, ring.Service)
		for _, m := range ring.Members {
			fmt.Fprintf(w, " %s=%d*%d", m.Name, m.ID, m.Weight)
		}
		w.WriteByte('\n')
	}
}
