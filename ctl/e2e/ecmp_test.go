package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// spread are the services that two boxes share.
var spread = []forward{forwards[0], forwards[1], forwards[2], forwards[3]} // dsr and ipip

// TestTwoBoxes has a router spread connections over two boxes whose configurations say the same in another order. One box dies: the
// other goes on with its connections, each on its own backend.
//
//	                          10.0.101.1 --- 10.0.101.2 box
//	client --- 198.51.100.1 router                        --- 10.0.0.0/24 --- b1, b2, b3
//	                          10.0.102.1 --- 10.0.102.2 twin
func TestTwoBoxes(t *testing.T) {
	w := newBoxAlone(t)
	twin := w.secondBox("twin")
	router := w.connectTwins(twin, 3)
	w.startWeb()
	w.decap()
	w.start(spreadOver(0, 1, 2))
	twin.start(spreadOver(2, 0, 1))
	w.ready()
	twin.ready()

	var all []*conversation
	for _, f := range spread {
		for range 16 {
			c, err := w.converse(net.JoinHostPort(f.address, "80"))
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			all = append(all, c)
		}
	}
	here, there := w.flowsOf(), twin.flowsOf()
	for _, f := range spread {
		if here[f.name] == 0 || there[f.name] == 0 {
			t.Errorf("%s: one box has %d flows, the other %d", f.name, here[f.name], there[f.name])
		}
	}
	w.until("requests on every connection", allAnswer(all))

	w.daemon.Kill()
	w.daemon = nil
	for _, link := range []string{"router0", "lan0"} {
		_, err := w.box.Output(t.Context(), "ip", "link", "set", link, "down")
		w.must(err)
	}
	for _, route := range twinRoutes {
		_, err := router.Output(t.Context(), "ip", "route", "replace", route.to, "via", route.twin)
		w.must(err)
	}
	twin.until("requests on every connection, by one box", allAnswer(all))
	for _, c := range all {
		if err := c.stop(); err != nil {
			t.Errorf("%s at %s: %v", c.conn.RemoteAddr(), c.backend, err)
		}
	}
	for name, after := range twin.flowsOf() {
		if after <= there[name] {
			t.Errorf("%s: the box that is left got no flow of the dead one", name)
		}
	}
	t.Logf("flows of the dead box: %v, of the other: %v", here, there)
}

// spreadOver is the snapshot of both boxes, with backends in that order, and services in the order that the first of them says.
func spreadOver(backends ...int) string {
	var services []string
	for _, f := range spread {
		service := fmt.Sprintf("  %s: {address: %q, port: 80, proto: tcp, forward: %s, backends: [", f.name, f.address, f.mode)
		for _, i := range backends {
			address := fmt.Sprintf("10.0.0.1%d", i+1)
			if strings.Contains(f.backend, ":") {
				address = fmt.Sprintf("2001:db8::1%d", i+1)
			}
			service += fmt.Sprintf("{name: b%d, address: %q, weight: %d}, ", i+1, address, 100*(i+1))
		}
		services = append(services, service+"]}\n")
	}
	if backends[0] != 0 {
		slices.Reverse(services)
	}
	return "interfaces: {router0: {}, lan0: {}}\nservices:\n" + strings.Join(services, "")
}

// secondBox is another box in the same network, with a daemon of its own.
func (w *world) secondBox(name string) *world {
	w.Helper()
	other := &world{T: w.T, network: w.network, client: w.client, box: w.node(name), dir: w.path(name), bpffs: w.bpffs + "-" + name}
	w.must(os.Mkdir(other.dir, 0o755))
	other.api = client.New(other.path("gardu.sock"))
	w.Cleanup(other.cleanUp)
	return other
}

// twinRoutes are the router's routes to services.
var twinRoutes = []struct{ to, box, twin string }{
	{"192.0.2.0/24", "10.0.101.2", "10.0.102.2"},
	{"2001:db8:10::/64", "2001:db8:101::2", "2001:db8:102::2"},
}

