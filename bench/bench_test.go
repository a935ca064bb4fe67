package main

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/pkt"
)

func TestFrameIsWhatItsTupleSays(t *testing.T) {
	sent := tuple{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.10"), 40000, 443, 0}
	if err := pkt.Verify(sent.frame()); err != nil {
		t.Error(err)
	}
	if got, want := pkt.Summary(sent.frame()), "tcp 198.51.100.7:40000 > 192.0.2.10:443"; !strings.HasPrefix(got, want) {
		t.Errorf("the frame is %q, want %q", got, want)
	}
	if got := sent.packet(); abi.Ntohs(got.Sport) != 40000 || abi.Ntohs(got.Dport) != 443 {
		t.Errorf("ports are %d and %d", abi.Ntohs(got.Sport), abi.Ntohs(got.Dport))
	}
}

func TestScenariosAreDistinct(t *testing.T) {
	all := scenarios()
	if all[0].name != emptyName {
		t.Errorf("the first case is %q, which all others are compared with", all[0].name)
	}
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.name] {
			t.Errorf("two cases are called %q", s.name)
		}
		seen[s.name] = true
	}
}

// The generator must give every program under test the same frame each time, whatever the program did to the last one, and
// a program that counts must count all of them.
func TestMeasure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	worlds := lab{}
	var subjects []*subject
	t.Cleanup(func() {
		if err := closeAll(subjects); err != nil {
			t.Error(err)
		}
		if err := worlds.close(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range scenarios() {
		switch s.name {
		case emptyName, emptyName6, "floor ipip", "pass", "rules 10", "two fields, 10", "xdp-filter, 10,000 addresses", "10,000 addresses", "service, 1 flow":
			loaded, err := worlds.subject(s)
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			subjects = append(subjects, loaded)
		}
	}
	if _, _, err := pin(); err != nil { // the thread ends with the test
		t.Fatal(err)
	}
	const rounds, packets = 2, 1000
	if err := measure(subjects, rounds, packets, func(int) {}); err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if err := newResult(machine{Commit: "test"}, rounds, packets, subjects).markdown(&table); err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		if len(s.samples) != rounds {
			t.Errorf("%s has %d samples, want %d", s.name, len(s.samples), rounds)
		}
		if !strings.Contains(table.String(), "| "+s.name+" |") {
			t.Errorf("%s is not in the table", s.name)
		}
	}
}
