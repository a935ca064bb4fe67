package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
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

// randomPrefix is of any length but 0, around few addresses, so that blocks nest and share cells.
func randomPrefix(r *rand.Rand) netip.Prefix {
	if r.IntN(2) == 0 {
		addr := randomAddr(r, false)
		return netip.PrefixFrom(addr, 1+r.IntN(32)).Masked()
	}
	return netip.PrefixFrom(randomAddr(r, true), 1+r.IntN(128)).Masked()
}

func randomAddr(r *rand.Rand, v6 bool) netip.Addr {
	if v6 {
		a := netip.MustParseAddr("2001:db8::1").As16()
		a[r.IntN(16)] ^= 1 << r.IntN(8)
		a[r.IntN(16)] ^= 1 << r.IntN(8)
		return netip.AddrFrom16(a)
	}
	a := [4]byte{198, 51, 100, 7}
	a[r.IntN(4)] ^= 1 << r.IntN(8)
	a[r.IntN(4)] ^= 1 << r.IntN(8)
	return netip.AddrFrom4(a)
}

// Blocks of every length come, are renewed and go: every source is blocked exactly while some block covers it.
func TestBlocksOfEveryLength(t *testing.T) {
	features := allOff()
	features.Blocks, features.Trace = true, true
	d := private(t, features)
	if err := d.Commit(1, Tables{}); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	in := map[netip.Prefix]bool{}
	hits := 0
	for step := range 4000 {
		prefix := randomPrefix(r)
		switch {
		case step%500 == 499:
			var all []netip.Prefix
			for p := range in {
				all = append(all, p)
			}
			if were, err := d.RemoveBlocks(all); err != nil || len(were) != len(all) {
				t.Fatalf("removed %d of %d blocks: %v", len(were), len(all), err)
			}
			clear(in)
			for i, cell := range d.blocks.cells.cells {
				if cell != 0 {
					t.Fatalf("no blocks are left, and cell %d is %x", i, cell)
				}
			}
		case step%5 == 0 && (prefix.Bits() > 6 || step%50 == 0): // one that is very wide ends most of the test
			add(t, d, Block{Prefix: prefix})
			in[prefix] = true
		case step%10 == 1:
			for p := range in {
				if _, err := d.RemoveBlocks([]netip.Prefix{p}); err != nil {
					t.Fatal(err)
				}
				delete(in, p)
				break
			}
		}
		src, dst := randomAddr(r, step%2 == 0), netip.MustParseAddr("192.0.2.1")
		frame := udp4(src, dst)
		if src.Is6() {
			frame = udp6(src, netip.MustParseAddr("2001:db8::99"))
		}
		result, err := d.Run(HookXDP, frame, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := abi.ReasonDefaultPass
		for p := range in {
			if p.Contains(src) {
				want = abi.ReasonBlocked
				hits++
				break
			}
		}
		if got := abi.Reason(result.Trace.Reason); got != want {
			t.Fatalf("%s: %s, want %s; blocks %v", src, got, want, in)
		}
	}
	if hits < 100 {
		t.Errorf("only %d packets were blocked: the test is too tame", hits)
	}
}

// A daemon that dies between writing a block and telling its flows leaves a block that acts once the next one is there.
func TestBlockHalfAdded(t *testing.T) {
	dir := testDir(t)
	d := open(t, dir)
	expires := time.Now().Add(time.Hour)
	add(t, d, Block{Prefix: prefix("203.0.113.7/32"), Expires: expires, Origin: "cli", Why: "kept"})
	key, err := blockKey(prefix("198.51.100.7/32"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.maps[abi.AbiMapBlocks].Put(&key, &abi.Block{Created: 1}); err != nil {
		t.Fatal(err)
	}
	before := d.control.BlockEpoch
	closeIt(t, d)
	d = open(t, dir)
	defer closeIt(t, d)
	if d.control.BlockEpoch == before {
		t.Error("flows are not asked again")
	}
	eachCell(key, func(i uint32) {
		if cell := d.blocks.cells.cells[i]; uint32(cell) != d.control.BlockEpoch || cell>>32 != 1<<(32-12) {
			t.Errorf("its cell is %x", cell)
		}
	})
	blocks := blocksOf(t, d)
	if len(blocks) != 2 || d.BlockCount() != 2 || blocks[1].Why != "kept" || blocks[1].Expires.Sub(expires).Abs() > 2*time.Millisecond {
		t.Errorf("blocks %+v", blocks)
	}
}

// What is expired makes room, and comes back as a new block.
func TestExpiredBlocksMakeRoom(t *testing.T) {
	d := mapsOnly(t)
	over, later := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	add(t, d, manyBlocks(0, privateBlocks-1, over)...)
	add(t, d, manyBlocks(privateBlocks-1, 1, later)...)
	key, err := blockKey(manyBlocks(0, 1, over)[0].Prefix)
	if err != nil {
		t.Fatal(err)
	}
	old := abi.Block{Expires: 1, Packets: 5, Bytes: 300, Created: 1}
	if err := d.maps[abi.AbiMapBlocks].Put(&key, &old); err != nil {
		t.Fatal(err)
	}
	again := manyBlocks(0, 1, later)
	add(t, d, again...)
	if b := again[0]; b.Packets != 0 || time.Since(b.Created) > time.Minute {
		t.Errorf("a block that had expired is %+v", b)
	}
	add(t, d, manyBlocks(2*privateBlocks, privateBlocks-2, later)...)
	if n := len(blocksOf(t, d)); n != privateBlocks || d.BlockCount() != n {
		t.Errorf("%d blocks, counted %d", n, d.BlockCount())
	}
}

// A batch that fails changes nothing, not even of blocks that it would renew.
func TestFullRenewsNothing(t *testing.T) {
	d := mapsOnly(t)
	add(t, d, Block{Prefix: prefix("198.51.100.7/32"), Why: "first"})
	epoch := d.control.BlockEpoch
	batch := append(manyBlocks(0, privateBlocks, time.Time{}), Block{Prefix: prefix("198.51.100.7/32"), Why: "second"})
	if err := d.AddBlocks(batch); !errors.Is(err, ErrBlocksFull) {
		t.Fatal(err)
	}
	if b := blocksOf(t, d); len(b) != 1 || b[0].Why != "first" || d.control.BlockEpoch != epoch {
		t.Errorf("%+v", b)
	}
}

// manyBlocks are n different ones, from the given number on.
func manyBlocks(from, n int, expires time.Time) []Block {
	blocks := make([]Block, n)
	for i := range blocks {
		k := uint32(from+i) * 2654435761
		addr := netip.AddrFrom4([4]byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)})
		blocks[i] = Block{Prefix: netip.PrefixFrom(addr, 32), Expires: expires, Origin: "bench", Why: "one of many"}
	}
	return blocks
}

// BenchmarkBlocks changes blocks among 100,000 others.
func BenchmarkBlocks(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: loads BPF maps")
	}
	d, err := OpenPrivate(compile.Features{Blocks: true}, 1, RoomForBlocks(262144))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	later := time.Now().Add(time.Hour)
	if err := d.AddBlocks(manyBlocks(0, 100_000, later)); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("new-%d", n), func(b *testing.B) {
			batch := manyBlocks(100_000, n, later)
			prefixes := make([]netip.Prefix, n)
			for i, block := range batch {
				prefixes[i] = block.Prefix
			}
			for b.Loop() {
				if err := d.AddBlocks(batch); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if _, err := d.RemoveBlocks(prefixes); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("renewed-%d", n), func(b *testing.B) {
			batch := manyBlocks(0, n, later)
			for b.Loop() {
				if err := d.AddBlocks(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("expire-none", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.ExpireBlocks(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Blocks(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// udp6 is a frame with an IPv6 UDP packet.
func udp6(src, dst netip.Addr) []byte {
	frame := make([]byte, 14+40+8)
	frame[12], frame[13] = 0x86, 0xdd
	ip := frame[14:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, 8, unix.IPPROTO_UDP, 64
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	ip[40+1], ip[40+3], ip[40+5] = 1, 53, 8
	return frame
}

// A block lasts as long as was asked for, whatever becomes of the time of day.
func TestBlocksWhileTheClockIsSet(t *testing.T) {
	at := clocks{wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), monotonic: int64(time.Hour)}
	expires := at.monotonicAt(at.wall.Add(10 * time.Minute))
	for _, step := range []time.Duration{0, 5 * 365 * 24 * time.Hour, -5 * 365 * 24 * time.Hour} {
		later := clocks{wall: at.wall.Add(time.Minute + step), monotonic: at.monotonic + int64(time.Minute)}
		if left := later.wallAt(expires).Sub(later.wall); left != 9*time.Minute || later.over(expires) {
			t.Errorf("set by %s: %s are left, over %t", step, left, later.over(expires))
		}
		later.monotonic += int64(9 * time.Minute)
		if !later.over(expires) {
			t.Errorf("set by %s: not over", step)
		}
	}
}
