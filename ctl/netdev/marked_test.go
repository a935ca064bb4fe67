package netdev_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRouteMarked(t *testing.T) {
	const mark = 0x67617264
	l := newLab(t)
	way := func(to string, mark ...string) string {
		out, err := l.box.Output(t.Context(), "ip", append([]string{"route", "get", to}, mark...)...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	places := []string{"192.0.2.2", "198.51.100.7", "2001:db8::2", "2001:db8:9::7"} // with a route, and without
	for range 2 {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if err := l.handle.RouteMarked(mark, family); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, to := range places {
		if got := way(to, "mark", "0x67617264"); !strings.Contains(got, "dev lo table 26482") {
			t.Errorf("%s, marked: %s", to, got)
		}
	}
	if got := way("192.0.2.2"); !strings.Contains(got, "dev eth0") {
		t.Errorf("not marked: %s", got)
	}
	if got := way("192.0.2.2", "mark", "1"); !strings.Contains(got, "dev eth0") {
		t.Errorf("otherwise marked: %s", got)
	}
	for range 2 { // the second time there is nothing to do
		if err := l.handle.UnrouteMarked(mark); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
		if got := way(to, "mark", "0x67617264"); !strings.Contains(got, "dev eth0") {
			t.Errorf("%s, after: %s", to, got)
		}
	}
	if rules, err := l.box.Output(t.Context(), "ip", "rule"); err != nil || strings.Contains(string(rules), "103:") {
		t.Errorf("a rule stayed: %s, %v", rules, err)
	}
}
