package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gardu/ctl/abi"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func add(t *testing.T, d *Dataplane, blocks ...Block) {
	t.Helper()
	if err := d.AddBlocks(blocks); err != nil {
		t.Fatal(err)
	}
}

// blocksOf are the blocks sorted by prefix.
func blocksOf(t *testing.T, d *Dataplane) []Block {
	t.Helper()
	blocks, err := d.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(blocks, func(a, b Block) int { return strings.Compare(a.Prefix.String(), b.Prefix.String()) })
	return blocks
}

func TestBlocksComeBackAsTheyWere(t *testing.T) {
	d := mapsOnly(t)
	expires := time.Now().Add(10 * time.Minute).Round(time.Millisecond)
	add(t, d,
		Block{Prefix: prefix("198.51.100.7/32"), Expires: expires, Origin: "cli", Why: "scans ports"},
		Block{Prefix: prefix("203.0.113.99/24"), Origin: "api"},
		Block{Prefix: prefix("2001:db8::/32")})
	got := blocksOf(t, d)
	if len(got) != 3 {
		t.Fatalf("%d blocks", len(got))
	}
	if b := got[0]; b.Prefix != prefix("198.51.100.7/32") || b.Origin != "cli" || b.Why != "scans ports" || b.Expires.Sub(expires).Abs() > 2*time.Millisecond || time.Since(b.Created) > time.Minute {
		t.Errorf("%+v, want it to expire %v", b, expires)
	}
	if b := got[1]; b.Prefix != prefix("2001:db8::/32") || !b.Expires.IsZero() || b.Origin != "" || b.Why != "" {
		t.Errorf("%+v", b)
	}
	if b := got[2]; b.Prefix != prefix("203.0.113.0/24") || b.Origin != "api" {
		t.Errorf("%+v", b)
	}
	if err := d.AddBlocks([]Block{{Prefix: prefix("0.0.0.0/0")}}); err == nil {
		t.Error("all addresses were blocked")
	}
}

func TestBlocksKeepTheLengthsInUse(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	epoch := d.control.BlockEpoch
	add(t, d, Block{Prefix: prefix("198.51.100.0/24")}, Block{Prefix: prefix("198.51.100.9/24")}, Block{Prefix: prefix("203.0.113.0/24")}, Block{Prefix: prefix("2001:db8::1/128")}, Block{Prefix: prefix("2001:db8::/65")})
	if d.control.BlockLens4 != 1<<24 || d.control.BlockLens6 != [3]uint64{0, 1 << 1, 1} || d.control.BlockEpoch != epoch+1 {
		t.Errorf("lengths %x %x, epoch %d", d.control.BlockLens4, d.control.BlockLens6, d.control.BlockEpoch)
	}
	remove := func(want int, prefixes ...netip.Prefix) {
		t.Helper()
		if were, err := d.RemoveBlocks(prefixes); err != nil || len(were) != want {
			t.Errorf("removed %v, %v", were, err)
		}
	}
	remove(1, prefix("198.51.100.0/24"), prefix("198.51.100.0/25"))
	if d.control.BlockLens4 != 1<<24 {
		t.Errorf("lengths %x, while a /24 is left", d.control.BlockLens4)
	}
	closeIt(t, d)
	d = open(t, dir) // counts anew
	defer closeIt(t, d)
	remove(1, prefix("203.0.113.0/24"))
	remove(1, prefix("2001:db8::/65"))
	if d.control.BlockLens4 != 0 || d.control.BlockLens6 != [3]uint64{0, 0, 1} {
		t.Errorf("lengths %x %x", d.control.BlockLens4, d.control.BlockLens6)
	}
}

