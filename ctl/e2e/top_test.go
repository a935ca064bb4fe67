package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"golang.org/x/sys/unix"

	"gardu/ctl/api"
)

const topConfig = `interfaces:
  client0: {path: tc}
  b1: {path: tc}
flows: {max: 10000, active: 1s, history: {dir: %s}}
filter:
  rules:
    - {name: no-mdns, match: {proto: udp, dport: 5353}, action: drop}
    - {name: chat, match: {proto: udp, dport: 9999}, action: pass}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    health: {http: /name, every: 1s, timeout: 1s, up: 1, down: 3}
    backends:
      - {name: b1, address: 10.0.1.11}
`

// TestTop watches live traffic, on a terminal and in a pipe.
func TestTop(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	w.decap()
	config := fmt.Sprintf(topConfig, w.path("history"))
	w.start(config)
	w.ready()
	_, sum := w.file("blob", 12<<20)
	part := func(name string, run func(w *world)) {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.T = t
			run(&w)
		})
	}
	part("samples", func(w *world) { w.topSamples(sum) })
	part("text", (*world).topText)
	part("past", (*world).topPast)
	part("without flows", (*world).topWithoutFlows)
	part("none to show", (*world).flowsWithoutFlows)
	w.apply(config)
	part("screen", func(w *world) { w.topScreen(sum) })
}

// topSamples adds up all samples of a transfer: together they are what its flow counted, to the unit.
func (w *world) topSamples(sum string) {
	cmd := exec.Command(binary, "--socket", w.path("gardu.sock"), "top", "service web", "-o", "ndjson", "--group", "src,service", "--every", "100ms")
	out, err := cmd.StdoutPipe()
	w.must(err)
	_, err = w.box.Start(cmd)
	w.must(err)
	samples := make(chan api.TopSample, 1000)
	go func() {
		defer close(samples)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var sample api.TopSample
			if err := json.Unmarshal(lines.Bytes(), &sample); err != nil {
				w.Errorf("%s: %v", lines.Bytes(), err)
			}
			samples <- sample
		}
	}()
	<-samples // it has begun
	if err := w.do(w.download("192.0.2.10", "blob", "got", "6M"), sum); err != nil {
		w.Error(err)
	}
	var want, got api.FlowChange
	err = w.api.Flows(w.Context(), api.FlowQuery{Filter: "service web and src 198.51.100.10"}, func(f api.Flow) error {
		want.Packets, want.Bytes, want.PacketsReply, want.BytesReply = want.Packets+f.Packets, want.Bytes+f.Bytes, want.PacketsReply+f.PacketsReply, want.BytesReply+f.BytesReply
		return nil
	})
	w.must(err)
	with := 0 // samples with packets: the numbers don't come all at once
	w.until("all packets are in samples", func() error {
		select {
		case sample := <-samples:
			for _, g := range sample.Groups {
				if g.Group["src"] == "198.51.100.10" && g.Group["service"] == "web" {
					with++
					got = api.FlowChange{Packets: got.Packets + g.Packets, Bytes: got.Bytes + g.Bytes,
						PacketsReply: got.PacketsReply + g.PacketsReply, BytesReply: got.BytesReply + g.BytesReply}
				}
			}
		default:
		}
		if got != want {
			return fmt.Errorf("samples have %+v, the flows %+v", got, want)
		}
		return nil
	})
	if want.BytesReply+want.Bytes < 12<<20 || with < 2 {
		w.Errorf("%+v in %d samples", want, with)
	}
}

// topText is what a pipe gets.
func (w *world) topText() {
	stop := w.datagrams(9999)
	defer stop()
	out, err := w.gardu("top", "dport 9999", "--count", "2", "--every", "300ms", "-n", "5", "--group", "rule,verdict")
	w.must(err)
	if n := strings.Count(out, "RULE"); n != 2 || !regexp.MustCompile(`(?m)^chat +pass +[1-9]`).MatchString(out) {
		w.Errorf("%d tables:\n%s", n, out)
	}
}

