package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"gardu/ctl/api"
	"gardu/ctl/testnet"
)

const (
	exportRate   = 17_000 // new flows a second, which is 1M a minute
	exportIdle   = 5 * time.Second
	exportBefore = exportIdle + 3*time.Second // until as many flows are reported as begin
	exportFor    = 12 * time.Second           // is measured
	exportTick   = 10 * time.Millisecond      // between bursts
	collectorAt  = "127.0.0.1:4739"
)

// exported is what the daemon took while it exported a million flows a minute, and what arrived.
type exported struct {
	memory   float64 // MiB, the most there was
	cpu      float64 // percent of a core
	reported float64 // percent of the packets sent
	arrived  float64 // percent of the packets reported, of the one place where the fewest are
}

// exporting are rows about exports of a million new flows a minute, each a packet and its answer, from ever other clients.
func exporting() []task {
	var once sync.Once
	var got exported
	var failed error
	row := func(name, about, unit string, value func() float64) task {
		return task{name: name, about: about, unit: unit, once: true, slow: true, sample: func(m *manager) (float64, error) {
			once.Do(func() { got, failed = m.export() })
			return value(), failed
		}}
	}
	return []task{
		row("memory, 1M flows a minute", "resident less maps, the most there was while they went to nfcapd by IPFIX, to a file and into the history", "MiB",
			func() float64 { return got.memory }),
		row("CPU, 1M flows a minute", "of a core, likewise", "%", func() float64 { return got.cpu }),
		row("reported, 1M flows a minute", "packets, of those sent; the rest lost its record before, for there were too many flows", "%",
			func() float64 { return got.reported }),
		row("arrived, 1M flows a minute", "packets that nfdump, the file and the history know of, of those reported; the least of the three", "%",
			func() float64 { return got.arrived }),
	}
}

func (m *manager) export() (got exported, err error) {
	if err := m.stop(); err != nil {
		return got, err
	}
	flows := int((exportBefore + exportFor).Seconds() * exportRate)
	sender, err := m.flood(flows)
	if err != nil {
		return got, err
	}
	defer sender.close()
	collector, err := m.collect()
	if err != nil {
		return got, err
	}
	defer collector.Stop(patience)
	_, err = m.start(fmt.Sprintf("interfaces: {client0: {path: xdp}}\nflows: {max: 1000000, idle: %s, export: [{ipfix: %q}, {file: %s}], history: {dir: %s}}\n",
		exportIdle, collectorAt, m.path("flows.ndjson"), m.path("flows")))
	if err != nil {
		return got, err
	}
	sent := make(chan error, 1)
	go func() { sent <- m.client.Do(sender.pace) }()
	time.Sleep(exportBefore)
	if err := m.forgetPeak(); err != nil {
		return got, errors.Join(err, <-sent)
	}
	if got.cpu, err = m.idle(exportFor); err != nil {
		return got, errors.Join(err, <-sent)
	}
	if err := <-sent; err != nil {
		return got, err
	}
	if got.memory, err = m.memory("VmHWM"); err != nil {
		return got, err
	}
	packets, err := m.reported()
	if err != nil {
		return got, err
	}
	got.reported = 100 * float64(packets) / float64(2*flows)
	for _, count := range []func() (uint64, error){
		func() (uint64, error) { return m.collected(collector) }, m.inFile, m.inHistory,
	} {
		there, err := count()
		if err != nil {
			return got, err
		}
		if share := 100 * float64(there) / float64(packets); got.arrived == 0 || share < got.arrived {
			got.arrived = share
		}
	}
	return got, m.stop()
}

// reported waits until all packets are reported and taken, and counts them.
func (m *manager) reported() (packets uint64, err error) {
	err = m.until("all is reported", func(ctx context.Context) error {
		status, err := m.api.Status(ctx)
		if err != nil {
			return err
		}
		reports := status.Flows.Reports
		if reports == nil || reports.Pending > 0 {
			return fmt.Errorf("not all flows are: %+v", reports)
		}
		for _, sink := range status.Sinks {
			if sink.Waiting > 0 {
				return fmt.Errorf("%d wait for %s", sink.Waiting, sink.Name)
			}
		}
		packets = reports.Packets
		return nil
	})
	return packets, err
}

// flood is a generator that paces itself.
type flood struct {
	*generator
	flows int
}

// flood sends from the client's interface.
func (m *manager) flood(flows int) (flood, error) {
	index, err := interfaceIndex(m.client, "eth0")
	if err != nil {
		return flood{}, err
	}
	tuples := make([]tuple, 0, 2*flows)
	for _, t := range everNew(flows)() {
		tuples = append(tuples, t, tuple{src: t.dst, dst: t.src, sport: t.dport, dport: t.sport})
	}
	g, err := newGenerator(tuples, options{programs: []string{benchProgSend}, sendTo: index})
	if err != nil {
		return flood{}, err
	}
	if err := g.put(g.own[benchProgSend]); err != nil {
		return flood{}, errors.Join(err, g.close())
	}
	return flood{g, flows}, nil
}

// pace sends each flow once.
func (f flood) pace() error {
	begin := time.Now()
	for sent := 0; sent < f.flows; time.Sleep(exportTick) {
		due := min(f.flows, int(time.Since(begin).Seconds()*exportRate))
		if due == sent {
			continue
		}
		options := &ebpf.RunOptions{Data: f.frame, Repeat: uint32(2 * (due - sent)), Flags: liveFrames, BatchSize: liveBatch}
		if _, err := f.entry.Run(options); err != nil {
			return fmt.Errorf("send live frames: %w", err)
		}
		sent = due
	}
	return nil
}

// collect runs nfdump's collector on the box, with a longer queue than a socket has by itself, as for any busy site.
func (m *manager) collect() (*testnet.Process, error) {
	if err := os.Mkdir(m.path("nfcapd"), 0o700); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(collectorAt, ":")
	return m.box.Start(exec.Command("nfcapd", "-b", host, "-p", port, "-w", m.path("nfcapd"), "-t", "3600", "-B", "4000000"))
}

// collected ends the collector, and counts the packets that it knows of.
func (m *manager) collected(collector *testnet.Process) (uint64, error) {
	if err := collector.Stop(patience); err != nil {
		return 0, err
	}
	out, err := exec.Command("nfdump", "-R", m.path("nfcapd"), "-N", "-q", "-o", "fmt:%ipkt %opkt").Output()
	if err != nil {
		return 0, fmt.Errorf("nfdump: %w", err)
	}
	var sum uint64
	for field := range strings.FieldsSeq(string(out)) {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("nfdump: %w", err)
		}
		sum += n
	}
	return sum, nil
}

// inFile counts the packets of the lines in the file, and in those that were put aside.
func (m *manager) inFile() (sum uint64, err error) {
	paths, err := filepath.Glob(m.path("flows*.ndjson"))
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		var report struct {
			Packets uint64 `json:"packets"`
			Reply   uint64 `json:"packets_reply"`
		}
		for lines := json.NewDecoder(file); ; sum += report.Packets + report.Reply {
			report.Reply = 0
			if err := lines.Decode(&report); err == io.EOF {
				break
			} else if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return sum, nil
}

// inHistory asks for all packets of the last hour.
func (m *manager) inHistory() (sum uint64, err error) {
	answer, err := m.api.History(context.Background(), api.HistoryQuery{Since: time.Now().Add(-time.Hour), Group: "proto"})
	for _, group := range answer.Groups {
		sum += group.Packets + group.PacketsReply
	}
	return sum, err
}
