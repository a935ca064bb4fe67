package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

const doctorConfig = `interfaces:
  client0: {path: %s}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: ipip
    backends:
      - {name: well, address: 10.0.1.11}
      - {name: silent, address: 10.0.1.99}
      - {name: unreachable, address: 203.0.113.7}
flows: {max: 1000}
`

// TestDoctor asks about a box whose faults are known, and expects to hear of these and no others.
func TestDoctor(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	ask := func(path string) map[string]string {
		w.must(os.WriteFile(w.path("gardu.yaml"), []byte(fmt.Sprintf(doctorConfig, path)), 0o644))
		out, err := w.gardu("doctor", w.path("gardu.yaml"), "-o", "json")
		if err == nil {
			t.Error("the exit code is 0 though something fails")
		}
		var findings []struct{ Subject, Result, Found string }
		if err := json.Unmarshal([]byte(out), &findings); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		bad := map[string]string{}
		for _, f := range findings {
			if f.Result != "ok" {
				bad[f.Subject] += f.Result + " " + f.Found + "\n"
			}
		}
		return bad
	}
	check := func(bad, want map[string]string) {
		t.Helper()
		for subject, text := range want {
			if !strings.Contains(bad[subject], text) {
				t.Errorf("%s: %q, which doesn't say %q", subject, bad[subject], text)
			}
			delete(bad, subject)
		}
		if len(bad) > 0 {
			t.Errorf("more than is wrong: %v", bad)
		}
	}
	check(ask("tc"), map[string]string{
		"web/silent":      "fail leg to the next hop: 10.0.1.99 doesn't answer ARP",
		"web/unreachable": "fail leg to the next hop: route to 203.0.113.7: network is unreachable",
	})

	// What XDP sends to a veth whose peer has neither a program nor GRO is lost.
	w.must(w.box.SetSysctl("net.ipv4.conf.client0.rp_filter", "1"))
	check(ask("xdp"), map[string]string{
		"client0":         "rp_filter is strict",
		"b1":              "fail what XDP programs send out of it is lost",
		"web/silent":      "fail",
		"web/unreachable": "fail",
	})
	w.checkGone()
}
