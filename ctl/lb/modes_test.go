package lb

import (
	"net/netip"
	"os"
	"regexp"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

func TestModesMatchBorder(t *testing.T) {
	header, err := os.ReadFile("../../bpf/modes.h")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`X\([A-Z]+, ([a-z]+), "([^"]+)"\)`).FindAllStringSubmatch(string(header), -1)
	modes := Modes()
	if len(rows) != len(modes) || len(modes) != int(abi.ModeCount)-1 {
		t.Fatalf("%d rows here, %d in bpf/modes.h, %d on the border", len(modes), len(rows), abi.ModeCount-1)
	}
	for i, mode := range modes {
		if mode.ABI != abi.Mode(i+1) {
			t.Errorf("%s is row %d but number %d", mode.Name, i+1, mode.ABI)
		}
		if string(mode.Name) != rows[i][1] || mode.Help != rows[i][2] {
			t.Errorf("%s: %q here, %s: %q in bpf/modes.h", mode.Name, mode.Help, rows[i][1], rows[i][2])
		}
	}
}

func TestModeFamilies(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, test := range []struct {
		mode             model.Mode
		service, backend netip.Addr
		carries          bool
		overhead         int
	}{
		{"dsr", v4, v4, true, 0},
		{"dsr", v6, v6, true, 0},
		{"dsr", v4, v6, false, 0},
		{"dsr", v6, v4, false, 0},
		{"ipip", v4, v4, true, 20},
		{"ipip", v6, v4, true, 20},
		{"ipip", v4, v6, true, 40},
		{"ipip", v6, v6, true, 40},
	} {
		mode, ok := FindMode(test.mode)
		if !ok {
			t.Fatalf("no mode %s", test.mode)
		}
		if got := mode.Carries(test.service, test.backend); got != test.carries {
			t.Errorf("%s from %s to %s: carries %t", test.mode, test.service, test.backend, got)
		}
		if got := mode.Overhead(test.backend); got != test.overhead {
			t.Errorf("%s to %s: overhead %d, want %d", test.mode, test.backend, got, test.overhead)
		}
	}
	if _, ok := FindMode("teleport"); ok {
		t.Error("found a mode that doesn't exist")
	}
}