// topPast asks the history for the minute that is not over yet.
func (w *world) topPast() {
	stop := w.datagrams(9999)
	defer stop()
	w.until("the history has flows of a rule", func() error {
		out, err := w.gardu("top", "--at", "0s", "--group", "rule,verdict", "rule chat")
		if err == nil && !regexp.MustCompile(`(?m)^chat +pass +[1-9]`).MatchString(out) {
			err = errors.New(out)
		}
		return err
	})
	t := w.openTerminal(80, 24, "top", "--at", "0s")
	t.shows(`^ 198\.51\.100\.10 +198\.51\.100\.1:9999 +udp +[1-9]`)
	t.shows(` \d{4}-\d\d-\d\d \d\d:\d\d to \d\d:\d\d`)
	t.press("l6")
	t.shows(`^ chat +pass +[1-9]`)
	t.press("q")
	w.must(<-t.ended)
}

// topWithoutFlows has the counters still.
func (w *world) topWithoutFlows() {
	stop := w.datagrams(5353)
	defer stop()
	text, _, _ := strings.Cut(topConfig, "services:") // they would have flows counted
	w.apply(regexp.MustCompile(`(?m)^flows: .*\n`).ReplaceAllString(text, ""))
	w.until("drops are counted", func() error {
		out, err := w.gardu("top", "--count", "1", "--every", "200ms")
		if err == nil && !regexp.MustCompile(`drop [1-9][0-9.]*%[^\n]*\nflows aren't counted: `).MatchString(out) {
			err = errors.New(out)
		}
		return err
	})
}

// flowsWithoutFlows says why none are found.
func (w *world) flowsWithoutFlows() {
	for _, args := range [][]string{{"flows", "dport 1"}, {"flows", "--group", "src", "dport 1"}} {
		cmd := exec.Command(binary, append([]string{"--socket", w.path("gardu.sock")}, args...)...)
		out, err := cmd.CombinedOutput()
		w.must(err)
		if string(out) != "no flows\nthey aren't counted: the configuration has no flows\n" {
			w.Errorf("%q: %q", args, out)
		}
	}
}

// datagrams lets the client send small datagrams to the box, until the returned function is called.
func (w *world) datagrams(port uint16) (stop func()) {
	w.Helper()
	socket := w.socket(w.client, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.10"), 0))
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), port))
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !ended.Load() {
			socket.WriteTo([]byte("who is there"), to)
			<-tick.C
		}
	}()
	return func() { ended.Store(true); <-done }
}

// terminal is a pty with a program on it, and what its screen shows.
type terminal struct {
	*world
	pty     *os.File
	screen  *vt.SafeEmulator
	cmd     *exec.Cmd
	ended   chan error
	written *atomic.Int64 // bytes that the program wrote
}

