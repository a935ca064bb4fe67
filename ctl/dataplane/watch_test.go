package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
)

// Of a flood so many packets become events while somebody watches, and the rest is counted; without a watcher there are none.
func TestDropsAreWatched(t *testing.T) {
	const each = 50_000
	malformed := append(make([]byte, 12), 8, 0) // an IPv4 header is missing
	d := limited(t, "{rate: 1/h, burst: 1, per: rule}")
	pin(t, 0)
	drop := func() abi.EffectTotals {
		t.Helper()
		if _, err := program(t, d, HookXDP).Run(&ebpf.RunOptions{Data: malformed, Repeat: each}); err != nil {
			t.Fatal(err)
		}
		totals, err := d.EffectTotals()
		if err != nil {
			t.Fatal(err)
		}
		return totals
	}
	if totals := drop(); totals != (abi.EffectTotals{}) {
		t.Errorf("nobody watches: %+v", totals)
	}
	if err := d.WatchDrops(true); err != nil {
		t.Fatal(err)
	}
	totals := drop()
	told := totals.Sent + totals.Lost
	if told+totals.Unwatched != each || told < uint64(abi.WatchDrops) || told%uint64(abi.WatchDrops) != 0 { // more than once: a window ended
		t.Errorf("somebody watches: %d packets, %+v", each, totals)
	}
	d.control.WatchUntil = 1 // the daemon was killed
	if after := drop(); after != totals {
		t.Errorf("nobody watches any more: %+v, then %+v", totals, after)
	}
}
