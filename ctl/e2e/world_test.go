package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// innerMTU leaves room for an outer IPv6 header between the box and the backends.
const innerMTU = 1600

// world is a client, a box with gardu, and backends:
//
//	client eth0 198.51.100.10 --- client0 box b1 --- eth0 10.0.1.11 b1
//	            2001:db8:c::10            b2 --- eth0 10.0.2.11 b2
//
// The box routes between them. Backends hold all service addresses and answer through the box.
type world struct {
	*testing.T
	network     *testnet.Net
	client, box *testnet.Node
	backends    []*testnet.Node
	dir         string // configuration, state, socket, log
	bpffs       string
	api         *client.Client
	daemon      *testnet.Process
	listen      string // where the API is served by TCP; "": nowhere
	innerMTU    int    // between the box and the backends
}

// serviceAddresses are on the loopback of every backend.
var serviceAddresses = addresses("192.0.2.10/32", "192.0.2.11/32", "192.0.2.12/32", "192.0.2.13/32", "192.0.2.14/32",
	"2001:db8:10::10/128", "2001:db8:10::11/128", "2001:db8:10::12/128", "2001:db8:10::13/128", "2001:db8:10::14/128")

func addresses(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func newWorld(t *testing.T, backends int) *world {
	t.Helper()
	w := newBoxAlone(t)
	w.connectClient()
	for i := 1; i <= backends; i++ {
		w.addBackend(i)
	}
	return w
}

// newBoxAlone is a world whose client and box aren't connected yet, without backends.
func newBoxAlone(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads BPF programs")
	}
	w := &world{T: t, innerMTU: innerMTU}
	var err error
	if w.network, err = testnet.New("gardu-e2e-*"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.network.Close(); err != nil {
			t.Error(err)
		}
	})
	// Short, for the socket's path.
	if w.dir, err = os.MkdirTemp("", "gardu-e2e-*"); err != nil {
		t.Fatal(err)
	}
	w.bpffs = "/sys/fs/bpf/gardu-test-" + strings.TrimPrefix(filepath.Base(w.dir), "gardu-e2e-")
	w.api = client.New(w.path("gardu.sock"))
	t.Cleanup(w.cleanUp)

	w.client, w.box = w.node("client"), w.node("box")
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		w.must(w.box.SetSysctl(key, "1"))
	}
	return w
}

// connectClient makes the link between client and box.
func (w *world) connectClient() {
	w.Helper()
	w.must(w.network.Connect(
		testnet.End{Node: w.client, Name: "eth0", Addresses: addresses("198.51.100.10/24", "198.51.100.11/24", "198.51.100.12/24", "198.51.100.13/24", "2001:db8:c::10/64")},
		testnet.End{Node: w.box, Name: "client0", Addresses: addresses("198.51.100.1/24", "2001:db8:c::1/64")}, 0))
	w.must(w.client.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	w.must(w.client.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr("2001:db8:c::1")))
}

