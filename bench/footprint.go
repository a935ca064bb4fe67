package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	settled   = 20 * time.Second // after a change: what it took is given back by then
	idleFor   = 10 * time.Second // is measured
	userTicks = 100              // a second, in /proc (USER_HZ)
)

// ordinary is what many will have: some lists, rules and services with checks, flows.
const ordinary = `interfaces: {client0: {path: auto}, b1: {path: auto}, b2: {path: auto}}
sets:
  office: {entries: [203.0.113.0/24, "2001:db8:1::/48"]}
  web-ports: {ports: [80, 443, 8000-8099]}
filter:
  allow: "@office"
  rules:
    - {name: ssh, match: {proto: tcp, dport: 22}, action: drop, log: 1/100}
    - {name: dns-flood, match: {proto: udp, sport: 53}, limit: {rate: 10000/s, burst: 20000, per: src/24}, action: drop}
    - {name: admin, match: {proto: tcp, dport: "@web-ports", src: 198.51.100.64/26}, action: reject}
    - {name: idea, shadow: true, match: {tcp-flags: syn, length: 0-59}, action: drop}
services:
  web: &web
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: ipip
    health: {tcp: true, every: 2s, timeout: 1s}
    backends: [{name: b1, address: 10.0.1.11}, {name: b2, address: 10.0.2.11}]
  web2: {<<: *web, address: 192.0.2.11}
flows: {max: 1000000}
`

// heavy is a list of 1M and 10,000 rules.
func heavy() string {
	return strings.Replace(twoFields(10_000).yaml(), "rules:\n", "rules:\n    - {name: listed, match: {src: \"@listed\"}, action: drop}\n", 1) +
		"interfaces: {client0: {path: auto}}\nsets: {listed: {file: list1M}}\nflows: {max: 1000000}\n"
}

// footprint are rows about what the daemon takes to start, and while nothing happens.
func footprint() []task {
	begin := func(config func() string) func(*manager) (float64, error) {
		return func(m *manager) (float64, error) {
			if err := m.stop(); err != nil {
				return 0, err
			}
			took, err := m.start(config())
			return ms(took), err
		}
	}
	quiet := func(m *manager) (float64, error) {
		time.Sleep(settled)
		return m.idle(idleFor)
	}
	return []task{
		{name: "start, ordinary", about: "from exec to an answer of the API: 4 rules, 2 sets, 2 services with checks, a table for 1M flows (the LRU map behind it is made while the daemon serves)", unit: "ms",
			sample: begin(func() string { return ordinary })},
		{name: "idle CPU, ordinary", about: "of a core, with no packets but those of checks", unit: "%", once: true, slow: true, sample: quiet},
		{name: "start, heavy", about: "from exec to an answer of the API: a list of 1M, 10,000 rules, a table for 1M flows", unit: "ms", sample: begin(heavy)},
		{name: "memory at the start, heavy", about: "resident less maps, the most there was", unit: "MiB", once: true, sample: func(m *manager) (float64, error) { return m.memory("VmHWM") }},
		{name: "idle CPU, heavy", about: "of a core, with no packets", unit: "%", once: true, slow: true, sample: quiet},
		{name: "memory, heavy", about: "resident less maps, when it is idle", unit: "MiB", once: true, slow: true, sample: func(m *manager) (float64, error) { return m.memory("VmRSS") }},
		{name: "memory while loading, heavy", about: "resident less maps, the most there was while the same was read again", unit: "MiB", once: true, sample: (*manager).loading},
	}
}

// memory is a line of the daemon's /proc/PID/status, less what it looks into of the kernel's maps, whose memory has a row of its own.
func (m *manager) memory(name string) (float64, error) {
	var maps float64
	inMap := false
	for l := range strings.Lines(text(fmt.Sprintf("/proc/%d/smaps", m.daemon.Pid()))) {
		switch fields := strings.Fields(l); {
		case len(fields) > 1 && strings.Contains(fields[0], "-"):
			inMap = strings.Contains(l, "bpf-map")
		case inMap && len(fields) > 1 && fields[0] == "Rss:":
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return 0, err
			}
			maps += kib / 1024
		}
	}
	for l := range strings.Lines(text(fmt.Sprintf("/proc/%d/status", m.daemon.Pid()))) {
		if fields := strings.Fields(l); len(fields) > 1 && fields[0] == name+":" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib/1024 - maps, err
		}
	}
	return 0, errors.New("the kernel doesn't say")
}

// loading is the most memory that an apply takes of a daemon that has the same already.
func (m *manager) loading() (float64, error) {
	if err := m.forgetPeak(); err != nil {
		return 0, err
	}
	if _, err := m.apply(strings.Replace(heavy(), "name: rule-0,", "name: another,", 1)); err != nil {
		return 0, err
	}
	return m.memory("VmHWM")
}

// forgetPeak begins anew what VmHWM is the most of.
func (m *manager) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.daemon.Pid()), []byte("5"), 0)
}

// idle is the CPU time that the daemon takes, in percent of a core.
func (m *manager) idle(span time.Duration) (float64, error) {
	begin, before := time.Now(), m.ticks()
	time.Sleep(span)
	after := m.ticks()
	if before == 0 || after < before {
		return 0, errors.New("the kernel doesn't say")
	}
	return float64(after-before) / userTicks / time.Since(begin).Seconds() * 100, nil
}

// ticks are the CPU time of the daemon.
func (m *manager) ticks() (sum uint64) {
	_, fields, _ := strings.Cut(text(fmt.Sprintf("/proc/%d/stat", m.daemon.Pid())), ") ")
	for i, field := range strings.Fields(fields) {
		if i == 11 || i == 12 { // utime, stime
			n, _ := strconv.ParseUint(field, 10, 64)
			sum += n
		}
	}
	return sum
}