// openTerminal runs gardu on a terminal of its own.
func (w *world) openTerminal(width, height int, args ...string) *terminal {
	w.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	w.must(err)
	w.Cleanup(func() { pty.Close() })
	w.must(unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetUint32(int(pty.Fd()), unix.TIOCGPTN)
	w.must(err)
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	w.must(err)
	defer tty.Close()
	t := &terminal{world: w, pty: pty, screen: vt.NewSafeEmulator(width, height), ended: make(chan error, 1), written: new(atomic.Int64)}
	t.resize(width, height)
	t.cmd = exec.Command(binary, append([]string{"--socket", w.path("gardu.sock")}, args...)...)
	t.cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = tty, tty, tty
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	w.must(t.cmd.Start())
	go func() { t.ended <- t.cmd.Wait() }()
	w.Cleanup(func() { t.cmd.Process.Kill() })
	go io.Copy(io.MultiWriter(t.screen, counter{t.written}), pty)
	go io.Copy(pty, t.screen) // answers to what the program asks the terminal
	return t
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(data []byte) (int, error) {
	c.n.Add(int64(len(data)))
	return len(data), nil
}

func (t *terminal) resize(width, height int) {
	t.Helper()
	t.screen.Resize(width, height)
	t.must(unix.IoctlSetWinsize(int(t.pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}))
}

func (t *terminal) press(keys string) {
	t.Helper()
	_, err := t.pty.WriteString(keys)
	t.must(err)
}

// lines are the screen as a person sees it.
func (t *terminal) lines() []string { return strings.Split(t.screen.String(), "\n") }

// shows waits until a line of the screen is like this.
func (t *terminal) shows(pattern string) {
	t.Helper()
	like := regexp.MustCompile(pattern)
	t.until("the screen shows "+pattern, func() error {
		select {
		case err := <-t.ended:
			t.Fatalf("it ended: %v\n%s", err, strings.Join(t.lines(), "\n"))
		default:
		}
		for _, line := range t.lines() {
			if like.MatchString(line) {
				return nil
			}
		}
		return errors.New("\n" + strings.Join(t.lines(), "\n"))
	})
}

// topScreen is what a person gets, with live traffic: a download through a service, and datagrams that a rule drops.
func (w *world) topScreen(sum string) {
	for _, port := range []uint16{5353, 9999} {
		stop := w.datagrams(port)
		defer stop()
	}
	ended := make(chan struct{})
	transfers := make(chan struct{})
	go func() {
		defer close(transfers)
		for !closed(ended) {
			if err := w.do(w.download("192.0.2.10", "blob", "got", "6M"), sum); err != nil {
				w.Error(err)
			}
		}
	}()
	defer func() { close(ended); <-transfers }()

	t := w.openTerminal(80, 24, "top", "--every", "200ms")
	const rate = `[1-9][0-9.]*[kM]`
	t.shows(`^ 198\.51\.100\.10:\d+ +192\.0\.2\.10:80 +tcp +` + rate + ` `)
	t.shows(`^ 198\.51\.100\.10:\d+ +198\.51\.100\.1:9999 +udp +` + rate + ` `)
	t.shows(`^ total +[1-9][0-9.]* [kM]bit/s`)
	t.shows(`drop [1-9][0-9.]*%`)
	t.shows(`^ q quit  \? help`)
	t.press("2")
	t.shows(`^ SOURCE +BIT/S →`)
	t.shows(`^ 198\.51\.100\.10 +` + rate)
	t.press("6")
	t.shows(`^ no-mdns +drop +[1-9]`)
	t.press("k\r") // into the first rule, the busier one or not
	t.shows(`filter rule "(chat|no-mdns)"`)
	t.press("\x1b[15~\x1b") // a key that does nothing here, and esc
	t.shows(`^ RULE +ACTION`)
	t.press("/rule chat\r")
	t.press("1")
	t.shows(`^ 198\.51\.100\.10:\d+ +198\.51\.100\.1:9999 +udp`)
	if screen := strings.Join(t.lines(), "\n"); strings.Contains(screen, ":80 ") {
		t.Errorf("the filter picks all:\n%s", screen)
	}
	t.press("/\x15\r")
	t.press("g")
	t.shows(`^ group: `)
	t.press("\x15src/24,sevice\r")
	t.shows(`"sevice" is not a key to group by`)
	t.press("\x05\x15src/24,service\r")
	t.shows(`^ 198\.51\.100\.0/24 +web +` + rate)
	t.press("?")
	t.shows(`enter +show only what the selected line is made of`)
	t.press("xp")
	t.shows(` paused `)
	t.press(" ")
	t.resize(200, 50)
	t.must(t.cmd.Process.Signal(syscall.SIGWINCH))
	t.shows(`│ web +1/1 up +[1-9]`)
	t.shows(`│ rule-drop +drop +[1-9]`)
	if !t.screen.IsAltScreen() {
		t.Error("the screen before is gone")
	}
	t.press("q")
	select {
	case err := <-t.ended:
		if err != nil || t.screen.IsAltScreen() {
			t.Errorf("it ended with %v, and the terminal is left on its screen: %v", err, t.screen.IsAltScreen())
		}
	case <-time.After(patience):
		t.Error("q doesn't end it")
	}
	t.Logf("%d bytes written to the terminal", t.written.Load())
}

// A screen without a daemon to ask is not begun.
func TestTopWithoutDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the program under test is built for root only")
	}
	w := &world{T: t, dir: t.TempDir()}
	terminal := w.openTerminal(80, 24, "top")
	var exit *exec.ExitError
	if err := <-terminal.ended; !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("it ended with %v", err)
	}
	if bytes.Contains([]byte(terminal.screen.String()), []byte("quit")) {
		t.Errorf("%s", terminal.screen.String())
	}
}
