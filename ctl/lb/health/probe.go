package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a check's TCP connection, pair of UDP ports, or ping, whose identifier stands for both ports.
type Conn struct {
	Proto            uint8 // IP protocol number
	Local, Remote    netip.AddrPort
	Service, Backend string // that it checks
	Through          bool   // Remote is the service's address: what is sent has to be brought to the backend
}

// bodyLimit is how much of an answer is read, in bytes; the rest is of no interest.
const bodyLimit = 64 << 10

// statusError is an HTTP answer that means "not well".
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("HTTP %d %s", int(e), http.StatusText(int(e)))
}

// unregisteredError is a failure that may be our own fault.
type unregisteredError struct{ check, register error }

func (e *unregisteredError) Error() string {
	return fmt.Sprintf("%v (the filter may have dropped the answer: %v)", e.check, e.register)
}

func (e *unregisteredError) Unwrap() error { return e.check }

// throughError is a failure on the way that a service's packets take: the backend itself may be well.
type throughError struct{ check error }

func (e *throughError) Error() string { return e.check.Error() + ", through the service's address" }

func (e *throughError) Unwrap() error { return e.check }

// prober does one check.
type prober struct {
	register func(Conn) (release func(), err error)
	through  func(Target) (source netip.Addr, err error)
	mark     int
}

// probe returns what it saw of a backend that is well, or why it isn't. ctx bounds all of it.
func (p prober) probe(ctx context.Context, t Target) (seen string, err error) {
	conn := p.connection(t)
	defer func() {
		conn.close()
		switch {
		case err != nil && conn.as.Through:
			err = &throughError{err}
		case err != nil && conn.refused != nil:
			err = &unregisteredError{check: err, register: conn.refused}
		}
	}()
	switch check := &t.Check; {
	case check.HTTP != "":
		return get(ctx, &conn, t, "http", check.HTTP)
	case check.HTTPS != "":
		return get(ctx, &conn, t, "https", check.HTTPS)
	case check.UDP != "":
		return datagram(ctx, &conn, []byte(check.UDP))
	case check.DNS != "":
		return ask(ctx, &conn, check.DNS)
	case check.ICMP:
		return ping(ctx, &conn)
	}
	if _, err := conn.dial(ctx, "tcp", ""); err != nil {
		return "", err
	}
	return "connected", nil
}

// connection is how a target is reached now.
func (p prober) connection(t Target) connection {
	c := connection{remote: t.Address, register: p.register, as: Conn{Service: t.Service, Backend: t.Backend, Remote: t.Address}, towards: t.Address}
	if p.through == nil || !t.Through.IsValid() {
		return c
	}
	source, err := p.through(t)
	if err != nil {
		return c // who asks for it knows, and says so
	}
	c.remote, c.as.Remote, c.as.Through, c.source, c.mark = t.Through, t.Through, true, source, p.mark
	return c
}

// get asks for a path. Redirects are not followed: where they lead says nothing about this backend.
func get(ctx context.Context, conn *connection, t Target, scheme, wanted string) (string, error) {
	path, err := url.ParseRequestURI(wanted)
	if err != nil {
		return "", err
	}
	target := &url.URL{Scheme: scheme, Host: t.Address.String(), Path: path.Path, RawPath: path.RawPath, RawQuery: path.RawQuery}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return "", err
	}
	request.Host = t.Host
	request.Header.Set("User-Agent", "gardu-health")
	transport := &http.Transport{
		DialContext: conn.dial, DisableKeepAlives: true, MaxResponseHeaderBytes: bodyLimit,
		TLSClientConfig: &tls.Config{ServerName: t.Check.TLSName, InsecureSkipVerify: t.Check.TLSName == ""},
	}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := io.CopyN(&body, response.Body, bodyLimit); err != nil && err != io.EOF {
		return "", err
	}
	if status := uint32(response.StatusCode); status < t.Check.Status.Lo || status > t.Check.Status.Hi {
		return "", statusError(response.StatusCode)
	}
	if !bytes.Contains(body.Bytes(), []byte(t.Check.Body)) {
		return "", fmt.Errorf("HTTP %d, but %q is not in the answer", response.StatusCode, t.Check.Body)
	}
	return fmt.Sprintf("HTTP %d", response.StatusCode), nil
}

