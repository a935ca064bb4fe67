package export

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"gardu/ctl/flow/export/exporttest"
)

const patience = 15 * time.Second

// Elements of IPFIX.
const (
	packetDeltaCount = 2
	notSentFlows     = 166
)

func until(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", what)
		}
	}
}

func collector(t *testing.T, transport, address string, refresh time.Duration) *Collector {
	c := NewCollector(CollectorOptions{Address: address, Transport: transport, Refresh: refresh, Domain: 1})
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// datagrams listens where collectors do.
func datagrams(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp", address)
	must(t, err)
	conn, err := net.ListenUDP("udp", at)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetReadBuffer(8<<20))
	return conn
}

// takeUntil decodes datagrams until so many flows have come.
func takeUntil(t *testing.T, conn *net.UDPConn, decoder *exporttest.Decoder, flows int) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for len(decoder.Flows) < flows {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("after %d flows: %v", len(decoder.Flows), err)
		}
		if n > 1500-48 {
			t.Errorf("a datagram of %d bytes", n)
		}
		decoder.Take(buffer[:n])
	}
}

// taken are the numbers of the flows that were decoded.
func taken(decoder *exporttest.Decoder) (all []uint64) {
	for _, values := range decoder.Flows {
		all = append(all, values.Number(packetDeltaCount, false))
	}
	return all
}

func TestUDP(t *testing.T) {
	for name, address := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			conn := datagrams(t, address)
			decoder := exporttest.New(t)
			c := collector(t, UDP, conn.LocalAddr().String(), time.Hour)
			c.Consume(batch(1, 3000), names{})
			c.Consume(batch(3001, 1), names{})
			takeUntil(t, conn, decoder, 3001)
			wantNumbers(t, taken(decoder), 1, 3001)
			wantState(t, c, 0, "")
		})
	}
}

// Templates are told again, so that a collector that begins later understands.
func TestTemplateRefresh(t *testing.T) {
	conn := datagrams(t, "127.0.0.1:0")
	c := collector(t, UDP, conn.LocalAddr().String(), time.Nanosecond)
	for i := range 3 {
		c.Consume(batch(i+1, 1), names{})
	}
	decoder := exporttest.New(t)
	takeUntil(t, conn, decoder, 3)
	if decoder.Told != 3 {
		t.Errorf("templates were told %d times", decoder.Told)
	}
}

// Without anybody there nothing blocks, and what is refused is counted; who comes then gets the templates at once.
func TestNobodyTakesDatagrams(t *testing.T) {
	conn := datagrams(t, "127.0.0.1:0")
	address := conn.LocalAddr().String()
	must(t, conn.Close())
	c := collector(t, UDP, address, time.Hour)
	sent := 0
	until(t, "losses are noticed", func() bool {
		c.Consume(batch(sent+1, 10), names{})
		sent += 10
		lost, err := c.State()
		return lost.Reports >= 20 && err != nil
	})
	lost, _ := c.State()
	if lost.Reports > uint64(sent) {
		t.Errorf("%d reports are lost of %d", lost.Reports, sent)
	}

	conn = datagrams(t, address)
	c.Consume(batch(1, 1), names{}) // notices that the one before was refused
	c.Consume(batch(2, 1), names{}) // has templates
	lost, _ = c.State()
	c.Consume(batch(3, 1), names{})
	buffer := make([]byte, 1<<16)
	for told := false; !told; {
		must(t, conn.SetReadDeadline(time.Now().Add(patience)))
		n, err := conn.Read(buffer)
		must(t, err)
		const templates = 2
		told = n > 16 && binary.BigEndian.Uint16(buffer[16:]) == templates
	}
	wantState(t, c, lost.Reports, "")
}

// streams is a collector for TCP. It decodes what comes, a decoder for each connection.
type streams struct {
	testing.TB
	listener net.Listener

	mu       sync.Mutex
	conns    []net.Conn
	decoders []*exporttest.Decoder
}

