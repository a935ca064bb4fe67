package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gardu/configs"
	"gardu/ctl/config"
)

// What init writes for any machine is a configuration that drops nothing.
func TestFirstConfig(t *testing.T) {
	eth0 := hostLink{"eth0", true, "xdp", "driver ixgbe runs XDP natively", []netip.Prefix{netip.MustParsePrefix("192.0.2.5/24"), netip.MustParsePrefix("fe80::1/64")}}
	many := []hostLink{eth0, {name: "wwan\"0'#", out: true, path: "tc", why: "a\nb"}}
	for range 300 {
		many = append(many, hostLink{name: "veth1", path: "tc", why: "veth"})
	}
	for name, h := range map[string]host{
		"nothing known": {sshPorts: []uint16{22}},
		"no way out":    {name: "box", links: []hostLink{{name: "eth1", path: "tc", why: "x"}}, sshPorts: []uint16{22}},
		"usual":         {name: "box", links: []hostLink{eth0}, sshPorts: []uint16{22, 2222}, sshFrom: netip.MustParseAddr("2001:db8::7")},
		"many, odd":     {name: "a\nb: c", links: many, sshPorts: []uint16{22}, sshFrom: netip.MustParseAddr("198.51.100.7")},
		"this one":      thisHost(),
	} {
		t.Run(name, func(t *testing.T) {
			text := firstConfig(h)
			snapshot, warnings, err := config.Parse("gardu.yaml", []byte(text), t.TempDir())
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, w := range warnings {
				if !strings.Contains(w.Msg, "no interfaces") {
					t.Error(w.Msg)
				}
			}
			var names, want []string
			for _, i := range snapshot.Interfaces {
				names = append(names, i.Name)
			}
			for _, link := range h.links {
				if link.out {
					want = append(want, link.name)
				}
			}
			if !slices.Equal(names, want) {
				t.Errorf("interfaces %q, want %q\n%s", names, want, text)
			}
			for _, rule := range snapshot.Filter.Rules {
				if rule.Action != "pass" {
					t.Errorf("rule %s: %s", rule.Name, rule.Action)
				}
			}
			if lines := strings.Count(text, "\n"); lines > 40 {
				t.Errorf("%d lines\n%s", lines, text)
			}
		})
	}
}

// Nobody's work is overwritten; what the package installed is.
func TestInitWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "gardu.yaml")
	if r := gardu(t, "init", path); r.code != exitDone || !strings.Contains(r.stdout, "gardu check "+path) {
		t.Fatalf("%+v", r)
	}
	if r := gardu(t, "check", path); r.code != exitDone {
		t.Errorf("%+v", r)
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := gardu(t, "init", "-"); r.stdout != string(written) {
		t.Errorf("another text on stdout: %+v", r)
	}
	for _, text := range []string{"# mine\n", string(configs.Installed) + "# mine too\n", ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		r := gardu(t, "init", path)
		if now, err := os.ReadFile(path); err != nil || string(now) != text || r.code != exitFailed || !strings.Contains(r.stderr, "isn't overwritten") {
			t.Errorf("%+v, %v\n%s", r, err, now)
		}
	}
	if err := os.WriteFile(path, configs.Installed, 0o644); err != nil {
		t.Fatal(err)
	}
	r := gardu(t, "init", path)
	if now, err := os.ReadFile(path); err != nil || string(now) != string(written) || r.code != exitDone {
		t.Errorf("%+v, %v\n%s", r, err, now)
	}
}

func TestSSHPorts(t *testing.T) {
	if got := sshdPorts("Port 2222\n#Port 1\nport\t22\nPort x\nPort 70000\nPortal 3\n"); !slices.Equal(got, []uint16{2222, 22}) {
		t.Errorf("%v", got)
	}
}