// connection is a check's TCP connection, or its pair of UDP ports, which are registered before the first packet leaves.
type connection struct {
	remote   netip.AddrPort
	towards  netip.AddrPort // what it is sent from is found by the way to this
	source   netip.Addr     // that it is sent from; zero: what the kernel chooses
	mark     int            // of the socket
	as       Conn           // what it is registered as
	register func(Conn) (release func(), err error)

	conn    net.Conn
	release func()
	refused error // why it could not be registered
}

// dial has the signature of http.Transport.DialContext, but knows where to.
func (c *connection) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	var dialer net.Dialer
	if c.register != nil {
		if err := c.findSource(ctx); err != nil {
			return nil, err
		}
		c.as.Proto = unix.IPPROTO_TCP
		if network == "udp" {
			c.as.Proto = unix.IPPROTO_UDP
		}
		dialer.ControlContext = func(_ context.Context, _, _ string, raw syscall.RawConn) error { return c.bind(raw) }
	}
	conn, err := dialer.DialContext(ctx, network, c.remote.String())
	if err != nil {
		return nil, err
	}
	c.conn = conn
	if tcp, ok := conn.(*net.TCPConn); ok {
		// No lingering: thousands of backends would fill the machine's ports with closed connections.
		_ = tcp.SetLinger(0)
	}
	return conn, nil
}

// findSource finds the address that the check is sent from, if it has none yet.
func (c *connection) findSource(ctx context.Context) (err error) {
	if !c.source.IsValid() {
		c.source, err = sourceTowards(ctx, c.towards)
	}
	return err
}

// bind gives the socket its mark and its local port, and tells of it before it connects.
func (c *connection) bind(raw syscall.RawConn) error {
	var bindErr error
	err := raw.Control(func(fd uintptr) {
		if bindErr = setMark(int(fd), c.mark); bindErr == nil {
			c.as.Local, bindErr = bindTo(int(fd), c.source)
		}
	})
	if err = errors.Join(err, bindErr); err != nil {
		return fmt.Errorf("bind to %s: %w", c.source, err)
	}
	return c.tell()
}

// tell registers the check. What fails is noted, and ends one that can't get anywhere without.
func (c *connection) tell() error {
	c.release, c.refused = c.register(c.as)
	if c.as.Through {
		return c.refused
	}
	return nil
}

func setMark(fd, mark int) error {
	if mark == 0 {
		return nil
	}
	return os.NewSyscallError("set SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark))
}

func (c *connection) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	if c.release != nil {
		c.release()
	}
}

func bindTo(fd int, source netip.Addr) (netip.AddrPort, error) {
	var address unix.Sockaddr
	if source.Is4() {
		address = &unix.SockaddrInet4{Addr: source.As4()}
	} else {
		address = &unix.SockaddrInet6{Addr: source.As16()}
	}
	if err := unix.Bind(fd, address); err != nil {
		return netip.AddrPort{}, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(source, uint16(bound.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(source, uint16(bound.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// sourceTowards returns the address that the kernel would send from: connecting a UDP socket sends nothing.
func sourceTowards(ctx context.Context, remote netip.AddrPort) (netip.Addr, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", remote.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// explain says in a few words why a check failed.
func explain(err error, timeout time.Duration) string {
	var unregistered *unregisteredError
	if errors.As(err, &unregistered) {
		return (&unregisteredError{errors.New(explain(unregistered.check, timeout)), unregistered.register}).Error()
	}
	var through *throughError
	if errors.As(err, &through) {
		return (&throughError{errors.New(explain(through.check, timeout))}).Error()
	}
	var failed *net.OpError
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return fmt.Sprintf("no answer within %s", timeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the answer was cut short"
	case errors.Is(err, unix.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, unix.ECONNRESET):
		return "connection reset"
	case errors.As(err, &failed):
		return failed.Err.Error()
	}
	return err.Error()
}
