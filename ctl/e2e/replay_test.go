package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/pkt"
	"gardu/ctl/testnet"
)

const replayConfig = `
interfaces: {client0: {path: %s}}
filter:
  rules:
    - {name: sink, match: {proto: udp, dport: 5301}, action: drop}
    - {name: telnet, match: {proto: tcp, dport: 23}, action: {reject: tcp-reset}}
    - {name: web, match: {service: [near, far]}, action: pass}
services:
  near: {address: 192.0.2.10, port: 80, proto: tcp, forward: dsr, backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]}
  far: {address: 192.0.2.11, port: 80, proto: tcp, forward: ipip, backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]}
`

// dumpcap captures what the client sends to the box.
func (w *world) dumpcap(file string) *testnet.Process {
	w.Helper()
	var mac net.HardwareAddr
	w.must(w.client.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr
		}
		return err
	}))
	said, err := os.Create(file + ".err")
	w.must(err)
	defer said.Close()
	cmd := exec.Command("dumpcap", "-q", "-i", "eth0", "-f", "ether src "+mac.String(), "-w", file)
	cmd.Stderr = said
	process, err := w.client.Start(cmd)
	w.must(err)
	w.until("dumpcap captures", func() error {
		text, err := os.ReadFile(file + ".err")
		if err == nil && !strings.Contains(string(text), "File: ") {
			err = errors.New(string(text))
		}
		return err
	})
	return process
}

// packetsIn counts those of a capture that is being written.
func (w *world) packetsIn(path string) (n uint64) {
	w.Helper()
	file, err := os.Open(path)
	w.must(err)
	defer file.Close()
	capture, err := pkt.NewCapture(file)
	for ; err == nil; n++ {
		_, err = capture.Next()
	}
	return n - min(n, 1)
}

// handled is what the box did with packets so far, by reason, rule and backend.
func (w *world) handled() map[string]api.Counter {
	w.Helper()
	all := map[string]api.Counter{}
	status, err := w.api.Status(w.Context())
	w.must(err)
	for reason, c := range status.Reasons {
		all[reason] = api.Counter{Packets: c.Packets, Bytes: c.Bytes}
	}
	rules, err := w.api.Rules(w.Context())
	w.must(err)
	for _, r := range rules {
		all["rule "+r.Name] = api.Counter{Packets: r.Decided}
	}
	backends, err := w.api.Backends(w.Context())
	w.must(err)
	for _, b := range backends {
		all["backend "+b.Service+"/"+b.Name] = api.Counter{Packets: b.Packets}
	}
	return all
}

// TestReplayAgreesWithTheBox replays what dumpcap took of real traffic, and compares the totals with what the box counted of the same
// packets. The odd packet that passes while a capture begins or ends makes it try again.
func TestReplayAgreesWithTheBox(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			w.prepareXDP()
			if path == "xdp" {
				w.runXDP(w.client, "eth0") // or it wouldn't take resets
			}
			w.startWeb()
			w.decap()
			w.start(fmt.Sprintf(replayConfig, path))
			w.ready()
			w.file("large", 1<<20)
			var err error
			for try := range 3 {
				if err = w.replayed(w.path(fmt.Sprintf("%d.pcapng", try))); err == nil {
					break
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func (w *world) replayed(file string) error {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	dumpcap := w.dumpcap(file)
	defer dumpcap.Kill()
	before := w.handled()
	for range 8 {
		for _, address := range []string{"192.0.2.10", "192.0.2.11"} {
			w.must(w.answers(address))
		}
	}
	for _, address := range []string{"192.0.2.10", "192.0.2.11"} {
		_, err := w.client.Output(w.Context(), "curl", w.download(address, "large", "got", "").args...)
		w.must(err)
	}
	w.send(w.dial("198.51.100.1:5301"), 50)
	w.send(w.dial("198.51.100.1:5302"), 1)
	if conn, err := w.client.Dial(ctx, "tcp", "198.51.100.1:23"); err == nil {
		conn.Close()
		return errors.New("telnet is let in")
	}
	w.must(w.ping(w.client, "198.51.100.1"))
	did := map[string]api.Counter{}
	for deadline := time.Now().Add(patience / 4); ; { // dumpcap writes what it has a few times a second, and forgets the rest when it ends
		var packets uint64
		clear(did)
		for name, now := range w.handled() {
			c := api.Counter{Packets: now.Packets - before[name].Packets, Bytes: now.Bytes - before[name].Bytes}
			if c.Packets == 0 {
				continue
			}
			did[name] = c
			if !strings.Contains(name, " ") { // a reason
				packets += c.Packets
			}
		}
		if w.packetsIn(file) == packets {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d packets captured, %d handled", w.packetsIn(file), packets)
		}
	}
	w.must(dumpcap.Signal(os.Interrupt))
	w.must(dumpcap.Wait())

	out, err := w.gardu("replay", file, "-o", "json")
	w.must(err)
	var total api.Replay
	w.must(json.Unmarshal([]byte(out), &total))
	want := map[string]api.Counter{}
	for _, f := range total.Fates {
		add := func(name string, bytes uint64) {
			c := want[name]
			want[name] = api.Counter{Packets: c.Packets + f.Packets, Bytes: c.Bytes + bytes}
		}
		add(f.Reason, f.Bytes)
		if f.Rule != "" {
			add("rule "+f.Rule, 0)
		}
		if f.Backend != "" {
			add("backend "+f.Service+"/"+f.Backend, 0)
		}
	}
	if !maps.Equal(did, want) {
		return fmt.Errorf("the box did %+v\nreplayed: %+v", did, want)
	}
	for _, name := range []string{"rule sink", "rule telnet", "default-pass", "backend near/b1", "backend near/b2", "backend far/b1", "backend far/b2"} {
		if did[name].Packets == 0 {
			return fmt.Errorf("%s: no packets; %+v", name, did)
		}
	}
	if did["rule sink"].Packets != 50 || total.Unjudged+total.Cut != 0 {
		w.Errorf("%+v; %+v", did, total)
	}
	return nil
}
