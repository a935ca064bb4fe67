package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// peerAddresses is how many addresses xdp-filter can hold.
const peerAddresses = 10_000

// xdpFilter is the program of Debian's xdp-tools that checks everything that xdp-filter can, and passes what nothing
// matches. It is loaded from where the package puts it.
func xdpFilter() (*ebpf.Collection, error) {
	found, err := filepath.Glob("/usr/lib/*/bpf/xdpfilt_alw_all.o")
	if err != nil || len(found) == 0 {
		return nil, errors.New("no xdpfilt_alw_all.o: the package xdp-tools is not installed")
	}
	spec, err := ebpf.LoadCollectionSpec(found[0])
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", found[0], err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone // an instance of its own
	}
	delete(spec.Maps, ".xdp_run_config") // for libxdp's dispatcher
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", found[0], err)
	}
	return collection, nil
}

// dropSources does what `xdp-filter ip --mode src ADDRESS` does for each address.
func dropSources(c *ebpf.Collection, addresses []netip.Prefix) error {
	const source = 1 // MAP_FLAG_SRC of its common_kern_user.h
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	value := make([]uint64, cpus)
	for i := range value {
		value[i] = source
	}
	for _, p := range addresses {
		address := p.Addr().As4()
		if err := c.Maps["filter_ipv4"].Put(binary.NativeEndian.Uint32(address[:]), value); err != nil {
			return fmt.Errorf("give xdp-filter address %s: %w", p.Addr(), err)
		}
	}
	return nil
}

// peer loads xdp-filter with the addresses of the case.
func peer(s scenario) (*subject, error) {
	collection, err := xdpFilter()
	if err != nil {
		return nil, err
	}
	release := func() error {
		collection.Close()
		return nil
	}
	if err := dropSources(collection, addresses().prefixes); err != nil {
		return nil, errors.Join(err, release())
	}
	g, err := newGenerator(s.tuples(), options{noFrags: true})
	if err != nil {
		return nil, errors.Join(err, release())
	}
	counted := func() (tally, error) { return filtered(collection) }
	subject := &subject{scenario: s, generator: g, counted: counted, release: release}
	return subject, g.put(collection.Programs["xdpfilt_alw_all"])
}

// filtered is how many packets xdp-filter has dropped and passed, by its own count.
func filtered(c *ebpf.Collection) (tally, error) {
	var t tally
	for _, action := range []uint32{xdpDrop, xdpPass} {
		var records []struct{ Packets, Bytes uint64 }
		if err := c.Maps["xdp_stats_map"].Lookup(action, &records); err != nil {
			return t, fmt.Errorf("read the counters of xdp-filter: %w", err)
		}
		for _, r := range records {
			t.packets += r.Packets
			if action == xdpDrop {
				t.dropped += r.Packets
			}
		}
	}
	return t, nil
}
