package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	checkedBackends = 1000
	checkingFor     = 10 * time.Second // is measured
)

// checking are rows about 1,000 backends that are checked every second by a daemon that has one core, half by TCP and half by HTTP.
func checking() (list []task) {
	for _, via := range []struct{ name, about string }{
		{"service", "by the way of packets: to the address of the service, by a tunnel to each"}, {"backend", "at addresses of their own"},
	} {
		var percent float64 // of a core
		list = append(list,
			task{name: "checks made, via " + via.name, about: "1,000 backends each second " + via.about + "; those that the backend's servers saw, of those due, less those that failed", unit: "%",
				once: true, slow: true, sample: func(m *manager) (made float64, err error) {
					made, percent, err = m.check(via.name)
					return made, err
				}},
			task{name: "CPU of checks, via " + via.name, about: "of a core, meanwhile: of the daemon, and of the kernel on both ends of the connections", unit: "%",
				once: true, slow: true, sample: func(*manager) (float64, error) {
					if percent == 0 {
						return 0, errors.New("no checks were made")
					}
					return percent, nil
				}})
	}
	return list
}

// check has a daemon on one core check its backends, and returns how many of the checks that were due were made, and the CPU that they took.
func (m *manager) check(via string) (made, percent float64, err error) {
	if err := m.stop(); err != nil {
		return 0, 0, err
	}
	// All backends are one node, behind the route that oneService has: it takes what is for any of them.
	node := m.backends[0]
	if _, err := node.Output(context.Background(), "ip", "route", "replace", "local", "10.1.0.0/16", "dev", "lo"); err != nil {
		return 0, 0, err
	}
	listener, err := node.Listen("tcp", ":80")
	if err != nil {
		return 0, 0, err
	}
	var seen atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			seen.Add(1)
		}
	}}
	go server.Serve(listener)
	defer server.Close()
	unwrapping, err := m.unwrap()
	defer unwrapping()
	if err != nil {
		return 0, 0, err
	}
	m.oneCore = true
	defer func() { m.oneCore = false }()
	if _, err := m.start(checked(via)); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	if err := m.ready(); err != nil {
		return 0, 0, err
	}
	begin, checks, before := time.Now(), seen.Load(), m.ran()
	time.Sleep(checkingFor)
	checks, took, span := seen.Load()-checks, m.ran()-before, time.Since(begin)
	backends, err := m.api.Backends(context.Background())
	if err != nil {
		return 0, 0, err
	}
	for _, b := range backends {
		if b.State != "up" || b.Since.After(begin) {
			checks--
		}
	}
	return 100 * float64(checks) / (checkedBackends * span.Seconds()), 100 * took.Seconds() / span.Seconds(), nil
}

// checked are two services with half of the backends each.
func checked(via string) string {
	var b strings.Builder
	b.WriteString("interfaces: {client0: {path: tc}, b1: {path: tc}}\nfilter: {default: drop}\nservices:\n")
	for i, how := range []string{"tcp: true", "http: /"} {
		fmt.Fprintf(&b, "  s%d:\n    address: %s\n    port: 80\n    proto: tcp\n    forward: ipip\n    health: {%s, via: %s, every: 1s, timeout: 1s, up: 1, down: 1}\n    backends:\n", i, siteService(i)[four], how, via)
		for k := range checkedBackends / 2 {
			fmt.Fprintf(&b, "      - {name: b%d, address: %s}\n", k, netip.AddrFrom4([4]byte{10, 1, byte(1 + 2*i + k>>8), byte(k)}))
		}
	}
	return b.String()
}

// ran is the time that the daemon's threads ran, with what the kernel did for others in their place.
func (m *manager) ran() (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", m.daemon.Pid()))
	for _, path := range threads {
		first, _, _ := strings.Cut(text(path), " ")
		ns, _ := strconv.ParseInt(first, 10, 64) // 0 of a thread that is gone
		sum += time.Duration(ns)
	}
	return sum
}
