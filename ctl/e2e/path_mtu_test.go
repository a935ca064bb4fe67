package e2e

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"gardu/ctl/testnet"
)

// someBytes is the size of transfers that find out the MTU of a path.
const someBytes = 8 << 20

// tunnels are one of forwards for each family of each mode that wraps.
var tunnels = []forward{forwards[2], forwards[3], forwards[6], forwards[7]}

// TestTunnelTooBig uploads through tunnels that the packets of clients don't fit into: gardu tells the client what does.
func TestTunnelTooBig(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newBoxAlone(t)
			w.innerMTU = 1500
			w.connectClient()
			w.addBackend(1)
			if path == "xdp" {
				w.prepareXDP()
				w.runXDP(w.client, "eth0")
			}
			w.startWeb()
			w.decap()
			w.start(allForwards(path, 1))
			w.ready()
			file, sum := w.file("blob", someBytes)
			for _, f := range tunnels {
				before := w.packets("too-big-told")
				if err := w.do(w.upload(host(f.address), file, "sent-"+f.name, ""), sum); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				if told := w.packets("too-big-told") - before; told == 0 || told > 100 {
					t.Errorf("%s: the client was told %d times", f.name, told)
				}
				if n := w.packets("too-big") + w.packets("cannot-fragment"); n != 0 {
					t.Errorf("%s: it wasn't told %d times", f.name, n)
				}
			}
		})
	}
}

// TestNarrowHop downloads over a hop that is narrower than either end knows: backends must hear of it.
//
//	client --- 198.51.100.1 near 10.0.101.1 --- 1300 --- 10.0.101.2 far 10.0.100.2 --- client0 box
func TestNarrowHop(t *testing.T) {
	for _, path := range []string{"tc", "xdp"} {
		t.Run(path, func(t *testing.T) {
			w := newBoxAlone(t)
			far := w.connectNarrow()
			w.addBackend(1)
			w.addBackend(2)
			if path == "xdp" {
				w.prepareXDP()
				w.runXDP(far, "eth1")
			}
			w.startWeb()
			w.decap()
			w.start(allForwards(path, 2))
			w.ready()
			_, sum := w.file("blob", someBytes)
			for _, f := range forwards {
				if err := w.do(w.download(host(f.address), "blob", "got", ""), sum); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
		})
	}
}

// connectNarrow gives the node next to the box.
func (w *world) connectNarrow() (far *testnet.Node) {
	w.Helper()
	near := w.node("near")
	far = w.node("far")
	for _, node := range []*testnet.Node{near, far} {
		for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			w.must(node.SetSysctl(key, "1"))
		}
	}
	end := func(node *testnet.Node, name string, texts ...string) testnet.End {
		return testnet.End{Node: node, Name: name, Addresses: addresses(texts...)}
	}
	w.must(w.network.Connect(end(w.client, "eth0", "198.51.100.10/24", "2001:db8:c::10/64"), end(near, "eth0", "198.51.100.1/24", "2001:db8:c::1/64"), 0))
	w.must(w.network.Connect(end(near, "eth1", "10.0.101.1/24", "2001:db8:101::1/64"), end(far, "eth0", "10.0.101.2/24", "2001:db8:101::2/64"), 1300))
	w.must(w.network.Connect(end(far, "eth1", "10.0.100.2/24", "2001:db8:100::2/64"), end(w.box, "client0", "10.0.100.1/24", "2001:db8:100::1/64"), 0))
	for _, route := range []struct {
		node    *testnet.Node
		to, via string
	}{
		{w.client, "0.0.0.0/0", "198.51.100.1"}, {w.client, "::/0", "2001:db8:c::1"},
		{near, "0.0.0.0/0", "10.0.101.2"}, {near, "::/0", "2001:db8:101::2"},
		{far, "0.0.0.0/0", "10.0.100.1"}, {far, "::/0", "2001:db8:100::1"},
		{far, "198.51.100.0/24", "10.0.101.1"}, {far, "2001:db8:c::/64", "2001:db8:101::1"},
		{w.box, "0.0.0.0/0", "10.0.100.2"}, {w.box, "::/0", "2001:db8:100::2"},
	} {
		w.must(route.node.AddRoute(netip.MustParsePrefix(route.to), netip.MustParseAddr(route.via)))
	}
	return far
}

// runXDP puts a native XDP program on an interface: a veth takes what XDP sends back only then.
func (w *world) runXDP(node *testnet.Node, ifname string) {
	w.Helper()
	log, err := os.Create(w.path(node.Name() + ".decap"))
	w.must(err)
	cmd := exec.Command(binary, "decap", "-i", ifname, "--path", "xdp")
	cmd.Stdout, cmd.Stderr = log, log
	_, err = node.Start(cmd)
	log.Close()
	w.must(err)
	w.until("XDP on "+node.Name(), func() error {
		text, err := os.ReadFile(log.Name())
		if err == nil && len(text) == 0 {
			err = errors.New("it has said nothing")
		}
		return err
	})
}

// packets is how many left for a reason.
func (w *world) packets(reason string) uint64 {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status.Reasons[reason].Packets
}
