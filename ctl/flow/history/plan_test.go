package history

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestCover(t *testing.T) {
	clock := func(text string) int64 {
		at, err := time.Parse(time.DateTime, "2026-01-02 "+text)
		if err != nil {
			t.Fatal(err)
		}
		return at.Unix()
	}
	kept := [levelCount]int64{clock("12:00:00"), clock("06:00:00"), clock("01:00:00"), never}
	for _, c := range []struct{ since, until, want string }{
		{"12:03:00", "12:04:00", "1m 12:03-12:04"},
		{"12:03:30", "12:03:31", "1m 12:03-12:04"},
		{"12:00:00", "13:00:00", "1h 12:00-13:00"},
		{"12:00:00", "13:07:10", "1h 12:00-13:00, 5m 13:00-13:05, 1m 13:05-13:08"},
		{"12:58:00", "14:00:00", "1m 12:58-13:00, 1h 13:00-14:00"},
		{"11:58:00", "12:07:00", "5m 11:55-12:05, 1m 12:05-12:07"},
		{"11:00:00", "11:01:00", "5m 11:00-11:05"},
		{"05:50:00", "06:10:00", "1h 05:00-06:00, 5m 06:00-06:10"},
		{"02:30:00", "03:30:00", "1h 02:00-04:00"},
		{"00:10:00", "01:10:00", "1h 01:00-02:00"},
		{"00:10:00", "00:20:00", ""},
		{"13:00:00", "13:00:00", ""},
		{"14:00:00", "13:00:00", ""},
	} {
		got := ""
		for _, s := range cover(time.Unix(clock(c.since), 0), time.Unix(clock(c.until), 0), kept) {
			if got != "" {
				got += ", "
			}
			got += fmt.Sprintf("%s %s-%s", [...]string{"1m", "5m", "1h", "1d"}[s.level],
				time.Unix(s.from, 0).UTC().Format("15:04"), time.Unix(s.to, 0).UTC().Format("15:04"))
		}
		if got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.since, c.until, got, c.want)
		}
	}
}

// Whatever is kept, spans follow each other without a gap, have whole intervals of what is kept, and hold all of the time that is
// kept at all.
func TestCoverIsWhole(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		base := random.Int64N(1 << 31)
		var kept [levelCount]int64
		for level, length := range levels {
			kept[level] = floor(base-random.Int64N(100_000), length)
		}
		since, until := base-random.Int64N(120_000), base-random.Int64N(120_000)
		spans := cover(time.Unix(since, 0), time.Unix(until, 0), kept)
		what := fmt.Sprintf("%d to %d of %v: %v", since, until, kept, spans)
		for i, s := range spans {
			length := levels[s.level]
			if s.from%length != 0 || s.to%length != 0 || s.from >= s.to || s.from < kept[s.level] {
				t.Fatal("not whole intervals: ", what)
			}
			if i > 0 && spans[i-1].to != s.from {
				t.Fatal("a gap: ", what)
			}
		}
		if first := max(since, firstKept(kept)); first < until && (len(spans) == 0 || spans[0].from > first || spans[len(spans)-1].to < until) {
			t.Fatal("not all: ", what)
		}
	}
}
