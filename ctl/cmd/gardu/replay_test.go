package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/pkt"
)

const replayRules = `interfaces: {lo: {path: tc}}
filter:
  rules:
    - {name: ssh, match: {proto: tcp, dport: 22}, action: drop}
    - {name: slow, match: {proto: udp}, limit: {rate: 1/s, burst: 1, per: src}, action: drop}
    - {name: known, match: {proto: tcp, state: established}, action: pass}
`

// captureOf writes packets, each so long after the one before, and so long on the wire (0: as it is).
func captureOf(t *testing.T, packets ...pkt.Captured) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in.pcapng")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w, err := pkt.NewWriter(file, "eth0")
	for _, p := range packets {
		if err == nil {
			err = w.Write(p, "")
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func packetAt(t *testing.T, after time.Duration, text string) pkt.Captured {
	t.Helper()
	frame, err := pkt.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return pkt.Captured{Time: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC).Add(after), Frame: frame, Length: len(frame)}
}

func TestReplay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	cut := packetAt(t, 13*time.Second, "tcp 198.51.100.9:40000 > 192.0.2.1:22 ack len 800")
	cut.Frame = cut.Frame[:64]
	path := captureOf(t,
		packetAt(t, 0, "tcp 198.51.100.7:40000 > 192.0.2.1:22 syn"),
		packetAt(t, 0, "udp 198.51.100.7:40000 > 192.0.2.1:53"),
		packetAt(t, 500*time.Millisecond, "udp 198.51.100.7:40000 > 192.0.2.1:53"), // over the limit
		packetAt(t, 10*time.Second, "udp 198.51.100.7:40000 > 192.0.2.1:53"),       // long after, in the capture
		packetAt(t, 12*time.Second, "tcp 198.51.100.8:40000 > 192.0.2.1:80 syn"),
		cut,
		packetAt(t, 11*time.Second, "tcp 198.51.100.8:40001 > 192.0.2.1:80 syn"),
	)
	rules := write(t, "rules.yaml", replayRules)
	r := gardu(t, "replay", path, "-c", rules, "-o", "json")
	var got api.Replay
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != exitDone {
		t.Fatalf("%v: %+v", err, r)
	}
	counts := map[string]uint64{}
	for _, f := range got.Fates {
		counts[f.Verdict+" "+f.Rule] = f.Packets
	}
	if want := map[string]uint64{"drop ssh": 2, "drop slow": 1, "pass ": 4}; fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", counts, want)
	}
	if got.Packets != 7 || got.Cut != 1 || got.Back != 1 || got.Unjudged != 0 {
		t.Errorf("%+v", got)
	}

	// One line a packet, the promise of explain.
	r = gardu(t, "replay", path, "-c", rules, "-o", "ndjson")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	var first api.Explanation
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != 7 || first.Verdict != "drop" || first.Rule != "ssh" || first.Interface != "lo" {
		t.Errorf("%v: %+v", err, r)
	}

	// What another configuration would do.
	other := write(t, "other.yaml", strings.Replace(replayRules, "dport: 22", "dport: 80", 1))
	r = gardu(t, "replay", path, "-c", rules, "--against", other, "-o", "json")
	got = api.Replay{}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	if len(got.Against) != 2 || got.Against[0].Flows != 2 || got.Against[0].Packets != 2 || got.Against[0].From.Verdict == got.Against[0].To.Verdict {
		t.Errorf("%+v", got.Against)
	}
	if r := gardu(t, "replay", path, "-c", rules, "--against", rules); !strings.Contains(r.stdout, "does the same with all of them") {
		t.Errorf("%+v", r)
	}

	// Wireshark reads the verdicts.
	out := filepath.Join(t.TempDir(), "out.pcapng")
	if r := gardu(t, "replay", path, "-c", rules, "-w", out); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	text, err := exec.Command("tshark", "-r", out, "-T", "fields", "-e", "frame.comment", "-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.time_epoch").Output()
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(shown) != 7 || !strings.HasPrefix(shown[0], "drop, rule-drop, rule ssh\tlo\t54\t") || !strings.HasPrefix(shown[4], "pass, ") || !strings.Contains(shown[5], fmt.Sprintf("\t%d\t", cut.Length)) {
		t.Errorf("tshark: %s", text)
	}
}

// What is no capture, or only part of one, is told, and nothing is left behind.
func TestReplayRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	rules := write(t, "rules.yaml", replayRules)
	whole, err := os.ReadFile(captureOf(t, packetAt(t, 0, "udp 198.51.100.7:1 > 192.0.2.1:2"), packetAt(t, 0, "udp 198.51.100.7:1 > 192.0.2.1:2")))
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x65\x00\x00\x00") // pcap of LINKTYPE_RAW
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "the file is empty"},
		"text":            {"hello, world, this is no capture", "read capture"},
		"wrong link type": {string(raw), "only Ethernet can be read"},
		"truncated":       {string(whole[:len(whole)-20]), "packet 2"},
	} {
		path, out := write(t, "in.pcap", c.text), filepath.Join(t.TempDir(), "out.pcapng")
		r := gardu(t, "replay", path, "-c", rules, "-w", out)
		if r.code != exitFailed || !strings.Contains(r.stderr, c.want) || !strings.Contains(r.stderr, path) {
			t.Errorf("%s: %+v", name, r)
		}
		if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}
