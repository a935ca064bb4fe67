package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/model"
	"gardu/ctl/testnet"
)

// transferRow is real transfers by one way: an iperf3 stream, and wrk's requests to nginx.
type transferRow struct {
	Name     string  `json:"name"`
	About    string  `json:"about"`
	Gbps     figure  `json:"gbps"`
	Requests figure  `json:"requests"`        // a second, on connections that last
	CPU      figure  `json:"cpu_per_request"` // us of all CPUs: client, box and servers
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	New      figure  `json:"new_requests"` // a second, each on a connection of its own
	NewCPU   figure  `json:"cpu_per_new_request"`
	Errors   int     `json:"errors"`
	Failed   string  `json:"failed,omitempty"`
}

// way is how a client reaches the servers.
type way struct {
	name, about string
	address     netip.Addr
	by          balancer

	gbps, requests, cpu, p50, p99, fresh, freshCPU []float64
	errors                                         int
	failed                                         error
}

// balancer is what runs on the box.
type balancer int

const (
	nobody balancer = iota // the kernel of the box routes
	proxy
	garduXDP
	garduTC
	ipvs
)

// siteModes are those of the site's first services, in this order.
var siteModes = []model.Mode{"dsr", "ipip", "gue", "nat"}

func ways() (list []*way) {
	for family, suffix := range [...]string{four: "", six: ", IPv6"} {
		server := onBackendLink(1, 11)[family].Addr()
		list = append(list,
			&way{name: "routed" + suffix, about: "no balancer: to one server, by the kernel of the box", address: server},
			&way{name: "HAProxy" + suffix, about: "mode tcp, on the box", address: onClientLink(1)[family].Addr(), by: proxy})
		for _, at := range []struct {
			by   balancer
			hook string
		}{{garduXDP, ""}, {garduTC, " at tc"}} {
			list = append(list, &way{name: "gardu passes" + at.hook + suffix, about: "to one server, by the kernel of the box; filter and flow accounting", address: server, by: at.by})
			for i, mode := range siteModes {
				list = append(list, &way{name: "gardu " + string(mode) + at.hook + suffix, address: siteService(i)[family], by: at.by})
			}
		}
	}
	if hasIPVS() {
		for i, mode := range ipvsModes {
			list = append(list, &way{name: mode.name, about: "scheduler mh, by the kernel of the box", address: siteService(ipvsSite + i)[four], by: ipvs})
		}
	}
	return list
}

// benchTransfers measures every way once a round. One that fails is left out from then on.
func benchTransfers(s settings, r *result) (err error) {
	site, err := newSite(s.binary, 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.close()) }()
	if err := site.serve(); err != nil {
		return err
	}
	rounds := 3
	if s.quick {
		rounds = 1
	}
	all := slices.DeleteFunc(ways(), func(w *way) bool { return !s.wants(w.name) })
	for round := range rounds {
		for by, start := range [...]func() (stop func() error, err error){
			nobody:   func() (func() error, error) { return nil, nil },
			proxy:    site.proxy,
			garduXDP: func() (func() error, error) { return site.balance(model.PathXDP) },
			garduTC:  func() (func() error, error) { return site.balance(model.PathTC) },
			ipvs:     site.kernelBalances,
		} {
			concerned := func(w *way) bool { return w.by == balancer(by) && w.failed == nil }
			if !slices.ContainsFunc(all, concerned) {
				continue
			}
			stop, failed := start()
			for _, w := range all {
				if !concerned(w) {
					continue
				}
				say("%s, round %d of %d", w.name, round+1, rounds)
				if w.failed = failed; failed == nil {
					w.failed = site.transfer(w)
				}
			}
			if stop != nil {
				if err := stop(); err != nil {
					return err
				}
			}
		}
	}
	for _, w := range all {
		r.Transfers = append(r.Transfers, w.row())
	}
	return nil
}

func (w *way) row() transferRow {
	row := transferRow{Name: w.name, About: w.about, Errors: w.errors}
	for _, part := range []struct {
		samples []float64
		to      *figure
	}{{w.gbps, &row.Gbps}, {w.requests, &row.Requests}, {w.cpu, &row.CPU}, {w.fresh, &row.New}, {w.freshCPU, &row.NewCPU}} {
		if len(part.samples) == 0 {
			row.Failed = cmp.Or(firstLine(w.failed), "nothing was measured")
			return row
		}
		*part.to = figureOf(part.samples)
	}
	row.P50, row.P99 = figureOf(w.p50).Median, figureOf(w.p99).Median
	return row
}

const webConfig = `
daemon off;
master_process off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 80 backlog=4096;
		listen [::]:80 backlog=4096;
		location = /name { return 200 "hello\n"; }
	}
}
`

