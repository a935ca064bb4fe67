package history

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gardu/ctl/flow"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// ended is a flow of so many packets of 100 bytes.
func ended(first, last time.Time, packets uint64) flow.Report {
	var r flow.Report
	r.Src, r.Dst = netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.10:443")
	r.Proto = 6
	r.First, r.Since, r.Last, r.Until = first, first, last, last
	r.Delta = flow.Count{Packets: packets, Bytes: packets * 100}
	return r
}

// minutes returns the packets and flows of each minute after noon. There may be bytes of a packet that counts for a later one.
func minutes(r *Roller) map[int]string {
	got := map[int]string{}
	batch := r.Take()
	for at, m := range batch.minutes {
		sum := m[totals].sum()
		got[int(at-noon.Unix())/60] = fmt.Sprintf("%d/%d", sum.Packets, sum.Flows)
	}
	return got
}

func TestRollerSpreads(t *testing.T) {
	at := func(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }
	goesOn := ended(at(30), at(330), 5)
	goesOn.First = at(-1000)
	idle := ended(at(10), at(20), 3)
	idle.Until = at(200)
	silent := ended(at(30), at(-1000), 3) // nothing was seen of it in that time
	silent.First = at(-1000)
	silent.Until = at(90)
	for name, c := range map[string]struct {
		report flow.Report
		want   map[int]string
	}{
		"within a minute":   {ended(at(10), at(50), 7), map[int]string{0: "7/1"}},
		"a moment":          {ended(at(10), at(10), 7), map[int]string{0: "7/1"}},
		"over two minutes":  {ended(at(30), at(90), 7), map[int]string{0: "3/1", 1: "4/0"}},
		"to the minute":     {ended(at(60), at(120), 7), map[int]string{1: "7/1"}},
		"begun before":      {goesOn, map[int]string{0: "0/0", 1: "1/0", 2: "1/0", 3: "1/0", 4: "1/0", 5: "1/0"}},
		"idle at the end":   {idle, map[int]string{0: "3/1"}},
		"seen before":       {silent, map[int]string{0: "1/0", 1: "2/0"}},
		"longer than told":  {ended(at(-7200), at(0), 15), spreadOut()},
		"in the future":     {ended(at(7200), at(7300), 4), map[int]string{10: "4/1"}},
		"ended before":      {ended(at(100), at(50), 4), map[int]string{0: "4/1"}},
		"rare over minutes": {ended(at(0), at(300), 1), map[int]string{0: "0/1", 1: "0/0", 2: "0/0", 3: "0/0", 4: "1/0"}},
	} {
		r := NewRoller(10)
		r.Add([]flow.Report{c.report}, names{}, at(600))
		if got := minutes(r); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// spreadOut is a packet in each of the 15 minutes before noon.
func spreadOut() map[int]string {
	want := map[int]string{-15: "1/1"}
	for m := -14; m < 0; m++ {
		want[m] = "1/0"
	}
	return want
}

// Whatever is reported, all tables have the same sums before and after they are cut.
func TestRollerIsExact(t *testing.T) {
	site := newSite(1)
	r := NewRoller(50)
	reports := site.reports(20_000, noon, 20*time.Minute)
	r.Add(reports, names{}, noon)
	want := sumOf(reports)
	if r.Pending() != want {
		t.Errorf("pending are %+v, reported was %+v", r.Pending(), want)
	}
	batch := r.Take()
	check := func(when string, most int) {
		t.Helper()
		var sums [tableCount]Counts
		for _, m := range batch.minutes {
			for table, rows := range m {
				sums[table] = sums[table].Plus(rows.sum())
				if len(rows) > most {
					t.Errorf("%s: %s has %d rows", when, tableNames[table], len(rows))
				}
			}
		}
		for table, sum := range sums {
			if sum != want {
				t.Errorf("%s: %s adds up to %+v, want %+v", when, tableNames[table], sum, want)
			}
		}
	}
	check("as added", 1<<20)
	for _, m := range batch.minutes {
		m.cut(50, batch.kinds)
		m.cut(50, batch.kinds) // is as it was
	}
	check("cut", 50+50+5)
	r.Restore(batch)
	if r.Pending() != want {
		t.Errorf("restored are %+v, want %+v", r.Pending(), want)
	}
}

// Those that are large by bytes or by packets stay; of the others the kind is known.
func TestCutKeepsTheLarge(t *testing.T) {
	ks := newKinds()
	web, dns := ks.of(kind{service: "web", verdict: "pass"}), ks.of(kind{service: "dns", verdict: "pass"})
	r := rows{}
	for n := range 100 {
		r[key{src: address(198, uint64(n)), kind: web}] = Counts{Packets: 10, Bytes: 1000}
	}
	large, many := key{src: address(198, 1000), kind: web}, key{src: address(198, 1001), kind: dns}
	r[large], r[many] = Counts{Packets: 1, Bytes: 9000}, Counts{Packets: 90, Bytes: 100}
	r.cut(sources, 2, ks)
	if r[large].Bytes != 9000 || r[many].Packets != 90 || r[key{kind: web}].Packets != 1000 || len(r) != 3 {
		t.Errorf("kept %v", r)
	}
}

// A flood of strangers takes no more memory than allowed, and hides no packet.
func TestRollerIsBounded(t *testing.T) {
	r := NewRoller(100)
	random := rand.New(rand.NewPCG(1, 2))
	var want Counts
	for range 15 {
		reports := make([]flow.Report, 10_000)
		for i := range reports {
			at := noon.Add(-time.Duration(random.IntN(600)) * time.Second)
			reports[i] = ended(at, at, 1)
			reports[i].Src = netip.AddrPortFrom(address(198, random.Uint64N(1<<24)), 1)
			reports[i].VLAN = uint16(random.IntN(4096))
			reports[i].Proto = uint8(random.IntN(256))
		}
		r.Add(reports, names{}, noon)
		want = want.Plus(sumOf(reports))
		if n := r.pending.keys(); n > pendingRows(100) {
			t.Fatalf("%d rows are pending", n)
		}
		if n := len(r.pending.kinds.known); n > kindsMax+5 {
			t.Fatalf("%d kinds are pending", n)
		}
	}
	if got := r.Pending().Plus(r.Lost()); got != want || r.Lost() != (Counts{}) {
		t.Errorf("%+v are pending and %+v lost of %+v", r.Pending(), r.Lost(), want)
	}
}

// When nothing can be written for long, the oldest minutes are lost, and counted.
func TestRollerLosesTheOldest(t *testing.T) {
	const last = 25
	r := NewRoller(5000)
	site := newSite(2)
	var want Counts
	for m := range last + 1 {
		now := noon.Add(time.Duration(m) * time.Minute)
		reports := site.reports(6000, now, time.Minute)
		r.Add(reports, names{}, now)
		want = want.Plus(sumOf(reports))
	}
	if r.Lost() == (Counts{}) || r.Lost().Plus(r.Pending()) != want {
		t.Errorf("%+v are pending and %+v lost of %+v", r.Pending(), r.Lost(), want)
	}
	if _, left := r.pending.minutes[noon.Add((last-1)*time.Minute).Unix()]; !left {
		t.Error("the last minute is lost")
	}
}
