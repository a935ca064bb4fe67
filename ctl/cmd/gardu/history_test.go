package main

import (
	"strings"
	"testing"
	"time"

	"gardu/ctl/api/apitest"
)

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"90m":                  "2026-01-02T13:34:05+01:00",
		"0s":                   "2026-01-02T15:04:05+01:00",
		"7d":                   "2025-12-26T15:04:05+01:00",
		"1.5d":                 "2026-01-01T03:04:05+01:00",
		"14:05":                "2026-01-02T14:05:00+01:00",
		"15:04:05":             "2026-01-02T15:04:05+01:00",
		"23:59":                "2026-01-01T23:59:00+01:00", // not yet today
		"2025-12-31":           "2025-12-31T00:00:00+01:00",
		"2025-12-31 14:05":     "2025-12-31T14:05:00+01:00",
		"2025-12-31 14:05:06":  "2025-12-31T14:05:06+01:00",
		"2025-12-31T14:05":     "2025-12-31T14:05:00+01:00",
		"2025-12-31T14:05:06Z": "2025-12-31T14:05:06Z",
	} {
		if got, err := parseTime(text, now); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%s is %s, %v, want %s", text, got.Format(time.RFC3339), err, want)
		}
	}
	for _, text := range []string{"", "-5m", "5", "-1d", "24:00", "yesterday", "2025-13-01", "99999999999d", "d", "5m5"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func TestFlowsOfThePast(t *testing.T) {
	serve(t, &apitest.Engine{})
	args := []string{"flows", "--since", "2026-11-23T11:00:00Z", "--until", "2026-11-23T12:00:00Z", "--group", "src,service"}
	golden(t, "history", allFormats(t, args...))
	if r := gardu(t, append(args, "dport", "443")...); !strings.Contains(r.stderr, "1,200 more packets, 100 kB, may belong here") || r.code != exitDone {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "flows", "--since", "1h"); !strings.Contains(r.stdout, "DPORT") || r.code != exitDone {
		t.Errorf("%+v", r)
	}
	for _, wrong := range [][]string{
		{"--until", "1h"},
		{"--since", "x"},
		{"--since", "1h", "--until", "x"},
		{"--since", "1h", "--until", "2h"},
		{"--since", "1h", "--sort", "rate"},
		{"--since", "1h", "--group", "x"},
		{"--since", "1h", "-n", "-1"},
		{"--since", "1h", "dpotr", "443"},
	} {
		if r := gardu(t, append([]string{"flows"}, wrong...)...); r.code != exitUsage || r.stdout != "" {
			t.Errorf("%v: %+v", wrong, r)
		}
	}
}

// A table of flows has the column that it is sorted by.
func TestSortedColumns(t *testing.T) {
	serve(t, &apitest.Engine{})
	for sort, column := range map[string]string{"rate": "RATE", "duration": "LAST", "first": "FIRST", "last": "LAST"} {
		if r := gardu(t, "flows", "--sort", sort); r.code != exitDone || !strings.Contains(r.stdout, column) {
			t.Errorf("%s: %+v", sort, r)
		}
	}
	if r := gardu(t, "flows"); strings.Contains(r.stdout, "RATE") {
		t.Errorf("%+v", r)
	}
}
