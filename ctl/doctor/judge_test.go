package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/netdev"
)

// healthy is a machine where nothing is wrong.
func healthy() Facts {
	return Facts{
		Machine: Machine{
			Release: "6.12.1", BTF: true, BPFFS: true, Capabilities: ^uint64(0), Lockdown: "none", LoadTime: time.Second,
			Available: 8 << 30, Needed: 1 << 30, CPUs: 4, Services: true, RPFilter: "0",
		},
		Interfaces: []Interface{{
			Link: netdev.Link{
				Name: "eth0", MTU: 1500, Driver: "ixgbe", Up: true, Ethernet: true, XDP: netdev.XDPNative, XDPSend: netdev.XDPNative,
			},
			Attached: true, Want: "auto", Queues: 4, RPFilter: "0", Forwarding: [2]string{"1", "1"}, FromXDP: true,
		}},
		Backends: []Backend{{
			Service: "web", Name: "b1", For: netip.MustParseAddr("192.0.2.10"), Address: netip.MustParseAddr("10.0.0.11"), Port: 80, Forward: "ipip",
			Hop:           netdev.Hop{Ifindex: 2, Source: netip.MustParseAddr("10.0.0.1"), Neighbour: netip.MustParseAddr("10.0.0.11"), MTU: 1600},
			LargestClient: 1500, Connected: true,
		}},
	}
}

// legs is what a probe of the backend comes to.
func legs(l Legs) func(*Facts) { return func(f *Facts) { f.Backends[0].Legs = l } }