// serve runs nginx and iperf3 on the backends.
func (s *site) serve() error {
	for _, node := range s.backends {
		dir := s.path(node.Name())
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		conf := dir + "/nginx.conf"
		if err := os.WriteFile(conf, fmt.Appendf(nil, webConfig, dir), 0o644); err != nil {
			return err
		}
		for _, server := range []*exec.Cmd{exec.Command("nginx", "-c", conf, "-p", dir), exec.Command("iperf3", "-s")} {
			if _, err := node.Start(server); err != nil {
				return err
			}
		}
		for _, port := range []uint16{80, 5201} {
			if err := s.listens(node, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *site) listens(node *testnet.Node, at netip.AddrPort) error {
	return s.until("somebody listens at "+at.String(), func(ctx context.Context) error {
		conn, err := node.Dial(ctx, "tcp", at.String())
		if err == nil {
			conn.Close()
		}
		return err
	})
}

const proxyConfig = `
global
	maxconn 4096
	nbthread 1
defaults
	mode tcp
	timeout connect 5s
	timeout client 30s
	timeout server 30s
`

// proxy runs HAProxy on the box.
func (s *site) proxy() (stop func() error, err error) {
	config := proxyConfig
	for family, at := range onClientLink(1) {
		for _, port := range sitePorts {
			config += fmt.Sprintf("listen %d-%d\n\tbind %s\n\tbalance %s\n", family, port.n, netip.AddrPortFrom(at.Addr(), port.n), port.proxy)
			for i, node := range s.backends {
				config += fmt.Sprintf("\tserver %s %s\n", node.Name(), netip.AddrPortFrom(onBackendLink(i+1, 11)[family].Addr(), port.n))
			}
		}
	}
	if err := os.WriteFile(s.path("haproxy.cfg"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	process, err := s.box.Start(exec.Command("haproxy", "-db", "-f", s.path("haproxy.cfg")))
	if err != nil {
		return nil, err
	}
	stop = func() error {
		process.Kill()
		return nil
	}
	return stop, s.listens(s.client, netip.AddrPortFrom(onClientLink(1)[four].Addr(), 80))
}

// sitePorts are those of nginx and iperf3; both connections of an iperf3 run have to go to one backend.
var sitePorts = []struct {
	n               uint16
	affinity, proxy string
}{{80, "flow", "roundrobin"}, {5201, "source", "source"}}

// balance runs gardu on the box, with services of each mode, and what unwraps on the backends.
func (s *site) balance(path model.Path) (stop func() error, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "interfaces: {client0: {path: %[1]s}, b1: {path: %[1]s}, b2: {path: %[1]s}}\nflows: {max: 100000}\nservices:\n", path)
	for i, mode := range siteModes {
		for family, address := range siteService(i) {
			for _, port := range sitePorts {
				fmt.Fprintf(&b, "  %s-%d-%d:\n    address: %q\n    port: %d\n    proto: tcp\n    forward: %s\n    affinity: %s\n    backends:\n",
					mode, family, port.n, address, port.n, mode, port.affinity)
				for k, node := range s.backends {
					fmt.Fprintf(&b, "      - {name: %s, address: %q}\n", node.Name(), onBackendLink(k+1, 11)[family].Addr())
				}
			}
		}
	}
	unwrapping, err := s.unwrap()
	stop = func() error {
		unwrapping()
		return s.stop()
	}
	if err != nil {
		return stop, err
	}
	if _, err := s.start(b.String()); err != nil {
		return stop, err
	}
	if err := s.ready(); err != nil {
		return stop, err
	}
	for i := range siteModes { // decap is at work when tunnels answer
		for _, address := range siteService(i) {
			if err := s.listens(s.client, netip.AddrPortFrom(address, 80)); err != nil {
				return stop, err
			}
		}
	}
	return stop, nil
}

// unwrap strips the tunnels' headers on the backends until stop, which is never nil.
func (s *site) unwrap() (stop func(), err error) {
	var unwrapping []*testnet.Process
	stop = func() {
		for _, process := range unwrapping {
			_ = process.Stop(patience)
		}
	}
	for _, node := range s.backends {
		cmd := exec.Command(s.binary, "decap", "-i", "eth0")
		cmd.Stderr = os.Stderr
		process, err := node.Start(cmd)
		if err != nil {
			return stop, err
		}
		unwrapping = append(unwrapping, process)
	}
	return stop, nil
}

// transfer measures one way once.
func (s *site) transfer(w *way) error {
	const seconds = 1 // each; there are many ways
	out, err := s.client.Output(context.Background(), "iperf3", "-c", w.address.String(), "-t", strconv.Itoa(seconds), "-O", "0.2", "-J")
	if err != nil {
		return fmt.Errorf("iperf3: %w", err)
	}
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("read iperf3's report: %w", err)
	}
	lasting, err := s.wrk(w.address, seconds)
	if err != nil {
		return err
	}
	fresh, err := s.wrk(w.address, seconds, "-H", "Connection: close")
	if err != nil {
		return err
	}
	w.gbps = append(w.gbps, report.End.Received.BitsPerSecond/1e9)
	w.requests, w.cpu = append(w.requests, lasting.rate), append(w.cpu, lasting.cpu)
	w.p50, w.p99 = append(w.p50, lasting.p50), append(w.p99, lasting.p99)
	w.fresh, w.freshCPU = append(w.fresh, fresh.rate), append(w.freshCPU, fresh.cpu)
	w.errors += lasting.errors + fresh.errors
	return nil
}

// requests is what wrk says, and what the machine's CPUs did meanwhile.
type requests struct {
	rate     float64
	cpu      float64 // us a request
	p50, p99 float64 // ms
	errors   int
}

func (s *site) wrk(to netip.Addr, seconds int, more ...string) (requests, error) {
	args := append([]string{"-t", "1", "-c", "32", "-d", strconv.Itoa(seconds) + "s", "--latency"}, more...)
	before, err := busyTime()
	if err != nil {
		return requests{}, err
	}
	out, err := s.client.Output(context.Background(), "wrk", append(args, "http://"+netip.AddrPortFrom(to, 80).String()+"/name")...)
	if err != nil {
		return requests{}, fmt.Errorf("wrk: %w", err)
	}
	after, err := busyTime()
	if err != nil {
		return requests{}, err
	}
	r, total, err := readWrk(string(out))
	if err == nil && total == 0 {
		err = errors.New("wrk got no answer")
	}
	r.cpu = float64((after-before)/time.Microsecond) / float64(max(1, total))
	return r, err
}

// readWrk reads what wrk prints.
func readWrk(out string) (r requests, total int, err error) {
	for l := range strings.Lines(out) {
		fields := strings.Fields(l)
		switch {
		case len(fields) > 2 && fields[1] == "requests" && fields[2] == "in":
			total, err = strconv.Atoi(fields[0])
		case len(fields) == 2 && fields[0] == "Requests/sec:":
			r.rate, err = strconv.ParseFloat(fields[1], 64)
		case len(fields) == 2 && (fields[0] == "50%" || fields[0] == "99%"):
			var d time.Duration
			if d, err = time.ParseDuration(fields[1]); fields[0] == "50%" {
				r.p50 = ms(d)
			} else {
				r.p99 = ms(d)
			}
		case len(fields) > 2 && fields[0] == "Socket" && fields[1] == "errors:":
			for i := 3; i < len(fields); i += 2 { // connect 0, read 0, write 0, timeout 0
				var n int
				n, err = strconv.Atoi(strings.TrimSuffix(fields[i], ","))
				r.errors += n
			}
		case len(fields) > 2 && fields[0] == "Non-2xx":
			var n int
			n, err = strconv.Atoi(fields[len(fields)-1])
			r.errors += n
		}
		if err != nil {
			return r, total, fmt.Errorf("read what wrk says, %q: %w", strings.TrimSpace(l), err)
		}
	}
	return r, total, nil
}

// busyTime is how long all CPUs together were busy since boot.
func busyTime() (time.Duration, error) {
	const ticks = 100 // a second: USER_HZ
	var sum int64
	head, _, _ := strings.Cut(text("/proc/stat"), "\n")
	for i, field := range strings.Fields(head) {
		switch i {
		case 0, 4, 5: // the name, idle, iowait
			continue
		case 8: // steal and guests
			return time.Duration(sum) * time.Second / ticks, nil
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		sum += n
	}
	return 0, errors.New("read /proc/stat: it is short")
}

func transfersPart(b *strings.Builder, rows []transferRow) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n## Real transfers\n\nClient, box and servers are namespaces of this machine. iperf3: one stream. wrk: 32 connections to nginx, which last, or are new for each request.\n")
	b.WriteString("CPU is that of all: client, box and servers; what a way takes more than \"routed\" is the box's. gardu is at XDP where nothing else is said. All ways\n")
	b.WriteString("have what XDP needs of veth: segments no longer than packets, with checksums, which is less than tc could do with.\n\n")
	b.WriteString("| way | Gbit/s | requests/s | CPU us each | p50 ms | p99 ms | new/s | CPU us each | errors | |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, c := range rows {
		if c.Failed != "" {
			fmt.Fprintf(b, "| %s | not measured: %s |\n", c.Name, c.Failed)
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %.0f | %s | %s | %s | %.0f | %s | %d | %s |\n", c.Name, short(c.Gbps.Median), c.Requests.Median, short(c.CPU.Median),
			short(c.P50), short(c.P99), c.New.Median, short(c.NewCPU.Median), c.Errors, c.About)
	}
}
