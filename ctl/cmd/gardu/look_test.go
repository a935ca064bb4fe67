package main

import (
	"math"
	"testing"
	"time"
)

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 1234: "1.23 kB", 9994: "9.99 kB", 9996: "10.0 kB", 99_960: "100 kB",
		123_456: "123 kB", 999_499: "999 kB", 999_500: "1.00 MB", 4_200_000_000: "4.20 GB", math.MaxUint64: "18.4 EB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestRateText(t *testing.T) {
	for n, want := range map[float64]string{0: "0 bit/s", 0.6: "1 bit/s", 999.4: "999 bit/s", 999.6: "1.00 kbit/s", 42_130_000: "42.1 Mbit/s",
		8 * math.MaxUint64: "148 Ebit/s"} {
		if got := rateText(n); got != want {
			t.Errorf("%v is %q, want %q", n, got, want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 15 * time.Millisecond: "15ms", time.Second: "1s", 90 * time.Second: "1m30s", time.Hour: "1h", time.Hour + time.Second: "1h",
		26*time.Hour + 3*time.Minute: "1d2h", 48 * time.Hour: "2d",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for want, got := range map[string]string{
		"1 rule": plural(1, "rule"), "0 rules": plural(0, "rule"), "2 entries": plural(2, "entry"), "2,000 prefixes": plural(2000, "prefix"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