// connectTwins makes the links, and gives the router.
func (w *world) connectTwins(twin *world, backends int) *testnet.Node {
	w.Helper()
	router, lan := w.node("router"), w.node("lan")
	for key, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
		"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv6.fib_multipath_hash_policy": "1", // ports count
	} {
		w.must(router.SetSysctl(key, value))
	}
	connect := func(a *testnet.Node, aName, aAddresses string, b *testnet.Node, bName, bAddresses string, mtu int) {
		w.Helper()
		w.must(w.network.Connect(testnet.End{Node: a, Name: aName, Addresses: addresses(strings.Fields(aAddresses)...)},
			testnet.End{Node: b, Name: bName, Addresses: addresses(strings.Fields(bAddresses)...)}, mtu))
	}
	route := func(node *testnet.Node, to, via string) {
		w.Helper()
		w.must(node.AddRoute(netip.MustParsePrefix(to), netip.MustParseAddr(via)))
	}
	connect(w.client, "eth0", "198.51.100.10/24 2001:db8:c::10/64", router, "client0", "198.51.100.1/24 2001:db8:c::1/64", 0)
	connect(router, "box0", "10.0.101.1/24 2001:db8:101::1/64", w.box, "router0", "10.0.101.2/24 2001:db8:101::2/64", 0)
	connect(router, "box1", "10.0.102.1/24 2001:db8:102::1/64", twin.box, "router0", "10.0.102.2/24 2001:db8:102::2/64", 0)

	_, err := lan.Output(w.Context(), "ip", "link", "add", "br0", "type", "bridge")
	w.must(err)
	port := 0
	plug := func(node *testnet.Node, name, own string) {
		w.Helper()
		port++
		at := fmt.Sprintf("port%d", port)
		connect(node, name, own, lan, at, "", innerMTU)
		_, err := lan.Output(w.Context(), "ip", "link", "set", at, "master", "br0")
		w.must(err)
	}
	plug(router, "lan0", "10.0.0.1/24 2001:db8::1/64")
	plug(w.box, "lan0", "10.0.0.2/24 2001:db8::2/64")
	plug(twin.box, "lan0", "10.0.0.3/24 2001:db8::3/64")
	_, err = lan.Output(w.Context(), "ip", "link", "set", "br0", "up")
	w.must(err)
	for i := 1; i <= backends; i++ {
		node := w.node(fmt.Sprintf("b%d", i))
		for _, key := range []string{"arp_ignore", "arp_announce"} {
			w.must(node.SetSysctl("net.ipv4.conf.all."+key, map[string]string{"arp_ignore": "1", "arp_announce": "2"}[key]))
		}
		plug(node, "eth0", fmt.Sprintf("10.0.0.1%d/24 2001:db8::1%d/64", i, i))
		for _, address := range serviceAddresses {
			w.must(node.AddAddress("lo", address))
		}
		route(node, "0.0.0.0/0", "10.0.0.1")
		route(node, "::/0", "2001:db8::1")
		w.backends = append(w.backends, node)
	}
	for _, box := range []struct {
		node   *testnet.Node
		v4, v6 string
	}{{w.box, "10.0.101.1", "2001:db8:101::1"}, {twin.box, "10.0.102.1", "2001:db8:102::1"}} {
		for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			w.must(box.node.SetSysctl(key, "1"))
		}
		route(box.node, "0.0.0.0/0", box.v4)
		route(box.node, "::/0", box.v6)
	}
	route(w.client, "0.0.0.0/0", "198.51.100.1")
	route(w.client, "::/0", "2001:db8:c::1")
	for _, r := range twinRoutes {
		_, err := router.Output(w.Context(), "ip", "route", "add", r.to, "nexthop", "via", r.box, "nexthop", "via", r.twin)
		w.must(err)
	}
	return router
}

// flowsOf is how many flows each service has ever had.
func (w *world) flowsOf() map[string]uint64 {
	w.Helper()
	list, err := w.api.Services(w.Context())
	w.must(err)
	flows := make(map[string]uint64)
	for _, s := range list {
		flows[s.Name] = s.Flows
	}
	return flows
}

// conversation is a connection that is kept open, with a request every few milliseconds.
type conversation struct {
	backend string
	conn    net.Conn
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	answers int
	err     error
}

// converse begins one, with whatever backend answers first.
func (w *world) converse(address string) (*conversation, error) {
	ctx, cancel := context.WithCancel(w.Context())
	conn, err := w.client.Dial(ctx, "tcp", address)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &conversation{conn: conn, cancel: cancel}
	w.Cleanup(func() { _ = c.stop() })
	reader := bufio.NewReader(conn)
	if c.backend, err = c.ask(reader); err != nil {
		return c, err
	}
	c.running.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			name, err := c.ask(reader)
			if ctx.Err() != nil {
				return
			}
			if err == nil && name != c.backend {
				err = errors.New(name + " answered")
			}
			c.mu.Lock()
			c.answers++
			c.err = err
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return c, nil
}

// ask sends a request and returns the name of the backend that answers.
func (c *conversation) ask(reader *bufio.Reader) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c.conn, "GET /name HTTP/1.1\r\nHost: gardu\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	name, err := io.ReadAll(io.LimitReader(response.Body, 64))
	return string(name), err
}

// stop ends it, and says why it ended before, if it did.
func (c *conversation) stop() error {
	c.cancel()
	c.conn.Close()
	c.running.Wait()
	return c.err
}

// count is how many answers came, and what went wrong.
func (c *conversation) count() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers, c.err
}

// allAnswer waits for ten more answers on each; what has failed is told when it is stopped.
func allAnswer(all []*conversation) func() error {
	before := make([]int, len(all))
	for i, c := range all {
		before[i], _ = c.count()
	}
	return func() error {
		for i, c := range all {
			if answers, err := c.count(); err == nil && answers < before[i]+10 {
				return fmt.Errorf("%s got %d answers", c.conn.LocalAddr(), answers-before[i])
			}
		}
		return nil
	}
}
