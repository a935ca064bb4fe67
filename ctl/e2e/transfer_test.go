package e2e

import (
	"fmt"
	"testing"

	"gardu/ctl/api"
)

// blob is the size of the transfers, in bytes.
const blob = 100 << 20

type forward struct{ name, address, mode, backend string }

// forwards are all modes, and for those that wrap all four combinations of outer and inner family.
var forwards = []forward{
	{"dsr4", "192.0.2.10", "dsr", "10.0.%d.11"},
	{"dsr6", "2001:db8:10::10", "dsr", "2001:db8:%d::11"},
	{"ipip4in4", "192.0.2.11", "ipip", "10.0.%d.11"},
	{"ipip6in6", "2001:db8:10::11", "ipip", "2001:db8:%d::11"},
	{"ipip4in6", "192.0.2.12", "ipip", "2001:db8:%d::11"},
	{"ipip6in4", "2001:db8:10::12", "ipip", "10.0.%d.11"},
	{"gue4in4", "192.0.2.13", "gue", "10.0.%d.11"},
	{"gue6in6", "2001:db8:10::13", "gue", "2001:db8:%d::11"},
	{"gue4in6", "192.0.2.14", "gue", "2001:db8:%d::11"},
	{"gue6in4", "2001:db8:10::14", "gue", "10.0.%d.11"},
	{"nat4", "192.0.2.15", "nat", "10.0.%d.11"},
	{"nat6", "2001:db8:10::15", "nat", "2001:db8:%d::11"},
}

// host is the address as a URL has it.
func host(address string) string {
	for _, c := range address {
		if c == ':' {
			return "[" + address + "]"
		}
	}
	return address
}

// allForwards is a snapshot with a service for each of forwards, on all interfaces.
func allForwards(path string, backends int) string {
	config := fmt.Sprintf("interfaces:\n  client0: {path: %s}\n", path)
	for i := 1; i <= backends; i++ {
		config += fmt.Sprintf("  b%d: {path: %s}\n", i, path)
	}
	config += "flows: {max: 10000}\nservices:\n"
	for _, f := range forwards {
		config += fmt.Sprintf("  %s:\n    address: %q\n    port: 80\n    proto: tcp\n    forward: %s\n", f.name, f.address, f.mode)
		config += "    health: {http: /name, every: 1s, timeout: 1s, up: 1, down: 3}\n    backends:\n"
		for i := 1; i <= backends; i++ {
			config += fmt.Sprintf("      - {name: b%d, address: %q}\n", i, fmt.Sprintf(f.backend, i))
		}
	}
	return config
}

// TestTransfers sends 100 MB each way through every mode and family, with the default offloads (GRO, TSO) where the
// path allows them, and compares the bytes.
func TestTransfers(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 2)
			if path == "xdp" {
				w.prepareXDP()
			}
			w.startWeb()
			w.decap()
			w.start(allForwards(path, len(w.backends)))
			w.ready()
			file, sum := w.file("blob", blob)
			for _, f := range forwards {
				t.Run(f.name, func(t *testing.T) {
					if err := w.do(w.download(host(f.address), "blob", "got", ""), sum); err != nil {
						t.Errorf("download: %v", err)
					}
					if err := w.do(w.upload(host(f.address), file, "sent-"+f.name, ""), sum); err != nil {
						t.Errorf("upload: %v", err)
					}
					w.checkFlows(t, f.name)
				})
			}
		})
	}
}

// prepareXDP sets what a veth needs where XDP forwards: senders that finish checksums, and receivers with NAPI.
func (w *world) prepareXDP() {
	w.Helper()
	for _, node := range append(w.backends, w.client) { // the answers of nat are forwarded too
		w.must(node.SetTxChecksum("eth0", false))
		w.must(node.SetGRO("eth0", true))
	}
}

// checkFlows checks the records of a download and an upload: all bytes are there, counted as wire packets.
func (w *world) checkFlows(t *testing.T, service string) {
	t.Helper()
	var there, back api.Counter
	err := w.api.Flows(t.Context(), api.FlowQuery{Filter: "service " + service}, func(f api.Flow) error {
		there.Packets += f.Packets
		there.Bytes += f.Bytes
		back.Packets += f.PacketsReply
		back.Bytes += f.BytesReply
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for direction, c := range map[string]api.Counter{"there": there, "back": back} {
		if c.Bytes < blob || c.Bytes > blob*5/4 {
			t.Errorf("%s: %d bytes are recorded of %d", direction, c.Bytes, blob)
		}
		if mean := float64(c.Bytes) / float64(max(c.Packets, 1)); mean > 1500 {
			t.Errorf("%s: %.0f bytes a packet, more than fit on the wire", direction, mean)
		}
	}
}
