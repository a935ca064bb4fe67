package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"gardu/ctl/api"
	"gardu/ctl/flow"
	"gardu/ctl/flow/export/exporttest"
)

// tcpCollector decodes what one exporter sends by TCP.
type tcpCollector struct {
	address string
	mu      sync.Mutex
	decoder *exporttest.Decoder
}

func (w *world) tcpCollector() *tcpCollector {
	w.Helper()
	listener, err := w.box.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	c := &tcpCollector{address: listener.Addr().String(), decoder: exporttest.New(w)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.read(conn)
		}
	}()
	w.Cleanup(func() {
		listener.Close()
		<-done // the daemon has ended, and its connection
	})
	return c
}

func (c *tcpCollector) read(conn net.Conn) {
	defer conn.Close()
	for {
		message := make([]byte, 16)
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		message = append(message, make([]byte, int(binary.BigEndian.Uint16(message[2:]))-16)...)
		if _, err := io.ReadFull(conn, message[16:]); err != nil {
			return
		}
		c.mu.Lock()
		c.decoder.Take(message)
		c.mu.Unlock()
	}
}

// sum is what the collector was told of.
func (c *tcpCollector) sum() (sum flow.Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	const octets, packets = 1, 2
	for _, values := range c.decoder.Flows {
		sum = sum.Plus(flow.Count{Packets: values.Number(packets, false), Bytes: values.Number(octets, false)})
		sum = sum.Plus(flow.Count{Packets: values.Number(packets, true), Bytes: values.Number(octets, true)})
	}
	return sum
}

// exported is a line of a file.
type exported struct {
	Src, Interface, Proto, Rule, End string
	Dport                            uint16
	Packets, Bytes                   uint64
	PacketsReply                     uint64 `json:"packets_reply"`
	BytesReply                       uint64 `json:"bytes_reply"`
}

func (w *world) ndjson(name string) (lines []exported) {
	w.Helper()
	text, err := os.ReadFile(w.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	w.must(err)
	text = text[:bytes.LastIndexByte(text, '\n')+1] // it may be written just now
	for decoder := json.NewDecoder(bytes.NewReader(text)); decoder.More(); {
		var line exported
		w.must(decoder.Decode(&line))
		lines = append(lines, line)
	}
	return lines
}

func sumOf(lines []exported) (sum flow.Count) {
	for _, l := range lines {
		sum = sum.Plus(flow.Count{Packets: l.Packets + l.PacketsReply, Bytes: l.Bytes + l.BytesReply})
	}
	return sum
}

func (w *world) csvSum(name string) (sum flow.Count) {
	w.Helper()
	text, err := os.ReadFile(w.path(name))
	w.must(err)
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	w.must(err)
	for _, row := range rows[1:] {
		for i, name := range rows[0] {
			n, _ := strconv.ParseUint(row[i], 10, 64) // of other columns nothing is used
			switch name {
			case "packets", "packets_reply":
				sum.Packets += n
			case "bytes", "bytes_reply":
				sum.Bytes += n
			}
		}
	}
	return sum
}

// kafkaSum reads a topic until it says what is wanted, or for as long as anything is waited for.
func (w *world) kafkaSum(cluster *kfake.Cluster, want flow.Count) (sum flow.Count) {
	w.Helper()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return w.box.Dial(ctx, network, address)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("gardu-flows"), kgo.Dialer(dial))
	w.must(err)
	defer consumer.Close()
	ctx, stop := context.WithTimeout(w.Context(), patience)
	defer stop()
	for sum != want && ctx.Err() == nil {
		for record := range consumer.PollFetches(ctx).RecordsAll() {
			var line exported
			w.must(json.Unmarshal(record.Value, &line))
			sum = sum.Plus(sumOf([]exported{line}))
		}
	}
	return sum
}

