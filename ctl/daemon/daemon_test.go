package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// The daemon runs as a process of its own in the namespace of the box: this test binary, told so by the environment.
const runEnv = "GARDU_TEST_RUN"

func TestMain(m *testing.M) {
	if text := os.Getenv(runEnv); text != "" {
		os.Exit(runDaemon(text))
	}
	os.Exit(m.Run())
}

func runDaemon(text string) int {
	var options Options
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if path := os.Getenv(sinkEnv); path != "" {
		options.sinks = []sinkWish{{name: "test", made: path, open: func() (sink, error) { return fileSink{path}, nil }}}
	}
	die := filepath.Join(filepath.Dir(options.Config), "die")
	options.step = func(name string) {
		if at, err := os.ReadFile(die); err == nil && string(at) == name {
			os.Remove(die)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it is on its way
		}
	}
	if path := os.Getenv(clockEnv); path != "" {
		options.now = func() time.Time { return clockOf(path) }
	}
	options.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	before := runtime.NumGoroutine()
	if err := Run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "ended:", err)
		return 1
	}
	return leaked(before)
}

// leaked says, as an exit code, whether there are more goroutines than before, and which.
func leaked(before int) int {
	for deadline := time.Now().Add(patience / 3); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			return 3
		}
	}
	return 0
}

const patience = 15 * time.Second

// world is a client, a box and a backend in a row: client eth0 198.51.100.10 - box in0, box out0 - backend eth0 10.0.0.11.
type world struct {
	*testing.T
	net             *testnet.Net
	client          *testnet.Node
	box             *testnet.Node
	backend         *testnet.Node
	dir             string
	options         Options
	env             []string // of the daemon, besides ours
	addressSpaceMax uint64   // bytes that the daemon may see; 0: all

	mounts  bool   // the daemon has mounts of its own
	sink    string // directory that the daemon writes reports of flows to; "": it reports none
	process *testnet.Process
	api     *client.Client
	port    int // that dialEcho used last
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	t.Parallel()
	w := &world{T: t}
	var err error
	if w.dir, err = os.MkdirTemp("", "gardu-daemon-*"); err != nil { // short: the socket's path has a limit
		t.Fatal(err)
	}
	w.options = Options{
		Config:   w.path("gardu.yaml"),
		BPFDir:   "/sys/fs/bpf/gardu-test-" + strings.TrimPrefix(filepath.Base(w.dir), "gardu-daemon-"),
		StateDir: w.path("state"),
		Socket:   w.path("sock"),
		Version:  "test",
	}
	if w.net, err = testnet.New("gardu-daemon-*"); err != nil {
		t.Fatal(err)
	}
	w.api = client.New(w.options.Socket)
	t.Cleanup(w.cleanUp)
	w.client, w.box, w.backend = w.node("client"), w.node("box"), w.node("backend")
	w.connect(w.client, "198.51.100.10/24", "in0", "198.51.100.1/24")
	w.connect(w.backend, "10.0.0.11/24", "out0", "10.0.0.1/24")
	w.must(w.box.SetSysctl("net.ipv4.ip_forward", "1"))
	w.must(w.client.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	w.must(w.backend.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")))
	return w
}

func (w *world) cleanUp() {
	if w.process != nil {
		_ = w.process.Stop(patience) // how it ends is what other tests look at
	}
	w.api.Close()
	if w.Failed() {
		if log, err := os.ReadFile(w.path("log")); err == nil {
			w.Logf("log:\n%s", log)
		}
	}
	for _, err := range []error{w.net.Close(), os.RemoveAll(w.options.BPFDir), os.RemoveAll(w.dir)} {
		if err != nil {
			w.Error(err)
		}
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) node(name string) *testnet.Node {
	w.Helper()
	node, err := w.net.Node(name)
	w.must(err)
	return node
}

// connect makes a link between the eth0 of a node and an interface of the box.
func (w *world) connect(node *testnet.Node, address, ifname, boxAddress string) {
	w.Helper()
	w.must(w.net.Connect(
		testnet.End{Node: node, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix(address)}},
		testnet.End{Node: w.box, Name: ifname, Addresses: []netip.Prefix{netip.MustParsePrefix(boxAddress)}}, 0))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(name, text string) {
	w.Helper()
	next := w.path(name + ".new")
	w.must(os.WriteFile(next, []byte(text), 0o644))
	w.must(os.Rename(next, w.path(name)))
}

// start runs the daemon and waits until it answers.
func (w *world) start() {
	w.Helper()
	w.launch()
	w.until("the daemon answers", func() error {
		_, err := w.api.Status(w.Context())
		return err
	})
}

// launch runs the daemon.
func (w *world) launch() {
	w.Helper()
	text, err := json.Marshal(w.options)
	w.must(err)
	log, err := os.OpenFile(w.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	if w.mounts {
		cmd = exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0])
	}
	if w.addressSpaceMax != 0 {
		cmd = exec.Command("sh", "-c", fmt.Sprintf(`ulimit -v %d; exec "$0"`, w.addressSpaceMax>>10), os.Args[0])
	}
	cmd.Env = append(append(os.Environ(), runEnv+"="+string(text), sinkEnv+"="+w.sink), w.env...)
	cmd.Stdout, cmd.Stderr = log, log
	w.process, err = w.box.Start(cmd)
	w.must(err)
}

// until waits for a condition; its last error says why it doesn't hold.
func (w *world) until(what string, condition func() error) {
	w.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			w.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-w.process.Done():
			w.Fatalf("%s: the daemon ended: %v; %v", what, w.process.Wait(), err)
		case <-tick.C:
		}
	}
}

func (w *world) status() api.Status {
	w.Helper()
	status, err := w.api.Status(w.Context())
	w.must(err)
	return status
}

// passes says whether a datagram from the client comes through the box to the backend.
func (w *world) passes() bool {
	w.Helper()
	var receiver net.PacketConn
	var sender net.Conn
	w.must(w.backend.Do(func() (err error) {
		receiver, err = net.ListenPacket("udp", "10.0.0.11:7777")
		return err
	}))
	defer receiver.Close()
	w.must(w.client.Do(func() (err error) {
		sender, err = net.Dial("udp", "10.0.0.11:7777")
		return err
	}))
	defer sender.Close()
	for range 3 { // the first may wait for a neighbour
		_, err := sender.Write([]byte("gardu"))
		w.must(err)
		w.must(receiver.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
		_, _, err = receiver.ReadFrom(make([]byte, 16))
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			w.Fatal(err)
		}
	}
	return false
}

// dialTCP tries a connection from the client, briefly.
func (w *world) dialTCP() (conn net.Conn, err error) {
	w.Helper()
	err = w.client.Do(func() error {
		conn, err = net.DialTimeout("tcp", "10.0.0.11:7778", 300*time.Millisecond)
		return err
	})
	return conn, err
}

const base = `
interfaces:
  in0: {path: tc}
  out0: {path: auto}
flows: {max: 1000}
`

const dropping = base + `
sets:
  bad: {file: bad.set}
filter:
  rules:
    - {name: bad, match: {src: "@bad"}, action: drop}
`
