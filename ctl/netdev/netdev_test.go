package netdev_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gardu/ctl/netdev"
	"gardu/ctl/testnet"
)

// lab is box (eth0, .1) connected to peer (eth0, .2), and a handle in box.
type lab struct {
	box, peer *testnet.Node
	handle    *netdev.Handle
}

func newLab(t *testing.T) lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	n, err := testnet.New("gardu-netdev-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var l lab
	for name, node := range map[string]**testnet.Node{"box": &l.box, "peer": &l.peer} {
		if *node, err = n.Node(name); err != nil {
			t.Fatal(err)
		}
	}
	err = n.Connect(
		testnet.End{Node: l.box, Name: "eth0", Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64")},
		testnet.End{Node: l.peer, Name: "eth0", Addresses: prefixes("192.0.2.2/24", "2001:db8::2/64")}, 1600)
	if err != nil {
		t.Fatal(err)
	}
	l.handle = open(t, l.box)
	return l
}

func open(t *testing.T, node *testnet.Node) (h *netdev.Handle) {
	t.Helper()
	err := node.Do(func() (err error) {
		h, err = netdev.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within 10 s", what)
		case <-tick.C:
		}
	}
}

func TestLink(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if link.Name != "eth0" || link.Kind != "veth" || link.Driver != "veth" || link.MTU != 1600 || !link.Up || !link.Ethernet {
		t.Errorf("got %+v", link)
	}
	if link.MAC == [6]byte{} || !link.TxChecksum || link.XDP != netdev.XDPNative {
		t.Errorf("got %+v", link)
	}
	for _, want := range prefixes("192.0.2.1/24", "2001:db8::1/64") {
		if !slices.Contains(link.Addresses, want) {
			t.Errorf("%s is not among %s", want, link.Addresses)
		}
	}
	if err := l.handle.SetTxChecksum("eth0", false); err != nil {
		t.Fatal(err)
	}
	if err := l.handle.SetGRO("eth0", !link.GRO); err != nil {
		t.Fatal(err)
	}
	again, err := l.handle.LinkByIndex(link.Index)
	if err != nil || again.TxChecksum || again.GRO == link.GRO {
		t.Errorf("offloads are as before: %+v, %v", again, err)
	}
	links, err := l.handle.Links()
	if err != nil || len(links) != 2 || !links[0].Loopback {
		t.Errorf("got %+v, %v; want lo and eth0", links, err)
	}
	addresses, err := l.handle.Addresses()
	if err != nil || !slices.Contains(addresses, netip.MustParsePrefix("192.0.2.1/24")) {
		t.Errorf("got %s, %v", addresses, err)
	}
}

func TestAbsentLink(t *testing.T) {
	l := newLab(t)
	if _, err := l.handle.Link("absent0"); !errors.Is(err, netdev.ErrNoLink) {
		t.Errorf("got %v, want ErrNoLink", err)
	}
	if _, err := l.handle.LinkByIndex(4711); !errors.Is(err, netdev.ErrNoLink) {
		t.Errorf("got %v, want ErrNoLink", err)
	}
	if err := l.handle.SetTxChecksum("absent0", true); !errors.Is(err, netdev.ErrNoLink) {
		t.Errorf("got %v, want ErrNoLink", err)
	}
}

func TestNextHop(t *testing.T) {
	l := newLab(t)
	if err := l.box.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	if err := l.box.AddRoute(netip.MustParsePrefix("2001:db8:2::/64"), netip.MustParseAddr("2001:db8::2")); err != nil {
		t.Fatal(err)
	}
	box, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := open(t, l.peer).Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dst, gateway, source string }{
		{"192.0.2.2", "", "192.0.2.1"},
		{"203.0.113.9", "192.0.2.2", "192.0.2.1"},
		{"2001:db8::2", "", "2001:db8::1"},
		{"2001:db8:2::9", "2001:db8::2", "2001:db8::1"},
	} {
		t.Run(c.dst, func(t *testing.T) {
			want := netdev.Hop{
				Ifindex: box.Index, Source: netip.MustParseAddr(c.source), Neighbour: netip.MustParseAddr(c.dst),
				SrcMAC: box.MAC, DstMAC: peer.MAC, MTU: 1600,
			}
			if c.gateway != "" {
				want.Gateway = netip.MustParseAddr(c.gateway)
				want.Neighbour = want.Gateway
			}
			dst := netip.MustParseAddr(c.dst)
			hop, err := l.handle.NextHop(dst)
			if errors.Is(err, netdev.ErrUnresolved) {
				if err := l.handle.Keep(hop); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "resolved", func() bool {
				hop, err = l.handle.NextHop(dst)
				return !errors.Is(err, netdev.ErrUnresolved)
			})
			if err != nil || hop != want {
				t.Errorf("got %+v, %v\nwant %+v", hop, err, want)
			}
		})
	}
}

func TestNextHopErrors(t *testing.T) {
	l := newLab(t)
	if _, err := l.handle.NextHop(netip.MustParseAddr("192.0.2.1")); !errors.Is(err, netdev.ErrLocal) {
		t.Errorf("own address: got %v, want ErrLocal", err)
	}
	if _, err := l.handle.NextHop(netip.MustParseAddr("198.51.100.1")); err == nil {
		t.Error("no error without a route")
	}
	hop, err := l.handle.NextHop(netip.MustParseAddr("192.0.2.77"))
	if !errors.Is(err, netdev.ErrUnresolved) || hop.Ifindex == 0 || hop.Source != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got %+v, %v, want ErrUnresolved beside the rest", hop, err)
	}
}