func (w *world) addBackend(i int) {
	w.Helper()
	node := w.node(fmt.Sprintf("b%d", i))
	w.must(w.network.Connect(
		testnet.End{Node: node, Name: "eth0", Addresses: addresses(fmt.Sprintf("10.0.%d.11/24", i), fmt.Sprintf("2001:db8:%d::11/64", i))},
		testnet.End{Node: w.box, Name: node.Name(), Addresses: addresses(fmt.Sprintf("10.0.%d.1/24", i), fmt.Sprintf("2001:db8:%d::1/64", i))}, w.innerMTU))
	w.must(node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", i))))
	w.must(node.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::1", i))))
	for _, address := range serviceAddresses {
		w.must(node.AddAddress("lo", address))
	}
	w.backends = append(w.backends, node)
}

func (w *world) node(name string) *testnet.Node {
	w.Helper()
	node, err := w.network.Node(name)
	w.must(err)
	return node
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// cleanUp shows the daemon's log of a test that failed.
func (w *world) cleanUp() {
	if w.daemon != nil {
		_ = w.daemon.Stop(patience) // how it ends is what other tests look at
	}
	w.api.Close()
	if log, err := os.ReadFile(w.path("gardu.log")); err == nil && w.Failed() {
		w.Logf("the daemon's log:\n%s", log)
	}
	for _, dir := range []string{w.bpffs, w.dir} {
		if err := os.RemoveAll(dir); err != nil {
			w.Error(err)
		}
	}
}

// start runs the daemon with a configuration and waits until it answers.
func (w *world) start(config string, flags ...string) {
	w.Helper()
	w.must(os.WriteFile(w.path("gardu.yaml"), []byte(config+w.apiConfig()), 0o644))
	log, err := os.OpenFile(w.path("gardu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer log.Close()
	args := append([]string{"run", "-c", w.path("gardu.yaml"), "--socket", w.path("gardu.sock"), "--bpffs", w.bpffs, "--state", w.path("state")}, flags...)
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	w.daemon, err = w.box.Start(cmd)
	w.must(err)
	w.until("the daemon answers", func() error {
		_, err := w.api.Status(w.Context())
		return err
	})
}

func (w *world) apiConfig() string {
	listen := ""
	if w.listen != "" {
		listen = ", listen: " + w.listen
	}
	return fmt.Sprintf("\napi: {socket: %s%s}\n", w.path("gardu.sock"), listen)
}

// apply replaces the snapshot.
func (w *world) apply(config string) {
	w.Helper()
	_, err := w.api.Apply(w.Context(), api.ApplyRequest{Name: "e2e.yaml", YAML: config + w.apiConfig()})
	w.must(err)
}

// gardu runs a command to its end.
func (w *world) gardu(args ...string) (string, error) {
	out, err := w.box.Output(w.Context(), binary, append([]string{"--socket", w.path("gardu.sock")}, args...)...)
	return string(out), err
}

// until waits for a condition; its last error says why it doesn't hold yet.
func (w *world) until(what string, condition func() error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	var ended <-chan struct{}
	if w.daemon != nil {
		ended = w.daemon.Done()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-ended:
			w.Fatalf("%s: the daemon ended: %v", what, w.daemon.Wait())
		case <-tick.C:
		}
	}
}

// ready waits until every backend of every service is up and its next hop known.
func (w *world) ready() {
	w.Helper()
	w.until("backends ready", func() error {
		list, err := w.api.Backends(w.Context())
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("there are none")
		}
		for _, b := range list {
			if b.State != "up" || b.NextHop == "" {
				return fmt.Errorf("%s/%s is %s (%s), next hop %q", b.Service, b.Name, b.State, b.Why, b.NextHop)
			}
		}
		return nil
	})
}

// decap makes the backends unwrap, and waits until each has said so.
func (w *world) decap() { w.decapOn("eth0") }

func (w *world) decapOn(ifname string) {
	w.Helper()
	for _, node := range w.backends {
		log, err := os.Create(w.path(node.Name() + ".decap"))
		w.must(err)
		cmd := exec.Command(binary, "decap", "-i", ifname)
		cmd.Stdout, cmd.Stderr = log, log
		_, err = node.Start(cmd)
		log.Close()
		w.must(err)
		w.until("decap on "+node.Name(), func() error {
			text, err := os.ReadFile(log.Name())
			if err == nil && len(text) == 0 {
				err = errors.New("it has said nothing")
			}
			return err
		})
	}
}

// forwarded is how many packets went to backends.
func (w *world) forwarded() uint64 {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status.Reasons["forward"].Packets
}

// answers says whether a service address gives a web page, within two seconds.
func (w *world) answers(address string) error {
	_, err := w.client.Output(w.Context(), "curl", "-sS", "--fail", "--max-time", "2", "http://"+address+"/name")
	return err
}
