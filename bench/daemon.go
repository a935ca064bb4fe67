package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// patience bounds every wait.
const patience = 2 * time.Minute // an emulated machine is slow

// site is a client, a box on which gardu runs, and backends that hold the service addresses and answer through the box:
//
//	client eth0 198.51.100.10 --- client0 box b1 --- eth0 10.0.1.11 b1
//	            2001:db8:c::10                b2 --- eth0 10.0.2.11 b2, and 2001:db8:1::11, 2001:db8:2::11
type site struct {
	network     *testnet.Net
	client, box *testnet.Node
	backends    []*testnet.Node
	dir, bpffs  string
	binary      string
	api         *client.Client
	daemon      *testnet.Process
	oneCore     bool // that daemons get
}

// siteServices are the addresses that every backend has.
const siteServices = 8

// What is in a site has an address of each family, in this order.
const (
	four = iota
	six
)

func siteService(i int) [2]netip.Addr {
	return [...]netip.Addr{four: usualFarm.address(i), six: usualFarm6.address(i)}
}

// onClientLink and onBackendLink are addresses on the links of the client and of a backend; the box is host 1.
func onClientLink(host int) [2]netip.Prefix {
	return [...]netip.Prefix{four: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/24", host)), six: netip.MustParsePrefix(fmt.Sprintf("2001:db8:c::%d/64", host))}
}

func onBackendLink(backend, host int) [2]netip.Prefix {
	return [...]netip.Prefix{four: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/24", backend, host)), six: netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", backend, host))}
}

func newSite(binary string, backends int) (s *site, err error) {
	s = &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.binary, err = filepath.Abs(binary); err != nil {
		return s, err
	}
	if _, err := os.Stat(s.binary); err != nil {
		return s, fmt.Errorf("find gardu's binary (make build): %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "gardu-bench-*"); err != nil {
		return s, err
	}
	s.bpffs = filepath.Join("/sys/fs/bpf", filepath.Base(s.dir))
	s.api = client.New(s.path("sock"))
	if s.network, err = testnet.New("gardu-bench-*"); err != nil {
		return s, err
	}
	for name, node := range map[string]**testnet.Node{"client": &s.client, "box": &s.box} {
		if *node, err = s.network.Node(name); err != nil {
			return s, err
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := s.box.SetSysctl(key, "1"); err != nil {
			return s, err
		}
	}
	if err := s.connect(s.client, "client0", onClientLink, 10, 0); err != nil {
		return s, err
	}
	for i := range backends {
		node, err := s.network.Node(fmt.Sprintf("b%d", i+1))
		if err != nil {
			return s, err
		}
		s.backends = append(s.backends, node)
		if err := s.connect(node, node.Name(), func(host int) [2]netip.Prefix { return onBackendLink(i+1, host) }, 11, 1600); err != nil {
			return s, err
		}
		for k := range siteServices {
			for _, address := range siteService(k) {
				if err := node.AddAddress("lo", netip.PrefixFrom(address, address.BitLen())); err != nil {
					return s, err
				}
			}
		}
	}
	// The thousand backends of oneService, as if they were behind the first one.
	if err := s.box.AddRoute(netip.MustParsePrefix("10.1.0.0/16"), onBackendLink(1, 11)[four].Addr()); err != nil {
		return s, err
	}
	// What programs forward over veth must have its checksums, and be taken by who polls.
	for _, node := range append(s.backends, s.client) {
		if err := node.SetTxChecksum("eth0", false); err != nil {
			return s, err
		}
		if err := node.SetGRO("eth0", true); err != nil {
			return s, err
		}
	}
	return s, nil
}

// connect joins a node to the box, by which it reaches everybody.
func (s *site) connect(node *testnet.Node, name string, on func(host int) [2]netip.Prefix, host, mtu int) error {
	own, box := on(host), on(1)
	err := s.network.Connect(testnet.End{Node: node, Name: "eth0", Addresses: own[:]}, testnet.End{Node: s.box, Name: name, Addresses: box[:]}, mtu)
	if err != nil {
		return err
	}
	return errors.Join(node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), box[four].Addr()), node.AddRoute(netip.MustParsePrefix("::/0"), box[six].Addr()))
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) close() error {
	var errs []error
	if s.daemon != nil {
		_ = s.daemon.Stop(patience) // how it ends is what tests look at
	}
	if s.api != nil {
		s.api.Close()
	}
	if s.network != nil {
		errs = append(errs, s.network.Close())
	}
	if s.bpffs != "" {
		errs = append(errs, os.RemoveAll(s.bpffs))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (s *site) withAPI(config string) string {
	return fmt.Sprintf("%s\napi: {socket: %s}\n", config, s.path("sock"))
}

// start runs the daemon with a configuration and returns how long it took until it answered.
func (s *site) start(config string) (time.Duration, error) {
	if err := os.WriteFile(s.path("gardu.yaml"), []byte(s.withAPI(config)), 0o600); err != nil {
		return 0, err
	}
	return s.run()
}

// run runs the daemon with the configuration of before.
func (s *site) run() (took time.Duration, err error) {
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	args := []string{s.binary, "run", "-c", s.path("gardu.yaml"), "--socket", s.path("sock"), "--bpffs", s.bpffs, "--state", s.path("state")}
	if s.oneCore {
		args = append([]string{"taskset", "--cpu-list", "0"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	begin := time.Now()
	if s.daemon, err = s.box.Start(cmd); err != nil {
		return 0, err
	}
	err = s.until("the daemon answers", func(ctx context.Context) error {
		_, err := s.api.Status(ctx)
		return err
	})
	return time.Since(begin), err
}

// stop ends the daemon, which takes everything off the interfaces.
func (s *site) stop() error {
	if s.daemon == nil {
		return nil
	}
	err := s.daemon.Stop(patience)
	s.daemon = nil
	return err
}

// apply replaces the snapshot and returns how long that took.
func (s *site) apply(config string) (time.Duration, error) {
	begin := time.Now()
	_, err := s.api.Apply(context.Background(), api.ApplyRequest{Name: "bench.yaml", Dir: s.dir, YAML: s.withAPI(config)})
	return time.Since(begin), err
}

// ready waits until every backend is up and its next hop known.
func (s *site) ready() error {
	return s.until("backends ready", func(ctx context.Context) error {
		list, err := s.api.Backends(ctx)
		if err != nil {
			return err
		}
		for _, b := range list {
			if b.State != "up" || b.NextHop == "" {
				return fmt.Errorf("%s/%s is %s (%s), next hop %q", b.Service, b.Name, b.State, b.Why, b.NextHop)
			}
		}
		return nil
	})
}

// until waits for a condition; its last error says why it doesn't hold yet.
func (s *site) until(what string, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var ended <-chan struct{}
	if s.daemon != nil {
		ended = s.daemon.Done()
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		case <-ended:
			return fmt.Errorf("%s: the daemon ended: %w; its log: %s", what, s.daemon.Wait(), text(s.path("log")))
		case <-tick.C:
		}
	}
}
