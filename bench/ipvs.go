package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"gardu/ctl/testnet"
)

// hasIPVS says whether this kernel balances by itself. Where tests run it mostly doesn't: `make bench-vm` boots one that does.
func hasIPVS() bool {
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil
}

// ipvsModes are IPVS's ways to a server, as ipvsadm calls them, and gardu's that do the same.
var ipvsModes = []struct{ name, flag, of string }{
	{"IPVS, direct routing", "-g", "gardu dsr"},
	{"IPVS, tunnelling", "-i", "gardu ipip"},
}

// ipvsService has a node balance TCP to an address of its own by IPVS, over source address and, with ports, port.
func ipvsService(node *testnet.Node, at netip.AddrPort, ports bool, flag string, backends ...netip.Addr) error {
	add := []string{"-A", "-t", at.String(), "-s", "mh"}
	if ports {
		add = append(add, "-b", "mh-port")
	}
	steps := [][]string{add}
	for _, backend := range backends {
		steps = append(steps, []string{"-a", "-t", at.String(), "-r", netip.AddrPortFrom(backend, at.Port()).String(), flag})
	}
	for _, step := range steps {
		if _, err := node.Output(context.Background(), "ipvsadm", step...); err != nil {
			return err
		}
	}
	return nil
}

// ipvsPeers balance what gardu's services balance, in boxes of their own.
func ipvsPeers() (list []*liveCase) {
	if !hasIPVS() {
		return nil
	}
	for _, mode := range ipvsModes {
		about := "scheduler mh; sloppy_tcp: it takes up connections in their middle, as gardu does"
		list = append(list, through(mode.name, about, mode.of, 3, func(l *live, p pair) error {
			return l.apart(p, func() error {
				if err := l.box.AddAddress("lo", netip.PrefixFrom(serviceAddress, 32)); err != nil {
					return err
				}
				if err := l.box.SetSysctl("net.ipv4.vs.sloppy_tcp", "1"); err != nil {
					return err
				}
				var backends []netip.Addr
				for i := range usualFarm.backends {
					backends = append(backends, usualFarm.backend(0, i))
				}
				return ipvsService(l.box, netip.AddrPortFrom(serviceAddress, 443), true, mode.flag, backends...)
			})
		}))
	}
	return list
}

// ipvsSite is the first of the site's services that IPVS balances.
const ipvsSite = 4

// kernelBalances runs IPVS on the box, with a service of each mode, and what unwraps on the backends.
func (s *site) kernelBalances() (stop func() error, err error) {
	unwrapping, err := s.unwrap()
	var added []string
	stop = func() error {
		_, err := s.box.Output(context.Background(), "ipvsadm", "-C")
		for _, address := range added {
			_, gone := s.box.Output(context.Background(), "ip", "address", "delete", address, "dev", "lo")
			err = errors.Join(err, gone)
		}
		unwrapping()
		return err
	}
	if err != nil {
		return stop, err
	}
	// Answers come by this box, which has the service's address, and would be taken for forged.
	if err := s.box.SetSysctl("net.ipv4.conf.all.accept_local", "1"); err != nil {
		return stop, err
	}
	for i, mode := range ipvsModes {
		at := siteService(ipvsSite + i)[four]
		if err := s.box.AddAddress("lo", netip.PrefixFrom(at, 32)); err != nil {
			return stop, err
		}
		added = append(added, at.String()+"/32")
		for _, port := range []uint16{80, 5201} { // both connections of an iperf3 run to one backend
			if err := ipvsService(s.box, netip.AddrPortFrom(at, port), port == 80, mode.flag, onBackendLink(1, 11)[four].Addr(), onBackendLink(2, 11)[four].Addr()); err != nil {
				return stop, err
			}
		}
		if err := s.listens(s.client, netip.AddrPortFrom(at, 80)); err != nil {
			return stop, err
		}
	}
	return stop, nil
}

// again makes the page of what was measured elsewhere: in a virtual machine, which knows no commit.
func again(path, dir string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	r := &result{}
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("read what was measured: %w", err)
	}
	r.Machine.Commit = commit() + "-vm"
	r.Machine.CPU += ", emulated: ratios say something, times don't"
	r.Aims, r.Growth = nil, nil // of a machine that isn't emulated
	return publish(r, dir)
}