func TestBlockAgainKeepsHits(t *testing.T) {
	d := mapsOnly(t)
	add(t, d, Block{Prefix: prefix("198.51.100.7/32"), Why: "first"})
	key, err := blockKey(prefix("198.51.100.7/32"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.maps[abi.AbiMapBlocks].Put(&key, &abi.Block{Packets: 5, Bytes: 300, Created: 1}); err != nil {
		t.Fatal(err)
	}
	add(t, d, Block{Prefix: prefix("198.51.100.7/32"), Expires: time.Now().Add(time.Hour), Why: "second"})
	if b := blocksOf(t, d)[0]; b.Packets != 5 || b.Bytes != 300 || b.Why != "second" || b.Expires.IsZero() || b.Created.UnixNano() != 1 {
		t.Errorf("%+v", b)
	}
	if _, err := d.RemoveBlocks([]netip.Prefix{prefix("198.51.100.7/32")}); err != nil || d.control.BlockLens4 != 0 {
		t.Errorf("lengths %x, %v", d.control.BlockLens4, err)
	}
}

func TestExpireBlocks(t *testing.T) {
	d := mapsOnly(t)
	add(t, d,
		Block{Prefix: prefix("198.51.100.7/32"), Expires: time.Now().Add(-time.Second)},
		Block{Prefix: prefix("198.51.100.8/32"), Expires: time.Now().Add(time.Hour)},
		Block{Prefix: prefix("198.51.100.9/32")})
	expired, err := d.ExpireBlocks()
	if err != nil || len(expired) != 1 || expired[0].Prefix != prefix("198.51.100.7/32") {
		t.Errorf("expired %+v, %v", expired, err)
	}
	if left := blocksOf(t, d); len(left) != 2 {
		t.Errorf("left %+v", left)
	}
}

func TestThousandsOfBlocksAllOrNone(t *testing.T) {
	d := mapsOnly(t)
	blocks := make([]Block, privateBlocks)
	for i := range blocks {
		blocks[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	add(t, d, Block{Prefix: prefix("198.51.100.0/24")})
	if err := d.AddBlocks(blocks); !errors.Is(err, ErrBlocksFull) {
		t.Fatalf("one too many: %v", err)
	}
	if left := blocksOf(t, d); len(left) != 1 || d.control.BlockLens4 != 1<<24 {
		t.Errorf("%d blocks, lengths %x", len(left), d.control.BlockLens4)
	}
	add(t, d, blocks[1:]...)
	if n := len(blocksOf(t, d)); n != privateBlocks {
		t.Errorf("%d blocks", n)
	}
}

func TestBlockNotes(t *testing.T) {
	for _, c := range []struct{ origin, why, wantOrigin, wantWhy string }{
		{"cli", "because", "cli", "because"},
		{"", "", "", ""},
		{"a\x00b", "c", "ab", "c"},
		{strings.Repeat("o", 200), "w", strings.Repeat("o", 102), ""},
		{"cli", strings.Repeat("é", 60), "cli", strings.Repeat("é", 49)},
	} {
		origin, why := unpackNote(packNote(c.origin, c.why))
		if origin != c.wantOrigin || why != c.wantWhy || !utf8.ValidString(why) {
			t.Errorf("%q, %q came back as %q, %q", c.origin, c.why, origin, why)
		}
	}
}

func TestBlockedPacketIsDroppedUntilItExpires(t *testing.T) {
	features := allOff()
	features.Blocks, features.Trace = true, true
	d := private(t, features)
	if err := d.Commit(1, Tables{}); err != nil {
		t.Fatal(err)
	}
	frame := udp4(netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1"))
	reason := func() string {
		t.Helper()
		result, err := d.Run(HookXDP, frame, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(abi.Reason(result.Trace.Reason))
	}
	if got := reason(); got != "default-pass" {
		t.Errorf("before: %s", got)
	}
	add(t, d, Block{Prefix: prefix("198.51.100.0/24"), Expires: time.Now().Add(time.Hour)})
	if got := reason(); got != "blocked" {
		t.Errorf("blocked: %s", got)
	}
	if b := blocksOf(t, d)[0]; b.Packets != 1 || b.Bytes != uint64(len(frame)) {
		t.Errorf("counted %+v", b)
	}
	add(t, d, Block{Prefix: prefix("198.51.100.0/24"), Expires: time.Now().Add(-time.Second)})
	if got := reason(); got != "default-pass" {
		t.Errorf("expired: %s", got)
	}
}

// A block that is renewed while expired ones are removed stays.
func TestRenewedWhileExpiring(t *testing.T) {
	d := mapsOnly(t)
	block := Block{Prefix: prefix("192.0.2.0/24")}
	var others []Block // make the look for expired ones take its time
	for i := range 3000 {
		others = append(others, Block{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)})
	}
	if err := d.AddBlocks(others); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		block.Expires = time.Now().Add(-time.Second)
		if err := d.AddBlocks([]Block{block}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := d.ExpireBlocks()
			done <- err
		}()
		block.Expires = time.Time{}
		time.Sleep(time.Duration(i) * 10 * time.Microsecond)
		if err := errors.Join(d.AddBlocks([]Block{block}), <-done); err != nil {
			t.Fatal(err)
		}
		if removed, err := d.RemoveBlocks([]netip.Prefix{block.Prefix}); err != nil || len(removed) != 1 {
			t.Fatalf("the renewed block is gone: %v, %v", removed, err)
		}
	}
}