func TestKeepAndRelease(t *testing.T) {
	l := newLab(t)
	managed := func() bool {
		out, err := l.box.Output(t.Context(), "ip", "neigh", "show", "192.0.2.2")
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(strings.Fields(string(out)), "managed")
	}
	hop, _ := l.handle.NextHop(netip.MustParseAddr("192.0.2.2"))
	if err := l.handle.Release(hop); err != nil {
		t.Errorf("nothing to release: %v", err)
	}
	for range 2 {
		if err := l.handle.Keep(hop); err != nil {
			t.Fatal(err)
		}
	}
	if !managed() {
		t.Error("the neighbour is not managed")
	}
	if err := l.handle.Release(hop); err != nil {
		t.Fatal(err)
	}
	if managed() {
		t.Error("the neighbour is still managed")
	}
	if _, err := l.box.Output(t.Context(), "ip", "neigh", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"); err != nil {
		t.Fatal(err)
	}
	if err := l.handle.Keep(hop); err != nil {
		t.Fatal(err)
	}
	if hop, err := l.handle.NextHop(hop.Neighbour); err != nil || hop.DstMAC != [6]byte{2, 0, 0, 0, 0, 1} || managed() {
		t.Errorf("a permanent neighbour was touched: %+v, %v", hop, err)
	}
}

// TestReleaseAll releases what an earlier process kept, and nothing of others.
func TestReleaseAll(t *testing.T) {
	l := newLab(t)
	for _, dst := range []string{"192.0.2.2", "2001:db8::2"} {
		hop, _ := l.handle.NextHop(netip.MustParseAddr(dst))
		if err := l.handle.Keep(hop); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.box.Output(t.Context(), "ip", "neigh", "add", "192.0.2.99", "dev", "eth0", "managed"); err != nil {
		t.Fatal(err)
	}
	managed := func() (addresses []string) {
		out, err := l.box.Output(t.Context(), "ip", "neigh")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "managed") {
				addresses = append(addresses, strings.Fields(line)[0])
			}
		}
		slices.Sort(addresses)
		return addresses
	}
	if got, want := managed(), []string{"192.0.2.2", "192.0.2.99", "2001:db8::2"}; !slices.Equal(got, want) {
		t.Fatalf("managed are %s, want %s", got, want)
	}
	if err := open(t, l.box).ReleaseAll(); err != nil {
		t.Fatal(err)
	}
	if got, want := managed(), []string{"192.0.2.99"}; !slices.Equal(got, want) {
		t.Errorf("managed are %s, want %s", got, want)
	}
}

func TestWatch(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var events <-chan netdev.Event
	err := l.box.Do(func() (err error) {
		events, err = netdev.Watch(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want netdev.EventKind, match func(netdev.Event) bool) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case e, ok := <-events:
				if !ok {
					t.Fatalf("%s: the channel was closed", want)
				}
				if e.Kind == want && match(e) {
					return
				}
			case <-deadline:
				t.Fatalf("%s: not within 10 s", want)
			}
		}
	}
	any := func(netdev.Event) bool { return true }
	eth0 := func(e netdev.Event) bool { return e.Name == "eth0" }

	if err := l.box.AddAddress("eth0", netip.MustParsePrefix("192.0.2.5/24")); err != nil {
		t.Fatal(err)
	}
	expect(netdev.AddressChanged, any)
	if err := l.box.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	expect(netdev.RouteChanged, any)
	hop, _ := l.handle.NextHop(netip.MustParseAddr("192.0.2.2"))
	if err := l.handle.Keep(hop); err != nil {
		t.Fatal(err)
	}
	expect(netdev.NeighbourChanged, func(e netdev.Event) bool { return e.Address == hop.Neighbour && e.Ifindex == hop.Ifindex })
	if err := l.handle.SetTxChecksum("eth0", false); err != nil {
		t.Fatal(err)
	}
	expect(netdev.LinkChanged, eth0)
	if err := l.peer.DeleteLink("eth0"); err != nil {
		t.Fatal(err)
	}
	expect(netdev.LinkGone, eth0)

	cancel()
	until(t, "closed", func() bool {
		select {
		case _, ok := <-events:
			return !ok
		default:
			return false
		}
	})
}

func TestWatchTellsOfLoss(t *testing.T) {
	l := newLab(t)
	var events <-chan netdev.Event
	err := l.box.Do(func() (err error) {
		events, err = netdev.Watch(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Nobody reads, and there are more changes than the channel holds.
	for i := range cap(events) + 10 {
		if err := l.handle.SetTxChecksum("eth0", i%2 == 1); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "channel full", func() bool { return len(events) == cap(events) })
	var last netdev.Event
	for len(events) > 0 {
		last = <-events
	}
	if last.Kind != netdev.Overrun {
		t.Errorf("the last of a full channel is %+v, want an Overrun", last)
	}
}

// TestXDPSupportIsStable asks the kernel the same many times: it answers the same, whatever lies beside a request in memory.
func TestXDPSupportIsStable(t *testing.T) {
	l := newLab(t)
	first, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	var beside [][]byte
	for n := range 5000 {
		beside = append(beside, bytes.Repeat([]byte{0xff}, n%7+1))
		again, err := l.handle.Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if again.XDP != first.XDP || again.XDPSend != first.XDPSend {
			t.Fatalf("ask %d: runs XDP %s, sends for it %s; at first %s and %s", n, again.XDP, again.XDPSend, first.XDP, first.XDPSend)
		}
	}
	runtime.KeepAlive(beside)
}
