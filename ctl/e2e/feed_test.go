package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"gardu/ctl/testnet"
)

// feedSwaps is how often a list of a million entries is replaced under traffic: alternately by apply, and by the
// daemon itself, which finds that the file is another one.
const feedSwaps = 6

// Every list holds the sources .10; even ones also the sources .12, and odd ones the box. Then
//
//	source .10 to port 7   passes by every list, by one rule or the other, and is dropped without a list
//	source .11 to port 7   is dropped by every list
//	source .12 to port 9   passes only where its own address is looked up in an even list and the box in an odd one
const feedConfig = `
interfaces: {client0: {path: tc}, other0: {path: xdp}}
sets:
  list: {file: %s, max-shrink: 10%%}
filter:
  default: drop
  rules:
    - {name: even, match: {src: "@list", not-dst: "@list", proto: udp, dport: 7}, action: pass}
    - {name: odd, match: {src: "@list", dst: "@list", proto: udp, dport: 7}, action: pass}
    - {name: mixture, match: {src: "@list", dst: "@list", proto: udp, dport: 9}, action: pass}
`

// writeFeed replaces the file, as one does: by renaming.
func (w *world) writeFeed(round int) {
	w.Helper()
	random := rand.New(rand.NewPCG(uint64(round), 1))
	var list bytes.Buffer
	for i := range 1_000_000 {
		a := random.Uint64()
		switch i % 4 {
		case 0:
			fmt.Fprintf(&list, "2001:db8:%x:%x::/64\n", a>>48, a>>32&0xffff)
		case 1:
			fmt.Fprintf(&list, "%d.%d.%d.0/24\n", 1+a>>56%99, a>>48&255, a>>40&255)
		default:
			fmt.Fprintf(&list, "%d.%d.%d.%d\n", 1+a>>56%99, a>>48&255, a>>40&255, a>>32&255)
		}
	}
	fmt.Fprintln(&list, "198.51.100.10\n203.0.113.10")
	if round%2 == 0 {
		fmt.Fprintln(&list, "198.51.100.12\n203.0.113.12")
	} else {
		fmt.Fprintln(&list, echoAddress.Addr())
	}
	w.must(os.WriteFile(w.path("list.new"), list.Bytes(), 0o644))
	w.must(os.Rename(w.path("list.new"), w.path("list")))
}

// TestFeedUnderTraffic replaces lists of a million entries while packets flow. No packet may see a mixture of two lists,
// and none may be lost.
func TestFeedUnderTraffic(t *testing.T) {
	if testing.Short() {
		t.Skip("reads millions of entries")
	}
	w := newWorld(t, 0)
	w.prepareXDP()
	other := w.node("other")
	w.must(w.network.Connect(
		testnet.End{Node: other, Name: "eth0", Addresses: addresses("203.0.113.10/24", "203.0.113.11/24", "203.0.113.12/24", "203.0.113.13/24")},
		testnet.End{Node: w.box, Name: "other0", Addresses: addresses("203.0.113.1/24")}, 0))
	w.must(other.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("203.0.113.1")))
	w.must(other.SetTxChecksum("eth0", false))
	probers := map[string]*prober{"tc": newProber(w.client, "198.51.100."), "xdp": newProber(other, "203.0.113.")}

	config := fmt.Sprintf(feedConfig, w.path("list"))
	w.writeFeed(0)
	w.start(config)
	mixtureAddress := netip.AddrPortFrom(echoAddress.Addr(), 9)
	echoed, mixed := w.receive(w.box, echoAddress, true), w.receive(w.box, mixtureAddress, false)
	ctx, cancel := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	stop := sync.OnceFunc(func() {
		cancel()
		traffic.Wait()
	})
	defer stop()
	for _, p := range probers {
		traffic.Go(func() { w.pingPong(ctx, p) })
		traffic.Go(func() { w.flood(ctx, p.node, p.shut, echoAddress) })
		traffic.Go(func() { w.flood(ctx, p.node, p.left, mixtureAddress) })
	}
	for round := 1; round <= feedSwaps; round++ {
		before, err := w.api.Status(t.Context())
		w.must(err)
		w.writeFeed(round)
		if round%2 == 1 {
			begin := time.Now()
			w.apply(config)
			t.Logf("applied in %s", time.Since(begin).Round(time.Millisecond))
		}
		w.until("the list is in force", func() error { return w.feedInForce(before.Generation) })
	}
	stop()
	for path, p := range probers {
		t.Logf("%s: %d asked and answered", path, p.asked.Load())
		if lost := p.lost.Load(); lost > 0 {
			t.Errorf("%s: %d of %d packets that every list passes were lost", path, lost, p.asked.Load())
		}
		if n := echoed.of(p.shut); n > 0 {
			t.Errorf("%s: %d packets passed that every list drops", path, n)
		}
		if n := mixed.of(p.left); n > 0 {
			t.Errorf("%s: %d packets were judged by two lists", path, n)
		}
		if p.asked.Load() < 1000 {
			t.Errorf("%s: too little traffic to prove anything", path)
		}
	}
}

// feedInForce says whether the kernel holds a list of a later generation, whole.
func (w *world) feedInForce(before uint32) error {
	status, err := w.api.Status(w.Context())
	if err != nil {
		return err
	}
	sets, err := w.api.Sets(w.Context())
	if err != nil {
		return err
	}
	for _, set := range sets {
		if set.State != "ok" || set.Kernel != set.Wanted || set.Difference != "" {
			return fmt.Errorf("set %+v", set)
		}
		if set.Packets == 0 || set.Wanted < 900_000 {
			return fmt.Errorf("set %+v", set)
		}
	}
	if status.Generation <= before {
		return fmt.Errorf("generation %d, warnings %q", status.Generation, status.Warnings)
	}
	return nil
}
