package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export/ipfix"
)

// Transports of a collector.
const (
	UDP = "udp"
	TCP = "tcp"
)

// CollectorOptions say where an IPFIX collector is and how it is told.
type CollectorOptions struct {
	Address   string // host and port
	Transport string // UDP or TCP
	Refresh   time.Duration
	Domain    uint32

	stall time.Duration // tests: how long a TCP connection may take nothing; stallTimeout when 0
}

const (
	dialTimeout  = 10 * time.Second
	stallTimeout = 30 * time.Second
	leastBackoff = 250 * time.Millisecond
	mostBackoff  = 30 * time.Second

	// Larger messages than Ethernet carries are avoided even where the MTU is larger: some collectors have no room for them.
	mostDatagram = 1500
	tcpMessage   = 8192

	// No more datagrams than a collector's socket has room for are sent at once.
	burst      = 8
	burstPause = time.Millisecond
)

// Collector sends reports to an IPFIX collector.
type Collector struct {
	options CollectorOptions
	state

	ctx  context.Context // until Close
	stop context.CancelFunc

	busy    sync.Mutex // guards the following
	session *session
	backoff time.Duration
}

// NewCollector connects to nothing yet.
func NewCollector(options CollectorOptions) *Collector {
	if options.stall == 0 {
		options.stall = stallTimeout
	}
	c := &Collector{options: options}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Consume sends reports. Over TCP it waits until the collector takes them; over UDP nothing waits.
func (c *Collector) Consume(reports []flow.Report, names Names) {
	c.busy.Lock()
	defer c.busy.Unlock()
	for len(reports) > 0 {
		if !c.connect() {
			c.lose(reports, nil)
			return
		}
		rest, err := c.session.send(reports, names)
		reports = rest
		if err != nil {
			c.disconnect(err)
		} else {
			c.backoff = 0
		}
	}
}

// Abort makes Consume give up what isn't sent, now and from now on. It counts as lost.
func (c *Collector) Abort() { c.stop() }

// Close ends the session.
func (c *Collector) Close() error {
	c.stop()
	c.busy.Lock()
	defer c.busy.Unlock()
	if c.session != nil {
		c.session.close()
		c.session = nil
	}
	return nil
}

// connect makes sure that there is a session; false after Close.
func (c *Collector) connect() bool {
	for c.session == nil {
		if c.ctx.Err() != nil {
			return false
		}
		session, err := c.dial()
		if err == nil {
			c.session = session
			break
		}
		c.set(err)
		if !c.wait() {
			return false
		}
	}
	return c.ctx.Err() == nil
}

// wait lets some time pass before another try, more each time.
func (c *Collector) wait() bool {
	c.backoff = min(max(leastBackoff, 2*c.backoff), mostBackoff)
	select {
	case <-c.ctx.Done():
		return false
	case <-time.After(c.backoff):
		return true
	}
}

func (c *Collector) dial() (*session, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(c.ctx, c.options.Transport, c.options.Address)
	if err != nil {
		return nil, err
	}
	s := &session{collector: c, conn: conn}
	s.encoder = ipfix.Encoder{Domain: c.options.Domain}
	if c.options.Transport == TCP {
		s.encoder.Limit, s.encoder.Send = tcpMessage, s.stream
		go s.watch()
	} else {
		s.encoder.Send = s.datagram
	}
	s.unhook = context.AfterFunc(c.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends a write that waits
	return s, nil
}

// disconnect ends a session. What the collector's side didn't acknowledge is lost.
func (c *Collector) disconnect(err error) {
	c.session.settle()
	var lost Losses
	for _, m := range c.session.sent {
		lost.Merge(m.held)
	}
	c.loseAll(lost, err)
	c.session.close()
	c.session = nil
	if c.ctx.Err() == nil {
		c.wait()
	}
}

// session is a transport session.
type session struct {
	collector *Collector
	conn      net.Conn
	encoder   ipfix.Encoder
	refreshed time.Time
	unhook    func() bool

	// TCP
	over    atomic.Bool // the collector ended it
	written uint64
	sent    []marker // messages that may not be acknowledged yet

	// UDP
	last  []flow.Report // of the message before this one
	again bool          // it was refused: who comes next at that address needs the templates
	burst int
}

// marker is where a message ends in the stream.
type marker struct {
	end  uint64
	held Losses
}

func (s *session) close() {
	s.unhook()
	s.conn.Close()
}

// send sends reports, after templates when it is time for them.
func (s *session) send(reports []flow.Report, names Names) (rest []flow.Report, err error) {
	now, options := time.Now(), s.collector.options
	if options.Transport == UDP {
		s.encoder.Limit = s.datagramRoom()
	}
	if err := s.refresh(now); err != nil {
		return reports, err
	}
	rest, err = s.encoder.Reports(now, reports, names)
	if err == nil && options.Transport == TCP {
		s.settle()
		s.collector.set(nil)
	}
	return rest, err
}

// refresh tells the templates and what was lost, where it is time for that.
func (s *session) refresh(now time.Time) error {
	lost, problem := s.collector.State()
	first, tcp := s.refreshed.IsZero(), s.collector.options.Transport == TCP
	due := now.Sub(s.refreshed) >= s.collector.options.Refresh
	switch {
	case due && !first && !tcp && problem != nil:
		return problem // begin anew: the collector's name may stand for another address now
	case due:
		s.refreshed = now
	case !s.again:
		return nil
	}
	s.again = false
	if tcp && !first {
		return s.encoder.Losses(now, lost)
	}
	return s.encoder.Refresh(now, lost)
}

// datagramRoom is how many bytes a message may have on the way to the collector.
func (s *session) datagramRoom() int {
	level, option, headers := unix.IPPROTO_IP, unix.IP_MTU, 20+8
	if udp, ok := s.conn.RemoteAddr().(*net.UDPAddr); ok && udp.IP.To4() == nil {
		level, option, headers = unix.IPPROTO_IPV6, unix.IPV6_MTU, 40+8
	}
	mtu := mostDatagram
	_ = s.control(func(fd int) error { // without an answer, Ethernet's is as good a guess as any
		value, err := unix.GetsockoptInt(fd, level, option)
		if err == nil {
			mtu = min(mtu, value)
		}
		return err
	})
	return max(mtu-headers, ipfix.MinMessage)
}

// control calls f with the socket.
func (s *session) control(f func(fd int) error) error {
	raw, err := s.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// datagram sends a message by UDP. An error is only counted: other messages may arrive.
func (s *session) datagram(m ipfix.Message) error {
	if s.burst++; s.burst%burst == 0 {
		time.Sleep(burstPause)
	}
	c := s.collector
	_, err := s.conn.Write(m.Data)
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if refused { // which is said of the message before
		c.lose(s.last, fmt.Errorf("send to %s: %w", c.options.Address, err))
		_, err = s.conn.Write(m.Data)
		s.again = true
	}
	s.last = nil
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case err != nil:
		c.lose(m.Reports, err)
	default:
		s.last = m.Reports
		if !refused {
			c.set(nil)
		}
	}
	return nil
}

// stream sends a message by TCP. One that isn't written whole can't be read, so it may be sent again.
func (s *session) stream(m ipfix.Message) error {
	if s.over.Load() {
		return fmt.Errorf("%s closed the connection", s.collector.options.Address)
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.collector.options.stall)); err != nil {
		return err
	}
	if err := s.collector.ctx.Err(); err != nil {
		return err
	}
	if _, err := s.conn.Write(m.Data); err != nil {
		return err
	}
	s.written += uint64(len(m.Data))
	mark := marker{end: s.written}
	mark.held.Add(m.Reports)
	if s.sent = append(s.sent, mark); len(s.sent)%1024 == 0 {
		s.settle()
	}
	return nil
}

// settle forgets messages that were acknowledged.
func (s *session) settle() {
	if s.sent == nil {
		return
	}
	waiting := 0
	err := s.control(func(fd int) (err error) {
		waiting, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	if err != nil {
		return // all that may be lost counts as lost
	}
	acknowledged := s.written - min(s.written, uint64(waiting))
	done := 0
	for done < len(s.sent) && s.sent[done].end <= acknowledged {
		done++
	}
	s.sent = append(s.sent[:0], s.sent[done:]...)
}

// watch notices that the collector ends the connection. It has nothing to say otherwise.
func (s *session) watch() {
	_, _ = io.Copy(io.Discard, s.conn)
	s.over.Store(true)
}