// TestJudge breaks one thing at a time: that and nothing else is told.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		broken func(*Facts)
		want   string // "" when all is well
		advice string
	}{
		{"nothing", func(*Facts) {}, "", ""},
		{"no BTF", func(f *Facts) { f.Machine.BTF = false }, "fail btf", "CONFIG_DEBUG_INFO_BTF"},
		{"no capabilities", func(f *Facts) { f.Machine.Capabilities = 1 << 12 }, "fail capabilities: lacks CAP_PERFMON, CAP_BPF", "as root"},
		{"locked down", func(f *Facts) { f.Machine.Lockdown = "confidentiality" }, "fail lockdown", "lockdown=integrity"},
		{"an old kernel", func(f *Facts) { f.Machine.Load = errors.New("no such map type\nand more") }, "fail programs: Linux 6.12.1 doesn't take the programs: no such map type", "6.1 or newer"},
		{"interpreted", func(f *Facts) { f.Machine.Interpreted = true }, "warn jit", "bpf_jit_enable=1"},
		{"no bpffs", func(f *Facts) { f.Machine.BPFFS = false }, "warn bpffs", "mount -t bpf"},
		{"little memory", func(f *Facts) { f.Machine.Needed = 9 << 30 }, "fail memory: the tables take about 9216 MB of 8192 MB", "flows.max"},
		{"hardly enough memory", func(f *Facts) { f.Machine.Needed = 5 << 30 }, "warn memory", "flows.max"},
		{"no such interface", func(f *Facts) { f.Interfaces[0].Missing = netdev.ErrNoLink }, "fail eth0", "ip link"},
		{"down", func(f *Facts) { f.Interfaces[0].Up = false }, "warn eth0: it is down", "ip link set eth0 up"},
		{"XDP wanted where there is none", func(f *Facts) { f.Interfaces[0].Want, f.Interfaces[0].XDP = "xdp", netdev.XDPNone }, "fail eth0: path: xdp, but driver ixgbe has no native XDP", "path: auto"},
		{"XDP wanted where it isn't safe", func(f *Facts) { f.Interfaces[0].Want, f.Interfaces[0].Driver = "xdp", "virtio_net" }, "warn eth0: path: xdp, though auto would choose tc", "path: auto"},
		{"generic XDP", func(f *Facts) { f.Interfaces[0].Want = "xdp-generic" }, "warn eth0: path: xdp-generic, which is slower", "path: auto"},
		{"another program", func(f *Facts) { f.Interfaces[0].Program = "xdp_dispatcher" }, "fail eth0: another XDP program is attached: xdp_dispatcher", "--replace"},
		{"our own program", func(f *Facts) { f.Interfaces[0].Program = "gardu_xdp" }, "", ""},
		{"another program beside tc", func(f *Facts) { f.Interfaces[0].Program, f.Interfaces[0].Want = "xdp_dispatcher", "tc" }, "", ""},
		{"LRO", func(f *Facts) { f.Interfaces[0].LRO = true }, "warn eth0: LRO is on", "lro off"},
		{"one queue", func(f *Facts) { f.Interfaces[0].Queues = 1 }, "warn eth0: packets come in by 1 of 4 CPUs", "ethtool -L eth0 combined 4"},
		{"sends nothing", func(f *Facts) { f.Interfaces[0].XDPSend = netdev.XDPNone }, "fail eth0: what XDP programs send out of it is lost", "path: tc"},
		{"not known whether it sends", func(f *Facts) { f.Interfaces[0].XDPSend = netdev.XDPUnknown }, "", ""},
		{"strict rp_filter", func(f *Facts) { f.Interfaces[0].RPFilter = "1" }, "warn eth0: rp_filter is strict", "rp_filter=2"},
		{"loose rp_filter wins", func(f *Facts) { f.Machine.RPFilter, f.Interfaces[0].RPFilter = "1", "2" }, "", ""},
		{"no forwarding", func(f *Facts) { f.Interfaces[0].Forwarding[0] = "0" }, "warn eth0: IPv4 forwarding is off", "forwarding=1"},
		{"no services: neither matters", func(f *Facts) {
			f.Machine.Services, f.Interfaces[0].RPFilter, f.Interfaces[0].Forwarding[0] = false, "1", "0"
		}, "", ""},
		{"a backend here", func(f *Facts) { f.Backends[0].HopError = fmt.Errorf("route: %w", netdev.ErrLocal) }, "fail web/b1: 10.0.0.11 is an address of this machine", "another machine"},
		{"no route", func(f *Facts) { f.Backends[0].HopError = unix.ENETUNREACH }, "fail web/b1: leg to the next hop: network is unreachable", "ip route get 10.0.0.11"},
		{"no neighbour", func(f *Facts) { f.Backends[0].HopError = netdev.ErrUnresolved }, "fail web/b1: leg to the next hop: 10.0.0.11 doesn't answer ARP", "ARP"},
		{"narrow for IPv6", func(f *Facts) { f.Backends[0].For, f.Backends[0].Hop.MTU = netip.MustParseAddr("2001:db8::10"), 1290 },
			"warn web/b1: leg to the backend: IPv6 needs 1280 bytes inside, and there is room for 1270: ipip adds 20, and the MTU is 1290; it takes one of 1300", "an MTU of 1520"},
		{"narrow", func(f *Facts) { f.Backends[0].Hop.MTU = 1500 }, "warn web/b1: leg to the backend: packets over 1480 bytes don't fit: ipip adds 20, and the MTU is 1500", "an MTU of 1520"},
		{"as narrow as can be", func(f *Facts) { f.Backends[0].Hop.MTU = 1520 }, "", ""},
		{"refused", func(f *Facts) { f.Backends[0].Connect = unix.ECONNREFUSED }, "warn web/b1: leg to the process: 10.0.0.11 port 80: connection refused", "is the server running?"},
		{"refused, but fine through the service", func(f *Facts) { f.Backends[0].Connect, f.Backends[0].State = unix.ECONNREFUSED, "up" }, "", ""},
		{"nobody unwraps, and says so", legs(Legs{Service: Answer{Error, "icmp 10.0.0.11 > 10.0.0.1 unreachable code 2"}}), "fail web/b1: leg through the tunnel: it unwraps nothing sent by ipip, and says so: icmp 10.0.0.11 ", "gardu decap"},
		{"nobody unwraps, and says so of a later probe only", legs(Legs{Service: Answer{Kind: Silent}, Ping: Answer{Error, "icmp 10.0.0.11 > 10.0.0.1 unreachable code 2"}}),
			"fail web/b1: leg through the tunnel: it unwraps nothing sent by ipip, and says so: icmp 10.0.0.11 ", "gardu decap"},
		{"a router knows better", legs(Legs{Service: Answer{Error, "icmp 10.0.0.99 > 10.0.0.1 unreachable code 1"}}), "fail web/b1: leg to the backend: icmp 10.0.0.99 > 10.0.0.1 unreachable", "routes there"},
		{"nobody unwraps", legs(Legs{Service: Answer{Kind: Silent}, Ping: Answer{Kind: Silent}, Inside: Answer{Kind: Silent}, Own: Answer{Kind: Answered}}),
			"fail web/b1: leg through the tunnel: 10.0.0.11 answers pings, but nothing sent by ipip", "rp_filter"},
		{"nobody unwraps, and pings are refused", legs(Legs{Service: Answer{Kind: Silent}, Ping: Answer{Kind: Silent}, Inside: Answer{Kind: Silent}, Own: Answer{Kind: Silent}}),
			"fail web/b1: leg through the service's path: port 80 of 10.0.0.11 answers", "unwrap"},
		{"no way back", legs(Legs{Service: Answer{Kind: Silent}, Ping: Answer{Kind: Silent}, Inside: Answer{Kind: Answered}}),
			"fail web/b1: leg back: it unwraps what is sent by ipip, but nothing comes back from 192.0.2.10", "ip addr add 192.0.2.10/32 dev lo"},
		{"a firewall before the port", legs(Legs{Service: Answer{Kind: Silent}, Ping: Answer{Kind: Answered}}),
			"fail web/b1: leg to the process: 192.0.2.10 answers pings sent by ipip, but port 80 is silent", "firewall"},
		{"no process", legs(Legs{Service: Answer{Kind: Refused}}), "fail web/b1: leg to the process: 192.0.2.10 port 80 refuses connections", "listen on the service address"},
		{"large packets are lost", legs(Legs{Service: Answer{Kind: Answered}, Large: Answer{Kind: Silent}}), "fail web/b1: leg to the backend: small packets are answered, those of 1520 bytes aren't", "MTU"},
		{"all is answered", legs(Legs{Service: Answer{Kind: Answered}, Large: Answer{Kind: Answered}}), "", ""},
		{"silent, but gardu has it up", func(f *Facts) {
			legs(Legs{Service: Answer{Kind: Refused}})(f)
			f.Backends[0].State = "up"
		}, "warn web/b1: leg to the process", "server running"},
		{"doesn't answer at all", func(f *Facts) {
			legs(Legs{Service: Answer{Kind: Silent}, Own: Answer{Kind: Silent}})(f)
			f.Backends[0].Connect = unix.ETIMEDOUT
		}, "fail web/b1: leg to the backend: nothing comes back from 10.0.0.11, whatever is sent", "route back to 10.0.0.1?"},
		{"can't be probed", func(f *Facts) { f.Backends[0].LegsError = unix.EPERM }, "warn web/b1: not probed: operation not permitted", "as root"},
		{"unwraps nothing", func(f *Facts) { f.Backends[0].State, f.Backends[0].Why = "down", "timed out" }, "fail web/b1: the health check of the running gardu fails: timed out", "gardu decap"},
		{"doesn't own the address", func(f *Facts) { f.Backends[0].State, f.Backends[0].Forward = "down", "dsr" }, "fail web/b1", "owns the service address"},
		{"down altogether", func(f *Facts) { f.Backends[0].State, f.Backends[0].Connect = "down", unix.ETIMEDOUT }, "fail web/b1", "look at the server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := healthy()
			c.broken(&facts)
			var bad []Finding
			for _, f := range Judge(facts) {
				if (f.Result == OK) != (f.Advice == "") {
					t.Errorf("result %s with advice %q", f.Result, f.Advice)
				}
				if f.Result != OK {
					bad = append(bad, f)
				}
			}
			if c.want == "" {
				if len(bad) > 0 {
					t.Errorf("%+v", bad)
				}
				return
			}
			if len(bad) != 1 {
				t.Fatalf("%d findings: %+v", len(bad), bad)
			}
			f := bad[0]
			if text := fmt.Sprintf("%s %s: %s", f.Result, f.Subject, f.Found); !strings.HasPrefix(text, c.want) || !strings.Contains(f.Advice, c.advice) {
				t.Errorf("%s\n-> %s\nnot %s\n-> %s", text, f.Advice, c.want, c.advice)
			}
			if want := f.Result == Fail; (Failed(bad) == 1) != want {
				t.Errorf("%d failures", Failed(bad))
			}
		})
	}
}
