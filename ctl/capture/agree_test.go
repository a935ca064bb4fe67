package capture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/expr"
	"gardu/ctl/pkt"
)

const agreeSnapshot = `
interfaces:
  eth0: {}
filter:
  rules:
    - {name: telnet, match: {proto: tcp, dport: 23}, action: drop}
    - {name: ssh, match: {proto: tcp, dport: 22}, action: reject}
    - {name: web, match: {dport: [80, 443]}, action: pass}
    - {name: other, match: {src: 198.51.100.0/28}, action: drop}
services:
  web: {address: 192.0.2.10, port: 80, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.0.11}]}
  six: {address: "2001:db8::10", port: 443, proto: udp, forward: ipip, backends: [{name: b1, address: "2001:db8:1::11"}]}
`

// newPlane is a private instance with that snapshot, whose backends are never up.
func newPlane(t *testing.T) (*dataplane.Dataplane, compile.IDs) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	snapshot, _, err := config.Parse("capture", []byte(agreeSnapshot), ".")
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := compile.IDs{}.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dataplane.OpenPrivate(tables.Features, 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	var generation dataplane.Tables
	for which, lines := range map[abi.Table][]abi.Line{abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services} {
		if generation[which], err = d.NewTable(which, lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(1, generation); err != nil {
		t.Fatal(err)
	}
	return d, ids
}

type random struct{ *rand.Rand }

func (r random) of(words ...string) string { return words[r.IntN(len(words))] }

func (r random) packet() string {
	port := func() string { return r.of("22", "23", "80", "443", "5353", "40000") }
	v4 := func() string { return r.of("198.51.100.7", "198.51.100.77", "192.0.2.10", "203.0.113.9", "10.0.0.11") }
	v6 := func() string {
		return r.of("2001:db8::10", "2001:db8::7", "2001:db8:1::11", "fe80::1", "::ffff:192.0.2.10")
	}
	options := r.of("", "", " vlan 12", " len 700", " frag first", " frag later")
	if r.IntN(2) == 0 {
		v4 = v6
	}
	switch what := r.of("tcp", "tcp", "udp", "arp", "icmp"); {
	case what == "arp":
		return "arp who-has 192.0.2.10 tell 198.51.100.7"
	case what == "icmp" && !strings.Contains(v4(), ":"):
		return "icmp 198.51.100.7 > 192.0.2.10 echo-request id 7"
	case what == "icmp":
		return "udp [fe80::1]:1 > [fe80::2]:2"
	default:
		from, to := v4(), v4()
		if strings.Contains(from, ":") {
			from, to = "["+from+"]", "["+to+"]"
		}
		return fmt.Sprintf("%s %s:%s > %s:%s%s", what, from, port(), to, port(), options)
	}
}

// expression is a random one in which all keys and operators come up.
func (r random) expression(depth int) string {
	if depth > 0 {
		switch r.IntN(5) {
		case 0:
			return "not " + r.expression(depth-1)
		case 1, 2:
			return "(" + r.expression(depth-1) + " and " + r.expression(depth-1) + ")"
		case 3:
			return "(" + r.expression(depth-1) + " or " + r.expression(depth-1) + ")"
		}
	}
	equals := r.of("", "in", "=", "!=")
	order := r.of("<", "<=", ">", ">=")
	port := r.of("sport", "dport", "port")
	address := func() string {
		return r.of("198.51.100.0/24", "192.0.2.10", "0.0.0.0/0", "::/0", "2001:db8::/32", "::ffff:0:0/96", "198.51.100.64/26", "fe80::1", "2001:db8:1::/65")
	}
	return r.of(
		r.of("src", "dst", "host")+" "+equals+" "+address(),
		r.of("src", "dst", "host")+" "+equals+" "+address()+", "+address(),
		port+" "+equals+" "+r.of("22", "23", "80,443", "0", "1-1023"),
		port+" "+order+" "+r.of("22", "80", "0", "65535"),
		"proto "+equals+" "+r.of("tcp", "udp", "icmp", "1-6", "0"),
		"vlan "+equals+" "+r.of("0", "12", "1-100"),
		"length "+order+" "+r.of("60", "100", "1k", "0", "18446744073709551615"),
		"interface "+equals+" "+r.of("lo", "eth0", `""`),
		"direction "+equals+" "+r.of("in", "out", "in, out"),
		"verdict "+equals+" "+r.of("pass", "drop", "reject", "forward", "drop, reject"),
		"reason "+equals+" "+r.of("rule-drop", "no-backend", "not-ip", "default-pass", "no-such"),
		"rule "+equals+" "+r.of("telnet", "web", "no-such", `""`, `"", web`),
		"service "+equals+" "+r.of("web", "six", "no-such", `""`),
		"backend "+equals+" "+r.of("b1", "no-such", `""`),
	)
}

// seen is what user space would evaluate an expression on.
func seen(p *Packet, ids compile.IDs) *expr.Flow {
	f := &expr.Flow{
		Src: p.Src.Addr(), Dst: p.Dst.Addr(), Sport: p.Src.Port(), Dport: p.Dst.Port(), Proto: p.Proto, Vlan: p.VLAN,
		Verdict: p.Reason.Verdict().String(), Reason: p.Reason.String(), Interface: "lo", Direction: "in", Length: uint64(p.Before.Length),
	}
	if p.Out {
		f.Direction = "out"
	}
	for name, id := range ids.Rules {
		if id == p.Decider {
			f.Rule = name
		}
	}
	for name, id := range ids.Services {
		if id == p.Service {
			f.Service = name
		}
	}
	return f
}

// TestProgramsAndUserSpaceAgree has the programs evaluate random expressions on random packets, a dozen at once, and package expr the same.
func TestProgramsAndUserSpaceAgree(t *testing.T) {
	plane, ids := newPlane(t)
	seed := rand.Uint64()
	r := random{rand.New(rand.NewPCG(seed, 0))}
	names := Names{Rules: ids.Rules, Services: ids.Services, Backends: map[string][]uint16{"b1": {1, 2}}, Interfaces: map[string][]uint32{"lo": {1}}}
	compileAll := func() (*abi.CaptureFilter, map[int]*expr.Expr) {
		readers := map[int]*expr.Expr{}
		for reader := range int(abi.CaptureReaders) {
			text := r.expression(r.IntN(4))
			if reader == 0 {
				text = ""
			}
			e, err := expr.ParsePacket(text)
			if err != nil {
				t.Fatal(err)
			}
			readers[reader] = e
		}
		filter, err := Filter(readers, names, 128)
		if err != nil {
			t.Fatal(err)
		}
		return filter, readers
	}
	filter, readers := compileAll()
	if err := plane.BeginCapture(filter, dataplane.DefaultCaptureRing); err != nil {
		t.Fatal(err)
	}
	reader, err := NewReader(plane.CaptureRing())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	held, rounds := 0, 3000
	for range rounds {
		if err := plane.HoldCapture(); err != nil {
			t.Fatal(err)
		}
		frame, err := pkt.Parse(r.packet())
		if err != nil {
			t.Fatal(err)
		}
		hook := []dataplane.Hook{dataplane.HookXDP, dataplane.HookIngress, dataplane.HookEgress}[r.IntN(3)]
		if _, err := plane.Run(hook, frame, 1); err != nil {
			t.Fatal(err)
		}
		packets, err := reader.Pending()
		if err != nil || len(packets) != 1 {
			t.Fatalf("%d packets, %v: %s", len(packets), err, pkt.Describe(frame))
		}
		p := packets[0]
		if want := frame[:min(len(frame), 128)]; string(p.Before.Bytes) != string(want) || p.Before.Length != len(frame) {
			t.Fatalf("captured %s of %d bytes\nof %s", pkt.Describe(p.Before.Bytes), p.Before.Length, pkt.Describe(frame))
		}
		flow := seen(&p, ids)
		for i, e := range readers {
			want, got := e.Match(flow), p.Readers>>i&1 != 0
			if want {
				held++
			}
			if want != got {
				t.Fatalf("seed %d: %s\nuser space says %t, the program %t\nof %s\n%+v", seed, e, want, got, pkt.Describe(frame), flow)
			}
		}
		filter, readers = compileAll()
		if err := plane.SetCapture(filter); err != nil {
			t.Fatal(err)
		}
	}
	if all := rounds * int(abi.CaptureReaders); held < all/10 || held > all*9/10 {
		t.Errorf("of %d expressions %d held: that proves little", all, held)
	}
	if totals, err := plane.CaptureTotals(); err != nil || totals != (abi.CaptureTotals{Sent: uint64(rounds)}) {
		t.Errorf("%+v, %v", totals, err)
	}
}

// TestLossesAreCounted: what was picked is in the ring, or is counted as lost because the ring is full.
func TestLossesAreCounted(t *testing.T) {
	plane, _ := newPlane(t)
	e, err := expr.ParsePacket("verdict drop")
	if err != nil {
		t.Fatal(err)
	}
	filter, err := Filter(map[int]*expr.Expr{0: e}, Names{}, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.BeginCapture(filter, 4096); err != nil {
		t.Fatal(err)
	}
	const each = 100
	for _, text := range []string{"tcp 198.51.100.77:1 > 192.0.2.1:23 syn", "tcp 198.51.100.77:1 > 192.0.2.1:24 syn"} {
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			if _, err := plane.Run(dataplane.HookXDP, frame, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader, err := NewReader(plane.CaptureRing())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	packets, err := reader.Pending()
	if err != nil {
		t.Fatal(err)
	}
	totals, err := plane.CaptureTotals()
	if err != nil || totals.Sent != uint64(len(packets)) || totals.Sent == 0 || totals.Sent+totals.Lost != each || totals.Refused != 0 {
		t.Errorf("%d packets read, %+v, %v", len(packets), totals, err)
	}
}

func TestTooLong(t *testing.T) {
	e, err := expr.ParsePacket("dport 1" + strings.Repeat(",1", 600))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Filter(map[int]*expr.Expr{0: e}, Names{}, 64); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
}
