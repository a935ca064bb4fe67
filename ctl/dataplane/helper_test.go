package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/netdev"
	"gardu/ctl/testnet"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
}

// testDir is a directory on the machine's bpffs that is gone, with all that hangs on it, when the test ends.
func testDir(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(bpffsRoot, fmt.Sprintf("gardu-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	t.Cleanup(func() {
		if err := Remove(dir, noFilters{}); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// noFilters is for an instance whose filters are gone with their namespace.
type noFilters struct{}

func (noFilters) AttachFilter(int, string, int) error { return errors.ErrUnsupported }
func (noFilters) DetachFilter(int, string) error      { return nil }
func (noFilters) XDPProgram(int) (uint32, error)      { return 0, nil }
func (noFilters) DetachXDP(int) error                 { return nil }

// open opens dir with so much on, if anything: the less, the sooner it is loaded. The caller closes it.
func open(t *testing.T, dir string, on ...compile.Features) *Dataplane {
	t.Helper()
	d, err := Open(Options{Dir: dir, Features: union(on), FlowsMax: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// private opens a private instance that is closed when the test ends.
func private(t *testing.T, features compile.Features) *Dataplane {
	t.Helper()
	needRoot(t)
	d, err := OpenPrivate(features, 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, d) })
	return d
}

func program(t testing.TB, d *Dataplane, hook Hook) *ebpf.Program {
	t.Helper()
	loaded, err := d.Program(hook)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// mapsOnly is a private instance without programs, which take their time to load.
func mapsOnly(t *testing.T) *Dataplane {
	t.Helper()
	needRoot(t)
	d, err := prepare(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, d) })
	d.specs[abi.AbiMapBlocks].MaxEntries = privateBlocks
	if err := d.create(1000, 1000, nil, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return d
}

func closeIt(t *testing.T, d io.Closer) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func union(all []compile.Features) (f compile.Features) {
	for _, one := range all {
		f = f.Or(one)
	}
	return f
}

func allOff() compile.Features { return compile.Features{} }

func allOn() compile.Features {
	return compile.AllFeatures()
}

// wires is two namespaces joined by eth0 on both sides; gardu sits on the box's.
type wires struct {
	net         *testnet.Net
	client, box *testnet.Node
	netlink     *netdev.Handle // of the box's namespace
	ifindex     int            // of the box's eth0, in its namespace
}

func newWires(t *testing.T) *wires {
	t.Helper()
	needRoot(t)
	n, err := testnet.New("gardu-dataplane-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &wires{net: n}
	if w.client, err = n.Node("client"); err != nil {
		t.Fatal(err)
	}
	if w.box, err = n.Node("box"); err != nil {
		t.Fatal(err)
	}
	w.connect(t)
	w.do(t, func() error {
		w.netlink, err = netdev.Open()
		return err
	})
	t.Cleanup(w.netlink.Close)
	w.do(t, func() error { // somebody listens, or every second packet would fail
		conn, err := net.ListenPacket("udp", ":9")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	return w
}

// open opens dir with so much on, if anything, in the box's namespace. The caller closes it.
func (w *wires) open(t *testing.T, dir string, on ...compile.Features) *Dataplane {
	t.Helper()
	return w.openWith(t, Options{Dir: dir, Features: union(on), FlowsMax: 1000})
}

func (w *wires) openWith(t *testing.T, o Options) *Dataplane {
	t.Helper()
	o.Netlink = w.netlink
	var d *Dataplane
	w.do(t, func() (err error) { // the mark of a filter says only the interface's name
		d, err = Open(o)
		return err
	})
	return d
}

func (w *wires) connect(t *testing.T) {
	t.Helper()
	address := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	err := w.net.Connect(
		testnet.End{Node: w.client, Name: "eth0", Addresses: address("198.51.100.1/24")},
		testnet.End{Node: w.box, Name: "eth0", Addresses: address("198.51.100.2/24")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.do(t, func() error {
		device, err := net.InterfaceByName("eth0")
		if err == nil {
			w.ifindex = device.Index
		}
		return err
	})
}

// recreate replaces the box's eth0 by another interface of that name.
func (w *wires) recreate(t *testing.T) {
	t.Helper()
	if err := w.box.DeleteLink("eth0"); err != nil {
		t.Fatal(err)
	}
	w.connect(t)
}

// do runs f in the box's namespace.
func (w *wires) do(t *testing.T, f func() error) {
	t.Helper()
	if err := w.box.Do(f); err != nil {
		t.Fatal(err)
	}
}

func (w *wires) attach(t *testing.T, d *Dataplane, o AttachOptions) Attachment {
	t.Helper()
	var a Attachment
	w.do(t, func() (err error) {
		o.Name, o.Ifindex = "eth0", w.ifindex
		a, err = d.Attach(o)
		return err
	})
	return a
}

// send sends n UDP packets from the client to the box.
func (w *wires) send(t *testing.T, n int) {
	t.Helper()
	conn := w.dial(t)
	defer conn.Close()
	for range n {
		if _, err := conn.Write([]byte("gardu")); err != nil {
			t.Fatal(err)
		}
	}
}

// sendOn sends packets until stop is called; sent tells how many it were.
func (w *wires) sendOn(t *testing.T) (stop func(), sent func() uint64) {
	t.Helper()
	conn := w.dial(t)
	var (
		count   atomic.Uint64
		stopped = make(chan struct{})
		done    = make(chan struct{})
	)
	go func() {
		defer close(done)
		defer conn.Close()
		pace := time.NewTicker(100 * time.Microsecond) // leaves time for others on a small machine
		defer pace.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-pace.C:
			}
			if _, err := conn.Write([]byte("gardu")); err != nil {
				t.Error(err)
				return
			}
			count.Add(1)
		}
	}()
	return func() { close(stopped); <-done }, count.Load
}

func (w *wires) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := w.client.Dial(t.Context(), "udp", "198.51.100.2:9")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// asNobody runs f on a thread without privileges.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		var errno unix.Errno
		if os.Geteuid() == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		}
		if errno == 0 {
			f()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// packets is how many packets left for any reason.
func packets(t *testing.T, d *Dataplane) (sum uint64) {
	t.Helper()
	reasons, err := d.Reasons()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range reasons {
		sum += c.Packets
	}
	return sum
}

// udp4 is a frame with an IPv4 UDP packet.
func udp4(src, dst netip.Addr) []byte {
	frame := make([]byte, 14+20+8+4)
	frame[12], frame[13] = 0x08, 0x00
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, 1234)
	binary.BigEndian.PutUint16(udp[2:], 53)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return frame
}

// line is a line of ones and twos, to tell tables apart.
func line(w uint64) abi.Line { return abi.Line{W: [8]uint64{0, 0, 0, 0, 0, 0, 0, w}} }