// traffic is a transfer by TCP through the box, with an answer.
func (w *world) traffic(size int) {
	w.Helper()
	listener, err := w.backend.Listen("tcp", "10.0.0.11:7778")
	w.must(err)
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			conn.Close()
		}
		served <- err
	}()
	conn, err := w.client.Dial(w.Context(), "tcp", "10.0.0.11:7778")
	w.must(err)
	defer conn.Close()
	go func() {
		_, _ = conn.Write(make([]byte, size)) // what doesn't come back is seen below
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, conn)
	w.must(err)
	w.must(<-served)
	if n != int64(size) {
		w.Fatalf("%d bytes came back of %d", n, size)
	}
}

// Every export says the same as the counters of the data plane, to the unit, while one more collector is dead.
func TestExports(t *testing.T) {
	w := newWorld(t)
	nfcapd := exporttest.StartNfcapd(t, func(cmd *exec.Cmd) error { return w.box.Do(cmd.Start) })
	collector := w.tcpCollector()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "gardu-flows"), kfake.ListenFn(w.box.Listen))
	w.must(err)
	defer cluster.Close()
	w.write("gardu.yaml", fmt.Sprintf(`
interfaces:
  in0: {path: tc, egress: true}
  out0: {path: auto, egress: true}
filter:
  rules:
    - {name: transfer, match: {proto: tcp, dport: 7778}, action: pass}
flows:
  max: 1000
  idle: 1s
  active: 1s
  export:
    - {ipfix: %q}
    - {ipfix: %q, transport: tcp}
    - {file: out.ndjson}
    - {file: out.csv, format: csv}
    - {kafka: [%q]}
    - {ipfix: "127.0.0.1:1", transport: tcp}
`, nfcapd.Address, collector.address, cluster.ListenAddrs()[0]))
	w.start()
	if !w.passes() {
		t.Fatal("nothing passes")
	}
	w.traffic(3 << 20)
	var status api.Status
	w.until("everything is in the file", func() error {
		status = w.status()
		f, got := status.Flows, sumOf(w.ndjson("out.ndjson"))
		if got.Packets != f.Accounted || got.Bytes != f.AccountedBytes {
			return fmt.Errorf("%+v exported, %d packets and %d bytes accounted", got, f.Accounted, f.AccountedBytes)
		}
		return nil
	})
	w.until("the transfer's end is in the file", func() error {
		for _, l := range w.ndjson("out.ndjson") {
			if l.Dport == 7778 && l.End != "" && l.Src == "198.51.100.10" && l.Proto == "tcp" && l.Rule == "transfer" && l.Interface == "in0" {
				return nil
			}
		}
		return errors.New("no such line")
	})
	w.until("the dead collector is noticed", func() error {
		for _, s := range w.status().Sinks {
			if s.Name == "ipfix 127.0.0.1:1" && strings.Contains(s.Error, "refused") {
				return nil
			}
		}
		return fmt.Errorf("sinks %+v", w.status().Sinks)
	})
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	if log := w.log(); !strings.Contains(log, "report flows to ipfix 127.0.0.1:1: it took no more") {
		t.Error("nothing in the log of what the dead collector misses")
	}

	want := sumOf(w.ndjson("out.ndjson"))
	if want.Bytes < 2*3<<20 {
		t.Errorf("%+v, of a transfer of %d bytes both ways", want, 3<<20)
	}
	if got := w.csvSum("out.csv"); got != want {
		t.Errorf("CSV: %+v, want %+v", got, want)
	}
	if got := w.kafkaSum(cluster, want); got != want {
		t.Errorf("Kafka: %+v, want %+v", got, want)
	}
	var got flow.Count
	for deadline := time.Now().Add(patience); got != want && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		got = collector.sum()
	}
	if got != want {
		t.Errorf("IPFIX over TCP: %+v, want %+v", got, want)
	}
	got = flow.Count{}
	for line := range strings.Lines(nfcapd.End("-N", "-q", "-o", "fmt:%ipkt %ibyt %opkt %obyt")) {
		var n [4]uint64
		if _, err := fmt.Sscan(line, &n[0], &n[1], &n[2], &n[3]); err == nil {
			got = got.Plus(flow.Count{Packets: n[0] + n[2], Bytes: n[1] + n[3]})
		}
	}
	if got != want {
		t.Errorf("nfdump: %+v, want %+v", got, want)
	}
}
