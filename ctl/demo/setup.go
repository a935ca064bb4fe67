package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"gardu/configs"
	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// patience is how long a step waits for what should happen within a second or two, but takes longer on an emulated machine.
const patience = 2 * time.Minute

// innerMTU leaves room for the outer header between gardu and the backends, in bytes.
const innerMTU = 1600

// services are the addresses of configs/examples/demo.yaml.
var services = []struct{ name, address, forward string }{
	{"web", "192.0.2.10", "ipip"},
	{"web6", "2001:db8:10::10", "dsr"},
}

// setUp builds the network and starts everything in it.
func (d *demo) setUp(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to make network namespaces and load BPF programs: run it with sudo")
	}
	for _, build := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"a network of six namespaces", d.connect},
		{"three backends, a web server each, and `gardu decap` to unwrap what the balancer sends", d.startBackends},
		{"the daemon: gardu run -c demo.yaml", d.startGardu},
	} {
		d.say("starting %s", build.what)
		if err := build.do(ctx); err != nil {
			return err
		}
	}
	status, err := d.api.Status(ctx)
	if err != nil {
		return err
	}
	d.sayPaths(status.Interfaces)
	return nil
}

// connect makes the namespaces and links.
func (d *demo) connect(context.Context) error {
	var err error
	if d.network, err = testnet.New(name); err != nil {
		if errors.Is(err, testnet.ErrBusy) {
			return errors.New("another demo is running on this machine")
		}
		return err
	}
	if err := errors.Join(os.RemoveAll(bpffs), os.RemoveAll(directory), os.Mkdir(directory, 0o755)); err != nil {
		return err
	}
	for node, at := range map[string]**testnet.Node{"client": &d.client, "hostile": &d.hostile, "gardu": &d.box} {
		if *at, err = d.network.Node(node); err != nil {
			return err
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := d.box.SetSysctl(key, "1"); err != nil {
			return err
		}
	}
	clients := []struct {
		node        *testnet.Node
		port        string
		own, router []netip.Prefix
	}{
		{d.client, "client0", prefixes("198.51.100.10/24", "2001:db8:c::10/64"), prefixes("198.51.100.1/24", "2001:db8:c::1/64")},
		{d.hostile, "hostile0", prefixes("203.0.113.66/24", "203.0.113.200/24"), prefixes("203.0.113.1/24")},
	}
	for _, c := range clients {
		if err := d.link(c.node, "eth0", c.own, c.port, c.router, 0); err != nil {
			return err
		}
	}
	for i := 1; i <= 3; i++ {
		node, err := d.network.Node(fmt.Sprintf("b%d", i))
		if err != nil {
			return err
		}
		own := prefixes(fmt.Sprintf("10.0.%d.11/24", i), fmt.Sprintf("2001:db8:%d::11/64", i))
		router := prefixes(fmt.Sprintf("10.0.%d.1/24", i), fmt.Sprintf("2001:db8:%d::1/64", i))
		if err := d.link(node, "eth0", own, node.Name(), router, innerMTU); err != nil {
			return err
		}
		for _, s := range services {
			addr := netip.MustParseAddr(s.address)
			if err := node.AddAddress("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
				return err
			}
		}
		d.backends = append(d.backends, &backend{node: node, address: own[0].Addr()})
	}
	return nil
}

// link connects a node to the box, which is its router.
func (d *demo) link(node *testnet.Node, ifname string, own []netip.Prefix, port string, router []netip.Prefix, mtu int) error {
	err := d.network.Connect(
		testnet.End{Node: node, Name: ifname, Addresses: own},
		testnet.End{Node: d.box, Name: port, Addresses: router}, mtu)
	if err != nil {
		return err
	}
	for _, r := range router {
		if err := node.AddRoute(netip.PrefixFrom(anyOf(r.Addr()), 0), r.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func anyOf(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func (d *demo) startBackends(context.Context) error {
	for _, b := range d.backends {
		if err := b.start(); err != nil {
			return err
		}
		if err := d.decap(b.node); err != nil {
			return fmt.Errorf("start `gardu decap` on %s: %w", b.node.Name(), err)
		}
	}
	return nil
}

// decap starts `gardu decap` and waits until it says that it is attached.
func (d *demo) decap(node *testnet.Node) error {
	cmd := exec.Command(d.binary, "decap", "-i", "eth0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var failure bytes.Buffer
	cmd.Stderr = &failure
	process, err := node.Start(cmd)
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		process.Kill()
		return errors.New(strings.TrimSpace(failure.String()))
	}
	return nil
}

// startGardu starts the daemon and waits until it knows that all backends are up.
func (d *demo) startGardu(ctx context.Context) error {
	if err := os.WriteFile(configPath, configs.Demo, 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	d.log = log
	d.api = client.New(socketPath)
	if err := d.runDaemon(); err != nil {
		return err
	}
	return d.until(ctx, "all backends up", func() (bool, error) { return d.backendsUp(ctx, len(d.backends)) })
}

func (d *demo) runDaemon() error {
	cmd := exec.Command(d.binary, "run", "-c", configPath, "--socket", socketPath, "--bpffs", bpffs, "--state", statePath)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	var err error
	d.daemon, err = d.box.Start(cmd)
	return err
}

// backendsUp says whether exactly so many backends of each service are up and reachable.
func (d *demo) backendsUp(ctx context.Context, want int) (bool, error) {
	list, err := d.api.Backends(ctx)
	if err != nil {
		return false, err
	}
	up, why := make(map[string]int), make(map[string]string)
	for _, b := range list {
		if b.State == "up" && b.NextHop != "" {
			up[b.Service]++
		} else {
			why[b.Service] = fmt.Sprintf("%s is %s, next hop %q: %s", b.Name, b.State, b.NextHop, b.Why)
		}
	}
	for _, s := range services {
		if up[s.name] != want {
			return false, fmt.Errorf("%s: %d of %d backends are up; %s", s.name, up[s.name], len(d.backends), why[s.name])
		}
	}
	return true, nil
}

// until waits for a condition; its last error says why it doesn't hold yet.
func (d *demo) until(ctx context.Context, what string, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		asked := time.Now()
		done, err := condition()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		case <-d.daemon.Done():
			return fmt.Errorf("%s: the daemon ended: %w", what, d.daemon.Wait())
		case <-time.After(max(spacing, 4*time.Since(asked))): // asking must not slow down what is waited for
		}
	}
}

// logTail returns the end of the daemon's log.
func (d *demo) logTail() string {
	text, err := os.ReadFile(logPath)
	if err != nil {
		return ""
	}
	lines := strings.SplitAfter(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "")
}