func listen(t *testing.T, address string) *streams {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	must(t, err)
	s := &streams{TB: t, listener: listener}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			decoder := exporttest.New(t)
			s.mu.Lock()
			s.conns, s.decoders = append(s.conns, conn), append(s.decoders, decoder)
			s.mu.Unlock()
			running.Go(func() { s.read(conn, decoder) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		s.hangUp()
		running.Wait()
	})
	return s
}

func (s *streams) read(conn net.Conn, decoder *exporttest.Decoder) {
	defer conn.Close()
	for {
		message := make([]byte, 16)
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		rest := make([]byte, int(binary.BigEndian.Uint16(message[2:]))-16)
		if _, err := io.ReadFull(conn, rest); err != nil {
			return
		}
		s.mu.Lock()
		decoder.Take(append(message, rest...))
		s.mu.Unlock()
	}
}

// hangUp ends all connections.
func (s *streams) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
}

func (s *streams) taken() (all []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, decoder := range s.decoders {
		all = append(all, taken(decoder)...)
	}
	return all
}

func TestTCP(t *testing.T) {
	s := listen(t, "127.0.0.1:0")
	c := collector(t, TCP, s.listener.Addr().String(), time.Nanosecond)
	c.Consume(batch(1, 20_000), names{})
	c.Consume(batch(20_001, 1), names{})
	until(t, "all flows have come", func() bool { return len(s.taken()) == 20_001 })
	wantNumbers(t, s.taken(), 1, 20_001)
	wantState(t, c, 0, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	options := s.decoders[0].Options
	if last := options[len(options)-1]; last.Text(notSentFlows, false) != "0" {
		t.Errorf("losses were not told again: %v", last)
	}
}

// A collector that goes and comes back misses what was on the way, counted, and nothing comes twice.
func TestReconnect(t *testing.T) {
	s := listen(t, "127.0.0.1:0")
	address := s.listener.Addr().String()
	c := collector(t, TCP, address, time.Hour)
	c.Consume(batch(1, 100), names{})
	until(t, "the first flows have come", func() bool { return len(s.taken()) == 100 })
	must(t, s.listener.Close())
	s.hangUp()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 10 {
			c.Consume(batch(101+100*i, 100), names{})
		}
	}()
	until(t, "the trouble is noticed", func() bool { _, err := c.State(); return err != nil })
	select {
	case <-done:
		t.Error("reports were taken without anybody there")
	default:
	}
	again := listen(t, address)
	<-done
	count := func() uint64 {
		lost, _ := c.State()
		return lost.Reports + 100 + uint64(len(again.taken()))
	}
	until(t, "each report has come or is counted", func() bool { return count() >= 1100 })
	if count() != 1100 {
		t.Errorf("%d reports came or were counted, of 1100", count())
	}
	got := again.taken()
	wantNumbers(t, got, got[0], 1100)
	if _, err := c.State(); err != nil {
		t.Errorf("still wrong: %v", err)
	}
}

// A collector that takes nothing any more is given up, and what it didn't take is counted.
func TestStalledCollector(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	c := NewCollector(CollectorOptions{Address: listener.Addr().String(), Transport: TCP, Refresh: time.Hour, stall: 50 * time.Millisecond})
	done := make(chan struct{})
	const all = 200_000 // more than sockets hold
	go func() {
		defer close(done)
		c.Consume(batch(1, all), names{})
	}()
	until(t, "the trouble is noticed", func() bool { _, err := c.State(); return errors.Is(err, os.ErrDeadlineExceeded) })
	c.Abort()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Consume doesn't end")
	}
	must(t, c.Close())
	lost, _ := c.State()
	if lost.Reports == 0 || lost.Reports > all {
		t.Errorf("%d reports are lost of %d", lost.Reports, all)
	}
}

// After Abort nothing waits.
func TestAbort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, listener.Close())
	c := NewCollector(CollectorOptions{Address: listener.Addr().String(), Transport: TCP, Refresh: time.Hour})
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Consume(batch(1, 5), names{})
		c.Consume(batch(6, 5), names{})
	}()
	until(t, "it tries to connect", func() bool { _, err := c.State(); return err != nil })
	c.Abort()
	<-done
	wantState(t, c, 10, "refused")
	must(t, c.Close())
}
