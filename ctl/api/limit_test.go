package api

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(pace{burst: 3, rate: 2})
	for i := range 3 {
		if wait := l.take("a", 1, now); wait != 0 {
			t.Errorf("request %d waits %v", i, wait)
		}
	}
	if wait := l.take("a", 1, now); wait != time.Second/2 {
		t.Errorf("the fourth waits %v", wait)
	}
	if wait := l.take("b", 1, now); wait != 0 {
		t.Errorf("another client waits %v", wait)
	}
	if wait := l.take("a", 20, now.Add(time.Second/2)); wait != 0 {
		t.Errorf("when it has waited, it waits %v", wait)
	}
	if wait := l.take("a", 1, now.Add(time.Second)); wait != 9500*time.Millisecond {
		t.Errorf("after one that counts for 20 it waits %v", wait)
	}
}

// However many clients there are, only so many are remembered, and those beyond them share what one may ask.
func TestLimiterIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(pace{burst: 3, rate: 1})
	refused := 0
	for i := range 2 * maxClients {
		if l.take(i, 1, now) > 0 {
			refused++
		}
	}
	if len(l.clients) > maxClients+1 || refused != maxClients-3 {
		t.Errorf("%d clients, %d refused", len(l.clients), refused)
	}
	if wait := l.take("new", 1, now.Add(time.Minute)); wait != 0 || len(l.clients) > 2 {
		t.Errorf("later: %v, %d clients", wait, len(l.clients))
	}
}

func TestClientOf(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false}, {"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true}, {"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		if same := clientOf(netip.MustParseAddr(c.a)) == clientOf(netip.MustParseAddr(c.b)); same != c.same {
			t.Errorf("%s and %s are one client: %t", c.a, c.b, same)
		}
	}
}

// far is a listener whose connections come from an address.
type far struct {
	net.Listener
	from   string
	closed int
}

type farConn struct {
	net.Conn
	listener *far
}

func (c farConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.listener.from + ":1"))
}
func (c farConn) Close() error { c.listener.closed++; return nil }

func (l *far) Accept() (net.Conn, error) {
	if l.closed > 0 {
		return nil, errors.New("enough")
	}
	return farConn{listener: l}, nil
}

// A client of another machine doesn't take all connections.
func TestFewConnectionsOfAClient(t *testing.T) {
	remote := &far{from: "192.0.2.1"}
	l := newFewConns(remote, maxConns)
	var conns []net.Conn
	for {
		conn, err := l.Accept()
		if err != nil {
			break // one was too many
		}
		conns = append(conns, conn)
	}
	if len(conns) != maxConnsRemote || len(l.open) != maxConnsRemote {
		t.Fatalf("%d connections, %d counted", len(conns), len(l.open))
	}
	for _, conn := range conns {
		conn.Close()
		conn.Close() // as servers do
	}
	if len(l.clients) != 0 || len(l.open) != 0 {
		t.Errorf("%v are counted after all are closed, and %d", l.clients, len(l.open))
	}
}
