package compile

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// usesOf gives each list of prefixes a bit, from 1.
func usesOf(lists ...[]netip.Prefix) []setUse {
	var uses []setUse
	for i, list := range lists {
		uses = append(uses, setUse{bits: []uint16{uint16(i + 1)}, prefixes: list})
	}
	return uses
}

func setsMirror(t testing.TB, uses []setUse) *mirror {
	t.Helper()
	lines, _, err := setsTable(uses)
	if err != nil {
		t.Fatal(err)
	}
	return &mirror{Tables: &Tables{Sets: lines}}
}

// checkSets compares the bits of addresses with what the lists hold.
func checkSets(t *testing.T, uses []setUse, addrs []netip.Addr) {
	t.Helper()
	m := setsMirror(t, uses)
	for _, addr := range addrs {
		var want abi.Line
		for _, use := range uses {
			in := holds(use.prefixes, addr)
			if use.in != 0 {
				in = hasBit(want, use.in) && !hasBit(want, use.out)
			}
			if in {
				for _, bit := range use.bits {
					want.W[bit/64] |= 1 << (bit % 64)
				}
			}
		}
		if got := m.setsOf(addr); got != want {
			t.Fatalf("%s: bits %x, want %x, of %v", addr, got.W, want.W, uses)
		}
	}
}

// borders returns the first and last address of each prefix and those next to them.
func borders(uses []setUse) []netip.Addr {
	var addrs []netip.Addr
	for _, use := range uses {
		for _, prefix := range use.prefixes {
			first := prefix.Masked().Addr()
			bytes := first.AsSlice()
			for bit := prefix.Bits(); bit < first.BitLen(); bit++ {
				bytes[bit/8] |= 0x80 >> (bit % 8)
			}
			last, _ := netip.AddrFromSlice(bytes)
			for _, addr := range []netip.Addr{first, last, first.Prev(), last.Next()} {
				if addr.IsValid() {
					addrs = append(addrs, addr)
				}
			}
		}
	}
	return addrs
}

func TestSetsAgreeWithNaive(t *testing.T) {
	for seed := range uint64(80) {
		s := newSource(seed)
		var lists [][]netip.Prefix
		for range 1 + s.IntN(6) {
			lists = append(lists, s.prefixes(1<<s.IntN(9)))
		}
		uses := usesOf(lists...)
		uses[0].bits = append(uses[0].bits, 0)
		if len(uses) > 1 {
			uses = append(uses, setUse{bits: []uint16{511}, in: 1, out: 2})
		}
		addrs := borders(uses)
		for range 2000 {
			addrs = append(addrs, s.addr())
		}
		checkSets(t, uses, addrs)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func parsePrefixes(list ...string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range list {
		prefixes = append(prefixes, netip.MustParsePrefix(text))
	}
	return prefixes
}

func TestSetsCorners(t *testing.T) {
	var hosts7, hosts8, scattered, hole []string
	for i := range 8 {
		if i < 7 {
			hosts7 = append(hosts7, fmt.Sprintf("192.0.2.%d/32", 31*i))
		}
		hosts8 = append(hosts8, fmt.Sprintf("192.0.2.%d/32", 31*i))
	}
	for i := range 256 {
		if i%2 == 0 {
			scattered = append(scattered, fmt.Sprintf("192.0.2.%d/32", i))
		}
		if i != 77 {
			hole = append(hole, fmt.Sprintf("192.0.2.%d/32", i))
		}
	}
	for name, lists := range map[string][][]string{
		"everything":           {{"0.0.0.0/0", "::/0"}},
		"everything of one":    {{"0.0.0.0/0"}},
		"all but a host":       {{"0.0.0.0/0"}, {"198.51.100.7/32"}},
		"ends":                 {{"0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"}},
		"halves":               {{"0.0.0.0/1"}, {"128.0.0.0/1"}, {"::/1"}, {"8000::/1"}},
		"duplicates":           {{"192.0.2.0/24", "192.0.2.0/24"}, {"192.0.2.0/24"}, {"2001:db8::/32", "2001:db8::/32"}, {"2001:db8::/32"}},
		"every length":         {everyLength("192.0.2.129"), everyLength("2001:db8::1:8001")},
		"seven hosts":          {hosts7},
		"eight hosts":          {hosts8},
		"every other host":     {scattered},
		"a hole":               {hole},
		"exceptions":           {{"192.0.2.0/24"}, {"192.0.2.4/30"}},
		"two classes of a /24": {{"192.0.2.0/25"}, {"192.0.2.128/25"}},
		"many /24 of a /16":    {{"198.51.0.0/16"}, {"198.51.100.0/24"}, {"198.51.101.0/24", "198.51.101.128/25"}},
		"half of a /8":         {{"198.0.0.0/9"}, {"198.51.100.0/24", "198.51.101.7/32", "203.0.113.7/32"}},
		"v6 adds nothing":      {{"2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1/128"}, {"2001:db8:1::/48"}},
		"v6 64 and 65":         {{"2001:db8::/64", "2001:db8:0:0:8000::/65"}, {"2001:db8::/65"}},
		"mapped is v6":         {{"::ffff:192.0.2.0/120"}, {"192.0.2.0/25"}},
		"empty":                {{}},
		"empty among others":   {{}, {"192.0.2.1/32"}},
	} {
		t.Run(name, func(t *testing.T) {
			var parsed [][]netip.Prefix
			for _, list := range lists {
				parsed = append(parsed, parsePrefixes(list...))
			}
			uses := usesOf(parsed...)
			addrs := borders(uses)
			for i := range 256 {
				addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), netip.AddrFrom4([4]byte{198, 51, byte(i), 9}))
			}
			addrs = append(addrs, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.1"))
			checkSets(t, uses, addrs)
		})
	}
}

func everyLength(addr string) []string {
	var list []string
	a := netip.MustParseAddr(addr)
	for length := range a.BitLen() + 1 {
		prefix, _ := a.Prefix(length)
		list = append(list, prefix.String())
	}
	return list
}

// A large list fills buckets until some run over.
func TestSetsOverflow(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		prefixes := randomPrefixes(20_000, v6)
		uses := usesOf(prefixes)
		m := setsMirror(t, uses)
		for _, prefix := range prefixes {
			if line := m.setsOf(prefix.Addr()); !hasBit(line, 1) {
				t.Fatalf("%s isn't found", prefix)
			}
		}
		for i, addr := range borders(uses) {
			if i%100 != 0 {
				continue
			}
			if got := hasBit(m.setsOf(addr), 1); got != holds(prefixes, addr) {
				t.Fatalf("%s: found %t", addr, got)
			}
		}
		over := false
		head := abi.FromLine[abi.SetsHead](m.Sets[0])
		for i := range head.V4BucketMask {
			over = over || !v6 && m.Sets[head.V4BucketOff+i].W[0]&v4SlotOverflow != 0
		}
		for i := range head.V6BucketMask {
			over = over || v6 && abi.FromLine[abi.SetsBucket6](m.Sets[head.V6BucketOff+i]).Overflow != 0
		}
		if !over {
			t.Error("no bucket ran over: the test proves less than it means to")
		}
		t.Logf("v6 %t: %d lines", v6, len(m.Sets))
	}
}

