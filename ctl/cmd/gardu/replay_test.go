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

	"golang.org/x/sys/unix"

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
	r = gardu(t, "replay", path, "-c", rules, "--against", other)
	const changes = `
  2 flows (2 packets, 108 B) would go from pass (default-pass) to drop
    (rule-drop, rule ssh)
    first packet 5: tcp 198.51.100.8:40000 > 192.0.2.1:80 syn
`
	if !strings.Contains(r.stdout, changes) {
		t.Errorf("%+v", r)
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
	for name, c := range map[string]struct{ text, want, judged string }{
		"empty":           {"", "the file is empty", ""},
		"text":            {"hello, world, this is no capture", "read capture: no pcap or pcapng file begins with", ""},
		"wrong link type": {string(raw), "link type is raw IP, only Ethernet can be read", ""},
		"truncated":       {string(whole[:len(whole)-20]), "packet 2, at byte 152: the file was cut off in it; what is before it is whole", "1 packet, 42 B"},
		"damaged":         {string(whole[:152]) + "\x06\x00\x00\x00\x01\x00\x00\x00", "packet 2, at byte 152: no block of a pcapng file has 1 bytes", "1 packet, 42 B"},
	} {
		path, out := write(t, "in.pcap", c.text), filepath.Join(t.TempDir(), "out.pcapng")
		r := gardu(t, "replay", path, "-c", rules, "-w", out)
		if r.code != exitFailed || !strings.HasPrefix(r.stderr, "gardu replay: "+path+": ") || !strings.Contains(r.stderr, c.want) || !strings.HasPrefix(r.stdout, c.judged) || c.judged == "" && r.stdout != "" {
			t.Errorf("%s: %+v", name, r)
		}
		if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 || c.judged != "" && !strings.Contains(r.stderr, out+" was not written") {
			t.Errorf("%s: left %v, %v; %s", name, left, err, r.stderr)
		}
		if c.judged == "" {
			continue
		}
		r = gardu(t, "replay", path, "-c", rules, "-o", "json")
		var got api.Replay
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != exitFailed || got.Packets != 1 || len(got.Fates) != 1 || !strings.Contains(got.Broken, c.want) {
			t.Errorf("%s: %v: %+v", name, err, r)
		}
	}
	dir := t.TempDir()
	if r := gardu(t, "replay", dir, "-c", rules); r.code != exitFailed || r.stderr != "gardu replay: "+dir+": that is a directory, not a capture\n" || r.stdout != "" {
		t.Errorf("a directory: %+v", r)
	}
	if r := gardu(t, "replay", dir+"/none", "-c", rules); r.code != exitFailed || !strings.Contains(r.stderr, dir+"/none: no such file") {
		t.Errorf("no file: %+v", r)
	}
	if r := gardu(t, "replay", write(t, "in.pcapng", string(whole)), "-c", rules, "-w", dir+"/none/out"); r.code != exitFailed || r.stderr != "gardu replay: write "+dir+"/none/out: no such file or directory\n" || r.stdout != "" {
		t.Errorf("nowhere to write: %+v", r)
	}
	pipe := filepath.Join(dir, "pipe") // is a capture like any, as with <(zcat ...)
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, whole, 0) }()
	if r := gardu(t, "replay", pipe, "-c", rules); r.code != exitDone || !strings.HasPrefix(r.stdout, "2 packets") {
		t.Errorf("a pipe: %+v", r)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// A capture with a snap length: what it lacks is told, and never made up.
func TestCutByTheCapture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	ssh, udp := packetAt(t, 0, "tcp 198.51.100.9:40000 > 192.0.2.1:22 ack len 800"), packetAt(t, 0, "udp 198.51.100.9:40000 > 192.0.2.1:22 len 800")
	ssh.Frame, udp.Frame = ssh.Frame[:64], udp.Frame[:40]
	path, rules := captureOf(t, ssh, udp), write(t, "rules.yaml", replayRules)
	r := gardu(t, "replay", path, "-c", rules, "--against", write(t, "other.yaml", strings.Replace(replayRules, "dport: 22", "dport: 23", 1)))
	for _, want := range []string{"1 packet not judged: the capture hasn't all of their headers (a snap length\n", "1 packet cut by the capture: judged with zeros for what their payload lacks\n",
		"tcp 198.51.100.9:40000 > 192.0.2.1:22 ack len 800 (64 of\n"} {
		if r.code != exitDone || !strings.Contains(r.stdout, want) {
			t.Errorf("no %q: %+v", want, r)
		}
	}
	r = gardu(t, "replay", path, "-c", rules, "-o", "json")
	var got api.Replay
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Cut != 1 || got.Bare != 1 || got.Unjudged != 0 || len(got.Fates) != 1 || got.Fates[0].Packets != 1 {
		t.Errorf("%v: %+v", err, got)
	}
	r = gardu(t, "explain", "--pcap", path, "-c", rules)
	if r.code != exitDone || !strings.HasPrefix(r.stdout, "tcp 198.51.100.9:40000 > 192.0.2.1:22 ack len 800 (64 of 854 bytes)  on lo\n") || !strings.Contains(r.stdout, "\ndrop, rule-drop") ||
		r.stderr != "the capture holds 64 of the packet's 854 bytes: it is judged with zeros for what its payload lacks\n" {
		t.Errorf("%+v", r)
	}
	r = gardu(t, "explain", "--pcap", path, "--packet", "2", "-c", rules)
	if r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, path+": the capture holds only 40 of the 842 bytes of packet 2, not all of its headers: udp 198.51.100.9:40000 > 192.0.2.1:22 ... (40 of 842 bytes)") {
		t.Errorf("%+v", r)
	}
}
