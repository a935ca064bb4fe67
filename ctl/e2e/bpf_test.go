package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

type bpfProgram struct {
	Name         string
	Attached     []string
	Instructions int
	Verified     int
	JITedBytes   int `json:"jited_bytes"`
	Runs         int
	Ns           float64 `json:"ns_per_run"`
}

type bpfMap struct {
	Name, Type, Help string
	Entries          int
	Memory           uint64
}

// TestBPF holds what gardu bpf shows against what is known to be there, also while no daemon lives.
func TestBPF(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	w.decap()
	w.start(allForwards("tc", len(w.backends)))
	w.ready()
	if _, err := w.gardu("block", "203.0.113.7", "--for", "1h"); err != nil {
		t.Fatal(err)
	}
	show := func(args ...string) []byte {
		t.Helper()
		out, err := w.gardu(append([]string{"bpf", "--bpffs", w.bpffs}, args...)...)
		if err != nil {
			t.Fatalf("gardu bpf %v: %v\n%s", args, err, out)
		}
		return []byte(out)
	}
	look := func(args ...string) (view struct {
		Programs []bpfProgram
		Maps     []bpfMap
	}) {
		t.Helper()
		if err := json.Unmarshal(show(append(args, "-o", "json")...), &view); err != nil {
			t.Fatal(err)
		}
		return view
	}
	done := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = w.answers("192.0.2.10") // packets are all that is asked for
			}
		}
	})
	view := look("--time", "300ms")
	close(done)
	busy.Wait()
	at := slices.IndexFunc(view.Programs, func(p bpfProgram) bool { return p.Name == "gardu_ingress" })
	if at < 0 {
		t.Fatalf("no gardu_ingress: %+v", view.Programs)
	}
	if p := view.Programs[at]; !slices.Contains(p.Attached, "client0 ingress") || p.Instructions < 1000 || p.Verified < 1000 || p.JITedBytes == 0 ||
		p.Runs == 0 || p.Ns < 10 {
		t.Errorf("%+v", p)
	}
	for _, m := range view.Maps {
		if m.Memory == 0 || m.Entries == 0 {
			t.Errorf("%+v", m)
		}
		if m.Name == "blocks" && (m.Type != "Hash" || !strings.HasPrefix(m.Help, "Daemon adds and removes")) {
			t.Errorf("%+v", m)
		}
	}
	for _, name := range []string{"blocks", "tables_services", "backend_counters"} {
		if !slices.ContainsFunc(view.Maps, func(m bpfMap) bool { return m.Name == name }) {
			t.Errorf("no map %s", name)
		}
	}

	w.daemon.Kill()
	w.daemon = nil
	if view := look("--time", "0"); len(view.Programs) == 0 || view.Programs[0].Runs != 0 {
		t.Errorf("%+v", view.Programs)
	}
	var entry struct{ Key, Value json.RawMessage }
	for _, args := range [][]string{{"dump", "blocks"}, {"get-next", "blocks"}} {
		if err := json.Unmarshal(show(args...), &entry); err != nil || !strings.Contains(string(entry.Key), "ffffcb007107") { // ::ffff:203.0.113.7
			t.Errorf("%v: %v, %s", args, err, entry.Key)
		}
	}
	var control struct{ Value map[string]any }
	if err := json.Unmarshal(show("lookup", "control", "0"), &control); err != nil || control.Value["generation"] != 1.0 {
		t.Errorf("%v, %v", err, control.Value)
	}
	for _, program := range view.Programs { // and of one that isn't attached here
		if log := string(show("log", program.Name)); !strings.Contains(log, "processed ") || !strings.Contains(log, "stack depth") {
			t.Errorf("the verifier's log of %s is %q", program.Name, log)
		}
	}
	for _, name := range []string{"gardu_xdp", "gardu_egress", "gardu_clock", "decap_tc", "decap_xdp", "decap_clamp"} {
		if log := string(show("log", name)); !strings.Contains(log, "processed ") {
			t.Errorf("the verifier's log of %s is %q", name, log)
		}
	}
	if log := string(show("log", "lost_batch", "--full")); !strings.Contains(log, "r1 = *(u64 *)(r") {
		t.Errorf("no instruction in %q", log)
	}
	for _, c := range []struct{ args, want string }{
		{"lookup blocks 12", "bytes in hex"},
		{"lookup nothing 1", "there is no map \"nothing\": gardu has\n  answers backend_counters backend_notes "},
		{"lookup exits 9999", "the map has no such entry"},
		{"dump events", "no entries that can be looked up"},
		{"log nothing", "there is no program nothing"},
	} {
		out, err := w.gardu(strings.Fields("bpf --bpffs " + w.bpffs + " " + c.args)...)
		if text := fmt.Sprint(out, err); err == nil || !strings.Contains(text, c.want) {
			t.Errorf("%s: %s", c.args, text)
		}
	}
	if out, err := w.gardu("detach", "--bpffs", w.bpffs); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := w.gardu("bpf", "--bpffs", w.bpffs); err == nil || !strings.Contains(fmt.Sprint(out, err), "nothing of gardu is in the kernel") {
		t.Errorf("%v, %s", err, out)
	}
}