// Before the prefixes of all lengths are asked for, it is asked whether any can hold the address, where that says no often enough.
func TestSetsTouched6(t *testing.T) {
	var hosts, nested []string
	for i := range 1024 {
		hosts = append(hosts, fmt.Sprintf("2001:db8:%x::1/128", i))
		nested = append(nested, fmt.Sprintf("2001:db8:0:%x::/64", i))
	}
	for name, c := range map[string]struct {
		short   string
		others  []string
		length  int // of the networks; 0: not asked
		outside string
	}{
		"one length":        {"2001:db8::/32", []string{"2001:db9::/32"}, 0, "2001:dba::1"},
		"a short list":      {"2001:db8::/32", []string{"2001:db8:1::1/128"}, 38, "2001:dba::1"},
		"hosts":             {"2001:db8:8000::/64", hosts, 64, "2001:db8:1:1::1"},
		"a shorter one":     {"2001:dba::/38", hosts, 47, "2001:db8:8000::1"},
		"many in a network": {"2001:db8:0:8000::/56", nested, 63, "2001:db8:0:4000::1"},
		"everything":        {"::/0", hosts, 0, "2001:dba::1"},
		"much of all":       {"2000::/3", hosts, 0, "4001:dba::1"},
		"less of it":        {"2000::/6", hosts, 16, "4001:dba::1"},
	} {
		t.Run(name, func(t *testing.T) {
			uses := usesOf(parsePrefixes(c.short), parsePrefixes(c.others...))
			m := setsMirror(t, uses)
			checkSets(t, uses, append(borders(uses), netip.MustParseAddr(c.outside)))
			head := abi.FromLine[abi.SetsHead](m.Sets[0])
			if head.V6TouchedOff == 0 {
				if c.length != 0 {
					t.Fatalf("nothing is asked before, want networks of %d bits", c.length)
				}
				return
			}
			if length := 64 - int(head.V6TouchedShift); length != c.length {
				t.Errorf("networks of %d bits are asked for, want %d", length, c.length)
			}
			outside := netip.MustParseAddr(c.outside).As16()
			if m.touches6(&head, binary.BigEndian.Uint64(outside[:])) {
				t.Errorf("%s: touched", c.outside)
			}
		})
	}
}

// What random addresses outside of a list meet: the filter of networks says no to about 19 of 20.
func TestSetsTouchedSeldom(t *testing.T) {
	s := newSource(1)
	m := setsMirror(t, usesOf(randomPrefixes(1<<16, true)))
	head := abi.FromLine[abi.SetsHead](m.Sets[0])
	const asked = 100_000
	touched := 0
	for range asked {
		if m.touches6(&head, s.Uint64()) {
			touched++
		}
	}
	if part := float64(touched) / asked; part > 0.07 {
		t.Errorf("%.1f %% of random addresses go on", 100*part)
	}
}

func TestTooManyClasses(t *testing.T) {
	// Set n holds the addresses whose bit n is 1: 17 sets make 2^17 combinations.
	var lists [][]netip.Prefix
	for bit := range 17 {
		var list []netip.Prefix
		for i := range 1 << 17 {
			if i>>bit&1 != 0 {
				list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
			}
		}
		lists = append(lists, list)
	}
	_, _, err := setsTable(usesOf(lists...))
	if limit, ok := err.(*LimitError); !ok || limit.Limit != maxClasses-1 {
		t.Errorf("error %v, want a limit", err)
	}
}

// What nobody asks for isn't in the table.
func TestUnusedSets(t *testing.T) {
	tables, ids := compiled(t, &model.Snapshot{Sets: []model.Set{{Name: "idle", Prefixes: parsePrefixes("192.0.2.0/24")}}})
	if len(tables.Sets) != 1 || tables.Features.Sets {
		t.Errorf("%d lines, features %+v", len(tables.Sets), tables.Features)
	}
	if _, ok := ids.Sets["idle"]; !ok {
		t.Error("the set has no bit for its counter")
	}
}
