package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/lb"
)

// natBox is a private instance that translates for one service with two backends.
func natBox(t *testing.T, max int, pool string) *Dataplane {
	t.Helper()
	needRoot(t)
	pin(t, 0)
	snapshot, _, err := config.Parse("nat", []byte(fmt.Sprintf(`
interfaces: {eth0: {}}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: nat
    nat: %s
    backends: [{name: b1, address: 10.0.0.11}, {name: b2, address: 10.0.0.12}]
`, pool)), ".")
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
	features := tables.Features
	features.Trace = true
	d, err := OpenPrivate(features, max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, d) })
	source, _ := abi.PutAddr(netip.MustParseAddr("10.0.0.1"))
	var members []lb.Member
	for _, b := range tables.Backends {
		address, family := abi.PutAddr(b.Address)
		err := d.PutBackend(b.ID, abi.Backend{
			State: uint8(abi.BackendUsed | abi.BackendUp | abi.BackendHop), Mode: uint8(b.Mode), Family: uint8(family),
			Service: b.Service, Mtu: 1500, Ifindex: 1, Address: address, Source: source,
		})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, lb.Member{Name: b.Name, ID: b.ID, Weight: 100})
	}
	if err := d.PutRing(tables.Rings[0].ID, lb.Ring(members, lb.RingSize)); err != nil {
		t.Fatal(err)
	}
	var generation Tables
	for which, lines := range [][]abi.Line{abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services} {
		if generation[which], err = d.NewTable(abi.Table(which), lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(1, generation); err != nil {
		t.Fatal(err)
	}
	return d
}

// begin opens connection n, and tells what became of the SYN and how it left.
func begin(t *testing.T, d *Dataplane, n int) (abi.Reason, []byte) {
	t.Helper()
	result, err := d.Run(HookXDP, segment(client(n), server, syn), 0)
	if err != nil {
		t.Fatal(err)
	}
	return abi.Reason(result.Trace.Reason), result.Frame
}

// TestTranslationsAreUnique opens many connections, some of which time out meanwhile, and holds what leaves against a map: no
// two that live have the same ends towards a backend, and each answer gets to its own client. GARDU_NAT is the number of them.
func TestTranslationsAreUnique(t *testing.T) {
	flows := 20_000
	if text := os.Getenv("GARDU_NAT"); text != "" {
		var err error
		if flows, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GARDU_NAT: %v", err)
		}
	}
	d := natBox(t, flows+1000, "{pool: [10.0.0.101, 10.0.0.102, 10.0.0.103, 10.0.0.104, 10.0.0.105, 10.0.0.106, 10.0.0.107, 10.0.0.108, 10.0.0.109, 10.0.0.110, "+
		"10.0.0.111, 10.0.0.112, 10.0.0.113, 10.0.0.114, 10.0.0.115, 10.0.0.116, 10.0.0.117, 10.0.0.118, 10.0.0.119, 10.0.0.120]}")
	live := map[[12]byte]int{}
	refused := map[abi.Reason]int{}
	for round := range 2 {
		for n := range flows {
			n += round * flows / 2
			reason, frame := begin(t, d, n)
			if reason != abi.ReasonForward {
				refused[reason]++
				continue
			}
			ends := [12]byte(frame[14+12:])
			if other, taken := live[ends]; taken && other != n {
				t.Fatalf("connections %d and %d both come from %v", other, n, ends)
			}
			live[ends] = n
			answered(t, d, ends, n)
			if _, err := d.Run(HookXDP, segment(client(n), server, ack), 0); err != nil { // so that it lives for long
				t.Fatal(err)
			}
		}
		for ends, n := range live {
			answered(t, d, ends, n)
		}
		if err := d.Wait(3 * time.Hour); err != nil {
			t.Fatal(err)
		}
		clear(live)
	}
	t.Logf("%d flows twice, refused %v", flows, refused)
	if full := refused[abi.ReasonNatFull] + refused[abi.ReasonNatPorts]; full > flows/1000 {
		t.Errorf("refused: %v", refused)
	}
}

// answered sends an answer to those ends, which must get to client n.
func answered(t *testing.T, d *Dataplane, ends [12]byte, n int) {
	t.Helper()
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ends[4:8])), binary.BigEndian.Uint16(ends[10:]))
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ends[:4])), binary.BigEndian.Uint16(ends[8:]))
	result, err := d.Run(HookXDP, segment(from, to, syn|ack), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := netip.AddrPortFrom(netip.AddrFrom4([4]byte(result.Frame[30:34])), binary.BigEndian.Uint16(result.Frame[36:]))
	if abi.Reason(result.Trace.Reason) != abi.ReasonNatReply || got != client(n) {
		t.Fatalf("the answer to connection %d of %v: %v to %v", n, client(n), abi.Reason(result.Trace.Reason), got)
	}
}

// TestNoRoomForTranslations: what finds no place, or no port, is dropped for that reason, and nothing that lives gives way.
func TestNoRoomForTranslations(t *testing.T) {
	for _, c := range []struct {
		name, pool string
		max        int
		want       abi.Reason
		least      int
	}{
		{"places", "{ports: 1024-32767}", 1000, abi.ReasonNatFull, 1000},
		{"ports", "{ports: 2000-2099}", 10_000, abi.ReasonNatPorts, 190},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := natBox(t, c.max, c.pool)
			got := map[abi.Reason]int{}
			frames := map[int]string{}
			for n := range 5000 {
				reason, frame := begin(t, d, n)
				got[reason]++
				if reason == abi.ReasonForward {
					frames[n] = string(frame)
				}
			}
			t.Logf("%v", got)
			if got[c.want] == 0 || got[abi.ReasonForward] < c.least || got[c.want]+got[abi.ReasonForward] != 5000 {
				t.Errorf("%v", got)
			}
			for n, before := range frames {
				if reason, frame := begin(t, d, n); reason != abi.ReasonForward || string(frame) != before {
					t.Fatalf("connection %d: %v, and other ends", n, reason)
				}
			}
			translations, err := d.Translations()
			if err != nil || translations.Live != uint64(len(frames)) {
				t.Errorf("%+v of %d, %v", translations, len(frames), err)
			}
			if err := d.Wait(2 * time.Minute); err != nil {
				t.Fatal(err)
			}
			if reason, _ := begin(t, d, 1<<17); reason != abi.ReasonForward {
				t.Errorf("though all have timed out: %v", reason)
			}
		})
	}
}
