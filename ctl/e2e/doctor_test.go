package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"gardu/ctl/testnet"
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
      - {name: wrapped, address: 10.0.2.11}
      - {name: homeless, address: 10.0.3.11}
      - {name: silent, address: 10.0.1.99}
      - {name: unreachable, address: 203.0.113.7}
  direct:
    address: 192.0.2.11
    port: 80
    proto: tcp
    forward: dsr
    backends:
      - {name: well, address: 10.0.1.11}
      - {name: blocked, address: 10.0.2.11}
  closed:
    address: 192.0.2.12
    port: 81
    proto: tcp
    forward: gue
    backends: [{name: b1, address: 10.0.1.11}]
  ping6:
    address: "2001:db8:10::10"
    port: 53
    proto: udp
    forward: ipip
    backends: [{name: b1, address: 10.0.1.11}]
flows: {max: 1000}
`

// TestDoctor asks about a box whose faults are known, and expects to hear of these and no others.
func TestDoctor(t *testing.T) {
	w := newWorld(t, 3)
	w.startWeb()
	all := w.backends
	w.backends = []*testnet.Node{all[0], all[2]} // the second unwraps nothing
	w.decap()
	w.backends = all
	run := func(node *testnet.Node, command ...string) {
		t.Helper()
		_, err := node.Output(t.Context(), command[0], command[1:]...)
		w.must(err)
	}
	run(all[1], "nft", "table ip t {\nchain c {\ntype filter hook output priority 0\nip saddr 192.0.2.11 drop\n}\n}")
	run(all[2], "ip", "address", "del", "192.0.2.10/32", "dev", "lo")
	wrong := func(also ...string) map[string]string {
		want := map[string]string{
			"web/wrapped":     "fail leg through the tunnel: it unwraps nothing sent by ipip, and says so: icmp 10.0.2.11 > 10.0.2.1 ",
			"web/homeless":    "fail leg back: it unwraps what is sent by ipip, but nothing comes back from 192.0.2.10",
			"web/silent":      "fail leg to the next hop: 10.0.1.99 doesn't answer ARP",
			"web/unreachable": "fail leg to the next hop: route to 203.0.113.7: network is unreachable",
			"direct/blocked":  "fail leg to the service address, or back: 10.0.2.11 answers pings, but 192.0.2.11 doesn't",
			"closed/b1":       "fail leg to the process: 192.0.2.12 port 81 refuses connections",
		}
		for i := 0; i < len(also); i += 2 {
			want[also[i]] = also[i+1]
		}
		return want
	}
	w.diagnosis(fmt.Sprintf(doctorConfig, "tc"), wrong())

	// What is on the way takes small packets only.
	run(all[0], "ip", "link", "set", "eth0", "mtu", "1400")
	w.diagnosis(fmt.Sprintf(doctorConfig, "tc"), wrong("web/well", "fail leg to the backend: small packets are answered, those of 1520 bytes aren't",
		"closed/b1", "fail leg to the process",
		"direct/well", "fail leg to the backend: small packets are answered, those of 1500 bytes aren't",
		"ping6/b1", "fail leg to the backend: small packets are answered, those of 1520 bytes aren't"))
	run(all[0], "ip", "link", "set", "eth0", "mtu", "1600")

	w.checkGone()
}

// TestDoctorXDP: what XDP sends to a veth whose peer has neither a program nor GRO is lost.
func TestDoctorXDP(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.box.SetSysctl("net.ipv4.conf.client0.rp_filter", "1"))
	w.diagnosis(`interfaces:
  client0: {path: xdp}
services:
  web: {address: 192.0.2.10, port: 80, proto: tcp, forward: ipip, backends: [{name: well, address: 10.0.1.11}]}
`, map[string]string{
		"client0":  "rp_filter is strict",
		"b1":       "fail what XDP programs send out of it is lost",
		"web/well": "fail leg through the tunnel",
	})
	w.checkGone()
}

// TestDoctorAtOdds: a filter that cuts off the session that doctor is run from, and translations with ports of the kernel's own.
func TestDoctorAtOdds(t *testing.T) {
	t.Setenv("SSH_CONNECTION", "198.51.100.10 40001 198.51.100.1 22")
	w := newWorld(t, 1)
	w.startWeb()
	w.must(w.box.SetSysctl("net.ipv4.ip_local_port_range", "32768 60999"))
	w.diagnosis(`interfaces:
  client0: {path: tc}
  b1: {path: tc}
filter:
  rules:
    - {name: no-ssh, match: {proto: tcp, dport: 22}, action: drop}
services:
  web: {address: 192.0.2.15, port: 80, proto: tcp, forward: nat, nat: {ports: 20000-40000}, backends: [{name: gone, address: 10.0.1.99}]}
`, map[string]string{
		"web/gone": "fail leg to the next hop: 10.0.1.99 doesn't answer ARP",
		"line 6":   "warn the SSH connection that you work on, from 198.51.100.10:40001 to port 22, would be cut off: its packets meet the rule no-ssh, which drops them",
		"line 8":   "warn nat.ports 20000-40000 of web overlap 32768-60999, which this machine takes for its own connections",
	})
	w.checkGone()
}

// diagnosis asks about a configuration: everything that is wrong is told, and nothing else.
func (w *world) diagnosis(config string, want map[string]string) {
	w.Helper()
	w.must(os.WriteFile(w.path("gardu.yaml"), []byte(config), 0o644))
	out, failed := w.gardu("doctor", w.path("gardu.yaml"), "-o", "json")
	if failed == nil {
		w.Error("the exit code is 0 though something fails")
	}
	var findings []struct{ Subject, Result, Found string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		w.Fatalf("%v: %v\n%s", err, failed, out)
	}
	bad := map[string]string{}
	for _, f := range findings {
		if f.Result != "ok" {
			bad[f.Subject] += f.Result + " " + f.Found + "\n"
		}
	}
	for subject, text := range want {
		if !strings.Contains(bad[subject], text) {
			w.Errorf("%s: %q, which doesn't say %q", subject, bad[subject], text)
		}
		delete(bad, subject)
	}
	if len(bad) > 0 {
		w.Errorf("more than is wrong: %v", bad)
	}
}
